"""Score identity distillation (SiD): scores of a teacher and an auxiliary network on samples of the generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flowleap import samplers
from flowleap.flow_map import FlowMap
from flowleap.guidance import guide
from flowleap.interfaces import Composition, Identity
from flowleap.objectives.diagonal import singular
from flowleap.point import Point, Target
from flowleap.velocities import Teacher

__all__ = ["ScoreGap"]


@dataclass(frozen=True)
class ScoreGap(Identity):
    """Two denoisers evaluated at one noised sample of the student: D_T of the teacher, D_ψ of the frozen map.

    x_g = X_{start→t_min}(κ σ(start) z), one step of the student,  x_t = α(t) x_g + σ(t) κ ε,
    D(x_t) = E[x | x_t] of the instantaneous velocity at (x_t, t): x_t − t u(x_t, t, t) on the linear path.

    D_T − D_ψ is the gap of the scores of the two laws times σ²κ²/α. The target is D_T and the prediction D_ψ, both as
    functions of z with a graph through x_t to the student; the weights of the two are fixed. The sample x_g goes along
    for a loss such as `losses.ScoreIdentity`. z is `Point.extra_noise`; the data lend their labels, not their images.

    Args:
        teacher: whose score the student is to have, guided or not.

    Exact for: a student that makes the teacher's law, for which D_ψ = D_T everywhere.
    Raises: ValueError where a single step would be an Euler step along a curved path, or without a teacher.
    Source: Zhou et al. 2024 (arXiv 2404.04057), for any path.
    """

    teacher: Teacher = Teacher()
    makes_samples: ClassVar[bool] = True
    driven: ClassVar[bool] = False
    template: ClassVar[dict[str, str]] = {
        "model type": "distribution",
        "one-step prediction": "{output}, judged by two scores",
    }
    cites: ClassVar[tuple[str, ...]] = ("zhou2024score",)

    def predicts(self, own: bool) -> bool:
        return True

    def refusal(self, o: Composition) -> str | None:
        if o.times.has_diagonal:
            return (
                f"ScoreGap judges samples on every row, and {type(o.times).__name__} has rows r = t, which train a "
                "velocity: use times=Denoising()"
            )
        if o.frozen.auxiliary is None:
            return (
                "ScoreGap holds the teacher's score against that of the samples, which another network learns: use "
                "frozen=AuxiliaryNetwork(objective), as methods.sid() has"
            )
        return singular(self, o, o.parameterization.euler_refusal(o.path))

    def __call__(self, flow: FlowMap, frozen: FlowMap, point: Point) -> Target:
        p = point
        if self.teacher.flow is None:
            raise ValueError(
                "ScoreGap compares the score of an auxiliary network with a teacher's, and no teacher is given: use "
                "objective.with_teacher(flow), or ScoreGap(Teacher(flow))"
            )
        assert p.extra_noise is not None, "drawn for a target that makes samples"
        label = p.network_label(flow.num_classes)
        sample = samplers.chain(flow, p.extra_noise, label=label)
        x_t = p.path.point(sample, p.noise, p.t)
        real = guide(self.teacher.flow.held(), self.teacher.guidance).denoised(x_t, p.t, label)
        fake = frozen.held().denoised(x_t, p.t, label)
        return Target(value=real, prediction=fake, space="map", sample=sample)
