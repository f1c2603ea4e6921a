"""A store of pairs (noise, sample, label) that a teacher made: shards on disk, and an index that says what they are.

pairs/
  index.json                what was asked for, and the shards that are whole, each with its checksum
  pairs-00000.safetensors   noise, x and, where there are classes, label

A shard is written before the index names it, and both are renamed into place: what is interrupted goes on with the
first shard that the index does not name.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from flowleap.files import open_tensors, replace_file

__all__ = ["Origin", "PairStore", "PairStoreError", "checksum"]

FORMAT = 1
INDEX = "index.json"


class PairStoreError(ValueError):
    """A store of pairs is not what it should be; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Origin:
    """What a store of pairs holds when it is whole, and how it was made.

    Args:
        count: how many pairs.
        shape: of one sample.
        classes: the number of classes of the labels, None without labels.
        teacher, checksum: which weights made the pairs, and the SHA-256 of their file.
        steps, guidance: the steps of the teacher for each pair, and their guidance, None for none.
        seed: of the noise; that of pair i depends on it and on i only.
        shard: rows of a shard; the last one holds the rest.
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

    @property
    def shards(self) -> int:
        """How many shards a whole store has."""
        return -(-self.count // self.shard)

    def rows(self, index: int) -> range:
        """Return the numbers of the pairs of a shard."""
        return range(index * self.shard, min(self.count, (index + 1) * self.shard))


class PairStore:
    """The pairs in a folder; `add` fills it shard by shard, `load` reads it when it is whole."""

    def __init__(self, folder: Path, origin: Origin) -> None:
        """Open a store, or begin one where there is none; nothing is written until the first shard.

        Raises: PairStoreError for a store of other pairs, or one that has lost some of what its index names.
        """
        self.folder, self.origin = folder, origin
        self.checksums: list[str] = []
        self.seconds = 0.0
        if not (folder / INDEX).is_file():
            return
        stored, self.checksums = self._read()
        differing = [f.name for f in fields(Origin) if getattr(stored, f.name) != getattr(origin, f.name)]
        if differing:
            told = (f"{name} is {getattr(stored, name)}, not {getattr(origin, name)}" for name in differing)
            raise PairStoreError(
                f"{folder} holds other pairs: {'; '.join(told)}. Remove the folder to make the pairs anew"
            )
        if len(self.checksums) > origin.shards:
            raise self._broken(f"{len(self.checksums)} shards are named where {origin.shards} are expected")
        for index in range(len(self.checksums)):
            self._check(index)

    @property
    def done(self) -> int:
        """How many pairs are stored."""
        return min(self.origin.count, len(self.checksums) * self.origin.shard)

    @property
    def whole(self) -> bool:
        """Whether all pairs are stored."""
        return self.done == self.origin.count

    def missing(self) -> range:
        """Return the shards that are still to be made."""
        return range(len(self.checksums), self.origin.shards)

    def add(self, noise: Tensor, x: Tensor, label: Tensor | None, seconds: float = 0.0) -> None:
        """Write the next shard, then name it in the index; `seconds` is what it took to make, added up there.

        Shapes: noise, x float32 (rows, *shape); label int64 (rows,), None without classes.
        Raises: PairStoreError for rows of another number or shape, or that are not finite.
        """
        index = len(self.checksums)
        tensors = {"noise": noise, "x": x} | ({} if label is None else {"label": label})
        self._fits(index, {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()})
        lost = int((~x.flatten(1).isfinite().all(dim=1)).sum())
        if lost:
            raise PairStoreError(
                f"{lost} of {len(x)} samples of the teacher are not finite: it has diverged, or "
                f"{self.origin.steps} steps do not suit it"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(index)
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        replace_file(path, lambda partial: save_file(whole, partial))
        self.checksums.append(checksum(path))
        self.seconds += seconds
        content = {"format": FORMAT, **asdict(self.origin), "checksums": self.checksums}
        content["seconds"] = round(self.seconds, 3)
        replace_file(self.folder / INDEX, json.dumps(content, indent=2) + "\n")

    def refresh(self) -> None:
        """Learn of the shards that another process added."""
        self.checksums = self._read()[1]

    def load(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return noise, x and label of all pairs, in their order.

        Shapes: float32 (count, *shape) twice; int64 (count,), None without classes.
        Raises: PairStoreError for a store that is not whole.
        """
        if not self.whole:
            raise self._broken(f"it holds {self.done} of {self.origin.count} pairs")
        parts: dict[str, list[Tensor]] = {}
        for index in range(self.origin.shards):
            with open_tensors(self.path(index)) as file:
                for name in file.keys():  # noqa: SIM118
                    parts.setdefault(name, []).append(file.get_tensor(name))
        found = {name: torch.cat(tensors) for name, tensors in parts.items()}
        return found["noise"], found["x"], found.get("label")

    def path(self, index: int) -> Path:
        """Return the file of a shard."""
        return self.folder / f"pairs-{index:05d}.safetensors"

    def _read(self) -> tuple[Origin, list[str]]:
        path = self.folder / INDEX
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != FORMAT:
                raise ValueError(f"a format other than {FORMAT}, written by another version of flowleap")
            checksums = [str(text) for text in content.pop("checksums")]
            self.seconds = float(content.pop("seconds"))
            origin = Origin(**content)
            return replace(origin, shape=tuple(origin.shape)), checksums
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._broken(f"its {INDEX} is truncated or not that of pairs ({error})") from error

    def _check(self, index: int) -> None:
        """Refuse a shard that is not the one which the index names."""
        path = self.path(index)
        if not path.is_file():
            raise self._broken(f"{path.name} is missing")
        if checksum(path) != self.checksums[index]:
            raise self._broken(f"{path.name} is truncated or changed, its checksum is another")
        try:
            with open_tensors(path) as file:
                found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                kinds = {"F32": torch.float32, "I64": torch.int64}
                shapes = {n: (tuple(s.get_shape()), kinds.get(s.get_dtype())) for n, s in found.items()}
        except (OSError, SafetensorError) as error:
            raise self._broken(f"{path.name}: {error}") from error
        self._fits(index, shapes)

    def _fits(self, index: int, found: dict[str, tuple[tuple[int, ...], torch.dtype | None]]) -> None:
        origin, rows = self.origin, len(self.origin.rows(index))
        sample = ((rows, *origin.shape), torch.float32)
        wanted = {"noise": sample, "x": sample}
        if origin.classes is not None:
            wanted["label"] = ((rows,), torch.int64)
        if found != wanted:
            given = ", ".join(f"{name} {shape} {kind}" for name, (shape, kind) in sorted(found.items()))
            expected = ", ".join(f"{name} {shape} {kind}" for name, (shape, kind) in sorted(wanted.items()))
            raise self._broken(f"shard {index} is {given or 'empty'}, expected {expected}")

    def _broken(self, reason: str) -> PairStoreError:
        return PairStoreError(
            f"the pairs in {self.folder} are cut short or spoiled: {reason}. Remove the folder to make them anew"
        )


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
