"""From images to a cache of latents: read, encoded and written at once, by as many processes as there are."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flowleap.autoencoders.model import Autoencoder
from flowleap.data.latent_cache import Cache, Contents, Shard
from flowleap.data.source import Source

__all__ = ["Progress", "Stopped", "encode", "planned"]

AHEAD = 4
"""Batches of images that are read while the autoencoder computes."""
Tick = Callable[[int], None]


class Stopped(Exception):
    """Encoding was interrupted; whole shards are kept."""


@dataclass(frozen=True)
class Progress:
    """What is told while encoding.

    Args:
        found: given how many images were encoded before, and how many there are, of those this process is to do.
        tick: given how many images have been encoded since it was last told.
        interrupted: asked after each batch whether to stop.
    """

    found: Callable[[int, int], None] = lambda done, total: None
    tick: Tick = lambda images: None
    interrupted: Callable[[], bool] = lambda: False


def planned(
    sources: Mapping[str, Source],
    autoencoder: Autoencoder,
    *,
    source: str,
    scaling: float | None = None,
    shift: float | None = None,
    flip: bool = True,
    square: str = "",
    dtype: str = "float32",
    shard: int = 512,
    license: str = "",
    images: Mapping[str, str] | None = None,
) -> Contents:
    """Return what the cache of some images is to hold.

    Args:
        sources: the images of each part of the data.
        source: what they were read from, as it was given. square: how they became squares, see `Contents`.
        scaling, shift: None for those of the autoencoder's config.
        flip: whether mirrored images are encoded too. dtype: in which the numbers are kept. shard: images of a shard.
        images: what tells the images of each part from others, see `Dataset.checksum`.

    Raises: ValueError for images that do not fit the autoencoder, or parts that do not fit one another.
    """
    first = next(iter(sources.values()))
    for part, other in sources.items():
        if other.kind != "image":
            raise ValueError(f"{other.name} holds {other.kind}, and images are what an autoencoder encodes")
        if other.shape != first.shape or other.classes != first.classes:
            raise ValueError(
                f"the part {part!r} of {first.name} has images of {other.shape} and {len(other.classes)} classes, the "
                f"first {first.shape} and {len(first.classes)}: name one part with --split"
            )
    digests = {part: _digest(found.label) for part, found in sources.items() if found.label is not None}
    if 0 < len(digests) < len(sources):
        raise ValueError(f"some parts of {first.name} have labels and some none: name one part with --split")
    shape = autoencoder.latent_shape(tuple(first.shape))
    return Contents(
        codec=autoencoder.codec(scaling, shift, first.shape[0]),
        name=first.name,
        source=source,
        parts={part: len(found) for part, found in sources.items()},
        image=tuple(first.shape),
        shape=shape,
        classes=_classes(sources) if digests else None,
        labels=digests,
        posterior=autoencoder.posterior,
        flipped=flip,
        square=square,
        dtype=dtype,
        precision=autoencoder.precision,
        shard=shard,
        license=license,
        images=images or {},
    )


def _classes(sources: Mapping[str, Source]) -> tuple[str, ...]:
    """The names of the classes; their numbers where they have none."""
    named = next(iter(sources.values())).classes
    labels = [found.label for found in sources.values() if found.label is not None]
    return named or tuple(str(number) for number in range(1 + max(int(label.max()) for label in labels)))


def _digest(label: Tensor) -> str:
    return hashlib.sha256(label.contiguous().numpy().data).hexdigest()[:12]


def encode(
    cache: Cache,
    sources: Mapping[str, Source],
    autoencoder: Autoencoder,
    *,
    batch: int = 32,
    process: int = 0,
    processes: int = 1,
    progress: Progress = Progress(),
) -> bool:
    """Encode what is missing of a cache, as far as it is this process's, and complete it if nothing is; say if it is.

    Every `processes`-th shard is a process's; they need not know of one another, only see one folder. Batches begin
    with each shard, so that a shard depends on its rows and on `batch` alone.

    Raises: CacheError for a shard that is there but spoiled; ValueError for images that cannot be read; Stopped where
        it was interrupted.
    """
    if batch < 1:
        raise ValueError(f"batches of {batch} images: at least 1 is needed")
    own = cache.contents.shards()[process::processes]
    there = [shard for shard in own if cache.path(shard).is_file()]
    progress.found(sum(len(shard.rows) for shard in there), sum(len(shard.rows) for shard in own))
    for shard in there:
        cache.verify(shard)
    with ThreadPoolExecutor(1) as writer:
        writing: list[Future[None]] = []
        for part, source in sources.items():
            wanted = [shard for shard in own if shard.part == part and shard not in there]
            for shard, arrays in _encoded(source, wanted, autoencoder, cache.contents, batch, progress):
                label = None if source.label is None else source.label[shard.rows.start : shard.rows.stop]
                while len(writing) > 1:  # what waits to be written is at most a shard
                    writing.pop(0).result()
                writing.append(writer.submit(cache.write, shard, arrays, label))
        for written in writing:
            written.result()
    return cache.finish(f".{process}")


def _encoded(
    source: Source,
    shards: Sequence[Shard],
    autoencoder: Autoencoder,
    contents: Contents,
    batch: int,
    progress: Progress,
) -> Iterator[tuple[Shard, dict[str, Tensor]]]:
    """Yield shards with their arrays, filled in memory batch by batch."""
    with _Ahead(_batches(source, shards, batch), AHEAD) as batches:
        for shard in shards:
            arrays = {name: torch.empty(len(shard.rows), *contents.stored) for name in contents.arrays}
            done = 0
            while done < len(shard.rows):
                images = next(batches)
                for name, mirrored in zip(contents.arrays, (False, True), strict=False):
                    made = autoencoder.stored(images.flip(-1) if mirrored else images)
                    arrays[name][done : done + len(images)] = made
                done += len(images)
                progress.tick(len(images))
                if progress.interrupted():
                    raise Stopped
            yield shard, arrays


def _batches(source: Source, shards: Sequence[Shard], batch: int) -> Iterator[Tensor]:
    """Yield the images of shards, at most `batch` at a time and never of two shards, in one pass over the source."""
    if not shards:
        return
    rows = torch.cat([torch.arange(shard.rows.start, shard.rows.stop) for shard in shards])
    chosen = replace(
        source,
        name=source.name if len(rows) == len(source) else f"{source.name}, counted among those to be encoded",
        count=len(rows),
        read=lambda index, n: source.read(rows[index], n),
        label=None,
    )
    held: Tensor | None = None
    read = chosen.batches(batch)
    for shard in shards:
        left = len(shard.rows)
        while left:
            wanted = min(batch, left)
            while held is None or len(held) < wanted:
                more = next(read)
                held = more if held is None else torch.cat([held, more])
            yield held[:wanted].clamp(-1, 1)
            held, left = held[wanted:], left - wanted


class _Ahead:
    """A context in which an iterator is run by a thread of its own, a few items ahead; its errors are raised here."""

    def __init__(self, items: Iterator[Tensor], ahead: int) -> None:
        self.items, self.found = items, queue.Queue[Any](ahead)
        self.left = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            for item in self.items:
                if not self._put(item):
                    return
            self._put(StopIteration())
        except BaseException as error:
            self._put(error)

    def _put(self, item: Any) -> bool:
        """Hand an item over; False where nobody waits any more."""
        while not self.left.is_set():
            try:
                self.found.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __enter__(self) -> Iterator[Tensor]:
        self.thread.start()
        return iter(self)

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            item = self.found.get()
            if isinstance(item, StopIteration):
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def __exit__(self, *_: object) -> None:
        self.left.set()
        self.thread.join()
