"""Pictures, weights and table of a training; where nobody asked for them, within a share of its time."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from flowleap import evaluation, processes
from flowleap.data import Dataset
from flowleap.files import replace_file
from flowleap.formatting import roughly
from flowleap.runs.describe import changes
from flowleap.runs.evaluators import Evaluators
from flowleap.runs.reading import weights_name
from flowleap.runs.setup import Setup
from flowleap.training import checkpoint, report
from flowleap.training.log import Reporter
from flowleap.training.state import State


@dataclass
class Results:
    """Draws and measures samples of the averaged weights.

    `drawn` are the seconds that pictures took since resume.
    """

    place: Path
    setup: Setup
    dataset: Dataset
    reporter: Reporter
    evaluators: Evaluators
    drawn: float = 0.0
    left_out: bool = False

    @cached_property
    def pace(self) -> float:
        """The seconds that the network takes for one evaluation of one sample."""
        return evaluation.pace(self.setup.averaged, self.dataset.shape, min(100, self.most))

    @property
    def most(self) -> int:
        """The samples of a picture, where there is time for all."""
        return report.SHOWN[self.dataset.kind]

    @property
    def drawing_time(self) -> float:
        """The seconds that all pictures of the run so far may take, and that its table may."""
        return max(report.LEAST, report.SHARE * self.setup.state.seconds)

    @property
    def about(self) -> tuple[Any, Any, Dataset]:
        """Map, objective and data."""
        return self.setup.averaged, self.setup.objective, self.dataset

    def sample(self, state: State) -> Path | None:
        """Draw samples/step-….png with the averaged weights; return it, None where it is not drawn."""
        if not processes.first():
            return None
        path = self.place / "samples" / f"step-{state.step:06d}.png"
        steps, left = report.fewest_steps(self.setup.objective), self.drawing_time / 2 - self.drawn
        nfe = self.setup.objective.nfe(steps)
        num, _ = report.affordable({steps: nfe}, self.most, self.pace, left)
        if num * nfe * self.pace > max(left, report.LEAST / 2):
            if not self.left_out:
                self.reporter.warn(
                    f"{path.name} is not drawn: {num} samples in {steps} steps take longer than pictures may, "
                    f"{report.SHARE:.0%} of the time of training"
                )
            self.left_out = True
            return None
        begin = time.perf_counter()
        chosen = self.setup.config.evaluation.validation_labels
        report.draw_samples(*self.about, path, self.reporter, num, chosen)
        if not self.drawn and path.exists():
            self.reporter.say(f"samples after step {state.step}: {path}; later ones beside it")
        self.drawn += time.perf_counter() - begin
        return path if path.exists() else None

    def write(self, metrics: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Write the weights, the pictures and the table of a run that came to its end; return the table."""
        trained, config = self.setup.state.trained, self.setup.config
        finals = {"network.safetensors": trained.network}
        for rank, (decay, copy) in enumerate(trained.averages.items()):
            finals[checkpoint.average_name(decay) if rank else "ema.safetensors"] = copy.module
        num, drawn, measured = processes.from_first(self.choose_steps)
        self.announce(num, drawn, measured)
        if processes.first():
            for name, network in finals.items():
                write = partial(
                    checkpoint.write_tensors, tensors=network.state_dict(), step=self.setup.state.step
                )
                replace_file(self.place / name, write)
            report.draw_curves(metrics, self.place / "plots")
            report.draw_budgets(*self.about, self.place / "grid.png", self.reporter, drawn, num)
        table = self.tabulate(measured) if config.evaluation.num and self.evaluators.final is not None else []
        self.conclude()
        return table

    def choose_steps(self) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        """Return how many samples the final picture shows, at which numbers of steps, and those of the table."""
        objective, config = self.setup.objective, self.setup.config
        if config.evaluation.show is not None:
            asked = tuple(sorted(set(config.evaluation.show)))
            return self.most, asked, asked
        costs = {steps: objective.nfe(steps) for steps in report.usual_steps(objective)}
        num, drawn = report.affordable(costs, self.most, self.pace, self.drawing_time - self.drawn)
        seconds = processes.count() * self.drawing_time
        _, measured = report.affordable(
            costs, config.evaluation.num, self.pace, seconds, fewest=config.evaluation.num
        )
        return num, drawn, measured

    def announce(self, num: int, drawn: tuple[int, ...], measured: tuple[int, ...]) -> None:
        """Say what of the trained run is going to be drawn and measured, how long it takes, and what is left out."""
        config, nfe, say = self.setup.config, self.setup.objective.nfe, self.reporter.say
        listed, name = report.listed, shlex.quote(str(self.place))
        evaluations, tabulated = (
            num * sum(map(nfe, drawn)),
            config.evaluation.num and self.evaluators.final is not None,
        )
        table = (
            f", and a table of {config.evaluation.num:,} samples at {listed(measured)} steps"
            if tabulated
            else ""
        )
        evaluations += config.evaluation.num * sum(map(nfe, measured)) if tabulated else 0
        say(
            f"trained; weights and pictures follow, at {listed(drawn)} steps{table}: about "
            f"{roughly(self.pace * evaluations)}"
        )
        if config.evaluation.show is not None:
            return
        usual = report.usual_steps(self.setup.objective)
        absent = [steps for steps in usual if steps not in drawn]
        if absent or num < self.most:
            what = (
                f"{listed(absent)} steps are"
                if absent
                else f"{self.most - num:,} of {self.most:,} samples are"
            )
            say(
                f"{what} not in the picture, which would take longer than {report.SHARE:.0%} of training; to see them: "
                f"flowleap sample {name} --steps {(absent or usual)[-1]} --num {self.most}"
            )
        absent = [steps for steps in usual if steps not in measured]
        if tabulated and absent:
            say(
                f"{listed(absent)} steps are not in the table, which would take longer than "
                f"{report.SHARE:.0%} of training; to measure them: "
                f"flowleap evaluate {name} --steps {listed(usual).replace(' ', '')} --save"
            )

    def tabulate(self, steps: tuple[int, ...]) -> list[dict[str, Any]]:
        """Measure the finished run, on all processes; the first writes and prints its table."""
        config, evaluator = self.setup.config, self.evaluators.final
        name, num = weights_name(config, "ema", self.setup.state.step), config.evaluation.num
        if not processes.first():
            return evaluation.evaluate(*self.about, steps, num=num, weights=name, evaluator=evaluator)
        where = (self.place, self.reporter, steps)
        remarks = [*changes(config), *filter(None, [self.setup.settled])]
        return report.tabulate(*self.about, num, name, *where, remarks=remarks, evaluator=evaluator)

    def conclude(self) -> None:
        """Say that the run is done, how long it took, where its picture is and what to do next."""
        name, state, steps = shlex.quote(str(self.place)), self.setup.state, self.setup.steps
        if state.skipped:
            self.reporter.warn(
                f"{state.skipped} of {steps} steps were skipped because the loss or its gradient was not finite: the "
                f"weights learned from the other {steps - state.skipped}; train with a lower --lr (now "
                f"{self.setup.config.optimizer.lr:g}), and see `skipped` in metrics.jsonl"
            )
        picture = self.place / "grid.png"
        shown = f"; picture: {picture}" if picture.exists() else ""
        self.reporter.say(
            f"done, trained in {roughly(state.seconds)}: {self.place}{shown}; sample with: flowleap sample {name}; "
            f"look at it: flowleap report {name}"
        )
