"""A loss of two heads: that of the map, and that of the velocity."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from flowleap.interfaces import Composition, Loss
from flowleap.losses.distances import AdaptivePower
from flowleap.point import Point, Regression

__all__ = ["VelocityHead"]


@dataclass(frozen=True)
class VelocityHead(Loss):
    """m(F, F*) + m(v_head(x_t, t, r), v): a second head of the network learns the velocity, guided or not.

    The head is there for training, where `velocities.Head` asks it for the tangent of a derivative; maps do without.

    Args:
        inner: m, for both.

    Source: Geng et al. 2025 (arXiv 2512.02012), the auxiliary head, and its code (Lyy-iiis/imeanflow): both losses with
    the adaptive weight of power 1, added up.
    """

    inner: Loss = AdaptivePower()
    velocity_head: ClassVar[bool] = True
    template: ClassVar[dict[str, str]] = {"weight": "{weight}, of F and of a velocity head"}
    cites: ClassVar[tuple[str, ...]] = ("geng2025improved",)

    def refusal(self, o: Composition) -> str | None:
        if not o.target.driven:
            return (
                f"VelocityHead learns the velocity that drives a target, and {type(o.target).__name__} has none: use "
                "the loss inside it alone"
            )
        if not o.target.predicts(own=True):
            return None
        return (
            f"VelocityHead is trained in the pass of the prediction, and {type(o.target).__name__} asks the network "
            "itself: use a derivative that does not, such as target.derivative=TwoPass()"
        )

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        if regression.velocity is None or regression.velocity_target is None:
            raise ValueError("VelocityHead needs Regression.velocity and its target: use Objective.regress")
        head = replace(
            regression, prediction=regression.velocity, target=regression.velocity_target, space="output"
        )
        return self.inner(regression, point) + self.inner(head, point)
