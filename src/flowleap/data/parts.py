"""Recognize the sub-folders of a data set that are its splits for training, validation and test."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from flowleap.data.classes import listed

HELD_OUT = ("validation", "valid", "val", "test")
"""Held-out splits in the order of preference: the labels of a test split may be hidden."""
TRAIN = "train"
FORMS = {
    TRAIN: ("train", "training", "trn", "trainset", "trainval", "traindata"),
    "validation": ("val", "valid", "validation", "validate", "dev", "valset", "valdata"),
    "test": ("test", "testing", "tst", "testset", "testdata", "eval", "evaluation", "holdout", "heldout"),
}
BESIDE = ("data", "dataset", "folder", "image", "images", "img", "imgs", "photos", "set", "split", "x")
"""Words that may stand beside the name of a split."""
THINGS = ("dev", "eval", "train", "valid")
"""Names of splits that are also words for things, and so may be classes if no other folder is a split."""


@dataclass(frozen=True)
class Parts:
    """The folders of the splits, as in {"train": "Training"}, and the other folders beside them.

    Args:
        twice: two folders with the name of the same split.
    """

    folders: dict[str, str]
    others: tuple[str, ...] = ()
    twice: tuple[str, str] | None = None

    def __bool__(self) -> bool:
        return bool(self.folders)

    @property
    def whole(self) -> bool:
        """Whether every folder is a split, and each split is there once."""
        return bool(self.folders) and not self.others and self.twice is None

    def doubt(self, names: Iterable[str]) -> str:
        """A message if the folders may be splits or classes; empty if that is clear.

        Args:
            names: the paths of the images, beginning with the folders.
        """
        if self.twice is not None and not self.others:
            return f"{self.twice[0]} and {self.twice[1]} seem to be the same part"
        only = next(iter(self.folders.values())) if len(self.folders) == 1 and self.twice is None else ""
        if only.casefold() in THINGS and not any(
            name.startswith(f"{only}/") and name.count("/") > 1 for name in names
        ):
            return ""
        if not self.folders or not self.others:
            return ""
        return f"{listed([*self.folders.values()])} seem to be parts, and {listed(self.others)} beside them are none"

    def name(self, asked: str) -> str:
        """The name of a split by its name or its folder."""
        return next((name for name, folder in self.folders.items() if folder == asked), asked)


def part_of(name: str) -> str | None:
    """The split that a folder is named after; None for other names.

    >>> [part_of(name) for name in ("Training", "test_images", "val2017", "valid", "cats", "train_station")]
    ['train', 'test', 'validation', 'valid', None, None]
    """
    if name in HELD_OUT:
        return name
    word = "".join(word for word in _words(name) if word not in BESIDE)
    return next((part for part, forms in FORMS.items() if word in forms), None)


def parts_of(names: Sequence[str]) -> Parts:
    """Find the splits among the folders of a data set; a common first word is ignored.

    >>> parts_of(["seg_train", "seg_test"]).folders
    {'train': 'seg_train', 'test': 'seg_test'}
    """
    folders: dict[str, str] = {}
    others, twice = [], None
    for name, bare in zip(names, _bare(names), strict=True):
        part = part_of(name) or part_of(bare)
        if part is None:
            others.append(name)
        elif part in folders:
            twice = (folders[part], name)
        else:
            folders[part] = name
    return Parts(folders, tuple(others), twice)


def held_out_split(split: str, splits: Collection[str]) -> str | None:
    """Return the held-out split of the training split; None for other splits.

    >>> held_out_split("train", ("train", "val")), held_out_split("val", ("train", "val"))
    ('val', None)
    """
    return next((name for name in HELD_OUT if name in splits and split == TRAIN), None)


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[\W_\d]+", name.casefold()) if word]


def _bare(names: Sequence[str]) -> list[str]:
    """The names without a common first word."""
    words = [_words(name) for name in names]
    shared = len(words) > 1 and all(len(word) > 1 and word[0] == words[0][0] for word in words)
    return ["_".join(word[1:]) for word in words] if shared else list(names)
