"""What test_scale.py runs on one process and on several: a training without pictures and tables, told as numbers.

Each of several processes runs one scenario after another, and writes what came out.
"""

from __future__ import annotations

import json
import os
import signal
import time
import warnings
from pathlib import Path
from typing import Any

from rich.console import Console

from flowleap import data, evaluation, processes, runs
from flowleap.runs.trainer import Trainer
from flowleap.training import distributed, start
from flowleap.training.checkpoint import files_of
from flowleap.training.log import Reporter

TINY = {
    "two-moons": [("network.width", "16"), ("network.depth", "1")],
    "digits": [("network.width", "16"), ("network.depth", "1"), ("network.heads", "2")],
}


class Listener(Reporter):
    """Keeps what is said, and sends a signal to one of the processes, which ends with the step `stop`."""

    def __init__(self, stop: int | None, ear: int) -> None:
        super().__init__(Console(quiet=True))
        self.stop, self.ear, self.said = stop, ear, []

    def say(self, text: str, style: str | None = None) -> None:
        self.said.append(text)

    def advance(self, step: int) -> None:
        if (
            self.stop is not None
            and step == self.stop - 1
            and processes.rank() == min(self.ear, processes.count() - 1)
        ):
            os.kill(os.getpid(), signal.SIGTERM)


ABOUT = ("name", "method", "data", "stop", "resume", "plant", "out", "phases")


def configured(scenario: dict[str, Any]) -> runs.TrainConfig:
    """Return the config of a scenario."""
    given = {k: v for k, v in scenario.items() if k not in ABOUT}
    settings = TINY[scenario["data"]] + [tuple(pair) for pair in given.pop("settings", [])]
    usual: dict[str, Any] = {
        "batch": 32,
        "eval_num": 0,
        "sample_every": 0,
        "online_share": 0.0,
        "log_every": 1,
    }
    return runs.configure(
        scenario["method"], scenario["data"], settings=settings, checkpoint_every=0, **{**usual, **given}
    )


def trainer(place: Path, scenario: dict[str, Any], reporter: Reporter) -> Trainer:
    """Return the training of a scenario."""
    config = configured(scenario)
    dataset = data.load(config.data.name)
    return Trainer(place, runs.Setup(config, dataset, say=reporter.say), dataset, reporter)


def phases(scenario: dict[str, Any], root: Path) -> dict[str, Any]:
    """Run all phases of a training, as the command does, and sample from it; return their losses and the samples."""
    place = root / scenario["name"]
    runs.train(configured(scenario), place, console=Console(quiet=True))
    processes.wait()
    run = runs.load_run(place)
    samples = evaluation.generate(
        run.flow, run.objective, run.shape, 21, seed=3, steps=2, shared=True, batch=5
    )
    logs = {"teacher": place / "teacher" / "metrics.jsonl", "student": place / "metrics.jsonl"}
    rows = {name: [json.loads(line) for line in log.read_text().splitlines()] for name, log in logs.items()}
    keep = ("step", "loss")
    return {
        "samples": samples.tolist() if processes.first() else None,
        **{name: [{key: row[key] for key in keep} for row in each] for name, each in rows.items()},
    }


def plant(error: str | None, made: Trainer, patched: list[Any]) -> None:
    """Spoil what a check is to find, in the second process alone."""
    second = processes.rank() == 1
    if error == "weights" and second:
        next(made.state.trained.network.parameters()).data.add_(1e-3)
    if error == "gradient":  # wrapped by nothing: every process goes its own way
        patched.append(distributed.Engine.prepare)
        distributed.Engine.prepare = lambda self, state, losses, unused: self.modules.update(losses)
    if error == "rows":
        whole = made.setup.objective.__class__.part
        patched.append(("part", made.setup.objective.__class__, whole))
        made.setup.objective.__class__.part = lambda self, total, step, key, index, parts: whole(
            self, total, step, key, 0, parts
        )
    if error == "slow compiler":
        patched.append(("compile", start.torch, start.torch.compile))
        start.torch.compile = lambda forward: lambda *given: (second and time.sleep(60)) or forward(*given)
    if error == "death" and second:
        raise ValueError("the second process has had enough")


def restore(patched: list[Any]) -> None:
    for former in patched:
        if isinstance(former, tuple):
            setattr(former[1], former[0], former[2])
        else:
            distributed.Engine.prepare = former


def play(scenario: dict[str, Any], root: Path) -> dict[str, Any]:
    """Run a scenario and return its loss stream, its weights, and what was said."""
    place, patched = root / scenario.get("out", scenario["name"]), []
    listener = Listener(scenario.get("stop"), ear=1)
    processes.from_first(lambda: place.mkdir(parents=True, exist_ok=True))
    try:
        made = trainer(place, scenario, listener)
        if scenario.get("resume"):
            made.restore()
        plant(scenario.get("plant"), made, patched)
        made.open()
        divided: list[bool] = []
        made.evaluate = lambda state: divided.append(  # type: ignore[assignment]
            all(hasattr(w, "full_tensor") for w in state.trained.optimizer.param_groups[0]["params"])
        )
        code = made.fit()
    finally:
        restore(patched)
    weights = {
        f"{file}/{name}": float(tensor.double().square().sum())
        for file, tensors in files_of(made.state.trained).items()
        for name, tensor in tensors.items()
    }
    rows = [
        {name: row[name] for name in ("step", "loss", "raw_error", "grad_norm", "derivative_norm")}
        for row in made.metrics.rows()
    ]
    steps = processes.every(made.state.step)
    return {
        "rows": rows,
        "weights": weights,
        "said": listener.said,
        "signal": code,
        "steps": steps,
        "divided": divided,
    }


def attempt(scenario: dict[str, Any], root: Path) -> dict[str, Any]:
    """Run a scenario among all processes; an error is part of what came out."""
    try:
        with processes.together():
            return (phases if scenario.get("phases") else play)(scenario, root)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def perform(root: Path, scenarios: list[dict[str, Any]]) -> None:
    """Run all scenarios in one of several processes."""
    warnings.simplefilter("ignore")
    found = {each["name"]: attempt(each, root) for each in scenarios}
    (root / f"found-{os.environ['RANK']}.json").write_text(json.dumps(found))
