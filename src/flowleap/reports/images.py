"""Samples in a page: strips of images as data URIs, points as the path of an SVG."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

from torch import Tensor

from flowleap import pictures

CELL = 40  # pixels on the screen that a small image is enlarged to, at least
LARGEST = 96  # larger images are made smaller, so that a report stays a file to send
PLAIN = 48  # up to this size images are kept to the last bit
VIEW = 200  # the width of a scatter plot in the units of its path


@dataclass(frozen=True)
class Strip:
    """A row of images as one image: its data URI, its size on the screen and the distance of its columns in pixels."""

    source: str
    width: int
    height: int
    pitch: int
    pixelated: bool


def strip(images: Tensor, cell: int = CELL) -> Strip:
    """Return images side by side with transparent gutters; small ones keep their pixels, which the page enlarges.

    Shapes: (n, 1 or 3, height, width) in [−1, 1]. Raises: ValueError as `pictures.pixels`.
    """
    from PIL import Image

    made = [Image.fromarray(colors) for colors in pictures.pixels(images)]
    for picture in made:
        picture.thumbnail((LARGEST, LARGEST))
    width, height = made[0].size
    scale = max(1, math.ceil(cell / max(width, height)))
    gutter = 1 if scale > 2 else 4 // scale
    canvas = Image.new("RGBA", (len(made) * (width + gutter), height), (0, 0, 0, 0))
    for index, picture in enumerate(made):
        canvas.paste(picture, (index * (width + gutter), 0))
    small = max(width, height) <= PLAIN
    buffer = io.BytesIO()
    if small:
        gray = images.shape[1] == 1
        (canvas.convert("LA") if gray else canvas).save(buffer, format="PNG", optimize=True)
    else:
        canvas.save(buffer, format="WEBP", quality=90)
    kind = "png" if small else "webp"
    source = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    pitch = (width + gutter) * scale
    return Strip(source, pitch * len(made), height * scale, pitch, scale > 2)


@dataclass(frozen=True)
class Frame:
    """The square that scatter plots show, around `center` with half width `reach`."""

    center: tuple[float, float]
    reach: float


def frame(points: Tensor) -> Frame:
    """Return the square around the finite points of a set, with a margin.

    Shapes: (n, 2).
    """
    shown = points.detach().float().cpu()
    shown = shown[shown.isfinite().all(dim=1)]
    if not len(shown):
        return Frame((0.0, 0.0), 1.0)
    low, high = shown.amin(dim=0), shown.amax(dim=0)
    center = (low + high) / 2
    return Frame((float(center[0]), float(center[1])), 0.56 * float((high - low).max()) + 1e-6)


def dots(points: Tensor, view: Frame, most: int = 1500) -> str:
    """Return the SVG path of points in a square of 200 × 200, the second axis upwards, without those outside.

    Shapes: (n, 2).
    """
    shown = points[:most].detach().float().cpu()
    shown = shown[shown.isfinite().all(dim=1)]
    scale = VIEW / (2 * view.reach)
    parts = []
    for first, second in shown.tolist():
        x = VIEW / 2 + (first - view.center[0]) * scale
        y = VIEW / 2 - (second - view.center[1]) * scale
        if 0 <= x <= VIEW and 0 <= y <= VIEW:
            parts.append(f"M{x:.1f} {y:.1f}h0")
    return "".join(parts)
