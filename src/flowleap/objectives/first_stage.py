"""A target network of two stages: a frozen first one below a time, the network in training above it. TCM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from flowleap.flow_map import FlowMap, Network, dtype_of
from flowleap.networks.truncated import chosen
from flowleap.tensors import Image, Label, Time

__all__ = ["FirstStage"]


@dataclass(frozen=True)
class FirstStage:
    """The frozen map of a target is the network as it stands, and below the boundary of its times a finished map.

    X_{s→r} of a target is that of the network where s ≥ t' and that of the teacher where s < t', t' = `times.boundary`.
    The network is trained on times from t' on, and its targets on the boundary come from the teacher, which is what
    keeps it from collapsing. `networks.Truncated` is both in one network, for sampling from any time.

    Args:
        taught_by: the method that a run trains its own first stage by.
        teacher: the finished map; None until `Objective.with_teacher` puts one in.

    Source: Lee et al. 2024 (arXiv 2410.14895): the first stage is a consistency model, frozen.
    """

    taught_by: str = "ect"
    teacher: FlowMap | None = field(default=None, repr=False)
    cites: ClassVar[tuple[str, ...]] = ("lee2024truncated",)

    @property
    def needs_teacher(self) -> bool:
        """Whether the finished map is missing."""
        return self.teacher is None

    def with_teacher(self, flow: FlowMap) -> FirstStage:
        """Return the same with this map below the boundary."""
        return replace(self, teacher=flow)

    def frozen(self, flow: FlowMap, boundary: float) -> FlowMap:
        """Return a map with the teacher below the boundary and `flow` above it.

        Raises: ValueError where there is no teacher.
        """
        if self.teacher is None:
            raise ValueError(
                "times above a boundary are learned from a finished first stage below it, and none is given: use "
                "objective.with_teacher(flow) with a trained consistency model"
            )
        return flow.with_network(_Composite(flow.network, self.teacher.network, boundary))


@dataclass(frozen=True)
class _Composite:
    """One network above a boundary of times, another below it."""

    above: Network = field(repr=False)
    below: Callable[..., Image] = field(repr=False)
    boundary: float

    @property
    def num_classes(self) -> int | None:
        classes: int | None = getattr(self.above, "num_classes", None)
        return classes

    @property
    def dtype(self) -> torch.dtype | None:
        return dtype_of(self.above)

    def __call__(self, x: Image, t: Time, r: Time, label: Label) -> Image:
        with torch.no_grad():
            return chosen(self.above, self.below, self.boundary, x, t, r, label)
