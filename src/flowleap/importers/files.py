"""Read files of published weights without running code in them.

| file                                | how it is read                                                              |
|-------------------------------------|-----------------------------------------------------------------------------|
| .pt, .pth: a PyTorch pickle         | tensors, plain values, and of other types `argparse.Namespace` alone        |
| .safetensors                        | tensors                                                                     |
| .npz: an array dictionary           | arrays of numbers                                                           |
"""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from flowleap.data.shards import checksum
from flowleap.training import checkpoint
from flowleap.training.checkpoint import CheckpointError

ALLOWED = argparse.Namespace
"""The only type besides tensors and plain values that is read from a pickle: the settings of a training script.

Source: EDAPINENUT/ExplicitShortCut, willisma/SiT and facebookresearch/DiT, whose train.py save theirs as `args`.
"""

HEAD = 64
PYTORCH = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
"""The first bytes of the pickles of PyTorch before it wrote zip files."""
ELSEWHERE = (
    "a pickle, but not one of PyTorch: such files can run code and are never loaded. Open it where it was made, and "
    "save its parameters as an array dictionary: numpy.savez(FILE, **flax.traverse_util.flatten_dict(params, sep='/'))"
)


@dataclass(frozen=True)
class Contents:
    """The contents of a file of weights.

    Args:
        tensors: by name; names of nested dictionaries are joined by /.
        notes: plain values by name, settings as `args/…`.
        checksum: the SHA-256 of the file.
    """

    path: Path
    tensors: dict[str, Tensor]
    notes: dict[str, Any]
    checksum: str


def read(path: Path) -> Contents:
    """Read a file of weights.

    Raises: FileNotFoundError; CheckpointError for a truncated file, one of another kind, and a pickle that holds
        anything but tensors, plain values and `ALLOWED`, none of whose code was run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file")
    try:
        flat = dict(flattened(_read(path)))
    except RecursionError as error:
        raise CheckpointError(f"{path}: its dictionaries hold one another without an end") from error
    tensors = {name: value for name, value in flat.items() if isinstance(value, Tensor) and value.ndim}
    rest = {name: value for name, value in flat.items() if name not in tensors}
    notes = {name: value.item() if isinstance(value, Tensor) else value for name, value in rest.items()}
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensors")
    return Contents(path, tensors, notes, checksum(path))


def flattened(value: Any, name: str = "", around: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dictionaries and settings, their names joined by /.

    Raises: RecursionError for a dictionary that contains itself; `around` are the ids of those that contain `value`.
    """
    if isinstance(value, ALLOWED):
        value = vars(value)
    if not isinstance(value, Mapping):
        yield name, value
        return
    if id(value) in around:
        raise RecursionError(f"{name} holds itself")
    for key, part in value.items():
        yield from flattened(part, f"{name}/{key}" if name else str(key), (*around, id(value)))


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(HEAD)
    if head.startswith(b"PK"):
        return _zipped(path)
    if head.startswith(b"\x80"):
        if PYTORCH not in head:
            raise CheckpointError(f"{path}: {ELSEWHERE}")
        return _pickled(path, mapped=False)
    if head[8:9] == b"{":
        return checkpoint.read_tensors(path)
    raise CheckpointError(
        f"{path}: not a file of weights that flowleap reads: those are .pt and .pth of PyTorch, .safetensors, and .npz "
        "with arrays"
    )


def _zipped(path: Path) -> Any:
    """Read a zip: an array dictionary, or a pickle of PyTorch."""
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = all(name.endswith(".npy") for name in archive.namelist())
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path}: truncated ({path.stat().st_size} bytes; {error})") from error
    return _arrays(path) if arrays else _pickled(path, mapped=True)


def _arrays(path: Path) -> dict[str, Tensor]:
    found = {}
    try:
        with numpy.load(path, allow_pickle=False) as file:
            for name in file.files:
                array = file[name]
                if array.dtype.kind not in "fiub":
                    raise ValueError(f"{name} is of type {array.dtype}, and plain numbers are expected")
                found[name] = torch.from_numpy(numpy.ascontiguousarray(array).reshape(array.shape))
    except (ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: truncated, or not arrays of numbers alone ({error})") from error
    return found


def _pickled(path: Path, *, mapped: bool) -> Any:
    """Read a pickle of PyTorch by `torch.load(weights_only=True)`, which builds tensors and plain values only."""
    try:
        with torch.serialization.safe_globals([ALLOWED]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        OSError,
        KeyError,
        ValueError,
        TypeError,
    ) as error:
        raise CheckpointError(f"{path}: {_refusal(path, str(error))}") from error


def _refusal(path: Path, error: str) -> str:
    """The reason why a pickle was not read."""
    found = re.search(
        r"(?:Unsupported (?:global|class)|GLOBAL|class)[: ]+(?:GLOBAL )?([A-Za-z_][\w.]*\.\w+)", error
    )
    if found:
        return (
            f"the pickle holds {found[1]}; only tensors, plain values and {ALLOWED.__module__}.{ALLOWED.__name__} are "
            "read from one, and nothing in it was run"
        )
    return (
        f"truncated, or not a pickle of PyTorch ({path.stat().st_size} bytes; {error.splitlines()[0][:120]})"
    )
