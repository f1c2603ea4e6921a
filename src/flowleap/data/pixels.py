"""Read one image file: its header, and its pixels in grey or color."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flowleap.data.preprocessing import ResizeCrop

if TYPE_CHECKING:
    from PIL.Image import Image

Encoded = str | os.PathLike[str] | bytes | np.ndarray
"""An image file by its path, its bytes, or decoded pixels uint8 (height, width[, 3])."""
GREY = ("1", "L")
COLOR = ("RGB", "P", "CMYK", "YCbCr")
SEE_THROUGH = ("LA", "La", "PA", "RGBA", "RGBa")
FAULTS: dict[str, str] = {
    "unreadable": "cannot be read",
    "mode": "have other pixels than 8 bits, grey or colored",
    "transparent": "are transparent in places",
    "small": "are too small",
}
"""Why an image cannot be trained on, and the words for several such images."""
SINGULAR = {"have": "has", "are": "is"}
DRAWN = ("Software", "flowleap")
"""The PNG text chunk of pictures that flowleap draws, such as grids, which are no images of a data set."""
ORIENTATION = 0x0112
"""The EXIF tag of the orientation: 2 to 8 turn or mirror the image, other values do nothing."""
TURNS = range(2, 9)
SIDEWAYS = range(5, 9)
"""The orientations that exchange width and height."""
ANIMATED = ("AVIF", "FLI", "GIF", "PNG", "TIFF", "WEBP")
"""Formats whose frames or pages are images; those of MPO are previews, of PSD layers."""
PNG = b"\x89PNG\r\n\x1a\n"
NOTED = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
"""Keys of `Image.info` in which Pillow finds an orientation."""
TAIL = 64
ENDS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}


def fault_of(kind: str, count: int) -> str:
    """The words for a kind of fault, of one or several images.

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
    """An image before it is decoded: its upright size; whether it is colored, may be transparent, has several frames
    or pages, and was drawn by flowleap.
    """

    width: int
    height: int
    colored: bool
    alpha: bool
    frames: bool = False
    drawn: bool = False


@contextmanager
def opened(file: Encoded, name: str) -> Iterator[Image]:
    """Open an image; errors inside the context name it.

    Raises: Faulty where it cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    bomb = Image.DecompressionBombError
    broken = (UnidentifiedImageError, OSError, SyntaxError, EOFError, ValueError, bomb)
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


def read_header(file: Encoded, name: str) -> Header:
    """Read the header of an image; pixels are decoded only if the file seems truncated or transparent.

    Raises: Faulty for an image that cannot be trained on.
    """
    with opened(file, name) as image:
        header, complete = _header(image, name), _complete(file, image.format)
    if header.alpha or not complete:
        decode(file, name)
    return header


def decode(file: Encoded, name: str, view: ResizeCrop | None = None) -> np.ndarray:
    """Decode an image, turned upright by its EXIF orientation, cropped and resized by a view.

    Shapes: -> uint8 (height, width) or (height, width, 3). Raises: Faulty for an image that cannot be trained on.
    """
    with opened(file, name) as image:
        header = _header(image, name)
        if view is not None:
            if view.small(header.width, header.height):
                raise Faulty(
                    "small",
                    f"{name} has {header.width} × {header.height} pixels, and {view.size} × {view.size} are wanted",
                )
            view.drafted(image)
        if header.alpha and transparent(image):
            raise Faulty("transparent", f"{name} is transparent in places: put it on a background first")
        made, mode = upright(image), "RGB" if header.colored else "L"
        made = made if made.mode == mode else made.convert(mode)
        return np.asarray(made if view is None else view(made))


def channels_first(pixels: np.ndarray) -> np.ndarray:
    """Pixels with the channels first.

    Shapes: (height, width) or (height, width, 3) -> (1 or 3, height, width).
    """
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def transparent(image: Image) -> float:
    """Return the share of pixels that are not opaque."""
    if image.mode not in SEE_THROUGH and "transparency" not in image.info:
        return 0.0
    return float((np.asarray(image.convert("RGBA"))[..., 3] < 255).mean())


def upright(image: Image) -> Image:
    """Return an opened image turned upright as EXIF or XMP say; decodes it if it is turned.

    Raises: as decoding.
    """
    if _orientation(image) not in TURNS:
        return image
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def frames(image: Image) -> bool:
    """Whether an opened image has several frames or pages, of which only the first is used."""
    if image.format not in ANIMATED:
        return False
    with suppress(EOFError, OSError, SyntaxError, ValueError):  # the rest may be damaged
        return bool(getattr(image, "is_animated", False))
    return False


def _header(image: Image, name: str) -> Header:
    if image.mode not in GREY + COLOR + SEE_THROUGH:
        raise Faulty("mode", f"{name} has pixels of mode {image.mode!r}: convert it to 8 bits, grey or RGB")
    if _orientation(image) in SIDEWAYS:
        width, height = upright(image).size if image.format == "TIFF" else image.size[::-1]
    else:
        width, height = image.size
    alpha = image.mode in SEE_THROUGH or "transparency" in image.info
    colored = image.mode not in (*GREY, "LA", "La")
    return Header(width, height, colored, alpha, frames(image), drawn(image))


def drawn(image: Image) -> bool:
    """Whether an opened image is a picture that flowleap drew, see `DRAWN`."""
    key, text = DRAWN
    return image.format == "PNG" and image.info.get(key) == text


def is_own_file(file: str) -> bool:
    """Whether a file is a picture that flowleap drew."""
    if not file.lower().endswith(".png"):
        return False
    try:
        with opened(file, file) as image:
            return drawn(image)
    except Faulty:
        return False


def _orientation(image: Image) -> object:
    """The orientation as `PIL.ImageOps.exif_transpose` finds it; 1 for none or one that cannot be read."""
    if image.format == "PNG" and not image.info.keys() & NOTED and not _noted_late(image):
        return 1  # Pillow would decode it to see what follows its pixels
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # whatever Pillow makes of bytes that are no EXIF
        return 1


def _noted_late(image: Image) -> bool:
    """Whether a PNG file, not decoded yet, has text or EXIF chunks behind its pixels."""
    file = image.fp  # type: ignore[attr-defined]
    if file is None:
        return False
    place, behind = file.tell(), False
    file.seek(len(PNG))
    try:
        while len(head := file.read(8)) == 8 and (kind := head[4:]) != b"IEND":
            if behind and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
                return True
            behind = behind or kind == b"IDAT"
            file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
        return False
    finally:
        file.seek(place)


def _complete(file: Encoded, kind: str | None) -> bool:
    """Whether a file ends as its format does; a whole file with trailing data may not."""
    if kind not in ENDS or isinstance(file, np.ndarray):
        return True
    if isinstance(file, bytes):
        return ENDS[kind] in file[-TAIL:]
    with open(file, "rb") as handle:
        handle.seek(0, os.SEEK_END)
        handle.seek(max(0, handle.tell() - TAIL))
        return ENDS[kind] in handle.read()
