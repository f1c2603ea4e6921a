"""The parts of a training, built from its config; trial steps of it, which write nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial

import torch
from torch import nn

from flowleap import clock, networks, processes, threads
from flowleap import data as data_sets
from flowleap.data import Dataset, Rows
from flowleap.flow_map import FlowMap
from flowleap.networks.options import inside
from flowleap.objectives import Objective
from flowleap.randomness import generator
from flowleap.runs.phases import length, needs_pairs
from flowleap.runs.reading import device_of
from flowleap.runs.warm import Start
from flowleap.training.config import TrainConfig
from flowleap.training.distributed import Engine, micro_batches
from flowleap.training.guard import Guard
from flowleap.training.loop import Plan, Reads, train_step
from flowleap.training.loss_module import autocast
from flowleap.training.start import probe
from flowleap.training.state import State, new_trained_network


def engine_of(
    config: TrainConfig, objective: Objective, device: torch.device, say: Callable[[str], None]
) -> Engine:
    """Return where and how the losses of a run are computed.

    Raises: ValueError for a batch that cannot be split so, averages that would lie in two places, or matrices
        that would be divided.
    """
    asked = config.parallel
    shard = asked.shard and processes.count() > 1
    if shard and asked.averages_device == "cpu":
        raise ValueError(
            "averages_device=cpu: --shard divides the averages among the devices of all processes; leave one of the "
            "two out"
        )
    if shard and config.optimizer.muon is not None:
        raise ValueError(
            f"optimizer.muon={config.optimizer.muon:g}: Muon needs whole matrices, and --shard divides them among the "
            "processes; leave one of the two out"
        )
    return Engine(
        device=device,
        precision=asked.precision,
        micro=micro_batches(objective, config.data.batch, asked.per_device, asked.accumulate),
        shard=shard,
        compiled=asked.compiled,
        compile_limit=asked.compile_limit,
        check=asked.check,
        say=say,
    )


class Setup:
    """Network, objective, data, state, plan and engine of the training of one network; nothing is written.

    Args:
        dataset: what the network learns from.
        teacher: the trained map that teaches it; None for a map of random weights where the method needs one.
        pairs: noise and samples of the teacher to learn from instead of `dataset`; None for random noise where the
            method needs pairs.
        start: the weights that the network begins with, where they are those of another run.
        steps: the length of the training, None for that of the config.
        say: called with what was compiled and checked.

    Raises: ValueError where parts do not fit one another, or for a GPU that is not there.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        *,
        teacher: FlowMap | None = None,
        pairs: Dataset | None = None,
        start: Start | None = None,
        steps: int | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.config, self.steps = config, length(config) if steps is None else steps
        network = build_network(config).to(device_of(config.parallel.device))
        self.begun = [] if start is None else start.into(network)
        self.objective = config.objective.for_run(self.steps)
        if self.objective.needs_run:
            teacher = untrained(config) if teacher is None else teacher
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
            muon=config.optimizer.muon,
            decays=config.optimizer.ema,
            widths=config.optimizer.widths,
            averages_device=config.parallel.averages_device,
        )
        self.state = State(trained)
        self.averaged = self.objective.flow_map(trained.averages[config.optimizer.ema[0]].module)
        self.engine = engine_of(config, self.objective, next(network.parameters()).device, say)
        x = torch.zeros(2, *dataset.shape, device=self.engine.device)
        with autocast(config.parallel.precision, self.engine.device):
            target, self.settled = self.objective.target.settled(trained.flow, x)
        self.objective = replace(self.objective, target=target)
        plan = Plan(
            batch=config.data.batch,
            seed=config.seed,
            lr=config.optimizer.lr,
            clip=config.optimizer.clip,
            patience=config.optimizer.patience,
            **asdict(config.schedule),
        )
        self.plan = replace(plan, steps=self.steps)
        data = dataset.turned(config.data.flip) if pairs is None else pairs
        if needs_pairs(self.objective) and data.noise is None:
            noise = torch.randn(1, *data.shape, generator=generator(config.seed, "practice"))
            data = replace(data, noise=noise.expand(len(data), *data.shape))
        unlabeled = replace(data, label=None, num_classes=None)
        self.data = unlabeled if trained.flow.num_classes is None else data

    def trial_step(self) -> None:
        """Compute the loss of the first step and its gradient, of every network that is trained; nothing is learned.

        Raises: ValueError where something does not fit, or memory is exhausted.
        """
        losses = self.engine.loss_modules(self.state, self.objective)
        with self.enough_memory():
            for trained, task in self.state.trained_networks(self.objective):
                probe(losses[trained.role], trained, task, self.engine, self.data, self.plan, 0)

    def fastest_threads(self, limit: int) -> int:
        """Return with how many CPU threads, up to `limit`, a trial step is fastest; on a GPU all are taken."""
        if self.engine.device.type != "cpu":
            return limit
        return processes.from_first(lambda: threads.fastest(self.trial_step, limit))

    def timed(self, step: int, enough: Callable[[list[clock.Moment]], bool]) -> list[clock.Moment]:
        """Train from step `step` on until `enough` says so; return the time of each step.

        Where images are read from the disk, waiting for them counts.
        """
        if not self.engine.modules:
            self.engine.prepare(self.state, self.engine.loss_modules(self.state, self.objective), {})
        guard, spans = Guard(self.engine.device), list[clock.Moment]()
        now = partial(clock.now, self.engine.device, isinstance(self.data.x, Rows) and self.data.x.on_disk)
        before, self.state.step = now(), step
        with self.reading_ahead() as data:
            while not (spans and enough(spans)):
                train_step(self.state, self.objective, data, self.plan, self.engine, guard)
                self.state.step += 1
                spans.append((after := now()).since(before))
                before = after
        return spans

    @contextmanager
    def reading_ahead(self) -> Iterator[Dataset]:
        """Yield the data with the batches of the coming steps read ahead, where images are read from the disk."""
        objective = self.config.objective.for_run(
            self.steps
        )  # without a teacher, which other processes need not have
        data, plan, engine = self.data, self.plan, self.engine
        reads = Reads(data.label, len(data), objective, plan.batch, plan.seed, engine.own, engine.parts)
        with data_sets.reading_ahead(data, reads, plan.steps, self.config.data.workers) as ahead:
            yield ahead

    @contextmanager
    def enough_memory(
        self, remains: Callable[[], str] = lambda: "there is no checkpoint yet"
    ) -> Iterator[None]:
        """A context in which exhausted memory of a GPU or of the machine becomes a ValueError that says what helps.

        Args:
            remains: says what is saved.
        """
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            exhausted = isinstance(error, MemoryError | torch.OutOfMemoryError)
            if not exhausted and "not enough memory" not in str(error):  # the message of torch on a CPU
                raise
            config, rows = self.config, -(-self.config.data.batch // self.engine.parts)
            remedies = [
                f"compute fewer rows at a time, --per-device {max(self.objective.group, rows // 2)} (now {rows}; the "
                f"batch stays {config.data.batch})",
                "--precision bf16 in a new run" if config.parallel.precision == "fp32" else "",
                "--shard" if processes.count() > 1 and not config.parallel.shard else "",
                "recompute activations in a new run, --set network.checkpointing=true, where the network knows it",
            ]
            raise ValueError(
                f"out of memory: {str(error).splitlines()[0]} Use one of: {'; '.join(filter(None, remedies))}; "
                f"{remains()}"
            ) from error


def build_network(config: TrainConfig) -> nn.Module:
    """Build the network of a run as its seed initializes it; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return networks.build(config.network)


def untrained(config: TrainConfig) -> FlowMap:
    """Return a map of random weights, of the network of the teacher of a run."""
    with torch.random.fork_rng(devices=[]):
        network: nn.Module = networks.build(inside(config.network)).to(device_of(config.parallel.device))
    return config.objective.flow_map(network.eval().requires_grad_(False))
