"""A training step as values: the batch, the point (a batch with all random draws), the regression."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from flowleap.paths import Path
from flowleap.tensors import Image, Label, Time, guided_label, null_label, onto

__all__ = ["Batch", "Point", "Regression", "Target"]


@dataclass(frozen=True)
class Batch:
    """Data before any draw.

    Args:
        x: (batch, *dims), floating point.
        label: (batch,) int64, or None.
        noise: (batch, *dims) standard normal noise to use instead of drawing it, or None.
        row: (batch,) int64 on the CPU: which rows of the *global* batch these are; None for all of them.
        size: the size of the global batch; None where all of its rows are here. Draws depend on the row of the
            global batch, so the split over processes does not change them.
        context: (others, *dims): rows of the global batch that are not here, but that a velocity averages over with
            those that are (`PlugIn`), or that noise is paired with (`NearestPairs`); None for none. `context_label`
            (others,) are their classes, `context_row` (others,) int64 on the CPU which rows they are.

    Raises: ValueError where the sizes disagree.
    """

    x: Image
    label: Label = None
    noise: Image | None = None
    row: Tensor | None = None
    size: int | None = None
    context: Image | None = None
    context_label: Label = None
    context_row: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.x.is_floating_point():
            raise ValueError(
                f"Batch.x has dtype {self.x.dtype}: floating point images are expected, in [-1, 1]"
            )
        for name in ("label", "noise", "row"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.x):
                raise ValueError(f"Batch.{name} has {len(value)} rows, Batch.x has {len(self.x)}")
        if self.row is None and self.size is not None:
            raise ValueError(
                "Batch.row and Batch.size belong together: which rows of a global batch of which size"
            )
        if self.row is not None and not (
            len(self.row.unique()) == len(self.row)
            and 0 <= int(self.row.min()) <= int(self.row.max()) < self.total
        ):
            raise ValueError(
                f"Batch.row: different rows of [0, {self.total}) are expected, got {self.row.tolist()}"
            )

    @property
    def total(self) -> int:
        """The size of the global batch."""
        return len(self.x) if self.size is None else self.size


WHOLE = ("guided", "onward", "context", "context_label")
"""The tensors of a point that do not hold one entry for each of its rows."""
NUMBERS = ("step", "progress")
"""The plain numbers of a point that change from step to step: the loss is compiled anew for numbers it looks at."""
ON_CPU = ("group", "times")
"""The tensors of a point that stay on the CPU, which decides by them what is computed."""


@dataclass(frozen=True)
class Point:
    """A batch with every random draw made: rows [0, num_jumps) have r < t, the others r = t.

    Shapes: x, noise, x_t, v (batch, *dims); t, s, r (batch,); label, group, dropped, plug_in (batch,).
    `label` survives being dropped; `dropped` says which rows the network sees without it.
    `group` says which rows a set-level loss compares with one another, None where every row stands alone; the
    `group_size` rows of one group are neighbors and share their times.
    `times` (batch, 3) are t, s, r on the CPU, where it decides by them what is computed, see `times_on_cpu`.
    `keys` (batch,) say what a network with dropout drops in each row, the same in every evaluation of it.
    `context` (others, *dims) are rows of the global batch that are held elsewhere, and `context_label` their classes:
    a velocity may average over them, but nothing is learned from them here.
    `extra_noise` (batch, *dims) is the standard normal noise that samples are made of, where a part makes some, beside
    noise that is added to them.
    `guidance` (batch, 3) is what a network that takes guidance as an input is told of each row: the scale, and the
    first and the last time at which it is guided; None for a network that is not told.
    `guided` holds the indices of the rows that training guidance applies to, in rising order, of which the first
    `guided_jumps` have r < t; `onward` those of the rows with s > r, which have a second step s → r.
    `finest` is the step length at or below which a grid method asks for the instantaneous velocity, and in which a
    solver steps (0 where times are continuous); `jump_scale` is the scale at which frozen jumps of the guided rows are
    guided; `progress` is the fraction of the run that has passed.
    Set by `Objective.regress`: `v`, the velocity that drives the target, and `output`, the student's F(x_t, t, r) with
    a graph, (batch, *dims) both; `output` is None where the identity asks the student itself (`Identity.predicts`).
    """

    path: Path

    x: Image
    noise: Image
    t: Time
    s: Time
    r: Time
    x_t: Image
    num_jumps: int
    label: Label = None
    dropped: Tensor | None = None
    plug_in: Tensor | None = None
    group: Tensor | None = None
    guidance: Tensor | None = None
    guided: Tensor | None = None
    onward: Tensor | None = None
    guided_jumps: int = 0
    group_size: int = 1
    v: Image | None = None
    output: Image | None = None
    extra_noise: Image | None = None
    keys: Tensor | None = None
    times: Tensor | None = None
    context: Image | None = None
    context_label: Label = None
    finest: float = 0.0
    jump_scale: float = 1.0
    step: int = 0
    progress: float = 1.0

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device) -> Point:
        """Return the point with its tensors on this device; `group` and `times` stay on the CPU."""
        tensors = ((f.name, getattr(self, f.name)) for f in fields(self) if f.name not in ON_CPU)
        moved: dict[str, Any] = {name: onto(v, device) for name, v in tensors if isinstance(v, Tensor)}
        return replace(self, **moved)

    def times_on_cpu(self) -> tuple[Time, Time, Time]:
        """Return t, s and r on the CPU; this waits for the device where a point was made without `times`."""
        t, s, r = (
            torch.stack([self.t, self.s, self.r], dim=1).cpu() if self.times is None else self.times
        ).unbind(1)
        return t, s, r

    def rows(self, start: int, stop: int) -> Point:
        """Return the rows [start, stop) as a point of their own; indices of rows are kept for a leading slice only."""
        changes: dict[str, Any] = {
            f.name: getattr(self, f.name)[start:stop]
            for f in fields(self)
            if f.name not in WHOLE + NUMBERS and isinstance(getattr(self, f.name), Tensor)
        }
        num_jumps = max(0, min(self.num_jumps, stop) - start)
        guided, onward = (self.guided, self.onward) if start == 0 else (None, None)
        return replace(self, **changes, num_jumps=num_jumps, guided=guided, onward=onward)

    def network_label(self, num_classes: int | None) -> Label:
        """Return the label as the network sees it: dropped rows carry the null class, and no guidance.

        Shapes: → (batch,), or (batch, 4) with the guidance of each row, see `tensors.guided_label`; or None.
        Raises: ValueError where labels are dropped for a network without a null class.
        """
        if self.label is None:
            return None
        label = self.label if self.guidance is None else guided_label(self.label, self.guidance)
        if self.dropped is None:
            return label
        if num_classes is None:
            raise ValueError(
                "labels are dropped (label_dropout > 0) but the network has no `num_classes`, the index of its null "
                "class: set the attribute, or use label_dropout=0.0"
            )
        dropped = self.dropped if self.guidance is None else self.dropped[:, None]
        return torch.where(dropped, null_label(label, num_classes), label)


@dataclass(frozen=True)
class Target:
    """The target of an identity on the rows r < t.

    Args:
        value: F*, (rows, *dims), without a graph but where `sample` is given.
        prediction: F with a graph where the identity evaluated the student anyway (`ExactJVP`), or what it regresses in
            the place of F (`Lagrangian`); or None.
        derivative_norm: root mean square of dF/dt over the dimensions, (rows,), or of the multiple of it that the
            target adds up (`Eulerian(weighting="cos2")`), or of ∂_r X (`Lagrangian`); or None.
        space: "output" where F is compared with F*, "map" where `value` and `prediction` are points, "velocity" where
            they are average velocities.
        sample: what the student made, with a graph, where it is judged by `value` and `prediction`; or None.
    """

    value: Image
    prediction: Image | None = None
    derivative_norm: Tensor | None = None
    space: str = "output"
    sample: Image | None = None


@dataclass(frozen=True)
class Regression:
    """A prediction and its target, rows in the order of the point.

    Args:
        prediction: (batch, *dims), with a graph.
        target: (batch, *dims), without one but where `sample` is given.
        log_variance: ℓ of the network at (t, r), or at (t, t) where the loss asks for `of="t"`; (batch,) with a graph,
            or None.
        space: "output" where F is compared with F* on every row, "map" where points are compared on the rows r < t,
            "velocity" where average velocities are on every row.
            Losses compare what they are given.
        derivative_norm: root mean square of dF/dt over the dimensions of the off-diagonal rows, or None.
        sample: what the student made, (batch, *dims) with a graph, where it is judged by the other two; or None.
        velocity: what the velocity head predicts, (batch, *dims) with a graph, where the loss trains one; or None.
        velocity_target: the velocity that drives the target, guided, which it is regressed onto.
    """

    prediction: Image
    target: Image
    log_variance: Tensor | None = None
    space: str = "output"
    derivative_norm: Tensor | None = None
    sample: Image | None = None
    velocity: Image | None = None
    velocity_target: Image | None = None

    @property
    def raw(self) -> Tensor:
        """The unweighted error: the mean squared residual over the dimensions of each row, (batch,), no graph."""
        return (self.prediction - self.target).detach().flatten(1).float().square().mean(1)
