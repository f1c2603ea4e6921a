"""A training step on a GPU makes the CPU wait for nothing: checked on a pretended device, see `pretended`."""

from __future__ import annotations

import sys
from contextlib import nullcontext

import pytest
import torch
from torch.utils import _foreach_utils

from flowleap import methods, runs
from flowleap.runs import setup
from flowleap.training import loop
from flowleap.training.guard import Guard
from flowleap.training.log import Recorder
from pretended import DEVICE, Accelerator

TINY = [("network.width", "8"), ("network.depth", "1"), ("network.heads", "1")]


@pytest.fixture
def accelerator(monkeypatch):
    """The pretended device, wherever a run asks which devices there are."""
    known = _foreach_utils._get_fused_kernels_supported_devices()
    for module in [module for name, module in sys.modules.items() if name.startswith("torch.")]:
        for name in ("_get_fused_kernels_supported_devices", "_get_foreach_kernels_supported_devices"):
            if name in vars(module):
                monkeypatch.setattr(module, name, lambda: [*known, DEVICE.type])
    monkeypatch.setattr(setup, "device_of", lambda name: DEVICE)
    monkeypatch.setattr(torch, "autocast", lambda device, **settings: nullcontext())
    return Accelerator()


def trained(name, accelerator, steps=3, **settings):
    """Run a few steps of a method; return those operations of the last one that the CPU would wait in."""
    pairs = [("pair_steps", "2"), ("pairs", "64")] if name == "reflow" else []
    derivative = methods.get(name).target.derivative
    if derivative is not None:  # torch.func on tensors of our own breaks down in torch
        pairs = [("target.derivative", "CentralDifference")]
    config = runs.configure(name, "digits", settings=[*TINY, *pairs], steps=20, batch=64, **settings)
    with accelerator:
        made = setup.Setup(config, config.data.load())
        made.engine.prepare(made.state, made.engine.loss_modules(made.state, made.objective), {})
        guard, recorder = Guard(DEVICE), Recorder(DEVICE, 64, 0.0)
        for _ in range(steps):
            accelerator.waits.clear()
            for one in loop.train_step(made.state, made.objective, made.data, made.plan, made.engine, guard):
                recorder.add(one.numbers, one.norm)
            made.state.step += 1
            recorder.close(made.state, 1e-3, guard)
            rows = list(recorder.rows(at_once=False))
        waits = list(accelerator.waits)
        assert guard.counts.here.tolist() == [0, 0]
        assert [row["step"] for row in rows] == [steps - 1] * (steps > 1) and all(
            row["loss"] is not None for row in rows
        )
    return waits


class Arrival:
    """An event of the pretended device, which has arrived already."""

    def __init__(self, device: torch.device) -> None:
        assert device == DEVICE

    def record(self) -> None: ...

    def synchronize(self) -> None: ...


def kept(place: str, accelerator: Accelerator) -> tuple[list[dict[str, torch.Tensor]], list[str]]:
    """Train some steps with the averages kept there, evaluated once; return them on the CPU, and what is waited in."""
    config = runs.configure("shortcut", "digits", settings=TINY, steps=20, batch=64, ema=(0.9, 0.99), widths=(0.1,),
                            averages_device=place)  # fmt: skip
    with accelerator:
        made = setup.Setup(config, config.data.load())
        made.engine.prepare(made.state, made.engine.loss_modules(made.state, made.objective), {})
        guard, trained = Guard(DEVICE), made.state.trained
        for step in range(4):
            accelerator.waits.clear()
            loop.train_step(made.state, made.objective, made.data, made.plan, made.engine, guard)
            made.state.step += 1
            if step == 1:
                with made.engine.whole(made.state):
                    assert {w.device for w in made.averaged.network.parameters()} == {DEVICE}
                devices = {w.device.type for one in [*trained.averages.values(), *trained.powers.values()]
                           for w in one.module.parameters()}  # fmt: skip
                assert devices == {"cpu" if place == "cpu" else DEVICE.type}
                assert {w.device for w in trained.target.module.parameters()} == {DEVICE}
        waits = list(accelerator.waits)
        found = [average.module.state_dict() for average in made.state.averages()]
    return [{name: getattr(w, "here", w) for name, w in each.items()} for each in found], waits


def test_averages_kept_by_the_cpu_are_the_same_and_nothing_waits(accelerator, monkeypatch):
    """To the last bit, also those of widths; the target network, which is evaluated in each step, stays."""
    monkeypatch.setattr(torch, "Event", Arrival)
    (plain, _), (found, waits) = kept("same", accelerator), kept("cpu", accelerator)
    assert not waits and len(found) == len(plain) == 4
    for each, expected in zip(found, plain, strict=True):
        assert all(torch.equal(each[name], expected[name]) for name in expected)


WAITS = {"tcm": "truncated.py", "best": "couplings.py"}
"""Methods whose steps wait, and where: `Truncated` chooses between two networks by times on the device, and pairs by
optimal transport are found on the CPU."""


@pytest.mark.parametrize("name", methods.names())
def test_no_step_waits_for_the_device(name, accelerator):
    waits = trained(name, accelerator)
    assert bool(waits) == (name in WAITS) and all(WAITS[name] in each for each in waits)


def test_waiting_is_seen(accelerator, monkeypatch):
    step = loop.train_step

    def nosy(*given):
        updates = step(*given)
        assert bool(updates[0].finite)
        return updates

    monkeypatch.setattr(loop, "train_step", nosy)
    waits = trained("flow_matching", accelerator, steps=1)
    assert len([each for each in waits if each.startswith("_local_scalar_dense")]) == 1
