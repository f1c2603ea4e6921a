"""Beginning with the weights of another run: what is taken, what is new, and that it begins as the other ended."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from flowleap import data, importers, networks, runs
from flowleap.networks import DiT, UNet, WithLogVariance
from flowleap.networks.warm import begin_with
from flowleap.runs import warm
from flowleap.runs.describe import describe
from flowleap.runs.evaluators import Evaluators
from flowleap.training.log import Reporter

SMALL = {"width": 16, "depth": 2, "heads": 2}
IMAGE = (1, 8, 8)
TINY = [(f"network.{name}", value) for name, value in SMALL.items()]
QUIET = {"eval_num": 0, "online_share": 0, "sample_every": 0}


def awakened(network: nn.Module, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.double()


def asked(network: nn.Module, label: Tensor | None = None, diagonal: bool = False) -> Tensor:
    source = torch.Generator().manual_seed(5)
    x = torch.randn(4, *IMAGE, generator=source, dtype=torch.float64)
    t = 0.2 + 0.7 * torch.rand(4, generator=source, dtype=torch.float64)
    return network(x, t, t if diagonal else t / 2, label)


def trained(place: Path, method: str = "flow-matching", **changes) -> Path:
    """A run of a few steps at a rate that moves its output."""
    settings = [*TINY, *changes.pop("settings", [])]
    config = runs.configure(
        method, "digits", settings=settings, **{"steps": 8, "batch": 32, "lr": 0.02, **QUIET, **changes}
    )
    return runs.train(config, place, console=Console(file=io.StringIO())).folder


@pytest.fixture(scope="module")
def flow(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("warm") / "flow")


def begun(config: runs.TrainConfig, place: Path) -> tuple[runs.Setup, str]:
    """A training before its first step, and what is said of it."""
    text = io.StringIO()
    dataset = data.load(config.data.name)
    config, start = warm.find(config, place, False, dataset)
    setup = runs.Setup(config, dataset, start=start)
    describe(setup, Evaluators(config, dataset), place, Reporter(Console(file=text, width=200)))
    return setup, text.getvalue()


# --- networks


@pytest.mark.parametrize("make", [lambda c, **o: DiT(IMAGE, c, **SMALL, **o), lambda c, **o: UNet(
    IMAGE, c, width=8, multipliers=[1, 2], depth=1, attention=[1], **o)])  # fmt: skip
def test_the_same_network_is_taken_whole(make) -> None:
    there, here = awakened(make(3, log_variance=True)), awakened(make(3, log_variance=True), 1)
    taken = begin_with(here, there)
    assert torch.equal(asked(here, torch.tensor([0, 1, 2, 3])), asked(there, torch.tensor([0, 1, 2, 3])))
    assert taken.share == 1 and not taken.fresh and not taken.left and not taken.remarks


def test_other_classes_keep_what_no_class_means() -> None:
    there, here = awakened(DiT(IMAGE, 3, **SMALL)), awakened(DiT(IMAGE, 5, **SMALL), 1)
    before = here.y_embedder.embedding_table.weight.detach().clone()
    taken = begin_with(here, there)
    torch.testing.assert_close(asked(here), asked(there), rtol=1e-12, atol=1e-12)
    assert torch.equal(here.y_embedder.embedding_table.weight[:5], before[:5])  # classes are new
    assert "3 classes there, 5 here" in " ".join(taken.lines)
    assert taken.fresh == taken.left == ("y_embedder.embedding_table.weight",)


def test_only_classes_that_are_the_same_are_taken_to_their_places() -> None:
    there, here = awakened(DiT(IMAGE, 3, **SMALL)), awakened(DiT(IMAGE, 3, **SMALL), 1)
    before = here.y_embedder.embedding_table.weight.detach().clone()
    taken = begin_with(here, there, {0: 2})
    known, found = (net.y_embedder.embedding_table.weight.detach() for net in (there, here))
    assert torch.equal(found, torch.stack([known[2], before[1], before[2], known[3]]))
    assert "'no class' and 1 class of the same name are taken, the other classes are new" in taken.remarks[0]
    assert "y_embedder.embedding_table.weight" in taken.fresh
    new = awakened(DiT(IMAGE, 3, **SMALL), 1)
    assert "'no class' is taken, the classes are new" in begin_with(new, there, {}).remarks[0]
    assert torch.equal(new.y_embedder.embedding_table.weight[:3], before[:3])


def test_without_classes_it_begins_as_the_other_without_a_label() -> None:
    there = awakened(DiT(IMAGE, 3, log_variance=True, **SMALL))
    here = awakened(DiT(IMAGE, None, log_variance=True, **SMALL), 1)
    begin_with(here, there)
    torch.testing.assert_close(asked(here), asked(there), rtol=1e-10, atol=1e-10)
    t = torch.tensor([0.3, 0.9], dtype=torch.float64)
    torch.testing.assert_close(
        here.log_variance(t, t / 2), there.log_variance(t, t / 2), rtol=1e-9, atol=1e-9
    )


def test_with_classes_it_begins_without_a_label_as_the_other_that_has_none() -> None:
    there, here = awakened(DiT(IMAGE, None, **SMALL)), awakened(DiT(IMAGE, 3, **SMALL), 1)
    begin_with(here, there)
    torch.testing.assert_close(asked(here), asked(there), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(asked(here, torch.arange(4) % 3), asked(there))


def test_another_second_time_keeps_the_diagonal() -> None:
    there = awakened(DiT(IMAGE, 3, second="span", **SMALL))
    here = awakened(DiT(IMAGE, 3, second="landing", **SMALL), 1)
    remarks = begin_with(here, there).remarks
    torch.testing.assert_close(
        asked(here, diagonal=True), asked(there, diagonal=True), rtol=1e-12, atol=1e-12
    )
    assert not torch.allclose(asked(here), asked(there)) and "on the diagonal both say the same" in remarks[0]
    back = awakened(DiT(IMAGE, 3, second="span", **SMALL), 2)
    kept = back.r_embedder.mlp[2].weight.detach().clone()
    assert "the embedding of the second time starts anew" in begin_with(back, here).remarks[0]
    assert torch.equal(back.r_embedder.mlp[2].weight, kept)


def test_heads_blocks_and_patches_that_are_missing_are_new() -> None:
    there = awakened(DiT(IMAGE, 3, **SMALL, log_variance=True))
    here = DiT(IMAGE, 3, **(SMALL | {"depth": 3}), patch=4).double()
    taken = begin_with(here, there)
    assert {n.split(".")[0] for n in taken.fresh} == {"x_embedder", "final_layer", "blocks"}
    assert all(n.startswith(("blocks.2", "x_embedder", "final_layer")) for n in taken.fresh)
    assert "left there: logvar_linear, x_embedder, final_layer" in taken.lines
    deeper = DiT(IMAGE, 3, **(SMALL | {"depth": 3})).double()
    begin_with(deeper, there)
    torch.testing.assert_close(asked(deeper), asked(there))  # a new block does nothing yet
    wrapped = WithLogVariance(DiT(IMAGE, 3, **SMALL)).double()
    begin_with(wrapped, there)
    torch.testing.assert_close(asked(wrapped), asked(there))
    other = awakened(DiT(IMAGE, 3, **(SMALL | {"heads": 4})), 1)
    assert begin_with(other, there).remarks == ("heads is 2 there and 4 here: it begins as something else",)


@pytest.mark.parametrize(
    "here", [DiT(IMAGE, 3, width=32, depth=2, heads=2), networks.MLP(IMAGE, 3, width=16, depth=2)]
)
def test_networks_that_share_nothing_are_refused(here: nn.Module) -> None:
    before = {name: weight.clone() for name, weight in here.state_dict().items()}
    with pytest.raises(ValueError, match=r"nothing fits: a DiT of width 16 there, a (DiT|MLP) of width"):
        begin_with(here, DiT(IMAGE, 3, **SMALL))
    assert all(torch.equal(weight, before[name]) for name, weight in here.state_dict().items())


# --- runs


@pytest.mark.slow
@pytest.mark.parametrize("method", ["esc", "meanflow", "shortcut", "sct-linear"])
def test_a_run_begins_with_the_velocity_and_the_samples_of_the_other(
    flow: Path, method: str, tmp_path: Path
) -> None:
    source = runs.load_run(flow)
    setup, said = begun(runs.configure(method, init=flow, **QUIET), tmp_path / "run")
    assert setup.config.data.name == "digits" and setup.config.network["width"] == 16
    x, label = torch.randn(6, *IMAGE), torch.arange(6)
    for t in (1.0, 0.4):
        ours, theirs = (one.velocity(x, t, label=label) for one in (setup.averaged, source.flow))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        assert float(theirs.square().mean()) > 1e-3
    steps = {one: source.objective.sample(one, x, 16, label=label) for one in (source.flow,)}
    ours = source.objective.sample(source.objective.flow_map(setup.averaged.network), x, 16, label=label)
    torch.testing.assert_close(ours, steps[source.flow], rtol=1e-4, atol=1e-5)
    taken = "begins with " + str(flow)
    assert taken in said.replace("\n", "") and "parameters taken" in said
    assert ("new here: logvar_linear" in said) == (method in ("esc", "sct-linear"))


def test_a_class_is_the_same_on_the_same_data_or_by_its_name_but_not_by_its_number(flow: Path) -> None:
    """A digit 0 does not begin as a bag; a run that does not name its classes has numbers."""
    run, digits = runs.load_run(flow), data.load("digits")
    assert run.named and run.classes == digits.class_names and run.class_counts == digits.class_counts
    config = runs.configure("meanflow", init=flow)
    each = {number: number for number in range(10)}
    assert warm.same_classes(config, digits, run) == each
    assert warm.same_classes(config, digits, replace(run, named=False)) == each
    bags = replace(digits, path="bags.npz", x=-digits.x)
    other = config.replace(data="bags.npz")
    assert warm.same_classes(other, bags, run) == {}
    assert warm.same_classes(other, bags, replace(run, checksum=bags.checksum)) == each
    named = replace(bags, classes=("bag", "shoe", *(f"new{i}" for i in range(8))))
    known = replace(run, classes=("shoe", "hat", "bag", *(f"old{i}" for i in range(7))))
    assert warm.same_classes(other, named, known) == {0: 2, 1: 0}


@pytest.mark.slow
def test_config_json_says_where_it_began_and_resuming_does_not_need_it(flow: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(flow, source)
    config = runs.configure("meanflow", init=source, steps=6, batch=32, checkpoint_every=3, **QUIET)
    console = Console(file=io.StringIO())
    place = runs.train(config, tmp_path / "run", console=console).folder
    stored = json.loads((place / "config.json").read_text())["config"]["init"]
    assert stored["path"] == "../source" and stored["weights"] == "ema-0.999@8"
    assert len(stored["checksum"]) == 64
    whole = runs.load_run(place, "raw").network.state_dict()
    shutil.rmtree(source)
    (place / "checkpoints" / "latest").write_text("step-00000003\n")
    again = runs.train(None, place, resume=True, console=console)
    assert again.step == 6
    state = runs.load_run(place, "raw").network.state_dict()
    assert all(torch.equal(weight, whole[name]) for name, weight in state.items())
    shutil.rmtree(
        place / "checkpoints"
    )  # as though it was stopped before its first checkpoint: now it is needed
    for name in ("ema.safetensors", "network.safetensors", "metrics.jsonl"):
        (place / name).unlink()
    with pytest.raises(FileNotFoundError, match="source"):
        runs.train(None, place, resume=True, console=console)
    shutil.copytree(flow, source)
    (source / "ema.safetensors").write_bytes((source / "network.safetensors").read_bytes())
    with pytest.raises(ValueError, match="are not those that this run began with"):
        runs.train(None, place, resume=True, console=console)


def test_a_run_without_labels_begins_with_one_that_has_them(flow: Path, tmp_path: Path) -> None:
    settings = [("network.classes", "none")]
    setup, said = begun(runs.configure("meanflow", init=flow, settings=settings, **QUIET), tmp_path / "run")
    x = torch.randn(4, *IMAGE)
    torch.testing.assert_close(
        setup.averaged.velocity(x, 0.7), runs.load_run(flow).flow.velocity(x, 0.7), rtol=1e-5, atol=1e-6
    )
    assert "10 classes there, none here" in said


@pytest.mark.parametrize("layout", ["esc", "sit"])
def test_imported_weights_are_begun_with(layout: str, tmp_path: Path) -> None:
    """Those of SiT through their adapter: it has one time, and t = 0 is noise."""
    network = awakened(DiT(IMAGE, 10, **SMALL)).float()
    state = {
        n: w for n, w in network.state_dict().items() if layout == "esc" or not n.startswith("r_embedder")
    }
    torch.save({"ema": state}, tmp_path / "weights.pt")
    place = tmp_path / "imported"
    importers.import_weights(tmp_path / "weights.pt", place, layout=layout, heads=2, data="digits")
    setup, said = begun(runs.configure("meanflow", init=place, **QUIET), tmp_path / "run")
    x, label = torch.randn(4, *IMAGE), torch.arange(4)
    theirs = runs.load_run(place).flow.velocity(x, 0.7, label=label)
    torch.testing.assert_close(setup.averaged.velocity(x, 0.7, label=label), theirs, rtol=1e-5, atol=1e-6)
    assert setup.config.network["kind"] == ("Reversed" if layout == "sit" else "DiT")
    assert "weights.pt" in setup.config.init.weights and "begins with" in said


@pytest.mark.slow
def test_what_makes_no_sense_is_refused(flow: Path, tmp_path: Path) -> None:
    def refused(message: str, method: str = "meanflow", **options) -> None:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            config = runs.configure(method, **({"init": flow} | options))
            warm.find(config, tmp_path / "run", False, data.load("digits"))

    refused("begins with the weights of its teacher: leave it out", "consistency-distillation", teacher=flow)
    refused("begins with the weights of its teacher: give that run as --teacher", "progressive-distillation")
    refused("seen through nothing, and that of this run through NoiseTime", "ect")
    config = runs.configure("meanflow", init=flow, network="dit-tiny")
    start = warm.find(config, tmp_path, False, data.load("digits"))[1]
    with pytest.raises(ValueError, match=f"--init {flow}: nothing fits"):
        start.into(runs.build_network(config))
    with pytest.raises(FileNotFoundError):
        runs.configure("meanflow", init=tmp_path / "nowhere")
    curved = warm.find(runs.configure("sct", init=flow), tmp_path, False, data.load("digits"))[1]
    assert any("path is LinearPath" in line and "first samples are others" in line for line in curved.remarks)


@pytest.mark.slow
def test_resuming_with_another_start_is_refused(flow: Path, tmp_path: Path) -> None:
    place = trained(tmp_path / "run", "meanflow", settings=[])
    with pytest.raises(ValueError, match=r"init\.path is None, not"):
        runs.train(runs.reconfigure(runs.read_config(place), init=flow), place, resume=True)
    config = runs.read_config(place)
    assert config.replace(init=None) == config
