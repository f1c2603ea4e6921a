"""The picture of a study: a row for each method, a block for each number of steps, all from the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowleap import autoencoders, evaluation, pictures, runs
from flowleap.data import Dataset
from flowleap.formatting import plural
from flowleap.runs import samples
from flowleap.studies.outcome import Outcome, Study

if TYPE_CHECKING:
    from PIL import Image as PillowImage

NAME = "samples.png"
IMAGES = 10
POINTS = 1500
SIDE = 160  # pixels of a cloud of points
CELL = 32
SPACE = 24


def drawable(dataset: Dataset) -> bool:
    """Whether samples can be drawn: images of one or three channels, latents with a decoder, or points in the plane."""
    if dataset.kind == "latents":
        return autoencoders.decoder_or_none(dataset.codec) is not None
    if dataset.kind == "image":
        return len(dataset.shape) == 3 and dataset.shape[0] in (1, 3)
    return dataset.shape == (2,)


def draw(study: Study, outcomes: Sequence[Outcome]) -> Path | None:
    """Draw samples of the first evaluated seed of every method; None where they cannot be drawn."""
    dataset = study.dataset
    if not drawable(dataset):
        return None
    rows: dict[str, list[Tensor | None]] = {}
    marks: dict[str, list[bool]] = {}
    for row in study.plan.shown:
        own = [outcome for outcome in outcomes if outcome.method == row.method and not outcome.failed]
        if own:
            run = runs.load_run(study.place(own[0]), device=study.plan.request.device)
            rows[row.method] = [sampled(run, steps) for steps in study.plan.request.steps]
            marks[row.method] = [not run.objective.advice(steps) for steps in study.plan.request.steps]
    titles = [plural(steps, "step") for steps in study.plan.request.steps]
    num = POINTS if dataset.kind == "points" else IMAGES
    real = samples.real(dataset, num, autoencoders.decoder_or_none(dataset.codec))
    return pictures.save(assembled(titles, rows, marks, real), study.out / NAME)


def sampled(run: runs.Run, steps: int) -> Tensor | None:
    """Return samples of a run, from the same noise for all runs; None where they are not finite."""
    num = POINTS if run.kind == "points" else IMAGES
    try:
        return samples.first(run, num, steps, run.decoder())
    except evaluation.NotFinite:
        return None


def cloud(points: Tensor, real: Tensor) -> Tensor:
    """Return a density plot of points in the plane, on the axes of the real ones.

    Shapes: points (n, 2), real (m, 2) -> (1, 1, side, side) in [−1, 1].
    """
    center = real.mean(dim=0)
    reach = 1.25 * float((real - center).abs().max()) + 1e-6
    place = ((points - center) / reach + 1.0) * (SIDE / 2)
    inside = ((place >= 0) & (place < SIDE)).all(dim=1)
    column, line = place[inside].long().unbind(1)
    counts = torch.zeros(SIDE, SIDE).index_put(
        (SIDE - 1 - line, column), torch.ones(len(line)), accumulate=True
    )
    blurred = torch.nn.functional.avg_pool2d(counts[None, None], 3, 1, 1) * 9
    return 1.0 - 2.0 * (blurred / 3.0).clamp(max=1.0)


def assembled(
    titles: Sequence[str],
    rows: dict[str, list[Tensor | None]],
    marks: dict[str, list[bool]],
    real: Tensor,
) -> PillowImage.Image:
    """Return the samples of all methods side by side, with real data below; what is not meant is marked."""
    from PIL import Image, ImageDraw

    font, small = pictures.typeface(20, *titles, *rows), pictures.typeface(15)
    reference = _block(real, real)
    wide, high = reference.size
    margin = max(int(font.getlength(name)) for name in [*rows, "real data"]) + 2 * SPACE
    size = (margin + len(titles) * (wide + SPACE), 2 * SPACE + 20 + (len(rows) + 1) * (high + SPACE))
    canvas = Image.new("RGB", size, pictures.PAPER)
    pen = ImageDraw.Draw(canvas)
    for column, title in enumerate(titles):
        pen.text((margin + column * (wide + SPACE), SPACE // 2), title, fill=pictures.INK, font=font)
    lines: list[tuple[str, list[Tensor | None]]] = [*rows.items(), ("real data", [real])]
    for index, (name, blocks) in enumerate(lines):
        top = SPACE + 20 + index * (high + SPACE)
        pen.text((SPACE, top + high // 2 - 12), name, fill=pictures.INK, font=font)
        for column, shown in enumerate(blocks):
            left = margin + column * (wide + SPACE)
            if shown is None:
                pen.text((left, top + high // 2 - 9), "not finite", fill=pictures.FAINT, font=small)
                continue
            canvas.paste(_block(shown, real), (left, top))
            if name in marks and not marks[name][column]:
                pen.text((left, top + high + 1), "(not meant for this)", fill=pictures.FAINT, font=small)
    return canvas


def _block(shown: Tensor, real: Tensor) -> PillowImage.Image:
    if shown.ndim == 2:
        return pictures.grid(cloud(shown, real), 1, cell=SIDE, gutter=1)
    return pictures.grid(shown, columns=5, cell=CELL, gutter=3)
