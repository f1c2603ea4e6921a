"""From encoded images to a data set: read all headers, leave out unusable images, crop and resize the rest.

All decisions follow from the headers of the images and the settings, so the same folder always gives the same data.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowleap.data.classes import described, without_empty
from flowleap.data.dataset import Dataset, check
from flowleap.data.known import recognized
from flowleap.data.pixels import FAULTS, Faulty, channels_first, decode, fault_of, read_header
from flowleap.data.preprocessing import AS_THEY_ARE, GIB, Preprocessing, ResizeCrop, default_size
from flowleap.data.rows import MANY, Rows, Samples, as_floats
from flowleap.data.skipped import drawn_by_flowleap
from flowleap.data.store import Store, some_of
from flowleap.data.workers import default_workers, in_order
from flowleap.progress import counted

CHUNK = 250
TRIES = 10
FEW_IMAGES = 1000
"""For fewer images than this, a message says that a generator may memorize them."""
MOSTLY = 0.95
"""If this share of the images has one square size, the others are resized to it."""
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
"""The header of an image, as `pixels.Header`; `fault` is 0 or a `fault_number`."""

Fault = tuple[int, str, str]
"""The number of an unusable image, its kind of fault (`FAULTS`) and a message."""


def fault_number(kind: str) -> int:
    """The code of one of `FAULTS` in a record: 1 + its place."""
    return 1 + list(FAULTS).index(kind)


def _chunk(
    fill: Callable[[Any, int], None], dtype: np.dtype[Any], one: tuple[int, ...], rows: range
) -> tuple[np.ndarray, list[Fault]]:
    """The records of a range of images; records of unusable images are filled as far as possible."""
    made = np.zeros((len(rows), *one), dtype=dtype)
    faults = []
    for record, row in zip(made, rows, strict=True):
        try:
            fill(record, row)
        except Faulty as error:
            faults.append((row, error.kind, str(error)))
    return made, faults


def fill_records(
    fill: Callable[[Any, int], None],
    count: int,
    words: str,
    dtype: np.dtype[Any],
    one: tuple[int, ...] = (),
    workers: int | None = None,
) -> tuple[np.ndarray, list[Fault]]:
    """Fill a record for each of many images, in worker processes; return the records and the unusable images.

    Args:
        fill: writes the record of the image with a number; raises Faulty for an unusable one.
        words: text of the progress bar.
        dtype, one: type and shape of a record.
        workers: number of processes; default: none for few images.
    """
    chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    made, faults = np.zeros((count, *one), dtype), list[Fault]()
    if workers is None:
        workers = default_workers() if count >= MANY else 0
    with counted(f"{words} {count:,} images", count) as tick:
        parts = in_order(partial(_chunk, fill, dtype, one), chunks, workers)
        for rows, (part, wrong) in zip(chunks, parts, strict=True):
            made[rows.start : rows.stop] = part
            faults += wrong
            tick(len(rows))
    return made, faults


def scan(
    store: Store,
    fill: Callable[[Any, int], None],
    words: str,
    dtype: np.dtype[Any],
    workers: int | None = None,
) -> tuple[Store, np.ndarray, dict[int, str], list[str]]:
    """Fill a record for each image of a store, and leave out pictures that flowleap drew.

    Args:
        fill, words, dtype, workers: as of `fill_records`; a record has `fault` and `drawn`, as of `HEADER`.

    Returns: the remaining store, its records, messages on unusable images by their numbers, messages on the rest.
    """
    records, faults = fill_records(fill, len(store), words, dtype, workers=workers)
    for row, kind, _ in faults:
        records["fault"][row] = fault_number(kind)
    messages, notes = {row: message for row, _, message in faults}, [*store.notes]
    if len(drawn := records["drawn"].nonzero()[0]):
        notes.append(drawn_by_flowleap([store.name(row) for row in drawn.tolist()]))
        rest = (~records["drawn"]).nonzero()[0]
        messages = {place: messages[row] for place, row in enumerate(rest.tolist()) if row in messages}
        store, records = store.only(rest), records[rest]
    return store, records, messages, notes


def _read_header(store: Store, record: Any, row: int) -> None:
    header = read_header(store.encoded(row), store.name(row))
    for name in ("width", "height", "colored", "frames", "drawn"):
        record[name] = getattr(header, name)


@dataclass(frozen=True, eq=False)
class Images:
    """Decodes images of a store when they are asked for.

    A damaged image is replaced by the next one of its class, with a warning: a pure function of the files, so that a
    resumed run sees the same images. With `strict` it is an error.

    Args:
        rows: the numbers in the store of the images that are used. label: their labels, None without classes.

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
            made[place] = self._image_or_next(row)
        return torch.from_numpy(made)

    def fill(self, record: np.ndarray, row: int) -> None:
        """Decode one image into an array. Raises: Faulty."""
        record[:] = self.image(row)

    def image(self, row: int) -> np.ndarray:
        """Decode one image.

        Shapes: -> uint8, broadcast to (channels, height, width). Raises: Faulty.
        """
        index = int(self.rows[row])
        name = self.store.name(index)
        found = channels_first(decode(self.store.encoded(index), name, self.view))
        if found.shape[1:] != self.one[1:] or len(found) > self.one[0]:
            raise Faulty("unreadable", f"{name} has changed since its header was read")
        return found

    def _image_or_next(self, row: int) -> np.ndarray:
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
        """The images as rows that are read from the disk."""
        digest = hashlib.sha256(np.ascontiguousarray(self.rows).data).hexdigest()[:16]
        view = None if self.view is None else self.view.stamp
        stamp = f"{self.store.stamp}/{view}/{self.one}/{digest}"
        return Rows(self, len(self.rows), self.one, stamp)

    def only(self, places: np.ndarray) -> Images:
        """Some of these images, by their places."""
        return replace(self, rows=self.rows[places], label=some_of(self.label, places))


def prepare(store: Store, preprocessing: Preprocessing, address: str) -> Dataset:
    """Make a data set of encoded images: leave out unusable ones, crop and resize the others to one size.

    Images of one size up to 256 pixels stay as they are unless `preprocessing` names a size or a policy. Others become
    squares: of the size that nearly all have, else of the `default_size`.

    Args:
        address: by which `data.load` finds the data set.

    Raises: ValueError if no image is left, or if one is left out and `preprocessing` is strict.
    """
    store, headers, messages, notes = scan(store, partial(_read_header, store), "looking at", HEADER)
    if not len(store):
        raise ValueError(f"{address} holds no images but pictures that flowleap drew")
    if headers["fault"].all():
        raise ValueError(_left_out(headers["fault"], messages, False, address))
    view = _view(headers[headers["fault"] == 0], preprocessing)
    if view is not None:
        messages |= mark_small(headers, view.size, store)
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
    x, images, said = _loaded(images, preprocessing.memory, address)
    label, classes, empty = images.label, store.classes, tuple[str, ...]()
    if label is not None:
        label, classes, empty = without_empty(label, classes)
    notes += [*said, *empty]
    return annotated(
        store.dataset(x, address, label=label, classes=classes, preprocessing=resolved, notes=tuple(notes))
    )


def mark_small(records: np.ndarray, size: int, store: Store) -> dict[int, str]:
    """Mark images with fewer pixels than `size` in one direction as faulty, and return a message on each."""
    short = np.minimum(records["width"], records["height"])
    small = ((records["fault"] == 0) & (short < size)).nonzero()[0].tolist()
    records["fault"][small] = fault_number("small")
    sides = {row: f"{records['width'][row]} × {records['height'][row]}" for row in small}
    wanted = f"{size} × {size}"
    return {row: f"{store.name(row)} has {found} pixels, fewer than {wanted}" for row, found in sides.items()}


def _loaded(images: Images, memory: float, address: str) -> tuple[Samples, Images, list[str]]:
    """Read images into memory if they fit; return them, the images that are left, and messages.

    Raises: ValueError if none is left, or if one is damaged and `images` are strict.
    """
    count = len(images.rows)
    size, bound = count * math.prod(images.one), memory * GIB
    if size > bound:
        words = f"{_gigabytes(size)} as 8 bits exceed the memory bound: images are read from the disk in each step"
        return images.on_disk(), images, [words] if bound else []
    levels, faults = fill_records(images.fill, count, "reading", np.dtype(np.uint8), images.one)
    notes = []
    if faults:
        broken = np.zeros(count, dtype=np.uint8)
        broken[[row for row, *_ in faults]] = fault_number("unreadable")
        words = _left_out(broken, {row: message for row, _, message in faults}, images.strict, address)
        if broken.all():
            raise ValueError(words)
        fine = (broken == 0).nonzero()[0]
        levels, images, notes = levels[fine], images.only(fine), [words]
    x = as_floats(torch.from_numpy(levels), memory)
    if isinstance(x, Rows):
        notes.append(f"held in memory as 8 bits ({_gigabytes(levels.size)})")
    return x, images, notes


def annotated(dataset: Dataset) -> Dataset:
    """Check a data set, give it its published name, and add messages on its classes and its size.

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
    """A message on images with several frames or pages, of which only the first is used; empty without any."""
    if not len(rows):
        return []
    some = "1 image has" if len(rows) == 1 else f"{len(rows):,} images have"
    return [f"{some} several frames or pages ({store.name(int(rows[0]))}): only the first is taken"]


def _view(headers: np.ndarray, preprocessing: Preprocessing) -> ResizeCrop | None:
    """How images are cropped and resized; None if they stay as they are."""
    sizes = Counter(zip(headers["width"].tolist(), headers["height"].tolist(), strict=True))
    (width, height), most = sizes.most_common(1)[0]
    same = most == len(headers)
    square = preprocessing.square or "crop"
    if preprocessing.size is not None:
        return (
            None
            if same and (width, height) == (preprocessing.size, preprocessing.size)
            else ResizeCrop(square, preprocessing.size)
        )
    if same and preprocessing.square is None and max(width, height) <= AS_THEY_ARE:
        return None
    if width == height <= AS_THEY_ARE and most >= MOSTLY * len(headers):
        return ResizeCrop(square, width)
    return ResizeCrop(square, default_size(np.minimum(headers["width"], headers["height"])))


def _viewed(headers: np.ndarray, view: ResizeCrop) -> str:
    area = headers["width"].astype(np.int64) * headers["height"]
    smallest, largest = (
        f"{one['width']} × {one['height']}" for one in (headers[area.argmin()], headers[area.argmax()])
    )
    sizes = smallest if smallest == largest else f"{smallest} to {largest}"
    return f"images of {sizes} pixels are {view.words}"


def _left_out(fault: np.ndarray, messages: dict[int, str], strict: bool, address: str) -> str:
    """A message on the images that are left out: how many for each reason, and the first of them.

    Shapes: fault (n,), as of `HEADER`. Raises: ValueError with `strict`.
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
