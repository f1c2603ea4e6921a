"""From encoded images to a data set: headers are looked at, what cannot be used is left out, the rest made alike.

Everything that is decided here follows from the headers of all images and the settings, so the same folder is taken
in the same way again.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from flowleap.data.classes import left_out, listed, occurring
from flowleap.data.pixels import FAULTS, Faulty, decode, fault_of, probe
from flowleap.data.rows import Held, Rows, Samples, scaled
from flowleap.data.store import Store
from flowleap.data.view import AS_THEY_ARE, Square, View, suggested
from flowleap.data.workers import default_workers, in_order
from flowleap.fields import check
from flowleap.progress import counted

__all__ = [
    "FEW_IMAGES",
    "GIB",
    "Headers",
    "Images",
    "Look",
    "Prepared",
    "drawn_by_flowleap",
    "first_frames",
    "prepare",
    "scan",
]

GIB = 2**30
CHUNK = 250
MANY = 2000
"""Fewer images than this are looked at by this process: starting others would take longer."""
TRIES = 10
FEW_IMAGES = 1000
"""Of fewer images than this, a run is told that a generator may learn them by heart."""
MOSTLY = 0.95
"""The share of images of one size from which on the rest is taken to be the exception."""


@dataclass(frozen=True)
class Look:
    """How images at a path are taken.

    Args:
        square: "crop" or "resize", see `View`; None where images of one size may stay as they are.
        size: the side that they are resized to; None for `suggested`, or as they are.
        strict: refuse data of which something cannot be used, rather than leaving that out.
        memory: how many GiB images may take: as 32-bit floats, or else as 8 bits, or else they stay on the disk.

    Raises: ValueError for values that mean nothing.
    """

    square: Square | None = None
    size: int | None = None
    strict: bool = False
    memory: float = 1.0

    def __post_init__(self) -> None:
        if self.square is not None:
            View(self.square, 1)
        check(self)
        if self.size is not None:
            View(self.square or "crop", self.size)
        if self.memory < 0:
            raise ValueError(f"memory={self.memory}: expected GiB, 0 to read everything when it is needed")


@dataclass(frozen=True, eq=False)
class Headers:
    """What the headers of all images say.

    Shapes: (n,) each; `fault` is 0, or 1 + the place in `FAULTS`; `frames`: whether an image is the first of several;
    `drawn`: whether flowleap drew it.
    """

    width: np.ndarray
    height: np.ndarray
    colored: np.ndarray
    fault: np.ndarray
    frames: np.ndarray
    drawn: np.ndarray
    first: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.width)

    @property
    def fine(self) -> np.ndarray:
        """Which images have no fault."""
        return self.fault == 0

    def marked(self, rows: np.ndarray, kind: str, message: str) -> Headers:
        """These with a fault at some rows that had none."""
        fault = self.fault.copy()
        fault[rows] = 1 + list(FAULTS).index(kind)
        return replace(self, fault=fault, first={kind: message, **self.first})

    def only(self, rows: np.ndarray) -> Headers:
        """Those of some images, by their numbers."""
        return Headers(
            self.width[rows],
            self.height[rows],
            self.colored[rows],
            self.fault[rows],
            self.frames[rows],
            self.drawn[rows],
            self.first,
        )

    def faults(self) -> dict[str, int]:
        """How many images have each fault, of those that occur."""
        counts = {kind: int((self.fault == 1 + index).sum()) for index, kind in enumerate(FAULTS)}
        return {kind: count for kind, count in counts.items() if count}


@dataclass(frozen=True, eq=False)
class _Probed:
    store: Store

    def __call__(self, rows: range) -> tuple[np.ndarray, dict[str, str]]:
        found = np.zeros((len(rows), 6), dtype=np.int32)
        first: dict[str, str] = {}
        for place, index in enumerate(rows):
            try:
                header = probe(self.store.encoded(index), self.store.name(index))
            except Faulty as error:
                found[place, 3] = 1 + list(FAULTS).index(error.kind)
                first.setdefault(error.kind, str(error))
                continue
            found[place, :3] = header.width, header.height, header.colored
            found[place, 4:] = header.frames, header.drawn
        return found, first


def scan(store: Store, workers: int | None = None) -> Headers:
    """Look at the header of every image; only what is see-through or seems to be cut off is decoded."""
    chunks = [range(start, min(start + CHUNK, len(store))) for start in range(0, len(store), CHUNK)]
    parts = [np.zeros((0, 6), np.int32)]
    first: dict[str, str] = {}
    with counted(f"looking at {len(store):,} images", len(store)) as tick:
        for rows, (found, said) in zip(
            chunks, in_order(_Probed(store), chunks, _of(workers, store)), strict=True
        ):
            parts.append(found)
            first = {**said, **first}
            tick(len(rows))
    whole = np.concatenate(parts)
    width, height, colored, fault, several, drawn = whole.T
    flags = (several.astype(bool), drawn.astype(bool))
    return Headers(width, height, colored.astype(bool), fault.astype(np.uint8), *flags, first)


def _of(workers: int | None, store: Store) -> int:
    if workers is not None:
        return workers
    return default_workers() if len(store) >= MANY else 0


@dataclass(frozen=True, eq=False)
class Images:
    """Decodes images of a store when they are asked for.

    One that turns out to be damaged is warned of, and the next one of its class takes its place: a pure function of
    the files, so that a run that goes on sees the same. With `strict` it is an error.

    Args:
        rows: the numbers in the store of those that are used.
        label: of those, None without classes.

    Shapes: rows int64 (n,), label int64 (n,); call: int64 (k,) -> uint8 (k, *one).
    """

    store: Store
    rows: np.ndarray
    one: tuple[int, int, int]
    view: View | None
    label: Tensor | None = None
    strict: bool = False

    def __call__(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(self.numpy(rows))

    def numpy(self, rows: Tensor) -> np.ndarray:
        """As the call, as an array."""
        made = np.empty((len(rows), *self.one), dtype=np.uint8)
        for place, row in enumerate(rows.tolist()):
            made[place] = self._kept(row)
        return made

    def image(self, row: int) -> np.ndarray:
        """One image.

        Shapes: -> uint8, broadcast to (channels, height, width). Raises: Faulty.
        """
        index = int(self.rows[row])
        name = self.store.name(index)
        pixels = decode(self.store.encoded(index), name, self.view)
        if pixels.shape[:2] != self.one[1:] or (pixels.ndim == 3 and self.one[0] == 1):
            raise Faulty(
                "unreadable", f"{self.store.name(index)} is not what it was: it has changed meanwhile"
            )
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    def _kept(self, row: int) -> np.ndarray:
        for instead in chain([row], self._next(row)):
            try:
                return self.image(instead)
            except Faulty as error:
                if self.strict:
                    raise
                warnings.warn(f"{error}; another image takes its place", UserWarning, stacklevel=2)
                last = error
        raise ValueError(f"{TRIES} images in a row cannot be read; the last: {last}")

    def _next(self, row: int) -> Iterator[int]:
        size, found = len(self.rows), 0
        for other in ((row + step) % size for step in range(1, size)):
            if self.label is None or bool(self.label[other] == self.label[row]):
                yield other
                found += 1
            if found == TRIES:
                return


@dataclass(frozen=True, eq=False)
class Prepared:
    """Images that can be read alike, their labels, and what is to be said of them."""

    images: Images
    label: Tensor | None
    classes: tuple[str, ...]
    look: Look
    notes: tuple[str, ...]
    name: str = "the data"

    def rows(self) -> Rows:
        """The images as they are read from the disk."""
        view = self.images.view
        stamp = f"{self.images.store.stamp}/{view}/{self.images.one}/{_digest(self.images.rows)}"
        return Rows(self.images, len(self.images.rows), self.images.one, stamp)

    def held(self) -> tuple[Samples, Prepared]:
        """The images as memory allows it, and what is left of these: what turns out to be damaged is left out.

        Raises: ValueError where nothing is left, or something is left out and `Look.strict` forbids it.
        """
        size, bound = len(self.images.rows) * math.prod(self.images.one), self.look.memory * GIB
        if size > bound:
            if not bound:
                return self.rows(), self
            words = f"{_gigabytes(size)} as 8 bits are not held in memory: read from the disk when they are needed"
            return self.rows(), replace(self, notes=(*self.notes, words))
        levels, left = self._read()
        if 4 * size > bound:
            words = f"held in memory as 8 bits ({_gigabytes(size)})"
            return Rows(Held(levels), len(levels), self.images.one), replace(left, notes=(*left.notes, words))
        x = torch.empty(levels.shape)
        for start in range(0, len(x), 1000):
            x[start : start + 1000] = scaled(levels[start : start + 1000])
        return x, left

    def _read(self) -> tuple[Tensor, Prepared]:
        rows = self.images.rows
        chunks = [range(start, min(start + CHUNK, len(rows))) for start in range(0, len(rows), CHUNK)]
        levels = np.empty((len(rows), *self.images.one), dtype=np.uint8)
        broken: list[int] = []
        said: list[str] = []
        with counted(f"reading {len(rows):,} images", len(rows)) as tick:
            workers = _of(None, self.images.store)
            for part, (made, faults) in zip(
                chunks, in_order(_Decoded(self.images), chunks, workers), strict=True
            ):
                levels[part.start : part.stop] = made
                broken += [row for row, _ in faults]
                said += [message for _, message in faults]
                tick(len(part))
        if not broken:
            return torch.from_numpy(levels), self
        kept = np.ones(len(rows), dtype=bool)
        kept[broken] = False
        first = {"unreadable": said[0]}
        words = _left_out({"unreadable": len(broken)}, first, len(rows), self.look.strict, self.name)
        if not kept.any():
            raise ValueError(words)
        label = None if self.label is None else self.label[torch.from_numpy(kept)]
        images = replace(self.images, rows=rows[kept], label=label)
        return torch.from_numpy(levels[kept]), replace(
            self, images=images, label=label, notes=(*self.notes, words)
        )


@dataclass(frozen=True, eq=False)
class _Decoded:
    images: Images

    def __call__(self, rows: range) -> tuple[np.ndarray, list[tuple[int, str]]]:
        made = np.zeros((len(rows), *self.images.one), dtype=np.uint8)
        faults = []
        for place, row in enumerate(rows):
            try:
                made[place] = self.images.image(row)
            except Faulty as error:
                faults.append((row, str(error)))
        return made, faults


def prepare(
    store: Store,
    look: Look,
    label: Tensor | None = None,
    classes: tuple[str, ...] = (),
    name: str = "the data",
) -> Prepared:
    """Decide how images are taken, from their headers.

    Images of one size stay as they are up to 256 pixels, unless a size or a policy is named; others are made squares.
    Where nearly all have one square size, that is it, else `suggested`.

    Raises: ValueError where no image is left, or one is left out and the look is strict.
    """
    headers = scan(store)
    notes = [*store.notes, *drawn_by_flowleap(store, headers.drawn.nonzero()[0])]
    if headers.drawn.any():
        rest = (~headers.drawn).nonzero()[0]
        if not len(rest):
            raise ValueError(f"{name} holds no images but pictures that flowleap drew: give it images")
        store, headers = store.only(rest), headers.only(rest)
        label = None if label is None else label[torch.from_numpy(rest)]
    if not headers.fine.any():
        raise ValueError(_left_out(headers.faults(), headers.first, len(headers), False, name))
    view = _view(headers, look)
    if view is not None:
        short = np.minimum(headers.width, headers.height)
        small = (headers.fine & (short < view.size)).nonzero()[0]
        if len(small):
            message = (
                f"{store.name(int(small[0]))} has {headers.width[small[0]]} × {headers.height[small[0]]} pixels and "
                f"{view.size} × {view.size} are wanted"
            )
            headers = headers.marked(small, "small", message)
    kept = headers.fine.nonzero()[0]
    notes += first_frames(store, kept[headers.frames[kept]])
    if len(kept) < len(headers):
        words = _left_out(headers.faults(), headers.first, len(headers), look.strict, name)
        if not len(kept):
            raise ValueError(f"{words}; give a smaller --size")
        notes.append(words)
    channels = 3 if headers.colored[kept].any() else 1
    if view is not None:
        hint = "; --size and --square change that" if look.size is None else ""
        notes.insert(0, _viewed(headers, kept, view) + hint)
    one = (
        (channels, view.size, view.size)
        if view
        else (channels, int(headers.height[kept[0]]), int(headers.width[kept[0]]))
    )
    if label is not None:
        label, classes, empty = occurring(label[torch.from_numpy(kept)], classes)
        notes += left_out(empty)
    resolved = look if view is None else replace(look, square=view.square, size=view.size)
    return Prepared(
        Images(store, kept, one, view, label, look.strict), label, classes, resolved, tuple(notes), name
    )


def drawn_by_flowleap(store: Store, rows: np.ndarray) -> list[str]:
    """Say which pictures are left out because flowleap drew them, by their numbers."""
    if not len(rows):
        return []
    return [f"skipped: pictures that flowleap drew ({listed([store.name(row) for row in rows.tolist()])})"]


def first_frames(store: Store, rows: np.ndarray) -> list[str]:
    """Say of which images only the first frame or page is taken: those with some numbers, none or more."""
    if not len(rows):
        return []
    some = "1 image has" if len(rows) == 1 else f"{len(rows):,} images have"
    return [f"{some} several frames or pages ({store.name(int(rows[0]))}): only the first is taken"]


def _view(headers: Headers, look: Look) -> View | None:
    """How the images are made alike; None where they are alike."""
    fine = headers.fine
    sizes = Counter(zip(headers.width[fine].tolist(), headers.height[fine].tolist(), strict=True))
    (width, height), most = sizes.most_common(1)[0]
    alike = most == int(fine.sum())
    if look.size is not None:
        return (
            None
            if alike and (width, height) == (look.size, look.size)
            else View(look.square or "crop", look.size)
        )
    if alike and look.square is None and max(width, height) <= AS_THEY_ARE:
        return None
    if width == height <= AS_THEY_ARE and most >= MOSTLY * int(fine.sum()):
        return View(look.square or "crop", width)
    short = np.minimum(headers.width[fine], headers.height[fine])
    return View(look.square or "crop", suggested(short))


def _viewed(headers: Headers, kept: np.ndarray, view: View) -> str:
    width, height = headers.width[kept], headers.height[kept]
    small, large = int((width * height).argmin()), int((width * height).argmax())
    sizes = f"{width[small]} × {height[small]}"
    if (width[small], height[small]) != (width[large], height[large]):
        sizes += f" to {width[large]} × {height[large]}"
    return f"images of {sizes} pixels are {view.words}"


def _left_out(
    faults: dict[str, int], first: dict[str, str], count: int, strict: bool, name: str = "the data"
) -> str:
    """Say which images are not used, and why.

    Raises: ValueError where none may be.
    """
    total = sum(faults.values())
    reasons = "; ".join(
        f"{number:,} {fault_of(kind, number)} ({first[kind]})" for kind, number in faults.items()
    )
    if strict:
        raise ValueError(
            f"{total:,} of {count:,} images of {name} cannot be used: {reasons}; leave out --strict to go on"
        )
    return f"{total:,} of {count:,} images {'is' if total == 1 else 'are'} left out: {reasons}"


def _digest(rows: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()[:16]


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
