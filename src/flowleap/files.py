"""Atomic writes: to a temporary file or folder, synced to the disk, then renamed."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from flowleap.streams import ESCAPE


def sync(path: Path) -> None:
    """Flush a file or folder to the disk; folders only if the system can."""
    if path.is_dir():
        with suppress(OSError):  # folders cannot be opened on Windows, where renaming is synced anyway
            _sync(path, os.O_RDONLY)
        return
    _sync(path, os.O_RDWR)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """Open a safetensors file for reading.

    safetensors only takes names in UTF-8; a file with another name is opened by its descriptor.

    Raises: OSError, safetensors.SafetensorError.
    """
    from safetensors import safe_open

    with ExitStack() as held:
        name = os.fspath(path)
        try:
            name.encode()
        except UnicodeEncodeError:
            name = f"/dev/fd/{held.enter_context(open(path, 'rb')).fileno()}"
        yield held.enter_context(safe_open(name, framework="pt"))


def read_tensors(path: Path) -> dict[str, Any]:
    """Return the tensors of a safetensors file by name, see `open_tensors`."""
    with open_tensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def read_weights(path: Path) -> dict[str, Any]:
    """Return the tensors of a .safetensors, .npz, .pth or .pt file by name, without running code in it.

    Raises: FileNotFoundError, or ValueError for a file of another kind.
    """
    import torch

    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: {'a folder, not a' if path.is_dir() else 'no such'} file of weights"
        )
    try:
        if path.suffix == ".safetensors":
            return read_tensors(path)
        if path.suffix == ".npz":
            import numpy as np

            with np.load(path, allow_pickle=False) as arrays:
                held = {name: arrays[name] for name in arrays.files}
                return {name: torch.from_numpy(a) for name, a in held.items() if a.dtype.kind in "biuf"}
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both raise many types
        raise ValueError(
            f"{path}: not a file of weights that can be read without running code (.safetensors, .npz, or .pth with "
            "tensors alone)"
        ) from error
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not (isinstance(content, dict) and all(isinstance(value, torch.Tensor) for value in content.values())):
        raise ValueError(f"{path}: no file of weights, a dictionary of tensors is expected")
    return content


def replace_file(path: Path, content: str | Callable[[Path], None]) -> None:
    """Write a file atomically, given its text or a function that writes to a path."""
    temporary = path.with_name(f".{path.name}.writing")
    try:
        temporary.unlink(missing_ok=True)
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)
        if isinstance(content, str):
            temporary.write_text(content, encoding="utf-8", errors=ESCAPE)  # names of files may not be UTF-8
        else:
            content(temporary)
        temporary.chmod(mode)  # as the umask says: safetensors writes files that only the owner can read
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `path` when the block succeeds, and is deleted when it fails."""
    temporary = path.with_name(f".{path.name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        mode = stat.S_IMODE(temporary.stat().st_mode) & 0o666
        for file in temporary.rglob("*"):
            if file.is_file():
                file.chmod(mode)  # as above
            sync(file)
        sync(temporary)
        _exchange(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(path.parent)


def _exchange(new: Path, path: Path) -> None:
    """Rename `new` to `path`; the old `path` is deleted only after that."""
    stale = path.with_name(f".{path.name}.stale")
    shutil.rmtree(stale, ignore_errors=True)
    if path.exists():
        os.rename(path, stale)
    try:
        os.rename(new, path)
    except OSError:
        if stale.exists():
            os.rename(stale, path)
        raise
    shutil.rmtree(stale, ignore_errors=True)


def free_name(path: Path, mark: str, first: int) -> Path:
    """Return the first of path + mark + first, path + mark + (first + 1), … that does not exist."""
    number = first
    while (candidate := path.with_name(f"{path.name}{mark}{number}")).exists():
        number += 1
    return candidate
