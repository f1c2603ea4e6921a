"""Dropout whose masks belong to the rows: its share, one mask in every evaluation of a row, and its place in a run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from flowleap import Batch, methods, networks, runs
from flowleap.derivatives import TwoPass
from flowleap.guidance import FinestLevel, Guidance
from flowleap.networks.dropout import Dropout, keyed, mixed, row_keys

D = torch.float64
IMAGE = (1, 8, 8)
KINDS = {
    "DiT": {"width": 16, "depth": 2, "heads": 2},
    "UNet": {"width": 8, "multipliers": [1, 2, 2], "depth": 1, "attention": [1], "heads": 2},
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def awakened(kind: str, **options: object) -> nn.Module:
    """A small network in float64 with every parameter random."""
    torch.manual_seed(0)
    network = networks.build({"kind": kind, "image": IMAGE, "classes": 3, **KINDS[kind], **options}).to(D)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.train()


def inputs(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(1)
    x = torch.randn(rows, *IMAGE, generator=source, dtype=D)
    t = 0.3 + 0.7 * torch.rand(rows, generator=source, dtype=D)
    return x, t, t * torch.rand(rows, generator=source, dtype=D)


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


@each_kind
def test_a_row_drops_the_same_alone_and_among_others(kind: str) -> None:
    network = awakened(kind, dropout=0.3)
    x, t, r = inputs(rows=5)
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


def test_a_network_without_dropout_is_the_one_before() -> None:
    """The same weights, the same values in training and in evaluation; and what is dropped has its expectation."""
    plain, none, some = (awakened("DiT", **options) for options in ({}, {"dropout": 0.0}, {"dropout": 0.5}))
    given = (*inputs(rows=3), torch.arange(3))
    assert list(plain.state_dict()) == list(some.state_dict())
    assert torch.equal(plain(*given), none(*given)) and torch.equal(plain(*given), some.eval()(*given))
    assert not torch.allclose(some.train()(*given), plain(*given))


def test_both_branches_of_a_block_drop_with_masks_of_their_own() -> None:
    layers = [layer for layer in awakened("DiT", dropout=0.5).modules() if isinstance(layer, Dropout)]
    assert len(layers) == 2 * KINDS["DiT"]["depth"] == len({layer.layer for layer in layers})
    with pytest.raises(ValueError, match=r"dropout=1.5: a share in \[0, 1\)"):
        awakened("DiT", dropout=1.5)


@each_kind
def test_the_derivative_and_the_prediction_drop_the_same(kind: str) -> None:
    """In a step of MeanFlow: the value of the derivative pass is the prediction, on every row r < t."""
    network = awakened(kind, dropout=0.5)
    objective = methods.meanflow().for_run(10)
    seen: list[Tensor] = []

    class Watched(TwoPass):
        def __call__(self, field, x, t, tangent, **options):
            value, rate = super().__call__(field, x, t, tangent, **options)
            seen.append(value)
            return value, rate

    objective = replace(objective, target=replace(objective.target, derivative=Watched()))
    x = inputs(rows=16)[0]
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
@each_kind
@pytest.mark.parametrize("name", SPLIT)
def test_parts_of_a_batch_drop_what_the_whole_drops(name: str, kind: str) -> None:
    """Wherever a method asks the network for some of its rows, or for rows twice: the same loss however it is cut."""
    method, changes = SPLIT[name]
    objective = replace(methods.get(method), label_dropout=0.3, **changes).for_run(100)
    smaller = {"multipliers": [1, 2], "attention": []} if kind == "UNet" else {}
    network = awakened(kind, image=(1, 4, 4), dropout=0.4, log_variance=True, **smaller)
    flow = objective.flow_map(network)
    total = 64
    x = torch.randn(total, 1, 4, 4, dtype=D)
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


@pytest.mark.slow
@each_kind
def test_a_resumed_run_with_dropout_is_the_uninterrupted_one(kind: str, tmp_path) -> None:
    name = {"DiT": "dit-nano", "UNet": "unet-small"}[kind]
    settings = [(f"network.{name}", value) for name, value in (KINDS[kind] | {"dropout": 0.3}).items()]
    config = runs.configure(
        "meanflow", "digits", network=name, settings=settings, steps=6, batch=16, eval_num=0, online_share=0,
        sample_every=0, checkpoint_every=3,
    )  # fmt: skip
    whole = runs.train(config, tmp_path / "whole").folder
    place = runs.train(config, tmp_path / "resumed").folder
    (place / "checkpoints" / "latest").write_text("step-00000003\n")  # as if it had been killed after that
    torch.manual_seed(1234)
    assert runs.train(None, place, resume=True).step == 6
    ours, theirs = (runs.load_run(one, "raw").network.state_dict() for one in (whole, place))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
