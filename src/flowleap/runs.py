"""Runs: what to train, with which settings, into which folder; and a trained run read back.

    result = train(configure("esc", "digits", steps=500))   # into runs/digits-esc-seed0
    run = load_run(result.folder)                           # run.flow, run.objective, run.network, run.config

The folder of a run:

    config.json  environment.json                     settings; versions, git state, commands
    metrics.jsonl  plots/*.png                        averages over each log interval, and their curves
    quality.jsonl  best.safetensors  best.json        quality measured while training, and the best weights by it
    samples/step-000500.png …  grid.png               pictures, always from the same noise
    table.json  table.md                              quality and time at 1, 2, 4, 128 steps
    network.safetensors  ema.safetensors              weights at the end, as trained and averaged
    checkpoints/                                      what --resume needs; the last two
"""

from __future__ import annotations

import difflib
import json
import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from flowleap import data as data_sets
from flowleap import evaluation, methods, networks, values
from flowleap.data import Dataset
from flowleap.files import replace_file
from flowleap.flow_map import FlowMap
from flowleap.objectives import Objective
from flowleap.training import checkpoint, folder, report
from flowleap.training.config import (
    DATA,
    FREE,
    METHOD,
    NETWORKS,
    PRESETS,
    TrainConfig,
    change,
    configure,
    from_dict,
    method_name,
    reconfigure,
    to_dict,
)
from flowleap.training.guard import Diverged
from flowleap.training.interrupt import Interruption
from flowleap.training.log import EXPLANATION, Lines, Reporter
from flowleap.training.loop import Events, Plan, draw_batch, fit
from flowleap.training.state import State, new_player
from flowleap.training.watch import BEST, Watch

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
    "reconfigure",
    "resumed_folder",
    "to_dict",
    "train",
]

FORMAT = 1
WEIGHTS = ("ema", "raw", BEST)


@dataclass(frozen=True)
class RunResult:
    """How a run ended: `signal` is the number of the signal that interrupted it, None at its end."""

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


def default_folder(method: str = METHOD, data: str = DATA, seed: int = 0) -> Path:
    """Return runs/<data>-<method>-seed<seed>, with hyphens."""
    return Path("runs") / f"{data.lower()}-{method_name(method)}-seed{seed}".replace("_", "-")


def resumed_folder(method: str = METHOD, data: str = DATA, seed: int = 0) -> Path:
    """Return the newest run in the default folder or its -2, -3, …."""
    return folder.newest(default_folder(method, data, seed))


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
        FileExistsError for a folder that holds a run; CheckpointError for files that cannot be read or
        written; Diverged where too many steps in a row were not finite.
    """
    reporter = Reporter(console)
    place, config = choose(config, out, resume=resume, overwrite=overwrite)
    dataset = data_sets.load(config.data) if dataset is None else data_sets.check(dataset)
    session = Session(place, config, dataset, reporter)
    if resume:
        session.restore()
    else:
        session.rehearse()
        folder.claim(place, overwrite=overwrite)
    session.note()
    session.introduce()
    signal = session.fit()
    table = session.finish() if signal is None else []
    return RunResult(place, session.state.step, signal, table)


def choose(
    config: TrainConfig | None, out: str | Path | None, *, resume: bool, overwrite: bool
) -> tuple[Path, TrainConfig]:
    """Return the folder and the config that a call of `train` means.

    Raises: ValueError for contradictions; FileNotFoundError where there is nothing to resume.
    """
    if resume and overwrite:
        raise ValueError("resume continues a run and overwrite starts it anew: give one of them")
    if config is None and (out is None or not resume):
        raise ValueError(
            "without a config there is nothing to train: configure(), or the folder of a run to resume"
        )
    if not resume:
        assert config is not None
        if out is not None:
            return Path(out), config
        base = default_folder(config.method, config.data, config.seed)
        return (base if overwrite else folder.unused(base)), config
    if out is not None:
        place = Path(out)
    else:
        assert config is not None
        place = resumed_folder(config.method, config.data, config.seed)
    stored = read_config(place)
    return place, stored if config is None else compatible(stored, config, place)


def compatible(stored: TrainConfig, wanted: TrainConfig, place: Path) -> TrainConfig:
    """Return the config of a run that is resumed with some fields changed.

    Raises: ValueError where a field changes that would make it another run.
    """
    changed = [f.name for f in fields(TrainConfig) if getattr(stored, f.name) != getattr(wanted, f.name)]
    fixed = [name for name in changed if name not in FREE]
    if wanted.steps != stored.steps and not fixed:
        horizons = "; its horizons and learning rates are fractions of the new length"
        warnings.warn(
            f"{place}: {stored.steps} steps become {wanted.steps}{horizons}", UserWarning, stacklevel=4
        )
    if fixed:
        differences = "; ".join(
            f"{name} is {getattr(stored, name)!r}, not {getattr(wanted, name)!r}"
            if name not in ("objective", "network")
            else f"its {name} is another"
            for name in fixed
        )
        raise ValueError(
            f"{place} cannot be resumed as another run: {differences}. Leave these out, or start a new run"
        )
    return wanted


class Session:
    """One sitting of a run: its parts, and what happens to its folder."""

    def __init__(self, place: Path, config: TrainConfig, dataset: Dataset, reporter: Reporter) -> None:
        """Build network, objective and state, touching no file.

        Raises: ValueError where parts do not fit one another, or for a GPU that is not there.
        """
        self.place, self.config, self.dataset, self.reporter = place, config, dataset, reporter
        self.objective = values.from_dict(config.objective).for_run(config.steps)
        network = build_network(config).to(device_of(config.device))
        player = new_player(
            network,
            self.objective,
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            decays=config.ema,
        )
        self.state = State(player)
        self.plan = Plan(**{f.name: getattr(config, f.name) for f in fields(Plan)})
        unlabeled = replace(dataset, label=None, num_classes=None)
        self.usable = unlabeled if player.flow.num_classes is None else dataset
        self.averaged = self.objective.flow_map(player.averages[config.ema[0]].module)

    def restore(self) -> None:
        """Go to the last checkpoint of the folder; a run without one begins again."""
        path = checkpoint.latest(self.place / "checkpoints")
        if path is not None:
            checkpoint.restore(path, self.state)
        if self.state.step > self.config.steps:
            raise ValueError(
                f"{self.place} has done {self.state.step} steps already: --steps {self.config.steps} would end before "
                f"them, give at least {self.state.step}"
            )

    def rehearse(self) -> None:
        """Compute the first step without learning from it: what does not fit fails before a file is made."""
        player = self.state.player
        device = next(player.network.parameters()).device
        batch = draw_batch(self.usable, self.objective, self.plan, 0, device)
        with torch.no_grad():
            self.objective(player.flow, player.frozen, batch, 0, self.plan.seed)

    def note(self) -> None:
        """Write config.json and environment.json."""
        replace_file(self.place / "config.json", describe(self.config, self.dataset))
        folder.note_environment(self.place / "environment.json")
        self.metrics = Lines(self.place / "metrics.jsonl", self.state.step)
        self.watch = Watch(
            self.place,
            self.objective,
            self.dataset,
            self.ruler,
            share=self.config.watch_share if self.measurable() else 0.0,
            last=self.config.steps,
            step=self.state.step,
            num=self.config.watch_num,
            steps=self.config.watch_steps,
            say=self.reporter.say,
        )

    @cached_property
    def ruler(self) -> evaluation.Reference:
        """What the samples of this run are held against."""
        return evaluation.reference(self.dataset, evaluation.named(self.config.features, self.dataset))

    def measurable(self) -> bool:
        """Whether data and samples are enough to measure quality while training; says why not."""
        if not self.config.watch_share:
            return False
        try:
            evaluation.enough(self.config.watch_num, self.ruler)
        except ValueError as error:
            self.reporter.warn(f"quality is not measured while training: {error}")
            return False
        return True

    def introduce(self) -> None:
        """Say what is trained, where, and how long its horizons are."""
        config, say = self.config, self.reporter.say
        begun = f", continued from step {self.state.step}" if self.state.step else ""
        extent = f"{config.steps} steps of {config.batch}"
        say(f"{config.method} on {config.data}, {extent}, seed {config.seed}{begun}")
        for line in changes(config):
            say(line)
        say(networks.describe(self.state.player.network))
        say(f"run folder: {self.place}")
        for name, fraction in self.objective.horizons().items():
            step = round(fraction * config.steps)
            say(f"horizon {name}: {fraction:.4g} of the run, step {step}")
            if fraction > 1:
                self.reporter.warn(
                    f"the horizon {name} ends at step {step}, after the run: it is never passed"
                )
        say(EXPLANATION)

    def fit(self) -> int | None:
        """Train to the end or to a signal, which is returned."""
        events = Events(
            log=self.log,
            sample=self.sample,
            save=self.save,
            measure=self.watch,
            tick=self.reporter.advance,
        )
        with Interruption() as interruption, self.reporter.progress(self.plan.steps, self.state.step):
            try:
                fit(
                    self.state,
                    self.objective,
                    self.usable,
                    self.plan,
                    replace(events, interrupted=interruption),
                )
            except Diverged as error:
                raise Diverged(f"{error}; {self.remains()}") from error
        if self.state.step == self.plan.steps:
            return None
        self.reporter.say(f"interrupted after step {self.state.step}; {self.remains()}")
        return interruption.signal

    def remains(self) -> str:
        """Say what is saved and how to go on from it."""
        path = checkpoint.latest(self.place / "checkpoints")
        if path is None:
            return "there is no checkpoint yet"
        return f"saved: {path}; continue with: flowleap train --resume --out {shlex.quote(str(self.place))}"

    def log(self, row: dict[str, Any]) -> None:
        """Keep and show the numbers of a log interval."""
        self.metrics.append(row)
        self.reporter.row(row)

    def sample(self, state: State) -> None:
        """Draw samples/step-….png with the averaged weights."""
        path = self.place / "samples" / f"step-{state.step:06d}.png"
        report.draw_samples(self.averaged, self.objective, self.dataset, path, self.reporter)

    def save(self, state: State) -> None:
        """Write a checkpoint."""
        checkpoint.save(self.place / "checkpoints", state)

    def finish(self) -> list[dict[str, Any]]:
        """Write the weights, the pictures and the table of a run that came to its end."""
        try:
            return self._finish()
        except KeyboardInterrupt:
            self.reporter.say(f"the run is trained, its table is not made; {self.remains()}")
            raise

    def _finish(self) -> list[dict[str, Any]]:
        place, player = self.place, self.state.player
        finals = {"network.safetensors": player.network}
        for rank, (decay, copy) in enumerate(player.averages.items()):
            finals[checkpoint.average_name(decay) if rank else "ema.safetensors"] = copy.module
        for name, network in finals.items():
            write = partial(checkpoint.write_tensors, tensors=network.state_dict(), step=self.state.step)
            replace_file(place / name, write)
        report.draw_curves(self.metrics.rows(), place / "plots")
        report.draw_budgets(self.averaged, self.objective, self.dataset, place / "grid.png", self.reporter)
        table = []
        if self.config.eval_num:
            name = weights_name(self.config, "ema", self.state.step)
            table = report.tabulate(
                self.averaged,
                self.objective,
                self.dataset,
                self.config.eval_num,
                name,
                place,
                self.reporter,
                remarks=changes(self.config),
                ruler=self.ruler,
            )
        name = shlex.quote(str(place))
        self.reporter.say(
            f"done: {place}; sample with: flowleap sample {name}; look at it: flowleap report {name}"
        )
        return table


def changes(config: TrainConfig) -> list[str]:
    """Return, in words, what the objective of a run changes about the method it is named after."""

    def brief(value: Any) -> str:
        return str(value["type"]) if isinstance(value, dict) else str(value)

    named = values.to_dict(methods.get(config.method))
    found = values.differences(named, config.objective)
    return [f"changed from {config.method}: {name} {brief(old)} → {brief(new)}" for name, old, new in found]


def build_network(config: TrainConfig) -> nn.Module:
    """Build the network of a run as its seed initializes it; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return networks.build(config.network)


def device_of(name: str | torch.device) -> torch.device:
    """Return the device of a name; "auto" is a GPU where there is one.

    Raises: ValueError for a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r}: torch sees no GPU on this machine; use --device cpu")
    return device


def weights_name(config: TrainConfig, weights: str, step: int) -> str:
    """Return what weights are called in a protocol: "ema-0.999@2200", "raw@2200" or "best@2200"."""
    return f"ema-{config.ema[0]}@{step}" if weights == "ema" else f"{weights}@{step}"


# ---------------------------------------------------------------- reading a run back


def describe(config: TrainConfig, dataset: Dataset) -> str:
    """Return the text of config.json: the config, and what of the data set sampling needs to know."""
    known = {
        "kind": dataset.kind,
        "shape": list(dataset.shape),
        "classes": dataset.num_classes,
        "rows": len(dataset),
    }
    return json.dumps({"format": FORMAT, "config": to_dict(config), "dataset": known}, indent=2) + "\n"


def read_folder(place: Path) -> dict[str, Any]:
    """Return the content of the config.json of a run.

    Raises: FileNotFoundError where there is no run, naming its neighbors; ValueError for a broken file.
    """
    path = place / "config.json"
    if not path.is_file():
        others = [other.name for other in place.parent.glob("*") if folder.is_run(other)]
        near = difflib.get_close_matches(place.name, others, n=3, cutoff=0.5) or sorted(others)[:5]
        hint = f"; runs beside it: {', '.join(near)}" if near else ""
        raise FileNotFoundError(f"{place} holds no run (no config.json){hint}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']} of another version of flowleap, expected {FORMAT}")
        return {"config": content["config"], "dataset": content["dataset"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: truncated or not the config of a run ({error})") from error


def read_config(place: str | Path) -> TrainConfig:
    """Return the config of the run in a folder.

    Raises: FileNotFoundError, ValueError where there is none.
    """
    return from_dict(read_folder(Path(place))["config"])


def load_run(place: str | Path, weights: str = "ema", device: str | torch.device = "cpu") -> Run:
    """Read a run back: the weights at its end, or those of its last checkpoint where it has not ended.

    Args:
        weights: "ema" for the first running average, "raw" for the weights of the last step, "best" for those
            that did best while training.

    Raises: FileNotFoundError for a folder without a run or a run without weights; CheckpointError for a
        truncated or foreign file, naming it and the reason; ValueError for other weights.
    """
    place = Path(place)
    if weights not in WEIGHTS:
        raise ValueError(
            f'weights={weights!r}: expected "ema" (the running average), "raw" (the last step) or "best" (the '
            "average that measured best while training)"
        )
    content = read_folder(place)
    config, known = from_dict(content["config"]), content["dataset"]
    path, step = weights_file(place, config, weights)
    network = networks.build(config.network)
    checkpoint.load_weights(path, network)
    network.to(device_of(device)).eval().requires_grad_(False)
    objective = values.from_dict(config.objective).for_run(config.steps)
    return Run(
        folder=place,
        config=config,
        objective=objective,
        network=network,
        flow=objective.flow_map(network),
        weights=weights_name(config, weights, step),
        step=step,
        kind=known["kind"],
        shape=tuple(known["shape"]),
        num_classes=network.num_classes,  # type: ignore[arg-type]
    )


def weights_file(place: Path, config: TrainConfig, weights: str) -> tuple[Path, int]:
    """Return the file that holds the weights of a run, and the step that they are from.

    Raises: FileNotFoundError for a run that has not saved any.
    """
    if weights == BEST:
        best = place / f"{BEST}.safetensors"
        if not best.exists():
            raise FileNotFoundError(
                f"{place} has no best weights: quality was not measured while it trained (watch_share=0, or too "
                "short a run); use the weights of its end, --weights ema"
            )
        return best, checkpoint.step_of(best)
    final = place / ("ema.safetensors" if weights == "ema" else "network.safetensors")
    ended = checkpoint.step_of(final) if final.exists() else -1
    path = checkpoint.latest(place / "checkpoints") if ended < config.steps else None
    if path is not None:
        step = checkpoint.read_progress(path / "state.json").step
        name = checkpoint.average_name(config.ema[0]) if weights == "ema" else "network.safetensors"
        return path / name, step
    if ended < 0:
        raise FileNotFoundError(f"{place} has no weights yet: it was stopped before its first checkpoint")
    return final, ended
