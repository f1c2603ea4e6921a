"""Runs: what to train, with which settings, into which folder; and a trained run read back.

    result = train(configure("esc", "digits", steps=500))     # into runs/digits-esc-seed0
    run = load_run(result.folder)                             # run.flow, run.objective, run.network, run.config

The folder of a run:

    config.json  environment.json  metrics.jsonl              settings; versions, git state, command; one line per interval
    samples/step-000500.png …  plots/*.png  grid.png          pictures, always from the same noise
    table.json  table.md                                      quality and time at 1, 2, 4, 128 steps
    network.safetensors  ema.safetensors                      weights at the end, as trained and averaged
    checkpoints/                                              what --resume needs; the last two
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from flowleap import data as data_sets
from flowleap import networks, values
from flowleap.data import Dataset
from flowleap.flow_map import FlowMap
from flowleap.objectives import Objective
from flowleap.training import checkpoint, folder, report
from flowleap.training.config import FREE, NETWORKS, PRESETS, TrainConfig, change, configure, from_dict
from flowleap.training.files import replace_file
from flowleap.training.guard import Diverged
from flowleap.training.interrupt import Interruption
from flowleap.training.log import EXPLANATION, Metrics, Reporter
from flowleap.training.loop import Events, Plan, draw_batch, fit
from flowleap.training.state import State, new_player

__all__ = [
    "NETWORKS",
    "PRESETS",
    "Diverged",
    "Run",
    "RunResult",
    "TrainConfig",
    "change",
    "configure",
    "default_folder",
    "load_run",
    "read_config",
    "train",
]

FORMAT = 1


@dataclass(frozen=True)
class RunResult:
    """How a run ended: `signal` is the number of the signal that interrupted it, None where it came to its end."""

    folder: Path
    step: int
    signal: int | None = None
    table: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Run:
    """A trained run: its config and objective, and the flow map of the weights that were asked for.

    Shapes: `shape` is that of one sample. `weights` names the weights and their step, as in "ema-0.999@2200".
    """

    folder: Path
    config: TrainConfig
    objective: Objective
    network: nn.Module
    flow: FlowMap
    weights: str
    step: int
    kind: str
    shape: tuple[int, ...]
    num_classes: int | None

    def dataset(self) -> Dataset:
        """Load the data set that the run was trained on.

        Raises: ValueError where it was given as tensors rather than by name.
        """
        return data_sets.load(self.config.data)


def default_folder(config: TrainConfig) -> Path:
    """Return runs/<data>-<method>-seed<seed>."""
    return Path("runs") / f"{config.data}-{config.method.replace('_', '-')}-seed{config.seed}"


def train(
    config: TrainConfig | None = None,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    dataset: Dataset | None = None,
    console: Console | None = None,
) -> RunResult:
    """Train, into a run folder of its own; the story is `training.loop.fit`.

    Args:
        config: see `configure`; None with `resume` stands for the config of the run.
        out: the folder; None for `default_folder`, with -2, -3, … appended where that is taken.
        resume: continue the run in `out` (None: the newest of that name), exactly, from its last checkpoint.
        overwrite: start anew where a run is already; the old one is moved to <name>.old-N.
        dataset: data that has no name to load it by.

    Raises: ValueError for settings that do not fit one another, found before anything is written;
        FileExistsError for a folder that holds a run; CheckpointError for files that cannot be read or written;
        Diverged where too many steps in a row were not finite.
    """
    reporter = Reporter(console)
    place, config = _choose(config, out, resume=resume, overwrite=overwrite)
    dataset = data_sets.load(config.data) if dataset is None else data_sets.check(dataset)
    objective, state, plan, usable = prepare(config, dataset)
    begun = checkpoint.latest(place / "checkpoints") if resume else None
    if begun is not None:
        checkpoint.restore(begun, state)
    if not resume:
        folder.claim(place, overwrite=overwrite)
    _note(place, config, dataset)
    _introduce(reporter, place, config, objective, state)
    session = Session(place, config, objective, dataset, state, reporter)
    signal = session.fit(usable, plan)
    if signal is None:
        signal, table = session.finish()
        return RunResult(place, state.step, signal, table)
    return RunResult(place, state.step, signal)
