"""Quality while training: every average measured now and then, within a share of the time, and the best one kept."""

from __future__ import annotations

import json
import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowleap import evaluation, processes
from flowleap.data import Dataset
from flowleap.evaluation import distances, generation, labels
from flowleap.evaluation.protocol import same
from flowleap.evaluation.quality import conditions
from flowleap.files import replace_file
from flowleap.objectives import Objective
from flowleap.training import checkpoint
from flowleap.training.log import Lines
from flowleap.training.state import State

SEED = 1_000_003
"""Of the noise; pictures and tables have other noise, so that the best weights are not chosen by what measures them."""
STANDARD = evaluation.STANDARDS["flowleap"]
BEST = "best"
BATCH = 250


def chosen_steps(objective: Objective, steps: Sequence[int]) -> int:
    """The steps that the best weights are chosen by: the fewest that the method is made for, else the most."""
    return next((count for count in sorted(steps) if not objective.advice(count)), max(steps))


def same_evaluator(row: dict[str, Any], protocol: str) -> bool:
    """Whether a row was measured by the evaluator of a protocol."""
    try:
        same([row, {"protocol": protocol}])
    except ValueError:
        return False
    return True


@dataclass
class OnlineEvaluation:
    """Measures the running averages of the weights from time to time, and keeps the weights that did best.

    Before each measurement its time is predicted, at first from one network call and then as the median of those
    made; it is made when all so far, this one and one more after the last step take at most `share` of the time
    of the run. Nothing of the training depends on it: its noise is its own.

    Args:
        place: the run folder; quality.jsonl, best.safetensors and best.json are written there.
        data: what the network learns from, without labels where it has no classes.
        evaluator: the data that samples are compared with, and the features of the distance.
        share: of the time of the run, 0 to measure never.
        last: the last step of the run.
        step: how many steps of it are done already.
        say: called when a new best is found. log: given each row of quality.jsonl.
    """

    place: Path
    objective: Objective
    data: Dataset
    evaluator: evaluation.Evaluator
    share: float
    last: int
    step: int = 0
    num: int = 1000
    steps: tuple[int, ...] = (1, 2, 4)
    say: Callable[[str], None] = lambda text: None
    log: Callable[[dict[str, Any]], None] = lambda row: None

    def __post_init__(self) -> None:
        """Read what was measured up to `step`; later lines, which may be made again, are removed."""
        self.lines = Lines(self.place / "quality.jsonl", self.step)
        self.selected_at = chosen_steps(self.objective, self.steps)
        self.asked = labels.asked(STANDARD.labels, self.num, self.data.class_names, self.evaluator, SEED)
        self.predicted: float | None = None
        self.costs: list[float] = []
        self.spent = sum(row["cost"] for row in self.lines.rows())
        best = self.place / f"{BEST}.json"
        processes.wait()  # all have read it before one writes
        kept = json.loads(best.read_text(encoding="utf-8")) if best.exists() else {}
        comparable = kept.get("steps") == self.selected_at and same_evaluator(kept, self.protocol(""))
        self.lowest = kept["distance"] if comparable else math.inf

    def __call__(self, state: State) -> None:
        """Measure now if there is time for it."""
        if not self.share:
            return
        if self.predicted is None:
            self.predicted = self.predict(state)
        reserve = 0.0 if state.step == self.last else self.predicted
        if not processes.from_first(partial(self.affordable, state, self.predicted + reserve)):
            return
        begin = time.perf_counter()
        with warnings.catch_warnings():  # the table says which numbers of steps a method is not made for
            warnings.simplefilter("ignore", UserWarning)
            for decay in state.trained.averages:
                for steps in self.steps:
                    self.measure(state, decay, steps)
        self.costs.append(time.perf_counter() - begin)
        self.predicted = statistics.median(self.costs)

    def affordable(self, state: State, cost: float) -> bool:
        """Whether so many seconds more are within the share of the time."""
        return self.spent + cost <= self.share * state.seconds

    def predict(self, state: State) -> float:
        """Seconds that one measurement will take, from one call of the network; half as much again for the rest."""
        flow = self.flow(state, next(iter(state.trained.averages)))
        label = generation.cycle(BATCH, flow.num_classes)
        generation.warm_up(flow, self.data.shape, label, BATCH)
        begin = time.perf_counter()
        generation.warm_up(flow, self.data.shape, label, BATCH)
        call = time.perf_counter() - begin
        self.spent += 2 * call
        return (
            1.5
            * call
            * sum(self.steps)
            * (self.num / BATCH / processes.count())
            * len(state.trained.averages)
        )

    def flow(self, state: State, decay: float) -> Any:
        """The flow map of one average."""
        return self.objective.flow_map(state.trained.averages[decay].module)

    def measure(self, state: State, decay: float, steps: int) -> None:
        """Add one line to quality.jsonl, and keep the weights if they are the best so far."""
        begin = time.perf_counter()
        distance = self.distance(self.flow(state, decay), steps)
        cost = time.perf_counter() - begin
        self.spent += cost
        weights = f"ema-{decay}@{state.step}"
        row = {
            "step": state.step,
            "seconds": round(state.seconds, 3),
            "weights": weights,
            "steps": steps,
            "nfe": self.objective.nfe(steps),
            "features": self.evaluator.features.name,
            "metric": self.evaluator.features.frechet,
            "distance": distance,
            "num": self.num,
            "seed": SEED,
            "protocol": self.protocol(weights),
            "cost": round(cost, 4),
        }
        self.lines.append(row)
        self.log(row)
        if steps == self.selected_at and distance is not None and distance < self.lowest:
            self.lowest = distance
            if processes.first():
                self.keep(state, decay, row)

    def protocol(self, weights: str) -> str:
        """The protocol id of a number measured of some weights."""
        made = conditions(STANDARD, self.evaluator, self.num, self.asked.law, weights)
        return str(replace(made, seed=SEED))

    def distance(self, flow: Any, steps: int) -> float | None:
        """The Fréchet distance of samples at a number of steps, over all processes; None where some are not finite."""
        request = generation.Request(
            flow,
            self.objective,
            self.data.shape,
            seed=SEED,
            label=self.asked.label,
            steps=steps,
            bounds=evaluation.BOUNDS.get(self.data.kind),
            decode=evaluation.decoder_for(self.data, self.evaluator, generation.device_of(flow)),
        )
        rows: list[Tensor] = []
        for samples, _ in request.stream(processes.share(self.num), BATCH):
            if not bool(samples.isfinite().all()):
                rows.clear()
                break
            rows.append(self.evaluator.features(samples))
        if processes.any_of(not rows):
            return None
        features = processes.gathered(torch.cat(rows))
        return distances.frechet(distances.statistics(features), self.evaluator.statistics)

    def keep(self, state: State, decay: float, row: dict[str, Any]) -> None:
        """Write the best weights so far, and which they are."""
        tensors = state.trained.averages[decay].module.state_dict()
        write = partial(checkpoint.write_tensors, tensors=tensors, step=state.step)
        replace_file(self.place / f"{BEST}.safetensors", write)
        replace_file(self.place / f"{BEST}.json", json.dumps(row, indent=2) + "\n")
        self.say(
            f"best so far at step {state.step}: {row['metric']} {row['distance']:.3f} at {row['nfe']} NFE"
        )
