"""From encoded images to a data set: headers are looked at, what cannot be used is left out, the rest made alike.

Everything that is decided here follows from the headers of all images and the settings, so the same folder is taken
in the same way again.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowleap.data.classes import described, left_out, occurring
from flowleap.data.dataset import Dataset, check
from flowleap.data.known import recognized
from flowleap.data.pixels import FAULTS, Faulty, decode, fault_of, planes, probe
from flowleap.data.preprocessing import AS_THEY_ARE, GIB, Preprocessing, ResizeCrop, suggested
from flowleap.data.rows import MANY, Rows, Samples, kept
from flowleap.data.skipped import drawn_by_flowleap
from flowleap.data.store import Store, some_of
from flowleap.data.workers import default_workers, in_order
from flowleap.progress import counted

__all__ = [
    "FEW_IMAGES",
    "Images",
    "each",
    "fault_number",
    "first_frames",
    "introduced",
    "looked_through",
    "prepare",
]

CHUNK = 250
TRIES = 10
FEW_IMAGES = 1000
"""Of fewer images than this, a run is told that a generator may learn them by heart."""
MOSTLY = 0.95
"""The share of images of one size from which on the rest is taken to be the exception."""
HEADER = np.dtype(
    [
        ("width", np.int32),
        ("height", np.int32),
        ("colored", bool),
        ("fault", np.uint8),
        ("frames", bool),
        ("drawn", bool),
    ]
)
"""What the header of an image says: `fault` is 0, or `fault_number`; `frames`: whether it is the first of several;
`drawn`: whether flowleap drew it."""

Fault = tuple[int, str, str]
"""The number of an image that cannot be used, one of `FAULTS`, and what is to be said."""


def fault_number(kind: str) -> int:
    """How one of `FAULTS` is recorded: 1 + its place."""
    return 1 + list(FAULTS).index(kind)


@dataclass(frozen=True, eq=False)
class _Each:
    """Fills the records of a range of images, those that cannot be used as far as they are known."""

    fill: Callable[[Any, int], None]
    dtype: np.dtype[Any]
    one: tuple[int, ...]

    def __call__(self, rows: range) -> tuple[np.ndarray, list[Fault]]:
        made = np.zeros((len(rows), *self.one), dtype=self.dtype)
        faults = []
        for record, row in zip(made, rows, strict=True):
            try:
                self.fill(record, row)
            except Faulty as error:
                faults.append((row, error.kind, str(error)))
        return made, faults


def each(
    fill: Callable[[Any, int], None],
    count: int,
    words: str,
    dtype: np.dtype[Any],
    one: tuple[int, ...] = (),
    workers: int | None = None,
) -> tuple[np.ndarray, list[Fault]]:
    """The records of many images, and which of them cannot be used; other processes help where there are many.

    Args:
        fill: given a record and the number of an image; raises Faulty for one that cannot be used.
        words: what is done, for the progress bar.
        dtype, one: the type and the shape of a record.
    """
    chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    made, faults = np.zeros((count, *one), dtype), list[Fault]()
    if workers is None:
        workers = default_workers() if count >= MANY else 0
    with counted(f"{words} {count:,} images", count) as tick:
        for rows, (part, wrong) in zip(
            chunks, in_order(_Each(fill, dtype, one), chunks, workers), strict=True
        ):
            made[rows.start : rows.stop] = part
            faults += wrong
            tick(len(rows))
    return made, faults


def looked_through(
    store: Store,
    fill: Callable[[Any, int], None],
    words: str,
    dtype: np.dtype[Any],
    workers: int | None = None,
) -> tuple[Store, np.ndarray, dict[int, str], list[str]]:
    """Look at all images of a store, and leave out pictures that flowleap drew.

    Args:
        fill, words, dtype, workers: as of `each`; a record has `fault` and `drawn`, as those of `HEADER`.

    Returns: the store that is left, its records, why some of its images cannot be used, by their numbers, and what is
    to be said of the rest.
    """
    records, faults = each(fill, len(store), words, dtype, workers=workers)
    for row, kind, _ in faults:
        records["fault"][row] = fault_number(kind)
    messages, notes = {row: message for row, _, message in faults}, [*store.notes]
    if len(drawn := records["drawn"].nonzero()[0]):
        notes.append(drawn_by_flowleap([store.name(row) for row in drawn.tolist()]))
        rest = (~records["drawn"]).nonzero()[0]
        messages = {place: messages[row] for place, row in enumerate(rest.tolist()) if row in messages}
        store, records = store.only(rest), records[rest]
    return store, records, messages, notes


@dataclass(frozen=True, eq=False)
class _Probe:
    """Records the header of an image; only what is see-through or seems to be cut off is decoded."""

    store: Store

    def __call__(self, record: Any, row: int) -> None:
        header = probe(self.store.encoded(row), self.store.name(row))
        for name in ("width", "height", "colored", "frames", "drawn"):
            record[name] = getattr(header, name)


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
    view: ResizeCrop | None
    label: Tensor | None = None
    strict: bool = False

    def __call__(self, rows: Tensor) -> Tensor:
        made = np.empty((len(rows), *self.one), dtype=np.uint8)
        for place, row in enumerate(rows.tolist()):
            made[place] = self._kept(row)
        return torch.from_numpy(made)

    def fill(self, record: np.ndarray, row: int) -> None:
        """Decode one image into an array.

        Raises: Faulty.
        """
        record[:] = self.image(row)

    def image(self, row: int) -> np.ndarray:
        """One image.

        Shapes: -> uint8, broadcast to (channels, height, width). Raises: Faulty.
        """
        index = int(self.rows[row])
        name = self.store.name(index)
        found = planes(decode(self.store.encoded(index), name, self.view))
        if found.shape[1:] != self.one[1:] or len(found) > self.one[0]:
            raise Faulty("unreadable", f"{name} is not what it was: it has changed meanwhile")
        return found

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

    def on_disk(self) -> Rows:
        """The images as they are read from the disk."""
        digest = hashlib.sha256(np.ascontiguousarray(self.rows).data).hexdigest()[:16]
        stamp = f"{self.store.stamp}/{self.view}/{self.one}/{digest}"
        return Rows(self, len(self.rows), self.one, stamp)

    def only(self, places: np.ndarray) -> Images:
        """Some of these images, by their places."""
        return replace(self, rows=self.rows[places], label=some_of(self.label, places))


def prepare(store: Store, preprocessing: Preprocessing, address: str) -> Dataset:
    """Make a data set of encoded images: what cannot be used is left out, the rest made alike.

    Images of one size stay as they are up to 256 pixels, unless a size or a policy is named; others are made squares.
    Where nearly all have one square size, that is it, else `suggested`.

    Args:
        address: what the data set was called, by which it is found again.

    Raises: ValueError where no image is left, or one is left out and the preprocessing is strict.
    """
    store, headers, messages, notes = looked_through(store, _Probe(store), "looking at", HEADER)
    if not len(store):
        raise ValueError(f"{address} holds no images but pictures that flowleap drew: give it images")
    if headers["fault"].all():
        raise ValueError(_left_out(headers["fault"], messages, False, address))
    view = _view(headers[headers["fault"] == 0], preprocessing)
    if view is not None:
        messages |= _mark_small(headers, view, store)
    fine = (headers["fault"] == 0).nonzero()[0]
    notes += first_frames(store, fine[headers["frames"][fine]])
    if len(fine) < len(headers):
        words = _left_out(headers["fault"], messages, preprocessing.strict, address)
        if not len(fine):
            raise ValueError(f"{words}; give a smaller --size")
        notes.append(words)
    headers, resolved = headers[fine], preprocessing
    height, width = int(headers["height"][0]), int(headers["width"][0])
    if view is not None:
        hint = "; --size and --square change that" if preprocessing.size is None else ""
        notes.insert(0, _viewed(headers, view) + hint)
        height, width, resolved = (
            view.size,
            view.size,
            replace(preprocessing, square=view.square, size=view.size),
        )
    one = (3 if headers["colored"].any() else 1, height, width)
    images = Images(store, fine, one, view, some_of(store.label, fine), preprocessing.strict)
    x, images, said = _held(images, preprocessing.memory, address)
    return _made(store, x, images.label, resolved, (*notes, *said), address)


def _mark_small(headers: np.ndarray, view: ResizeCrop, store: Store) -> dict[int, str]:
    """Record which images are too small for a view, and say so of the first."""
    short = np.minimum(headers["width"], headers["height"])
    small = ((headers["fault"] == 0) & (short < view.size)).nonzero()[0].tolist()
    headers["fault"][small] = fault_number("small")
    sizes = {row: f"{headers['width'][row]} × {headers['height'][row]}" for row in small[:1]}
    wanted = f"{view.size} × {view.size}"
    return {
        row: f"{store.name(row)} has {size} pixels and {wanted} are wanted" for row, size in sizes.items()
    }


def _held(images: Images, memory: float, address: str) -> tuple[Samples, Images, list[str]]:
    """The images as memory allows it, which are left of them, and what is to be said: what turns out to be damaged is
    left out.

    Raises: ValueError where nothing is left, or something is left out and must not be.
    """
    count = len(images.rows)
    size, bound = count * math.prod(images.one), memory * GIB
    if size > bound:
        words = (
            f"{_gigabytes(size)} as 8 bits are not held in memory: read from the disk when they are needed"
        )
        return images.on_disk(), images, [words] if bound else []
    levels, faults = each(images.fill, count, "reading", np.dtype(np.uint8), images.one)
    notes = []
    if faults:
        broken = np.zeros(count, dtype=np.uint8)
        broken[[row for row, *_ in faults]] = fault_number("unreadable")
        words = _left_out(broken, {row: message for row, _, message in faults}, images.strict, address)
        if broken.all():
            raise ValueError(words)
        fine = (broken == 0).nonzero()[0]
        levels, images, notes = levels[fine], images.only(fine), [words]
    x = kept(torch.from_numpy(levels), memory)
    if isinstance(x, Rows):
        notes.append(f"held in memory as 8 bits ({_gigabytes(levels.size)})")
    return x, images, notes


def _made(
    store: Store,
    x: Samples,
    label: Tensor | None,
    preprocessing: Preprocessing,
    notes: tuple[str, ...],
    address: str,
) -> Dataset:
    """The data set of images that were made alike."""
    classes, empty = store.classes, tuple[str, ...]()
    if label is not None:
        label, classes, empty = occurring(label, classes)
    return introduced(
        Dataset(
            store.called,
            x,
            label,
            None if label is None else len(classes),
            source=store.called,
            split=store.split,
            path=address,
            held_out=store.held_out,
            preprocessing=preprocessing,
            classes=classes,
            notes=(*notes, *left_out(empty)),
        )
    )


def introduced(dataset: Dataset) -> Dataset:
    """Return data that were read by their published name, with notes on their classes and on how few they are.

    Raises: ValueError as `dataset.check`.
    """
    dataset = recognized(check(dataset))
    notes = [*dataset.notes]
    if dataset.label is not None:
        notes.append(described(dataset.label, dataset.class_names))
    if len(dataset) < FEW_IMAGES:
        notes.append(f"only {len(dataset):,} images: a generator may memorize them")
    return replace(dataset, notes=tuple(notes))


def first_frames(store: Store, rows: np.ndarray) -> list[str]:
    """Say of which images only the first frame or page is taken: those with some numbers, none or more."""
    if not len(rows):
        return []
    some = "1 image has" if len(rows) == 1 else f"{len(rows):,} images have"
    return [f"{some} several frames or pages ({store.name(int(rows[0]))}): only the first is taken"]


def _view(headers: np.ndarray, preprocessing: Preprocessing) -> ResizeCrop | None:
    """How the images are made alike; None where they are alike."""
    sizes = Counter(zip(headers["width"].tolist(), headers["height"].tolist(), strict=True))
    (width, height), most = sizes.most_common(1)[0]
    alike = most == len(headers)
    square = preprocessing.square or "crop"
    if preprocessing.size is not None:
        return (
            None
            if alike and (width, height) == (preprocessing.size, preprocessing.size)
            else ResizeCrop(square, preprocessing.size)
        )
    if alike and preprocessing.square is None and max(width, height) <= AS_THEY_ARE:
        return None
    if width == height <= AS_THEY_ARE and most >= MOSTLY * len(headers):
        return ResizeCrop(square, width)
    return ResizeCrop(square, suggested(np.minimum(headers["width"], headers["height"])))


def _viewed(headers: np.ndarray, view: ResizeCrop) -> str:
    area = headers["width"].astype(np.int64) * headers["height"]
    smallest, largest = (
        f"{one['width']} × {one['height']}" for one in (headers[area.argmin()], headers[area.argmax()])
    )
    sizes = smallest if smallest == largest else f"{smallest} to {largest}"
    return f"images of {sizes} pixels are {view.words}"


def _left_out(fault: np.ndarray, messages: dict[int, str], strict: bool, address: str) -> str:
    """Say which images are not used, and why: of each kind how many, and the first.

    Shapes: fault (n,), as of `HEADER`. Raises: ValueError where none may be.
    """
    rows = {kind: (fault == fault_number(kind)).nonzero()[0].tolist() for kind in FAULTS}
    reasons = "; ".join(
        f"{len(those):,} {fault_of(kind, len(those))} ({messages[those[0]]})"
        for kind, those in rows.items()
        if those
    )
    total, count = sum(map(len, rows.values())), len(fault)
    if strict:
        raise ValueError(
            f"{total:,} of {count:,} images of {address} cannot be used: {reasons}; leave out --strict to go on"
        )
    return f"{total:,} of {count:,} images {'is' if total == 1 else 'are'} left out: {reasons}"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
