"""Results as HTML, with images as data URIs: nothing is written to the disk, and all text is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from flowleap import pictures
from flowleap.app.sampling import Made
from flowleap.formatting import number, plural
from flowleap.reports import Neighbors
from flowleap.reports.charts import Chart, draw
from flowleap.reports.images import VIEW, dots, frame

STYLE = Path(__file__).with_name("style.css")
SHARP = 64
"""Images of up to this size are enlarged without smoothing."""


def message(text: object, kind: str = "note") -> str:
    """Return a note, or an error of kind "error", which screen readers announce."""
    role = ' role="alert"' if kind == "error" else ""
    return f'<p class="fl-{kind}"{role}>{escape(str(text))}</p>'


def facts(parts: Iterable[str]) -> str:
    """Return a line of facts."""
    return f'<p class="fl-facts">{" · ".join(escape(part) for part in parts)}</p>'


def section(title: str, *content: str) -> str:
    """Return content below a title."""
    return f'<section class="fl-section"><h3>{escape(title)}</h3>{"".join(content)}</section>'


def beside(sections: Sequence[str]) -> str:
    """Return sections beside one another where there is room."""
    return f'<div class="fl-beside">{"".join(sections)}</div>'


def source(picture: Image.Image) -> str:
    """Return a picture as the data URI of a PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def gallery(images: Tensor, captions: Sequence[str], names: Sequence[str], columns: int | None = None) -> str:
    """Return images in a grid; a click on one of them saves it as a PNG file.

    Args:
        captions: below each image, "" for none. names: of each image, for its file and for screen readers.
        columns: as many as fit without.

    Shapes: (n, 1 or 3, height, width) in [−1, 1].
    """
    sharp = " fl-sharp" if max(images.shape[-2:]) <= SHARP else ""
    figures = []
    for picture, caption, name in zip(pictures.images(images), captions, names, strict=True):
        file = "".join(c if c.isalnum() or c in "-_" else "-" for c in name)
        below = f"<figcaption>{escape(pictures.printable(caption))}</figcaption>" if caption else ""
        figures.append(
            f'<figure><a href="#" download="{escape(file)}.png" title="Save this image" '
            f'onclick="this.href=this.firstElementChild.src"><img src="{source(picture)}" alt="{escape(name)}" '
            f'width="{picture.width}" height="{picture.height}"></a>{below}</figure>'
        )
    style = f' style="--columns:{columns}"' if columns else ""
    kind = "fl-rows" if columns else "fl-grid"
    return f'<div class="{kind}{sharp}"{style}>{"".join(figures)}</div>'


def cloud(points: Tensor, name: str) -> str:
    """Return points in the plane as a scatter plot. Shapes: (n, 2)."""
    view = frame(points)
    return (
        f'<svg class="fl-cloud" viewBox="0 0 {VIEW} {VIEW}" role="img" aria-label="{escape(name)}">'
        f'<path d="{dots(points, view)}"/></svg>'
    )


def samples(made: Made, columns: int | None = None, *, captions: bool = True) -> str:
    """Return samples: images in a grid, points as a scatter plot, or why they cannot be shown."""
    shape, run = tuple(made.model.shape), made.model.run
    whole = f"{run.folder.name}, seed {made.asked.seed}, {plural(made.asked.steps, 'step')}"
    if shape == (2,):
        return cloud(made.samples, f"{len(made.samples)} points of {whole}")
    if run.kind == "latents" and made.model.decoder is None:
        return message("these samples are latents, and what decodes them is not at hand: name it with --vae")
    if len(shape) != 3 or shape[0] not in (1, 3):
        return message(
            f"samples of shape {shape} are neither images of 1 or 3 channels nor points in the plane"
        )
    told = [f", {name}" if name else "" for name in made.names]
    names = [f"{whole}, sample {index}{of}" for index, of in enumerate(told)]
    below = made.names if captions else [""] * len(names)
    return gallery(made.samples, below, names, columns)


def about(made: Made) -> str:
    """Return what samples are and took, and advice on how they were asked for."""
    count, run = len(made.samples), made.model.run
    scale = [] if made.guidance is None else [f"guidance {made.guidance:g}"]
    each = made.seconds / count * 1e3
    parts = [
        f"{count} {'points' if run.kind == 'points' else 'images'}",
        f"{plural(made.nfe, 'network evaluation')} each",
        f"{number(made.seconds)} s, {number(each)} ms each",
        *scale,
        f"seed {made.asked.seed}",
        f"weights {run.weights}",
    ]
    unfinished = run.imported is None and run.step < run.length
    going = [f"still in training: weights of step {run.step:,} of {run.length:,}"] if unfinished else []
    return facts(parts) + "".join(message(note) for note in [*going, *made.notes])


def difference(made: Made, reference: Made) -> str:
    """Return how far samples are from those of other steps, as a root mean square over pixels."""
    rms = float((made.samples - reference.samples).square().mean().sqrt())
    return f"RMS difference from {plural(reference.asked.steps, 'step')}: {number(rms)}"


def neighbors(known: Neighbors, name: str) -> str:
    """Return samples, each above the training image nearest to it, and the distances."""
    pairs = torch.stack([known.samples, known.nearest], dim=1).flatten(0, 1)
    distances = [f"{number(float(value))}" for value in known.distance]
    captions = [word for distance in distances for word in ("sample", f"at {distance}")]
    names = [
        f"{name}, {what} {index}"
        for index in range(len(distances))
        for what in ("sample", "nearest training image")
    ]
    cells = [
        gallery(
            pairs[2 * index : 2 * index + 2],
            captions[2 * index : 2 * index + 2],
            names[2 * index : 2 * index + 2],
            1,
        )
        for index in range(len(distances))
    ]
    typical = (
        f"Distances are Euclidean, of pixels in [−1, 1]. Between a real image and the one nearest to it the median is "
        f"{number(known.typical)}: samples that are much closer than that are copies."
    )
    return message(typical) + f'<div class="fl-pairs">{"".join(cells)}</div>'


def charts(found: Sequence[Chart]) -> str:
    """Return charts as SVG elements with the colors of the page."""
    plots = [
        f'<section class="fl-plot"><h3>{escape(chart.title)}</h3>{draw(chart, f"curve{index}")}'
        f"<p>{escape(chart.caption)}</p></section>"
        for index, chart in enumerate(found)
    ]
    return f'<div class="fl-charts">{"".join(plots)}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table, which scrolls sideways where it is too wide."""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    whole = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="fl-scroll" tabindex="0">{whole}</div>'
