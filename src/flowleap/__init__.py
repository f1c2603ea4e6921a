"""flowleap: train one-step image generators from scratch.

from flowleap import Batch, methods, networks

objective = methods.esc()
flow = objective.flow_map(network)
loss = objective(flow, frozen=flow, batch=Batch(x, label), step=k, key=seed)
images = objective.sample(flow, noise, label=y)

or in two lines, as on the command line:

result = flowleap.train("meanflow", "digits", steps=500)
images = flowleap.load(result.folder).sample(16, label=3)

Rooms are loaded when they are first asked for, so that `flowleap --help` need not wait for torch.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowleap import (
        data,
        derivatives,
        evaluation,
        guidance,
        losses,
        methods,
        networks,
        objectives,
        oracles,
        parameterization,
        paths,
        samplers,
        serialize,
        times,
        velocities,
    )
    from flowleap.flow_map import FlowMap
    from flowleap.model import Model, load, train
    from flowleap.objectives import Objective
    from flowleap.point import Batch, Point, Regression

try:
    __version__ = version("flowleap")
except PackageNotFoundError:  # a source tree that is on the path without being installed
    __version__ = "0.0.0"

__all__ = [
    "Batch",
    "FlowMap",
    "Model",
    "Objective",
    "Point",
    "Regression",
    "__version__",
    "data",
    "derivatives",
    "evaluation",
    "guidance",
    "load",
    "losses",
    "methods",
    "networks",
    "objectives",
    "oracles",
    "parameterization",
    "paths",
    "samplers",
    "serialize",
    "times",
    "train",
    "velocities",
]
RENAMED = {"values": "serialize"}
"""Old names of rooms."""
HOMES = {
    "Batch": "point",
    "FlowMap": "flow_map",
    "Model": "model",
    "Objective": "objectives",
    "Point": "point",
    "Regression": "point",
    "load": "model",
    "train": "model",
}


def __getattr__(name: str) -> Any:
    """Load a room, or what lives in one, when it is first asked for."""
    if name in HOMES:
        return getattr(import_module(f"flowleap.{HOMES[name]}"), name)
    name = RENAMED.get(name, name)
    if name in __all__:
        return import_module(f"flowleap.{name}")
    raise AttributeError(f"module 'flowleap' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
