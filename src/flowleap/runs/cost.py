"""The cost of a run in images and forward-equivalents, counted in steps of its objective.

| a row of the batch                         | forward-equivalents |
|--------------------------------------------|---------------------|
| through the network that is trained        | 3: forward, and twice as much backward |
| through a frozen network, or a teacher     | 1                   |
| … with a gradient through its input        | 2: forward and backward |
| with a forward-mode derivative             | as much again       |

Auxiliary networks are counted too. A learned log-variance, a function of two times, is not counted.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from flowleap import networks
from flowleap.files import replace_file
from flowleap.flow_map import FlowMap
from flowleap.formatting import roughly
from flowleap.objectives import Objective
from flowleap.point import Batch
from flowleap.runs.phases import PAIRS, TEACHER, needs_pairs, phases, teacher_config
from flowleap.training.config import TrainConfig
from flowleap.training.log import lines_of

POSITIONS = 14
"""Equally spaced steps of a run that are counted: two in each of seven stages."""
SAMPLE = (2,)
"""The shape of a sample does not matter to the count."""


@dataclass(frozen=True)
class Bill:
    """The cost of a phase of a run.

    Args:
        phase: its name. steps, images: as in `phases.Phase`.
        per_image: forward-equivalents of one image. forward_equivalents: of the whole phase.
    """

    phase: str
    steps: int
    images: int
    per_image: float
    forward_equivalents: float


def cost(config: TrainConfig) -> float:
    """Return the forward-equivalents of one image of the batch in the training of a run, without its earlier phases.

    Network evaluations are counted in real steps of its objective and its batch at places spread over the run, with a
    network and a teacher that only count; each place counts alike, for schedules change what a step costs.
    """
    network = networks.build_on_meta(config.network)
    classes: Any = network.num_classes
    meter = Meter(classes, getattr(network, "log_variance", None) is not None)
    length = 100 * POSITIONS
    objective = config.objective.for_run(length)
    if objective.needs_teacher:
        objective = objective.with_teacher(objective.flow_map(meter.frozen()))
    tasks: list[tuple[Objective, FlowMap | None]] = [(objective, None)]
    if objective.auxiliary is not None:
        tasks.append((objective.auxiliary, objective.flow_map(meter)))
    spent = 0.0
    for index in range(POSITIONS):
        step = int((index + 0.5) * length / POSITIONS)
        for task, main in tasks:
            meter.spent.clear()
            evaluate(task, meter, config, step, main)
            spent += sum(meter.spent) / config.data.batch
    return spent / POSITIONS


def evaluate(
    objective: Objective, meter: Meter, config: TrainConfig, step: int, main: FlowMap | None = None
) -> None:
    """Compute the target of a step with a network that only counts; `main` is the frozen map of an auxiliary one."""
    batch, classes = config.data.batch, meter.num_classes
    x = torch.linspace(-1.0, 1.0, batch * SAMPLE[0]).reshape(batch, *SAMPLE)
    label = None if classes is None else torch.arange(batch) % classes
    noise = x.flip(0) if needs_pairs(objective) else None
    around = objective.target.network_kind
    flow = objective.flow_map(networks.around(around, meter.frozen()) if around else meter)
    other = objective.frozen.copy is not None or objective.auxiliary is not None
    frozen = main or (objective.flow_map(meter.frozen()) if other else flow)
    point = objective.draw(Batch(x, label, noise), step, config.seed, frozen)
    objective.regress(flow, frozen, point)  # losses ask no network that is trained


class Meter(nn.Module):
    """A network of one weight that records the cost of its evaluations."""

    def __init__(self, num_classes: int | None, learned: bool, spent: list[int] | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.num_classes, self.learned, self.guidance_input = num_classes, learned, True
        self.spent: list[int] = [] if spent is None else spent
        if learned:
            self.log_variance = self._log_variance

    def frozen(self) -> Meter:
        """Return a frozen network with the same record."""
        return Meter(self.num_classes, self.learned, self.spent).requires_grad_(False)

    def _log_variance(self, t: Tensor, r: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def with_velocity(
        self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        made = self(x, t, r, label)
        return made, made

    def forward(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None = None) -> Tensor:
        graph = torch.is_grad_enabled()
        each = 3 if graph and self.weight.requires_grad else 2 if graph and x.requires_grad else 1
        along = forward_ad.unpack_dual(x).tangent is not None
        self.spent.append(len(x) * each * (2 if along else 1))
        return x * self.weight


def bill(config: TrainConfig, rows: int) -> tuple[Bill, ...]:
    """Return the cost of each phase of a run on a data set of so many rows.

    A pair costs the evaluations of the teacher for it: `pair_steps`, twice as many where these are guided.
    """
    found = []
    for phase in phases(config, rows):
        if phase.name == PAIRS:
            guided = config.teacher.pair_guidance not in (None, 1.0)
            each = float(config.teacher.pair_steps * (2 if guided else 1))
        else:
            each = cost(teacher_config(config) if phase.name == TEACHER else config)
        found.append(Bill(phase.name, phase.steps, phase.images, each, each * phase.images))
    return tuple(found)


def report(place: Path, config: TrainConfig, rows: int) -> str:
    """Write cost.json, and return in words on how many images the run was trained, and in which time."""
    found = bill(config, rows)
    total = sum(one.forward_equivalents for one in found)
    trained = sum(one.images for one in found if one.phase != PAIRS)
    content = {"images": trained, "forward_equivalents": total, "phases": [asdict(one) for one in found]}
    replace_file(place / "cost.json", json.dumps(content, indent=2) + "\n")
    seconds = sum(map(_seconds, (place, place / TEACHER)))
    made = sum(one.images for one in found if one.phase == PAIRS)
    pairs = f"; its teacher made {made:,} pairs" if made else ""
    return f"trained on {trained:,} images in {roughly(seconds)}{pairs}"


def _seconds(place: Path) -> float:
    """The time of a training so far, by the last line of its metrics."""
    rows = lines_of(place / "metrics.jsonl")
    return float(rows[-1]["seconds"]) if rows else 0.0
