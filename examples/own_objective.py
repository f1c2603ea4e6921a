"""A new objective in one file: one jump equals three, trained on two moons beside MeanFlow.

    uv run python examples/own_objective.py

The function `thirds` is a method by that name, here and on the command line:

    flowleap train thirds --data two-moons --import examples/own_objective.py
    flowleap methods diff thirds shortcut --import examples/own_objective.py

Prints the quality of both methods in one and four steps; their runs are in runs/thirds and runs/meanflow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

import flowleap
from flowleap import FlowMap, Objective, Point, methods
from flowleap.interfaces import Identity
from flowleap.point import Target
from flowleap.times import LogitNormal, SortedPair

STEPS = 3000


@dataclass(frozen=True)
class ThreeJumps(Identity):
    """X_{t→r} = X_{q→r} ∘ X_{s→q} ∘ X_{t→s}, with s and q at the thirds of [r, t]; the target network makes the jumps.

    Exact for: any exact flow map.
    """

    template: ClassVar[dict[str, str]] = {"three steps t → s → q → r": "{output}, frozen"}

    @torch.no_grad()
    def __call__(self, flow: FlowMap, frozen: FlowMap, point: Point) -> Target:
        label, x = point.network_label(frozen.num_classes), point.x_t
        third = (point.t - point.r) / 3
        for jump in range(3):
            x = frozen(x, point.t - jump * third, point.t - (jump + 1) * third, label)
        return Target(flow.output_for(x, point.x_t, point.t, point.r))


def thirds() -> Objective:
    """One jump equals three; half of the rows learn the velocity at r = t."""
    return replace(
        methods.flow_matching(),
        name="thirds",
        times=SortedPair(LogitNormal(mean=-0.4, std=1.0), diagonal=0.5),
        target=ThreeJumps(),
        sampling=methods.meanflow().sampling,
    )


def main() -> None:
    for method in ("thirds", "meanflow"):
        result = flowleap.train(
            method,
            "two-moons",
            imports=[__file__],
            steps=STEPS,
            show=(1, 4),
            out=f"runs/{method}",
            overwrite=True,
        )
        for row in result.table:
            print(f"{method}: distance {row['distance']:.4f} in {row['steps']} steps")


if __name__ == "__main__":
    main()
