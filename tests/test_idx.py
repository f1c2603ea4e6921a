"""The IDX files of MNIST: what is found, read and refused; files made here, byte by byte."""

from __future__ import annotations

import gzip
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from flowleap import data
from flowleap.data import idx, open_images

DRAWN = np.random.default_rng(1)
TRAIN, TEST = (
    DRAWN.integers(0, 256, (7, 4, 5), dtype=np.uint8),
    DRAWN.integers(0, 256, (3, 4, 5), dtype=np.uint8),
)
CLASSES = [5, 0, 4, 1, 9, 2, 1], [9, 2, 1]


def packed_images(images: np.ndarray) -> bytes:
    """As the page of MNIST describes it: 2051, count, rows, columns, high byte first, then the pixels row by row."""
    return struct.pack(">iiii", 2051, *images.shape) + bytes(images.ravel().tolist())


def packed_labels(labels: list[int]) -> bytes:
    """2049, count, then one byte for each label."""
    return struct.pack(">ii", 2049, len(labels)) + bytes(labels)


FILES = {
    "train-images-idx3-ubyte": packed_images(TRAIN),
    "train-labels-idx1-ubyte": packed_labels(CLASSES[0]),
    "t10k-images-idx3-ubyte": packed_images(TEST),
    "t10k-labels-idx1-ubyte": packed_labels(CLASSES[1]),
}


def written(place: Path, files: dict[str, bytes] = FILES, packed: bool = False) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (place / f"{name}.gz").write_bytes(gzip.compress(content)) if packed else (place / name).write_bytes(
            content
        )
    return place


def values(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images.astype(np.float32))[:, None] / 127.5 - 1


def called(dataset: data.Dataset) -> list[int]:
    """The labels as the file has them: each class is called by its number there."""
    assert dataset.label is not None
    return [int(dataset.class_names[place]) for place in dataset.label.tolist()]


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_of_four_files(tmp_path, packed):
    place = written(tmp_path / "FashionMNIST" / "raw", packed=packed)
    train = data.load(place)
    assert (train.name, train.split, train.num_classes, train.held_out) == (
        "FashionMNIST",
        "train",
        6,
        "test",
    )
    assert torch.equal(train.x, values(TRAIN))
    assert called(train) == CLASSES[0] and train.class_names == ("0", "1", "2", "4", "5", "9")
    test = data.held_out(train)
    assert test is not None and (test.split, test.num_classes, test.held_out) == ("test", 6, None)
    assert torch.equal(test.x, values(TEST)) and called(test) == CLASSES[1]
    assert torch.equal(data.load(place, split="test").x, test.x)
    assert data.held_out(test) is None


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("part", ["train", "t10k"])
def test_one_file_of_images_with_its_labels_beside_it(tmp_path, part, ending):
    written(tmp_path, packed=bool(ending))
    held = data.load(tmp_path / f"{part}-images-idx3-ubyte{ending}")
    images, label = (TRAIN, CLASSES[0]) if part == "train" else (TEST, CLASSES[1])
    assert torch.equal(held.x, values(images)) and called(held) == label
    assert (held.split, held.name) == ("train" if part == "train" else "test", tmp_path.name)
    other = data.load(tmp_path / f"{part}-images-idx3-ubyte{ending}", split="test")
    assert torch.equal(other.x, values(TEST))


def test_names_and_packing_that_occur_in_the_wild(tmp_path):
    """Dots in the names, a set's name before them, unpacked files named .gz, both forms side by side."""
    dotted = {name.replace("-idx", ".idx"): content for name, content in FILES.items()}
    assert len(data.load(written(tmp_path / "dotted", dotted))) == 7
    own = {f"emnist-letters-{name}".replace("t10k", "test"): content for name, content in FILES.items()}
    assert data.load(written(tmp_path / "own", own)).held_out == "test"
    assert len(data.load(written(tmp_path / "lie", {f"{name}.gz": c for name, c in FILES.items()}))) == 7
    both = written(written(tmp_path / "both"), packed=True)
    (both / "train-images-idx3-ubyte.gz").write_bytes(b"never read")
    assert len(data.load(both)) == 7
    mixed = written(written(tmp_path / "mixed"), packed=True)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte.gz"):
        (mixed / name).unlink()
    assert len(data.load(mixed)) == 7


def test_a_part_of_the_files(tmp_path):
    only = {name: content for name, content in FILES.items() if "t10k" in name}
    held = data.load(written(tmp_path, only))
    assert (held.split, len(held), held.held_out) == ("test", 3, None)
    with pytest.raises(ValueError, match=r"has no split 'train': choose test"):
        data.load(tmp_path, split="train")
    with pytest.raises(ValueError, match=r"has no split 'valid': choose test"):
        open_images(tmp_path, "valid")


def test_several_sets_in_one_folder_are_told_apart_by_naming_a_file(tmp_path):
    written(tmp_path)
    written(tmp_path, {f"emnist-{name}": content for name, content in FILES.items() if "train" in name})
    with pytest.raises(ValueError, match=r"files of 2 sets \(mnist, emnist\): give one file"):
        data.load(tmp_path)
    assert data.load(tmp_path / "emnist-train-images-idx3-ubyte").held_out is None
    assert data.load(tmp_path / "train-images-idx3-ubyte").held_out == "test"


@pytest.mark.parametrize("packed", [False, True])
def test_items_are_read_in_their_order(tmp_path, packed):
    path = written(tmp_path, packed=packed) / f"train-images-idx3-ubyte{'.gz' * packed}"
    assert np.array_equal(idx.read(path), TRAIN) and idx.header(path) == (7, 4, 5)


def test_a_part_of_the_images_is_read(tmp_path):
    source = open_images(written(tmp_path))
    assert torch.equal(torch.cat(list(source.batches(2, 3))), values(TRAIN)[source.chosen(3)])


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (IMAGES, packed_labels(CLASSES[0]), "begins with 0x00000801, that of labels; IDX files of images begin with"),
        (LABELS, packed_images(TRAIN), "begins with 0x00000803, that of images; IDX files of labels begin with"),
        (IMAGES, struct.pack(">i", 0x0D03) + FILES[IMAGES][4:], "begins with 0x00000d03, no IDX file of 8-bit images"),
        (IMAGES, FILES[IMAGES][:9], "it ends within its header, after 9 bytes"),
        (IMAGES, b"", "it ends within its header, after 0 bytes"),
        (IMAGES, FILES[IMAGES][:-1], "it holds 139 of 140 values"),
        (IMAGES, FILES[IMAGES] + b"x", "holds more than the 7 items that it states"),
        (IMAGES, packed_images(TRAIN[:0]), "is empty: it states 0 × 4 × 5 values"),
        (LABELS, packed_labels(CLASSES[0][:6]), r"\(6,\); expected whole numbers from 0 up, one for each of 7 images"),
        (LABELS, FILES[LABELS][:-2], "it holds 5 of 7 values"),
        (LABELS, FILES[LABELS] + b"x", "holds more than the 7 items"),
    ],
)  # fmt: skip
def test_files_that_are_not_what_they_should_be(tmp_path, packed, name, content, said):
    place = written(tmp_path, FILES | {name: content}, packed)
    with pytest.raises(ValueError, match=said) as error:
        data.load(place)
    assert name in str(error.value)


@pytest.mark.parametrize("name", [IMAGES, LABELS])
@pytest.mark.parametrize("at", [0.3, 0.9])
def test_packed_files_that_are_cut_off_or_damaged(tmp_path, name, at):
    place = written(tmp_path, packed=True)
    whole = (place / f"{name}.gz").read_bytes()
    (place / f"{name}.gz").write_bytes(whole[: int(at * len(whole))])
    with pytest.raises(ValueError, match=f"{name}.gz is damaged or was cut off"):
        data.load(place)
    spoilt = bytearray(whole)
    spoilt[-6] ^= 1  # in the checksum of the content
    (place / f"{name}.gz").write_bytes(bytes(spoilt))
    with pytest.raises(ValueError, match=f"{name}.gz is damaged or was cut off"):
        data.load(place)


def test_a_missing_partner_is_named(tmp_path):
    place = written(tmp_path / "x")
    (place / LABELS).unlink()
    for path in (place, place / IMAGES):
        with pytest.raises(
            ValueError, match=rf"{IMAGES} has no partner: .*{LABELS}\[\.gz\] is missing beside it"
        ):
            data.load(path)
    place = written(tmp_path / "y", packed=True)
    (place / f"{IMAGES}.gz").unlink()
    with pytest.raises(ValueError, match=rf"{LABELS}\.gz has no partner: .*{IMAGES}\[\.gz\] is missing"):
        data.load(place)


def test_the_labels_alone_are_no_data(tmp_path):
    with pytest.raises(ValueError, match="holds labels: give the file of their images"):
        data.load(written(tmp_path) / LABELS)


def test_splits_that_do_not_fit_one_another_are_refused(tmp_path):
    place = written(tmp_path, FILES | {"t10k-images-idx3-ubyte": packed_images(TEST[:, :3])})
    with pytest.raises(
        ValueError, match=r"has images of shape \(1, 3, 5\), and those of 'train' have \(1, 4, 5\)"
    ):
        data.held_out(data.load(place))
    written(place, FILES | {"t10k-labels-idx1-ubyte": packed_labels([1, 10, 2])})
    with pytest.raises(ValueError, match="has the class '10', which 'train' does not have"):
        data.held_out(data.load(place))


def test_a_file_that_has_changed_is_noticed_and_one_that_was_packed_is_the_same(tmp_path):
    place = written(tmp_path / "a")
    first = data.load(place).checksum
    assert data.load(written(tmp_path / "b", packed=True), checksum=first).checksum == first
    shutil.rmtree(place)
    written(place, FILES | {LABELS: packed_labels([*CLASSES[0][:-1], 2])})
    with pytest.raises(
        ValueError, match=f"have changed: their checksum is [0-9a-f]{{12}}, and {first} was expected"
    ):
        data.load(place, checksum=first)
