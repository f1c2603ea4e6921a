"""A learned solver: each of its few steps ends where many small ones end. AMED."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from flowleap.flow_map import FlowMap, Network, times_for
from flowleap.guidance import guide
from flowleap.interfaces import Composition, Identity
from flowleap.networks.solver import second_step
from flowleap.point import Point, Target
from flowleap.tensors import Image, Label, Time, like, onto
from flowleap.times import spaced
from flowleap.velocities import Teacher

__all__ = ["LearnedSolver", "SolverMap"]


@runtime_checkable
class Solver(Protocol):
    """A network with steps of its own, such as `networks.MeanDirection`; its output is an instantaneous one."""

    def __call__(self, x: Image, t: Time, r: Time, label: Label) -> Image: ...

    def solver_step(self, flow: FlowMap, x: Image, t: Time, r: Time, label: Label) -> Image: ...


@dataclass(frozen=True)
class SolverMap(FlowMap):
    """The flow map of a learned solver: X_{t→r}(x) is a step of the solver, F(x, t, t) that of its network.

    Args:
        solver: whose steps are taken, by evaluations of `network`: of the guided network where the map is guided. None
            for `network` itself.
    """

    solver: Solver | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.solver is None:
            object.__setattr__(self, "solver", self.network)

    def __call__(self, x: Image, t: Time | float, r: Time | float, label: Label = None) -> Image:
        """Return X_{t→r}(x), like x."""
        assert self.solver is not None
        return self.solver.solver_step(self, x, times_for(t, x), times_for(r, x), label)

    def velocity(
        self, x: Image, t: Time | float, r: Time | float | None = None, label: Label = None
    ) -> Image:
        """Return u = (X_{t→r}(x) − x)/(r − t); where r = t or None, the velocity of the network."""
        if r is None:
            return super().velocity(x, t, label=label)
        t, r = times_for(t, x), times_for(r, x)
        diagonal = (t - r).abs() <= 1e-7 * self.path.t_max
        u = (self(x, t, r, label) - x) / like(torch.where(diagonal, torch.ones_like(t), r - t), x)
        return torch.where(like(diagonal, x), super().velocity(x, t, label=label), u)

    def with_network(self, network: Network) -> FlowMap:
        """Return the map of another solver."""
        return _map_of(
            network, self.parameterization, self.path, self.conditioning, self.start, self.guidance_input
        )


def _map_of(network: Network, *meaning: Any) -> FlowMap:
    """Return a `SolverMap`; for a network that is no solver, such as the frozen one, a `FlowMap`."""
    return SolverMap(network, *meaning) if isinstance(network, Solver) else FlowMap(network, *meaning)


@dataclass(frozen=True)
class LearnedSolver(Identity):
    """A step X_{t→r} of a solver from a point of the teacher's trajectory, compared with where that is at r.

    The trajectory starts at the noise of the row and takes `substeps` midpoint steps of two evaluations on each
    interval of the solver. The data lend their labels, not their images.

    The network is a `networks.MeanDirection`: the teacher's, frozen, with a predictor of the step that is trained.
    Both are guided where the teacher is; samples then need the same guidance.

    Args:
        teacher: whose trajectories are followed.
        substeps: midpoint steps of the teacher to one step of the solver.

    Exact for: straight lines. Elsewhere the error of the teacher's midpoint rule remains, of order substeps⁻².
    Waits for the device once, to find the interval of each row.
    Raises: ValueError for fewer than two substeps, a network that is no solver, or without a teacher.
    Source: Zhou et al. 2023 (arXiv 2312.00094). Its code (zju-pi/diff-sampler) starts each step of this solver on the
    teacher's trajectory as well, and has Heun's method and two steps for the teacher; on the linear path the midpoint
    rule has less than a quarter of its error.
    """

    teacher: Teacher = Teacher()
    substeps: int = 4
    driven: ClassVar[bool] = False
    one_landing: ClassVar[bool] = False
    network_kind: ClassVar[str] = "MeanDirection"
    template: ClassVar[dict[str, str]] = {
        "model type": "solver",
        "first step t → s": "the frozen network, as far as the predictor says",
        "second step s → r": "the frozen network, from x_t with the velocity at s",
        "one-step prediction": "the step of the solver, compared with the teacher's trajectory at r",
    }
    cites: ClassVar[tuple[str, ...]] = ("zhou2023fast",)

    def __post_init__(self) -> None:
        if self.substeps < 2:
            raise ValueError(
                f"LearnedSolver(substeps={self.substeps}): the teacher takes smaller steps than the solver, at least 2"
            )

    def flow_map(self, network: Network, *meaning: Any) -> FlowMap:
        return _map_of(network, *meaning)

    def predicts(self, own: bool) -> bool:
        return True

    def sampling_advice(self, name: str, guidance: float | None) -> list[str]:
        trained, asked = self.teacher.guidance or 1.0, guidance or 1.0
        if trained == asked:
            return []
        meant = f"its steps are trained for guidance of scale {trained:g}"
        return [f"{name}: {meant}, and samples with {asked:g} are asked for"]

    def refusal(self, o: Composition) -> str | None:
        if o.times.solver_steps is not None:
            return None
        return (
            "LearnedSolver learns the steps of a solver between the times of its grid, and "
            f"{type(o.times).__name__} has none: use times=Intervals(steps=4)"
        )

    def __call__(self, flow: FlowMap, frozen: FlowMap, point: Point) -> Target:
        p, scale = point, self.teacher.guidance
        if self.teacher.flow is None:
            raise ValueError(
                "LearnedSolver follows the trajectories of a trained map, and none is given: use "
                "objective.with_teacher(flow), or LearnedSolver(Teacher(flow))"
            )
        if not isinstance(flow, SolverMap):
            raise ValueError(
                "LearnedSolver trains the steps of a solver, and the network has none: use "
                "networks.MeanDirection(network) around the network of the teacher"
            )
        label = p.network_label(flow.num_classes)
        stops = spaced(p.path.t_max, p.path.t_min, round(2 / p.finest) * self.substeps)[::2]
        grid = torch.tensor(stops[:: self.substeps], dtype=torch.float64)
        place = (p.times_on_cpu()[0].double()[:, None] - grid[:-1]).abs().argmin(1)
        x_t, x_r = self._follow(guide(self.teacher.flow, scale), flow.prior(p.noise), stops, place, label)
        t, r = (onto(grid[rows].to(p.t.dtype), p.t.device) for rows in (place, place + 1))
        return Target(x_r, guide(flow, scale)(x_t, t, r, label), space="map")

    @torch.no_grad()
    def _follow(
        self, teacher: FlowMap, x: Image, stops: list[float], place: Tensor, label: Label
    ) -> tuple[Image, Image]:
        """Return where the trajectories from x are at both ends of the interval of each row."""
        start = x
        for step, (t, r) in enumerate(pairwise(stops)):
            rows = onto((place >= step // self.substeps).nonzero().squeeze(1), x.device)
            if not len(rows):
                break
            here, known = x[rows], None if label is None else label[rows]
            if step % self.substeps == 0:
                start = start.index_copy(0, rows, here)
            x = x.index_copy(0, rows, _midpoint(teacher, here, t, r, known))
        return start, x


def _midpoint(flow: FlowMap, x: Image, t: float, r: float, label: Label) -> Image:
    """Return x after a step of the midpoint rule."""
    begin, middle, end = (x.new_full((len(x),), time) for time in (t, (t + r) / 2, r))
    velocity = flow.velocity(x, begin, label=label)

    def ahead(x_s: Image) -> Image:
        return flow.velocity(x_s, middle, label=label)

    return x + second_step(flow.path, x, velocity, begin, middle, end, ahead)
