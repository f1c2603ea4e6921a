"""Label distributions of samples: in proportion to the reference, in turn, or drawn.

| law     | label i                                                                                           |
|---------|---------------------------------------------------------------------------------------------------|
| data    | classes have their shares of the reference, by largest remainders, spread evenly over the samples |
| cycle   | 0, 1, 2, … in turn: what `data` gives where the reference has equally many rows of all classes    |
| uniform | drawn independently, every class equally likely                                                   |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flowleap.data import Dataset, classes
from flowleap.evaluation import generation
from flowleap.evaluation.evaluator import Evaluator
from flowleap.randomness import generator

Law = Literal["data", "cycle", "uniform"]


@dataclass(frozen=True, eq=False)
class Asked:
    """Labels to sample with, and their distribution.

    Args:
        label: for the network, None without classes.
        place: the number that each class has in the reference, None where it does not have all that are asked for.
        law: the distribution in the protocol id: none, data, cycle, uniform, or given.

    Shapes: label (n,), place (classes,), int64.
    """

    label: Tensor | None = None
    place: Tensor | None = None
    law: str = "none"

    def there(self, label: Tensor | None) -> Tensor | None:
        """Return some of these labels as the reference numbers its classes; None where it lacks one of them.

        Shapes: (n,), int64, kept.
        """
        return None if label is None or self.place is None else self.place[label]


def names_of(dataset: Dataset, num_classes: int | None) -> tuple[str, ...]:
    """Return the class names of a network: those of the data where their number fits, else 0, 1, …."""
    if num_classes is None:
        return ()
    named = dataset.class_names
    return named if len(named) == num_classes else tuple(str(number) for number in range(num_classes))


def asked(law: Law, num: int, names: tuple[str, ...], evaluator: Evaluator, seed: int) -> Asked:
    """Return the labels of `num` samples of a network with classes of these names; none for one without.

    `data` is `cycle` where all counts of the reference are equal, where they are not known, and where it has none of
    these classes.
    """
    if not names:
        return Asked()
    known = evaluator.class_counts
    place = classes.places(names, tuple(known))
    counts = [list(known.values())[there] if there >= 0 else 0 for there in place.tolist()]
    if law == "data" and len(set(counts)) == 1:
        law = "cycle"
    if law == "data":
        label = generation.proportional(num, counts)
    elif law == "cycle":
        label = torch.arange(num) % len(names)
    else:
        label = torch.randint(len(names), (num,), generator=generator(seed, "labels"))
    return Asked(label, None if bool((place[label] < 0).any()) else place, law)


def given(label: Tensor | None, names: tuple[str, ...], evaluator: Evaluator) -> Asked:
    """Return the labels of given samples and their distribution, whatever their order.

    Shapes: label (n,), int64, or None. Raises: ValueError for a class that the reference does not have.
    """
    if label is None:
        return Asked()
    known = evaluator.class_counts
    found = label.bincount(minlength=len(names))
    law = "cycle" if int(found.max() - found.min()) <= 1 else "given"
    if not known:
        return Asked(label, None, law)
    there = classes.renumbered(label, names, tuple(known), "one of these samples", evaluator.name)
    place = classes.places(names, tuple(known))
    shares = generation.shares(len(label), list(known.values()))
    if len(set(known.values())) > 1 and there.bincount(minlength=len(known)).tolist() == shares:
        law = "data"
    return Asked(label, place, law)


def wanted(text: str, num: int, names: Sequence[str], counts: Sequence[int]) -> tuple[Tensor | None, str]:
    """Return labels and their description: "all" classes in turn, "data" in proportion to counts, or one class.

    These words go before the names of classes: a class that is called so is asked for by its number.

    Args:
        names: of the classes; empty without labels. counts: rows of each in the training data; empty where unknown.

    Raises: ValueError for a class that is not known, and for counts that are not.
    """
    if text == "all":
        return generation.cycle(num, len(names) or None), ""
    if not names:
        raise ValueError(
            f"--label {text} was asked for, but this run was trained without labels: leave the label out"
        )
    by_counts = text == "data"
    if by_counts and not counts:
        raise ValueError(
            "--label data: this run does not say how many images of each class it was trained on; give a class, or all"
        )
    if by_counts:
        return generation.proportional(num, counts), " with classes as often as in the training data"
    index = classes.find(text, names)
    number = "" if names[index] == str(index) else f" (number {index})"
    return torch.full((num,), index), f" of class {names[index]}{number}"
