"""Open the images at a path or at an hf: address, and make them a data set."""

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
from flowleap.data.pixels import channels_first, decode
from flowleap.data.prepare import annotated, prepare
from flowleap.data.preprocessing import Preprocessing
from flowleap.data.rows import Rows
from flowleap.data.store import Files, Store, files_to_check, split_files, training_files


def present(text: str | Path) -> bool:
    """Whether there is something at a path, or this is an hf: address."""
    return is_address(text) or Path(text).exists()


def is_folder(text: str | Path) -> bool:
    """Whether this is the path of a folder of image files."""
    path = Path(text)
    return not is_address(text) and path.is_dir() and not idx.is_idx(path)


def from_path(
    text: str | Path, split: str | None = None, preprocessing: Preprocessing | None = None
) -> Dataset:
    """Load the images at a path or an address; those that do not fit into memory stay on the disk.

    Args:
        split: default: the training split, where there are splits.
        preprocessing: how images are cropped and resized; default: `Preprocessing()`.

    Raises: ValueError for images that cannot be read, or that `preprocessing` refuses.
    """
    preprocessing = preprocessing or Preprocessing()
    if not is_address(text) and not is_folder(text):
        images = open_images(text, split)
        if images.shape[1:] == (preprocessing.size, preprocessing.size) or (
            preprocessing.size is None and preprocessing.square is None
        ):
            return annotated(
                replace(in_memory(images, preprocessing.memory), preprocessing=preprocessing, path=str(text))
            )
    return prepare(
        store_of(text, split, partial(training_files, strict=preprocessing.strict)), preprocessing, str(text)
    )


def store_of(
    text: str | Path, split: str | None = None, files: Callable[[Path, str | None], Files] = files_to_check
) -> Store:
    """The encoded images at a path or an address.

    Args:
        files: chooses the images of a folder: `store.files_to_check`, `training_files` or `split_files`.

    Raises: ValueError without images, and for an unknown split.
    """
    if is_address(text):
        return open_table(str(text), split)
    return files(Path(text), split) if is_folder(text) else levels_in(open_images(text, split))


def open_images(path: Path | str, split: str | None = None) -> Dataset:
    """Open images without reading them: a folder of image files of one size, or a file as of `arrays.open_arrays`.

    Folders are searched recursively, in the order of their paths; where all files lie in sub-folders, the first of
    these is the class.

    Args:
        split: "train" or "test": the sub-folder, arrays or files to open; None: all of a folder of images, the split of
            an IDX file, and train of everything else.

    Raises: ValueError without images, for other shapes and types, for an unknown split.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist: give a folder of images, an .npz, or IDX files")
    if not is_folder(path):
        return open_arrays(path, split)
    files = split_files(path, split)
    first = channels_first(decode(files.name(0), files.name(0)))
    channels, height, width = first.shape
    x = Rows(_SameSize(files, (channels, height, width)), len(files), first.shape)
    return files.dataset(x, str(path), notes=files.notes)


@dataclass(frozen=True, eq=False)
class _SameSize:
    """Decodes files that must have the size of the first one; grey images become colored where the first is.

    Shapes: int64 (k,) -> uint8 (k, *one). Raises: ValueError naming the file that does not fit.
    """

    files: Files
    one: tuple[int, int, int]

    def __call__(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(np.stack([self.image(row) for row in rows.tolist()]))

    def image(self, row: int) -> np.ndarray:
        """Decode one image. Shapes: -> uint8 (*one)."""
        (channels, *sides), first, file = self.one, self.files.name(0), self.files.name(row)
        image = channels_first(decode(file, file))
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
