"""One run, however it is spread: processes, micro-batches, shards, precisions and restarts give the same numbers."""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import scale_worker
from flowleap import data, methods, networks, processes, runs
from flowleap.cli import app
from flowleap.derivatives import CentralDifference, ExactJVP, TwoPass
from flowleap.objectives import Eulerian, Objective
from flowleap.point import Batch
from flowleap.runs.reading import note
from flowleap.runs.starting import launched
from flowleap.training import posthoc, power, start
from flowleap.training.distributed import Engine, micro_batches
from flowleap.training.loop import Events, Plan, draw_batch, fit
from flowleap.training.loss_module import LossModule
from flowleap.training.state import State, new_trained_network
from forked import forked, free_port, needs_processes

CPU = torch.device("cpu")
EXACT = [("target.derivative", "TwoPass")]
"""Rounding, which a difference divides by a small ε, depends on how many rows a process computes at a time."""
STREAMS: dict[str, dict[str, Any]] = {
    "shortcut": {"method": "shortcut", "data": "two-moons"},
    "meanflow": {"method": "meanflow", "data": "two-moons", "settings": EXACT},
    "esc": {"method": "esc", "data": "digits", "settings": EXACT},
    "imm": {"method": "imm", "data": "two-moons"},
}
SUBTRACTED = {"imm": 4.0}
"""The size of what a loss is the difference of: MMD² of four means of kernels, each at most 1, of which 0.2 is left."""
STREAM_STEPS = 50
LEGS = 12
"""Steps of the runs that are stopped and resumed."""
SCENARIOS: list[dict[str, Any]] = [
    *({"name": name, "steps": STREAM_STEPS, **about} for name, about in STREAMS.items()),
    {"name": "unconditional", "method": "esc", "data": "two-moons", "steps": 10, "settings": EXACT},
    {"name": "micro", "method": "meanflow", "data": "two-moons", "steps": 10, "per_device": 5, "settings": EXACT},
    {"name": "ddp", "method": "shortcut", "data": "digits", "steps": 10},
    {"name": "fsdp", "method": "shortcut", "data": "digits", "steps": 10, "shard": True, "widths": (0.1,)},
    {"name": "fsdp jvp", "method": "meanflow", "data": "digits", "steps": 10, "shard": True,
     "settings": [("target.derivative", "ExactJVP")]},
    {"name": "fsdp micro", "method": "meanflow", "data": "two-moons", "steps": 10, "shard": True, "accumulate": 3,
     "settings": EXACT},
    {"name": "recomputed", "method": "meanflow", "data": "digits", "steps": 10,
     "settings": [("network.checkpointing", "true"), *EXACT]},
    {"name": "phases", "method": "reflow", "data": "two-moons", "steps": 12, "pairs": 40, "pair_steps": 4,
     "phases": True},
    {"name": "bf16", "method": "meanflow", "data": "two-moons", "steps": 5, "precision": "bf16"},
    {"name": "one two", "method": "shortcut", "data": "two-moons", "steps": LEGS, "stop": 8, "resume": True,
     "out": "one two one"},
    {"name": "whole", "method": "shortcut", "data": "two-moons", "steps": LEGS},
    {"name": "stopped", "method": "shortcut", "data": "two-moons", "steps": LEGS, "stop": 5, "out": "again"},
    {"name": "resumed", "method": "shortcut", "data": "two-moons", "steps": LEGS, "resume": True, "out": "again"},
    {"name": "divided", "method": "shortcut", "data": "two-moons", "steps": LEGS, "stop": 5, "shard": True,
     "out": "divided"},
    {"name": "divided on", "method": "shortcut", "data": "two-moons", "steps": LEGS, "shard": True,
     "resume": True, "out": "divided"},
    *({"name": error, "method": "meanflow", "data": "two-moons", "steps": 2, "plant": error}
      for error in ("weights", "gradient", "rows", "death")),
    {"name": "slow compiler", "method": "shortcut", "data": "two-moons", "steps": LEGS, "compiled": True,
     "compile_limit": 0.2, "plant": "slow compiler"},
    {"name": "too many", "method": "shortcut", "data": "two-moons", "steps": 2, "accumulate": 17},
]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first leg of a run that two processes then continue."""
    place = tmp_path_factory.mktemp("scale")
    leg = {
        "name": "one two",
        "method": "shortcut",
        "data": "two-moons",
        "steps": LEGS,
        "stop": 4,
        "out": "one two one",
    }
    assert scale_worker.play(leg, place)["signal"]
    return place


@pytest.fixture(scope="module")
def together(root: Path) -> list[dict[str, Any]]:
    """What came of all scenarios in each of two processes."""
    forked(scale_worker.perform, root, SCENARIOS)
    return [json.loads((root / f"found-{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """What comes of a scenario on one process, which is played once."""

    @cache
    def played(scenario: str) -> dict[str, Any]:
        return scale_worker.play({"name": "run", **json.loads(scenario)}, tmp_path_factory.mktemp("alone"))

    return lambda **about: played(json.dumps(about, sort_keys=True))


def apart(found: dict[str, Any], expected: dict[str, Any], *names: str, size: float = 0.0) -> float:
    """How far two loss streams, or other numbers of theirs, are apart at most, relative to the numbers.

    Numbers that are a small difference are rounded as those that were subtracted, of the given size.
    """
    ours, theirs = (each["rows"] for each in (found, expected))
    assert [row["step"] for row in ours] == [row["step"] for row in theirs] and ours
    gaps = [
        abs(row[name] - other[name]) / max(abs(other[name]), size)
        for row, other in zip(ours, theirs, strict=True)
        for name in names or ("loss",)
    ]
    return max(gaps)


def weights_apart(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """How far sums of squares of two checkpoints are apart at most."""
    assert found["weights"].keys() == expected["weights"].keys()
    return max(
        abs(value - expected["weights"][name]) / max(abs(expected["weights"][name]), 1e-12)
        for name, value in found["weights"].items()
    )


@needs_processes
@pytest.mark.parametrize("name", STREAMS)
def test_two_processes_give_the_loss_stream_of_one(name, alone, together):
    """Fifty steps, each number to 1e-6, with plug-in velocities and groups; every process ends at the same step."""
    expected = alone(steps=STREAM_STEPS, **STREAMS[name])
    assert len(expected["rows"]) == STREAM_STEPS
    assert apart(together[0][name], expected, size=SUBTRACTED.get(name, 0.0)) < 1e-6
    assert (
        apart(together[0][name], expected, "raw_error", "grad_norm") < 1e-4
    )  # differences, of which some cancel
    assert together[0][name]["steps"] == [STREAM_STEPS] * 2
    assert together[0][name]["weights"] == together[1][name]["weights"]  # both hold the same, to the last bit
    assert together[1][name]["rows"] == []  # the first alone writes


@needs_processes
def test_plug_in_sets_are_whole_without_labels_too(alone, together):
    expected = alone(method="esc", data="two-moons", steps=10, settings=EXACT)
    assert apart(together[0]["unconditional"], expected) < 1e-6


@needs_processes
def test_micro_batches_of_processes_change_nothing(alone, together):
    expected = alone(method="meanflow", data="two-moons", steps=10, settings=EXACT)
    assert apart(together[0]["micro"], expected) < 1e-6
    said = [text for text in together[0]["micro"]["said"] if text.startswith("checked")]
    assert len(said) == 1 and "8 parts hold each of the 32 rows of a batch once" in said[0]
    assert "2 processes have the same weights" in said[0] and "from a central difference" in said[0]


@needs_processes
@pytest.mark.parametrize("divided, whole", [("fsdp", "ddp"), ("fsdp jvp", None), ("fsdp micro", None)])
def test_divided_weights_train_as_whole_ones(divided, whole, alone, together):
    """FSDP2 as DDP to 1e-5, with averages; the weights are divided while training and whole afterwards."""
    about = next(each for each in SCENARIOS if each["name"] == divided)
    plain = {k: v for k, v in about.items() if k not in ("name", "shard", "accumulate")}
    expected = together[0][whole] if whole else alone(**plain)
    found = together[0][divided]
    assert apart(found, expected) < 1e-5
    assert all(found["divided"]) and len(found["divided"]) == 10
    if whole is None:
        assert weights_apart(found, expected) < 1e-5


@needs_processes
def test_a_run_goes_on_with_other_numbers_of_processes(root, alone, together):
    """Four steps on one process, four on two, four on one: the numbers of twelve on one."""
    about = {"method": "shortcut", "data": "two-moons", "steps": LEGS}
    assert together[0]["one two"]["signal"] and together[0]["one two"]["steps"] == [8, 8]
    last = scale_worker.play({"name": "end", "resume": True, "out": "one two one", **about}, root)
    expected = alone(**about)
    assert apart(last, expected) < 1e-6 and len(last["rows"]) == LEGS
    assert (
        weights_apart(last, expected) < 1e-5
    )  # of squares, and of moments, twice as far as what they are of


@needs_processes
def test_resuming_on_as_many_processes_is_exact(together):
    whole, stopped, resumed = (together[0][name] for name in ("whole", "stopped", "resumed"))
    assert stopped["steps"] == [5, 5] and stopped["signal"] == 15  # the second process had the signal
    assert resumed["rows"] == whole["rows"] and resumed["weights"] == whole["weights"]


@needs_processes
def test_divided_weights_are_saved_whole_and_go_on(root, together):
    assert together[0]["divided"]["steps"] == [5, 5]
    found, whole = together[0]["divided on"], together[0]["whole"]
    assert apart(found, whole) < 1e-6 and weights_apart(found, whole) < 1e-5
    ours, theirs = (
        {path.name: path.stat().st_size for path in (root / name / "checkpoints" / "step-00000005").iterdir()}
        for name in ("divided", "again")
    )
    assert ours.keys() == theirs.keys()
    assert {name: size for name, size in ours.items() if name != "state.json"} == {
        name: size for name, size in theirs.items() if name != "state.json"
    }


@needs_processes
def test_recomputing_activations_on_two_processes_changes_nothing(alone, together):
    """Checkpointing beside the derivative by two passes and the hooks of DDP, against neither."""
    assert (
        apart(together[0]["recomputed"], alone(method="meanflow", data="digits", steps=10, settings=EXACT))
        < 1e-6
    )


@needs_processes
def test_all_phases_and_samples_on_two_processes_are_those_on_one(root, together):
    """A teacher of its own, pairs that it makes, a student of these, and samples of the student."""
    about = next(each for each in SCENARIOS if each["name"] == "phases")
    expected, found = scale_worker.phases(about, root / "alone"), together[0]["phases"]
    assert "error" not in found, found
    assert (
        apart({"rows": found["teacher"]}, {"rows": expected["teacher"]}) < 1e-6 and len(found["teacher"]) == 6
    )
    ours, theirs = ([row["loss"] for row in each["student"]] for each in (found, expected))
    assert (
        ours == pytest.approx(theirs, rel=2e-3) and len(ours) == 6
    )  # of an untrained teacher: rounding of 1e-5
    assert len(found["samples"]) == 21 and together[1]["phases"]["samples"] is None
    torch.testing.assert_close(
        torch.tensor(found["samples"]), torch.tensor(expected["samples"]), rtol=0, atol=1e-5
    )


@needs_processes
def test_bf16_on_two_processes_is_that_on_one(alone, together):
    expected = alone(method="meanflow", data="two-moons", steps=5, precision="bf16")
    assert apart(together[0]["bf16"], expected) < 1e-2


@needs_processes
@pytest.mark.parametrize(
    "name, words",
    [
        ("weights", "processes 1 start with other weights"),
        ("gradient", "gradients are not synchronized"),
        ("rows", "not each of the 32 rows of a batch once"),
        ("too many", "a batch of 32 rows has 32 rows, too few for 2 processes × 17 micro-batches"),
    ],
)
def test_what_is_not_sound_is_found_before_the_first_step(name, words, together):
    assert words in together[0][name]["error"]
    # the other is told, finds it too, or finds the first one gone
    assert any(said in together[1][name]["error"] for said in ("Elsewhere", words, "DistNetworkError"))


@needs_processes
def test_an_error_of_one_process_ends_all(together):
    assert "the second process has had enough" in together[1]["death"]["error"]
    assert together[0]["death"]["error"].startswith("Elsewhere")


@needs_processes
def test_accelerate_launches_the_command(tmp_path, monkeypatch, capfd):
    """`accelerate launch -m flowleap train`: one voice, one folder, the settings of the launcher."""
    from accelerate.commands import launch

    place = tmp_path / "run"
    train = ["train", "meanflow", "--data", "two-moons", "--steps", "4", "--batch", "32", "--out", str(place)]
    tiny = ["--set", "network.width=16", "--set", "network.depth=1", "--no-eval", "--show", "1"]
    # --multi_gpu is of one process where there is --cpu; the processes themselves find no GPU
    launcher = ["--multi_gpu", "--num_processes", "2", "--main_process_port", free_port()]
    launcher += ["--mixed_precision", "bf16", "-m", "flowleap"]
    monkeypatch.setattr(sys, "argv", ["accelerate", *launcher, *train, *tiny, "--accumulate", "2"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    launch.main()  # in this process, so that the launcher need not import torch anew
    said = capfd.readouterr().out
    assert said.count("batch 32 = 2 processes × 2 micro-batches of 8, bf16") == 1
    assert said.count("checked: 2 processes") == 1 and said.count("\ndone, trained in ") == 1
    assert (
        runs.load_run(place).step == 4
        and json.loads((place / "config.json").read_text())["config"]["parallel"]["precision"] == "bf16"
    )


# One process: parts, micro-batches, precision


def tiny(name: str, classes: int | None = None, **changes: Any) -> tuple[Objective, State]:
    objective = replace(methods.get(name), **changes).for_run(100)
    torch.manual_seed(0)
    network = networks.MLP(2, classes=classes, width=16, depth=1)
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.2)
    return objective, State(
        new_trained_network(network, objective, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0, decays=(0.9,))
    )


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
@pytest.mark.parametrize("name", ["meanflow", "shortcut", "imm", "esc"])
def test_parts_are_the_batch_each_row_once_and_alike(name, parts):
    objective, total = replace(methods.get(name)).for_run(10), 60
    rows = [objective.part(total, 3, 0, index, parts) for index in range(parts)]
    assert torch.cat(rows).sort().values.tolist() == list(range(total))
    assert max(map(len, rows)) - min(map(len, rows)) <= objective.group
    if objective.group > 1:  # groups of consecutive rows stay together
        assert all(
            (part.view(-1, objective.group) // objective.group).diff(dim=1).eq(0).all() for part in rows
        )
    if name == "meanflow":  # so many jumps in each
        x = torch.zeros(total, 2)
        offs = [objective.draw(Batch(x[row], row=row, size=total), 3, 0).num_jumps for row in rows]
        assert sum(offs) == objective.draw(Batch(x), 3, 0).num_jumps and max(offs) - min(offs) <= 1


@pytest.mark.slow
def test_a_part_brings_the_rows_that_its_velocity_averages_over():
    objective, dataset = methods.esc().for_run(10), data.load("digits")
    plan = Plan(steps=10, batch=60, seed=0, lr=1e-3)
    whole = objective.draw(draw_batch(dataset, objective, plan, 1, CPU), 1, 0)
    expected = {float(point.sum()): v for point, v in zip(whole.x_t, objective.velocity(whole), strict=True)}
    for part in range(7):  # cuts classes in two
        batch = draw_batch(dataset, objective, plan, 1, CPU, part, 7)
        point = objective.draw(batch, 1, 0)
        assert batch.context is not None and set(batch.context_label.tolist()) <= set(batch.label.tolist())
        for x_t, v in zip(point.x_t, objective.velocity(point), strict=True):
            assert torch.allclose(expected[float(x_t.sum())], v, atol=1e-5)


@pytest.mark.parametrize(
    "name, batch, per_device, accumulate, found",
    [("meanflow", 96, None, 1, 1), ("meanflow", 96, 40, 1, 3), ("meanflow", 96, 96, 4, 4), ("imm", 96, 8, 1, 12),
     ("imm", 96, 11, 1, 24)],
)  # fmt: skip
def test_micro_batches_hold_whole_groups_and_no_more_rows_than_allowed(
    name, batch, per_device, accumulate, found
):
    objective = methods.get(name)
    if name == "imm":
        objective = replace(objective, times=replace(objective.times, group=4))
        assert found == -(-(batch // 4) // (per_device // 4)) or per_device == 11
        found = -(-(batch // 4) // (per_device // 4))
    assert micro_batches(objective, batch, per_device, accumulate) == found


@pytest.mark.parametrize(
    "per_device, accumulate, words",
    [(3, 1, "give at least 4"), (None, 25, "24 groups of 4 rows, too few for 1 processes × 25")],
)
def test_batches_that_cannot_be_split_are_refused(per_device, accumulate, words):
    imm = replace(methods.imm(), times=replace(methods.imm().times, group=4))
    with pytest.raises(ValueError, match=words):
        micro_batches(imm, 96, per_device, accumulate)


@pytest.mark.slow
@pytest.mark.parametrize("per_device", [7, 16])
def test_the_rows_per_device_do_not_change_the_numbers(per_device, alone):
    about = {"method": "meanflow", "data": "two-moons", "steps": 10, "settings": EXACT}
    assert apart(alone(per_device=per_device, **about), alone(**about)) < 1e-6


DERIVATIVES = [ExactJVP(), TwoPass(), TwoPass(closed_forms=True), CentralDifference(0.05)]


@pytest.mark.parametrize("derivative", DERIVATIVES, ids=repr)
@pytest.mark.parametrize("kind", ["MLP", "DiT"])
def test_bf16_gives_the_gradients_of_fp32_and_keeps_weights_and_times(kind, derivative):
    """Every derivative strategy; the error is that of bf16, and no weight is left without its gradient."""
    base = methods.meanflow()
    objective = replace(base, target=replace(base.target, derivative=derivative), label_dropout=0.0).for_run(
        100
    )
    torch.manual_seed(0)
    shape = (2,) if kind == "MLP" else (1, 8, 8)
    made: Any = (
        networks.MLP(2, width=32) if kind == "MLP" else networks.DiT((1, 8, 8), width=32, depth=2, heads=2)
    )
    for weight in made.parameters():
        nn.init.normal_(weight, std=0.15)
    flow, seen = objective.flow_map(made), []
    made.t_embedder.register_forward_hook(lambda module, given, out: seen.append((given[0].dtype, out.dtype)))
    x = torch.randn(64, *shape, generator=torch.Generator().manual_seed(1))
    point = objective.draw(Batch(x), 50, 0)
    found = {}
    for precision in ("fp32", "bf16"):
        made.zero_grad()
        loss, numbers, _ = LossModule(made, flow, flow, objective, precision)(point, 64)
        loss.backward()
        assert bool(numbers.isfinite().all()) and loss.dtype == torch.float32
        found[precision] = torch.cat([weight.grad.flatten() for weight in made.parameters()])
        assert all(weight.dtype == weight.grad.dtype == torch.float32 for weight in made.parameters())
    assert {kind for pair in seen for kind in pair} == {torch.float32}
    gap = (found["bf16"] - found["fp32"]).norm() / found["fp32"].norm()
    assert 0 < gap < 0.05  # another number, so bf16 was at work


def test_the_gradient_of_a_part_is_its_share_of_the_mean():
    objective, state = tiny("meanflow")
    module = Engine(CPU).loss_modules(state, objective)["student"]
    x = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    rows = [objective.part(12, 0, 0, index, 2) for index in range(2)]
    parts = [module(objective.draw(Batch(x[row], row=row, size=12), 0, 0), 12) for row in rows]
    whole = module(objective.draw(Batch(x), 0, 0), 12)
    assert torch.allclose(parts[0][0] + parts[1][0], whole[0])
    assert torch.allclose(parts[0][1] + parts[1][1], whole[1], rtol=1e-5)


def test_a_loss_module_trains_the_network_of_its_map():
    objective, state = tiny("meanflow")
    other = objective.flow_map(networks.MLP(2, width=16, depth=1))
    with pytest.raises(ValueError, match="another network"):
        LossModule(state.trained.network, other, other, objective)


# Checks before the first step


CLOUD = data.Dataset("cloud", torch.randn(64, 2, generator=torch.Generator().manual_seed(0)), kind="points")
PLAN = Plan(steps=100, batch=32, seed=0, lr=1e-2)


def ready(engine: Engine, objective: Objective, state: State) -> list[str]:
    said: list[str] = []
    engine.say = said.append
    start.make_ready(engine, state, objective, CLOUD, PLAN)
    return said


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_process_is_checked_where_asked(precision):
    objective, state = tiny("meanflow", target=Eulerian(TwoPass()))
    before = [weight.clone() for weight in state.trained.network.parameters()]
    said = ready(Engine(CPU, precision, check=True), objective, state)
    assert len(said) == 1 and "du/dt is" in said[0] and "a gradient computed twice" in said[0]
    assert all(torch.equal(a, b) for a, b in zip(before, state.trained.network.parameters(), strict=True))
    assert all(weight.grad is None for weight in state.trained.network.parameters())
    assert ready(Engine(CPU, precision), objective, state) == []


class Twisted(torch.autograd.Function):
    """The sine with the derivative of something else."""

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return x.sin()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad * ctx.saved_tensors[0].cos()

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor) -> torch.Tensor:
        return 0.5 * tangent


def test_a_layer_with_a_wrong_forward_derivative_is_found():
    objective, state = tiny("meanflow", target=Eulerian(TwoPass()))

    class Odd(nn.Module):
        num_classes = None

        def __init__(self) -> None:
            super().__init__()
            self.inner = state.trained.network

        def forward(self, x: Any, t: Any, r: Any, label: Any = None) -> Any:
            return Twisted.apply(self.inner(x, t, r, label))

    spoiled = State(
        new_trained_network(Odd(), objective, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0, decays=(0.9,))
    )
    with pytest.raises(start.NotSound, match=r"du/dt.*central difference.*CentralDifference"):
        ready(Engine(CPU, check=True), objective, spoiled)


def test_compiling_needs_a_compiler_and_says_so(monkeypatch):
    monkeypatch.setattr(start.shutil, "which", lambda name: None)
    objective, state = tiny("meanflow")
    with pytest.raises(ValueError, match=r"C\+\+ compiler.*leave --compile out"):
        ready(Engine(CPU, compiled=True), objective, state)


def test_what_compiles_to_other_numbers_is_not_used(monkeypatch):
    objective, state = tiny("flow_matching")

    def wrong(forward: Any) -> Any:
        def off(point: Any, total: int) -> Any:
            loss, *rest = forward(point, total)
            return (1.01 * loss, *rest)

        return off

    monkeypatch.setattr(start.torch, "compile", wrong)
    engine = Engine(CPU, compiled=True)
    said = ready(engine, objective, state)
    assert said[0].startswith("warning: not compiled") and "1.0e-02 from the loss" in said[0]
    monkeypatch.setattr(start.torch, "compile", lambda forward: 1 / 0)
    assert "not compiled" in ready(Engine(CPU, compiled=True), objective, state)[0]


def test_a_compile_that_takes_too_long_is_left_and_nothing_changes(monkeypatch):
    """Whatever the compiler is doing: waiting, or handling errors of its own; and the alarm is gone afterwards."""
    found = []

    def slow(forward: Any) -> Any:
        def waiting(point: Any, total: int) -> Any:
            with suppress(Exception):
                time.sleep(60)

        return waiting

    monkeypatch.setattr(start.torch, "compile", slow)
    for compiled in (False, True):
        objective, state = tiny("flow_matching")
        before = signal.getsignal(signal.SIGALRM), signal.setitimer(signal.ITIMER_REAL, 500)
        engine = Engine(CPU, compiled=compiled, compile_limit=0.05)
        said = ready(engine, objective, state)
        assert (signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0] > 490) == (
            before[0],
            True,
        )
        signal.setitimer(signal.ITIMER_REAL, *before[1])
        state.step = 97
        fit(state, objective, CLOUD, PLAN, Events(*[lambda _: None] * 3), engine)
        found.append([weight.tolist() for weight in state.trained.network.parameters()])
    assert found[0] == found[1]
    assert said == [
        "warning: not compiled, training goes on without: compiling took longer than 0.05 seconds; --set "
        "parallel.compile_limit=SECONDS allows more"
    ]


def traced(monkeypatch: Any) -> None:
    """Compile by tracing alone, which makes the same graphs and no code."""
    whole = torch.compile
    monkeypatch.setattr(start.torch, "compile", lambda forward: whole(forward, backend="eager"))


DIFFERENCE = {"target": Eulerian(CentralDifference())}


@pytest.mark.parametrize(
    ("name", "parts"), [("flow_matching", {}), ("meanflow", DIFFERENCE), ("shortcut", {})]
)
def test_a_loss_is_compiled_once(name, parts, monkeypatch):
    """In one graph, which serves all steps of a run, whatever the number of the step and its progress."""
    traced(monkeypatch)
    objective, state = tiny(name, **parts)
    engine = Engine(CPU, compiled=True)
    said = ready(engine, objective, state)
    fit(state, objective, CLOUD, replace(PLAN, steps=4), Events(*[lambda _: None] * 3), engine)
    assert len(said) == 1 and "in 1 graph;" in said[0], said


def test_a_loss_that_is_compiled_again_says_so(monkeypatch):
    traced(monkeypatch)
    objective, state = tiny("meanflow", target=Eulerian(CentralDifference(), warmup=0.5))
    engine = Engine(CPU, compiled=True)
    said = ready(engine, objective, state)
    fit(state, objective, CLOUD, replace(PLAN, steps=4), Events(*[lambda _: None] * 3), engine)
    assert said[1:] == [
        "step 2: the loss of the student was compiled again, in 1 graph more: its tensors have other sizes, or it "
        "depends on a number that has changed"
    ]


@needs_processes
def test_all_processes_go_on_uncompiled_where_one_takes_too_long(together):
    for rank in range(2):
        said, expected = (together[rank][name] for name in ("slow compiler", "whole"))
        assert said["rows"] == expected["rows"] and said["weights"] == expected["weights"]
        assert said["said"][0].startswith("warning: not compiled") and "0.2 seconds" in said["said"][0]


# Averages of any width


def test_widths_and_powers_are_those_of_the_paper():
    """σ = 0.05 and 0.1 are γ = 16.97 and 6.94; the decays give the weights (k^{γ+1} − (k−1)^{γ+1})/t^{γ+1}."""
    assert power.exponent(0.05) == pytest.approx(16.97, abs=0.005)
    assert power.exponent(0.1) == pytest.approx(6.94, abs=0.005)
    assert power.width_of(power.exponent(0.2)) == pytest.approx(0.2)
    weights, gamma = np.zeros(20), power.exponent(0.15)
    for step in range(20):
        beta = power.decay(gamma, step)
        weights = beta * weights
        weights[step] += 1 - beta
    steps = np.arange(21) / 20
    assert np.allclose(weights, np.diff(steps ** (gamma + 1)))
    at = (np.arange(20) + 0.5) / 20
    fine = np.diff(np.linspace(0, 1, 10001) ** (gamma + 1))
    middle = (np.arange(10000) + 0.5) / 10000
    assert (
        math.sqrt(fine @ middle**2 - (fine @ middle) ** 2) == pytest.approx(0.15, abs=1e-4) and len(at) == 20
    )
    for width in (0.0, 0.3, -1.0):
        with pytest.raises(ValueError, match=r"between 0 and 0\.289"):
            power.exponent(width)


@pytest.mark.slow
def test_averages_of_any_width_are_made_afterwards(tmp_path):
    """Of averages of two widths, stored every 6 steps, as near to one that was tracked as least squares says."""
    about = {
        "name": "x",
        "method": "shortcut",
        "data": "two-moons",
        "steps": 120,
        "lr": 5e-2,
        "width_every": 6,
    }
    widths = (0.06, 0.1, 0.15, 0.2)
    listener = scale_worker.Listener(None, 0)
    made = scale_worker.trainer(tmp_path, {**about, "widths": (0.05, *widths)}, listener)
    made.open()
    made.fit()
    for width in set(widths) - {0.1}:
        for path in (tmp_path / "averages").glob(f"width-{width:g}-*"):
            path.unlink()
    assert len(posthoc.snapshots(tmp_path)) == 40
    last = made.state.trained.network.state_dict()

    def gap(one: dict[str, Any], other: dict[str, Any]) -> float:
        return math.sqrt(
            sum(float((one[n] - other[n]).square().sum()) for n in one if one[n].is_floating_point())
        )

    for width in widths:
        direct = made.state.trained.powers[width].module.state_dict()
        found, step = posthoc.synthesized(tmp_path, width)
        assert step == 120
        assert gap(found, direct) < (1e-5 if width == 0.1 else 0.03) * gap(last, direct)


@pytest.mark.slow
def test_averages_that_are_not_there_are_not_made_up(tmp_path):
    with pytest.raises(ValueError, match=r"stored no averages.*widths=0.05,0.1"):
        posthoc.synthesized(tmp_path, 0.1)
    about = {
        "name": "x",
        "method": "shortcut",
        "data": "two-moons",
        "steps": 20,
        "width_every": 20,
        "widths": (0.05, 0.1),
    }
    made = scale_worker.trainer(tmp_path, about, scale_worker.Listener(None, 0))
    made.open()
    made.fit()
    with pytest.raises(ValueError, match=r"width 0\.01 at step 20 cannot be made.*% of its profile"):
        posthoc.synthesized(tmp_path, 0.01)
    with pytest.raises(ValueError, match="at steps 20, not at 7"):
        posthoc.synthesized(tmp_path, 0.1, 7)


def test_one_process_says_so():
    assert processes.first() and processes.every(3) == [3] and not processes.any_of(False)
    assert processes.from_first(lambda: 5) == 5


@pytest.mark.slow
def test_an_average_is_made_by_a_command_and_used_by_its_name(tmp_path):
    about = {
        "name": "x",
        "method": "shortcut",
        "data": "two-moons",
        "steps": 30,
        "width_every": 10,
        "widths": (0.05, 0.1),
    }
    made = scale_worker.trainer(tmp_path, about, scale_worker.Listener(None, 0))
    made.open()
    made.fit()
    note(tmp_path, made.setup.config, made.results.dataset)
    done = CliRunner().invoke(app, ["ema", str(tmp_path), "--width", "0.1"])
    assert done.exit_code == 0 and f"flowleap sample {tmp_path} --weights width-0.1" in done.output
    run = runs.load_run(tmp_path, weights="width-0.1")
    assert (run.weights, run.step) == ("width-0.1@30", 30)
    direct = made.state.trained.powers[0.1].module.state_dict()
    assert all(
        torch.allclose(direct[name], value, atol=1e-6) for name, value in run.network.state_dict().items()
    )
    runs.write_average(tmp_path, 0.1, 20)
    assert runs.load_run(tmp_path, weights="width-0.1").step == 20
    with pytest.raises(FileNotFoundError, match=r"no average width-0\.2.*flowleap ema .* --width 0\.2"):
        runs.load_run(tmp_path, weights="width-0.2")
    with pytest.raises(ValueError, match="a width is expected"):
        runs.load_run(tmp_path, weights="width-narrow")


def test_the_settings_of_accelerate_launch_hold_where_the_command_says_nothing(monkeypatch):
    assert launched({"precision": None}) == {}
    told = {"MIXED_PRECISION": "bf16", "USE_FSDP": "true", "DYNAMO_BACKEND": "INDUCTOR"}
    told |= {"GRADIENT_ACCUMULATION_STEPS": "4"}
    for name, value in told.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    assert launched({}) == {"precision": "bf16", "accumulate": 4, "shard": True, "compiled": True}
    given = {
        "precision": "fp32",
        "per_device": 8,
        "accumulate": 2,
        "shard": False,
        "compiled": False,
        "check": True,
    }
    assert launched(given) == given
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(ValueError, match="leave the range of fp16"):
        launched({})
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match="--shard"):
        launched({})
