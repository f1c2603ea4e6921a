"""Read .npz archives safely and in blocks: nothing is unpickled, and only the arrays asked for are decoded."""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

BROKEN = (zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, NotImplementedError)
MAGIC = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Archive:
    """An .npz, or an .npz.xz that was compressed as a whole.

    Raises: OSError if it cannot be opened; ValueError if it is no archive, truncated or damaged.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            whole: Any = self.path
            if self.path.suffix == ".xz":
                with lzma.open(self.path) as file:
                    whole = io.BytesIO(file.read())
            self._zip = zipfile.ZipFile(whole)
        except BROKEN as error:
            raise ValueError(
                f"{self.path} is no .npz archive, or was cut off ({error}): copy or download it again"
            ) from None
        self.names = tuple(
            name.removesuffix(".npy") for name in self._zip.namelist() if name.endswith(".npy")
        )

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """The shape and type of an array, without decoding it."""
        with self._open(name) as member:
            shape, _, dtype = self._header(name, member)
        return shape, dtype

    def read(self, name: str) -> np.ndarray:
        """Read a whole array.

        Raises: ValueError if it is missing, damaged, or holds Python objects.
        """
        with self._open(name) as member:
            try:
                return np.lib.format.read_array(member, allow_pickle=False)
            except (*BROKEN, ValueError) as error:
                raise self._damaged(name, error) from None

    def blocks(self, name: str, rows: int) -> Iterator[np.ndarray]:
        """Read an array in blocks of `rows` of its first axis, with one block in memory."""
        with self._open(name) as member:
            shape, fortran, dtype = self._header(name, member)
            if fortran and len(shape) > 1:  # Fortran order: rows are not contiguous
                whole = self.read(name)
                yield from (whole[start : start + rows] for start in range(0, len(whole), rows))
                return
            for start in range(0, shape[0], rows):
                part = (min(rows, shape[0] - start), *shape[1:])
                size = prod(part) * dtype.itemsize
                try:
                    held = member.read(size)
                except BROKEN as error:
                    raise self._damaged(name, error) from None
                if len(held) < size:
                    raise self._damaged(name, "it ends too early")
                yield np.frombuffer(held, dtype=dtype).reshape(part)

    def _open(self, name: str) -> Any:
        if name not in self.names:
            raise ValueError(
                f"{self.path} has no array {name!r}; it holds {', '.join(self.names) or 'no arrays'}"
            )
        try:
            return self._zip.open(f"{name}.npy")
        except BROKEN as error:
            raise self._damaged(name, error) from None

    def _header(self, name: str, member: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
        try:
            version = np.lib.format.read_magic(member)
            shape, fortran, dtype = MAGIC[version](member)
        except (*BROKEN, ValueError, KeyError) as error:
            raise self._damaged(name, error) from None
        if dtype.hasobject:
            raise self._damaged(name, "it holds Python objects, which are not loaded")
        return shape, fortran, dtype

    def _damaged(self, name: str, reason: object) -> ValueError:
        return ValueError(
            f"array {name!r} of {self.path} cannot be read ({reason}): copy or download the file again"
        )
