"""Pictures of samples and of numbers: image grids, scatter plots, curves.

Images are tensors (n, channels, height, width) in [−1, 1], points are (n, 2). Grids need Pillow only; scatter
plots, curves and non-ASCII letters need matplotlib, which is imported on first use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flowleap.data.pixels import DRAWN
from flowleap.files import replace_file

if TYPE_CHECKING:
    from PIL import Image as PillowImage
    from PIL.ImageFont import FreeTypeFont, ImageFont

PAPER = "#ffffff"
LINE = "#1f242b"  # between the images of a grid; dark, so that the edges of light images are visible
INK = "#1f2328"
FAINT = "#8c959f"
RULE = "#d0d7de"
BLUE = "#0969da"
COLORS = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#9a6700", "#bf3989")
CELL = 48  # small images are enlarged to at least this many pixels
GUTTER = 6
NAMED = 20
"""Up to this many classes have rows with their names in a grid."""


def pixels(images: Tensor) -> Any:
    """Return images in [−1, 1] as 8-bit colors: round(127.5 (x + 1)), clamped; NaN and infinity become middle gray.

    Shapes: (n, 1 or 3, height, width) -> (n, height, width, 3), a uint8 numpy array.
    Raises: ValueError for another number of dimensions or channels.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images of shape {tuple(images.shape)}: expected (n, 1 or 3, height, width)")
    colors = images.detach().float().cpu().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    colors = ((colors.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)
    return colors.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


def images(samples: Tensor) -> list[PillowImage.Image]:
    """Return one Pillow image per sample in its own size, gray where there is one channel.

    Shapes: (n, 1 or 3, height, width). Raises: ValueError as `pixels`.
    """
    from PIL import Image

    gray = samples.ndim == 4 and samples.shape[1] == 1
    return [Image.fromarray(colors[..., 0] if gray else colors) for colors in pixels(samples)]


def tiles(images: Tensor, cell: int = CELL) -> list[PillowImage.Image]:
    """Return one Pillow image per sample, small ones enlarged smoothly by a whole number to at least `cell` pixels.

    Shapes: (n, 1 or 3, height, width). Raises: ValueError as `pixels`.
    """
    from PIL import Image

    factor = max(1, math.ceil(cell / max(images.shape[-2:])))
    size = (images.shape[-1] * factor, images.shape[-2] * factor)
    made = [Image.fromarray(colors) for colors in pixels(images)]
    return made if factor == 1 else [tile.resize(size, Image.Resampling.BICUBIC) for tile in made]


def grid(
    images: Tensor,
    columns: int | None = None,
    cell: int = CELL,
    gutter: int = GUTTER,
    *,
    label: Tensor | None = None,
    names: Sequence[str] = (),
) -> PillowImage.Image:
    """Samples in rows of `columns`, by default nearly a square.

    With 2 to `NAMED` classes, each class has rows of its own, with its name on the left.

    Args:
        label: the class of each image, None for no names. names: of all classes.

    Shapes: (n, 1 or 3, height, width), label (n,).
    Raises: ValueError without images, with less than one column, or as `pixels`.
    """
    from PIL import Image, ImageDraw

    if len(images) == 0:
        raise ValueError("a grid needs at least one image, got none")
    columns = math.ceil(math.sqrt(len(images))) if columns is None else columns
    if columns < 1:
        raise ValueError(f"columns={columns}: a grid needs at least one column")
    made = tiles(images, cell)
    width, height = made[0].size
    lines = _lines(len(made), columns, label, names)
    font = typeface(max(8, min(16, height // 2)), *(name for name, _ in lines))
    margin = max(int(font.getlength(name)) for name, _ in lines)
    left, columns = gutter + (margin + gutter if margin else 0), max(len(members) for _, members in lines)
    size = (left + columns * (width + gutter), len(lines) * (height + gutter) + gutter)
    canvas = Image.new("RGB", size, LINE)
    draw = ImageDraw.Draw(canvas)
    for row, (name, members) in enumerate(lines):
        top = gutter + row * (height + gutter)
        draw.text((gutter, top + height // 2), name, fill=RULE, font=font, anchor="lm")
        for column, index in enumerate(members):
            canvas.paste(made[index], (left + column * (width + gutter), top))
    return canvas


def _lines(
    count: int, columns: int, label: Tensor | None, names: Sequence[str]
) -> list[tuple[str, list[int]]]:
    """The images of each row of a grid, with the name of its class in the first row of a class."""
    found = [] if label is None or not names else label.unique(sorted=True).tolist()
    if label is None or not 2 <= len(found) <= NAMED:
        return [("", list(range(start, min(start + columns, count)))) for start in range(0, count, columns)]
    lines = []
    for number in found:
        members = (label == number).nonzero().flatten().tolist()
        for start in range(0, len(members), columns):
            name = "" if start else printable(names[number])
            lines.append((name, members[start : start + columns]))
    return lines


def printable(name: str, most: int = 24) -> str:
    """A name truncated to `most` characters, without lone surrogates."""
    text = name.encode("utf-8", "replace").decode()
    return text if len(text) <= most else f"{text[: most - 1]}…"


def typeface(size: int, *texts: str) -> FreeTypeFont | ImageFont:
    """Return a font for some texts: that of Pillow, which has ASCII letters only, or DejaVu Sans of matplotlib.

    DejaVu Sans has Latin, Greek, Cyrillic, Arabic and Hebrew letters, but no Chinese, Japanese or Korean ones.
    """
    from PIL.ImageFont import load_default, truetype

    if all(text.isascii() for text in texts):
        return load_default(size=size)
    import matplotlib

    return truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def figure(
    panels: Mapping[int, Tensor],
    columns: int = 10,
    abreast: int | None = None,
    cell: int = CELL,
    *,
    label: Tensor | None = None,
    names: Sequence[str] = (),
) -> PillowImage.Image:
    """Return one titled grid for each NFE, for samples from the same noise; see `grid`.

    Shapes: panels maps the NFE to images (n, 1 or 3, height, width). `abreast` panels
    stand in a row, by default two where there are four, else up to three.
    Raises: ValueError without panels, or as `grid`.
    """
    from PIL import Image, ImageDraw

    if not panels:
        raise ValueError("a figure needs at least one panel, got none")
    grids = {
        f"NFE {nfe}": grid(images, columns, cell, label=label, names=names) for nfe, images in panels.items()
    }
    abreast = (2 if len(grids) == 4 else min(3, len(grids))) if abreast is None else abreast
    text, space = 22, 32
    width = max(picture.width for picture in grids.values())
    height = max(picture.height for picture in grids.values()) + text + 10
    rows = math.ceil(len(grids) / abreast)
    size = (space + min(abreast, len(grids)) * (width + space), space // 2 + rows * (height + space))
    canvas = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(canvas), typeface(text)
    for index, (title, picture) in enumerate(grids.items()):
        row, column = divmod(index, abreast)
        left, top = space + column * (width + space), space // 2 + row * (height + space)
        draw.text((left, top), title, fill=INK, font=font)
        canvas.paste(picture, (left, top + text + 10))
    return canvas


def sheet(
    sections: Mapping[str, Sequence[tuple[str, PillowImage.Image]]], columns: int = 10, cell: int = 96
) -> PillowImage.Image:
    """Return titled rows of pictures with a caption below each, resized to equal cells.

    Args:
        sections: titles, each with (caption, picture) pairs; captions are cut to the width of a cell.

    Raises: ValueError without sections.
    """
    from PIL import Image, ImageDraw, ImageOps

    if not sections:
        raise ValueError("a sheet needs at least one section, got none")
    space, line, head = 12, 16, 40
    lines = {title: -(-len(shown) // columns) for title, shown in sections.items()}
    height = space + sum(head + rows * (cell + line + space) for rows in lines.values())
    canvas = Image.new("RGB", (space + columns * (cell + space), height), PAPER)
    draw = ImageDraw.Draw(canvas)
    title_font = typeface(18, *sections)
    font = typeface(11, *(caption for shown in sections.values() for caption, _ in shown))
    top = space
    for title, shown in sections.items():
        draw.text((space, top + 6), title, fill=INK, font=title_font)
        top += head
        for index, (caption, picture) in enumerate(shown):
            row, column = divmod(index, columns)
            left, upper = space + column * (cell + space), top + row * (cell + line + space)
            kind = Image.Resampling.NEAREST if max(picture.size) * 2 <= cell else Image.Resampling.LANCZOS
            fitted = ImageOps.contain(picture.convert("RGB"), (cell, cell), kind)
            canvas.paste(fitted, (left + (cell - fitted.width) // 2, upper + (cell - fitted.height) // 2))
            while caption and draw.textlength(caption, font=font) > cell:
                caption = f"…{caption.lstrip('…')[1:]}"
            draw.text((left, upper + cell + 1), caption, fill=FAINT, font=font)
        top += lines[title] * (cell + line + space)
    return canvas


def save(picture: PillowImage.Image, path: str | Path) -> Path:
    """Write a picture as PNG, atomically."""
    from PIL.PngImagePlugin import PngInfo

    path, about = Path(path), PngInfo()
    about.add_text(*DRAWN)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda partial: picture.save(partial, format="PNG", optimize=True, pnginfo=about))
    return path


def _axes(width: float, height: float, panels: int = 1) -> tuple[Any, list[Any]]:
    """A matplotlib figure with axes, without a display and without changing the global state of matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(width, height), dpi=160, layout="constrained", facecolor="white")
    FigureCanvasAgg(drawing)
    return drawing, [drawing.add_subplot(1, panels, index + 1) for index in range(panels)]


def _write(drawing: Any, path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda partial: drawing.savefig(partial, format="png", metadata=dict([DRAWN])))
    return path


def scatter(panels: Mapping[str, Tensor], path: str | Path, real: Tensor | None = None) -> Path:
    """Write scatter plots of point sets side by side on equal axes, the real data first, as PNG.

    Shapes: panels maps titles to points (n, 2); real (m, 2) or None.
    Raises: ValueError without panels, or for other shapes.
    """
    shown = ({} if real is None else {"real data": real}) | dict(panels)
    for title, points in shown.items():
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"{title}: points of shape {tuple(points.shape)}, expected (n, 2)")
    if not shown:
        raise ValueError("a scatter plot needs at least one set of points, got none")
    frame = next(iter(shown.values())).detach().float().cpu()
    center, reach = frame.mean(dim=0), 1.25 * (frame - frame.mean(dim=0)).abs().max().item() + 1e-6
    drawing, axes = _axes(2.6 * len(shown), 2.9, len(shown))
    for axis, (title, points) in zip(axes, shown.items(), strict=True):
        points = points.detach().float().cpu()
        color = INK if title == "real data" else BLUE
        size = max(0.4, min(6.0, 3000.0 / max(1, len(points))))
        axis.scatter(points[:, 0].numpy(), points[:, 1].numpy(), s=size, color=color, alpha=0.5, linewidths=0)
        axis.set_title(title, fontsize=10, color=INK)
        axis.set_xlim(float(center[0]) - reach, float(center[0]) + reach)
        axis.set_ylim(float(center[1]) - reach, float(center[1]) + reach)
        axis.set_aspect("equal")
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_color(RULE)
    return _write(drawing, path)


def smooth(values: Sequence[float], window: int) -> list[float]:
    """The running mean of the finite values among the last `window`; NaN if there are none."""
    means = []
    for stop in range(1, len(values) + 1):
        seen = [value for value in values[max(0, stop - window) : stop] if math.isfinite(value)]
        means.append(sum(seen) / len(seen) if seen else math.nan)
    return means


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    path: str | Path,
    *,
    xlabel: str = "step",
    ylabel: str = "",
    title: str = "",
    log: bool = False,
    window: int | None = None,
) -> Path:
    """Write a line plot as PNG; each line is smoothed over `window` points, with the raw values faint behind.

    `series` maps a name to (x, y). `window` is by default a fiftieth of each line; 1 for no smoothing.
    Values that are not finite leave gaps.
    Raises: ValueError without series, or where x and y differ in length.
    """
    if not series:
        raise ValueError("curves need at least one series, got none")
    drawing, (axis,) = _axes(6.4, 3.2)
    _plot(axis, series, title, xlabel, window)
    axis.set_ylabel(ylabel, color=INK)
    if log:
        _log_scale(axis)
    return _write(drawing, path)


def panels(
    series: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float | None]]]],
    path: str | Path,
    *,
    xlabel: str = "",
    log: bool = False,
) -> Path:
    """Write small line plots side by side, one for each title, as PNG.

    `log` is for the common x; values that are None leave gaps.
    Raises: ValueError without panels, or where x and y differ in length.
    """
    if not series:
        raise ValueError("a picture needs at least one panel, got none")
    drawing, axes = _axes(3.2 * len(series), 2.6, len(series))
    for axis, (title, lines) in zip(axes, series.items(), strict=True):
        _plot(axis, lines, title, xlabel, window=1, marker="o")
        axis.set_xscale("log" if log else "linear")
        axis.set_ylim(bottom=0)
    return _write(drawing, path)


def _plot(
    axis: Any,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float | None]]],
    title: str,
    xlabel: str,
    window: int | None,
    marker: str | None = None,
) -> None:
    """Draw lines on an axis without a frame, with a faint grid, and a legend where there are several."""
    for index, (name, (x, y)) in enumerate(lines.items()):
        if len(x) != len(y):
            raise ValueError(f"{name}: {len(x)} positions for {len(y)} values, expected as many")
        color, span = COLORS[index % len(COLORS)], max(1, len(y) // 50) if window is None else window
        heights = [math.nan if value is None else value for value in y]
        if span > 1:
            axis.plot(x, heights, color=color, alpha=0.22, linewidth=0.8)
        dot = "o" if len(y) < 2 else marker
        axis.plot(x, smooth(heights, span), color=color, linewidth=1.7, label=name, marker=dot, markersize=3)
    axis.set_title(title, loc="left", fontsize=10, color=INK)
    axis.set_xlabel(xlabel, color=INK)
    axis.grid(True, color="#eaeef2", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=FAINT, labelsize=9)
    for side, spine in axis.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(RULE)
    if len(lines) > 1:
        axis.legend(frameon=False, fontsize=9)


def _log_scale(axis: Any) -> None:
    """A logarithmic axis with ticks at 0.1, 0.2, 0.5, 1, …, and more of them on a short range."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_yscale("log")
    low, high = axis.get_ylim()
    subs = (1.0, 2.0, 5.0) if high > 10.0 * low else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    axis.yaxis.set_major_locator(LogLocator(subs=subs, numticks=20))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter("{x:g}")
