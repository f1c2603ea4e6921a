"""Latents as a data set: the posteriors in a cache (`data.latent_cache`), sampled anew in each step.

Rows are read from the memory-mapped shards, so a cache of any size takes the memory of a batch.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowleap.data.dataset import Dataset
from flowleap.data.latent_cache import INDEX, STREAMED, Cache
from flowleap.data.parts import held_out_split
from flowleap.data.preprocessing import Preprocessing
from flowleap.data.rows import Rows
from flowleap.data.shards import Shard, ShardError
from flowleap.randomness import RowGenerator, generator

FIXED = "latents/fixed"


@dataclass(frozen=True, eq=False)
class Draws:
    """The latents of a split, scaled for the network: one fixed draw of the posterior of each row.

    Shapes: call: int64 (n,) -> float32 (n, *shape of a latent).
    """

    cache: Cache
    part: str
    _open: dict[int, dict[str, Tensor]] = field(default_factory=dict, repr=False)

    @cached_property
    def shards(self) -> list[Shard]:
        """The shards of the split."""
        return self.cache.contents.shards(self.part)

    def __reduce__(self) -> tuple[Any, ...]:
        return Draws, (self.cache, self.part)  # another process maps the shards anew

    def __call__(self, rows: Tensor) -> Tensor:
        noise, contents = None, self.cache.contents
        if contents.posterior:
            draws = [torch.randn(contents.shape, generator=generator(0, FIXED, i)) for i in rows.tolist()]
            noise = torch.stack(draws) if draws else torch.empty(0, *contents.shape)
        return contents.codec.scaled(drawn(self.stored(rows), noise))

    def stored(self, rows: Tensor, flipped: Tensor | None = None) -> Tensor:
        """Return rows of the cache, those of the mirrored images where `flipped`.

        Shapes: rows int64 (n,), flipped bool (n,) -> float32 (n, *contents.stored).
        """
        contents = self.cache.contents
        out = torch.empty(len(rows), *contents.stored)
        number, place = rows // contents.shard, rows % contents.shard
        mirrored = torch.zeros(len(rows), dtype=torch.bool) if flipped is None else flipped
        for shard in number.unique().tolist():
            for name, side in zip(contents.arrays, (False, True), strict=False):
                here = ((number == shard) & (mirrored == side)).nonzero().flatten()
                if len(here):
                    out[here] = self.opened(shard)[name][place[here]].float()
        return out

    def labels(self) -> Tensor | None:
        """Return the labels of all rows, None without classes.

        Shapes: int64 (rows,).
        """
        if self.cache.contents.classes is None:
            return None
        return torch.cat([self.opened(shard.number)["label"].clone() for shard in self.shards])

    def opened(self, number: int) -> dict[str, Tensor]:
        """Return the arrays of a shard, memory-mapped."""
        if number not in self._open:
            self._open[number] = self.cache.files.tensors(self.shards[number])
        return self._open[number]


def drawn(stored: Tensor, noise: Tensor | None) -> Tensor:
    """Return samples of posteriors, mean + exp(½ log-variance) · noise; without noise, `stored` are latents already.

    Shapes: stored (n, 2 · channels, …) and noise (n, channels, …) -> (n, channels, …).
    """
    if noise is None:
        return stored
    mean, log_variance = stored.chunk(2, dim=1)
    return mean + (0.5 * log_variance).exp() * noise


@dataclass(frozen=True, eq=False)
class Latents(Dataset):
    """A split of a cache of latents as a data set, whose posteriors are sampled anew in each step.

    `x` is one fixed draw of each row, for uses without a step, see `Draws`. With `mirrored`, the mirrored image is used
    with probability ½ if the cache has it. Latents that a teacher made are plain tensors.
    """

    _: KW_ONLY
    draws: Draws
    mirrored: bool = True

    @property
    def mirrors(self) -> bool:
        return self.draws.cache.contents.flipped and self.mirrored

    @property
    def streamed(self) -> bool:
        return self.draws.cache.contents.images.get(self.draws.part, "").startswith(STREAMED)

    def turned(self, flip: bool | None) -> Latents:
        """Return the data set with or without mirrored images; None: with them if the cache has them.

        Raises: ValueError for a cache without them.
        """
        if flip and not self.draws.cache.contents.flipped:
            raise ValueError(
                f"--flip: {self.address} holds no latents of mirrored images: encode it again without --no-flip"
            )
        wanted = flip is not False
        return self if wanted == self.mirrored else replace(self, mirrored=wanted)

    @property
    def whole(self) -> bool:
        """Whether these are all rows of the cache, not a part of them or latents that a teacher made."""
        return isinstance(self.x, Rows) and self.part_of is None

    def take(self, rows: Tensor, step: int, key: int, here: Tensor | None = None) -> Tensor:
        """Return scaled posterior samples of the rows of a batch: a pure function of (rows, step, key).

        Noise and mirroring are those of the places in the global batch, `here`.
        Shapes: rows (global batch,), here (batch,) → (batch, *shape), (z − shift) · scaling.
        """
        if not self.whole:
            return super().take(rows, step, key, here)
        contents = self.draws.cache.contents
        flipped = noise = None
        if contents.flipped and self.mirrored:
            flipped = RowGenerator(key, "latents/flip", step, total=len(rows), rows=here).uniform() < 0.5
        if contents.posterior:
            random = RowGenerator(key, "latents/posterior", step, total=len(rows), rows=here)
            noise = random.normal(*contents.shape)
        rows = rows if here is None else rows[here]
        return contents.codec.scaled(drawn(self.draws.stored(rows, flipped), noise))

    @cached_property
    def checksum(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of the checksums of its shards, the scaling and the shift."""
        if not self.whole:
            return super().checksum
        cache, codec = self.draws.cache, self.draws.cache.contents.codec
        parts = [cache.checksums[shard.name] for shard in self.draws.shards]
        text = json.dumps([parts, codec.scaling, codec.shift])
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def load(folder: Path, split: str | None = None, address: str = "") -> Latents:
    """Return a split of a cache as a data set, by default the training split.

    Args:
        address: of the data set; default: the folder.

    Raises: ShardError for an unfinished cache; ValueError for an unknown split.
    """
    cache = Cache.read(folder)
    contents = cache.contents
    if not cache.whole:
        done = len(contents.shards()) - len(cache.missing())
        raise ShardError(
            f"{folder} is not whole: {done} of {len(contents.shards())} shards of latents are there. Finish it "
            "with the command that began it, flowleap data encode"
        )
    part = split or ("train" if "train" in contents.parts else next(iter(contents.parts)))
    if part not in contents.parts:
        raise ValueError(f"{folder} has no split {split!r}: choose {' or '.join(contents.parts)}")
    for shard in contents.shards(part):
        if cache.check(shard) != cache.checksums.get(shard.name):
            raise ShardError(f"{folder}: {shard.name} is not the one that {INDEX} names: encode it again")
    draws = Draws(cache, part)
    square: Any = contents.square
    preprocessing = (
        Preprocessing(square, contents.image[-1]) if square else Preprocessing()
    )  # the preprocessing of the encoded images
    return Latents(
        contents.name,
        Rows(draws, contents.parts[part], contents.shape, stamp=contents.codec.checksum, floats=True),
        label=draws.labels(),
        kind="latents",
        license=contents.license,
        source=contents.source,
        split=part,
        path=address or str(folder),
        held_out=held_out_split(part, contents.parts),
        codec=contents.codec,
        preprocessing=preprocessing,
        classes=tuple(contents.classes or ()),
        draws=draws,
    )
