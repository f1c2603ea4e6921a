"""Data sets at a path or an address: files are found, opened and preprocessed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flowleap.data import idx
from flowleap.data.arrays import in_memory, levels_in, open_arrays
from flowleap.data.dataset import Dataset
from flowleap.data.huggingface import is_address, open_table
from flowleap.data.pixels import decode, planes
from flowleap.data.prepare import introduced, prepare
from flowleap.data.preprocessing import Preprocessing
from flowleap.data.rows import Rows
from flowleap.data.store import Files, Store, files_of, looked_at, trained_on

__all__ = ["from_path", "is_folder", "open_images", "present", "store_of"]


def present(text: str | Path) -> bool:
    """Whether there is something at a path, or this is the address of a table."""
    return is_address(text) or Path(text).exists()


def is_folder(text: str | Path) -> bool:
    """Whether this is the path of a folder of image files."""
    path = Path(text)
    return not is_address(text) and path.is_dir() and not idx.is_idx(path)


def from_path(
    text: str | Path, split: str | None = None, preprocessing: Preprocessing | None = None
) -> Dataset:
    """Read the images at a path or an address, or open them where they do not fit into memory.

    Args:
        split: the part to take; that for training by default, where there are parts.
        preprocessing: how images are taken; as `Preprocessing` does by default.

    Raises: ValueError for what cannot be read, or is refused by the preprocessing.
    """
    preprocessing = preprocessing or Preprocessing()
    if not is_address(text) and not is_folder(text):
        images = open_images(text, split)
        if images.shape[1:] == (preprocessing.size, preprocessing.size) or (
            preprocessing.size is None and preprocessing.square is None
        ):
            return introduced(
                replace(in_memory(images, preprocessing.memory), preprocessing=preprocessing, path=str(text))
            )
    return prepare(
        store_of(text, split, partial(trained_on, strict=preprocessing.strict)), preprocessing, str(text)
    )


def store_of(
    text: str | Path, split: str | None = None, files: Callable[[Path, str | None], Files] = looked_at
) -> Store:
    """The images at a path or an address as they are encoded.

    Args:
        files: which images of a folder are taken, and what is refused: `store.looked_at`, `trained_on` or `files_of`.

    Raises: ValueError for what holds no images, and for a split that is not there.
    """
    if is_address(text):
        return open_table(str(text), split)
    return files(Path(text), split) if is_folder(text) else levels_in(open_images(text, split))


def open_images(path: Path | str, split: str | None = None) -> Dataset:
    """Open images without reading them: a folder of image files of one size, or what `arrays.open_arrays` takes.

    A folder is searched through, in the order of its paths; where all files lie in sub-folders, the first of these
    is the class.

    Args:
        split: "train" or "test": the sub-folder, arrays or files to take; None takes all of a folder of images, the
            split of an IDX file, and train of everything else.

    Raises: ValueError for what holds no images, for other shapes and types, for a split that is not there.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist: give a folder of images, an .npz, or IDX files")
    if not is_folder(path):
        return open_arrays(path, split)
    files = files_of(path, split)
    first = planes(decode(files.name(0), files.name(0)))
    channels, height, width = first.shape
    return Dataset(
        files.called,
        Rows(_Alike(files, (channels, height, width)), len(files), first.shape),
        files.label,
        None if files.label is None else len(files.classes),
        source=files.called,
        split=files.split,
        path=str(path),
        held_out=files.held_out,
        classes=files.classes,
        notes=files.notes,
    )


@dataclass(frozen=True, eq=False)
class _Alike:
    """Decodes files that must look like the first one; grey ones fit among colored ones.

    Shapes: int64 (k,) -> uint8 (k, *one). Raises: ValueError naming the file that does not fit.
    """

    files: Files
    one: tuple[int, int, int]

    def __call__(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(np.stack([self.image(row) for row in rows.tolist()]))

    def image(self, row: int) -> np.ndarray:
        """One image. Shapes: -> uint8 (*one)."""
        (channels, *sides), first, file = self.one, self.files.name(0), self.files.name(row)
        image = planes(decode(file, file))
        found = list(image.shape[1:])
        if found != sides:
            side = 1 << (min(*found, *sides).bit_length() - 1)
            raise ValueError(
                f"images must have one size: {first} has {sides[1]} × {sides[0]}, {file} has {found[1]} × {found[0]}; "
                f"crop and resize all to one square, such as {side} × {side}"
            )
        if len(image) > channels:
            raise ValueError(f"{first} is grey and {file} is colored: store all in color, or all in grey")
        return np.broadcast_to(image, self.one)
