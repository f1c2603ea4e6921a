"""Data sets, the checks they pass, and the laws of batching."""

from __future__ import annotations

from collections import Counter
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor

from flowleap import data
from flowleap.data import Dataset, check, toy
from flowleap.data.batching import ClassGroups, Shuffled

# --- data sets


def test_digits_are_those_that_scikit_learn_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its file has moved."""
    pixels, label = load_digits(return_X_y=True)
    found = data.load("digits")
    assert torch.equal(found.x.view(-1, 64), torch.as_tensor(pixels).float() / 8 - 1)
    assert found.label is not None and found.label.tolist() == label.tolist()
    monkeypatch.setattr(toy, "find_spec", lambda name: None)
    moved = data.load("digits")
    assert moved.label is not None
    assert torch.equal(moved.x, found.x) and torch.equal(moved.label, found.label)
    assert moved.checksum == found.checksum


def test_digits_are_the_real_ones() -> None:
    digits = data.load("digits")
    assert digits.x.shape == (1797, 1, 8, 8)
    assert digits.x.dtype == torch.float32
    assert (digits.shape, len(digits), digits.num_classes, digits.kind) == ((1, 8, 8), 1797, 10, "image")
    assert digits.x.unique().tolist() == [grey / 8 - 1 for grey in range(17)]
    assert digits.label is not None
    assert digits.label.bincount().tolist() == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]  # UCI's table
    first = digits.x[0, 0] * 8 + 8  # a zero, row 0 and row 3 of the published file
    assert digits.label[0] == 0
    assert first[0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert first[3].tolist() == [0, 4, 12, 0, 0, 8, 8, 0]


@pytest.mark.parametrize("name", ["two-moons", "eight-gaussians", "checkerboard"])
def test_point_sets_are_of_unit_scale_and_follow_from_the_seed(name: str) -> None:
    points = data.load(name, seed=1)
    assert points.x.shape == (10_000, 2)
    assert points.x.dtype == torch.float32
    assert (points.kind, points.label, points.num_classes) == ("points", None, None)
    assert points.x.mean(0).abs().max() < 0.05
    assert points.x.std(0).min() > 0.4
    assert points.x.std(0).max() < 1.3
    assert torch.equal(points.x, data.load(name, seed=1).x)
    assert not torch.equal(points.x, data.load(name, seed=2).x)


def test_two_moons_lie_on_two_half_circles() -> None:
    x = toy.two_moons(4000, seed=0)
    upper = torch.tensor([-0.5, -0.25])
    distance = {  # to the circle around each moon's center
        "upper": ((x - upper).norm(dim=1) - 1).abs(),
        "lower": ((x + upper).norm(dim=1) - 1).abs(),
    }
    nearest = torch.minimum(distance["upper"], distance["lower"])
    assert nearest.max() < 0.3
    assert 0.03 < nearest.square().mean().sqrt() < 0.06
    on_upper = distance["upper"] < distance["lower"]
    assert 0.45 < on_upper.float().mean() < 0.55
    assert x[on_upper][:, 1].min() > -0.25 - 0.75  # a half circle only: the other half reaches -1.25


def test_eight_gaussians_are_even() -> None:
    x = toy.eight_gaussians(8000, seed=0)
    direction = (torch.atan2(x[:, 1], x[:, 0]) / (torch.pi / 4)).round().long() % 8
    counts = direction.bincount(minlength=8)
    assert counts.min() > 880
    assert counts.max() < 1120
    centers = torch.stack([x[direction == k].mean(0) for k in range(8)])
    torch.testing.assert_close(centers.norm(dim=1), torch.full((8,), 2.0).sqrt(), atol=0.02, rtol=0)
    assert 0.09 < (x - centers[direction]).std() < 0.11


def test_checkerboard_fills_the_dark_fields_only() -> None:
    x = toy.checkerboard(8000, seed=0)
    field = x.floor().long() + 2
    counts = Counter(map(tuple, field.tolist()))
    assert set(counts) == {(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0}
    assert all(880 < count < 1120 for count in counts.values())


@pytest.mark.parametrize("name", ["two_moons", "two-moons", "Two-Moons"])
def test_hyphens_and_underscores_are_the_same(name: str) -> None:
    assert data.load(name).name == "two-moons"


def test_unknown_data_names_its_neighbors() -> None:
    with pytest.raises(ValueError, match=r"'digit'; did you mean digits\? Known: digits, two-moons, eight"):
        data.load("digit")
    with pytest.raises(ValueError, match="unknown data set 'xyzzy'; known: digits"):
        data.load("xyzzy")
    assert all(len(data.load(name)) for name in data.names)


# --- checks

GOOD = Dataset("mine", torch.linspace(-1, 1, 24).view(6, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1, 2]), 3)


def spoilt(row: int, value: float, rows: int = 1) -> Tensor:
    x = GOOD.x.clone()
    x[row : row + rows, 0, 0, 1] = value
    return x


def test_good_data_passes_unchanged() -> None:
    unlabeled = replace(GOOD, label=None, num_classes=None)
    points = Dataset("points", 50 * torch.randn(4, 2), kind="points")
    assert all(check(dataset) is dataset for dataset in (GOOD, unlabeled, points))


def test_a_dataset_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        GOOD.name = "yours"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": spoilt(2, float("nan"))}, "'mine' holds NaN or infinity in 1 of 6 rows, the first is row 2"),
        ({"x": spoilt(3, -float("inf"), rows=2)}, "in 2 of 6 rows, the first is row 3"),
        ({"x": spoilt(3, 1.5)}, r"images lie in \[-1, 1\], but those of 'mine' in \[-1, 1.5\]"),
        ({"x": torch.zeros(0, 1, 2, 2)}, "'mine' is empty"),
        ({"x": torch.zeros(6, 1, 2, 2, dtype=torch.uint8)}, "holds torch.uint8; convert it to float32"),
        ({"label": torch.tensor([0, 1, 2, 3, 1, 2])}, "lie in 0 to 2; row 3 has 3"),
        ({"label": torch.tensor([0, 1, 2, 0, 1, -1])}, "lie in 0 to 2; row 5 has -1"),
        ({"label": torch.zeros(5, dtype=torch.int64)}, r"int64 of shape \(6,\); got torch.int64 \(5,\)"),
        ({"label": torch.zeros(6)}, "got torch.float32"),
        ({"label": None}, "both labels and their number of classes, or neither"),
        ({"num_classes": None}, "both labels and their number of classes, or neither"),
    ],
)
def test_bad_data_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(replace(GOOD, **change))


# --- batching

LABEL = torch.tensor([0, 1, 2, 2, 1, 2, 0, 2, 1, 2, 2, 2, 2, 1])  # 2, 4 and 8 rows
sizes, batches, keys = st.integers(1, 40), st.integers(1, 100), st.integers(0, 2**31)


def stream(
    law: Shuffled | ClassGroups, label: Tensor | None, size: int, batch: int, steps: int, key: int
) -> Tensor:
    return torch.stack([law.indices(label, size, batch, step, key) for step in range(steps)])


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(size=sizes, batch=batches, key=keys)
def test_shuffled_visits_every_row_once_per_epoch(size: int, batch: int, key: int) -> None:
    """Also where the batch is larger than the data set, or does not divide it."""
    epochs = 3
    rows = stream(Shuffled(), None, size, batch, -(-epochs * size // batch), key).flatten()
    assert rows.dtype == torch.int64
    for epoch in rows[: epochs * size].view(epochs, size):
        assert epoch.sort().values.tolist() == list(range(size))


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(batch=st.sampled_from([2, 4, 6, 12]), step=st.integers(0, 10**6), key=keys, grouped=st.booleans())
def test_batches_are_a_pure_function_of_key_and_step(batch: int, step: int, key: int, grouped: bool) -> None:
    law, other = (ClassGroups(2), ClassGroups(2)) if grouped else (Shuffled(), Shuffled())
    rows = law.indices(LABEL, len(LABEL), batch, step, key)
    law.indices(LABEL, len(LABEL), batch, step + 17, key + 1)  # whatever else was asked for
    torch.manual_seed(0)
    assert torch.equal(rows, other.indices(LABEL, len(LABEL), batch, step, key))


@pytest.mark.parametrize("law", [Shuffled(), ClassGroups(2)])
def test_keys_and_epochs_differ(law: Shuffled | ClassGroups) -> None:
    one, two = (stream(law, LABEL, len(LABEL), 14, 6, key) for key in (1, 2))
    assert not torch.equal(one, two)
    assert not torch.equal(one[0], one[1])


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    group=st.integers(1, 6),
    groups=st.integers(1, 7),
    key=keys,
)
def test_class_groups(counts: list[int], group: int, groups: int, key: int) -> None:
    """Groups are pure, contiguous and without repetition; uniform classes take turns; rows wait for their class."""
    group = min(group, *counts)
    label = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    label = label[torch.randperm(len(label), generator=torch.Generator().manual_seed(key))]
    passes = max(-(-count // group) for count in counts)  # turns in which every class is gone through
    steps = -(-2 * passes * len(counts) // groups)
    law = ClassGroups(group, classes="uniform")
    rows = stream(law, label, len(label), groups * group, steps, key).view(-1, group)
    owner = label[rows]
    assert (owner == owner[:, :1]).all()
    assert all(len(set(members)) == group for members in rows.tolist())
    turns = owner[: len(owner) // len(counts) * len(counts), 0].view(-1, len(counts))
    assert all(sorted(turn) == list(range(len(counts))) for turn in turns.tolist())
    for label_, count in enumerate(counts):
        turn = -(-count // group)
        mine = rows[owner[:, 0] == label_]
        for one_pass in mine[: len(mine) // turn * turn].view(-1, turn * group):
            seen = one_pass[:count].tolist()
            assert len(set(seen)) == count, "a row returned before all had been seen"


@pytest.mark.slow
def test_classes_are_drawn_uniformly_and_their_order_is_free() -> None:
    """Not in proportion to their rows; and each class comes first, second or third equally often."""
    rows = stream(ClassGroups(2, classes="uniform"), LABEL, len(LABEL), 2, 1800, key=5)
    turns = LABEL[rows[:, 0]].view(-1, 3)
    assert LABEL[rows[:, 0]].bincount().tolist() == [600, 600, 600]
    for place in range(3):
        counts = turns[:, place].bincount(minlength=3)
        assert (counts - 200).abs().max() < 60  # 5 standard deviations


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=6), first=st.integers(0, 10**6), key=keys)
def test_classes_are_drawn_in_proportion_to_their_rows(counts: list[int], first: int, key: int) -> None:
    """Over any stretch of turns, to within two; and turns do not depend on where a batch begins."""
    label = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    turns = torch.stack(
        [ClassGroups(1).indices(label, len(label), 50, first + step, key) for step in range(4)]
    )
    found = label[turns].flatten().bincount(minlength=len(counts)).tolist()
    for count, many in zip(counts, found, strict=True):
        assert abs(many - 200 * count / sum(counts)) <= 2 + len(counts)
    whole = ClassGroups(1).indices(label, len(label), 100, first // 2, key)
    again = [ClassGroups(1).indices(label, len(label), 50, first // 2 * 2 + half, key) for half in range(2)]
    assert torch.equal(whole, torch.cat(again))


@pytest.mark.slow
def test_a_single_image_beside_two_hundred_is_used_as_often_as_one_of_them() -> None:
    label = torch.tensor([0] * 200 + [1])
    used = [
        int((stream(law, label, 201, 32, 100, 0) == 200).sum())
        for law in (ClassGroups(), ClassGroups(classes="uniform"))
    ]
    assert 15 <= used[0] <= 17 and used[1] == 1600


FROZEN = [[10, 4, 9, 3, 8, 5], [7, 1, 6, 0, 2, 11], [1, 4, 3, 9, 5, 8]]


def test_balanced_classes_are_drawn_as_ever() -> None:
    """Frozen draws: a class has a turn in each round, whatever the law."""
    label = torch.arange(12) % 3
    for law in (ClassGroups(2), ClassGroups(2, classes="uniform")):
        assert [law.indices(label, 12, 6, step, 7).tolist() for step in (0, 1, 5)] == FROZEN


def test_groups_that_are_too_small_for_the_plug_in_velocity_are_said() -> None:
    few = torch.tensor([0] * 1000 + [1] * 3)
    (note,) = ClassGroups().notes(few, ("many", "few"), 96)
    assert (
        "groups of 3 from one class, since the smallest class (few) has 3 rows" in note
        and "below 4 rows" in note
    )
    assert ClassGroups().notes(torch.arange(1000) % 8, tuple("abcdefgh"), 96) == []
    assert ClassGroups().notes(None, (), 96) == Shuffled().notes(few, ("many", "few"), 96) == []
    assert "groups of 1 " in ClassGroups().notes(torch.arange(1000) % 8, tuple("abcdefgh"), 7)[0]


@pytest.mark.slow
def test_rows_of_a_class_are_drawn_evenly() -> None:
    label = torch.zeros(5, dtype=torch.int64)
    counts = stream(ClassGroups(2), label, 5, 2, 3000, key=0).flatten().bincount()
    assert (counts - 1200).abs().max() < 100  # 1,000 passes; the filler is a fair coin of variance 1/5 · 4/5


def test_the_default_group_leaves_room_for_eight_classes_and_fits_the_smallest() -> None:
    for batch, smallest, group in ((96, 174, 48), (96, 40, 32), (96, 5, 4), (7, 6, 1), (12, 12, 6)):
        assert ClassGroups().size(torch.tensor([smallest, 1000]), batch) == group
    for batch, classes, group in ((96, 10, 12), (512, 1000, 64), (96, 1, 96), (100, 8, 10), (4, 10, 1)):
        assert ClassGroups().size(torch.full((classes,), 5000), batch) == group
    digits = data.load("digits")
    rows = stream(ClassGroups(), digits.label, len(digits), 96, 10, key=0)
    assert digits.label is not None
    groups = digits.label[rows].view(-1, 12)
    assert (groups == groups[:, :1]).all() and (groups[:, 0].bincount() - 8).abs().max() <= 1


def test_classes_without_rows_are_passed_over() -> None:
    label = torch.tensor([0, 0, 3, 3])
    rows = stream(ClassGroups(2), label, 4, 4, 5, key=0)
    assert all(sorted(batch) == [0, 1, 2, 3] for batch in rows.tolist())


@settings(max_examples=20, deadline=None)
@given(size=sizes, batch=batches, step=st.integers(0, 50), key=keys)
def test_without_labels_the_whole_set_is_one_class(size: int, batch: int, step: int, key: int) -> None:
    assert torch.equal(
        ClassGroups().indices(None, size, batch, step, key), Shuffled().indices(None, size, batch, step, key)
    )


@pytest.mark.parametrize(
    ("law", "batch", "message"),
    [
        (ClassGroups(4), 6, "a batch of 6 is not made of whole groups of 4"),
        (ClassGroups(3), 6, "the smallest class has 2 rows and cannot fill a group of 3"),
        (ClassGroups(2), 0, "a batch of 0 from 14 rows"),
        (Shuffled(), 0, "a batch of 0 from 14 rows"),
    ],
)
def test_batches_that_cannot_be_made_are_refused(
    law: Shuffled | ClassGroups, batch: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        law.indices(LABEL, len(LABEL), batch, 0, 0)


def test_groups_without_rows_are_refused_where_they_are_made() -> None:
    with pytest.raises(ValueError, match="groups of 1 row or more"):
        ClassGroups(0)
