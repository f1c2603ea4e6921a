"""A run: settings are resolved, first steps are tried, and its phases are done one after another."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowleap import data as data_sets
from flowleap import processes, threads
from flowleap.data import Dataset
from flowleap.runs import pairs, suitable, teachers, warm
from flowleap.runs.cost import report as report_cost
from flowleap.runs.evaluators import Evaluators
from flowleap.runs.phases import PAIRS, STUDENT, TEACHER, Phase, own_teacher, phases, teacher_config
from flowleap.runs.reading import Run, device_of, note, read_config, write_config
from flowleap.runs.resume import choose, compatible, not_shorter, resumable
from flowleap.runs.setup import Setup
from flowleap.runs.trainer import Trainer
from flowleap.training import folder, trackers
from flowleap.training.config import TrainConfig
from flowleap.training.log import Reporter

if TYPE_CHECKING:
    from rich.console import Console


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
    """Train, into a run folder of its own; the loop over steps is `training.loop.fit`.

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
    reporter, asked = Reporter(console), config
    place, config = processes.from_first(lambda: choose(asked, out, resume=resume, overwrite=overwrite))
    with ExitStack() as locks:
        if resume:
            hold(locks, place, reporter)
            processes.from_first(lambda: resumable(place))
        trackers.check(config.track)
        dataset = loaded(config, dataset, place if resume else None)
        config, start = warm.find(teachers.find(config, dataset), place, resume, dataset)
        if resume:
            not_shorter(place, config)

        work = Work(place, config, dataset, start, reporter, locks, Evaluators(config, dataset))
        work.evaluators.check()
        for line in suitable.check(dataset, config.network, config.objective.loss.encoder):
            reporter.warn(line)
        setup = None if resume else work.trial_steps()
        work.adaptive = take_threads(config, place, None if setup is None else setup.fastest_threads)
        del setup  # its memory is needed
        if not resume:
            hold(locks, place, reporter, new=True, overwrite=overwrite)
        note(place, config, dataset, work.adaptive)

        result = work.run_phases()
        if result.signal is None and processes.first():
            reporter.say(report_cost(place, config, len(dataset)))
        return result


@dataclass
class Work:
    """The phases of a run, each of which goes on from where it stopped.

    Args:
        locks: hold the locks of the folders that are written. adaptive: changes the CPU threads while a phase trains.
    """

    place: Path
    config: TrainConfig
    dataset: Dataset
    start: warm.Start | None
    reporter: Reporter
    locks: ExitStack
    evaluators: Evaluators
    adaptive: threads.Adaptive | None = None
    teacher: Run | None = None
    rows: Dataset | None = None

    def trial_steps(self) -> Setup:
        """Compute a trial step of every network that is trained, before a file is written; return the last setup.

        Raises: ValueError where something does not fit.
        """
        if own_teacher(self.config):
            Setup(teacher_config(self.config), self.dataset).trial_step()
        setup = Setup(self.config, self.dataset, start=self.start)
        setup.trial_step()
        return setup

    def run_phases(self) -> RunResult:
        """Do one phase after another, up to a signal."""
        every = phases(self.config, len(self.dataset))
        if self.config.objective.needs_run:
            self.announce(every)
        work = {TEACHER: self.train_teacher, PAIRS: self.make_pairs, STUDENT: self.train_student}
        for phase in every:
            result = work[phase.name]()
            if result.signal is not None:
                break
        return result

    def announce(self, every: Sequence[Phase]) -> None:
        """Say which phases there are."""
        if self.config.teacher.path is not None:
            self.reporter.say(f"teacher: {self.config.teacher.path}, {self.config.teacher.weights}")
        for number, phase in enumerate(every, 1):
            self.reporter.say(f"phase {number} of {len(every)}, {phase.name}: {phase.text}")

    def train_teacher(self) -> RunResult:
        """Train its own teacher, or what is left of that, in a folder inside that of the run."""
        place, config = self.place / TEACHER, teacher_config(self.config)
        if teachers.finished(place) and (not config.evaluation.num or (place / "table.json").exists()):
            return RunResult(self.place, config.schedule.steps, phase=TEACHER)
        if processes.from_first(lambda: folder.is_run(place)):
            compatible(read_config(place), config, place)
        else:
            hold(self.locks, place, self.reporter, new=True)
        note(place, config, self.dataset, self.adaptive)
        trainer = self.trainer(place, Setup(config, self.dataset, say=self.reporter.say))
        if trainer.train(self.adaptive) is None and trainer.signal is not None:
            self.reporter.say(f"interrupted after the last step of the teacher; {self.resume_command}")
        return RunResult(self.place, trainer.state.step, trainer.signal, phase=TEACHER)

    def make_pairs(self) -> RunResult:
        """Let the teacher make the pairs of noise and sample that are missing."""
        teacher = self.load_teacher()
        assert teacher is not None
        store = pairs.store(self.place / PAIRS, self.config, self.dataset, teacher)
        signal = pairs.make(store, self.config, self.dataset, teacher, self.reporter)
        if signal is None:
            self.rows = pairs.rows(store, self.dataset)
        else:
            self.reporter.say(f"interrupted after {store.done} pairs; {self.resume_command}")
        return RunResult(self.place, 0, signal, phase=PAIRS)

    def train_student(self) -> RunResult:
        """Train the network of the run."""
        teacher = self.load_teacher()
        setup = Setup(
            self.config,
            self.dataset,
            teacher=None if teacher is None else teacher.flow,
            pairs=self.rows,
            start=self.start,
            say=self.reporter.say,
        )
        trainer = self.trainer(self.place, setup)
        signal = trainer.train(self.adaptive)
        return RunResult(self.place, trainer.state.step, signal, trainer.table, skipped=trainer.state.skipped)

    def load_teacher(self) -> Run | None:
        """Return the trained teacher, None without one; config.json names the weights of one that was trained here."""
        if self.teacher is None and self.config.objective.needs_run:
            self.teacher = teachers.load(self.config, self.place)
            if own_teacher(self.config):
                self.config = config = teachers.identified(self.config, self.teacher)
                processes.from_first(lambda: write_config(self.place, config, self.dataset))
        return self.teacher

    def trainer(self, place: Path, setup: Setup) -> Trainer:
        """Return what trains a network in a folder, at the last checkpoint there."""
        trainer = Trainer(
            place, setup, self.dataset, self.reporter, home=self.place, evaluators=self.evaluators
        )
        trainer.restore()
        return trainer

    @property
    def resume_command(self) -> str:
        """What to say about how the run is resumed."""
        return f"continue with: flowleap train --resume --out {shlex.quote(str(self.place))}"


def loaded(config: TrainConfig, dataset: Dataset | None, resumed: Path | None) -> Dataset:
    """Return the data of a run, read unless they are given; of a run that is `resumed`, those that it began with.

    Raises: ValueError for other data, or where they cannot be mirrored.
    """
    began = None if resumed is None else folder.read(resumed)["dataset"].get("checksum")
    if dataset is None:
        return config.data.load(began)
    dataset = data_sets.unchanged(data_sets.check(dataset), began)
    dataset.turned(config.data.flip)  # raises where they cannot be mirrored
    return dataset


def take_threads(
    config: TrainConfig, place: Path, measure: Callable[[int], int] | None
) -> threads.Adaptive | None:
    """Let torch take the CPU threads of a run: those that were asked for, the fastest, or those of its last steps.

    Args:
        measure: returns the fastest number up to a limit; None for a run in `place` that is resumed.

    Returns: what changes them while the run trains. None for a number that was asked for, now or before it was resumed,
        for several processes, which would have to agree, for a GPU, and for compiled losses, which are compiled for
        a number of threads.
    """
    limit = threads.most()
    last, adapted = folder.last_threads(place) if measure is None else (None, True)
    known = threads.known(config.parallel.threads, limit)
    count = known or last or (limit if measure is None else measure(limit))
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
    locks: ExitStack, place: Path, reporter: Reporter, *, new: bool = False, overwrite: bool = False
) -> None:
    """Hold the lock of the folder of a run until `locks` end, see `folder.held`; the first process does it for all."""
    left = processes.from_first(lambda: locks.enter_context(folder.held(place, new=new, overwrite=overwrite)))
    if left is not None:
        reporter.say(f"{left} wrote into {place} and was killed: going on from what it left")
