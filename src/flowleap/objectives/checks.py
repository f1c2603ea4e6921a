"""Which parts of an objective mean nothing together: refused where it is made, with the nearest choice that does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowleap import fields as fields_of_parts
from flowleap.guidance import FinestLevel
from flowleap.losses import Boundary
from flowleap.objectives.diagonal import Diagonal
from flowleap.objectives.first_stage import FirstStage
from flowleap.objectives.frozen import GridEMA, Refreshed
from flowleap.objectives.self_consistency import SelfConsistency
from flowleap.objectives.trained import check_plug_in, check_trained, kind, within
from flowleap.tensors import Image, Label, Time
from flowleap.times import NoiseGrid, jumps_of
from flowleap.velocities import Own

if TYPE_CHECKING:
    from flowleap.objectives.base import Objective

__all__ = ["check", "within"]


def check(o: Objective) -> None:
    """Refuse an objective whose parts do not fit one another.

    Raises: ValueError: what was given, why it means nothing, and what does.
    """
    _fields(o)
    _numbers(o)
    _refusals(o)
    _domain(o)
    for rule in (
        check_trained,
        check_plug_in,
        _diagonal,
        _slope,
        _guidance,
        _start,
        _stages,
        _rival,
        _spread,
        _groups,
        _first_stage,
        _velocity,
        _singular,
    ):
        rule(o)


def _unused(x: Image, t: Time, r: Time, label: Label) -> Image:
    raise AssertionError("this map only carries a path and a parameterization")


def _fields(o: Objective) -> None:
    """Every field of every part holds what it is made for, and every number is finite."""
    for part in within(o, maps=False):  # a trained map holds a network of any kind
        fields_of_parts.check(part)


def _numbers(o: Objective) -> None:
    if not 0 <= o.label_dropout <= 1:
        raise ValueError(f"label_dropout={o.label_dropout}: a share of the rows in [0, 1] is expected")
    if o.steps is not None and o.steps < 1:
        raise ValueError(f"steps={o.steps}: a run of at least one step is expected")


def _refusals(o: Objective) -> None:
    refusal = getattr(o.times, "refusal", None)
    reasons = [] if refusal is None else [refusal(o.path)]
    losses = (part for part in within(o.loss) if hasattr(part, "refusal"))
    reason = next((text for text in [*reasons, *(loss.refusal(o.target) for loss in losses)] if text), None)
    if reason is not None:
        raise ValueError(reason)
    if isinstance(o.frozen, GridEMA) and not isinstance(o.times, NoiseGrid):
        raise ValueError(
            f"GridEMA: its decay follows the grid of NoiseGrid, and the times are {type(o.times).__name__}: use "
            "EMA(0.999), or times=NoiseGrid()"
        )


def _domain(o: Objective) -> None:
    if (o.path.t_max > 1) == (o.times.support[1] > 1):
        return
    law = "LogNormal(-1.2, 1.2), a law of noise levels" if o.path.t_max > 1 else "LogitNormal(-0.4, 1.0)"
    raise ValueError(
        f"{kind(o.times)} draws times in {o.times.support}, but those of {kind(o.path)} lie in "
        f"[{o.path.t_min:g}, {o.path.t_max:g}]: use {law}"
    )


def _diagonal(o: Objective) -> None:
    if isinstance(o.target, Diagonal) and jumps_of(o.times).lands != "nowhere":
        raise ValueError(
            f"Diagonal() has no target for the rows r < t of {kind(o.times)}: use times=OneTime(), or another target "
            "such as Eulerian()"
        )


def _slope(o: Objective) -> None:
    """What is weighed by ∂_t b must not be 0 for every row."""
    slope = (
        o.parameterization.slope_singularity(o.path) if getattr(o.target, "weighting", "") == "cos2" else None
    )
    if slope is not None and jumps_of(o.times).lands != "anywhere":
        raise ValueError(
            f'Eulerian(weighting="cos2") does not fit {kind(o.parameterization)} on {kind(o.path)}: {slope}, where '
            "nothing is left to regress: use AverageVelocity() or Velocity()"
        )


def _guidance(o: Objective) -> None:
    if isinstance(o.guidance, FinestLevel) and not isinstance(o.target, SelfConsistency):
        raise ValueError(
            f"FinestLevel guides the jumps of SelfConsistency, but the target is {type(o.target).__name__}: use "
            "Guidance(omega, kappa)"
        )
    asking = (part for part in (o.guidance, o.coupling) if getattr(part, "asks_null", False))
    part = next(asking, None)
    taught = isinstance(o.frozen, Refreshed)  # guided is the first teacher, which knows the null label
    if part is not None and o.label_dropout == 0 and not taught:
        raise ValueError(
            f"{type(part).__name__} contrasts labels with the null label, which label_dropout=0 never "
            "trains: use label_dropout=0.1"
        )


def _start(o: Objective) -> None:
    """Where sampling is asked to start must have been trained."""
    highest, start = getattr(o.times, "highest", None), o.sampling.start
    if highest is not None and start is not None and start > highest + 1e-6 * o.path.t_max:
        raise ValueError(
            f"sampling starts at t = {start:g}, but {kind(o.times)} draws none above {highest:g}: use "
            "sampling.start=None"
        )


def _stages(o: Objective) -> None:
    if isinstance(o.frozen, Refreshed) and o.steps is not None and o.steps < o.frozen.stages:
        raise ValueError(
            f"{o.name} in {o.steps} steps: it has {o.frozen.stages} stages, so at least {o.frozen.stages} steps are "
            "expected"
        )


def _groups(o: Objective) -> None:
    if not any(getattr(part, "asks_groups", False) for part in within(o.loss)):
        return
    name = type(o.loss).__name__
    if not hasattr(o.times, "group"):
        raise ValueError(
            f"{name} compares groups of rows that share their times, and {type(o.times).__name__} makes none: "
            "use times=Particles()"
        )
    if getattr(o.target, "space", "output") != "map":
        raise ValueError(
            f"{name} compares points, and {type(o.target).__name__} gives network outputs: use "
            'target=Consistency(space="map")'
        )


def _first_stage(o: Objective) -> None:
    boundary = getattr(o.times, "boundary", None)
    staged = isinstance(o.frozen, FirstStage)
    if staged and not o.starts_from_teacher:
        raise ValueError(
            f"{o.name} keeps the weights of its first stage below the boundary: use starts_from_teacher=True"
        )
    if (boundary is not None) != staged:
        raise ValueError(
            f"{o.name} learns times above {boundary:g} only, and what lies below is the first stage of its "
            "training: use frozen=FirstStage(), and objective.with_teacher(flow) with a trained consistency model"
            if boundary is not None
            else f"FirstStage is frozen below a boundary, and {type(o.times).__name__} has none: use "
            "times=Truncation()"
        )
    for part in within(o.loss):
        if isinstance(part, Boundary) and part.boundary != boundary:
            raise ValueError(
                f"Boundary(boundary={part.boundary:g}) weighs the rows on the boundary of the times, which is "
                f"{'none' if boundary is None else f'{boundary:g}'}: give both the same"
            )
        share = getattr(o.times, "share", None)
        if isinstance(part, Boundary) and part.share != share:
            raise ValueError(
                f"Boundary(share={part.share:g}) counts on that share of the rows on the boundary, which "
                f"{kind(o.times)} has {share}: give both the same"
            )


def _spread(o: Objective) -> None:
    """The standard deviation of the data is one number, whichever parts are told it."""
    told = {
        f"{field}.sigma_data": part.sigma_data
        for field, value in (("parameterization", o.parameterization), ("loss", o.loss))
        for part in within(value)
        if hasattr(part, "sigma_data")
    }
    if len(set(told.values())) > 1:
        raise ValueError(
            f"{' and '.join(f'{name}={value:g}' for name, value in told.items())} state the standard deviation of the "
            "same data: give all the same number"
        )


def _rival(o: Objective) -> None:
    if o.rival is None:
        return
    for name in ("path", "parameterization", "told"):
        own, other = getattr(o, name), getattr(o.rival, name)
        if own != other:
            raise ValueError(
                f"{o.name} has {name}={own}, but its rival {other}: give both the same, here and as "
                f"frozen.objective.{name}"
            )


def _velocity(o: Objective) -> None:
    if isinstance(o.velocity, Own):
        raise ValueError(
            "velocity=Own() would regress the diagonal onto itself, and nothing is learned: keep Conditional() or "
            "PlugIn(), and take the derivative along the network's own velocity, target=Eulerian(tangent=Own())"
        )


def _singular(o: Objective) -> None:
    refusal = o.target.refusal(o.flow_map(_unused))
    if refusal is not None:
        meaning = f"{kind(o.parameterization)} on {kind(o.path)}"
        raise ValueError(f"{kind(o.target)} does not fit {meaning}: {refusal}")
