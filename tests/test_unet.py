"""The U-Net for pixels: published sizes, any image size, masks that belong to rows, and its place in a run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from flowleap import data, networks, runs
from flowleap.derivatives import CentralDifference
from flowleap.networks import UNet
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
