"""Images on a disk: what is read, what is refused, and that no more is read than asked for."""

from __future__ import annotations

import lzma

import numpy as np
import pytest
import torch
from PIL import Image

from flowleap import data
from flowleap.data.npz import Archive
from flowleap.data.source import Source, load_any, of_dataset, open_images

DRAWN = np.random.default_rng(0)


def pixels(*shape: int) -> np.ndarray:
    return DRAWN.integers(0, 256, shape, dtype=np.uint8)


def folder(path, images, names):
    for image, name in zip(images, names, strict=True):
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return path


def everything(source: Source, n: int = 3, count: int | None = None) -> torch.Tensor:
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
    assert source.dataset().num_classes == 3


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
    with pytest.raises(ValueError, match="mode 'I;16'"):
        open_images(folder(tmp_path / "z", [pixels(4, 4).astype(np.uint16) * 200], ["a.png"]))


@pytest.mark.parametrize("shape", [(5, 4, 6), (5, 4, 6, 1), (5, 4, 6, 3)])
@pytest.mark.parametrize(("key", "label"), [("images", "label"), ("arr_0", "arr_1")])
def test_an_archive_of_8_bit_images(tmp_path, shape, key, label):
    images = pixels(*shape)
    np.savez(tmp_path / "a.npz", **{key: images, label: np.array([0, 2, 1, 0, 2])})
    source = open_images(tmp_path / "a.npz")
    wanted = torch.from_numpy(images.reshape(5, 4, 6, -1)).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert source.shape == wanted.shape[1:] and torch.equal(everything(source, 2), wanted)
    held = source.dataset()
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
        source = of_dataset(data.Dataset("a", x))
    for count in (1, 7, 10, 40):
        index = source.chosen(count)
        assert len(set(index.tolist())) == count and index.tolist() == sorted(index.tolist())
        wanted = torch.from_numpy(images)[index][:, None].float() / 127.5 - 1
        assert torch.equal(everything(source, 3, count), wanted)
    assert source.chosen(10).tolist() != list(range(10))
    assert torch.equal(source.dataset(7).x, everything(source, 3, 7))
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
    assert load_any("digits").name == "digits"
    np.savez(tmp_path / "own.npz", train_x=pixels(5, 4, 4), test_x=pixels(3, 4, 4))
    own = load_any(str(tmp_path / "own.npz"), "test")
    assert (own.name, own.split, len(own)) == ("own", "test", 3)
    with pytest.raises(ValueError, match="did you mean digits"):
        load_any("digit")
