"""What is in a set of images, before it is trained on: damage, duplicates, sizes, pixels, classes.

Every image is decoded once, by several processes, and leaves some 200 bytes: memory does not depend on how large files
are.

Near duplicates are found by a difference hash: the image in grey, shrunk to 17 × 16, is brighter at each of 256 places
than at the next one or not. Two images are near duplicates where at most `NEAR` of the 256 bits differ and their 8 × 8
thumbnails, but for their brightness, by less than `CLOSE` levels on average. Only those are compared that agree in one
of the 16 parts of 16 bits, as all that differ in up to 15 bits do, and nine in ten of those that differ in 30. Images
with hardly any contrast are not compared. Measured on photos of 32 × 32: saved again as JPEG of quality 60 they differ
in 9 to 41 bits (16 for half of them) and 1.1 levels, resized to 40 × 40 in up to 20, and other photos in 39 and more.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from flowleap.data.pixels import (
    COLOR,
    FAULTS,
    GREY,
    SEE_THROUGH,
    Faulty,
    drawn,
    fault_of,
    frames,
    opened,
    transparent,
    upright,
)
from flowleap.data.prepare import FEW_IMAGES, Look, drawn_by_flowleap, first_frames
from flowleap.data.store import Store
from flowleap.data.view import suggested
from flowleap.data.workers import default_workers, in_order
from flowleap.progress import counted

__all__ = ["CLOSE", "NEAR", "Findings", "examine", "groups_of", "signature"]

NEAR = 30
CLOSE = 4.0
BITS, PARTS, SIDE, THUMB = 256, 16, 16, 8
FLAT = 2.0  # levels of standard deviation below which a hash means nothing
CROWD = 2000  # images that share a part of the hash beyond which only neighbors in its order are compared
CHUNK = 100
MODES = (*GREY, *COLOR, *SEE_THROUGH)
UNEVEN = 10.0
ONES = np.array([number.bit_count() for number in range(1 << 16)], dtype=np.uint16)
TOGETHER = 20_000  # pairs that are compared at a time


@dataclass(frozen=True, eq=False)
class Findings:
    """What was found.

    Shapes: (n,) each, by the number of the image; exact, near: groups of numbers, the first of which comes first.
    """

    store: Store
    width: np.ndarray
    height: np.ndarray
    mode: np.ndarray
    fault: np.ndarray
    messages: dict[int, str]
    exact: tuple[tuple[int, ...], ...]
    near: tuple[tuple[int, ...], ...]
    classes: dict[str, int]
    size: int
    few: int = FEW_IMAGES
    notes: tuple[str, ...] = ()
    modes: tuple[str, ...] = field(default=MODES)

    def __len__(self) -> int:
        return len(self.width)

    def of_fault(self, kind: str) -> list[int]:
        """The images with a fault, one of `FAULTS`."""
        return (self.fault == 1 + list(FAULTS).index(kind)).nonzero()[0].tolist()

    @property
    def usable(self) -> int:
        """How many images a run would take."""
        return int((self.fault == 0).sum())

    @property
    def names_of_modes(self) -> dict[str, int]:
        """How many images have each kind of pixels, the most frequent first."""
        counts = Counter(self.modes[code - 1] for code in self.mode.tolist() if code)
        return dict(counts.most_common())

    @property
    def sizes(self) -> dict[tuple[int, int], int]:
        """How many images have each size, the most frequent first."""
        there = self.width > 0
        return dict(
            Counter(zip(self.width[there].tolist(), self.height[there].tolist(), strict=True)).most_common()
        )

    def problems(self) -> list[str]:
        """What is wrong, in words; empty where nothing is."""
        found = [
            f"{len(rows):,} image{'s' * (len(rows) > 1)} {fault_of(kind, len(rows))}"
            for kind in FAULTS
            if (rows := self.of_fault(kind))
        ]
        for words, groups in (("exact", self.exact), ("near", self.near)):
            if groups:
                more = sum(len(group) - 1 for group in groups)
                found.append(f"{more:,} {words} duplicate{'s' * (more != 1)} of other images")
        if self.usable < self.few:
            found.append(f"only {self.usable:,} usable images: a generator may memorize them")
        counts = [count for count in self.classes.values() if count]
        if len(self.classes) == 1:
            found.append("one class only: the same as none")
        if counts and max(counts) > UNEVEN * min(counts):
            found.append(
                f"classes of {min(counts):,} to {max(counts):,} images: small classes will be learned badly"
            )
        empty = [name for name, count in self.classes.items() if not count]
        if empty:
            found.append(f"{len(empty)} classes without a usable image: {', '.join(empty[:5])}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values, files by their names."""
        name = self.store.name
        return {
            "images": len(self),
            "usable": self.usable,
            "faults": {kind: [self.messages[row] for row in self.of_fault(kind)] for kind in FAULTS},
            "exact_duplicates": [[name(row) for row in group] for group in self.exact],
            "near_duplicates": [[name(row) for row in group] for group in self.near],
            "sizes": [{"width": w, "height": h, "images": n} for (w, h), n in self.sizes.items()],
            "modes": self.names_of_modes,
            "classes": self.classes,
            "suggested_size": self.size,
            "notes": list(self.notes),
            "problems": self.problems(),
        }


def signature(image: Any) -> tuple[np.ndarray, np.ndarray, float]:
    """The difference hash of a Pillow image, its thumbnail, and its contrast.

    Shapes: -> uint16 (16,), uint8 (8, 8). Units: contrast is the standard deviation of the levels of the thumbnail.
    """
    from PIL import Image

    grey = image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.LANCZOS)
    levels = np.asarray(grey, dtype=np.int16)
    bits = np.packbits(levels[:, :-1] > levels[:, 1:]).view(np.uint16)
    thumb = np.asarray(grey.resize((THUMB, THUMB), Image.Resampling.BOX))
    return bits, thumb, float(levels.std())


RECORD = np.dtype(
    [
        ("width", np.int32),
        ("height", np.int32),
        ("mode", np.uint8),
        ("fault", np.uint8),
        ("flat", bool),
        ("frames", bool),
        ("drawn", bool),
        ("digest", "V16"),
        ("hash", np.uint16, (PARTS,)),
        ("thumb", np.uint8, (THUMB, THUMB)),
    ]
)


@dataclass(frozen=True, eq=False)
class _Seen:
    """Decodes a range of images and keeps what is known of each."""

    store: Store

    def __call__(self, rows: range) -> tuple[np.ndarray, dict[int, str]]:
        found = np.zeros(len(rows), dtype=RECORD)
        messages: dict[int, str] = {}
        for record, row in zip(found, rows, strict=True):
            try:
                self._look(record, row)
            except Faulty as error:
                record["fault"] = 1 + list(FAULTS).index(error.kind)
                messages[row] = str(error)
        return found, messages

    def _look(self, record: Any, row: int) -> None:
        name = self.store.name(row)
        with opened(self.store.encoded(row), name) as image:
            if image.mode not in MODES:
                raise Faulty("mode", f"{name} has pixels of mode {image.mode!r}")
            record["mode"] = 1 + MODES.index(image.mode)
            record["frames"], record["drawn"] = frames(image), drawn(image)
            image.load()
            turned = upright(image)
            record["width"], record["height"] = turned.size
            if clear := transparent(image):
                raise Faulty("transparent", f"{name} is transparent in {clear:.0%} of its pixels")
            colors = turned.convert("RGB")
            digest = hashlib.sha256(repr(colors.size).encode())
            digest.update(colors.tobytes())
            record["digest"] = digest.digest()[:16]
            record["hash"], record["thumb"], contrast = signature(colors)
            record["flat"] = contrast < FLAT


def examine(
    store: Store,
    label: Any = None,
    classes: tuple[str, ...] = (),
    look: Look | None = None,
    workers: int | None = None,
) -> Findings:
    """Decode every image of a store once, and say what was found.

    Args:
        label: int64 (n,), the place of the class of each image in `classes`; None without classes.
        look: where it names a size, images smaller than that are a fault.
    """
    whole, messages = _records(store, default_workers() + 1 if workers is None else workers)
    notes = [*store.notes, *drawn_by_flowleap(store, whole["drawn"].nonzero()[0])]
    rest = (~whole["drawn"]).nonzero()[0]
    store, whole = store.only(rest), whole[rest]
    label = None if label is None else np.asarray(label)[rest]
    messages = {place: messages[row] for place, row in enumerate(rest.tolist()) if row in messages}
    fine = whole["fault"] == 0
    short = np.minimum(whole["width"], whole["height"])
    size = look.size if look is not None and look.size is not None else None
    size = size or (suggested(short[fine]) if fine.any() else 0)
    if look is not None and look.size is not None:
        for row in (fine & (short < look.size)).nonzero()[0].tolist():
            whole["fault"][row] = 1 + list(FAULTS).index("small")
            messages[row] = f"{store.name(row)} has {whole['width'][row]} × {whole['height'][row]} pixels"
    fine = (whole["fault"] == 0).nonzero()[0]
    notes += first_frames(store, fine[whole["frames"][fine]])
    exact = _same(whole, fine)
    first = np.setdiff1d(fine, [row for group in exact for row in group[1:]])
    counts = {} if label is None else _counted(label, classes, fine)
    return Findings(
        store,
        whole["width"].copy(),
        whole["height"].copy(),
        whole["mode"].copy(),
        whole["fault"].copy(),
        messages,
        exact,
        _alike(whole, first),
        counts,
        size,
        notes=tuple(notes),
    )


def _records(store: Store, workers: int) -> tuple[np.ndarray, dict[int, str]]:
    chunks = [range(start, min(start + CHUNK, len(store))) for start in range(0, len(store), CHUNK)]
    whole = np.zeros(len(store), dtype=RECORD)
    messages: dict[int, str] = {}
    with counted(f"checking {len(store):,} images", len(store)) as tick, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of Pillow: what matters is found
        for rows, (found, said) in zip(chunks, in_order(_Seen(store), chunks, workers), strict=True):
            whole[rows.start : rows.stop] = found
            messages |= said
            tick(len(rows))
    return whole, messages


def _counted(label: np.ndarray, classes: tuple[str, ...], fine: np.ndarray) -> dict[str, int]:
    counts = np.bincount(label[fine], minlength=max(len(classes), int(label.max()) + 1 if len(label) else 0))
    names = classes or tuple(str(index) for index in range(len(counts)))
    return dict(zip(names, counts.tolist(), strict=True))


def _same(whole: np.ndarray, rows: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """Groups of images with the same pixels."""
    if not len(rows):
        return ()
    order = rows[np.argsort(whole["digest"][rows].view("S16"), kind="stable")]
    groups: dict[bytes, list[int]] = {}
    digests = whole["digest"]
    for before, after in pairwise(order.tolist()):
        if digests[before] == digests[after]:
            groups.setdefault(digests[after].tobytes(), [before]).append(after)
    return tuple(sorted(tuple(sorted(group)) for group in groups.values()))


def _alike(whole: np.ndarray, rows: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """Groups of images that are near duplicates of one another."""
    rows = rows[~whole["flat"][rows]]
    hashes, thumbs = whole["hash"][rows], whole["thumb"][rows].astype(np.int16)
    pairs = [
        (int(rows[one]), int(rows[other]))
        for ones, others in _together(_candidates(hashes))
        for one, other in _near(hashes, thumbs, ones, others)
    ]
    return groups_of(pairs)


def _near(
    hashes: np.ndarray, thumbs: np.ndarray, ones: np.ndarray, others: np.ndarray
) -> Iterator[tuple[int, int]]:
    apart = ONES[hashes[ones] ^ hashes[others]].sum(axis=1)
    kept = apart <= NEAR
    ones, others = ones[kept], others[kept]
    off = thumbs[ones] - thumbs[others]
    off = np.abs(off - off.mean(axis=(1, 2), keepdims=True)).mean(
        axis=(1, 2)
    )  # brighter all over is no difference
    yield from zip(ones[off < CLOSE].tolist(), others[off < CLOSE].tolist(), strict=True)


def _candidates(hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of places whose hashes agree in a part of 16 bits, some thousand at a time."""
    for part in range(PARTS):
        order = np.lexsort((*hashes.T, hashes[:, part]))
        values = hashes[order, part]
        edges = np.flatnonzero(np.diff(values)) + 1
        for members in np.split(order, edges):
            if len(members) > CROWD:
                yield members[:-1], members[1:]
            elif len(members) > 1:
                for start in range(len(members) - 1):
                    rest = members[start + 1 :]
                    yield np.full(len(rest), members[start]), rest


def _together(pairs: Iterator[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same pairs, more of them at a time."""
    held: list[tuple[np.ndarray, np.ndarray]] = []
    waiting = 0
    for pair in pairs:
        held.append(pair)
        waiting += len(pair[0])
        if waiting > TOGETHER:
            yield _joined(held)
            held, waiting = [], 0
    if held:
        yield _joined(held)


def _joined(held: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([ones for ones, _ in held]), np.concatenate([others for _, others in held])


def groups_of(pairs: list[tuple[int, int]]) -> tuple[tuple[int, ...], ...]:
    """Numbers that hang together by pairs, in order.

    >>> groups_of([(3, 1), (5, 6), (1, 2)])
    ((1, 2, 3), (5, 6))
    """
    parent: dict[int, int] = {}

    def root(member: int) -> int:
        while parent.setdefault(member, member) != member:
            parent[member] = parent[parent[member]]
            member = parent[member]
        return member

    for one, other in pairs:
        parent[root(one)] = root(other)
    groups: dict[int, list[int]] = {}
    for member in sorted(parent):
        groups.setdefault(root(member), []).append(member)
    return tuple(sorted(tuple(group) for group in groups.values()))
