"""One image file: what its header says, and its pixels, in grey or in color."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flowleap.data.view import View

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "COLOR",
    "FAULTS",
    "GREY",
    "SEE_THROUGH",
    "Encoded",
    "Faulty",
    "Header",
    "decode",
    "fault_of",
    "opened",
    "probe",
]

Encoded = str | os.PathLike[str] | bytes | np.ndarray
"""A file by its path, its bytes, or pixels uint8 (height, width[, 3]) that are unpacked already."""
GREY = ("1", "L")
COLOR = ("RGB", "P", "CMYK", "YCbCr")
SEE_THROUGH = ("LA", "La", "PA", "RGBA", "RGBa")
FAULTS: dict[str, str] = {
    "unreadable": "cannot be read",
    "mode": "have other pixels than 8 bits, grey or colored",
    "transparent": "are transparent in places",
    "small": "are too small",
}
"""Why an image cannot be trained on, and how that is said of several."""
SINGULAR = {"have": "has", "are": "is"}
TURNED = 5  # from this value on the EXIF orientation exchanges width and height
TAIL = 64
ENDS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}


def fault_of(kind: str, count: int) -> str:
    """Say what so many images have or are that cannot be used.

    >>> fault_of("small", 2), fault_of("small", 1)
    ('are too small', 'is too small')
    """
    verb, _, rest = FAULTS[kind].partition(" ")
    return f"{SINGULAR.get(verb, verb) if count == 1 else verb} {rest}"


class Faulty(ValueError):
    """An image that cannot be used; `kind` is one of `FAULTS`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[Faulty], tuple[str, str]]:
        return Faulty, (self.kind, str(self))


class Header(NamedTuple):
    """What is known of an image before its pixels are: its size as it is seen, and whether it is colored."""

    width: int
    height: int
    colored: bool
    mode: str
    alpha: bool


@contextmanager
def opened(file: Encoded, name: str) -> Iterator[Image]:
    """Open an image; what goes wrong inside is said of its name.

    Raises: Faulty where it cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    broken = (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        EOFError,
        ValueError,
        Image.DecompressionBombError,
    )
    try:
        if isinstance(file, np.ndarray):
            yield Image.fromarray(file)
            return
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            yield image
    except Faulty:
        raise
    except broken as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise Faulty(
            "unreadable", f"{name} cannot be read as an image ({reason}): repair or remove it"
        ) from None


def probe(file: Encoded, name: str) -> Header:
    """What the header of an image says; its pixels are decoded only where it seems to be cut off, or see-through.

    Raises: Faulty for what cannot be trained on.
    """
    with opened(file, name) as image:
        header = _header(image)
        complete = _complete(file, image.format)
    if header.mode not in GREY + COLOR + SEE_THROUGH:
        raise Faulty("mode", f"{name} has pixels of mode {header.mode!r}: convert it to 8 bits, grey or RGB")
    if header.alpha or not complete:
        decode(file, name)
    return header


def decode(file: Encoded, name: str, view: View | None = None) -> np.ndarray:
    """The pixels of an image, turned as a camera notes in it, and seen as a view says.

    Shapes: -> uint8 (height, width) or (height, width, 3). Raises: Faulty for what cannot be trained on.
    """
    with opened(file, name) as image:
        header = _header(image)
        if header.mode not in GREY + COLOR + SEE_THROUGH:
            raise Faulty(
                "mode", f"{name} has pixels of mode {header.mode!r}: convert it to 8 bits, grey or RGB"
            )
        if view is not None:
            if view.small(header.width, header.height):
                raise Faulty(
                    "small",
                    f"{name} has {header.width} × {header.height} pixels, and {view.size} × {view.size} are wanted",
                )
            view.drafted(image)
        if header.alpha and not bool((np.asarray(image.convert("RGBA"))[..., 3] == 255).all()):
            raise Faulty("transparent", f"{name} is transparent in places: put it on a background first")
        made, mode = _turned(image), "RGB" if header.colored else "L"
        made = made if made.mode == mode else made.convert(mode)
        return np.asarray(made if view is None else view(made))


def _header(image: Image) -> Header:
    width, height = image.size
    if _orientation(image) >= TURNED:
        width, height = height, width
    alpha = image.mode in SEE_THROUGH or "transparency" in image.info
    return Header(width, height, image.mode not in (*GREY, "LA", "La"), image.mode, alpha)


def _orientation(image: Image) -> int:
    if image.format not in ("JPEG", "MPO", "TIFF", "WEBP") and "exif" not in image.info:
        return 1
    return int(image.getexif().get(0x0112, 1) or 1)


def _turned(image: Image) -> Image:
    if _orientation(image) == 1:
        return image
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _complete(file: Encoded, kind: str | None) -> bool:
    """Whether a file ends as its format does; what does not may be whole all the same, with something after it."""
    if kind not in ENDS or isinstance(file, np.ndarray):
        return True
    if isinstance(file, bytes):
        return ENDS[kind] in file[-TAIL:]
    with open(file, "rb") as handle:
        handle.seek(0, os.SEEK_END)
        handle.seek(max(0, handle.tell() - TAIL))
        return ENDS[kind] in handle.read()
