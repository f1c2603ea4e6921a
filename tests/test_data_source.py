"""Images on a disk: what is read, what is refused, and that no more is read than asked for."""

from __future__ import annotations

import hashlib
import io
import lzma
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from flowleap import data
from flowleap.data import Dataset, known, open_images
from flowleap.data.known import KNOWN
from flowleap.data.npz import Archive
from flowleap.evaluation import classifier, distances, library, statistics_file
from shared_data import SHARED, needs

DRAWN = np.random.default_rng(0)


def pixels(*shape: int) -> np.ndarray:
    return DRAWN.integers(0, 256, shape, dtype=np.uint8)


def folder(path, images, names):
    for image, name in zip(images, names, strict=True):
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return path


def everything(source: Dataset, n: int = 3, count: int | None = None) -> torch.Tensor:
    parts = list(source.batches(n, count))
    assert all(len(part) == n for part in parts[:-1])
    return torch.cat(parts)


def test_a_folder_gives_its_images_in_order_with_the_sub_folders_as_classes(tmp_path):
    images = pixels(7, 6, 5, 3)
    names = ["cat/1.png", "cat/a/2.png", "cat/b.png", "dog/0.png", "dog/9.png", "elk/1.png", "elk/2.bmp"]
    source = open_images(folder(tmp_path, images, names))
    assert (len(source), source.shape, source.split) == (7, (3, 6, 5), "all")
    assert source.classes == ("cat", "dog", "elk")
    assert source.label is not None and source.label.tolist() == [0, 0, 0, 1, 1, 2, 2]
    back = (127.5 * (everything(source).permute(0, 2, 3, 1) + 1)).round().to(torch.uint8)
    assert (back.numpy() == images).all()
    assert source.num_classes == 3 == data.load(tmp_path).num_classes


def test_a_flat_folder_has_no_classes_and_grey_images_one_channel(tmp_path):
    images = pixels(3, 4, 4)
    source = open_images(folder(tmp_path, images, ["a.png", "b.png", "c/d.png"]))
    assert source.label is None and source.shape == (1, 4, 4)
    assert torch.equal(everything(source)[:, 0], torch.from_numpy(images).float() / 127.5 - 1)


def test_grey_files_fit_among_colored_ones_but_not_the_other_way(tmp_path):
    color, grey = pixels(4, 4, 3), pixels(4, 4)
    mixed = open_images(folder(tmp_path / "x", [color, grey], ["a.png", "b.png"]))
    found = everything(mixed)
    assert found.shape == (2, 3, 4, 4) and torch.equal(found[1, 0], found[1, 2])
    with pytest.raises(ValueError, match=r"a\.png is grey and .*b\.png is colored"):
        everything(open_images(folder(tmp_path / "y", [grey, color], ["a.png", "b.png"])))


def test_parts_of_a_folder(tmp_path):
    folder(tmp_path, pixels(3, 4, 4), ["train/a.png", "train/b.png", "test/a.png"])
    source = open_images(tmp_path, "train")
    assert (len(source), source.split, source.name) == (2, "train", tmp_path.name)
    with pytest.raises(ValueError, match="parts test, train: choose one with --split"):
        open_images(tmp_path)
    with pytest.raises(ValueError, match="no folder 'valid'"):
        open_images(tmp_path, "valid")


def test_a_damaged_file_is_named_and_only_when_it_is_needed(tmp_path):
    folder(tmp_path, pixels(4, 8, 8), [f"{i}.png" for i in range(4)])
    whole = (tmp_path / "3.png").read_bytes()
    (tmp_path / "3.png").write_bytes(whole[:60])
    source = open_images(tmp_path)
    assert len(next(source.batches(3))) == 3
    with pytest.raises(ValueError, match=r"3\.png cannot be read as an image"):
        everything(source)
    (tmp_path / "3.png").write_text("not an image")
    with pytest.raises(ValueError, match=r"3\.png cannot be read as an image"):
        everything(source)


def test_files_of_different_sizes_are_named(tmp_path):
    folder(tmp_path, [pixels(40, 70, 3), pixels(70, 40, 3)], ["a.png", "b.png"])
    with pytest.raises(ValueError, match=r"a\.png has 70 × 40, .*b\.png has 40 × 70.*such as 32 × 32"):
        everything(open_images(tmp_path))


def test_pixels_that_are_see_through_or_of_16_bits_are_refused(tmp_path):
    opaque = np.dstack([pixels(4, 4, 3), np.full((4, 4), 255, np.uint8)])
    clear = opaque.copy()
    clear[0, 0, 3] = 7
    assert open_images(folder(tmp_path / "x", [opaque], ["a.png"])).shape == (3, 4, 4)
    with pytest.raises(ValueError, match="transparent in places"):
        open_images(folder(tmp_path / "y", [clear], ["a.png"]))
    with pytest.raises(ValueError, match=r"mode 'I(;16)?'"):  # pillow 10 calls it I
        open_images(folder(tmp_path / "z", [pixels(4, 4).astype(np.uint16) * 200], ["a.png"]))


@pytest.mark.parametrize("shape", [(5, 4, 6), (5, 4, 6, 1), (5, 4, 6, 3)])
@pytest.mark.parametrize(("key", "label"), [("images", "label"), ("arr_0", "arr_1")])
def test_an_archive_of_8_bit_images(tmp_path, shape, key, label):
    images = pixels(*shape)
    np.savez(tmp_path / "a.npz", **{key: images, label: np.array([0, 2, 1, 0, 2])})
    source = open_images(tmp_path / "a.npz")
    wanted = torch.from_numpy(images.reshape(5, 4, 6, -1)).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert source.shape == wanted.shape[1:] and torch.equal(everything(source, 2), wanted)
    held = data.load(tmp_path / "a.npz")
    assert held.label is not None and held.label.tolist() == [0, 2, 1, 0, 2] and held.num_classes == 3


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_an_archive_of_floats(tmp_path, kind):
    images = DRAWN.uniform(-1, 1, (5, 3, 4, 6)).astype(kind)
    np.savez_compressed(tmp_path / "a.npz", images=images)
    assert torch.equal(
        everything(open_images(tmp_path / "a.npz")), torch.from_numpy(images.astype(np.float32))
    )


def test_an_archive_of_splits_also_when_compressed_as_a_whole(tmp_path):
    train, test = pixels(5, 4, 4), pixels(3, 4, 4)
    np.savez(tmp_path / "a.npz", train_x=train, train_y=np.arange(5), test_x=test, test_y=np.arange(3))
    (tmp_path / "a.npz.xz").write_bytes(lzma.compress((tmp_path / "a.npz").read_bytes()))
    for path in (tmp_path / "a.npz", tmp_path / "a.npz.xz"):
        assert (len(open_images(path)), open_images(path).split) == (5, "train")
        source = open_images(path, "test")
        assert (len(source), source.split, source.name) == (3, "test", "a")
        assert torch.equal(everything(source)[:, 0], torch.from_numpy(test).float() / 127.5 - 1)
        with pytest.raises(ValueError, match="no split 'valid': choose train or test"):
            open_images(path, "valid")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("rows", [1, 3, 7, 50])
def test_blocks_are_the_array(tmp_path, order, rows):
    array = np.asarray(DRAWN.normal(size=(7, 2, 3)), order=order)
    np.savez(tmp_path / "a.npz", x=array)
    with Archive(tmp_path / "a.npz") as archive:
        assert archive.header("x") == ((7, 2, 3), np.dtype("float64"))
        blocks = list(archive.blocks("x", rows))
    assert [len(block) for block in blocks[:-1]] == [rows] * (len(blocks) - 1)
    assert np.array_equal(np.concatenate(blocks), array)


@pytest.mark.parametrize("place", ["folder", "archive", "memory"])
def test_a_part_is_random_fixed_exact_and_the_same_from_everywhere(tmp_path, place):
    images = pixels(40, 4, 4)
    if place == "folder":
        source = open_images(folder(tmp_path, images, [f"{i:02}.png" for i in range(40)]))
    elif place == "archive":
        np.savez(tmp_path / "a.npz", images=images)
        source = open_images(tmp_path / "a.npz")
    else:
        x = torch.from_numpy(images)[:, None].float() / 127.5 - 1
        source = data.Dataset("a", x)
    for count in (1, 7, 10, 40):
        index = source.chosen(count)
        assert len(set(index.tolist())) == count and index.tolist() == sorted(index.tolist())
        wanted = torch.from_numpy(images)[index][:, None].float() / 127.5 - 1
        assert torch.equal(everything(source, 3, count), wanted)
    assert source.chosen(10).tolist() != list(range(10))
    with pytest.raises(ValueError, match="holds 40 images, and 41 were asked for"):
        everything(source, 3, 41)
    with pytest.raises(ValueError, match="at least one image"):
        everything(source, 0)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": np.full((3, 1, 4, 4), 255.0)}, r"\[255, 255\]: floats must lie in \[-1, 1\]"),
        ({"images": np.full((3, 1, 4, 4), np.nan)}, "hold NaN or infinity, the first is image 0"),
        ({"images": np.zeros((3, 2, 4, 4))}, "2 channels"),
        ({"images": np.zeros((3, 4, 4, 3))}, "4 channels.*floats"),
        ({"arr_0": np.zeros((3, 3, 4, 4), np.uint8)}, "4 channels.*uint8"),
        ({"images": np.zeros((3, 4, 4), np.int64)}, "int64"),
        ({"images": np.zeros((3, 4))}, "shape"),
        ({"images": np.zeros((0, 4, 4), np.uint8)}, "empty"),
        ({"pictures": np.zeros((3, 4, 4), np.uint8)}, "holds pictures; images are expected as"),
        ({"mu": np.zeros(3), "sigma": np.eye(3)}, "statistics"),
        ({"images": np.zeros((3, 4, 4), np.uint8), "label": np.zeros(2, int)}, "one for each of 3 images"),
        ({"images": np.zeros((3, 4, 4), np.uint8), "label": np.zeros(3)}, "whole numbers"),
        ({"images": np.array([{}, {}, {}])}, "Python objects"),
    ],
)
def test_arrays_that_are_no_images_are_refused(tmp_path, arrays, said):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=said):
        everything(open_images(tmp_path / "a.npz"))


def test_floats_from_0_to_1_are_doubted(tmp_path):
    np.savez(tmp_path / "a.npz", images=DRAWN.uniform(0.1, 1, (3, 1, 4, 4)))
    with pytest.warns(UserWarning, match=r"lie in \[0, 1\]"):
        everything(open_images(tmp_path / "a.npz"))


def test_archives_that_are_cut_off_or_damaged_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, images=pixels(50, 8, 8))
    whole = path.read_bytes()
    path.write_bytes(whole[:2000])
    with pytest.raises(ValueError, match="cut off"):
        open_images(path)
    path.write_bytes(whole[:2000] + b"?" + whole[2001:])
    with pytest.raises(ValueError, match=r"'images' of .* cannot be read"):
        everything(open_images(path))
    path.write_text("no archive")
    with pytest.raises(ValueError, match=r"is no \.npz archive"):
        open_images(path)


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        open_images(tmp_path / "nothing")
    with pytest.raises(ValueError, match="holds no images"):
        open_images(tmp_path)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match="neither a folder"):
        open_images(tmp_path / "a.txt")


def test_anything_can_be_loaded_by_name_or_path(tmp_path):
    assert data.load("digits").name == "digits"
    np.savez(tmp_path / "own.npz", train_x=pixels(5, 4, 4), test_x=pixels(3, 4, 4))
    own = data.load(str(tmp_path / "own.npz"), split="test")
    assert (own.name, own.split, len(own)) == ("own", "test", 3)
    with pytest.raises(ValueError, match="did you mean digits"):
        data.load("digit")


def jpegs(images: np.ndarray) -> tuple[bytes, list[bytes]]:
    """The header that JPEG files of these images have in common, and the scan of each."""
    files = []
    for image in images:
        held = io.BytesIO()
        Image.fromarray(image).save(held, "JPEG", quality=75)
        files.append(held.getvalue())
    at = files[0].index(b"\xff\xda") + 2  # the scan begins after its own header, whose length stands first
    at += int.from_bytes(files[0][at : at + 2], "big")
    assert len({file[:at] for file in files}) == 1 and all(file.endswith(b"\xff\xd9") for file in files)
    return files[0][:at], [file[at:-2] for file in files]


def scanned(path, *, train: np.ndarray, test: np.ndarray, **others: np.ndarray):
    arrays = {}
    for part, images in (("train", train), ("test", test)):
        header, scans = jpegs(images)
        arrays |= {
            "header": np.frombuffer(header, np.uint8),
            f"{part}_scan": np.frombuffer(b"".join(scans), np.uint8),
            f"{part}_end": np.cumsum([len(scan) for scan in scans]).astype(np.uint32),
            f"{part}_y": np.arange(len(images), dtype=np.uint8),
        }
    np.savez(path, **{name: value for name, value in (arrays | others).items() if value is not None})
    return path


@pytest.mark.parametrize("shape", [(16, 8, 3), (16, 8)])
def test_an_archive_of_jpeg_scans(tmp_path, shape):
    train, test = pixels(6, *shape), pixels(2, *shape)
    path = scanned(tmp_path / "a.npz", train=train, test=test)
    held = io.BytesIO()
    Image.fromarray(train[4]).save(held, "JPEG", quality=75)
    wanted = torch.from_numpy(np.array(Image.open(held))).view(16, 8, -1).permute(2, 0, 1)
    source = open_images(path)
    assert (len(source), source.shape, source.split, source.held_out) == (
        6,
        tuple(wanted.shape),
        "train",
        "test",
    )
    assert torch.equal(everything(source)[4], wanted.float() / 127.5 - 1)
    assert torch.equal(everything(source, 2, 3), everything(source)[source.chosen(3)])
    train_set = data.load(path)
    assert train_set.label is not None and train_set.label.tolist() == list(range(6))
    part = data.held_out(train_set)
    assert part is not None and len(part) == 2 and part.num_classes == 6
    with pytest.raises(ValueError, match="no split 'valid': choose train or test"):
        open_images(path, "valid")


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"train_scan": np.zeros(9, np.uint8)}, "must rise to 9, their length; the last is"),
        ({"train_end": np.array([30, 20, 50], np.uint32)}, "must rise to"),
        ({"train_end": None}, "has no array 'train_end'"),
        ({"train_end": np.ones(3)}, "whole numbers, one for each image"),
        ({"train_end": np.zeros(0, np.uint32)}, "whole numbers, one for each image"),
        ({"header": np.zeros(7)}, "expected as bytes"),
        ({"header": np.zeros(7, np.uint8)}, "image 0 of the train split of .* cannot be decoded"),
        ({"train_y": np.arange(2)}, "one for each of 3 images"),
    ],
)
def test_archives_of_jpeg_scans_that_do_not_fit(tmp_path, others, said):
    path = scanned(tmp_path / "a.npz", train=pixels(3, 8, 8), test=pixels(2, 8, 8), **others)
    with pytest.raises(ValueError, match=said):
        data.load(path)


# --- data.load, and what is held out


def archive(path, **arrays: np.ndarray):
    np.savez(path, **arrays)
    return path


def test_training_takes_the_train_split_and_the_test_split_is_held_out(tmp_path):
    train, test = pixels(5, 4, 4), pixels(3, 4, 4)
    path = archive(
        tmp_path / "own.npz", train_x=train, train_y=np.arange(5), test_x=test, test_y=np.arange(3)
    )
    dataset = data.load(str(path))
    assert (dataset.name, dataset.split, dataset.address) == ("own", "train", str(path))
    part = data.held_out(dataset)
    assert part is not None and (part.split, part.num_classes, len(part)) == ("test", 5, 3)
    assert torch.equal(part.x[:, 0], torch.from_numpy(test).float() / 127.5 - 1)
    assert data.held_out(part) is None
    unlabeled = data.held_out(replace(dataset, label=None, num_classes=None))
    assert unlabeled is not None and unlabeled.label is None and unlabeled.num_classes is None


@pytest.mark.parametrize("part", ["test", "val", "validation"])
def test_folders_of_parts(tmp_path, part):
    names = ["train/cat/a.png", "train/dog/b.png", f"{part}/cat/a.png", f"{part}/dog/b.png"]
    folder(tmp_path, pixels(4, 4, 4), names)
    dataset = data.load(tmp_path)
    assert (dataset.split, len(dataset), dataset.num_classes) == ("train", 2, 2)
    held = data.held_out(dataset)
    assert held is not None and (held.split, len(held)) == (part, 2)


def test_what_has_no_parts_holds_nothing_out(tmp_path):
    path = archive(tmp_path / "a.npz", images=pixels(5, 4, 4), labels=np.arange(5))
    dataset = data.load(path)
    assert (dataset.split, dataset.num_classes) == ("all", 5)
    assert data.held_out(dataset) is None and data.held_out(data.load("digits")) is None
    flat = data.load(folder(tmp_path / "x", pixels(3, 4, 4), ["train/a.png", "cat/b.png", "dog/c.png"]))
    assert (flat.split, flat.num_classes) == ("all", 3)  # a class may be called train


def test_checksums_are_of_values_and_labels_not_of_their_packing(tmp_path):
    images, label = pixels(5, 4, 4), np.arange(5)
    plain = data.load(archive(tmp_path / "a.npz", images=images, label=label))
    np.savez_compressed(tmp_path / "b.npz", arr_0=images, arr_1=label.astype(np.uint8))
    assert data.load(tmp_path / "b.npz", checksum=plain.checksum).checksum == plain.checksum
    wanted = hashlib.sha256(plain.x.numpy().tobytes() + label.astype("<i8").tobytes()).hexdigest()[:12]
    assert plain.checksum == wanted
    assert replace(plain, label=None, num_classes=None).checksum != wanted
    images[2, 1, 1] ^= 1
    archive(tmp_path / "a.npz", images=images, label=label)
    with pytest.raises(ValueError, match=r"at .*a\.npz have changed: .*Restore the files, .*or start a new"):
        data.load(tmp_path / "a.npz", checksum=plain.checksum)


def test_paths_that_are_not_there(tmp_path):
    for text in (tmp_path / "own.npz", "no/such/folder", "mnist.npz.xz"):
        with pytest.raises(ValueError, match=r"no such file or folder.*known: digits, two-moons"):
            data.load(text)
    with pytest.raises(ValueError, match=r"'digits' has no split 'train', its only one is 'all'"):
        data.load("digits", split="train")


def test_a_name_wins_over_a_file_of_that_name(tmp_path, monkeypatch):
    folder(tmp_path / "digits", pixels(3, 4, 4), ["a.png", "b.png", "c.png"])
    monkeypatch.chdir(tmp_path)
    assert len(data.load("digits")) == 1797 and len(data.load("./digits")) == 3
    assert data.load("./digits").address == "./digits"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Two_Moons", "two-moons"),
        ("some/where/fashion_mnist.npz.xz", "fashion-mnist"),
        ("My Images (2)", "my-images-2"),
        ("FashionMNIST/raw", "fashionmnist"),
        ("FashionMNIST/raw/train-images-idx3-ubyte.gz", "fashionmnist"),
        ("sets/EMNIST/t10k-images-idx3-ubyte", "emnist"),
        ("v1.5.npz", "v1.5"),
    ],
)
def test_what_runs_are_called_after(text, name):
    assert data.short(text) == name


# --- published sets: the first 16 digits of the SHA-256 of their decoded pixels, as they were published with the files

PUBLISHED = [
    ("fashion_mnist.npz.xz", "train", 60_000, "2e487a6c89124f78"),
    ("fashion_mnist.npz.xz", "test", 10_000, "c867c93ff9536059"),
    ("mnist.npz.xz", "train", 60_000, "741c988805d008ac"),
    ("mnist.npz.xz", "test", 10_000, "6d87418db22cc802"),
    ("cifar10_jpeg75.npz", "train", 50_000, "86f5d04cec053f2b"),
    ("cifar10_jpeg75.npz", "test", 10_000, "5fce8f6a84d7de12"),
]


@cache
def published_test_images(file: str) -> data.Dataset:
    return data.load(SHARED / file, split="test")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "split", "count", "checksum"),
    [pytest.param(*case, marks=needs(case[0]), id=f"{case[0]}-{case[1]}") for case in PUBLISHED],
)
def test_published_sets_are_read_bit_by_bit_and_recognized(file, split, count, checksum):
    held = published_test_images(file) if split == "test" else data.load(SHARED / file, split=split)
    levels = ((held.x + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    if "cifar" in file and hashlib.sha256(levels.numpy().tobytes()).hexdigest()[:16] != checksum:
        pytest.skip("this JPEG decoder rounds otherwise")
    assert hashlib.sha256(levels.numpy().tobytes()).hexdigest()[:16] == checksum
    assert torch.equal(levels.permute(0, 3, 1, 2).float() / 127.5 - 1, held.x)
    assert (len(held), held.split, held.num_classes) == (count, split, 10)
    assert held.label is not None and (held.label.bincount() > 0.08 * count).all()
    name = file.partition(".")[0].replace("_", "-")
    assert (held.known, held.name) == (name, name) and held.license
    assert held.held_out == ("test" if split == "train" else None)
    assert library.named("auto", held).name == name
    entry = next(entry for entry in KNOWN if entry.name == name)
    assert entry.splits[split][1].startswith(checksum) and entry.splits[split][0] == count


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "published"),
    [
        pytest.param(f"{name}.npz{end}", value, marks=needs(f"{name}.npz{end}"), id=name)
        for name, end, value in [("fashion_mnist", ".xz", 0.152), ("cifar10_jpeg75", "", 0.35)]
    ],
)  # fmt: skip
def test_their_own_classifiers_measure_them_as_published(file, published):
    """The table of real held-out images against the reference of the whole training split, at 10,000 images.

    That of MNIST is in test_features.py.
    """
    test = published_test_images(file)
    if test.known is None:
        pytest.skip("this JPEG decoder rounds otherwise")
    features = library.named("auto", test)
    assert features.name == test.known
    stored = statistics_file.read(classifier.WEIGHTS / classifier.SHIPPED[features.name].file, features)
    found = distances.frechet(stored.statistics, distances.statistics(features(test.x)))
    assert found == pytest.approx(published, abs=5e-4)


def test_other_images_of_the_same_shape_and_name_are_not_taken_for_published_ones(tmp_path):
    path = archive(tmp_path / "mnist.npz", test_x=np.zeros((10_000, 28, 28), np.uint8))
    other = data.load(path)
    assert (other.name, other.known) == ("mnist", None) and library.named("auto", other).name == "pixel"


def test_a_published_set_is_recognized_whatever_file_it_comes_in(tmp_path, monkeypatch):
    """With a set made here in the place of a published one."""
    images, label = pixels(20, 28, 28), np.arange(20) % 10
    checksum = hashlib.sha256(images.tobytes()).hexdigest()
    entry = known.Known("fashion-mnist", (1, 28, 28), {"test": (20, checksum)}, "MIT", "drawn")
    monkeypatch.setattr(known, "KNOWN", (replace(entry, name="mnist", splits={"test": (20, "")}), entry))
    for path in (
        archive(tmp_path / "a.npz", images=images, labels=label),
        archive(tmp_path / "b.npz", test_x=images, test_y=label),
        archive(tmp_path / "c.npz", images=images[:, None].astype(np.float32) / np.float32(127.5) - 1),
    ):
        held = data.load(path)
        assert (held.name, held.known, held.split, held.license) == ("fashion-mnist",) * 2 + ("test", "MIT")
        assert library.named("auto", held).frechet == "FD-fashion-mnist"
    color = pixels(20, 28, 28, 3)
    wanted = hashlib.sha256(color.tobytes()).hexdigest()
    monkeypatch.setattr(known, "KNOWN", (replace(entry, shape=(3, 28, 28), splits={"test": (20, wanted)}),))
    assert data.load(archive(tmp_path / "d.npz", images=color)).known == "fashion-mnist"
