"""The U-Net for pixels: published sizes, any image size, masks that belong to rows, and its place in a run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from flowleap import Batch, data, methods, networks, runs
from flowleap.derivatives import CentralDifference, TwoPass
from flowleap.guidance import FinestLevel, Guidance
from flowleap.networks import UNet
from flowleap.networks.dropout import Dropout, keyed, mixed, row_keys
from flowleap.networks.options import NETWORKS
from flowleap.networks.unet import GroupNorm, PixelAttention

SMALL = {"width": 8, "multipliers": [1, 2, 2], "depth": 1, "attention": [1], "heads": 2}
D = torch.float64


def awakened(image: tuple[int, int, int] = (1, 28, 28), classes: int | None = 3, **options) -> UNet:
    """A small network in float64 with every parameter random."""
    torch.manual_seed(0)
    network = UNet(image, classes, **(SMALL | options)).to(D)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network


def inputs(image: tuple[int, int, int], rows: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(1)
    x = torch.randn(rows, *image, generator=source, dtype=D)
    t = 0.3 + 0.7 * torch.rand(rows, generator=source, dtype=D)
    return x, t, t * torch.rand(rows, generator=source, dtype=D)


# --- sizes


@pytest.mark.parametrize(
    ("name", "side", "published"), [("unet-base", 32, 55_733_891), ("unet-64", 64, 61_805_571)]
)
def test_parameter_counts_are_the_published_ones(name: str, side: int, published: int) -> None:
    """DDPM++ in the sizes of Karras et al. for CIFAR-10 and FFHQ: 55.7 and 61.8 million.

    Theirs reads nine numbers of augmentation and embeds 128 waves of one time, ours 256 of each of two.
    """
    with torch.device("meta"):
        network = networks.build({**NETWORKS[name], "image": [3, side, side], "classes": None})
    count = sum(p.numel() for p in network.parameters())
    second = sum(p.numel() for p in network.r_embedder.parameters())
    assert count - second - 128 * 512 + 9 * 128 == published


@pytest.mark.parametrize("image", [(1, 28, 28), (3, 32, 32), (2, 30, 21), (3, 64, 64), (1, 5, 4)])
def test_any_size_that_can_be_halved_is_taken(image: tuple[int, int, int]) -> None:
    network = awakened(image)
    x, t, r = inputs(image, rows=2)
    output = network(x, t, r, torch.tensor([0, 3]))
    assert output.shape == x.shape and bool(output.isfinite().all())
    moved = network(x.roll(1, 0), t.roll(1), r.roll(1), torch.tensor([3, 0]))
    torch.testing.assert_close(moved, output.roll(1, 0))  # rows do not mix


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": (1, 3, 8)}, "3 x 8 cannot be halved 2 times: use at most 2 levels"),
        ({"attention": [3]}, "levels from 0 to 2"),
        ({"heads": 3}, "divides the channels"),
        ({"width": 6}, "multiple of 4"),
        ({"multipliers": []}, "with 0 levels"),
        ({"dropout": 1.0}, r"a share in \[0, 1\)"),
    ],
)
def test_impossible_sizes_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(**({"image": (1, 28, 28), "classes": 3} | SMALL | options))


# --- layers


def test_group_norm_is_that_of_its_formula_and_differentiates_in_any_layout() -> None:
    norm = GroupNorm(16).to(D)
    nn.init.normal_(norm.weight)
    x = torch.randn(2, 16, 3, 5, dtype=D).to(memory_format=torch.channels_last)
    assert norm.num_groups == 4
    grouped = x.reshape(2, 4, -1)
    plain = (grouped - grouped.mean(2, keepdim=True)) / (
        grouped.var(2, keepdim=True, correction=0) + 1e-6
    ).sqrt()
    expected = plain.view(2, 16, 3, 5) * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), expected)
    tangent = torch.randn_like(x)
    rate = torch.func.jvp(norm, (x,), (tangent,))[1]
    difference = (norm(x + 1e-6 * tangent) - norm(x - 1e-6 * tangent)) / 2e-6
    torch.testing.assert_close(rate, difference, rtol=1e-6, atol=1e-6)


def test_attention_is_that_of_torch() -> None:
    torch.manual_seed(0)
    layer = PixelAttention(8, heads=2).to(D)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 8, 3, 4, dtype=D)
    q, k, v = layer.qkv(layer.norm(x)).flatten(2).chunk(3, 1)
    heads = [z.unflatten(1, (2, 4)).transpose(2, 3) for z in (q, k, v)]  # (batch, head, pixel, channel)
    seen = nn.functional.scaled_dot_product_attention(*heads).transpose(2, 3).reshape(2, 8, 3, 4)
    torch.testing.assert_close(layer(x), (x + layer.proj(seen)) * 0.5**0.5)


def test_each_level_reads_what_the_way_down_left_there() -> None:
    """Cutting any skip connection changes the output."""
    network = awakened()
    x, t, r = inputs((1, 28, 28), rows=2)
    label = torch.tensor([0, 1])
    whole = network(x, t, r, label)
    for block in [network.conv_in, *network.down]:
        handle = block.register_forward_hook(lambda _, given, output: 0.5 * output)
        assert not torch.allclose(network(x, t, r, label), whole)
        handle.remove()
    assert len(network.blocks) == 5 + 2 + 8


# --- dropout


def test_the_share_that_is_dropped_and_its_scale() -> None:
    layer = Dropout(0.3, layer=0)
    x = torch.ones(64, 10, 10, 10)
    out = layer(x, torch.randint(1 << 31, (64,)))
    assert abs(float((out == 0).double().mean()) - 0.3) < 0.01  # 64,000 draws: a standard error of 0.002
    torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], 1 / 0.7))
    assert torch.equal(layer(x, None), x) and torch.equal(layer.eval()(x, torch.arange(64)), x)


def test_masks_of_rows_places_and_layers_are_independent() -> None:
    x, keys = torch.ones(256, 256), torch.randint(1 << 31, (256,), generator=torch.Generator().manual_seed(0))
    masks = [(Dropout(0.5, layer)(x, keys) > 0).double() - 0.5 for layer in (0, 1)]
    assert abs(float((masks[0] * masks[1]).mean())) < 0.25 * 5 / 256
    rows, places = masks[0] @ masks[0].T / 256, masks[0].T @ masks[0] / 256
    for table in (rows, places):  # correlations of 256 numbers: 0.25/16 each
        off = table - torch.diag(torch.diagonal(table))
        assert float(off.abs().max()) < 0.25 * 5.5 / 16


def test_mixed_numbers_are_a_bijection() -> None:
    assert len(mixed(torch.arange(1 << 16)).unique()) == 1 << 16
    assert torch.equal(mixed(torch.arange(100)), mixed(torch.arange(100) + (1 << 32)))


@pytest.mark.slow
def test_a_row_drops_the_same_alone_and_among_others() -> None:
    network = awakened(dropout=0.3).train()
    x, t, r = inputs((1, 28, 28), rows=5)
    label = torch.arange(5) % 4
    with keyed(torch.tensor([5, 6, 7, 8, 9])):
        whole = network(x, t, r, label)
        first = network(x[:2], t[:2], r[:2], label[:2])
        twice = network(x.repeat(2, 1, 1, 1), t.repeat(2), r.repeat(2), label.repeat(2))
    torch.testing.assert_close(first, whole[:2])
    torch.testing.assert_close(twice[5:], whole)
    with keyed(torch.tensor([6])):
        torch.testing.assert_close(network(x[1:2], t[1:2], r[1:2], label[1:2]), whole[1:2])
    assert not torch.allclose(network(x, t, r, label), whole)  # no keys: drawn anew
    assert len(row_keys(x)) == 5
    network.eval()
    with keyed(torch.arange(5)):
        assert torch.equal(network(x, t, r, label), network(x, t, r, label))


@pytest.mark.slow
def test_the_derivative_and_the_prediction_drop_the_same() -> None:
    """In a step of MeanFlow: the value of the derivative pass is the prediction, on every row r < t."""
    network = awakened(dropout=0.5).train()
    objective = methods.meanflow().for_run(10)
    seen: list[Tensor] = []

    class Watched(TwoPass):
        def __call__(self, field, x, t, tangent, **options):
            value, rate = super().__call__(field, x, t, tangent, **options)
            seen.append(value)
            return value, rate

    objective = replace(objective, target=replace(objective.target, derivative=Watched()))
    x = inputs((1, 28, 28), rows=16)[0]
    flow = objective.flow_map(network)
    point = objective.draw(Batch(x, torch.arange(16) % 3), step=3, key=0)
    regression = objective.regress(flow, flow, point)
    assert point.num_jumps > 0
    torch.testing.assert_close(seen[0], regression.prediction[: point.num_jumps].detach())
    again = objective.regress(flow, flow, point)
    assert torch.equal(again.prediction, regression.prediction)  # resumed steps compute the same
    other = objective.regress(flow, flow, replace(point, keys=point.keys + 1))
    assert not torch.allclose(other.prediction, regression.prediction)


GUIDED = {
    "meanflow, guided": ("meanflow", {"guidance": Guidance(omega=1.0, kappa=0.5)}),
    "meanflow, guided more": ("meanflow", {"guidance": Guidance(omega=2.0)}),
    "shortcut, guided": ("shortcut", {"guidance": FinestLevel(2.0)}),
}
SPLIT = {name: (name, {}) for name in methods.names() if not methods.get(name).needs_run} | GUIDED


@pytest.mark.slow
@pytest.mark.parametrize("name", SPLIT)
def test_parts_of_a_batch_drop_what_the_whole_drops(name: str) -> None:
    """Wherever a method asks the network for some of its rows, or for rows twice: the same loss however it is cut."""
    method, changes = SPLIT[name]
    objective = replace(methods.get(method), label_dropout=0.3, **changes).for_run(100)
    torch.manual_seed(0)
    network = UNet(
        (1, 4, 4), 3, width=8, multipliers=(1, 2), depth=1, attention=(), dropout=0.4, log_variance=True
    )
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    flow = objective.flow_map(network.double().train())
    total = 64
    x = torch.randn(total, 1, 4, 4, dtype=torch.float64)
    label = torch.arange(total) % 3

    def loss(here: Tensor) -> Tensor:
        others = objective.context(label, here, total)
        batch = Batch(
            x[here], label[here], row=here, size=total, context=x[others], context_label=label[others],
            context_row=others,
        )  # fmt: skip
        with torch.no_grad():
            return objective(flow, flow, batch, step=30, key=0).sum() / total

    whole = loss(torch.arange(total))
    parts = sum(loss(objective.part(total, 30, 0, index, 2)) for index in range(2))
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)


# --- in a run


def test_it_is_chosen_by_name_and_fits_the_data() -> None:
    config = runs.configure("esc", "digits", network="unet-small", settings=[("network.dropout", "0.1")])
    assert config.network["kind"] == "UNet" and config.network["image"] == [1, 8, 8]
    assert (
        config.network["classes"] == 10
        and config.network["log_variance"]
        and config.network["dropout"] == 0.1
    )
    with pytest.raises(ValueError, match="a UNet is made for images and two-moons holds points"):
        runs.configure("esc", "two-moons", network="unet-small")


@pytest.mark.slow
def test_a_resumed_run_with_dropout_is_the_uninterrupted_one(tmp_path) -> None:
    settings = [(f"network.{name}", value) for name, value in (SMALL | {"dropout": 0.3}).items()]
    config = runs.configure(
        "meanflow", "digits", network="unet-small", settings=settings, steps=6, batch=16, eval_num=0, online_share=0,
        sample_every=0, checkpoint_every=3,
    )  # fmt: skip
    whole = runs.train(config, tmp_path / "whole").folder
    place = runs.train(config, tmp_path / "resumed").folder
    (place / "checkpoints" / "latest").write_text("step-00000003\n")  # as if it had been killed after that
    torch.manual_seed(1234)
    assert runs.train(None, place, resume=True).step == 6
    ours, theirs = (runs.load_run(one, "raw").network.state_dict() for one in (whole, place))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_where_torch_has_no_derivative_in_bfloat16_a_difference_is_taken_or_it_is_refused(tmp_path):
    """Forward-mode derivatives of convolutions under autocast on a CPU."""
    small = [("network.width", "8"), ("network.multipliers", "[1]"), ("network.depth", "1")]
    settings = [*small, ("network.attention", "[]"), ("evaluation.num", "0")]
    options = {"network": "unet-small", "device": "cpu", "precision": "bf16", "batch": 8, "steps": 1}
    setup = runs.Setup(runs.configure("esc", "digits", settings=settings, **options), data.load("digits"))
    assert setup.objective.target.derivative == CentralDifference(0.05)
    assert "cannot differentiate this network forward" in setup.settled
    setup.trial_step()
    config = runs.configure(
        "esc", "digits", settings=[*settings, ("target.derivative", "TwoPass")], **options
    )
    with pytest.raises(ValueError, match=r"in bfloat16 .*use --set target\.derivative=auto"):
        runs.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
