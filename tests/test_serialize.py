"""Objectives as plain data: there and back, through JSON, one field at a time, with errors that help."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowleap import FlowMap, methods, serialize
from flowleap.couplings import LivePairs
from flowleap.data.batching import ClassGroups
from flowleap.derivatives import Auto, CentralDifference, TwoPass
from flowleap.guidance import Guidance
from flowleap.losses import AdaptivePower, LearnedVariance, Squared, Weighted
from flowleap.objectives import Eulerian, SelfConsistency
from flowleap.parameterization import EDM, Velocity
from flowleap.paths import TrigPath, VEPath, VPPath
from flowleap.samplers import Sampling
from flowleap.times import Gradual, LogitNormal, LogNormal, OneTime, SortedPair, Uniform
from flowleap.velocities import Conditional, Own, PlugIn, Teacher

VARIANTS = {
    **{name: lambda name=name: methods.get(name) for name in methods.names()},
    "in a run": lambda: methods.esc().for_run(1000),
    "guided teacher": lambda: methods.consistency_distillation(guidance=1.5, base_steps=64).for_run(700),
    "guided first teacher": lambda: methods.progressive_distillation(guidance=1.5, base_steps=16),
    "guided pairs": lambda: methods.live_reflow(guidance=2.0),
    "guided shortcut": lambda: methods.shortcut("repo", guidance=1.5, base_steps=16),
    "guided meanflow": lambda: replace(methods.meanflow(), guidance=Guidance(0.2, 0.92, (0.0, 0.75))),
    "elsewhere": lambda: replace(
        methods.meanflow(),
        path=TrigPath(noise_scale=0.5),
        parameterization=Velocity(),
        target=Eulerian(CentralDifference(1e-3), warmup=0.1, weighting="cos2", tangent=Own()),
        batching=ClassGroups(group=8),
    ),
    "clipped tangent": lambda: replace(
        methods.sct(),
        target=Eulerian(weighting="cos2", clip=2.0),
        loss=Weighted(Squared("sum"), by="alpha/(kappa sigma)"),
    ),
    "noise levels": lambda: replace(
        methods.flow_matching(), path=VEPath(), parameterization=EDM(0.3), times=OneTime(LogNormal())
    ),
    "variance preserving": lambda: replace(methods.flow_matching(), path=VPPath(beta_max=12.0)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_objectives_survive_being_written_down(name):
    objective = VARIANTS[name]()
    text = json.dumps(serialize.to_dict(objective), allow_nan=False)
    assert serialize.from_dict(json.loads(text)) == objective


def test_the_derivative_of_a_method_is_chosen_and_old_runs_keep_theirs():
    objective = methods.meanflow()
    assert objective.target.derivative == Auto()
    exact = serialize.override(objective, "target.derivative", "TwoPass")
    assert (
        exact.target.derivative
        == TwoPass()
        == serialize.from_dict(serialize.to_dict(exact)).target.derivative
    )
    assert serialize.override(exact, "target.derivative", "auto") == objective


def test_plain_data_names_its_types_and_fields():
    written = serialize.to_dict(methods.meanflow())
    assert written["type"] == "Objective" and written["steps"] is None
    assert written["times"] == {
        "type": "SortedPair",
        "law": {"type": "LogitNormal", "mean": -0.4, "std": 1.0},
        "diagonal": 0.75,
        "landing": None,
        "fixed": True,
    }


@given(share=st.floats(0, 1), mean=st.floats(-5, 5))
def test_numbers_survive_exactly(share, mean):
    objective = replace(methods.meanflow(), times=SortedPair(LogitNormal(mean), diagonal=share))
    assert serialize.from_dict(json.loads(json.dumps(serialize.to_dict(objective)))) == objective


def test_a_config_of_a_version_that_drew_classes_uniformly_still_does():
    from flowleap.runs import configure, from_dict, to_dict

    content = to_dict(configure("esc"))
    assert content["objective"]["batching"] == {
        "type": "ClassGroups",
        "group": None,
        "classes": "proportional",
    }
    assert to_dict(from_dict(content))["objective"] == content["objective"]
    del content["objective"]["batching"]["classes"]
    assert from_dict(content).objective.batching.classes == "uniform"


def test_a_part_that_holds_a_network_is_no_plain_value():
    teacher = replace(methods.meanflow(), velocity=Teacher(FlowMap(lambda x, t, r, label: x)))
    with pytest.raises(ValueError, match="plain data"):
        serialize.to_dict(teacher)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"type": "SortedPiar"}, "did you mean SortedPair"),
        ({"type": "SortedPair", "diagnal": 0.5}, "SortedPair has no field 'diagnal'; did you mean diagonal"),
        ({"type": "SortedPair", "law": {"type": "Logitnormal"}}, "did you mean LogitNormal"),
        ({"law": 1}, r"is no part: \{\"type\""),
        ({"type": ["SortedPair"]}, "unknown part"),
        ({"type": "Teacher", "flw": None}, "Teacher has no field 'flw'; did you mean flow"),
        ({"type": "SortedPair", "diagonal": 7}, "SortedPair"),
    ],
    ids=str,
)
def test_data_that_is_no_part_is_refused(data, said):
    with pytest.raises(ValueError, match=said):
        serialize.from_dict(data)


# one field at a time


@pytest.mark.parametrize(
    ("name", "field", "text", "expected"),
    [
        ("meanflow", "times.diagonal", "0.5", {"times": SortedPair(LogitNormal(-0.4, 1.0), diagonal=0.5)}),
        ("meanflow", "times.law.std", "2", {"times": SortedPair(LogitNormal(-0.4, 2.0), diagonal=0.75)}),
        ("meanflow", "times.law", "Uniform", {"times": SortedPair(Uniform(), diagonal=0.75)}),
        ("meanflow", "times.fixed", "false", {"times": SortedPair(fixed=False)}),
        ("meanflow", "times.landing", '{"type": "LogitNormal", "mean": 1.0}',
         {"times": SortedPair(LogitNormal(-0.4, 1.0), 0.75, landing=LogitNormal(1.0))}),
        ("meanflow", "velocity", "PlugIn", {"velocity": PlugIn()}),
        ("meanflow", "velocity", '{"type": "PlugIn", "probability": 0.2}', {"velocity": PlugIn(0.2)}),
        ("meanflow", "guidance", '{"type": "Guidance", "kappa": 0.5, "window": [0, 0.75]}',
         {"guidance": Guidance(1.0, 0.5, (0, 0.75))}),
        ("meanflow", "loss.reduce", "mean", {"loss": AdaptivePower(reduce="mean")}),
        ("meanflow", "label_dropout", "0", {"label_dropout": 0.0}),
        ("meanflow", "name", "mine", {"name": "mine"}),
        ("sct_linear", "conditioning", "t,r", {"conditioning": "t,r"}),
        ("meanflow", "velocity", "Teacher", {"velocity": Teacher()}),
        ("consistency_distillation", "velocity.guidance", "2", {"velocity": Teacher(guidance=2.0)}),
        ("live_reflow", "coupling.steps", "4", {"coupling": LivePairs(4)}),
        ("meanflow", "steps", "100", {"steps": 100}),
        ("esc", "times.pair.diagonal", "1", {"times": Gradual(SortedPair(diagonal=1.0))}),
        ("esc", "loss.inner", "Squared", {"loss": LearnedVariance(Squared())}),
        ("esc", "velocity", "Conditional", {"velocity": Conditional()}),
        ("esc", "batching.group", "8", {"batching": ClassGroups(8)}),
        ("shortcut_repo", "target.clip", "null", {"target": SelfConsistency()}),
        ("shortcut_repo", "target.clip", "none", {"target": SelfConsistency()}),
        ("shortcut", "target.clip", "4", {"target": SelfConsistency(clip=4.0)}),
        ("meanflow", "sampling.trained", "[1, 2]", {"sampling": Sampling(trained=(1, 2))}),
        ("shortcut", "sampling.trained", "[1, 2, 4]",
         {"sampling": replace(methods.shortcut().sampling, trained=(1, 2, 4))}),
    ],
    ids=str,
)  # fmt: skip
def test_one_field_is_changed_and_no_other(name, field, text, expected):
    objective = methods.get(name)
    found = serialize.override(objective, field, text)
    assert found == replace(objective, **expected) and repr(found) == repr(replace(objective, **expected))
    assert objective == methods.get(name)


def test_fields_that_need_one_another_move_together():
    """Noise levels as times and the path they belong to: neither fits alone, in either order."""
    settings = [("path", "VEPath"), ("times.law", "LogNormal"), ("times.diagonal", "0.5")]
    expected = replace(methods.meanflow(), path=VEPath(), times=SortedPair(LogNormal(), diagonal=0.5))
    assert serialize.overrides(methods.meanflow(), settings) == expected
    assert serialize.overrides(methods.meanflow(), settings[::-1]) == expected
    assert serialize.overrides(methods.meanflow(), []) == methods.meanflow()
    for field, text in settings[:2]:
        with pytest.raises(ValueError, match="use Log"):
            serialize.override(methods.meanflow(), field, text)
    twice = serialize.overrides(methods.meanflow(), [("times", "Gradual"), ("times.pair.diagonal", "0.5")])
    assert twice.times == Gradual(SortedPair(diagonal=0.5)), "later settings see earlier ones"


@pytest.mark.parametrize(
    ("field", "text", "said"),
    [
        ("tims.diagonal", "0.5", "Objective has no field 'tims'; did you mean times"),
        ("times.diagnal", "0.5", "times.diagnal: SortedPair has no field 'diagnal'; did you mean diagonal"),
        ("times.zzz", "0.5", "known: law, diagonal, landing, fixed"),
        ("times.diagonal.x", "1", "'x' is asked of 0.75, which has no fields"),
        ("guidance.omega", "2", "'omega' is asked of None"),
        ("frozen.decay", "0.9", r"frozen.decay: Self has no field 'decay', and no other: give another part"),
        ("", "1", "has no field ''"),
    ],
)
def test_unknown_fields_name_their_neighbors(field, text, said):
    with pytest.raises(ValueError, match=said):
        serialize.override(methods.meanflow(), field, text)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("label_dropout", "high"),
        ("label_dropout", "null"),
        ("label_dropout", "2"),
        ("label_dropout", "true"),
        ("label_dropout", "NaN"),
        ("times.diagonal", "1.5"),
        ("times.fixed", "0"),
        ("times", "0.5"),
        ("times", "LogitNormal"),
        ("times", "PlugIn"),
        ("name", "null"),
        ("loss", "squared"),
        ("loss", "Conditional"),
        ("velocity", "LinearPath"),
        ("path", "PlugIn"),
        ("parameterization", "null"),
        ("target", "EMA"),
        ("frozen", "Diagonal"),
        ("guidance", "PlugIn"),
        ("guidance", "1.5"),
        ("conditioning", "everything"),
        ("conditioning", "1"),
        ("frozen.stages", "0.5"),
        ("sampling.trained", "[0.5]"),
        ("steps", "1.5"),
        ("velocity", '{"type": "PlugIn", "probability": 2}'),
        ("velocity", '{"type": "PlugIn", "share": 0.5}'),
        ("steps", "0"),
        ("path", "VEPath"),
        ("label_dropout", "Infinity"),
        ("loss.eps", "1e60"),
        ("loss.reduce", "men"),
        ("path.noise_scale", "0"),
        ("path.sigma_min", "-1"),
        ("path", '{"type": "VPPath", "beta_max": 0}'),
        ("sampling.least", "0"),
        ("sampling.trained", "[]"),
        ("batching", '{"type": "ClassGroups", "group": 0}'),
        ("parameterization", '{"type": "EDM", "sigma_data": 1e308}'),
        ("steps", "1000000000000000000000000000000"),
    ],
)
def test_values_that_do_not_fit_are_refused(field, text):
    with pytest.raises(ValueError):
        serialize.override(methods.meanflow(), field, text)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"velocity": "Conditional"},
            r"Objective.velocity='Conditional' does not fit.*did you mean Conditional",
        ),
        ({"velocity": Conditional}, "did you mean Conditional"),
        ({"velocity": Squared()}, "is VelocitySource.*Conditional"),
        (
            {"loss": torch.nn.MSELoss()},
            r"Objective.loss=MSELoss\(\) does not fit: Objective.loss is Loss.*Squared",
        ),
        ({"loss": lambda regression, point: 0}, "Objective.loss is Loss"),
        ({"target": "Eulerain"}, "did you mean Eulerian"),
        ({"times": None}, "Objective.times is TimeLaw"),
        ({"guidance": 2.0}, "FinestLevel, Guidance"),
        ({"label_dropout": float("nan")}, "not finite"),
        ({"steps": 2.5}, r"steps=2.5 does not fit: Objective.steps is int \| None"),
        ({"times": SortedPair(LogitNormal(std=float("inf")))}, "LogitNormal.std=inf is not finite"),
    ],
)
def test_fields_are_checked_where_an_objective_is_made(changes, said):
    with pytest.raises(ValueError, match=said):
        replace(methods.meanflow(), **changes)


def test_what_holds_a_network_or_is_no_part_is_refused_in_words():
    taught = serialize.override(methods.meanflow(), "velocity", "Teacher")
    with pytest.raises(ValueError, match=r"velocity\.flow='x' does not fit"):
        serialize.override(taught, "velocity.flow", "x")
    with pytest.raises(ValueError, match="FlowMap cannot be written down"):
        serialize.to_dict(taught.with_teacher(taught.flow_map(lambda x, t, r, label: x)))
    for name in ("Point", "Batch", "FlowMap"):
        with pytest.raises(ValueError, match="does not fit"):
            serialize.override(methods.meanflow(), "velocity", name)
    with pytest.raises(ValueError, match="give the whole part"):
        serialize.override(methods.meanflow(), "guidance.omega", "1.5")


def test_differences_name_the_changed_fields():
    first, second = (serialize.to_dict(methods.get(name)) for name in ("meanflow", "esc"))
    found = {name: (a, b) for name, a, b in serialize.differences(first, second)}
    assert set(found) == {"name", "velocity", "times", "loss", "batching"}
    changed = serialize.to_dict(serialize.override(methods.meanflow(), "times.diagonal", "0.5"))
    assert serialize.differences(first, changed) == [("times.diagonal", 0.75, 0.5)]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("sct_linear", ("told", "landing"), ("conditioning", "t,r")),
        ("shortcut_repo", ("path.floor", "0.5"), ("path.sigma_min", "0.5")),
        ("sid", ("frozen.pace", "0.5"), ("frozen.lr_scale", "0.5")),
        ("sid", ("frozen.objective.path.floor", "0"), ("frozen.objective.path.sigma_min", "0")),
    ],
)
def test_an_old_name_of_a_field_still_works_and_says_the_new_one(name, old, new):
    with pytest.warns(
        UserWarning, match=rf"{old[0].rpartition('.')[2]}=.* is called {new[0].rpartition('.')[2]}="
    ):
        found = serialize.override(methods.get(name), *old)
    assert found == serialize.override(methods.get(name), *new)


def test_what_an_earlier_version_wrote_is_read_with_the_names_of_today():
    now = serialize.to_dict(methods.sid())
    text = (
        json.dumps(now)
        .replace("AuxiliaryNetwork", "Rival")
        .replace("lr_scale", "pace")
        .replace("sigma_min", "floor")
    )
    for new, old in (("t,r", "landing"), ("t,end", "data"), ("t", "nothing")):
        text = text.replace(f'"conditioning": "{new}"', f'"told": "{old}"')
    old = json.loads(text)
    assert "Rival" in text and "told" in text and serialize.upgraded(old) == now
    assert serialize.from_dict(old) == methods.sid()
