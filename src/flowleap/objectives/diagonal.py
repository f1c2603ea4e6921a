"""The diagonal: u(x, t, t) = v(x, t). Flow matching, and the rows r = t of every other method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flowleap.flow_map import FlowMap
from flowleap.interfaces import Composition, Identity
from flowleap.point import Point, Target
from flowleap.tensors import Image

__all__ = ["Diagonal", "diagonal", "singular"]


def diagonal(flow: FlowMap, point: Point) -> Image:
    """Return F* with u(x_t, t, t) = v on every row, v the velocity that drives the target (`point.v`).

    Source: Lipman et al. 2022 (arXiv 2210.02747) eq. 14, for any parameterization.
    """
    assert point.v is not None
    return flow.output_of_velocity(point.v, point.x_t, point.t)


def singular(target: Identity, o: Composition, reason: str | None) -> str | None:
    """Return the refusal of a target for a path and a parameterization on which it is singular, or None."""
    if reason is None:
        return None
    meaning = f"{type(o.parameterization).__name__} on {type(o.path).__name__}"
    return f"{type(target).__name__} does not fit {meaning}: {reason}"


@dataclass(frozen=True)
class Diagonal(Identity):
    """Flow matching alone: every row has r = t, there is no jump to learn.

    Raises: ValueError where a time law draws rows with r < t.
    """

    template: ClassVar[dict[str, str]] = {"model type": "instantaneous, r = t"}
    cites: ClassVar[tuple[str, ...]] = ("lipman2022flow", "liu2022flow", "albergo2022building")

    def refusal(self, o: Composition) -> str | None:
        if o.times.lands == "nowhere":
            return None
        return (
            f"Diagonal() has no target for the rows r < t of {type(o.times).__name__}: use times=OneTime(), or another "
            "target such as Eulerian()"
        )

    def __call__(self, flow: FlowMap, frozen: FlowMap, point: Point) -> Target:
        raise ValueError(
            "Diagonal() has no target for rows with r < t: use times=OneTime(...), or a target such as Eulerian() or "
            "SelfConsistency()"
        )
