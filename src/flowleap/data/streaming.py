"""Images of Hugging Face data sets that come over the network and are kept nowhere: one pass, in order.

For what does not fit onto the disk. Training asks for its rows in another order in each epoch, by number, which no
stream can answer; what is derived from each image once, such as latents, can be made of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowleap.data import huggingface
from flowleap.data.dataset import kept_apart
from flowleap.data.huggingface import PREFIX, Address, is_address
from flowleap.data.latent_cache import STREAMED
from flowleap.data.pixels import Encoded, Faulty, decode
from flowleap.data.rows import scaled
from flowleap.data.source import Source
from flowleap.data.view import View
from flowleap.data.workers import default_workers
from flowleap.progress import counted

__all__ = ["Stream", "open_streams"]

LOOKED_AT = 16
"""So many of the first images tell a stream from others, besides their number and all labels."""


@dataclass(frozen=True, eq=False)
class Stream:
    """The images of one split, asked for in order.

    Args:
        rows: the `IterableDataset`, images not decoded. column: that of the images. called: what they are called.
        view: how they become squares.
    """

    rows: Any
    column: str
    called: str
    view: View

    def read(self, index: Tensor, n: int) -> Iterator[Tensor]:
        """Yield images, at most n at a time, in the colors RGB.

        Shapes: index sorted (k,) -> float32 (≤ n, 3, side, side), in [-1, 1].
        Raises: ValueError where the stream breaks off, or for an image that cannot be used: none is left out, since how
            many there are is settled before they are seen.
        """
        files = self.files(index)
        with ThreadPoolExecutor(default_workers()) as pool:
            while part := list(islice(files, n)):
                yield scaled(torch.from_numpy(np.stack(list(pool.map(self._pixels, part)))))

    def files(self, index: Tensor) -> Iterator[tuple[str, Encoded]]:
        """Yield the names and the files of some images, by their sorted numbers.

        Raises: ValueError where the stream breaks off.
        """
        wanted = set(index.tolist())
        first, last = (int(index[0]), int(index[-1])) if len(index) else (0, -1)
        rows = iter(self.rows.skip(first))
        for place in range(first, last + 1):
            try:
                found = next(rows)[self.column]
            except StopIteration:
                raise ValueError(f"{self.called} ends after {place:,} images: more were announced") from None
            except Exception as error:  # of the network, of the files behind it
                raise ValueError(
                    f"the stream of {self.called} broke off at image {place:,} ({type(error).__name__}: {error}); what "
                    "is done is kept: give the same command again"
                ) from error
            if place in wanted:
                name = f"image {place} of {self.called}"
                yield name, _file(found, name)

    def _pixels(self, named: tuple[str, Encoded]) -> np.ndarray:
        name, file = named
        try:
            levels = decode(file, name, self.view)
        except Faulty as error:
            raise ValueError(f"{error}; a stream leaves nothing out, so without --stream") from None
        colored = levels if levels.ndim == 3 else np.repeat(levels[..., None], 3, axis=2)
        return np.ascontiguousarray(colored.transpose(2, 0, 1))

    def identity(self, count: int, label: Tensor | None) -> str:
        """Return what tells these images from others: of their number, the labels, and the first files."""
        digest = hashlib.sha256(str(count).encode())
        if label is not None:
            digest.update(label.numpy().data)
        for _, file in self.files(torch.arange(min(count, LOOKED_AT))):
            assert isinstance(file, bytes)
            digest.update(file)
        return f"{STREAMED}{digest.hexdigest()[:12]}"


def _file(found: dict[str, Any] | None, name: str) -> bytes:
    """Return a file: its bytes, or what is where the stream says."""
    if found is None or (found["bytes"] is None and not found["path"]):
        raise ValueError(f"{name} is empty; a stream leaves nothing out, so without --stream")
    if found["bytes"] is not None:
        return bytes(found["bytes"])
    import fsspec

    with fsspec.open(found["path"]) as file:
        return bytes(file.read())


def open_streams(text: str, view: View, split: str | None = None) -> tuple[dict[str, Source], dict[str, str]]:
    """Open the split that is named, or that for training and a held-out one; return them and what identifies each.

    Labels are read first, of Parquet files alone. Images with fewer pixels than are wanted are enlarged.

    Raises: ValueError for what is no address of the hub or of Parquet files, or without the library; for a split that
        is not there, and for data without images.
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
    apart = kept_apart(chosen, splits) if split is None else None
    view = replace(view, enlarge=True)
    sources, identities = {}, {}
    for part in filter(None, (chosen, apart)):
        sources[part], identities[part] = _opened(found[part], address, text, part, view)
    return sources, identities


def _opened(rows: Any, address: Address, text: str, split: str, view: View) -> tuple[Source, str]:
    import datasets

    rows = rows if rows.features else rows._resolve_features()
    column, _ = huggingface.image_column(rows.features, text)
    named, classes, _ = huggingface.label_column(rows.features)
    stated = (rows.info.splits or {}).get(split)
    count = 0 if stated is None else int(stated.num_examples or 0)
    label = None
    if named is not None or not count:
        held = _column(address, rows, split, named or column, count)
        count = len(held)
        label = None if named is None else huggingface.shown_labels(np.asarray(held), named, text)[0]
    if not count:
        raise ValueError(f"{text}, split {split}, is empty")
    images = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    stream = Stream(images, column, f"{address.short} ({split})", view)
    source = Source(
        address.short,
        (3, view.size, view.size),
        count,
        stream.read,
        label,
        classes if label is not None else (),
        split,
        path=text,
        eight_bit=True,
    )
    return source, stream.identity(count, label)


def _column(address: Address, rows: Any, split: str, name: str, count: int) -> list[Any]:
    """Read one column of a split: of Parquet files alone, else with everything beside it. Images are but counted."""
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
            held.append(0 if isinstance(row[name], dict) else row[name])
            tick(1)
    return held
