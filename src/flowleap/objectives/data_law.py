"""The law of samples made in one jump is that of the data. Energy distance, W-Flow, drifting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flowleap.flow_map import FlowMap
from flowleap.interfaces import Composition, Identity
from flowleap.point import Point, Target

__all__ = ["DataLaw"]


@dataclass(frozen=True)
class DataLaw(Identity):
    """X_{t_max→t_min}(noise) has the law of the data: the samples of a group and its data are compared as sets.

    The prediction is where the student's jump lands, the target is the data of the same group, which belongs to other
    noise: a loss that compares rows one by one would learn the mean of the data. Each group holds data of one class
    (`ClassGroups`), so that the law of each class is matched.

    Exact for: a student whose samples have the law of the data, whichever noise becomes which image.
    """

    space: ClassVar[str] = "map"
    one_landing: ClassVar[bool] = False
    driven: ClassVar[bool] = False
    keep_labels: ClassVar[bool] = True
    template: ClassVar[dict[str, str]] = {
        "model type": "distribution",
        "one-step prediction": "{output}, compared with data as a set",
    }

    def refusal(self, o: Composition) -> str | None:
        law = type(o.times).__name__
        if not o.times.only_full_jumps:
            return (
                f"DataLaw compares what is made of noise with data, and {law} draws jumps that begin with less than "
                "noise, or end before the data: use times=NoiseToData()"
            )
        if not o.loss.compares_sets:
            return (
                f"DataLaw pairs each sample with data that belong to other noise, and {type(o.loss).__name__} compares "
                "row by row, which would learn the mean of the data: use loss=Drift()"
            )
        return None

    def __call__(self, flow: FlowMap, frozen: FlowMap, point: Point) -> Target:
        p = point
        assert p.output is not None
        return Target(p.x, flow.step(p.output, p.x_t, p.t, p.r), space="map")
