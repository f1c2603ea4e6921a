"""A target network that is trained in alternation, by an objective of its own. SiD."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from flowleap.flow_map import FlowMap
from flowleap.interfaces import Composition, TargetNetwork
from flowleap.objectives.base import Objective
from flowleap.objectives.target_networks import Self

__all__ = ["AuxiliaryNetwork"]


@dataclass(frozen=True)
class AuxiliaryNetwork(TargetNetwork):
    """The frozen map of a target is another network, trained in alternation by an objective of its own.

    In each step the auxiliary network is updated first, then the main network. The frozen map of the auxiliary
    objective is the main network as it stands. Both begin with the same weights.

    Args:
        objective: the training objective of the auxiliary network, with the path, parameterization and conditioning of
            the main one.
        period: the main network is updated in every period-th step, the auxiliary network in each.
        lr_scale: the learning rate of both networks is that of the run times this.
        betas: those of Adam for both, in place of the run's; None for these.

    Raises: ValueError for a period or lr_scale that is not positive, betas out of range, or an auxiliary objective with
        a frozen map of its own.
    Source: the code of Zhou et al. 2024 (arXiv 2404.04057), mingyuanzhou/SiD: in each step first the fake score, then
    the generator; betas (0, 0.999) and learning rates of 1e-5 for both.
    """

    objective: Objective
    period: int = 1
    lr_scale: float = 1.0
    betas: tuple[float, float] | None = None
    cites: ClassVar[tuple[str, ...]] = ("zhou2024score",)

    def __post_init__(self) -> None:
        if self.period < 1:
            raise ValueError(f"AuxiliaryNetwork(period={self.period}): a whole number from 1 up is expected")
        if not self.lr_scale > 0:
            raise ValueError(
                f"AuxiliaryNetwork(lr_scale={self.lr_scale}): a positive factor of the learning rate is expected"
            )
        if self.betas is not None and not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"AuxiliaryNetwork(betas={self.betas}): two numbers in [0, 1) are expected")
        if self.objective.frozen != Self():
            raise ValueError(
                f"AuxiliaryNetwork: its objective has frozen={type(self.objective.frozen).__name__}, but the "
                "frozen map of an auxiliary objective is the main network: use frozen=Self()"
            )

    @property
    def auxiliary(self) -> Objective:
        return self.objective

    def for_run(self, steps: int) -> AuxiliaryNetwork:
        return replace(self, objective=self.objective.for_run(steps))

    def refusal(self, o: Composition) -> str | None:
        if not o.target.makes_samples:
            return (
                f"AuxiliaryNetwork learns the score of the samples, which {type(o.target).__name__} does not use: take "
                "target=ScoreGap(), or frozen=EMA(0.999)"
            )
        pairs = {
            "path": (o.path, self.objective.path),
            "parameterization": (o.parameterization, self.objective.parameterization),
            "conditioning": (o.conditioning, self.objective.conditioning),
        }
        for name, (own, other) in pairs.items():
            if own != other:
                return (
                    f"{o.name} has {name}={own}, but its auxiliary objective {other}: give both the same, here and as "
                    f"frozen.objective.{name}"
                )
        return None

    def resolve(self, o: Composition, flow: FlowMap, given: FlowMap | None, progress: float) -> FlowMap:
        if given is None:
            raise ValueError(
                f"{o.name} needs its auxiliary network, and none is given: use objective(flow, frozen, batch) with "
                "the map of its auxiliary network as frozen"
            )
        return given
