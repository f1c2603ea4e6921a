"""The story of a run: its folder is chosen, everything is tried out, and its phases are done one after another."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from flowleap import data as data_sets
from flowleap import methods, processes, threads
from flowleap.data import Dataset
from flowleap.runs import pairs, teachers, warm
from flowleap.runs.configuring import DATA, METHOD
from flowleap.runs.cost import report as report_cost
from flowleap.runs.phases import (
    PAIRS,
    STUDENT,
    TEACHER,
    length,
    needs_pairs,
    own_teacher,
    phases,
    teacher_config,
)
from flowleap.runs.reading import device_of, read_config
from flowleap.runs.trainer import Trainer, note, note_config
from flowleap.training import checkpoint, folder
from flowleap.training.config import FREE, TrainConfig
from flowleap.training.log import Reporter, lines_of

__all__ = ["RunResult", "choose", "compatible", "default_folder", "resumed_folder", "train"]

FOUND = ("teacher.weights", "teacher.checksum", "teacher.pairs", "init.weights", "init.checksum")
"""Fields that are found at the start of a run where they are not given."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended: `signal` is the number of the signal that interrupted it, None at its end.

    `phase` is the one that it is in, and `step` counts the steps of that.
    """

    folder: Path
    step: int
    signal: int | None = None
    table: Sequence[Mapping[str, Any]] = ()
    phase: str = STUDENT
    skipped: int = 0

    @property
    def failed(self) -> bool:
        """Whether at least half of the steps were skipped because loss or gradient was not finite."""
        return self.skipped > 0 and 2 * self.skipped >= self.step


def default_folder(method: str = METHOD, data: str = DATA, seed: int = 0) -> Path:
    """Return runs/<data>-<method>-seed<seed>, with hyphens."""
    return Path("runs") / f"{data_sets.short(data)}-{methods.key(method)}-seed{seed}".replace("_", "-")


def resumed_folder(method: str = METHOD, data: str = DATA, seed: int = 0) -> Path:
    """Return the newest run in the default folder or its -2, -3, …."""
    return folder.newest(default_folder(method, data, seed))


@threads.limited()
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
        resume: continue the run in `out` (None: the newest of that name), exactly, from its last checkpoint; to the
            last digit with a number of threads that is given.
        overwrite: start anew where a run is already; the old one is moved to <name>.old-N.
        dataset: the data, where they are loaded already (`resolve`) or have no name to load them by.

    Raises: ValueError for settings that do not fit one another, found before anything is written;
        FileExistsError for a folder that holds a run; CheckpointError for files that cannot be read or
        written; Diverged where too many steps in a row were not finite.
    """
    reporter = Reporter(console)
    asked = config
    place, config = processes.from_first(lambda: choose(asked, out, resume=resume, overwrite=overwrite))
    with ExitStack() as held:
        if resume:
            hold(held, place, reporter)
        return carry_out(place, config, dataset, reporter, held, resume=resume, overwrite=overwrite)


def carry_out(
    place: Path,
    config: TrainConfig,
    dataset: Dataset | None,
    reporter: Reporter,
    held: ExitStack,
    *,
    resume: bool,
    overwrite: bool,
) -> RunResult:
    """Train the run in a folder; that of a new run is made, and its lock held, once everything has been tried out."""
    if resume:
        processes.from_first(lambda: resumable(place))
    began = folder.read(place)["dataset"].get("checksum") if resume else None
    if dataset is None:
        dataset = config.data.load(began)
    else:
        dataset = data_sets.unchanged(data_sets.check(dataset), began)
        dataset.turned(config.data.flip)  # refused here where it cannot be
    config, start = warm.resolve(teachers.resolve(config, dataset), place, resume, dataset)
    if resume:
        not_shorter(place, config)
    if config.objective.needs_run:
        taught = Taught(place, config, dataset, reporter, held, start)
        return taught.train(resume=resume, overwrite=overwrite)
    trainer = Trainer(place, config, dataset, reporter, start=start)
    if resume:
        trainer.restore()
    else:
        trainer.trial_step()
    adaptive = take_threads(config, place, None if resume else trainer.fastest_threads)
    if not resume:
        hold(held, place, reporter, new=True, overwrite=overwrite)
    note(place, config, dataset, adaptive)
    signal = sit(trainer, adaptive)
    if signal is None and processes.first():
        reporter.say(report_cost(place, config, len(dataset)))
    return RunResult(place, trainer.state.step, signal, trainer.table, skipped=trainer.state.skipped)


def sit(trainer: Trainer, adaptive: threads.Adaptive | None) -> int | None:
    """Train to the end and leave what a run leaves, or to a signal, which is returned.

    All processes leave together, when all files are there.
    """
    trainer.open()
    trainer.describe()
    signal = trainer.fit(adaptive)
    if signal is None:
        trainer.table = trainer.finish()
    processes.wait()
    return signal


def take_threads(
    config: TrainConfig, place: Path, measure: Callable[[], int] | None
) -> threads.Adaptive | None:
    """Let torch take the CPU threads of a run: those that were asked for, the fastest, or those of its last steps.

    Args:
        measure: returns the fastest number; None for a run in `place` that is resumed.

    Returns: what changes them while the run trains. None for a number that was asked for, now or in the last sitting,
        for several processes, which would have to agree, for a GPU, and for compiled losses, which are compiled for
        a number of threads.
    """
    limit = threads.most()
    last, adapted = folder.last_threads(place) if measure is None else (None, True)
    known = threads.known(config.parallel.threads, limit)
    count = known or last or (limit if measure is None else measure())
    if last not in (None, count):
        warnings.warn(
            f"{place} was trained with {last} CPU thread{'s' * (last != 1)} and goes on with {count}: its numbers may "
            f"differ in their last digits; --threads {last} continues it exactly",
            UserWarning,
            stacklevel=3,
        )
    threads.use(count)
    fixed = known or not adapted or processes.count() > 1 or config.parallel.compiled
    return None if fixed or device_of(config.parallel.device).type != "cpu" else threads.Adaptive(limit)


def hold(
    held: ExitStack, place: Path, reporter: Reporter, *, new: bool = False, overwrite: bool = False
) -> None:
    """Hold the lock of the folder of a run until `held` ends, see `folder.held`; the first process does it for all."""
    left = processes.from_first(lambda: held.enter_context(folder.held(place, new=new, overwrite=overwrite)))
    if left is not None:
        reporter.say(f"{left} wrote into {place} and was killed: going on from what it left")


@dataclass
class Taught:
    """A run with a teacher: of another run, or one that it trains for itself first."""

    place: Path
    config: TrainConfig
    dataset: Dataset
    reporter: Reporter
    held: ExitStack
    start: warm.Start | None = None
    adaptive: threads.Adaptive | None = None

    def train(self, *, resume: bool, overwrite: bool) -> RunResult:
        """Do one phase after the other, each from where it stopped."""
        place, config, own = self.place, self.config, own_teacher(self.config)
        self.adaptive = take_threads(config, place, None if resume else self.trial().fastest_threads)
        if not resume:
            hold(self.held, place, self.reporter, new=True, overwrite=overwrite)
        note(place, config, self.dataset, self.adaptive)
        self.describe()
        if own and (result := self.train_teacher()) is not None:
            return result
        teacher = teachers.load(self.config, place)
        if own:
            self.config = teachers.identified(self.config, teacher)
            config = self.config
            processes.from_first(lambda: note_config(place, config, self.dataset))
        rows = None
        if needs_pairs(self.config.objective):
            store = pairs.store(place / PAIRS, self.config, self.dataset, teacher)
            if (signal := pairs.make(store, self.config, self.dataset, teacher, self.reporter)) is not None:
                self.reporter.say(f"interrupted after {store.done} pairs; {self.remains()}")
                return RunResult(place, 0, signal, phase=PAIRS)
            rows = pairs.rows(store, self.dataset)
        trainer = Trainer(
            place, self.config, self.dataset, self.reporter, teacher=teacher.flow, rows=rows, start=self.start
        )
        trainer.restore()
        signal = sit(trainer, self.adaptive)
        if signal is None and processes.first():
            self.reporter.say(report_cost(place, self.config, len(self.dataset)))
        return RunResult(place, trainer.state.step, signal, trainer.table, skipped=trainer.state.skipped)

    def trial(self) -> Trainer:
        """Compute the first step of every phase, with an untrained teacher, before a file is made; return the last.

        Raises: ValueError where something does not fit.
        """
        if own_teacher(self.config):
            self.trainer_of_teacher().trial_step()
        _, rows = teachers.practice(self.config, self.dataset)
        untrained = teachers.untrained(self.config)
        trainer = Trainer(
            self.place,
            self.config,
            self.dataset,
            self.reporter,
            teacher=untrained,
            rows=rows,
            start=self.start,
        )
        trainer.trial_step()
        return trainer

    def describe(self) -> None:
        """Say which phases there are."""
        every = phases(self.config, len(self.dataset))
        if self.config.teacher.path is not None:
            self.reporter.say(f"teacher: {self.config.teacher.path}, {self.config.teacher.weights}")
        for number, phase in enumerate(every, 1):
            self.reporter.say(f"phase {number} of {len(every)}, {phase.name}: {phase.text}")

    def trainer_of_teacher(self) -> Trainer:
        """Return the training of its own teacher."""
        config = teacher_config(self.config)
        return Trainer(self.place / TEACHER, config, self.dataset, self.reporter, home=self.place)

    def train_teacher(self) -> RunResult | None:
        """Train its own teacher, or what is left of that; None where it is done."""
        place, config = self.place / TEACHER, teacher_config(self.config)
        begun = processes.from_first(lambda: folder.is_run(place))
        if teachers.finished(place) and (not config.evaluation.num or (place / "table.json").exists()):
            return None
        trainer = self.trainer_of_teacher()
        if begun:
            compatible(read_config(place), config, place)
            trainer.restore()
        else:
            hold(self.held, place, self.reporter, new=True)
        note(place, config, self.dataset, self.adaptive)
        if sit(trainer, self.adaptive) is None and trainer.signal is not None:
            self.reporter.say(f"interrupted after the last step of the teacher; {self.remains()}")
        if trainer.signal is None:
            return None
        return RunResult(self.place, trainer.state.step, trainer.signal, phase=TEACHER)

    def remains(self) -> str:
        """Say how to go on."""
        return f"continue with: flowleap train --resume --out {shlex.quote(str(self.place))}"


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
        base = default_folder(config.method, config.data.name, config.seed)
        return (base if overwrite else folder.unused(base)), config
    if out is not None:
        place = Path(out)
    else:
        assert config is not None
        place = resumed_folder(config.method, config.data.name, config.seed)
    stored = read_config(place)
    if folder.read(place)["imported"] is not None:
        raise ValueError(
            f"{place} was imported, so there is no training to resume: name it as --teacher of a new run"
        )
    return place, stored if config is None else compatible(stored, completed(stored, config), place)


def completed(stored: TrainConfig, wanted: TrainConfig) -> TrainConfig:
    """Return a config with what was found at the start of the run that it is to continue."""
    before, now = stored.flat(), wanted.flat()
    return wanted.replace(**{name: before[name] for name in FOUND if now[name] is None})


def compatible(stored: TrainConfig, wanted: TrainConfig, place: Path) -> TrainConfig:
    """Return the config of a run that is resumed with some fields changed.

    Raises: ValueError where a field changes that would make it another run.
    """
    before, after = stored.flat(), wanted.flat()
    changed = [name for name in before if before[name] != after[name]]
    fixed = [name for name in changed if name not in FREE]
    if "teacher.path" in changed and None in (stored.teacher.path, wanted.teacher.path):
        fixed.append("teacher.path")
    if "data.name" in changed and folder.read(place)["dataset"].get("checksum") is None:
        fixed.append("data.name")
    if "schedule.steps" in changed and own_teacher(stored):
        raise ValueError(
            f"{place} divides {stored.schedule.steps} steps between its teacher and itself, so they cannot become "
            f"{wanted.schedule.steps}: leave --steps out, or start a new run"
        )
    if wanted.schedule.steps != stored.schedule.steps and not fixed:
        horizons = "; its horizons and learning rates are fractions of the new length"
        warnings.warn(
            f"{place}: {stored.schedule.steps} steps become {wanted.schedule.steps}{horizons}",
            UserWarning,
            stacklevel=4,
        )
    if fixed:
        differences = "; ".join(
            f"{name} is {before[name]!r}, not {after[name]!r}"
            if name not in ("objective", "network")
            else f"its {name} is another"
            for name in fixed
        )
        raise ValueError(
            f"{place} cannot be resumed as another run: {differences}. Leave these out, or start a new run"
        )
    return wanted


def resumable(place: Path) -> None:
    """Refuse to resume a run that was trained and has lost its checkpoints: it would begin again over its weights.

    A run without a checkpoint whose log does not go past its first one begins again: nothing of it is lost.

    Raises: ValueError.
    """
    for phase in (place / TEACHER, place):
        if not folder.is_run(phase) or checkpoint.latest(phase / "checkpoints") is not None:
            continue
        config = read_config(phase)
        finals = [phase / name for name in ("ema.safetensors", "network.safetensors")]
        weights = [checkpoint.step_of(path) for path in finals if path.exists()]
        if phase != place and max(weights, default=0) >= length(config):
            continue  # a teacher that is done needs no checkpoint
        done = max([*weights, *(row["step"] for row in lines_of(phase / "metrics.jsonl"))], default=0)
        if weights or 0 < config.schedule.checkpoint_every < done:  # a step is logged before it is saved
            name = shlex.quote(str(phase))
            cure = f"begin a new run with its weights: flowleap train {config.method.replace('_', '-')} --init {name}"
            raise ValueError(
                f"{phase} was trained to step {done} and has no checkpoint to go on from ({phase / 'checkpoints'} is "
                f"missing or empty); starting at step 0 would overwrite what it holds. Put the checkpoints back, or "
                + (cure if weights else "begin a new run in another folder (--out)")
            )


def not_shorter(place: Path, config: TrainConfig) -> None:
    """Refuse to resume a run to an end that lies before its last step.

    Raises: ValueError.
    """
    path = checkpoint.latest(place / "checkpoints")
    done = 0 if path is None else checkpoint.read_progress(path / "state.json").step
    if done > length(config):
        raise ValueError(
            f"{place} has done {done} steps already: --steps {config.schedule.steps} would end before them, give at "
            f"least {done}"
        )
