"""Encode images into a cache of latents: reading, encoding and writing overlap; processes share the work."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import torch
from torch import Tensor

from flowleap.autoencoders.model import Autoencoder
from flowleap.data import Dataset
from flowleap.data.latent_cache import Cache, Contents
from flowleap.data.rows import some
from flowleap.data.shards import Shard
from flowleap.progress import counted

AHEAD = 4
"""Batches of images that are read while the autoencoder computes."""


class Stopped(Exception):
    """Encoding was interrupted; finished shards are kept."""


def planned(
    sources: Mapping[str, Dataset],
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
    """Return the contents of the cache of some images, to be encoded.

    Args:
        sources: the images of each split.
        source, square, dtype, shard, license: as of `Contents`.
        scaling, shift: default: those of the autoencoder's config.
        flip: whether mirrored images are encoded, too.
        images: the `Dataset.checksum` of each split.

    Raises: ValueError for images that do not fit the autoencoder, or splits that do not fit one another.
    """
    first = next(iter(sources.values()))
    for part, other in sources.items():
        if other.kind != "image":
            raise ValueError(f"{other.name} holds {other.kind}, and images are what an autoencoder encodes")
        if other.shape != first.shape or other.class_names != first.class_names:
            raise ValueError(
                f"the part {part!r} of {first.name} has images of {other.shape} and {len(other.class_names)} "
                f"classes, the first {first.shape} and {len(first.class_names)}: name one part with --split"
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
        classes=first.class_names if digests else None,
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


def _digest(label: Tensor) -> str:
    return hashlib.sha256(label.contiguous().numpy().data).hexdigest()[:12]


def encode(
    cache: Cache,
    sources: Mapping[str, Dataset],
    autoencoder: Autoencoder,
    *,
    batch: int = 32,
    process: int = 0,
    processes: int = 1,
    interrupted: Callable[[], bool] = lambda: False,
) -> bool:
    """Encode this process's missing shards, finish the cache if no shard is missing then, and return whether it is.

    Process i encodes the shards i, i + processes, …; processes share the folder and do not communicate. No batch spans
    two shards, so that a shard depends on its rows and on `batch` alone. Progress goes to `flowleap.progress`.

    Args:
        interrupted: called after each batch; True stops the encoding.

    Raises: ShardError for a damaged shard; ValueError for images that cannot be read; Stopped if interrupted.
    """
    if batch < 1:
        raise ValueError(f"batches of {batch} images: at least 1 is needed")
    missing = cache.missing(process, processes)
    for shard in cache.contents.shards()[process::processes]:
        if shard not in missing:
            cache.verify(shard)
    count = sum(len(shard.rows) for shard in missing)
    with ThreadPoolExecutor(1) as writer, counted(f"encoding {count:,} images", count) as tick:

        def done(images: int) -> None:
            tick(images)
            if interrupted():
                raise Stopped

        writing: list[Future[None]] = []
        for part, source in sources.items():
            wanted = [shard for shard in missing if shard.part == part]
            for shard, arrays in _encoded(source, wanted, autoencoder, cache.contents, batch, done):
                label = None if source.label is None else source.label[shard.rows.start : shard.rows.stop]
                while len(writing) > 1:  # what waits to be written is at most a shard
                    writing.pop(0).result()
                writing.append(writer.submit(cache.write, shard, arrays, label))
        for written in writing:
            written.result()
    return cache.finish(f".{process}")


def _encoded(
    source: Dataset,
    shards: Sequence[Shard],
    autoencoder: Autoencoder,
    contents: Contents,
    batch: int,
    tick: Callable[[int], None],
) -> Iterator[tuple[Shard, dict[str, Tensor]]]:
    """Yield shards with their encoded arrays."""
    with closing(_ahead(_batches(source, shards, batch), AHEAD)) as batches:
        for shard in shards:
            arrays = {name: torch.empty(len(shard.rows), *contents.stored) for name in contents.arrays}
            done = 0
            while done < len(shard.rows):
                images = next(batches)
                for name, mirrored in zip(contents.arrays, (False, True), strict=False):
                    made = autoencoder.encode(images.flip(-1) if mirrored else images)
                    arrays[name][done : done + len(images)] = made
                done += len(images)
                tick(len(images))
            yield shard, arrays


def _batches(source: Dataset, shards: Sequence[Shard], batch: int) -> Iterator[Tensor]:
    """Yield the images of shards in one pass over the source; batches end with each shard."""
    if not shards:
        return
    rows = torch.cat([torch.arange(shard.rows.start, shard.rows.stop) for shard in shards])
    if len(rows) < len(source):
        name = f"{source.name}, counted among those to be encoded"
        source = replace(source, name=name, x=some(source.x, rows), label=None, num_classes=None)
    read, held = source.batches(batch), torch.empty(0, *source.shape)
    for shard in shards:
        left = len(shard.rows)
        while left:
            wanted = min(batch, left)
            while len(held) < wanted:
                held = torch.cat([held, next(read)])
            yield held[:wanted].clamp(-1, 1)
            held, left = held[wanted:], left - wanted


def _ahead(items: Iterator[Tensor], ahead: int) -> Generator[Tensor, None, None]:
    """Yield the items of an iterator that runs in a thread, a few items ahead; its errors are raised here."""
    pool = ThreadPoolExecutor(1)
    try:
        coming = deque(pool.submit(next, items, None) for _ in range(ahead))
        while (item := coming.popleft().result()) is not None:
            coming.append(pool.submit(next, items, None))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
