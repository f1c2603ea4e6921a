"""Trajectory: a jump ends where a solver and a shorter jump end, compared at the data. CTM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowleap.flow_map import FlowMap
from flowleap.interfaces import Composition, Identity
from flowleap.networks import dropout
from flowleap.point import Point, Target
from flowleap.tensors import Image, Label, Time, like, onto
from flowleap.velocities import Own, Teacher

__all__ = ["Trajectory"]


@dataclass(frozen=True)
class Trajectory(Identity):
    """The jump t → r ends where a solver t → s and then the stopped student s → r end, both seen from the data.

    X̂_s = Heun's method from x_t in steps of `point.finest`, with the velocity of the solver
    target = sg X⁻_{r→0}(X^{sg θ}_{s→r}(X̂_s)),  prediction = X⁻_{r→0}(X^θ_{t→r}(x_t))

    X⁻ is the frozen map. The prediction has a graph through its input, and none to its weights. Both are points at the
    time of the data, whatever r is; for r = 0 the frozen map is not asked. The step that ends at the data is Euler's,
    as in `samplers.heun`. On the linear path X_{t→r}(x) = (r/t) x + (1 − r/t) g with g = x − t F for F the average
    velocity, the parameterization of the paper.

    Only the consistency term of the paper, beside its denoising term on the rows r = t: no discriminator, and images
    are compared as they are rather than by the features of a network, as the loss of the objective says.

    Args:
        solver: whose velocity the solver follows: a teacher's, guided or not, or the frozen map's own, which needs no
            teacher. The own solver of the published code is one jump t → s of the frozen map instead.
        keep_labels: rows r < t never lose their label; False drops theirs too.

    Exact for: straight lines. Elsewhere the solver's error of order `point.finest`² remains.
    Waits for the device once, to count the steps of each row.
    Source: Kim et al. 2023 (arXiv 2310.02279), soft consistency, on any path; which of the maps is the student, which
    stopped and which the average is as in its code (sony/ctm).
    """

    solver: Teacher | Own = Teacher()
    keep_labels: bool = True
    asks_step: ClassVar[bool] = True
    space: ClassVar[str] = "map"
    template: ClassVar[dict[str, str]] = {
        "model type": "discrete",
        "first step t → s": "Heun's method on a grid, velocity of the solver",
        "second step s → r": "{output}, stopped; none where s = r",
        "one-step prediction": "{output}, compared at 0: r → 0 by the frozen map",
    }
    cites: ClassVar[tuple[str, ...]] = ("kim2023consistency",)

    @property
    def asks_velocity(self) -> tuple[str, str] | None:
        return ("solver=Own()", "solver=Teacher()") if self.solver.own else None

    @property
    def driven(self) -> bool:
        return self.solver.own

    def refusal(self, o: Composition) -> str | None:
        law = type(o.times).__name__
        if o.times.lands == "nowhere":
            return None
        if not o.times.has_stop:
            return (
                f"Trajectory follows the velocity from t to s, and {law} has s = r, so that one step of Euler's method "
                "goes all the way: use times=Trajectories(), or Adjacent(128)"
            )
        if o.times.taught_levels is not None:
            return (
                f"Trajectory asks for jumps s → r that {law} trains in other stages or not at all: use "
                f"target=SelfConsistency() with frozen=Refreshed(stages={o.times.taught_levels}), or "
                "times=Trajectories()"
            )
        return None

    def __call__(self, flow: FlowMap, frozen: FlowMap, point: Point) -> Target:
        p, label, end = point, point.network_label(frozen.num_classes), point.path.t_min
        assert p.onward is not None and p.output is not None
        t, s, r = p.times_on_cpu()
        before = onto((r > end).nonzero().squeeze(1), p.t.device)
        landed = flow.step(p.output, p.x_t, p.t, p.r)
        prediction = _jump(frozen.held(), landed, p.r, end, label, before)
        with torch.no_grad():
            x_s = _solve(self._field(frozen), p, _steps(t, s, p.finest), s > end, label)
            x_r = _jump(flow, x_s, p.s, p.r, label, p.onward)
            value = _jump(frozen, x_r, p.r, end, label, before)
        return Target(value, prediction, space="map")

    def _field(self, frozen: FlowMap) -> FlowMap:
        """Return the map whose instantaneous velocity the solver follows."""
        if self.solver.needs_teacher:
            raise ValueError(
                "Trajectory follows the velocity of a trained map, and none is given: use "
                "objective.with_teacher(flow), or Trajectory(solver=Own())"
            )
        return self.solver.map(frozen)


def _steps(t: Time, s: Time, length: float) -> Tensor:
    """Return how many steps of a length, the last one shorter where need be, lead from t to s; one where it is 0."""
    whole = (t - s) / length if length else torch.sign(t - s)
    return (whole - 1e-3).ceil().to(torch.int64)


def _solve(field: FlowMap, p: Point, steps: Tensor, above: Tensor, label: Label) -> Image:
    """Return where Heun's method leads from x_t at time s, in as many steps as each row is given.

    Rows with more steps come first, and of equally many those that end `above` the time of the data: every step, and
    the second evaluation in it, is made on a leading slice.
    """
    order = (2 * steps + above).argsort(descending=True, stable=True)
    rows = onto(order, p.t.device)
    x, t, s, known = p.x_t[rows], p.t[rows], p.s[rows], None if label is None else label[rows]
    left, above = steps[order], above[order]
    for done in range(int(left[0])):
        active, last = int((left > done).sum()), int((left > done + 1).sum())
        twice = last + int(above[last:active].sum())
        here = t[:active] - done * p.finest
        there = torch.cat([here[:last] - p.finest, s[last:active]])
        names = None if known is None else known[:active]
        with dropout.only(rows[:active]):
            x = torch.cat([_heun(field, x[:active], here, there, names, twice), x[active:]])
    return torch.empty_like(x).index_copy_(0, rows, x)


def _heun(field: FlowMap, x: Image, t: Time, s: Time, label: Label, twice: int) -> Image:
    """Return one step of Heun's method from t to s on the rows [0, twice), and of Euler's on the others."""
    slope, length = field.velocity(x, t, label=label), like(s - t, x)
    ahead = x + length * slope
    if twice:
        names = None if label is None else label[:twice]
        mean = (slope[:twice] + field.velocity(ahead[:twice], s[:twice], label=names)) / 2
        ahead = torch.cat([x[:twice] + length[:twice] * mean, ahead[twice:]])
    return ahead.to(x.dtype)


def _jump(flow: FlowMap, x: Image, t: Time, r: Time | float, label: Label, rows: Tensor) -> Image:
    """Return X_{t→r}(x) on these rows, and x on the others, for which the map is not asked."""
    if not len(rows):
        return x
    landing = torch.full_like(t, r) if isinstance(r, float) else r
    with dropout.only(rows):
        moved = flow(x[rows], t[rows], landing[rows], None if label is None else label[rows])
    return x.index_copy(0, rows, moved.to(x.dtype))
