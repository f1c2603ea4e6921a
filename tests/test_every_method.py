"""Every method trains, is sampled and measured, on images with a transformer and on points with an MLP."""

from __future__ import annotations

import io
import json
import math
import warnings
from functools import cache, partial

import pytest
import torch
from rich.console import Console

from flowleap import evaluation, methods, runs, samplers
from flowleap.data import load, toy

STEPS, TAUGHT = 6, 14
"""Of a method, and of one with a teacher: a student has a step for each of its seven stages."""
PIXELS = [
    ("network.width", "8"),
    ("network.multipliers", "[1, 2]"),
    ("network.depth", "1"),
    ("network.attention", "[1]"),
    ("network.dropout", "0.1"),
]
SOME = ("flow_matching", "esc", "shortcut", "imm", "sct", "ect", "ctm", "sid", "tcm", "amed", "live_reflow")
"""Methods that are tried on the U-Net: one for each way of asking a network."""
HOMES = {
    "transformer": ("digits", [("network.width", "16"), ("network.depth", "2"), ("network.heads", "2")]),
    "points": ("two-moons", [("network.width", "16"), ("network.depth", "2")]),
}


@pytest.mark.slow
@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize("method", methods.names())
def test_it_trains_is_sampled_and_measured(method, home, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(
        toy.POINTS, "two-moons", partial(toy.two_moons, 1000)
    )  # quicker to measure than 10,000
    data, tiny = HOMES[home]
    whole_story(method, data, tiny, None, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("method", SOME)
def test_it_trains_a_u_net(method, tmp_path) -> None:
    whole_story(method, "digits", PIXELS, "unet-small", tmp_path)


@cache
def evaluator(data: str) -> evaluation.Evaluator:
    """What samples are compared with, made once."""
    return evaluation.evaluator_for(load(data))


def whole_story(method, data, tiny, network, tmp_path) -> None:
    """Train, read back, sample and measure."""
    rows = 64 if network is None or method == "shortcut" else 24  # the jumps of a shortcut need 56
    pairs = [("pair_steps", "2"), ("pairs", "64")] if method == "reflow" else []
    steps = TAUGHT if methods.get(method).needs_teacher else STEPS
    config = runs.configure(
        method, data, network, [*tiny, *pairs], steps=steps, batch=rows, eval_num=0, online_share=0
    )
    place = runs.train(config, tmp_path / "run", console=Console(file=io.StringIO())).folder

    lines = (place / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert last["step"] == runs.length(config) and last["skipped"] == 0
    assert math.isfinite(last["loss"]) and math.isfinite(last["raw_error"])
    run = runs.load_run(place)
    start = runs.build_network(config).state_dict()
    raw = runs.load_run(place, weights="raw").network.state_dict()
    assert any(not torch.equal(raw[name], start[name]) for name in start)

    budget = 4 if not run.objective.advice(4) else 1
    noise = samplers.noise(0, range(6), run.shape)
    label = evaluation.cycle(6, run.num_classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # flow matching in so few steps, and the like
        made = run.objective.sample(run.flow, noise, budget, label=label)
        rows = evaluation.evaluate(
            run.flow, run.objective, run.dataset(), steps=(budget,), num=100, evaluator=evaluator(data)
        )
    assert made.shape == noise.shape and bool(made.isfinite().all()) and not torch.equal(made, noise)
    assert math.isfinite(rows[0]["distance"]) and rows[0]["nfe"] == run.objective.nfe(budget)
