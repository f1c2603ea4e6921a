"""Hugging Face data sets streamed over the network in one pass, without storing the images.

For data that do not fit onto the disk. Training needs random access to rows, which a stream does not have; latents,
computed once from each image, can be made from a stream.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowleap.data import huggingface
from flowleap.data.classes import described, renumbered, without_empty
from flowleap.data.dataset import Dataset
from flowleap.data.huggingface import PREFIX, Address, is_address
from flowleap.data.latent_cache import STREAMED
from flowleap.data.parts import held_out_split
from flowleap.data.pixels import Faulty, channels_first, decode
from flowleap.data.preprocessing import ResizeCrop
from flowleap.data.rows import sequential
from flowleap.data.workers import default_workers
from flowleap.progress import counted

WHOLE = "a stream cannot leave images out: run without --stream"
LOOKED_AT = 16
"""Number of first images that identify a stream, together with the number of images and all labels."""


@dataclass(frozen=True, eq=False)
class Stream:
    """The images of one split, read in order.

    Args:
        rows: the `IterableDataset`, images not decoded. column: that of the images. called: their name in messages.
    """

    rows: Any
    column: str
    called: str
    view: ResizeCrop

    def read(self, index: Tensor, n: int) -> Iterator[Tensor]:
        """Yield images as RGB, at most n at a time.

        Shapes: index sorted (k,) -> uint8 (≤ n, 3, side, side).
        Raises: ValueError if the stream breaks off, or for an unusable image: none can be left out, since their number
            is fixed before they are read.
        """
        places = self.places(index)
        with ThreadPoolExecutor(default_workers()) as pool:
            while part := list(islice(places, n)):
                yield torch.from_numpy(np.stack(list(pool.map(self._pixels, part))))

    def places(self, index: Tensor) -> Iterator[tuple[int, Any]]:
        """Yield the numbers and the stored values (bytes or path) of some images, by their sorted numbers.

        Raises: ValueError if the stream breaks off.
        """
        wanted = set(index.tolist())
        first, last = (int(index[0]), int(index[-1])) if len(index) else (0, -1)
        rows = iter(self.rows.skip(first))
        for place in range(first, last + 1):
            with self._unbroken(place):
                found = next(rows, None)
            if found is None:
                raise ValueError(f"{self.called} ends after {place:,} images: more were announced")
            if place in wanted:
                yield place, found[self.column]

    def file(self, place: int, found: Any) -> bytes:
        """Return the bytes of an image file, read from its path if the stream holds only that.

        Raises: ValueError for an empty value.
        """
        if found is None or (found["bytes"] is None and not found["path"]):
            raise ValueError(f"{self.name(place)} is empty; {WHOLE}")
        if found["bytes"] is not None:
            return bytes(found["bytes"])
        import fsspec

        with self._unbroken(place), fsspec.open(found["path"]) as file:
            return bytes(file.read())

    def name(self, place: int) -> str:
        """The name of an image in messages."""
        return f"image {place} of {self.called}"

    @contextmanager
    def _unbroken(self, place: int) -> Iterator[None]:
        """Raise errors of the network, or of the files behind a stream, with the number of the image."""
        try:
            yield
        except Exception as error:
            raise ValueError(
                f"the stream of {self.called} broke off at image {place:,} ({type(error).__name__}: {error}); what is "
                "done is kept: give the same command again"
            ) from error

    def _pixels(self, at: tuple[int, Any]) -> np.ndarray:
        try:
            levels = channels_first(decode(self.file(*at), self.name(at[0]), self.view))
        except Faulty as error:
            raise ValueError(f"{error}; {WHOLE}") from None
        return np.broadcast_to(levels, (3, *levels.shape[1:]))

    def identity(self, count: int, label: Tensor | None) -> str:
        """Return a checksum of the number of images, the labels, and the first files."""
        digest = hashlib.sha256(str(count).encode())
        if label is not None:
            digest.update(label.numpy().data)
        for at in self.places(torch.arange(min(count, LOOKED_AT))):
            digest.update(self.file(*at))
        return f"{STREAMED}{digest.hexdigest()[:12]}"


def open_streams(
    text: str, view: ResizeCrop, split: str | None = None
) -> tuple[dict[str, Dataset], dict[str, str], list[str]]:
    """Open one split, by default the training split and the held-out one; return them, their checksums and messages.

    Labels are read first, from Parquet files without the images. Small images are enlarged.

    Raises: ValueError for an address that cannot be streamed, without the library, for an unknown split, and for data
        without images.
    """
    if not is_address(text):
        raise ValueError(
            f"only {PREFIX}NAME can be streamed, and {text} is read from the disk as it is needed"
        )
    huggingface.library(text)
    address = Address.of(text)
    if huggingface.saved(Path(address.name)):
        raise ValueError(f"{text} is on the disk, and is read from there as it is needed: leave --stream out")
    found = huggingface.loaded(address, text, streaming=True)
    splits = tuple(str(name) for name in found)
    chosen = huggingface.chosen_split(text, split or address.split, splits)
    apart = held_out_split(chosen, splits) if split is None else None
    view = replace(view, enlarge=True)
    sources, identities, notes = {}, {}, []
    for part in filter(None, (chosen, apart)):
        sources[part], identities[part], said = _opened(found[part], address, text, part, view)
        notes += said
    first, other = sources[chosen], sources.get(apart or "")
    if other is not None and first.label is not None and other.label is not None:
        label = renumbered(
            other.label, other.classes, first.classes, f"split {apart!r} of {text}", repr(chosen)
        )
        fitted = replace(other, label=label, num_classes=first.num_classes, classes=first.classes)
        sources[other.split] = fitted
    return sources, identities, list(dict.fromkeys(notes))


def _opened(
    rows: Any, address: Address, text: str, split: str, view: ResizeCrop
) -> tuple[Dataset, str, list[str]]:
    import datasets

    rows = rows if rows.features else rows._resolve_features()
    column, notes = huggingface.image_column(rows.features, text)
    named, classes, said = huggingface.label_column(rows.features)
    stated = (rows.info.splits or {}).get(split)
    count = 0 if stated is None else int(stated.num_examples or 0)
    label = None
    if named is not None or not count:
        held = _column(address, rows, split, named or column, count)
        count = len(held)
        if named is not None:
            label, classes, hidden = huggingface.labels_of(held, named, classes, text)
            said = hidden or said
        if label is not None:
            label, classes, empty = without_empty(label, classes)
            said = [*said, *empty, described(label, classes)]
    notes = [*notes, *said]
    if not count:
        raise ValueError(f"{text}, split {split}, is empty")
    images = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    stream = Stream(images, column, f"{address.short} ({split})", view)
    x = sequential(stream.read, count, (3, view.size, view.size))
    opened = Dataset(address.short, x, label, split=split, path=text, classes=classes)
    return opened, stream.identity(count, label), notes


def _column(address: Address, rows: Any, split: str, name: str, count: int) -> list[Any]:
    """Read one column of a split, from Parquet files without the others; images are only counted."""
    import datasets

    try:
        alone = datasets.load_dataset(
            address.name, address.config, split=split, streaming=True, columns=[name]
        )
    except (TypeError, ValueError):  # files of another kind
        alone = rows.select_columns([name])
    if isinstance(rows.features[name], datasets.Image):
        alone = alone.cast_column(name, datasets.Image(decode=False))
    held = []
    with counted(f"reading the column {name} of {address.short} ({split})", count) as tick:
        for row in alone:
            value = row[name]
            held.append(0 if isinstance(value, dict) else value)
            tick(1)
    return held
