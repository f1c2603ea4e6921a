"""What a run will take, against counts by hand and direct measurement."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from flowleap import memory, runs
from flowleap.data import Dataset
from flowleap.point import Batch
from flowleap.runs import activations, cost, estimate, forecast, recipes
from flowleap.runs.estimate import Speed, forward_flops

CPU = torch.device("cpu")
SHORT = [("network.depth", "1")]
DIT = {"kind": "DiT", "image": [4, 8, 8], "classes": 10, "patch": 2, "width": 32, "depth": 4, "heads": 2}
UNET = {"kind": "UNet", "image": [1, 8, 8], "classes": None, "width": 8, "multipliers": [1, 2], "depth": 1,
        "attention": [1]}  # fmt: skip


# --- operations


def transformer(tokens: int, width: int, depth: int, patch: int, channels: int, ratio: int = 4) -> int:
    """Operations of a DiT by hand, two for a multiply-add."""
    c, w, n = channels * patch * patch, width, tokens
    times = 2 * (256 * w + w * w)
    block = n * w * 3 * w + 2 * n * n * w + n * w * w + 2 * n * w * ratio * w + w * 6 * w
    return 2 * (times + n * c * w + depth * block + w * 2 * w + n * w * c)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"depth": 1}, {"patch": 4}, {"width": 48, "heads": 3}, {"mlp_ratio": 2.0}]
)
def test_operations_of_a_transformer_are_those_by_hand(options: dict) -> None:
    whole = DIT | options
    tokens = (8 // whole["patch"]) ** 2
    expected = transformer(
        tokens, whole["width"], whole["depth"], whole["patch"], 4, int(whole.get("mlp_ratio", 4))
    )
    assert forward_flops(whole) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "published"),
    [("dit-small-2", 6.06), ("dit-base-2", 23.01), ("dit-base-4", 5.56), ("dit-xlarge-2", 118.64)],
)
def test_operations_of_the_published_transformers(name: str, published: float) -> None:
    """Peebles and Xie, table 4, count multiply-adds, in billions; theirs has one time and twice the outputs."""
    options = {**runs.NETWORKS[name], "image": [4, 32, 32], "classes": 1000}
    assert forward_flops(options) / 2e9 == pytest.approx(published, rel=0.01)


@pytest.mark.slow
def test_operations_of_a_convolution_and_of_attention_over_pixels() -> None:
    """The difference that one block more makes, by hand: two convolutions, the condition, attention in its level."""
    more = forward_flops({**UNET, "depth": 2}) - forward_flops(UNET)
    here, pixels, wide = 8, 64, 16
    down = 2 * 9 * here * here * pixels + 32 * here
    low = 2 * 9 * wide * wide * 16 + 32 * wide + 4 * wide * wide * 16 + 2 * 16 * 16 * wide
    up_low = 9 * (wide + wide) * wide * 16 + 9 * wide * wide * 16 + 32 * wide + 2 * wide * wide * 16
    up = 9 * (here + here) * here * pixels + 9 * here * here * pixels + 32 * here + 2 * here * here * pixels
    # one block more on the way down of each level, and on the way up; up there attention follows the last alone
    assert more == 2 * (down + low + up_low + up)


@pytest.mark.slow
def test_a_step_costs_its_forward_equivalents() -> None:
    config = runs.configure("meanflow", "digits", batch=32)
    found = estimate.estimate(config, 1797, speed=False)
    assert found.step == found.forward * cost(config) == found.forward * 3.5
    assert found.total == found.step * config.schedule.steps * config.data.batch and found.speed is None
    assert found.images == config.schedule.steps * config.data.batch


# --- memory


@pytest.mark.slow
def test_weights_gradients_moments_and_averages() -> None:
    config = runs.configure("esc", "digits", settings=[*SHORT, ("ema", "0.99,0.999")])
    found, count = estimate.estimate(config, 1797, speed=False), None
    count = sum(weight.numel() for weight in runs.build_network(config).parameters())
    m = found.memory
    assert (m.weights, m.gradients, m.optimizer, m.copies) == (4 * count, 4 * count, 8 * count, 8 * count)
    assert m.total == m.state + m.activations and found.to_dict()["memory"]["total"] == m.total


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "copies", "others"),
    [
        ("shortcut", 2, 0),
        ("sid", 2, 1),
        ("consistency-distillation", 3, 0),
        ("progressive-distillation", 3, 0),
    ],
)
def test_targets_teachers_and_auxiliary_networks_are_copies(method: str, copies: int, others: int) -> None:
    found = estimate.estimate(runs.configure(method, "digits", settings=SHORT), 1797, speed=False).memory
    own = found.weights // (1 + others)
    assert found.copies == copies * own and found.optimizer == 2 * found.weights


@pytest.mark.slow
def test_memory_is_that_of_what_is_computed_at_a_time() -> None:
    """Micro-batches need their rows only; every stored average is a copy more."""
    whole = estimate.estimate(runs.configure("meanflow", "digits", settings=SHORT), 1797, speed=False).memory
    settings = [*SHORT, ("per_device", "10"), ("widths", "0.05,0.1")]
    cut = estimate.estimate(runs.configure("meanflow", "digits", settings=settings), 1797, speed=False).memory
    assert (whole.rows, cut.rows) == (96, 10)
    assert cut.activations == pytest.approx(whole.activations * 10 / 96, rel=0.1)
    assert cut.copies == whole.copies + 2 * whole.weights


@pytest.mark.slow
def test_averages_on_the_cpu_are_no_memory_of_the_device() -> None:
    """But of the CPU, with the weights that each is given."""
    config = runs.configure("shortcut", "digits", settings=[*SHORT, ("widths", "0.05,0.1")])
    there, here = (
        estimate.estimate(config.replace(averages_device=device), 1797, speed=False)
        for device in ("same", "cpu")
    )
    assert (there.memory.copies, there.memory.host) == (4 * there.memory.weights, 0)
    assert (here.memory.copies, here.memory.host) == (here.memory.weights, 6 * here.memory.weights)
    assert ("memory of the CPU" in dict(forecast.described(config, here))) and there.memory.host == 0


@pytest.mark.slow
def test_weights_divided_among_devices() -> None:
    """A share of everything, and one whole network with its gradients while a step is computed."""
    held = estimate.Memory(rows=1, weights=4, gradients=4, optimizer=8, copies=8, activations=100)
    assert held.divided(8) == 24 / 8 + 8
    config = runs.configure("meanflow", "digits", settings=SHORT, batch=256)
    for settings, devices, rows in (({}, 1, 256), ({}, 8, 32), ({"per_device": 32}, 8, 32), ({"per_device": 20}, 8, 16),
                                    ({"accumulate": 4}, 8, 8), ({"accumulate": 4, "per_device": 5}, 8, 5)):  # fmt: skip
        assert estimate.rows_at_once(config.replace(**settings), devices) == rows
    shown = dict(forecast.divided(config.replace(shard=True), estimate.estimate(config, 1797, speed=False)))
    assert "activations of 32 rows" in shown["with --shard on 8"]


SMALL = [("network.width", "32"), ("network.depth", "3"), ("network.heads", "2")]
GUIDED = ("guidance", '{"type": "Guidance", "omega": 1.0, "kappa": 0.5}')
STEPS = {
    "flow matching": ("flow_matching", ()),
    "difference": ("meanflow", (("target.derivative", "CentralDifference"),)),
    "guided, bf16": ("esc", (GUIDED, ("label_dropout", "0.1"), ("precision", "bf16"))),
    "checkpointing": ("meanflow", (("network.checkpointing", "true"),)),
    "teacher": ("ctm", ()),
    "U-Net": ("flow_matching", (("network", "unet-small"),)),
}


def counted(config: runs.TrainConfig) -> int:
    """The bytes at the peak of a real step, each tensor counted from when it is made until it is freed."""
    setup = runs.Setup(config, Dataset("noise", *noise(config), 10))
    trained = setup.state.trained
    point = setup.objective.draw(
        Batch(setup.data.x, setup.data.label), config.schedule.steps // 2, config.seed, trained.frozen
    )
    loss = setup.engine.loss_modules(setup.state, setup.objective)[trained.role]
    images = [value for value in vars(point).values() if isinstance(value, torch.Tensor) and value.ndim > 1]
    with memory.Allocations() as found:
        found.leave_out(*trained.network.parameters(), *trained.network.buffers(), *images)
        loss(point, len(point))[0].backward()
    return found.peak + sum(image.untyped_storage().nbytes() for image in images)


def noise(config: runs.TrainConfig) -> tuple[torch.Tensor, torch.Tensor]:
    rows = config.data.batch
    return torch.randn(rows, *activations.shape_of(config.network)), torch.arange(rows) % 10


@pytest.mark.parametrize("name", STEPS)
def test_activations_are_those_of_a_real_step(name: str) -> None:
    """Fake tensors and two blocks say what three blocks of numbers take, with gradients and targets, to 2 %."""
    method, settings = STEPS[name]
    given = dict(settings)
    network = given.pop("network", None)
    sizes = SMALL if network is None else [("network.width", "16")]
    config = runs.configure(
        method, "digits", network=network, settings=[*sizes, *given.items()], batch=24, device="cpu"
    )
    found = activations.activations(config, 24, 16, CPU)
    assert found.at(24) == pytest.approx(counted(config), rel=0.02)


def test_shortened_networks_keep_their_adapters() -> None:
    short = activations.shortened({"kind": "Reversed", "network": DIT}, 2)
    assert short["network"]["depth"] == 2 and activations.shortened(UNET, 1) == UNET
    assert activations.shortened(DIT, 9) == DIT


# --- speed


@pytest.mark.slow
@pytest.mark.parametrize("method", ["esc", "shortcut", "imm", "sid", "reflow", "amed", "live-reflow"])
def test_real_steps_are_timed(method: str) -> None:
    settings = [("network.width", "16"), ("network.depth", "3"), ("network.heads", "2")]
    config = runs.configure(method, "digits", settings=settings, batch=64)
    found = estimate.measure(config, seconds=0.2)
    assert found.steps >= 1 and found.measured > 0 and 4 <= found.rows <= 64
    whole = forward_flops(config.network) * cost(config)
    assert found.images * whole == pytest.approx(found.flops)


@pytest.mark.slow
def test_a_busy_machine_is_noticed_and_does_not_count(monkeypatch) -> None:
    """Ten seconds of wall time for one of the processor: the step takes one, and the machine has other work."""
    config = runs.configure("meanflow", "digits", steps=10, batch=8)
    readings = (estimate.clock.Moment(10.0 * count, float(count)) for count in range(100_000))
    monkeypatch.setattr(estimate.clock, "now", lambda device, waits=False: next(readings))
    monkeypatch.setattr(estimate.time, "perf_counter", iter(range(100_000)).__next__)
    speed = estimate.measure(config, seconds=1.0)
    assert speed.load == 10.0 and speed.measured == speed.rows
    hours = replace(estimate.estimate(config, 100, speed=False), speed=speed, hours=2.0)
    told = dict(forecast.measured(hours))
    assert "2.0 h" in told["so the run takes"] and "busy" in told["warning"] and "20.0 h" in told["warning"]


@pytest.mark.slow
def test_a_cut_network_is_scaled_by_its_operations(monkeypatch) -> None:
    """Where the whole takes too long, two blocks are timed; the images/s are those of the whole."""
    monkeypatch.setattr(estimate, "_fits", lambda *_: False)
    config = runs.configure("flow-matching", "digits", settings=[("network.depth", "12")], batch=8)
    found = estimate.measure(config, seconds=0.2)
    short = forward_flops(activations.shortened(config.network, 2)) / forward_flops(config.network)
    assert found.share == pytest.approx(short, rel=1e-6) and found.rows == 4
    assert found.images == pytest.approx(found.measured * short, rel=1e-6)


@pytest.mark.slow
def test_hours_follow_from_operations() -> None:
    config = runs.configure("esc", "digits", settings=SHORT)
    found = estimate.estimate(config, 1797, seconds=0.2)
    assert isinstance(found.speed, Speed) and found.hours is not None
    assert found.hours == pytest.approx(found.images / found.speed.images / 3600)
    assert found.hours_on(100e12) == pytest.approx(found.total / (0.35 * 100e12) / 3600)
    limit = found.memory.state + found.activation_once + 10.5 * found.activation_row
    assert found.rows_within(limit) == 10 and found.rows_within(1e3) == 0


@pytest.mark.slow
def test_the_largest_recipe_is_planned_without_its_weights() -> None:
    """ESC-XL/2: the published 676 million parameters and 1.2 million steps, on a machine that could not hold them."""
    config = runs.configure(recipe="esc-xl2")
    found = estimate.estimate(config, recipes.get("esc-xl2").rows, speed=False)
    assert found.parameters == 676_440_592 + 1153  # a log-variance head
    assert found.images == 1_200_000 * 256 and 4.3 < found.equivalents < 4.7
    assert found.forward / 2e9 == pytest.approx(118.64, rel=0.01)
