"""Latents of images on a disk, encoded once: the format of their cache, see `data.latents` for what is drawn from it.

cache/
  latents.json                  how they were made, what each array means and, once all are there, their checksums
  train-00000.safetensors       moments, flipped_moments and, where there are classes, label: whole numbers of rows
  test-00000.safetensors        the parts of the data have shards of their own; data without parts is `all`

A shard says itself which rows of which images by which autoencoder it holds, with a checksum: what is interrupted goes
on with the shards that are missing. Rows are read from the shards as they are asked for, so a cache of any size takes
the memory of a batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowleap.data.codec import Codec
from flowleap.data.rows import not_finite
from flowleap.data.shards import Kinds, Shard, ShardError, ShardFolder, cut, differences
from flowleap.files import free_name
from flowleap.lock import LOCK, locked, vacant

__all__ = ["ARRAYS", "DTYPES", "INDEX", "STREAMED", "Cache", "Contents", "is_cache"]

INDEX = "latents.json"
STREAMED = "stream-"
"""What the checksum of images begins with that were streamed."""
ABOUT = "latents"
ARRAYS = {
    "moments": "mean and log-variance of the posterior of each image, one after the other along the channels, as the "
    "autoencoder gives them: before shift and scaling",
    "flipped_moments": "those of the image mirrored left to right",
    "latents": "the latents of each image, as the autoencoder gives them: before shift and scaling; no posterior",
    "flipped_latents": "those of the image mirrored left to right",
    "label": "the number of the class, its place in `classes`",
}
"""What each array of a shard means; a shard has moments or latents, never both."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CURE = "Remove that file, and make it again with the command that made them, flowleap data encode"


def is_cache(path: Path) -> bool:
    """Whether a folder holds a cache of latents, whole or not."""
    return (path / INDEX).is_file()


@dataclass(frozen=True)
class Contents:
    """What a cache holds when it is whole, and how it was made.

    Args:
        codec: the autoencoder, with scaling and shift.
        name, source: of the data that was encoded, and what it was read from, as it was given.
        parts: the rows of each part of the data.
        image: the shape of an image as it was encoded. square: how images became squares, "crop" or "resize", empty for
            as they were.
        shape: of one latent.
        classes: the names of the classes, None without.
        labels: a checksum of the labels of each part. images: one of its images, `Dataset.checksum`.
        posterior: whether mean and log-variance are held, or latents as they are.
        flipped: whether those of mirrored images are held too.
        dtype: of the numbers that are held. precision: in which the autoencoder computed.
        shard: rows of a shard; the last one of a part holds the rest.
        license: of the data, where that is known.

    Raises: ValueError for a type that cannot be held, or shards of no rows.
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
        """The names of the arrays of numbers in each shard, the plain one first."""
        name = "moments" if self.posterior else "latents"
        return (name, f"flipped_{name}") if self.flipped else (name,)

    @property
    def stored(self) -> tuple[int, ...]:
        """The shape of a row of these arrays: twice the channels for mean and log-variance."""
        channels, *sides = self.shape
        return (2 * channels if self.posterior else channels, *sides)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of all that the numbers depend on: everything but scaling, shift and where things lie."""
        content = asdict(self)
        content["codec"] = {"kind": self.codec.kind, "checksum": self.codec.checksum}
        for name in ("name", "source", "license"):
            del content[name]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def kinds(self, rows: int) -> Kinds:
        """What a shard of so many rows holds."""
        numbers = dict.fromkeys(self.arrays, ((rows, *self.stored), self.dtype))
        return numbers if self.classes is None else {**numbers, "label": ((rows,), "int64")}

    def shards(self, part: str | None = None) -> list[Shard]:
        """Return the shards of a part, or of all."""
        chosen = self.parts.items() if part is None else [(part, self.parts[part])]
        return [shard for name, count in chosen for shard in cut(name, count, self.shard)]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return dict(json.loads(json.dumps(asdict(self))))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Contents:
        """Return contents from their values."""
        classes = content["classes"]
        lists = {name: tuple(content[name]) for name in ("image", "shape")}
        codec = Codec.from_dict(content["codec"])
        made = cls(**{**content, **lists, "codec": codec})
        return replace(made, classes=None if classes is None else tuple(classes))


class Cache:
    """The latents in a folder; `write` fills it shard by shard in any order, `finish` completes it."""

    def __init__(self, folder: Path, contents: Contents, checksums: Mapping[str, str] | None = None) -> None:
        self.folder, self.contents = folder, contents
        self.files = _files(folder)
        self.checksums = dict(checksums or {})

    @classmethod
    def read(cls, folder: Path) -> Cache:
        """Open what is in a folder.

        Raises: ShardError where latents.json is broken.
        """
        return _files(folder).read_index(
            lambda content: cls(folder, Contents.from_dict(content["contents"]), content["checksums"])
        )

    @classmethod
    def begin(cls, folder: Path, contents: Contents, *, overwrite: bool = False) -> Cache:
        """Begin a cache, or go on with the one that is there and is to hold the same.

        Where only scaling or shift are others, `overwrite` writes them down and keeps every shard; where anything else
        is, it moves the folder to <name>.old-N.

        Raises: ShardError for a cache of something else, naming what differs; ValueError for a folder that holds
            anything else, or that another process writes into.
        """
        if not is_cache(folder):
            if folder.exists() and (not folder.is_dir() or not vacant(folder)):
                raise ValueError(
                    f"{folder} is there but holds no latents: name a new or an empty folder with --out"
                )
            folder.mkdir(parents=True, exist_ok=True)
            return cls(folder, contents)._noted()
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
                return cls(folder, contents, found.checksums)._noted()
            old = free_name(folder, ".old-", 1)
            folder.rename(old)
        (old / LOCK).unlink(missing_ok=True)
        return cls.begin(folder, contents)

    @property
    def whole(self) -> bool:
        """Whether every shard is there, as far as latents.json says."""
        return bool(self.checksums)

    def path(self, shard: Shard) -> Path:
        """Return the file of a shard."""
        return self.files.path(shard)

    def missing(self) -> list[Shard]:
        """Return the shards that have no file."""
        return [shard for shard in self.contents.shards() if not self.path(shard).is_file()]

    def write(self, shard: Shard, arrays: Mapping[str, Tensor], label: Tensor | None) -> None:
        """Write a shard.

        Shapes: arrays (rows, *contents.stored), label int64 (rows,), None without classes.
        Raises: ShardError for numbers that are not finite, or do not fit the type that they are kept in.
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

    def look(self, shard: Shard) -> str:
        """Return the checksum that a shard says it has; its size and what it is are looked at, not its numbers.

        Raises: ShardError for a shard that is missing, cut short, or of something else.
        """
        said = self.files.look(shard, self.contents.kinds(len(shard.rows))).get(ABOUT, {})
        if (said.get("made"), said.get("start")) != (self.contents.fingerprint, shard.rows.start):
            raise self.files.broken(f"{shard.name} holds other latents than {INDEX} says")
        return str(said.get("checksum"))

    def verify(self, shard: Shard) -> None:
        """Read a shard whole and hold it to its checksum.

        Raises: ShardError for one that is cut short or changed.
        """
        said = self.look(shard)
        if _digest(self.files.tensors(shard)) != said or self.checksums.get(shard.name, said) != said:
            raise self.files.broken(f"{shard.name} has changed, its checksum is another")

    def finish(self, mark: str = "") -> bool:
        """Write down that all is there, if it is; `mark` tells processes apart that do so at once.

        Raises: ShardError for a shard that is cut short.
        """
        if self.missing():
            return False
        self.checksums = {shard.name: self.look(shard) for shard in self.contents.shards()}
        self._noted(mark)
        return True

    def _noted(self, mark: str = "") -> Cache:
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
    """The SHA-256 of arrays, by their names and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
