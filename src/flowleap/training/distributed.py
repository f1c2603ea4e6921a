"""A step on several processes, in micro-batches, or with weights divided among processes.

The batch of the recipe is always the *global* one. It is dealt out to `processes × micro-batches` parts
(`Objective.part`), every process adds up the gradients of its own parts, and these are averaged over processes, so that
every step sees the mean over the global batch, however it is split.

DDP comes from Accelerate, FSDP2 from `torch.distributed.fsdp.fully_shard`: the loss module is one unit, whose weights
are gathered once for a step and given back after its backward. Processes may so ask the network different numbers of
times (a share of a batch may hold no row r < t), which would be a deadlock if every call gathered.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, distributed, nn

from flowleap import clock, processes
from flowleap.interfaces import VelocitySource
from flowleap.objectives import Objective
from flowleap.point import Point, Regression
from flowleap.training.loss_module import LossModule
from flowleap.training.state import State, TrainedNetwork


def micro_batches(objective: Objective, batch: int, per_device: int | None, accumulate: int = 1) -> int:
    """Return into how many micro-batches each process cuts its share of a batch.

    Args:
        per_device: the most rows of a micro-batch, None for no bound. accumulate: the least number of micro-batches.

    Raises: ValueError, naming the numbers that fit, for more parts than the batch has groups, for a bound below a
        group, or a method whose batch cannot be split.
    """
    group, size = objective.group, processes.count()
    units = batch // group
    most = units if per_device is None else per_device // group
    if most < 1:
        raise ValueError(
            f"per_device={per_device}: {objective.name} compares groups of {group} rows, which stay together: give at "
            f"least {group}"
        )
    found = max(accumulate, -(-units // (size * most)))
    if size * found > units:
        what = "rows" if group == 1 else f"groups of {group} rows"
        raise ValueError(
            f"a batch of {batch} rows has {units} {what}, too few for {size} processes × {found} micro-batches: use at "
            f"most {units // found} processes, or {units // size} micro-batches (--accumulate), or a larger --batch"
        )
    if size * found > 1:
        divisible(objective)
    return found


def divisible(objective: Objective) -> None:
    """Check that the batches of a method can be split: a target may average over rows of the whole batch.

    Raises: ValueError.
    """
    velocities = [part for part in objective.parts() if isinstance(part, VelocitySource)]
    inner = [part for part in velocities if part.averages > 0]
    if inner and not (objective.coupling.splits and inner == [objective.velocity]):
        raise ValueError(
            f"{objective.name} averages over rows of the batch (PlugIn) elsewhere than in its velocity, or over rows "
            "that the network makes: such a batch cannot be split; train it on one process without accumulation"
        )


@dataclass
class Engine:
    """Where and how the loss of a step is computed.

    Args:
        device: of the network. precision: see `LossModule`.
        micro: micro-batches of each process.
        shard: whether weights, averages and moments of the optimizer are divided among the processes.
        compiled: whether the loss is compiled. compile_limit: seconds that this may take for each network.
        check: whether to check one process, too, before the first step.
        say: called with what was compiled and checked.
    """

    device: torch.device
    precision: str = "fp32"
    micro: int = 1
    shard: bool = False
    compiled: bool = False
    compile_limit: float = 600.0
    check: bool = False
    say: Callable[[str], None] = lambda text: None
    modules: dict[str, nn.Module] = field(default_factory=dict, init=False, repr=False)
    holders: list[Any] = field(default_factory=list, init=False, repr=False)

    @classmethod
    def alone(cls, state: State, objective: Objective, device: torch.device) -> Engine:
        """Return an engine of one process and whole batches, ready to go."""
        engine = cls(device)
        engine.prepare(state, engine.loss_modules(state, objective), {})
        return engine

    @property
    def parts(self) -> int:
        """Into how many parts the global batch is cut."""
        return processes.count() * self.micro

    @property
    def own(self) -> range:
        """The parts of this process."""
        return range(processes.rank() * self.micro, (processes.rank() + 1) * self.micro)

    @property
    def sharded(self) -> bool:
        """Whether weights are divided now."""
        return bool(self.holders)

    @cached_property
    def accelerator(self) -> Any:
        """The `Accelerator` that wraps losses for several processes."""
        from accelerate import Accelerator, DistributedDataParallelKwargs

        options = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
        return Accelerator(
            cpu=self.device.type == "cpu",
            mixed_precision="no",
            kwargs_handlers=[options],
            device_placement=False,
        )

    def loss_modules(self, state: State, objective: Objective) -> dict[str, LossModule]:
        """Return the loss of every network in training as a module, by its role."""
        return {
            trained.role: LossModule(trained.network, trained.flow, trained.frozen, task, self.precision)
            for trained, task in state.trained_networks(objective)
        }

    def prepare(self, state: State, losses: dict[str, LossModule], unused: dict[str, list[str]]) -> None:
        """Wrap the losses for the processes there are; the optimizers follow weights that are divided.

        Args:
            unused: by role, the parameters that no loss reaches; they are left out of the synchronization.
        """
        self.modules = dict(losses)
        if processes.count() == 1:
            return
        if self.shard:
            self._divide(state, losses)
            return
        for role, loss in losses.items():
            ignored = [f"network.{name}" for name in unused.get(role, [])]
            ddp: Any = nn.parallel.DistributedDataParallel
            ddp._set_params_and_buffers_to_ignore_for_model(loss, ignored)
            self.modules[role] = self.accelerator.prepare_model(loss)

    def learn(
        self, trained: TrainedNetwork, point: Point, total: int, *, last: bool
    ) -> tuple[Tensor, Regression]:
        """Add the gradient of these rows of a batch of `total`; the last part of a step brings processes together."""
        module = self.modules[trained.role]
        with self._alone(module) if not last else nullcontext():
            with clock.named("forward"):
                loss, numbers, regression = module(point, total)
            with clock.named("backward"):
                (loss * processes.count()).backward()  # processes are averaged
        return numbers, regression

    def _alone(self, module: Any) -> Any:
        """Return a context in which a backward pass is not synchronized."""
        if processes.count() == 1:
            return nullcontext()
        return _unsynchronized(module) if self.shard else self.accelerator.no_sync(module)

    def over_processes(self, numbers: Tensor) -> Tensor:
        """Return the sum of numbers over all processes; nothing waits for the device."""
        if processes.count() > 1:
            distributed.all_reduce(numbers)
        return numbers

    def gather(self) -> None:
        """Gather the weights of every network that a step evaluates, until the next `scatter`."""
        for holder, averages in self.holders:
            if not averages:
                holder.unshard()

    def scatter(self) -> None:
        """Free the gathered weights of other processes."""
        for holder, _ in self.holders:
            holder.reshard()

    @contextmanager
    def whole(self, state: State) -> Iterator[None]:
        """A context with the whole weights of every network and average on the device, for evaluation."""
        for holder, _ in self.holders:
            holder.unshard()
        averages = state.averages()
        for average in averages:
            average.module.to(self.device)
        yield
        for average in averages:
            average.rest()
        self.scatter()

    def _divide(self, state: State, losses: dict[str, LossModule]) -> None:
        """Divide weights, averages and moments among the processes."""
        from torch.distributed.device_mesh import init_device_mesh

        mesh = init_device_mesh(self.device.type, (processes.count(),))
        for trained in state.networks:
            before = list(trained.network.parameters())
            self._hold(losses[trained.role], mesh)
            _follow(trained.optimizer, before, list(trained.network.parameters()), _shard)
            asked = [copy for copy in (trained.target, trained.copy) if copy is not None]
            for copy in asked:
                self._hold(_Holder(copy), mesh)
            for copy in [*trained.averages.values(), *trained.powers.values()]:
                self._hold(_Holder(copy), mesh, averages=True)

    def _hold(self, module: nn.Module, mesh: Any, *, averages: bool = False) -> None:
        from torch.distributed.fsdp import fully_shard

        self.holders.append((fully_shard(module, mesh=mesh, reshard_after_forward=False), averages))

    def unite(self, state: State) -> None:
        """Undo the division at the end: every process has whole networks, averages and optimizers on its device."""
        for average in state.averages():
            average.module.to(self.device)
        before = [list(trained.network.parameters()) for trained in state.networks]
        self.scatter()
        for holder, _ in self.holders:
            for module in holder.modules():
                for name, weight in module.named_parameters(recurse=False):
                    plain = nn.Parameter(whole(weight.detach()), requires_grad=weight.requires_grad)
                    setattr(module, name, plain)
        for trained, former in zip(state.networks, before, strict=True):
            if self.holders:
                _follow(
                    trained.optimizer,
                    former,
                    list(trained.network.parameters()),
                    lambda value, _: whole(value),
                )
        self.holders.clear()


class _Holder(nn.Module):
    """A unit of sharding around a module; its hooks never run, because the module inside is called directly."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


@contextmanager
def _unsynchronized(module: Any) -> Iterator[None]:
    """A context in which the gradients of a divided module are not synchronized."""
    module.set_requires_gradient_sync(False)
    yield
    module.set_requires_gradient_sync(True)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor gathered from all processes where it is divided; all processes must call this together."""
    gather: Any = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def _shard(value: Tensor, like: Any) -> Tensor:
    """Return this process's shard of an optimizer moment of a divided parameter; a counter stays as it is."""
    from torch.distributed.tensor import distribute_tensor

    if value.ndim == 0 or value.shape != like.shape:
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def _follow(
    optimizer: torch.optim.Optimizer,
    before: list[nn.Parameter],
    after: list[nn.Parameter],
    moved: Callable[[Tensor, nn.Parameter], Tensor],
) -> None:
    """Replace the parameters of an optimizer, and move their moments."""
    new: dict[Any, nn.Parameter] = dict(zip(before, after, strict=True))
    for group in optimizer.param_groups:
        group["params"] = [new[parameter] for parameter in group["params"]]
    moments = {
        new[parameter]: {name: moved(value, new[parameter]) for name, value in state.items()}
        for parameter, state in optimizer.state.items()
    }
    optimizer.state = defaultdict(dict, moments)  # type: ignore[arg-type]
