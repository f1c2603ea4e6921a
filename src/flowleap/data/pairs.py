"""A store of pairs (noise, sample, label) made by a teacher: shards on disk and an index.

pairs/
  index.json                the `Origin` of the pairs, and the checksums of the finished shards
  pairs-00000.safetensors   noise, x and, with classes, label

A shard is written before the index names it: interrupted work continues with the first shard that it does not name.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowleap.data.rows import not_finite
from flowleap.data.shards import Kinds, Shard, ShardError, ShardFolder, checksum, differences, shards_of

INDEX = "index.json"


@dataclass(frozen=True)
class Origin:
    """The contents of a finished store of pairs, and how they were made.

    Args:
        count: number of pairs.
        shape: of one sample.
        classes: number of classes, None without labels.
        teacher, checksum: the weights that made the pairs, and the SHA-256 of their file.
        steps, guidance: sampling steps of the teacher, and guidance, None for none.
        seed: of the noise; that of pair i depends on it and on i only.
        shard: rows of a shard; the last one may be smaller.
    """

    count: int
    shape: tuple[int, ...]
    classes: int | None
    teacher: str
    checksum: str
    steps: int
    guidance: float | None
    seed: int
    shard: int = 1000

    @cached_property
    def shards(self) -> list[Shard]:
        """The shards of a finished store."""
        return shards_of("pairs", self.count, self.shard)

    def arrays(self, shard: Shard) -> Kinds:
        """Return the arrays of a shard."""
        rows = len(shard.rows)
        kinds = dict.fromkeys(("noise", "x"), ((rows, *self.shape), "float32"))
        return kinds if self.classes is None else {**kinds, "label": ((rows,), "int64")}


class PairStore:
    """The pairs in a folder: `add` writes the next shard, `load` reads a finished store."""

    def __init__(self, folder: Path, origin: Origin) -> None:
        """Open a store, or begin one; nothing is written before the first shard.

        Raises: ShardError for a store of other pairs, or one with missing or damaged shards.
        """
        self.folder, self.origin = folder, origin
        self.files = ShardFolder(folder, INDEX, "pairs", "Remove the folder to make them anew")
        self.checksums: list[str] = []
        self.seconds = 0.0
        if not (folder / INDEX).is_file():
            return
        stored = self.files.read_index(self._parse)
        if stored != origin:
            raise ShardError(
                f"{folder} holds other pairs: {differences(asdict(stored), asdict(origin))}. Remove the folder to make "
                "the pairs anew"
            )
        if len(self.checksums) > len(origin.shards):
            named, expected = len(self.checksums), len(origin.shards)
            raise self.files.broken(f"{named} shards are named where {expected} are expected")
        for shard, known in zip(origin.shards, self.checksums, strict=False):
            self.files.require(shard)
            if checksum(self.files.path(shard)) != known:
                raise self.files.broken(f"{shard.name} is truncated or changed, its checksum is another")
            self.files.check(shard, origin.arrays(shard))

    @property
    def done(self) -> int:
        """Number of stored pairs."""
        return min(self.origin.count, len(self.checksums) * self.origin.shard)

    @property
    def whole(self) -> bool:
        """Whether all pairs are stored."""
        return self.done == self.origin.count

    def missing(self) -> range:
        """Return the numbers of the missing shards."""
        return range(len(self.checksums), len(self.origin.shards))

    def add(self, noise: Tensor, x: Tensor, label: Tensor | None, seconds: float = 0.0) -> None:
        """Write the next shard, then name it in the index; `seconds` of all shards are added up there.

        Shapes: noise, x float32 (rows, *shape); label int64 (rows,), None without classes.
        Raises: ShardError for another number or shape of rows, or values that are not finite.
        """
        shard = self.origin.shards[len(self.checksums)]
        tensors = {"noise": noise, "x": x} | ({} if label is None else {"label": label})
        if lost := len(not_finite(x)):
            raise ShardError(
                f"{lost} of {len(x)} samples of the teacher are not finite: it has diverged, or "
                f"{self.origin.steps} steps do not suit it"
            )
        self.files.write(shard, tensors, self.origin.arrays(shard))
        self.checksums.append(checksum(self.files.path(shard)))
        self.seconds += seconds
        about = {**asdict(self.origin), "checksums": self.checksums, "seconds": round(self.seconds, 3)}
        self.files.write_index(about)

    def refresh(self) -> None:
        """Read the index again, after another process added shards."""
        self.files.read_index(self._parse)

    def load(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return noise, x and label of all pairs, in their order.

        Shapes: float32 (count, *shape) twice; int64 (count,), None without classes.
        Raises: ShardError for an unfinished store.
        """
        if not self.whole:
            raise self.files.broken(f"it holds {self.done} of {self.origin.count} pairs")
        parts = [self.files.tensors(shard) for shard in self.origin.shards]
        found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return found["noise"], found["x"], found.get("label")

    def path(self, index: int) -> Path:
        """Return the file of a shard."""
        return self.files.path(self.origin.shards[index])

    def _parse(self, content: dict[str, Any]) -> Origin:
        self.checksums = [str(text) for text in content.pop("checksums")]
        self.seconds = float(content.pop("seconds"))
        origin = Origin(**content)
        return replace(origin, shape=tuple(origin.shape))
