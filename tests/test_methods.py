"""Methods as values: the numbers of their papers, what separates one from the next, what they cite."""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
import re
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import flowleap
from flowleap import design, methods
from flowleap.citations import CITATIONS
from flowleap.cli import app
from flowleap.couplings import LivePairs, StoredPairs
from flowleap.data.batching import ClassGroups, Shuffled
from flowleap.derivatives import CentralDifference, ExactJVP
from flowleap.guidance import FinestLevel, Guidance
from flowleap.losses import (
    WEIGHTS,
    AdaptivePower,
    Boundary,
    LearnedVariance,
    MomentMatching,
    Norm,
    PseudoHuber,
    ShortJumpsFirst,
    Squared,
    StepQuotient,
    Weighted,
)
from flowleap.objectives import (
    EMA,
    Annealed,
    Consistency,
    DataLaw,
    Diagonal,
    Eulerian,
    FirstStage,
    Objective,
    Refreshed,
    Self,
    SelfConsistency,
)
from flowleap.parameterization import EDM, AverageVelocity, Noise, Preconditioned, Velocity
from flowleap.paths import LinearPath, TrigPath, VEPath, VPPath
from flowleap.schedules import ExponentialSchedule, LinearSchedule, SigmoidSchedule
from flowleap.times import (
    Adjacent,
    Curriculum,
    Denoising,
    DyadicGrid,
    FullJump,
    Gradual,
    Halving,
    Intervals,
    Jumps,
    LogitNormal,
    LogNormalAngle,
    NoiseGrid,
    NoiseToData,
    OneTime,
    Particles,
    Ratio,
    SortedPair,
    Split,
    StudentT,
    ToData,
    Truncation,
    Uniform,
)
from flowleap.velocities import Conditional, Own, PlugIn, Teacher

ALL = pytest.mark.parametrize("name", methods.names())


def keys(objective: Objective) -> list[str]:
    return [citation.key for citation in methods.citations(objective)]


def parts_of(objective: Objective, *names: str) -> dict[str, object]:
    """Return these fields of an objective."""
    return {name: getattr(objective, name) for name in names}


# names


def test_names_are_known():
    assert methods.names() == (
        "flow_matching", "diffusion", "consistency_training", "consistency_training_original",
        "consistency_training_esc", "consistency_training_esc_linear", "ict", "ect",
        "live_reflow", "shortcut", "shortcut_repo", "shortcut_esc",
        "meanflow", "esc", "best", "imf", "de_cm",
        "lsd", "esd",
        "temf", "v_first", "alpha_flow", "soflow",
        "psd", "psd_midpoint", "split_meanflow",
        "tvm", "tim", "pmf", "dmf",
        "sct", "sct_linear", "imm", "energy_distance", "w_flow", "drifting", "ctm_self",
        "progressive_distillation", "consistency_distillation", "reflow", "ctm", "sid",
        "amed", "ect_tuned", "tcm",
    )  # fmt: skip
    assert methods.get("consistency-training") == methods.get("consistency_training_table1")
    assert methods.aliases() == {"consistency_training_table1": "consistency_training"}


@ALL
def test_methods_are_found_by_name_with_either_stroke(name):
    assert methods.get(name) == methods.get(name.replace("_", "-")) == methods.get(name.upper())
    assert methods.get(name) == methods.get(name), "a method is a value"
    assert isinstance(hash(methods.get(name)), int)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("meanflo", "did you mean meanflow"),
        ("flow-mathcing", "did you mean flow-matching"),
        ("shortcuts", "did you mean shortcut"),
        ("qqqq", "known: flow-matching, diffusion"),
    ],
)
def test_unknown_methods_name_their_neighbors(asked, said):
    with pytest.raises(ValueError, match=said):
        methods.get(asked)


# what the papers say


@ALL
def test_every_method_speaks_of_average_velocity_on_the_linear_path(name):
    objective = methods.get(name)
    elsewhere = (
        "diffusion",
        "consistency_training_original",
        "consistency_training_esc",
        "ict",
        "ect",
        "sct",
        "imm",
        "tcm",
        "pmf",
    )
    if name not in elsewhere:
        assert objective.parameterization == AverageVelocity() and isinstance(objective.path, LinearPath)
    assert objective.guidance is None, "presets are unguided"
    assert (
        getattr(objective.coupling, "guidance", None) is getattr(objective.velocity, "guidance", None) is None
    )
    keeping = (
        Curriculum | Adjacent | Denoising | Halving | Intervals | NoiseGrid | NoiseToData | Ratio | Truncation
    )  # every row keeps its label
    whole = isinstance(objective.times, keeping)
    assert objective.label_dropout == (0.0 if whole else 0.1)


def test_flow_matching():
    objective = methods.flow_matching()
    assert objective.times == OneTime(LogitNormal(-0.4, 1.0)) and objective.target == Diagonal()
    assert objective.loss == Squared("mean") and objective.velocity == Conditional()


def test_diffusion():
    """The noise predicted on the variance-preserving path, every time equally often, by DDIM and in many steps."""
    objective = methods.diffusion()
    assert (objective.path, objective.parameterization) == (VPPath(), Noise())
    assert objective.times == OneTime(Uniform()) and objective.target == Diagonal()
    assert (
        objective.loss == Squared("mean")
        and objective.sampling.finest == 1
        and objective.sampling.least == 16
    )


def test_imm():
    """Zhou et al.: noise of the scale of the data, 4 particles, 2^−12 of the levels, a = 2, b = 4, T = 0.994."""
    objective = methods.imm()
    assert objective.path == LinearPath(noise_scale=0.5) and objective.conditioning == "t,r"
    assert objective.parameterization == Preconditioned(AverageVelocity(), sigma_data=0.5, gain=0.5)
    assert objective.times == Particles(group=4, t_min=0.0, t_max=0.994, halvings=12.0)
    assert objective.target == Consistency(space="map", keep_labels=False) and objective.frozen == Self()
    assert objective.loss == MomentMatching("laplace", power=2, shift=4.0, sigma_data=0.5)
    assert objective.start == 0.994 and objective.sampling.renoise == 0
    assert methods.imm(group=8).group == 8 and "zhou2025inductive" in keys(objective)


def test_tcm():
    """Lee et al.: boundary 1, a quarter of the rows on it, weight 0.1, Student's law of ln t, ratio 0.999."""
    objective = methods.tcm()
    assert (objective.path, objective.parameterization, objective.conditioning) == (
        VEPath(t_min=0.0),
        EDM(),
        "t",
    )
    assert objective.times == Truncation(StudentT(0.0, 0.2, 0.01, 1.0, 80.0), share=0.25, ratio=0.999)
    assert objective.loss == Boundary(Weighted(Norm(), by="1/(t - s)"), boundary=1.0, weight=0.1)
    assert objective.frozen == FirstStage("ect") and objective.sampling.renoise == 1


TABLE = {
    "progressive_distillation": (Halving(128), SelfConsistency(), Refreshed(7), "t", True),
    "consistency_distillation": (Adjacent(128), Consistency(), EMA(0.999), "t", True),
    "reflow": (OneTime(Uniform()), Diagonal(), Self(), "t,r", True),
    "consistency_training": (Curriculum(128), Consistency(), EMA(0.999), "t", False),
    "live_reflow": (ToData(1 / 8, 128), Consistency(), Self(), "t,end", False),
}


@pytest.mark.parametrize("name", TABLE)
def test_rows_of_the_table(name):
    objective = methods.get(name)
    found = (
        objective.times,
        objective.target,
        objective.frozen,
        objective.conditioning,
        objective.starts_from_teacher,
    )
    assert found == TABLE[name] and objective.loss == Squared("mean")
    assert objective.needs_teacher == objective.starts_from_teacher


def test_what_the_rows_of_the_table_are_taught_with():
    assert methods.consistency_distillation().velocity == Teacher()
    assert methods.consistency_distillation(guidance=1.5).velocity == Teacher(guidance=1.5)
    assert methods.progressive_distillation(guidance=1.5).guidance == FinestLevel(1.5)
    assert methods.live_reflow(guidance=1.5).coupling == LivePairs(steps=8, guidance=1.5)
    assert methods.live_reflow().sampling.finest == 128 and methods.live_reflow().sampling.trained is None
    assert methods.reflow().coupling == StoredPairs() and methods.reflow().sampling.finest == 1
    assert methods.progressive_distillation(base_steps=16).frozen == Refreshed(4)
    with pytest.raises(ValueError, match='expected "table1", "original", "esc" or'):
        methods.consistency_training("paper")


@pytest.mark.parametrize(
    ("variant", "share", "quotas", "clip", "floor"),
    [("paper", 1 / 4, False, None, 0.0), ("repo", 1 / 8, True, 4.0, 1e-5)],
)
def test_shortcut_variants_are_not_mixed(variant, share, quotas, clip, floor):
    """A quarter or an eighth, random sizes or quotas, clip ±4, path floor 1e-5; EMA 0.999 in both."""
    objective = methods.shortcut(variant)
    law, target = objective.times, objective.target
    assert isinstance(law, DyadicGrid) and isinstance(target, SelfConsistency)
    assert (law.share, law.quotas, law.base_steps, target.clip, objective.path.sigma_min) == (
        share,
        quotas,
        128,
        clip,
        floor,
    )
    assert law.law == (None if variant == "repo" else Uniform())
    assert target.keep_labels and objective.frozen == EMA(0.999) and objective.loss == Squared("mean")
    assert objective.sampling.trained == (1, 2, 4, 8, 16, 32, 64, 128)


def test_the_shortcut_of_the_design_paper():
    """A quarter of the rows in quotas, starting anywhere on the grid, clip ±4, its own weights as target, sums."""
    objective = methods.shortcut("esc")
    assert objective.times == DyadicGrid(share=1 / 4, base_steps=128, quotas=True, anywhere=True)
    assert objective.target == SelfConsistency(clip=4.0) and objective.target.keep_labels
    assert objective.frozen == Self() and objective.path == LinearPath() and objective.loss == Squared("sum")
    assert objective.guidance is None and methods.get("shortcut-esc") == objective


def test_sct():
    """Lu and Song: F per angle, σ_d = 0.5, ln σ ~ N(−1, 1.4²), c = 0.1/σ_d, prior and learned weight, own weights."""
    objective = methods.sct()
    assert objective.path == TrigPath(noise_scale=0.5)
    assert objective.parameterization == Preconditioned(Velocity(), sigma_data=0.5, gain=0.25 * math.pi)
    assert objective.times == FullJump(LogNormalAngle(-1.0, 1.4, noise_scale=0.5))
    assert objective.loss == LearnedVariance(Weighted(Squared("mean"), by="alpha/(kappa sigma)"))
    assert objective.target == Eulerian(warmup=1 / 40, weighting="cos2", normalize=0.2)
    assert (objective.conditioning, objective.frozen, objective.label_dropout) == ("t", Self(), 0.1)
    assert objective.sampling.renoise == 1.0 and objective.sampling.trained is None


def test_sct_on_the_linear_path():
    objective = methods.sct("linear")
    assert objective.times == FullJump(LogitNormal(-1.0, 1.4)) and objective.conditioning == "t"
    assert objective.loss == LearnedVariance(Squared("mean")) and objective.target == Eulerian(warmup=1 / 40)
    assert methods.get("sct-linear") == objective and methods.get("sct") == methods.sct()
    with pytest.raises(ValueError, match='expected "trigonometric" or "linear"'):
        methods.sct("cosine")


def test_discrete_and_continuous_variants_are_a_target_and_its_times_apart():
    for name in ("sct", "sct_linear"):
        objective = methods.get(name)
        discrete = replace(objective, target=Consistency(), times=Adjacent(128))
        differing = {
            f.name for f in fields(Objective) if getattr(discrete, f.name) != getattr(objective, f.name)
        }
        assert differing == {"target", "times"}
        assert replace(discrete, target=objective.target, times=objective.times) == objective
    continuous = replace(methods.consistency_distillation(), target=Eulerian(), times=FullJump())
    assert continuous.needs_teacher, "continuous distillation is the same replace"


def test_shortcut_options():
    guided = methods.shortcut("repo", guidance=1.5, base_steps=16)
    assert guided.guidance == FinestLevel(1.5)
    assert (
        guided.times.base_steps == 16
        and guided.sampling.trained == (1, 2, 4, 8, 16)
        and guided.sampling.finest == 16
    )
    with pytest.raises(ValueError, match='expected "paper", "repo" or "esc"'):
        methods.shortcut("github")
    with pytest.raises(ValueError, match="a power of two"):
        methods.shortcut(base_steps=100)


def test_meanflow():
    """Geng et al.: logit-normal(−0.4, 1), 75 % diagonal, p = 1, sums over dimensions, no EMA."""
    objective = methods.meanflow()
    assert objective.times == SortedPair(LogitNormal(-0.4, 1.0), diagonal=0.75)
    assert objective.loss == AdaptivePower(power=1.0, eps=1e-2, reduce="sum")
    assert (
        isinstance(objective.target, Eulerian) and objective.target.warmup == 0 and objective.frozen == Self()
    )


def test_esc():
    """Lin et al.: plug-in with p = 0.5, K = 20,000 of 600,000, learned weight, class groups."""
    objective = methods.esc()
    assert objective.velocity == PlugIn(0.5) and objective.batching == ClassGroups()
    assert isinstance(objective.times, Gradual) and objective.times.horizon == 20_000 / 600_000
    assert objective.loss == LearnedVariance(AdaptivePower(power=1.0, eps=1e-3, reduce="sum"))


def test_imf():
    """Geng et al.: half of the rows r = t, the derivative along the network's own velocity; MeanFlow in all else."""
    objective = methods.imf()
    assert objective.times == SortedPair(LogitNormal(-0.4, 1.0), diagonal=0.5)
    assert objective.target == Eulerian(tangent=Own())
    changed = {"name", "times", "target"}
    assert changed == {
        f.name for f in fields(objective) if getattr(objective, f.name) != getattr(methods.meanflow(), f.name)
    }
    assert "geng2025improved" in keys(objective) and "geng2025improved" not in keys(methods.meanflow())


def test_de_cm():
    """Dong et al.: r = 0, r = t and t = 1; MeanFlow in all else but the sampler."""
    objective = methods.de_cm()
    assert objective.times == Jumps(0.25, LogitNormal(-0.4, 1.0), to_data=0.5, from_noise=0.5)
    changed = {"name", "times", "sampling"}
    assert changed == {
        f.name for f in fields(objective) if getattr(objective, f.name) != getattr(methods.meanflow(), f.name)
    }
    assert "dong2026dual" in keys(objective) and "dong2026dual" not in keys(replace(objective, times=Jumps()))


def test_temf():
    """Tu et al.: 0.1 + 0.8 σ(8 (p − 0.6)) of the rows jump, r uniform, weight by the length of a jump."""
    objective, law = methods.temf(), LogitNormal(-0.4, 1.0)
    assert objective.times == Jumps(SigmoidSchedule(0.1, 0.9, 8.0, 0.6), law, Uniform(), law)
    assert objective.loss == Weighted(methods.meanflow().loss, by="temporal equilibrium")
    assert replace(methods.meanflow(), **parts_of(objective, "name", "times", "loss")) == objective
    assert objective.horizons() == {"times": 1.0} and "tu2026temporal" in keys(objective)


def test_v_first():
    """Kim et al.: short jumps first, min-SNR with γ = 5 where r = t."""
    objective = methods.v_first()
    assert objective.loss == ShortJumpsFirst(
        Weighted(methods.meanflow().loss, by="min(SNR, 5)/(SNR + 1)"), mean=0.233
    )
    assert replace(methods.meanflow(), **parts_of(objective, "name", "loss")) == objective
    assert objective.horizons() == {"loss": 1.0}
    assert {"kim2025understanding", "hang2023efficient"} <= set(keys(objective))


def test_alpha_flow():
    """Zhang et al.: half of the rows r = t, slope 25, snapped at 0.005, weight α/(mse + 0.001)."""
    objective = methods.alpha_flow()
    at = SigmoidSchedule(1.0, 0.0, slope=25.0, middle=0.5, snap=0.005)
    assert objective.times == Split(SortedPair(LogitNormal(-0.4, 1.0), diagonal=0.5), at)
    assert objective.loss == Weighted(AdaptivePower(1.0, 1e-3, "mean"), by="(t - s)/(t - r)")
    assert objective.target == Annealed(keep_labels=False)
    assert objective.horizons() == {"times": 1.0} and "zhang2025alphaflow" in keys(objective)


def test_soflow():
    """Luo et al.: steps of 0.1 to 0.002 of the way, three laws of times, a quarter of the rows jump."""
    objective = methods.soflow()
    laws = (LogitNormal(0.2, 0.8), LogitNormal(-1.0, 0.8), LogitNormal(-0.2, 1.0))
    assert objective.times == Split(Jumps(0.25, *laws), ExponentialSchedule(0.1, 0.002))
    assert objective.loss == StepQuotient(AdaptivePower(1.0, 1e-2, "mean"))
    assert objective.target == Consistency(keep_labels=False) and objective.frozen == Self()
    assert "luo2025soflow" in keys(objective)


def test_interval_splitting():
    """Boffi et al. and Guo et al.: uniform pairs, the stop anywhere or half-way; 3/4 and 1/2 of the rows r = t."""
    for name, share, at in (
        ("psd", 0.75, Uniform()),
        ("psd_midpoint", 0.75, 0.5),
        ("split_meanflow", 0.5, Uniform()),
    ):
        objective = methods.get(name)
        assert objective.times == Split(SortedPair(Uniform(), diagonal=share), at)
        assert objective.target == SelfConsistency(keep_labels=False) and objective.frozen == Self()
        assert {"boffi2025build", "guo2025split"} <= set(keys(objective))
    with pytest.raises(ValueError, match="midpoint"):
        methods.psd("half")


COMPONENTS = {
    "velocity": Conditional(),
    "times": SortedPair(LogitNormal(-0.4, 1.0), diagonal=0.75),
    "loss": AdaptivePower(power=1.0, eps=1e-2, reduce="sum"),
    "batching": Shuffled(),
}


@pytest.mark.parametrize("field", COMPONENTS)
def test_each_component_of_esc_is_one_replace(field):
    without = replace(methods.esc(), **{field: COMPONENTS[field]})
    differing = {
        f.name for f in fields(Objective) if getattr(without, f.name) != getattr(methods.meanflow(), f.name)
    }
    assert differing == {"name", *COMPONENTS} - {field}


def test_esc_without_its_components_is_meanflow():
    assert replace(methods.esc(), name="meanflow", **COMPONENTS) == methods.meanflow()


# citations


def test_methods_cite_their_papers():
    assert set(keys(methods.flow_matching())) == {
        "lipman2022flow", "liu2022flow", "albergo2022building", "geng2025mean", "esser2024scaling"
    }  # fmt: skip
    assert "frans2024one" in keys(methods.shortcut()) and "geng2025mean" in keys(methods.meanflow())
    assert {"lin2025design", "karras2024analyzing", "geng2025mean"} <= set(keys(methods.esc()))
    assert {"song2020score", "song2020denoising"} <= set(keys("diffusion"))
    for name in ("consistency_training", "consistency_distillation"):
        assert {"song2023consistency", "frans2024one"} <= set(keys(methods.get(name)))
    assert {"salimans2022progressive", "frans2024one"} <= set(keys("progressive_distillation"))
    assert "lu2024simplifying" in keys("sct") and "lu2024simplifying" in keys("sct_linear")
    assert "frans2024one" in keys("live_reflow") and "liu2022flow" in keys("reflow")
    assert keys("esc") == keys(methods.esc()) and len(keys("esc")) == len(set(keys("esc")))


@pytest.mark.parametrize(
    ("changes", "gained", "lost"),
    [
        ({"path": TrigPath()}, {"lu2024simplifying"}, {"lipman2022flow", "liu2022flow"}),
        ({"parameterization": Velocity()}, {"song2020denoising"}, set()),
        ({"loss": PseudoHuber()}, {"song2023improved"}, {"karras2024analyzing"}),
        ({"loss": AdaptivePower()}, set(), {"karras2024analyzing"}),
        ({"guidance": Guidance(1.0, 0.5)}, {"ho2022classifier"}, set()),
        ({"target": Eulerian(ExactJVP())}, set(), set()),
        ({"times": SortedPair(Uniform())}, set(), {"esser2024scaling"}),
    ],
)
def test_a_changed_part_changes_the_citations(changes, gained, lost):
    """Of ESC, one part at a time."""
    before, after = set(keys(methods.esc())), set(keys(replace(methods.esc(), **changes)))
    assert (after - before, before - after) == (gained, lost)


def test_the_design_paper_is_cited_while_any_of_its_four_components_is_in_use():
    for kept in COMPONENTS:
        others = {field: part for field, part in COMPONENTS.items() if field != kept}
        assert "lin2025design" in keys(replace(methods.esc(), **others)), kept
    assert "lin2025design" not in keys(replace(methods.esc(), **COMPONENTS))


def parts_of_the_library() -> dict[str, type]:
    found = {}
    for module in pkgutil.walk_packages(flowleap.__path__, "flowleap."):
        if module.name.split(".")[1] in ("cli", "runs", "training", "pictures", "evaluation"):
            continue
        for thing in vars(importlib.import_module(module.name)).values():
            if isinstance(thing, type) and is_dataclass(thing) and thing.__module__.startswith("flowleap"):
                found[f"{thing.__module__}.{thing.__qualname__}"] = thing
    return found


def papers_of(part: type) -> tuple[str, ...]:
    """What a part cites, whatever its fields say."""
    cites = getattr(part, "cites", ())
    if isinstance(cites, property):
        made = {
            Weighted: [Weighted(by=name) for name in WEIGHTS],
            NoiseGrid: [NoiseGrid(growth="doubling")],
            Jumps: [Jumps(to_data=0.5)],
            Eulerian: [Eulerian(tangent=Own())],
            Split: [Split(), Split(at=LinearSchedule(1.0, 0.0))],
        }
        return tuple(key for one in made.get(part, []) for key in one.cites)
    return cites


def test_every_paper_that_is_cited_is_known_and_every_known_paper_is_cited():
    cited = {key for part in parts_of_the_library().values() for key in papers_of(part)}
    assert len(parts_of_the_library()) > 30
    assert cited - set(CITATIONS) == set()
    assert set(CITATIONS) - cited == set()


@pytest.mark.parametrize("key", CITATIONS)
def test_entries_are_bibtex(key):
    citation = CITATIONS[key]
    assert citation.key == key and re.fullmatch(r"[a-z]+\d{4}[a-z]+", key)
    entry, preprint = citation.bibtex, citation.eprint != ""
    assert entry.startswith(f"@{'misc' if preprint else 'inproceedings'}{{{key},\n") and entry.endswith("\n}")
    assert entry.count("{") == entry.count("}")
    if preprint:
        assert re.fullmatch(r"\d{4}\.\d{5}", citation.eprint) and f"eprint = {{{citation.eprint}}}" in entry
        year, month = 2000 + int(citation.eprint[:2]), int(citation.eprint[2:4])
        assert citation.year == year and 1 <= month <= 12, "the year is that of the arXiv number"
    for word in ("title", "author", "year", "archivePrefix" if preprint else "booktitle", "url"):
        assert re.search(rf"^  {word} = {{.+}},?$", entry, re.MULTILINE), word


def test_parts_cite_the_papers_their_documentation_names():
    """Every arXiv number in a docstring is that of a known paper; where a part cites any, it cites one of these."""
    known = {citation.eprint for citation in CITATIONS.values()}
    for name, part in parts_of_the_library().items():
        named = set(re.findall(r"arXiv (\d{4}\.\d{5})", part.__doc__ or ""))
        assert named <= known, name
        cites = papers_of(part) if "cites" in vars(part) else ()
        if cites and named:
            assert named & {CITATIONS[key].eprint for key in cites}, name


def test_keys_and_papers_are_one_to_one():
    assert (
        len({c.eprint for c in CITATIONS.values()})
        == len({c.title for c in CITATIONS.values()})
        == len(CITATIONS)
    )


def test_a_strategy_of_its_own_is_a_part():
    """Parts inside parts are found, depth first."""
    objective = replace(methods.meanflow(), target=Eulerian(CentralDifference(1e-3)))
    kinds = [type(part).__name__ for part in objective.parts()]
    assert kinds[0] == "Objective" and kinds.index("CentralDifference") == kinds.index("Eulerian") + 1
    assert kinds.index("LogitNormal") == kinds.index("SortedPair") + 1


# the design table


def table(*words: str, columns: int = 400) -> str:
    done = CliRunner().invoke(app, ["methods", "table", *words], env={"COLUMNS": str(columns)})
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_design_table_says_what_the_paper_says():
    """Table 1 of Lin et al. (arXiv 2512.11831), where the method is the same one; ESC is MeanFlow with four parts."""
    found = json.loads(table("--json"))
    assert list(found) == [name.replace("_", "-") for name in methods.names()]
    rows = (
        "model type", "flow path", "network output", "first step t → s", "second step s → r", "one-step prediction",
        "loss metric",
    )  # fmt: skip
    assert [found["meanflow"][row] for row in rows] == [
        "continuous, s → t", "linear path", "average velocity", "DDIM, conditional velocity",
        "average velocity, frozen", "average velocity", "ℓ2, sum",
    ]  # fmt: skip
    assert [found["shortcut"][row] for row in rows] == [
        "discrete", "linear path", "average velocity", "average velocity, frozen",
        "average velocity, frozen", "average velocity", "ℓ2, mean",
    ]  # fmt: skip
    apart = {row for row, text in found["esc"].items() if text != found["meanflow"][row]}
    assert apart == {"time law", "first step t → s", "velocity", "weight", "batches"}
    assert found["esc"]["weight"] == "1 / (‖Δ‖² + 0.001)^1, learned e^{−ℓ(t, r)}"
    assert found["shortcut"]["target network"] == "EMA (decay 0.999)"
    assert [found["sct"][row] for row in rows[3:4] + rows[6:]] == ["DDIM, conditional velocity", "ℓ2, mean"]
    assert found["sct"]["flow path"] == "trig path (noise scale 0.5)"
    assert found["sct"]["network output"] == "preconditioned (gain 0.7854) of velocity"
    assert found["sct"]["weight"] == "alpha/(kappa sigma), learned e^{−ℓ(t, r)}"


def test_the_design_table_says_how_each_method_is_sampled():
    rows = ("sampler", "sampled from", "steps")
    found = {name: [design.design(methods.get(name))[row] for row in rows] for name in methods.names()}
    fresh = "maps with fresh noise between steps (γ = 1)"
    assert {name for name in found if found[name][0] == fresh} == {
        *(name for name in found if name.startswith("consistency_training")),
        "ict", "ect", "ect_tuned", "tcm", "sct", "sct_linear", "de_cm", "soflow",
    }  # fmt: skip
    assert found["consistency_training"] == [fresh, "t = 1", "any"]
    assert found["consistency_distillation"] == ["chain of maps", "t = 1", "1"]
    assert found["imm"] == ["chain of maps", "t = 0.994", "any"]
    assert found["tcm"] == [fresh, "t = 80", "any"]
    assert found["shortcut"][::2] == [
        "chain of maps; DDIM from 128 steps on",
        "1, 2, 4, 8, 16, 32, 64, 128",
    ]
    assert found["flow_matching"][::2] == ["DDIM", "16 or more"] and found["sid"][1:] == ["t = 0.714286", "1"]
    assert found["amed"][::2] == ["chain of maps, two evaluations each", "4"]


@ALL
def test_the_design_table_follows_the_values(name):
    """Every cell is words, and a changed part changes the cell that is about it."""
    before = design.design(methods.get(name))
    assert set(before) == set(design.DESIGN)
    sets = methods.get(name).target == DataLaw()  # whose rows belong to no target of their own
    assert all(text and "{" not in text.replace("e^{−ℓ(t, r)}", "") for text in before.values())
    for changes, row, said in (
        ({"loss": LearnedVariance(PseudoHuber())}, "loss metric", "pseudo-Huber, sum"),
        ({"loss": LearnedVariance(PseudoHuber())}, "weight", "1, learned e^{−ℓ(t, r)}"),
        ({"loss": LearnedVariance(PseudoHuber(), of="t")}, "weight", "1, learned e^{−ℓ(t)}"),
        ({"loss": AdaptivePower(0.5, 0.25)}, "weight", "1 / (‖Δ‖² + 0.25)^0.5"),
        ({"label_dropout": 0.25}, "label dropout", "0.25"),
        ({"batching": ClassGroups(4)}, "batches", "class groups (group 4, classes proportional)"),
    ):
        if not (sets and "loss" in changes):
            assert design.design(replace(methods.get(name), **changes))[row] == said
    guided = replace(methods.meanflow(), guidance=Guidance(1.0, 0.5), path=LinearPath(sigma_min=0.25))
    assert design.design(guided)["flow path"] == "linear path (sigma min 0.25)"
    assert design.design(guided)["guidance in training"].startswith("guidance (omega 1, kappa 0.5")


def test_the_design_table_fits():
    """Into any terminal, in blocks; as Markdown it is one table with a line for each row."""
    for columns in (60, 80, 120, 200):
        text = table(columns=columns)
        assert max(map(len, text.splitlines())) <= columns
        assert 2 <= text.count("model type") < len(methods.names())
        named = set(text.split())
        assert named >= {name.replace("_", "-") for name in methods.names()}
    lines = table("--markdown", "esc", "meanflow").splitlines()
    assert lines[0] == "|  | esc | meanflow |" and len(lines) == 2 + len(design.DESIGN)
    assert all(line.count(" | ") == 2 for line in lines)
    refused = CliRunner().invoke(app, ["methods", "table", "meanflo"])
    assert refused.exit_code == 2 and "did you mean meanflow" in refused.stderr


def test_the_page_on_agreement_names_every_method():
    """docs/parity.md has a row for each, by its name or as a variant of the one before it in the row."""
    page = (Path(__file__).parents[1] / "docs" / "parity.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = set()
    for row in rows:
        first, *others = re.findall(r"`([^`]+)`", row)
        named |= {first, *(first + other if other.startswith("-") else other for other in others)}
    assert named == {name.replace("_", "-") for name in methods.names()}
    tests = set(re.findall(r"test_parity_\w+\.py", page))
    assert tests == {path.name for path in (Path(__file__).parent / "parity").glob("test_*.py")}
