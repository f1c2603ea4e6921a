"""One sitting of the training of one network: its parts, and what happens to its folder."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flowleap import data as data_sets
from flowleap import evaluation, extensions, methods, networks, processes, serialize, threads
from flowleap.data import Dataset
from flowleap.files import replace_file
from flowleap.flow_map import FlowMap
from flowleap.formatting import roughly
from flowleap.runs.phases import length
from flowleap.runs.reading import device_of, weights_name, write_config
from flowleap.runs.warm import Start
from flowleap.training import checkpoint, folder, posthoc, report
from flowleap.training.config import TrainConfig
from flowleap.training.distributed import Engine, micro_batches
from flowleap.training.guard import Diverged
from flowleap.training.interrupt import Interruption
from flowleap.training.log import Lines, Reporter, explanation
from flowleap.training.loop import Events, Plan, Reads, draw_batch, fit
from flowleap.training.online_evaluation import OnlineEvaluation
from flowleap.training.start import make_ready, probe
from flowleap.training.state import State, new_trained_network

HORIZONS = {"times": "curriculum", "target": "tangent warm-up", "frozen": "last refresh of the teacher"}
"""What ends at a horizon, by the field of the objective."""

__all__ = ["Trainer", "build_network", "changes", "device_of", "note", "note_config"]


class Trainer:
    """One sitting of a training: its parts, and what happens to its folder.

    Args:
        place: its folder. dataset: what it learns from, and what its samples are held against.
        teacher: the trained map that teaches it, where its method has one.
        rows: what it learns from where that is not `dataset`: the pairs of a teacher.
        start: the weights that the network begins with, where they are those of another run.
        home: the folder by which it is resumed where that is not `place`: that of the run it is a phase of.
    """

    def __init__(
        self,
        place: Path,
        config: TrainConfig,
        dataset: Dataset,
        reporter: Reporter,
        *,
        teacher: FlowMap | None = None,
        rows: Dataset | None = None,
        home: Path | None = None,
        start: Start | None = None,
    ) -> None:
        """Build network, objective and state, touching no file.

        Raises: ValueError where parts do not fit one another, or for a GPU that is not there.
        """
        self.place, self.config, self.dataset, self.reporter = place, config, dataset, reporter
        self.home, self.steps = home or place, length(config)
        self.table: list[dict[str, Any]] = []
        self.signal: int | None = None
        self.online_evaluation: Callable[[State], None] = lambda state: None
        self.unmeasured: dict[str, None] = {}
        self.drawn, self.left_out = (
            0.0,
            False,
        )  # seconds of pictures in this sitting, and whether one was too much
        self.objective = config.objective.for_run(self.steps)
        network = build_network(config).to(device_of(config.parallel.device))
        self.begun = [] if start is None else start.into(network)
        if teacher is not None:
            self.objective = self.objective.with_teacher(teacher)
            if self.objective.starts_from_teacher:
                assert isinstance(teacher.network, nn.Module)
                networks.take_over(network, teacher.network.state_dict())
        trained = new_trained_network(
            network,
            self.objective,
            lr=config.optimizer.lr,
            betas=config.optimizer.betas,
            weight_decay=config.optimizer.weight_decay,
            decays=config.optimizer.ema,
            widths=config.optimizer.widths,
        )
        self.state = State(trained)
        micro = micro_batches(
            self.objective, config.data.batch, config.parallel.per_device, config.parallel.accumulate
        )
        alone = processes.count() == 1
        self.engine = Engine(
            device=next(network.parameters()).device,
            precision=config.parallel.precision,
            micro=micro,
            shard=config.parallel.shard and not alone,
            compiled=config.parallel.compiled,
            check=config.parallel.check,
            say=reporter.say,
        )
        plan = Plan(
            batch=config.data.batch,
            seed=config.seed,
            lr=config.optimizer.lr,
            clip=config.optimizer.clip,
            patience=config.optimizer.patience,
            **asdict(config.schedule),
        )
        self.plan = replace(plan, steps=self.steps)
        learned = dataset.turned(config.data.flip) if rows is None else rows
        unlabeled = replace(learned, label=None, num_classes=None)
        self.usable = unlabeled if trained.flow.num_classes is None else learned
        self.averaged = self.objective.flow_map(trained.averages[config.optimizer.ema[0]].module)

    def restore(self) -> None:
        """Go to the last checkpoint of the folder; a run without one begins again."""
        path = checkpoint.latest(self.place / "checkpoints")
        if path is not None:
            checkpoint.restore(path, self.state)

    def trial_step(self) -> None:
        """Compute the first step without learning from it: what does not fit fails before a file is made."""
        if self.config.evaluation.num and self.evaluator is not None:
            evaluation.enough(self.config.evaluation.num, self.evaluator)
        device = next(self.state.trained.network.parameters()).device
        part, parts = self.engine.own[0], self.engine.parts
        with self.enough_memory(), torch.no_grad():
            batch = draw_batch(self.usable, self.objective, self.plan, 0, device, part, parts)
            for trained, objective in self.state.trained_networks(self.objective):
                objective(trained.flow, trained.frozen, batch, 0, trained.key(self.plan.seed))

    def fastest_threads(self) -> int:
        """Return with how many CPU threads a step is fastest; nothing is learned. Beside a GPU all are taken."""
        if self.engine.device.type != "cpu":
            return threads.most()
        losses = self.engine.loss_modules(self.state, self.objective)

        def step() -> None:
            for trained, task in self.state.trained_networks(self.objective):
                probe(losses[trained.role], trained, task, self.engine, self.usable, self.plan, 0)

        with self.enough_memory():
            return processes.from_first(lambda: threads.fastest(step, threads.most()))

    def open(self) -> None:
        """Open what is measured on the way: metrics.jsonl and quality.jsonl, up to the present step."""
        self.metrics = Lines(self.place / "metrics.jsonl", self.state.step)
        Lines(self.place / "quality.jsonl", self.state.step)
        evaluator = self.own_evaluator if self.config.evaluation.online_share else None
        if evaluator is None:
            return
        try:
            evaluation.enough(self.config.evaluation.online_num, evaluator)
        except ValueError as error:
            self.reporter.warn(f"quality is not measured while training: {error}")
            return
        conditional = self.usable.num_classes is not None
        self.online_evaluation = OnlineEvaluation(
            self.place,
            self.objective,
            self.dataset if conditional else replace(self.dataset, label=None, num_classes=None),
            evaluator,
            share=self.config.evaluation.online_share,
            last=self.steps,
            step=self.state.step,
            num=self.config.evaluation.online_num,
            steps=self.config.evaluation.online_steps,
            say=self.reporter.say,
        )

    @cached_property
    def own_evaluator(self) -> evaluation.Evaluator | None:
        """The data trained on, which samples are compared with while training; None where they are too few."""
        return self.evaluator_of(self.dataset)

    @cached_property
    def evaluator(self) -> evaluation.Evaluator | None:
        """The held-out part of the data where it has one, or else all, which the samples of the finished run are
        compared with; None where it is too small.
        """
        apart = data_sets.held_out(self.dataset)
        return self.own_evaluator if apart is None else self.evaluator_of(apart)

    def evaluator_of(self, dataset: Dataset) -> evaluation.Evaluator | None:
        """Return what samples are compared with by the features of the run; None, with the reason in `unmeasured`,
        where the data are too few.
        """
        try:
            return evaluation.evaluator_for(
                dataset, evaluation.named(self.config.evaluation.features, dataset)
            )
        except evaluation.TooFew as error:
            self.unmeasured[str(error)] = None
            return None

    def describe(self) -> None:
        """Say what is trained, where, and how long its horizons are."""
        config, say = self.config, self.reporter.say
        begun = f", continued from step {self.state.step}" if self.state.step else ""
        extent = f"{self.steps} steps of {config.data.batch}"
        say(f"{config.method} on {config.data.name}, {extent}, seed {config.seed}{begun}")
        for line in (*changes(config), *self.begun):
            say(line)
        for line in self.dataset.notes:
            say(line)
        if self.objective.averages_rows:
            for line in self.objective.batching.notes(
                self.usable.label, self.usable.class_names, config.data.batch
            ):
                self.reporter.warn(line)
        if self.usable.mirrors:
            say(
                "images are mirrored with probability ½; samples are compared with images that are not mirrored"
            )
        say(networks.describe(self.state.trained.network))
        if self.engine.device.type == "cpu":
            count, cores = torch.get_num_threads(), threads.share()
            say(f"{count} CPU thread{'s' * (count > 1)} on {cores} core{'s' * (cores > 1)}")
        if self.engine.parts > 1 or config.parallel.precision != "fp32":
            say(self.spread())
        if config.evaluation.num and self.evaluator is None:
            self.reporter.warn(f"the finished run is not measured: {list(self.unmeasured)[-1]}")
        elif self.unmeasured:
            self.reporter.warn(f"quality is not measured while training: {list(self.unmeasured)[-1]}")
        if config.data.batch > len(self.usable):
            say(
                f"a batch of {config.data.batch:,} from {len(self.usable):,} rows of data: each is used "
                f"{config.data.batch / len(self.usable):.2g} times in every step"
            )
        say(f"run folder: {self.place}")
        if self.objective.auxiliary is not None:
            scale, betas = self.state.trained.lr_scale, self.state.trained.optimizer.defaults["betas"]
            say(
                f"two networks are trained, {self.objective.auxiliary.name} and {self.objective.name}; both at "
                f"{scale:g} times the learning rate, betas {betas}"
            )
        for name, fraction in self.objective.horizons().items():
            step = round(fraction * self.steps)
            words = HORIZONS.get(name, name)
            say(f"{words} ends at step {step}")
            if fraction > 1:
                self.reporter.warn(
                    f"{words} ends at step {step}, after the last step {self.steps} of the run"
                )
        say(explanation(self.objective))

    def spread(self) -> str:
        """Say how a batch is split, and in which precision its loss is computed."""
        count, micro, batch = processes.count(), self.engine.micro, self.config.data.batch
        parts = self.engine.parts
        each = f"{batch // parts}" if batch % parts == 0 else f"{batch // parts} or {batch // parts + 1}"
        places = f"{count} process{'es' * (count > 1)} × {micro} micro-batch{'es' * (micro > 1)} of {each}"
        shared = ", weights divided among the processes" if self.engine.shard else ""
        return f"batch {batch} = {places}, {self.config.parallel.precision}{shared}"

    def reads(self) -> Reads:
        """Return which rows this process asks for; without the teacher, which other processes need not hold."""
        objective = self.config.objective.for_run(self.steps)
        data, plan, engine = self.usable, self.plan, self.engine
        return Reads(data.label, len(data), objective, plan.batch, plan.seed, engine.own, engine.parts)

    def fit(self, adaptive: threads.Adaptive | None = None) -> int | None:
        """Train to the end or to a signal, which is returned; `signal` is also one that came in the last step.

        Args:
            adaptive: the CPU threads of the run, where it may change them.
        """
        events = Events(
            log=self.log,
            sample=self.sample,
            save=self.save,
            measure=self.online_evaluation,
            keep=self.keep,
            tick=self.reporter.advance,
        )
        if adaptive is not None:
            adaptive.told = partial(self.note_threads, adaptive)
            events = replace(events, step=adaptive.step)
        ahead = data_sets.reading_ahead(self.usable, self.reads(), self.plan.steps, self.config.data.workers)
        with (
            self.enough_memory(),
            ahead as usable,
            Interruption() as interruption,
            self.reporter.progress(self.plan.steps, self.state.step),
        ):
            events = replace(events, interrupted=interruption)
            try:
                make_ready(self.engine, self.state, self.objective, self.usable, self.plan)
                fit(self.state, self.objective, usable, self.plan, events, self.engine)
            except Diverged as error:
                raise Diverged(f"{error}; {self.remains()}") from error
            self.engine.unite(self.state)
        self.signal = max(filter(None, processes.every(interruption.signal)), default=None)
        if self.state.step == self.plan.steps:
            return None
        self.reporter.say(f"interrupted after step {self.state.step}; {self.remains()}")
        return self.signal

    def remains(self) -> str:
        """Say what is saved and how to go on from it."""
        path = checkpoint.latest(self.place / "checkpoints")
        if path is None:
            return "there is no checkpoint yet"
        return f"saved: {path}; continue with: flowleap train --resume --out {shlex.quote(str(self.home))}"

    @contextmanager
    def enough_memory(self) -> Iterator[None]:
        """A context in which exhausted memory of a GPU or of the machine becomes a ValueError that says what helps."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            exhausted = isinstance(error, MemoryError | torch.OutOfMemoryError)
            if not exhausted and "not enough memory" not in str(error):  # as torch says it on a CPU
                raise
            raise ValueError(self.exhausted(error)) from error

    def exhausted(self, error: Exception) -> str:
        """Say what to do where memory is exhausted."""
        rows = -(-self.config.data.batch // self.engine.parts)
        levers = [
            f"compute fewer rows at a time, --per-device {max(self.objective.group, rows // 2)} (now {rows}; the batch "
            f"stays {self.config.data.batch})",
            "--precision bf16 in a new run" if self.config.parallel.precision == "fp32" else "",
            "--shard" if processes.count() > 1 and not self.config.parallel.shard else "",
            "recompute activations in a new run, --set network.checkpointing=true, where the network knows it",
        ]
        told = str(error).splitlines()[0]
        return f"out of memory: {told} Use one of: {'; '.join(filter(None, levers))}; {self.remains()}"

    def keep(self, state: State) -> None:
        """Store the power-function averages, where it is time for it."""
        if state.trained.powers and (
            state.step == self.steps or state.step % self.config.optimizer.width_every == 0
        ):
            posthoc.store(self.place, state.trained, state.step)

    def note_threads(self, adaptive: threads.Adaptive) -> None:
        """Write which CPU threads this sitting had, also where it is asked for when the run is resumed."""
        for place in {self.place, self.home}:
            folder.note_threads(place / "environment.json", adaptive)

    def log(self, row: dict[str, Any]) -> None:
        """Keep and show the numbers of a log interval."""
        self.metrics.append(row)
        self.reporter.row(row)

    def sample(self, state: State) -> None:
        """Draw samples/step-….png with the averaged weights."""
        if not processes.first():
            return
        path = self.place / "samples" / f"step-{state.step:06d}.png"
        steps, left = report.own_budget(self.objective), self.drawing_time() / 2 - self.drawn
        costs = {steps: self.objective.nfe(steps)}
        num, _ = report.affordable(costs, report.SHOWN[self.dataset.kind], self.pace, left)
        if num * costs[steps] * self.pace > max(left, report.LEAST / 2):
            self.say_once(
                f"{path.name} is not drawn: {num} samples in {steps} steps take longer than pictures may, "
                f"{report.SHARE:.0%} of the time of training"
            )
            return
        begin = time.perf_counter()
        report.draw_samples(self.averaged, self.objective, self.dataset, path, self.reporter, num)
        self.drawn += time.perf_counter() - begin

    def drawing_time(self) -> float:
        """Return the seconds that all pictures of the run so far may take."""
        return max(report.LEAST, report.SHARE * self.state.seconds)

    @cached_property
    def pace(self) -> float:
        """The seconds that the network takes for one evaluation of one sample."""
        rows = min(100, report.SHOWN[self.dataset.kind])
        return evaluation.pace(self.averaged, self.dataset.shape, rows)

    def say_once(self, text: str) -> None:
        """Warn of what happens again and again, the first time."""
        if not self.left_out:
            self.reporter.warn(text)
        self.left_out = True

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
        place, trained = self.place, self.state.trained
        finals = {"network.safetensors": trained.network}
        for rank, (decay, copy) in enumerate(trained.averages.items()):
            finals[checkpoint.average_name(decay) if rank else "ema.safetensors"] = copy.module
        shown, drawn, measured = processes.from_first(self.looks)
        self.announce(shown, drawn, measured)
        if processes.first():
            for name, network in finals.items():
                write = partial(checkpoint.write_tensors, tensors=network.state_dict(), step=self.state.step)
                replace_file(place / name, write)
            report.draw_curves(self.metrics.rows(), place / "plots")
            about = (self.averaged, self.objective, self.dataset, place / "grid.png", self.reporter)
            report.draw_budgets(*about, drawn, shown)
        evaluator = self.evaluator if self.config.evaluation.num else None
        table = [] if evaluator is None else self.tabulate(evaluator, measured)
        self.conclude()
        return table

    def looks(self) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        """Return how many samples the final picture shows, at which numbers of steps, and those of the table."""
        counts, num = report.budgets(self.objective), report.SHOWN[self.dataset.kind]
        if self.config.evaluation.show is not None:
            counts = tuple(sorted(set(self.config.evaluation.show)))
            return num, counts, counts
        costs, trained = {steps: self.objective.nfe(steps) for steps in counts}, self.state.seconds
        shown, drawn = report.affordable(costs, num, self.pace, self.drawing_time() - self.drawn)
        several, size = processes.count(), self.config.evaluation.num
        time_of_table = several * max(report.MEASURED, trained)
        _, measured = report.affordable(costs, size, self.pace, time_of_table, fewest=size)
        return shown, drawn, measured

    def announce(self, shown: int, drawn: tuple[int, ...], measured: tuple[int, ...]) -> None:
        """Say what of the trained run is going to be drawn and measured, how long it takes, and what is left out."""
        listed, name = report.listed, shlex.quote(str(self.place))
        evaluations = shown * sum(map(self.objective.nfe, drawn))
        table_of = ""
        if self.config.evaluation.num and self.evaluator is not None:
            table_of = f", and a table of {self.config.evaluation.num:,} samples at {listed(measured)} steps"
            evaluations += self.config.evaluation.num * sum(map(self.objective.nfe, measured))
        self.reporter.say(
            f"trained; weights and pictures follow, at {listed(drawn)} steps{table_of}: about "
            f"{roughly(self.pace * evaluations)}"
        )
        usual, num = report.budgets(self.objective), report.SHOWN[self.dataset.kind]
        absent = [steps for steps in usual if steps not in drawn]
        if self.config.evaluation.show is None and (absent or shown < num):
            what = f"{listed(absent)} steps are" if absent else f"the other {num - shown} samples are"
            steps = absent[-1] if absent else usual[-1]
            self.reporter.say(
                f"{what} not in the picture, which would take longer than {report.SHARE:.0%} of training; to see them: "
                f"flowleap sample {name} --steps {steps} --num {num}"
            )
        absent = [steps for steps in usual if steps not in measured]
        if self.config.evaluation.show is None and table_of and absent:
            self.reporter.say(
                f"{listed(absent)} steps are not in the table, which would take longer than training; to measure them: "
                f"flowleap evaluate {name} --steps {listed(usual).replace(' ', '')} --save"
            )

    def conclude(self) -> None:
        """Say that the run is done, how long it took, where its picture is and what to do next."""
        name, skipped = shlex.quote(str(self.place)), self.state.skipped
        if skipped:
            self.reporter.warn(
                f"{skipped} of {self.steps} steps were skipped because the loss or its gradient was not finite: the "
                f"weights learned from the other {self.steps - skipped}; train with a lower --lr (now "
                f"{self.config.optimizer.lr:g}), and see `skipped` in metrics.jsonl"
            )
        picture = self.place / "grid.png"
        look = f"; picture: {picture}" if picture.exists() else ""
        self.reporter.say(
            f"done in {roughly(self.state.seconds)}: {self.place}{look}; sample with: flowleap sample {name}; look at "
            f"it: flowleap report {name}"
        )

    def tabulate(self, evaluator: evaluation.Evaluator, steps: tuple[int, ...]) -> list[dict[str, Any]]:
        """Measure the finished run, on all processes; the first writes and prints its table."""
        name, num = weights_name(self.config, "ema", self.state.step), self.config.evaluation.num
        about = (self.averaged, self.objective, self.dataset)
        if processes.first():
            remarks = changes(self.config)
            where = (self.place, self.reporter, steps)
            return report.tabulate(*about, num, name, *where, remarks=remarks, evaluator=evaluator)
        return evaluation.evaluate(*about, steps, num=num, weights=name, evaluator=evaluator)


def changes(config: TrainConfig) -> list[str]:
    """Return, in words, what the objective of a run changes about the method it is named after."""

    def brief(value: Any) -> str:
        return str(value["type"]) if isinstance(value, dict) else str(value)

    if config.method not in methods.names() and config.imports:
        return []  # a method of one's own that is not imported now
    named = serialize.to_dict(methods.get(config.method))
    found = serialize.differences(named, serialize.to_dict(config.objective))
    return [f"changed from {config.method}: {name} {brief(old)} → {brief(new)}" for name, old, new in found]


def build_network(config: TrainConfig) -> nn.Module:
    """Build the network of a run as its seed initializes it; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return networks.build(config.network)


def note_config(place: Path, config: TrainConfig, dataset: Dataset) -> None:
    """Write the config.json of a run, and copies of the files that it imported."""
    extensions.copy_into(place, config.imports)
    write_config(place, config, dataset)


def note(
    place: Path, config: TrainConfig, dataset: Dataset, adaptive: threads.Adaptive | None = None
) -> None:
    """Write the config.json and the environment.json of a run; all processes wait until they are there."""
    processes.from_first(lambda: note_config(place, config, dataset))
    processes.from_first(lambda: folder.note_environment(place / "environment.json", adaptive))
