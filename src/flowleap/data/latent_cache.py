"""The cache of latents on the disk: its files and format; `data.latents` reads it for training.

cache/
  latents.json                  how the latents were made, the meaning of each array and, at the end, all checksums
  train-00000.safetensors       moments, flipped_moments and, with classes, label
  test-00000.safetensors        each split of the data has shards of its own; data without splits are `all`

The metadata of a shard say which rows of which images it holds, and its checksum: interrupted encoding continues with
the missing shards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowleap.data.codec import Codec
from flowleap.data.rows import not_finite
from flowleap.data.shards import Kinds, Shard, ShardError, ShardFolder, differences, shards_of
from flowleap.files import free_name
from flowleap.lock import LOCK, locked, vacant

INDEX = "latents.json"
STREAMED = "stream-"
"""Prefix of the checksum of streamed images."""
ABOUT = "latents"
ARRAYS = {
    "moments": "mean and log-variance of the posterior of each image, one after the other along the channels, as the "
    "autoencoder gives them: before shift and scaling",
    "flipped_moments": "those of the image mirrored left to right",
    "latents": "the latents of each image, as the autoencoder gives them: before shift and scaling; no posterior",
    "flipped_latents": "those of the image mirrored left to right",
    "label": "the number of the class, its place in `classes`",
}
"""The meaning of each array of a shard; a shard has moments or latents, never both."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CURE = "Remove the file, and run the same flowleap data encode again"


def is_cache(path: Path) -> bool:
    """Whether a folder holds a cache of latents, finished or not."""
    return (path / INDEX).is_file()


@dataclass(frozen=True)
class Contents:
    """The contents of a finished cache, and how they were made.

    Args:
        codec: the autoencoder, with scaling and shift.
        name, source: of the encoded data: its name, and the path or address as it was given.
        parts: number of rows of each split.
        image: shape of an encoded image. square: "crop" or "resize", empty if images were not made square.
        shape: of one latent.
        classes: names of the classes, None without.
        labels: checksum of the labels of each split. images: `Dataset.checksum` of each split.
        posterior: whether mean and log-variance are stored, or latents.
        flipped: whether those of mirrored images are stored, too.
        dtype: of the stored arrays. precision: of the autoencoder's computation.
        shard: rows of a shard; the last one of a split may be smaller.

    Raises: ValueError for an unknown dtype, or shards of no rows.
    """

    codec: Codec
    name: str
    source: str
    parts: Mapping[str, int]
    image: tuple[int, ...]
    shape: tuple[int, ...]
    classes: tuple[str, ...] | None
    labels: Mapping[str, str]
    posterior: bool
    flipped: bool
    square: str = ""
    dtype: str = "float32"
    precision: str = "float32"
    shard: int = 512
    license: str = ""
    images: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r}: expected {', '.join(DTYPES)}")
        if self.shard < 1:
            raise ValueError(f"shards of {self.shard} rows: at least 1 is needed")

    @property
    def arrays(self) -> tuple[str, ...]:
        """The names of the arrays in each shard, without label; that of mirrored images last."""
        name = "moments" if self.posterior else "latents"
        return (name, f"flipped_{name}") if self.flipped else (name,)

    @property
    def stored(self) -> tuple[int, ...]:
        """The shape of a row of these arrays: twice the channels for mean and log-variance."""
        channels, *sides = self.shape
        return (2 * channels if self.posterior else channels, *sides)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of everything that the arrays depend on: all but scaling, shift, names and license."""
        content = asdict(self)
        content["codec"] = {"kind": self.codec.kind, "checksum": self.codec.checksum}
        for name in ("name", "source", "license"):
            del content[name]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def kinds(self, rows: int) -> Kinds:
        """The arrays of a shard with this number of rows."""
        numbers = dict.fromkeys(self.arrays, ((rows, *self.stored), self.dtype))
        return numbers if self.classes is None else {**numbers, "label": ((rows,), "int64")}

    def shards(self, part: str | None = None) -> list[Shard]:
        """Return the shards of a split, or of all."""
        chosen = self.parts.items() if part is None else [(part, self.parts[part])]
        return [shard for name, count in chosen for shard in shards_of(name, count, self.shard)]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able values."""
        return dict(json.loads(json.dumps(asdict(self))))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Contents:
        """The inverse of `to_dict`."""
        lists = ("image", "shape", "classes")
        tuples = {name: None if content[name] is None else tuple(content[name]) for name in lists}
        return cls(**{**content, **tuples, "codec": Codec(**content["codec"])})


class Cache:
    """The latents in a folder; `write` adds shards in any order, `finish` completes it."""

    def __init__(self, folder: Path, contents: Contents, checksums: Mapping[str, str] | None = None) -> None:
        self.folder, self.contents = folder, contents
        self.files = _files(folder)
        self.checksums = dict(checksums or {})

    @classmethod
    def read(cls, folder: Path) -> Cache:
        """Open the cache in a folder.

        Raises: ShardError if latents.json is broken.
        """
        return _files(folder).read_index(
            lambda content: cls(folder, Contents.from_dict(content["contents"]), content["checksums"])
        )

    @classmethod
    def begin(cls, folder: Path, contents: Contents, *, overwrite: bool = False) -> Cache:
        """Begin a cache, or continue one with the same contents.

        With `overwrite`, another scaling or shift is recorded and all shards are kept; if anything else differs, the
        folder is moved to <name>.old-N.

        Raises: ShardError for a cache of other contents, with the differences; ValueError for a folder that holds
            anything else, or that another process writes into.
        """
        if not is_cache(folder):
            if folder.exists() and (not folder.is_dir() or not vacant(folder)):
                raise ValueError(
                    f"{folder} is there but holds no latents: name a new or an empty folder with --out"
                )
            folder.mkdir(parents=True, exist_ok=True)
            return cls(folder, contents)._write_index()
        found = cls.read(folder)
        if found.contents == contents:
            return found
        if not overwrite:
            stored, wanted = (
                {**content.pop("codec"), **content}
                for content in (found.contents.to_dict(), contents.to_dict())
            )
            raise ShardError(
                f"{folder} holds other latents: {differences(stored, wanted)}. Name another folder with --out, or "
                "begin anew with --overwrite (the old one is moved aside)"
            )
        with locked(folder):
            if found.contents.fingerprint == contents.fingerprint:
                return cls(folder, contents, found.checksums)._write_index()
            old = free_name(folder, ".old-", 1)
            folder.rename(old)
        (old / LOCK).unlink(missing_ok=True)
        return cls.begin(folder, contents)

    @property
    def whole(self) -> bool:
        """Whether the cache is finished, according to latents.json."""
        return bool(self.checksums)

    def path(self, shard: Shard) -> Path:
        """Return the file of a shard."""
        return self.files.path(shard)

    def missing(self, process: int = 0, processes: int = 1) -> list[Shard]:
        """Return the shards without a file, of those that this of several processes encodes."""
        own = self.contents.shards()[process::processes]
        return [shard for shard in own if not self.path(shard).is_file()]

    def write(self, shard: Shard, arrays: Mapping[str, Tensor], label: Tensor | None) -> None:
        """Write a shard.

        Shapes: arrays (rows, *contents.stored), label int64 (rows,), None without classes.
        Raises: ShardError for values that are not finite in the dtype of the cache.
        """
        kept = {name: rows.to(DTYPES[self.contents.dtype]).contiguous() for name, rows in arrays.items()}
        for name, rows in kept.items():
            if len(broken := not_finite(rows)):
                row = shard.rows.start + int(broken[0])
                fits = bool(arrays[name].isfinite().all())
                cure = "keep them as float32" if fits else "compute in float32 (--precision fp32)"
                raise ShardError(f"the {name} of image {row} of {shard.part} are not finite: {cure}")
        if label is not None:
            kept["label"] = label.contiguous()
        made = {"made": self.contents.fingerprint, "start": shard.rows.start, "checksum": _digest(kept)}
        self.files.write(shard, kept, self.contents.kinds(len(shard.rows)), {ABOUT: made})

    def check(self, shard: Shard) -> str:
        """Return the checksum that a shard states, having checked its size and metadata but not its values.

        Raises: ShardError for a shard that is missing, truncated, or of other latents.
        """
        said = self.files.check(shard, self.contents.kinds(len(shard.rows))).get(ABOUT, {})
        if (said.get("made"), said.get("start")) != (self.contents.fingerprint, shard.rows.start):
            raise self.files.broken(f"{shard.name} holds other latents than {INDEX} says")
        return str(said.get("checksum"))

    def verify(self, shard: Shard) -> None:
        """Read a shard and verify its checksum.

        Raises: ShardError for a truncated or changed one.
        """
        said = self.check(shard)
        if _digest(self.files.tensors(shard)) != said or self.checksums.get(shard.name, said) != said:
            raise self.files.broken(f"{shard.name} has changed, its checksum is another")

    def finish(self, mark: str = "") -> bool:
        """Record all checksums if no shard is missing; return whether none is. `mark`: see `ShardFolder.write_index`.

        Raises: ShardError for a truncated shard.
        """
        if self.missing():
            return False
        self.checksums = {shard.name: self.check(shard) for shard in self.contents.shards()}
        self._write_index(mark)
        return True

    def _write_index(self, mark: str = "") -> Cache:
        content = {
            "arrays": {name: ARRAYS[name] for name in self.contents.kinds(0)},
            "trained on": "(z − codec.shift) · codec.scaling, z a sample of the posterior, drawn anew in each step",
            "contents": self.contents.to_dict(),
            "checksums": self.checksums,
        }
        self.files.write_index(content, mark)
        return self


def _files(folder: Path) -> ShardFolder:
    return ShardFolder(folder, INDEX, "latents", CURE)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of the names and bytes of arrays."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
