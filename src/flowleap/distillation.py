"""Methods with a teacher: a trained map comes first, the student after it. Named compositions, as in `methods.py`.

| method                   | the teacher gives                          | and the student                            |
|--------------------------|--------------------------------------------|--------------------------------------------|
| consistency_distillation | one step t → s along its line              | agrees with its own average at s           |
| progressive_distillation | two steps, then one by the student, …      | makes them in one, level after level       |
| reflow                   | pairs of noise and sample                  | is flow matching on these pairs            |

Each is a plain value that waits for its teacher:

    >>> from flowleap import methods
    >>> objective = methods.get("consistency_distillation")
    >>> objective.needs_teacher, objective.starts_from_teacher
    (True, True)

`objective.with_teacher(flow)` puts the trained map in. Every student starts from the teacher's weights.
"""

from __future__ import annotations

from collections.abc import Callable

from flowleap.couplings import StoredPairs
from flowleap.guidance import FinestLevel
from flowleap.losses import Squared
from flowleap.objectives import EMA, Consistency, Objective, Refreshed, SelfConsistency
from flowleap.samplers import Sampling
from flowleap.times import Adjacent, Halving, OneTime, Uniform
from flowleap.velocities import Teacher

__all__ = ["RECIPES", "consistency_distillation", "progressive_distillation", "reflow"]


def consistency_distillation(guidance: float | None = None, base_steps: int = 128) -> Objective:
    """Points one teacher step apart lead to the same image (Song et al., 2023), on a fixed grid of 1/128.

    As the baseline of Frans et al. (2024), but without its clipping and its path floor; its teacher is unguided.

    Args:
        guidance: scale of classifier-free guidance of the teacher; None for none.
        base_steps: the steps of the grid.
    """
    return Objective(
        name="consistency distillation",
        told="nothing",
        times=Adjacent(base_steps),
        velocity=Teacher(guidance=guidance),
        target=Consistency(),
        loss=Squared(reduce="mean"),
        frozen=EMA(0.999),
        starts_from_teacher=True,
        label_dropout=0.0,
    )


def progressive_distillation(guidance: float | None = None, base_steps: int = 128) -> Objective:
    """One step makes two of the teacher, which the student then becomes (Salimans and Ho, 2022): 64, …, 2, 1 steps.

    As the baseline of Frans et al. (2024), but without its clipping and its path floor, and with new teacher and
    new level in the same step. Only one step is meaningful at the end.

    Args:
        guidance: scale of classifier-free guidance of the first teacher, which all levels inherit; None for none.
        base_steps: the steps of the first teacher, a power of two; each of its halvings is an equal stage of the run.
    """
    times = Halving(base_steps)
    return Objective(
        name="progressive distillation",
        told="nothing",
        times=times,
        guidance=None if guidance is None else FinestLevel(guidance),
        target=SelfConsistency(),
        loss=Squared(reduce="mean"),
        frozen=Refreshed(stages=times.levels),
        starts_from_teacher=True,
        label_dropout=0.0,
        sampling=Sampling(trained=(1,)),
    )


def reflow() -> Objective:
    """Flow matching on pairs of noise and what a teacher made of it: straighter lines (Liu et al., 2022)."""
    return Objective(
        name="reflow",
        times=OneTime(Uniform()),
        coupling=StoredPairs(),
        loss=Squared(reduce="mean"),
        starts_from_teacher=True,
        sampling=Sampling(finest=1),
    )


RECIPES: dict[str, Callable[[], Objective]] = {
    "progressive_distillation": progressive_distillation,
    "consistency_distillation": consistency_distillation,
    "reflow": reflow,
}
"""The methods with a teacher by name, with underscores."""
