"""The shard format of latents (`latent_cache`) and pairs (`pairs`): safetensors files of some rows each, and an index.

A shard is written to a temporary file and renamed, so interrupted work continues with the missing shards. The index, a
JSON file, holds the checksums of the finished ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from flowleap.files import open_tensors, read_tensors, replace_file

FORMAT = 1
STORED = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64"}

Kinds = Mapping[str, tuple[tuple[int, ...], str]]
"""Shape and dtype of each array of a shard, by name."""
Made = TypeVar("Made")


class ShardError(ValueError):
    """A folder of shards is damaged or holds something else; the message says what to do."""


@dataclass(frozen=True)
class Shard:
    """A range of rows of a split, and the file that holds them."""

    part: str
    number: int
    rows: range

    @property
    def name(self) -> str:
        """The file name."""
        return f"{self.part}-{self.number:05d}.safetensors"


def shards_of(part: str, count: int, size: int) -> list[Shard]:
    """Return the shards of `count` rows; the last one may be smaller."""
    starts = range(0, count, size)
    return [Shard(part, number, range(at, min(at + size, count))) for number, at in enumerate(starts)]


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return a message on the differences between two descriptions."""
    told = (
        f"{name} is {stored[name]}, not {value}" for name, value in wanted.items() if stored[name] != value
    )
    return "; ".join(told)


@dataclass(frozen=True)
class ShardFolder:
    """Writes and checks the files of a folder of shards.

    Args:
        index: the name of the index file.
        things: the name of the rows in messages.
        cure: what messages say to do about damaged files.
    """

    folder: Path
    index: str
    things: str
    cure: str

    def path(self, shard: Shard) -> Path:
        """Return the file of a shard."""
        return self.folder / shard.name

    def read_index(self, parse: Callable[[dict[str, Any]], Made]) -> Made:
        """Return parse(content of the index).

        Raises: ShardError if it is broken.
        """
        try:
            content = json.loads((self.folder / self.index).read_text(encoding="utf-8"))
            if content.pop("format") != FORMAT:
                raise ValueError(f"a format other than {FORMAT}, written by another version of flowleap")
            return parse(content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"its {self.index} is truncated or not that of {self.things} ({error})"
            raise self.broken(reason) from error

    def write_index(self, content: Mapping[str, Any], mark: str = "") -> None:
        """Write the index; `mark` names the temporary file of a process where several write at once."""
        path = self.folder / f"{self.index}{mark}"
        replace_file(path, json.dumps({"format": FORMAT, **content}, indent=2, ensure_ascii=False) + "\n")
        if mark:
            path.replace(self.folder / self.index)

    def write(
        self,
        shard: Shard,
        arrays: Mapping[str, Tensor],
        wanted: Kinds,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a shard, with JSON-able metadata of one entry (safetensors writes several in any order).

        Raises: ShardError for arrays of other names, shapes or dtypes than `wanted`.
        """
        self.check_arrays(
            shard, {name: (tuple(t.shape), str(t.dtype)[6:]) for name, t in arrays.items()}, wanted
        )
        kept = {name: tensor.contiguous() for name, tensor in arrays.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        noted = None if about is None else {name: json.dumps(value) for name, value in about.items()}
        replace_file(self.path(shard), lambda partial: save_file(kept, partial, metadata=noted))

    def check(self, shard: Shard, wanted: Kinds) -> dict[str, Any]:
        """Return the metadata of a shard, having checked its size, shapes and dtypes but not its values.

        Raises: ShardError for a shard that is missing, truncated, or of other arrays.
        """
        self.require(shard)
        try:
            with open_tensors(self.path(shard)) as file:
                about = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
                found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                kinds = {n: (tuple(s.get_shape()), STORED.get(s.get_dtype(), "")) for n, s in found.items()}
        except (OSError, ValueError, SafetensorError) as error:
            raise self.broken(f"{shard.name}: {error}") from error
        self.check_arrays(shard, kinds, wanted)
        return about

    def require(self, shard: Shard) -> None:
        """Raise ShardError if a shard has no file."""
        if not self.path(shard).is_file():
            raise self.broken(f"{shard.name} is missing")

    def tensors(self, shard: Shard) -> dict[str, Tensor]:
        """Return the arrays of a shard, memory-mapped."""
        return read_tensors(self.path(shard))

    def check_arrays(self, shard: Shard, found: Kinds, wanted: Kinds) -> None:
        """Raise ShardError for arrays of other names, shapes or dtypes than `wanted`."""
        if dict(found) != dict(wanted):
            raise self.broken(f"{shard.name} holds {_listed(found)}, expected {_listed(wanted)}")

    def broken(self, reason: str) -> ShardError:
        """Return the error for damaged shards."""
        return ShardError(
            f"the {self.things} in {self.folder} are truncated or damaged: {reason}. {self.cure}"
        )


def _listed(arrays: Kinds) -> str:
    return ", ".join(f"{name} {shape} {kind}" for name, (shape, kind) in sorted(arrays.items())) or "nothing"
