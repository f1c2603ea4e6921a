"""flowleap: train one-step image generators from scratch.

from flowleap import Batch, methods, networks, samplers

objective = methods.esc()
flow = objective.flow_map(network)
loss = objective(flow, frozen=flow, batch=Batch(x, label), step=k, key=seed)
images = samplers.chain(flow, noise, steps=1, label=y)
"""

from importlib.metadata import PackageNotFoundError, version

from flowleap import (
    data,
    derivatives,
    guidance,
    losses,
    methods,
    networks,
    objectives,
    oracles,
    parameterization,
    paths,
    samplers,
    times,
    values,
    velocities,
)
from flowleap.flow_map import FlowMap
from flowleap.objectives import Objective
from flowleap.point import Batch, Point, Regression

try:
    __version__ = version("flowleap")
except PackageNotFoundError:  # a source tree that is on the path without being installed
    __version__ = "0.0.0"

__all__ = [
    "Batch",
    "FlowMap",
    "Objective",
    "Point",
    "Regression",
    "__version__",
    "data",
    "derivatives",
    "guidance",
    "losses",
    "methods",
    "networks",
    "objectives",
    "oracles",
    "parameterization",
    "paths",
    "samplers",
    "times",
    "values",
    "velocities",
]
