"""The rows of each batch: a pure function of (key, step), so that a run resumes exactly."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import torch
from torch import Tensor

from flowleap.citations import Cited
from flowleap.randomness import generator

LEAST = 4
"""The smallest group over which a plug-in velocity is averaged; in smaller ones it is that of the row itself."""


@lru_cache(maxsize=4096)
def _orders(key: int, stream: str, size: int) -> dict[int, Tensor]:
    """The last two permutations of a stream by their epoch: a batch may hold rows of both."""
    return {}


def _order(key: int, stream: str, epoch: int, size: int) -> Tensor:
    """The permutation of an epoch, kept for consecutive steps."""
    kept = _orders(key, stream, size)
    if epoch not in kept:
        made = torch.randperm(size, generator=generator(key, stream, epoch))
        for former in list(kept)[:-1]:
            del kept[former]
        kept[epoch] = made
    return kept[epoch]


@lru_cache(maxsize=4)
def _members(label: Tensor) -> tuple[Tensor, ...]:
    """The rows of each class in order; cached for the labels of a data set, which stay the same tensor.

    Shapes: label (rows,) → (rows of the class,) each.
    """
    return label.argsort(stable=True).split(label.bincount().tolist())


@dataclass(frozen=True)
class Shuffled(Cited):
    """Each epoch in a new random order, without a gap between epochs: every row once per epoch, for any batch size.

    Shapes: indices → (batch,) int64 rows of the data set.
    """

    def notes(self, label: Tensor | None, names: Sequence[str], batch: int) -> list[str]:
        """Warnings about the batches of a data set: none."""
        return []

    def indices(self, label: Tensor | None, size: int, batch: int, step: int, key: int) -> Tensor:
        """Rows of the batch of this step; `label` is not used."""
        _check(size, batch)
        first, last = step * batch // size, ((step + 1) * batch - 1) // size
        rows = torch.cat([_order(key, "batching/epoch", epoch, size) for epoch in range(first, last + 1)])
        start = step * batch - first * size
        return rows[start : start + batch]


@dataclass(frozen=True)
class ClassGroups(Cited):
    """Batches of contiguous groups of one class each; the classes take turns.

    Classes: turns are dealt in rounds, each in a new order. In round ρ a class of n rows, where the largest has N, has
    a turn if ⌊((ρ + 1) n + o)/N⌋ > ⌊(ρ n + o)/N⌋, with 0 ≤ o < N drawn for each class: it is drawn in proportion to
    its size. With `classes="uniform"`, and with equal sizes, every class has a turn in every round, as in the published
    runs, whose data are balanced.
    Rows: a class is gone through in passes, each in a new order; no row returns before all have been seen, and no
    group holds a row twice (the last group of a pass is filled up with the pass's own first rows).
    `group=None` takes the largest divisor of the batch that the smallest class can fill and that leaves room
    for eight classes (all of them where there are fewer): the published runs give each of eight processes one
    class. Without labels the whole set is one class, and this is `Shuffled`.
    Shapes: indices → (batch,) int64 rows of the data set.
    Raises: ValueError where groups do not fill the batch, or a class cannot fill a group.
    """

    group: int | None = None
    classes: Literal["proportional", "uniform"] = "proportional"
    cites: ClassVar[tuple[str, ...]] = ("lin2025design",)

    def __post_init__(self) -> None:
        if self.group is not None and self.group < 1:
            raise ValueError(f"ClassGroups(group={self.group}): groups of 1 row or more are expected")

    def indices(self, label: Tensor | None, size: int, batch: int, step: int, key: int) -> Tensor:
        """Rows of the batch of this step."""
        if label is None:
            return Shuffled().indices(None, size, batch, step, key)
        _check(size, batch)
        members = _members(label)
        count = torch.tensor([len(rows) for rows in members])
        there = count.nonzero().flatten()
        group = self.size(count[there], batch)
        weight = count[there] if self.classes == "proportional" else torch.ones_like(there)
        turns = _turns(weight, range(step * batch // group, (step + 1) * batch // group), key)
        chosen = ((int(there[place]), turn) for place, turn in turns)
        return torch.cat([_group_of_class(members[c], c, group, turn, key) for c, turn in chosen])

    def notes(self, label: Tensor | None, names: Sequence[str], batch: int) -> list[str]:
        """Warnings about the batches of a data set: groups too small for a plug-in velocity."""
        if label is None:
            return []
        count = label.bincount(minlength=len(names))
        there = count.nonzero().flatten()
        group = self.size(count[there], batch)
        if group >= LEAST:
            return []
        smallest = int(there[count[there].argmin()])
        return [
            f"batches of {batch} are made of groups of {group} from one class, since the smallest class "
            f"({names[smallest]}) has {int(count[smallest]):,} rows and a batch holds up to 8 classes: the plug-in "
            f"velocity averages over a group, and does nothing below {LEAST} rows. Leave small classes out, or take "
            "larger batches"
        ]

    def size(self, counts: Tensor, batch: int) -> int:
        """Rows of a group, given the number of rows of each class."""
        smallest = int(counts.min())
        if self.group is None:
            most = max(1, min(smallest, batch // min(8, len(counts))))
            return max(d for d in range(1, most + 1) if batch % d == 0)
        if batch % self.group:
            raise ValueError(
                f"a batch of {batch} is not made of whole groups of {self.group}; change one of them"
            )
        if self.group > smallest:
            raise ValueError(
                f"the smallest class has {smallest} rows and cannot fill a group of {self.group}"
            )
        return self.group


def _turns(weight: Tensor, wanted: range, key: int) -> Iterator[tuple[int, int]]:
    """Yield, for some turns, the class whose turn it is and the number of its earlier turns.

    Shapes: weight (classes,), int64, above 0.
    """
    most = int(weight.max())
    offset = torch.randint(most, weight.shape, generator=generator(key, "batching/offset"))

    def had(round_: int) -> Tensor:
        return (round_ * weight + offset) // most

    bound = (wanted.start + len(weight)) * most // int(weight.sum()) + 2
    round_ = bisect_right(range(bound), wanted.start, key=lambda place: int(had(place).sum())) - 1
    turn = int(had(round_).sum())
    while turn < wanted.stop:
        before = had(round_)
        members = (had(round_ + 1) > before).nonzero().flatten()
        for place in _order(key, "batching/classes", round_, len(members)).tolist():
            if turn in wanted:
                yield int(members[place]), int(before[members[place]])
            turn += 1
        round_ += 1


def _group_of_class(members: Tensor, chosen: int, group: int, turn: int, key: int) -> Tensor:
    """The rows of a class, out of its `members`, in its turn-th turn."""
    groups_in_pass = -(-len(members) // group)
    pass_, place = divmod(turn, groups_in_pass)
    order = _order(key, f"batching/class/{chosen}", pass_, len(members))
    return members[order[(place * group + torch.arange(group)) % len(members)]]


def _check(size: int, batch: int) -> None:
    if size < 1 or batch < 1:
        raise ValueError(f"a batch of {batch} from {size} rows: both are at least 1")
