"""Inspect a set of images before training: damage, duplicates, sizes, kinds of pixels, classes.

Every image is decoded once, in several processes, and leaves a record of some 200 bytes.

Near duplicates are found by a difference hash: the grey image, resized to 17 × 16, is brighter at each of 256 places
than at the next one or not. Two images are near duplicates if at most `NEAR` of the 256 bits differ and their 8 × 8
thumbnails, up to a constant, differ by less than `CLOSE` levels on average. Only images that agree in one of the 16
parts of 16 bits are compared, which finds all that differ in up to 15 bits, and nine in ten of those that differ in 30.
Images with hardly any contrast are not compared. Measured on photos of 32 × 32: saved again as JPEG of quality 60 they
differ in 9 to 41 bits (median 16) and 1.1 levels, resized to 40 × 40 in up to 20, and other photos in 39 and more.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
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
from flowleap.data.prepare import FEW_IMAGES, fault_number, first_frames, mark_small, scan
from flowleap.data.preprocessing import default_size
from flowleap.data.store import Store
from flowleap.data.workers import default_workers

NEAR = 30
CLOSE = 4.0
PARTS, SIDE, THUMB = 16, 16, 8
FLAT = 2.0  # standard deviation in levels below which a hash is meaningless
CROWD = 2000  # if more images share a part of the hash, only neighbors in its order are compared
MODES = (*GREY, *COLOR, *SEE_THROUGH)
UNEVEN = 10.0
ONES = np.array([number.bit_count() for number in range(1 << 16)], dtype=np.uint16)
TOGETHER = 20_000  # pairs that are compared at a time
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
"""The record of an image: `mode` is 1 + its place in `MODES`, `fault` is 0 or a `fault_number`."""


@dataclass(frozen=True, eq=False)
class Findings:
    """The result of `examine`.

    Shapes: seen (n,), the `RECORD` of each image; exact, near: groups of sorted image numbers.
    """

    store: Store
    seen: np.ndarray
    messages: dict[int, str]
    exact: tuple[tuple[int, ...], ...]
    near: tuple[tuple[int, ...], ...]
    classes: dict[str, int]
    size: int
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.seen)

    def of_fault(self, kind: str) -> list[int]:
        """The numbers of the images with one of `FAULTS`."""
        return (self.seen["fault"] == fault_number(kind)).nonzero()[0].tolist()

    @property
    def fine(self) -> np.ndarray:
        """The numbers of the usable images."""
        return (self.seen["fault"] == 0).nonzero()[0]

    @property
    def names_of_modes(self) -> dict[str, int]:
        """The number of images of each Pillow mode, the most frequent first."""
        return dict(Counter(MODES[code - 1] for code in self.seen["mode"].tolist() if code).most_common())

    @property
    def sizes(self) -> dict[tuple[int, int], int]:
        """The number of images of each size, the most frequent first."""
        there = self.seen[self.seen["width"] > 0]
        return dict(
            Counter(zip(there["width"].tolist(), there["height"].tolist(), strict=True)).most_common()
        )

    def problems(self) -> list[str]:
        """Messages on what is wrong; empty if nothing is."""
        found = [
            f"{len(rows):,} image{'s' * (len(rows) > 1)} {fault_of(kind, len(rows))}"
            for kind in FAULTS
            if (rows := self.of_fault(kind))
        ]
        for words, groups in (("exact", self.exact), ("near", self.near)):
            if groups:
                more = sum(len(group) - 1 for group in groups)
                found.append(f"{more:,} {words} duplicate{'s' * (more != 1)} of other images")
        if len(self.fine) < FEW_IMAGES:
            found.append(f"only {len(self.fine):,} usable images: a generator may memorize them")
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
        """Return everything as JSON-able values."""
        name = self.store.name
        return {
            "images": len(self),
            "usable": len(self.fine),
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
    """The difference hash, the thumbnail and the contrast of a Pillow image.

    Shapes: -> uint16 (16,), uint8 (8, 8). Units: contrast is the standard deviation of the levels of the thumbnail.
    """
    from PIL import Image

    grey = image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.LANCZOS)
    levels = np.asarray(grey, dtype=np.int16)
    bits = np.packbits(levels[:, :-1] > levels[:, 1:]).view(np.uint16)
    thumb = np.asarray(grey.resize((THUMB, THUMB), Image.Resampling.BOX))
    return bits, thumb, float(levels.std())


def _record(store: Store, record: Any, row: int) -> None:
    """Decode an image and fill its record."""
    name = store.name(row)
    with opened(store.encoded(row), name) as image:
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


def examine(store: Store, size: int | None = None, workers: int | None = None) -> Findings:
    """Decode every image of a store once and return the findings; images smaller than `size` are faulty."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of Pillow
        workers = default_workers() + 1 if workers is None else workers
        store, seen, messages, notes = scan(store, partial(_record, store), "checking", RECORD, workers)
    fine, short = seen["fault"] == 0, np.minimum(seen["width"], seen["height"])
    if size is not None:
        messages |= mark_small(seen, size, store)
    size = size or (default_size(short[fine]) if fine.any() else 0)
    usable = (seen["fault"] == 0).nonzero()[0]
    notes += first_frames(store, usable[seen["frames"][usable]])
    exact = _same(seen, usable)
    first = np.setdiff1d(usable, [row for group in exact for row in group[1:]])
    counts: dict[str, int] = {}
    if store.label is not None:
        found = np.bincount(store.label.numpy()[usable], minlength=len(store.classes))
        counts = dict(zip(store.classes, found.tolist(), strict=True))
    return Findings(store, seen, messages, exact, _alike(seen, first), counts, size, tuple(notes))


def _same(whole: np.ndarray, rows: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """Groups of images with the same pixels."""
    digests = whole["digest"][rows].view("S16")
    _, place, counts = np.unique(digests, return_inverse=True, return_counts=True)
    groups = np.split(rows[np.argsort(place, kind="stable")], counts.cumsum()[:-1])
    return tuple(sorted(tuple(group.tolist()) for group in groups if len(group) > 1))


def _alike(whole: np.ndarray, rows: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """Groups of near duplicates."""
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
    shifted = off - off.mean(axis=(1, 2), keepdims=True)  # a constant is no difference
    off = np.abs(shifted).mean(axis=(1, 2))
    yield from zip(ones[off < CLOSE].tolist(), others[off < CLOSE].tolist(), strict=True)


def _candidates(hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of places whose hashes agree in a part of 16 bits."""
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
    """The connected components of a graph with these edges, sorted.

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
