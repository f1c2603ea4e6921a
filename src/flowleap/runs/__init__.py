"""Runs: what to train, with which settings, into which folder; and a trained run read back.

    result = train(configure("esc", "digits", steps=500))   # into runs/digits-esc-seed0
    run = load_run(result.folder)                           # run.flow, run.objective, run.network, run.config

The folder of a run:

    config.json  environment.json                     settings; versions, git state, commands
    metrics.jsonl  plots/*.png                        averages over each log interval, and their curves
    quality.jsonl  best.safetensors  best.json        quality measured while training, and the best weights by it
    samples/step-000500.png …  grid.png               pictures, always from the same noise
    table.json  table.md                              quality and time at 1, 2, 4, 128 steps
    cost.json                                         images and forward-equivalents of each phase
    network.safetensors  ema.safetensors              weights at the end, as trained and averaged
    checkpoints/                                      what --resume needs; the last two
    teacher/                                          the run of its own teacher, where a method needs one
    pairs/                                            noise and samples that a teacher made of it (reflow)
"""

from flowleap.networks.options import NETWORKS
from flowleap.runs.configuring import (
    PRESETS,
    Resolved,
    configure,
    reconfigure,
    resolve,
)
from flowleap.runs.cost import Bill, bill, cost
from flowleap.runs.describe import changes
from flowleap.runs.phases import PAIRS, STUDENT, TEACHER, Phase, length, own_teacher, phases
from flowleap.runs.reading import (
    Run,
    device_of,
    load_run,
    origin,
    read_config,
    weights_file,
    weights_name,
    write_average,
)
from flowleap.runs.resume import choose, compatible, default_folder, resumed_folder
from flowleap.runs.run import RunResult, train
from flowleap.runs.setup import Setup, build_network
from flowleap.runs.trainer import Trainer
from flowleap.training.config import TrainConfig, from_dict, to_dict
from flowleap.training.guard import Diverged
from flowleap.training.settings import change, preprocessing_of

__all__ = [
    "NETWORKS",
    "PAIRS",
    "PRESETS",
    "STUDENT",
    "TEACHER",
    "Bill",
    "Diverged",
    "Phase",
    "Resolved",
    "Run",
    "RunResult",
    "Setup",
    "TrainConfig",
    "Trainer",
    "bill",
    "build_network",
    "change",
    "changes",
    "choose",
    "compatible",
    "configure",
    "cost",
    "default_folder",
    "device_of",
    "from_dict",
    "length",
    "load_run",
    "origin",
    "own_teacher",
    "phases",
    "preprocessing_of",
    "read_config",
    "reconfigure",
    "resolve",
    "resumed_folder",
    "to_dict",
    "train",
    "weights_file",
    "weights_name",
    "write_average",
]
