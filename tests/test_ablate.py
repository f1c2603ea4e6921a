"""Ablations: which rows there are and what they are, fair beginnings, paired differences, resumption, errors."""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from flowleap import data, methods, runs, studies
from flowleap.cli import app
from flowleap.data.batching import Shuffled
from flowleap.evaluation import evaluator
from flowleap.losses import AdaptivePower
from flowleap.networks import MLP, DiT
from flowleap.objectives import Objective
from flowleap.paths import TrigPath
from flowleap.studies import ablation, outcome, picture, plan, table
from flowleap.times import LogitNormal, SortedPair
from flowleap.training.loop import Plan as Loop
from flowleap.training.loop import draw_batch
from flowleap.velocities import Conditional

TINY = (("network.width", "16"), ("network.depth", "1"))
ASKED = studies.Request(
    ("esc",),
    "two-moons",
    "16steps",
    seeds=2,
    steps=(1,),
    num=60,
    batch=16,
    settings=TINY,
    drop=("plug-in", "gradual-end"),
)
WITHOUT = {
    "gradual-end": {"times": SortedPair(LogitNormal(-0.4, 1.0), diagonal=0.75)},
    "plug-in": {"velocity": Conditional()},
    "learned-weight": {"loss": AdaptivePower(power=1.0, eps=1e-3, reduce="sum")},
    "class-consistent": {"batching": Shuffled()},
}


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.fixture(scope="module", autouse=True)
def light() -> Iterator[None]:
    """Hold against few rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "PAIRS", 300)
        patch.setattr(picture, "POINTS", 200)
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> studies.Finished:
    """An uninterrupted ablation."""
    return studies.compare(ASKED, tmp_path_factory.mktemp("ablations") / "whole", console=quiet())


def configs(**changes: object) -> tuple[dict[str, runs.TrainConfig], str | None]:
    return plan.variants(replace(ASKED, **changes), data.load("two-moons"))


def objective_of(config: runs.TrainConfig) -> Objective:
    return config.objective


# ---------------------------------------------------------------- which rows there are


def test_the_components_of_esc_are_where_it_differs_from_meanflow() -> None:
    found = ablation.components("esc", methods.esc())
    assert {part.name: {part.field: part.without} for part in found} == WITHOUT
    assert ablation.components("meanflow", methods.meanflow()) == ()
    assert ablation.remainder("esc", methods.esc()) == [("loss.eps", 1e-3, 1e-2)]


def test_a_wrapped_part_that_was_set_stays_when_its_wrapping_is_left_out() -> None:
    """And a component that a setting took away is none any more."""
    found, _ = configs(drop=("all",), settings=(("times.pair.diagonal", "0.5"), ("velocity", "Conditional")))
    assert [label for label in found if "without" in label] == [
        "esc without gradual-end",
        "esc without learned-weight",
        "esc without class-consistent",
    ]
    bare = SortedPair(LogitNormal(-0.4, 1.0), diagonal=0.5)
    assert objective_of(found["esc without gradual-end"]).times == bare
    assert objective_of(found["esc with learned-weight alone"]).times == bare


def test_rows_of_dropped_components_are_what_they_say() -> None:
    found, full = configs(drop=("all",))
    whole = objective_of(found["esc"])
    assert full == "esc" and whole == replace(methods.esc(), label_dropout=0.0)
    wanted = {"esc": whole}
    for name, change in WITHOUT.items():
        wanted[f"esc without {name}"] = replace(whole, **change)
        others = {k: v for other, kept in WITHOUT.items() if other != name for k, v in kept.items()}
        wanted[f"esc with {name} alone"] = replace(whole, **others)
    wanted["esc with none"] = replace(whole, **{k: v for kept in WITHOUT.values() for k, v in kept.items()})
    assert {label: objective_of(config) for label, config in found.items()} == wanted
    for label, config in found.items():
        assert config.network["log_variance"] == bool(objective_of(config).loss.learned), label


def test_few_components_make_no_row_twice() -> None:
    assert list(configs()[0]) == [
        "esc", "esc without plug-in", "esc without gradual-end", "esc with none",
    ]  # fmt: skip
    assert list(configs(drop=("velocity",))[0]) == ["esc", "esc without plug-in"]
    assert list(configs(drop=("Plug_In",))[0]) == ["esc", "esc without plug-in"]


def test_fields_are_crossed_and_the_method_as_it_is_is_always_there() -> None:
    found, full = configs(
        drop=(), over=(("path", ("LinearPath", "TrigPath")), ("times.diagonal", ("0.5", "0.75")))
    )
    assert full == "esc, path=LinearPath, times.diagonal=0.75" and len(found) == 4
    whole = objective_of(found[full])
    assert whole == replace(methods.esc(), label_dropout=0.0)
    pair = replace(whole.times, pair=replace(whole.times.pair, diagonal=0.5))
    changed = found["esc, path=TrigPath, times.diagonal=0.5"]
    assert objective_of(changed) == replace(whole, path=TrigPath(), times=pair)
    friendly, _ = configs(
        drop=(), over=(("path", ("linear", "trigonometric")), ("velocity", ("conditional", "plug-in")))
    )
    assert list(friendly)[1] == "esc, path=linear, velocity=plug-in"
    assert [objective_of(config).path for config in friendly.values()][1:3] == [whole.path, TrigPath()]
    with pytest.raises(ValueError, match="Known: LinearPath, TrigPath"):
        configs(drop=(), over=(("path", ("straight", "VP")),))
    found, full = configs(drop=(), over=(("lr", ("0.1", "0.2")), ("network.width", ("8",))))
    assert list(found) == ["esc", "esc, lr=0.1, network.width=8", "esc, lr=0.2, network.width=8"]
    last = found["esc, lr=0.2, network.width=8"]
    assert full == "esc" and (last.optimizer.lr, last.network["width"]) == (0.2, 8)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"drop": ("plugin2",)}, "no component 'plugin2'; did you mean plug-in.*gradual-end.*class-consistent"),
        ({"drop": ("plug-in", "velocity")}, "plug-in twice"),
        ({"methods": ("meanflow",)}, "meanflow has no components.*--over"),
        ({"over": (("lr", ("1",)),)}, "not both"),
        ({"methods": ("esc", "meanflow")}, "an ablation is of one method, not of esc, meanflow"),
        ({"drop": (), "over": (("velocty", ("PlugIn",)),)}, "unknown field 'velocty'; did you mean velocity"),
        ({"drop": (), "over": (("times.pair.diagnal", ("0.5",)),)}, "did you mean diagonal"),
        ({"drop": (), "over": (("times.pair.diagonal", ("0.5", "much")),)}, "does not fit"),
        ({"drop": (), "over": (("seed", ("1", "2")),)}, "a study decides this itself"),
        ({"drop": (), "over": (("steps", ("1", "2")),)}, "a study decides this itself"),
        ({"drop": (), "over": (("evaluation.num", ("1", "2")),)}, "a study decides this itself"),
        ({"drop": (), "over": (("lr", ("1", "2")), ("optimizer.lr", ("3", "4")))}, "twice"),
        ({"drop": (), "over": (("lr", ("1", "1")),)}, "different values"),
        ({"drop": (), "over": (("lr", ("1",)), ("lr", ("2",)))}, "lr twice"),
        ({"drop": (), "over": (("lr", ("0.1", "1e-1")),)}, "are the same method"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(changes, said) -> None:
    with pytest.raises(ValueError, match=said):
        plan.resolve(replace(ASKED, **changes), data.load("two-moons"))


def test_folders_are_safe_and_apart() -> None:
    names = [
        "esc", "esc without plug-in", "esc, lr=0.1", 'esc, velocity={"type": "PlugIn", "probability": 0.5}',
        'esc, velocity={"type": "PlugIn", "probability": 0.2}', "esc, data=../../x", "esc, data=..*..*x",
        f"esc, {'long' * 60}",
    ]  # fmt: skip
    found = [outcome.folder_name(name) for name in names]
    assert found[:3] == ["esc", "esc-without-plug-in", "esc-lr=0.1"]
    assert len(set(found)) == len(names) and max(map(len, found)) < 100
    assert not any(set(name) & set('/\\:*?"<>| {}') for name in found)
    assert outcome.folder_name("consistency-training") == "consistency-training"


# ---------------------------------------------------------------- fair beginnings


@pytest.mark.slow
def test_every_row_begins_with_the_same_weights_and_sees_the_same_batches() -> None:
    """But for the head of the learned weight, and for batches that are grouped by class."""
    dataset = data.load("digits")
    found, _ = plan.variants(replace(ASKED, data="digits", drop=("all",)), dataset)
    plain = runs.build_network(replace(found["esc with none"], seed=3)).state_dict()
    batches: dict[str, list[torch.Tensor]] = {}
    for label, config in found.items():
        own = runs.build_network(replace(config, seed=3)).state_dict()
        heads = {"logvar_linear.weight", "logvar_linear.bias"} if config.network["log_variance"] else set()
        assert own.keys() - plain.keys() == heads, label
        assert all(torch.equal(own[key], plain[key]) for key in plain), label
        assert not any(own[key].any() for key in heads)
        objective, loop = objective_of(config), Loop(steps=100, batch=16, seed=3, lr=1.0)
        batch = draw_batch(dataset, objective, loop, 7, torch.device("cpu"))
        noise = objective.for_run(100).draw(batch, 7, 3).noise.flatten(1).sort(dim=0).values
        first = batches.setdefault(type(objective.batching).__name__, [batch.x, noise])
        assert torch.equal(batch.x, first[0]) and torch.equal(noise, batches["ClassGroups"][1]), label
    assert sorted(batches) == ["ClassGroups", "Shuffled"]


@pytest.mark.parametrize("make", [lambda **o: MLP(2, 3, width=8, **o), lambda **o: DiT((1, 8, 8), 3, **o)])
def test_a_head_makes_no_random_draw(make) -> None:
    states = []
    for learned in (False, True):
        torch.manual_seed(5)
        network = make(log_variance=learned)
        states.append((network.state_dict(), torch.get_rng_state()))
    (bare, after), (headed, later) = states
    assert torch.equal(after, later) and all(torch.equal(bare[key], headed[key]) for key in bare)
    with torch.device("meta"):
        assert {weight.device.type for weight in make(log_variance=True).parameters()} == {"meta"}


# ---------------------------------------------------------------- what it says and leaves


@pytest.mark.slow
def test_differences_are_paired_by_seed(done) -> None:
    assert not done.failed and done.plan.full == "esc" and len(done.rows) == 4
    distance = {(one.method, one.seed): one.rows[0]["distance"] for one in done.outcomes}
    for row in done.rows:
        if row["method"] == "esc":
            assert row["difference_mean"] is row["difference_error"] is None
            continue
        apart = [distance[row["method"], seed] - distance["esc", seed] for seed in (0, 1)]
        assert row["difference_mean"] == pytest.approx(statistics.fmean(apart), abs=1e-12)
        assert row["difference_error"] == pytest.approx(statistics.stdev(apart) / 2**0.5, abs=1e-12)
    assert json.loads((done.out / "table.json").read_text()) == done.rows


def test_seeds_that_failed_are_in_no_pair() -> None:
    def made(method: str, seed: int, distance: float | None) -> outcome.Outcome:
        return outcome.Outcome(method, seed, rows=[{"steps": 1, "distance": distance}])

    own, whole = (
        [made("a", 0, 3.0), made("a", 1, None), made("a", 2, 9.0)],
        [made("b", s, 2.0) for s in (0, 1)],
    )
    assert table.paired(own, whole, 1) == (1.0, None) and table.paired(own, whole, 4) == (None, None)
    row = {"distance_mean": 0.255, "difference_mean": -0.5, "difference_error": 0.25}
    assert table.difference(row) == "−0.5000 ± 0.2500"
    assert table.difference(row | {"difference_mean": 2e-8, "difference_error": None}) == "+0.0000"


@pytest.mark.slow
def test_what_is_left_says_what_was_ablated(done) -> None:
    text = (done.out / "table.md").read_text()
    assert text.startswith("# esc on two-moons, ablated: its components, 16steps a run")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[0].startswith("| method | FD-point at 1 | Δ | steps |") and len(lines) == 6
    assert lines[2].split("|")[3].strip() == "–" and "±" in lines[3].split("|")[3]
    for words in (
        "plug-in: velocity is PlugIn, without it Conditional",
        "gradual-end: times is Gradual, without it SortedPair",
        "without all of its components it is meanflow, but loss.eps is 0.001, not 0.01",
        "flowleap ablate esc --drop plug-in,gradual-end --data two-moons",
    ):
        assert words in text, words
    page = (done.out / "report.html").read_text()
    assert "esc without plug-in" in page and "esc on two-moons, ablated" in page
    assert (done.out / "runs" / "esc-without-plug-in-seed1" / "outcome.json").is_file()
    assert (done.out / "samples.png").is_file()


def timeless(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Rows without what depends on the clock."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "sampling_seconds")} for row in rows]


class Killed(BaseException):
    """What nothing catches, as a kill."""


@pytest.mark.slow
def test_an_ablation_that_is_killed_goes_on(done, tmp_path: Path, monkeypatch) -> None:
    healthy, calls = outcome.keep, []

    def keep(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 4:
            raise Killed
        healthy(*arguments)

    monkeypatch.setattr(outcome, "keep", keep)
    with pytest.raises(Killed):
        studies.compare(ASKED, tmp_path / "s", console=quiet())
    again = replace(ASKED, drop=("Plug_In", "times"))  # the same, in other words
    assert timeless(studies.compare(again, tmp_path / "s", console=quiet()).rows) == timeless(done.rows)
    assert len(calls) == 9 and plan.read(tmp_path / "s") == done.plan
    with pytest.raises(ValueError, match="holds another comparison: drop is plug-in,gradual-end, not all"):
        studies.compare(replace(ASKED, drop=("all",)), tmp_path / "s", console=quiet())


@pytest.mark.slow
def test_budgets_in_time_are_those_of_the_whole_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings need not fit flow matching, which is no row."""
    seen: list[str] = []

    def step_cost(config: runs.TrainConfig, dataset: data.Dataset, *, timed: bool) -> studies.StepCost:
        seen.append(config.method)
        return studies.StepCost(3.0, 0.01 if objective_of(config).velocity == Conditional() else 0.02)

    monkeypatch.setattr(plan, "step_cost", step_cost)
    request = replace(ASKED, budget="4s", settings=(*TINY, ("times.pair.diagonal", "0.5")))
    found = plan.resolve(request, data.load("two-moons"))
    assert [row.steps for row in found.rows] == [200, 400, 200, 400] and set(seen) == {"esc"}
    steps = plan.resolve(replace(request, equal="steps"), data.load("two-moons")).rows
    assert {row.steps for row in steps} == {200}


# ---------------------------------------------------------------- the command


def test_values_are_split_outside_of_brackets() -> None:
    assert ablation.choices("times.diagonal = 0.25, 0.5") == ("times.diagonal", ("0.25", "0.5"))
    part = '{"type": "Uniform", "low": 0.0}'
    assert ablation.choices(f"times.law={part},Uniform") == ("times.law", (part, "Uniform"))
    assert ablation.choices("ema=[0.9,0.99],[0.5]") == ("ema", ("[0.9,0.99]", "[0.5]"))


def asked(*words: str, monkeypatch: pytest.MonkeyPatch) -> tuple[studies.Request, Path]:
    """What the command asks for, and where."""
    found = []
    finished = studies.Finished(Path(), None, [], [], [])  # type: ignore[arg-type]
    monkeypatch.setattr(studies, "compare", lambda *a, **o: found.append(a) or finished)
    result = CliRunner().invoke(app, ["ablate", *words])
    assert result.exit_code == 0, result.output
    return found[0]


def test_the_command_asks_for_an_ablation(monkeypatch) -> None:
    request, out = asked(monkeypatch=monkeypatch)
    assert (request.methods, request.drop, request.over) == (("esc",), ("all",), ())
    assert out == Path("runs/ablate-esc-digits")
    request, _ = asked("meanflow", "--over", "lr=1,2", "--over", "loss.power=0.5,1", monkeypatch=monkeypatch)
    assert request.drop == () and request.over == (("lr", ("1", "2")), ("loss.power", ("0.5", "1")))
    request, _ = asked("--drop", "plug_in, gradual_end", "--seeds", "1", monkeypatch=monkeypatch)
    assert request.drop == ("plug_in", "gradual_end") and request.seeds == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--drop", "plugg-in"], "did you mean plug-in"),
        (["--drop", "all", "--over", "lr=1"], "not both"),
        (["--over", "lr"], "expected FIELD=VALUE"),
        (["--over", "lr="], "different values are expected"),
        (["meanflo"], "did you mean meanflow"),
        (["meanflow"], "has no components to leave out"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(words, said, tmp_path: Path) -> None:
    refused = CliRunner().invoke(app, ["ablate", *words, "--data", "two-moons", "--out", str(tmp_path / "s")])
    assert refused.exit_code == 2 and said in refused.stderr and "Traceback" not in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_plans_of_comparisons_made_before_are_still_read(tmp_path: Path) -> None:
    """The fields of an ablation are absent there."""
    kept = plan.prepare(replace(ASKED, drop=(), methods=("meanflow",)), tmp_path, data.load("two-moons"))
    content = json.loads((tmp_path / "plan.json").read_text())
    del content["full"], content["request"]["drop"], content["request"]["over"]
    (tmp_path / "plan.json").write_text(json.dumps(content))
    assert plan.read(tmp_path) == kept
