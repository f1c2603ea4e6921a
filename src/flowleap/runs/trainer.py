"""The training of one network, and the files of its folder."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from flowleap import clock, processes, threads
from flowleap.data import Dataset
from flowleap.runs.describe import describe
from flowleap.runs.evaluators import Evaluators
from flowleap.runs.results import Results
from flowleap.runs.setup import Setup
from flowleap.training import checkpoint, folder, posthoc
from flowleap.training.guard import Diverged
from flowleap.training.interrupt import Interruption
from flowleap.training.log import Lines, Reporter
from flowleap.training.loop import Events, fit
from flowleap.training.start import make_ready
from flowleap.training.state import State
from flowleap.training.trackers import Trackers


class Trainer:
    """Trains one network and writes its folder.

    Args:
        place: the folder.
        setup: the parts of the training.
        dataset: what samples are compared with.
        home: the folder by which the run is resumed where that is not `place`: that of the run it is a phase of.
        evaluators: of `dataset`, where there are any already.
    """

    def __init__(
        self,
        place: Path,
        setup: Setup,
        dataset: Dataset,
        reporter: Reporter,
        *,
        home: Path | None = None,
        evaluators: Evaluators | None = None,
    ) -> None:
        self.place, self.home, self.setup, self.reporter = place, home or place, setup, reporter
        self.state, self.steps = setup.state, setup.steps
        self.evaluators = evaluators or Evaluators(setup.config, dataset)
        self.results = Results(place, setup, dataset, reporter, self.evaluators)
        self.table: list[dict[str, Any]] = []
        self.signal: int | None = None
        self.trackers = Trackers(setup.config.track, place, setup.state.step, reporter.warn)
        self.evaluate: Callable[[State], None] = lambda state: None

    def restore(self) -> None:
        """Go to the last checkpoint of the folder; a run without one begins again."""
        path = checkpoint.latest(self.place / "checkpoints")
        if path is not None and checkpoint.restore(path, self.state).drawn_otherwise:
            self.reporter.say(
                f"{self.place} was begun by an earlier version, which drew other random numbers: it goes on with those "
                "of this version, so that its weights are no longer bitwise what they would have been"
            )

    def train(self, adaptive: threads.Adaptive | None = None) -> int | None:
        """Train to the end and write the results, or to a signal, which is returned; processes leave together.

        Args:
            adaptive: changes the number of CPU threads while the run trains.
        """
        self.open()
        describe(self.setup, self.evaluators, self.place, self.reporter)
        try:
            signal = self.fit(adaptive)
            if signal is None:
                self.write_results()
        finally:
            self.trackers.finish()
        processes.wait()
        return signal

    def write_results(self) -> None:
        """Write weights, pictures and table of the run, which came to its end."""
        try:
            with clock.named("table"):
                self.table = self.results.write(self.metrics.rows())
        except KeyboardInterrupt:
            self.reporter.say(f"the run is trained, its table is not made; {self.remains()}")
            raise
        self.trackers.table(self.table, self.state.step)

    def open(self) -> None:
        """Open metrics.jsonl and quality.jsonl up to the present step."""
        self.metrics = Lines(self.place / "metrics.jsonl", self.state.step)
        Lines(self.place / "quality.jsonl", self.state.step)
        self.trackers.step = self.state.step
        self.trackers.start(self.setup.config.flat())
        online = self.evaluators.online_evaluation(
            self.place, self.setup, self.reporter, self.trackers.quality
        )
        self.evaluate = online or self.evaluate

    def fit(self, adaptive: threads.Adaptive | None = None) -> int | None:
        """Train to the end or to a signal, which is returned; `signal` is also one that came in the last step."""
        setup, state = self.setup, self.state
        if adaptive is not None:
            adaptive.told = partial(self.note_threads, adaptive)
        with (
            setup.enough_memory(self.remains),
            setup.reading_ahead() as data,
            Interruption() as interruption,
            self.reporter.progress(self.steps, state.step),
        ):
            events = Events(
                log=self.log,
                sample=self.sample,
                save=self.save,
                measure=self.evaluate,
                keep=self.keep,
                tick=self.reporter.advance,
                interrupted=interruption,
                step=nullcontext if adaptive is None else adaptive.step,
            )
            try:
                make_ready(setup.engine, state, setup.objective, setup.data, setup.plan)
                fit(state, setup.objective, data, setup.plan, events, setup.engine)
            except Diverged as error:
                raise Diverged(f"{error}; {self.remains()}") from error
            setup.engine.unite(state)
        self.signal = max(filter(None, processes.every(interruption.signal)), default=None)
        if state.step == self.steps:
            return None
        self.reporter.say(f"interrupted after step {state.step}; {self.remains()}")
        return self.signal

    def remains(self) -> str:
        """Say what is saved and how to go on from it."""
        path = checkpoint.latest(self.place / "checkpoints")
        if path is None:
            return "there is no checkpoint yet"
        return f"saved: {path}; continue with: flowleap train --resume --out {shlex.quote(str(self.home))}"

    def log(self, row: dict[str, Any]) -> None:
        """Write and show the numbers of a log interval."""
        self.metrics.append(row)
        self.reporter.row(row)
        self.trackers.log(row)

    def sample(self, state: State) -> None:
        """Draw samples, and send the picture to the trackers."""
        drawn = self.results.sample(state)
        if drawn is not None:
            self.trackers.picture(drawn, state.step)

    def keep(self, state: State) -> None:
        """Store the power-function averages every `width_every` steps and at the end."""
        interval = self.setup.config.optimizer.width_every
        if state.trained.powers and (state.step == self.steps or state.step % interval == 0):
            posthoc.store(self.place, state.trained, state.step)

    def save(self, state: State) -> None:
        """Write a checkpoint."""
        checkpoint.save(self.place / "checkpoints", state, self.setup.plan.checkpoints_total_limit)

    def note_threads(self, adaptive: threads.Adaptive) -> None:
        """Write the CPU threads since resume into environment.json, also into that of the run it is a phase of."""
        for place in {self.place, self.home}:
            folder.note_threads(place / "environment.json", adaptive)
