"""Classes: names and their order, labels with gaps, hidden labels, and runs that began with another numbering."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flowleap import data
from flowleap.data import classes, open_images
from flowleap.data.known import KNOWN, recognized

DRAWN = np.random.default_rng(5)


def images(count: int) -> np.ndarray:
    return DRAWN.integers(0, 256, (count, 4, 4), dtype=np.uint8)


def archive(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def folder(root: Path, names: list[str], each: int = 2) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        for index, image in enumerate(images(each)):
            Image.fromarray(image).save(root / name / f"{index}.png")
    return root


def notes(dataset: data.Dataset) -> str:
    return "; ".join(dataset.notes)


def test_folders_called_by_numbers_are_numbered_by_their_values(tmp_path):
    names = [str(number) for number in range(11)]
    found = data.load(folder(tmp_path, names, each=1))
    assert found.classes == tuple(names)
    assert found.label.tolist() == [
        0,
        1,
        10,
        2,
        3,
        4,
        5,
        6,
        7,
        8,
        9,
    ]  # images are in the order of their paths
    assert sorted(["b2", "10", "a", "B", "b10", "01", "1"], key=classes.natural) == [
        "01", "1", "10", "B", "a", "b2", "b10",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("label", "names", "numbers"),
    [
        (np.array([1, 2, 3, 1, 3]), ("1", "2", "3"), [0, 1, 2, 0, 2]),
        (np.array([7, 0, 2, 7, 0], np.uint8), ("0", "2", "7"), [2, 0, 1, 2, 0]),
        (np.array([10, 9, 0, 9, 10]), ("0", "9", "10"), [2, 1, 0, 1, 2]),
        (np.array([True, False, True, True, True]), ("False", "True"), [1, 0, 1, 1, 1]),
        (np.array(["dog", "cat", "dog", "dog", "elk"]), ("cat", "dog", "elk"), [1, 0, 1, 1, 2]),
    ],
)
def test_only_classes_that_have_images_are_classes_and_keep_their_names(tmp_path, label, names, numbers):
    found = data.load(archive(tmp_path / "a.npz", images=images(5), label=label))
    assert found.num_classes == len(names) and found.class_names == names
    assert found.label.tolist() == numbers and sum(found.class_counts) == 5 and min(found.class_counts) > 0
    assert f"{len(names)} classes of" in notes(found) and ", ".join(names) in notes(found)
    assert "only 5 images" in notes(found)
    source = open_images(tmp_path / "a.npz")
    assert source.classes == names and source.label.tolist() == numbers


def test_an_archive_may_name_its_classes(tmp_path):
    named = {"classes": np.array(["bag", "hat", "shoe"])}
    found = data.load(archive(tmp_path / "a.npz", arr_0=images(4), arr_1=np.array([2, 0, 2, 0]), **named))
    assert found.classes == ("bag", "shoe") and found.label.tolist() == [1, 0, 1, 0]
    assert "classes without images are left out: hat" in notes(found)
    path = archive(tmp_path / "b.npz", images=images(2), label=np.array([0, 3]), **named)
    with pytest.raises(ValueError, match="reach 3, and its array 'classes' names 3: name each class"):
        data.load(path)


def test_labels_that_are_all_hidden_are_none_and_some_are_refused(tmp_path):
    path = archive(tmp_path / "a.npz", images=images(3), labels=np.full(3, -1))
    found = data.load(path)
    assert found.label is None and found.num_classes is None and found.class_names == ()
    assert "labels are all −1" in notes(found) and open_images(path).label is None
    path = archive(tmp_path / "b.npz", images=images(3), labels=np.array([0, -1, 1]))
    with pytest.raises(ValueError, match=r"lie below 0 in 1 of 3 rows.*either all images have one or none"):
        data.load(path)


def test_held_out_labels_are_those_of_the_classes_of_the_same_name(tmp_path):
    arrays = {"train_x": images(4), "train_y": np.array([0, 2, 7, 2]), "test_x": images(2)}
    dataset = data.load(archive(tmp_path / "a.npz", **arrays, test_y=np.array([7, 2])))
    part = data.held_out(dataset)
    assert part.label.tolist() == [2, 1] and part.num_classes == 3 and part.class_names == ("0", "2", "7")
    dataset = data.load(archive(tmp_path / "b.npz", **arrays, test_y=np.array([7, 1])))
    with pytest.raises(ValueError, match="has the class '1', which 'train' does not have; it has 0, 2, 7"):
        data.held_out(dataset)


def test_a_class_is_found_by_its_name_and_by_its_number_where_no_name_is_one():
    assert classes.find("2", ("0", "1", "10", "2")) == 3
    assert classes.find("1", ("bag", "shoe")) == 1
    for name, known in (
        ("0", ("1", "2", "3")),
        ("2", ("bag", "shoe")),
        ("bog", ("bag", "shoe")),
        ("-1", ("a",)),
    ):
        with pytest.raises(ValueError, match=f"there is no class '{name}'.*{known[0]}"):
            classes.find(name, known)


def test_data_go_on_with_the_numbers_of_classes_that_a_run_began_with(tmp_path):
    """Earlier versions sorted "10" before "2", and kept labels with a class for each number below them."""
    place = folder(tmp_path / "photos", [str(number) for number in range(11)], each=1)
    now = data.load(place)
    former = replace(now, label=torch.arange(11))
    again = data.load(place, checksum=former.checksum)
    assert again.label.tolist() == list(range(11)) and again.classes[1:4] == ("1", "10", "2")
    path = archive(tmp_path / "a.npz", images=images(3), label=np.array([1, 3, 3]))
    now = data.load(path)
    former = replace(now, label=torch.tensor([1, 3, 3]))
    again = data.load(path, checksum=former.checksum)
    assert (
        again.label.tolist() == [1, 3, 3]
        and again.num_classes == 4
        and again.class_names == ("0", "1", "2", "3")
    )
    assert data.load(path, checksum=now.checksum).label.tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match="have changed"):
        data.load(path, checksum=replace(now, label=torch.tensor([1, 1, 3])).checksum)


@pytest.mark.parametrize("number", [8714000123456, 10**25])
def test_changed_data_whose_classes_are_called_by_large_numbers_are_refused(tmp_path, number):
    """Not by counting up to these numbers."""
    place = folder(tmp_path, [str(number), str(number + 1)], each=1)
    with pytest.raises(ValueError, match="have changed"):
        data.load(place, checksum="another")


def test_recognized_sets_have_their_published_names(monkeypatch):
    from flowleap.data import known

    fashion = next(one for one in KNOWN if one.name == "fashion-mnist")
    whole = data.Dataset("a", torch.zeros(10_000, 1, 28, 28), torch.arange(10_000) % 10, 10)
    monkeypatch.setattr(known, "pixels", lambda dataset: fashion.splits["test"][1])
    assert recognized(whole).class_names[7] == "Sneaker"
    own = replace(whole, classes=tuple("abcdefghij"))
    assert recognized(own).class_names == own.classes
    assert recognized(replace(whole, num_classes=11)).class_names[0] == "0"


def test_names_of_classes_that_do_not_fit_their_number_are_refused():
    x, label = torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 0, 1])
    for names in (("a",), ("a", "a"), ("a", "b", "c")):
        with pytest.raises(ValueError, match=r"has 2 classes and . different names"):
            data.check(data.Dataset("own", x, label, 2, classes=names))
    assert data.Dataset("own", x, label, 2).class_names == ("0", "1")
