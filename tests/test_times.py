"""Laws of (t, s, r): order, exact counts, marginals by Kolmogorov–Smirnov, the published quota table."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flowleap import Batch, methods
from flowleap.objectives import Refreshed
from flowleap.paths import VEPath
from flowleap.randomness import RowGenerator
from flowleap.schedules import SigmoidSchedule
from flowleap.times import (
    Adjacent,
    Curriculum,
    DyadicGrid,
    FullJump,
    Gradual,
    Halving,
    Jumps,
    LogitNormal,
    LogNormal,
    LogNormalAngle,
    OneTime,
    Particles,
    SortedPair,
    Split,
    StudentT,
    ToData,
    Trajectories,
    Truncation,
    Uniform,
)

LAWS = [
    OneTime(),
    OneTime(LogNormal()),
    SortedPair(),
    SortedPair(Uniform(), diagonal=0.0),
    SortedPair(diagonal=1.0),
    SortedPair(fixed=False),
    SortedPair(LogitNormal(0.4), landing=LogitNormal(-1.2), diagonal=0.5),
    Gradual(),
    Jumps(),
    Jumps(
        SigmoidSchedule(0.1, 0.9, 8.0, 0.6),
        Uniform(),
        law=LogitNormal(),
        to_data=0.3,
        from_noise=0.2,
        full=0.1,
    ),
    Jumps(0.5, LogNormal(), from_noise=0.5, to_data=0.5),
    Split(),
    Split(Jumps(0.5, Uniform()), 0.5),
    Split(at=SigmoidSchedule(1.0, 0.0, 25.0, snap=0.005)),
    DyadicGrid(),
    DyadicGrid(base_steps=8, law=Uniform()),
    DyadicGrid(share=1 / 8, quotas=True),
    DyadicGrid(quotas=True, anywhere=True),
    FullJump(),
    FullJump(LogNormalAngle(), diagonal=0.75),
    Curriculum(),
    Adjacent(),
    Halving(),
    ToData(),
    ToData(share=0.5, base_steps=8, law=Uniform()),
    ToData(share=1.0),
    Trajectories(),
    Trajectories(share=1.0, base_steps=18, longest=17, law=Uniform()),
    Particles(),
    Particles(group=1, t_min=0.006, halvings=15.0),
    Truncation(),
    Truncation(StudentT(low=2.0, df=5.0), share=0.0, ratio=0.9),
]


def rows(total: int, seed: int = 0) -> RowGenerator:
    return RowGenerator(seed, "times", total=total)


def fits(sample: torch.Tensor, cdf, level: float = 1e-3) -> bool:
    """Whether the Kolmogorov–Smirnov test lets the sample pass at this level; seeds are fixed."""
    return stats.kstest(sample.double().numpy(), cdf).pvalue > level


def logit_normal(mean: float, std: float):
    return lambda t: stats.norm.cdf(np.log(t / (1 - t)), mean, std)


# all laws


@given(seed=st.integers(0, 999), size=st.sampled_from([64, 96, 200]), progress=st.floats(0, 1))
@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_times_fall_and_the_rows_with_a_jump_come_first(law, seed, size, progress):
    draw = law.draw(rows(size, seed), progress)
    t, s, r, off = draw
    assert len(t) == len(s) == len(r) == size and t.dtype == s.dtype == r.dtype == torch.float32
    assert bool(((t >= s) & (s >= r)).all())
    assert bool((r[:off] < t[:off]).all()) and torch.equal(r[off:], t[off:]) and torch.equal(s[off:], t[off:])
    low, high = law.support
    assert float(r.min()) >= low and float(t.max()) <= high


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_draws_are_functions_of_the_generator(law):
    first, again, other = (law.draw(rows(64, seed), 0.01) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first[:3], again[:3], strict=True))
    assert isinstance(law, Curriculum) or not torch.equal(first.t, other.t)


# marginals


@pytest.mark.parametrize(
    ("law", "cdf"),
    [
        (Uniform(), stats.uniform.cdf),
        (Uniform(0.002, 80.0), stats.uniform(0.002, 79.998).cdf),
        (LogitNormal(), logit_normal(0, 1)),
        (LogitNormal(-0.4, 1.0), logit_normal(-0.4, 1.0)),
        (LogitNormal(0.2, 0.8), logit_normal(0.2, 0.8)),
        (LogNormal(), stats.lognorm(s=1.2, scale=math.exp(-1.2)).cdf),
        (LogNormal(0.5, 0.3), stats.lognorm(s=0.3, scale=math.exp(0.5)).cdf),
    ],
)
def test_laws_of_one_time_have_their_distribution(law, cdf):
    assert fits(law.sample(rows(20_000)), cdf)


def test_the_pair_is_the_maximum_and_the_minimum_of_two_draws():
    """P(max ≤ t) = F², P(min ≤ r) = 1 − (1 − F)²; the diagonal keeps the law of the maximum."""
    cdf = logit_normal(-0.4, 1.0)
    t, _, r, off = SortedPair(LogitNormal(-0.4, 1.0), diagonal=0.5).draw(rows(40_000), 1.0)
    assert off == 20_000
    assert fits(t[:off], lambda t: cdf(t) ** 2) and fits(t[off:], lambda t: cdf(t) ** 2)
    assert fits(r[:off], lambda r: 1 - (1 - cdf(r)) ** 2)


def test_a_landing_law_of_its_own():
    """P(max ≤ t) = F G."""
    first, second = logit_normal(0.4, 1.0), logit_normal(-1.2, 1.0)
    law = SortedPair(LogitNormal(0.4), landing=LogitNormal(-1.2), diagonal=0.0)
    t, _, r, _ = law.draw(rows(20_000), 1.0)
    assert fits(t, lambda t: first(t) * second(t))
    assert fits(r, lambda r: 1 - (1 - first(r)) * (1 - second(r)))


@pytest.mark.parametrize(
    ("size", "diagonal", "off"), [(64, 0.75, 16), (96, 0.75, 24), (10, 0.0, 10), (10, 1.0, 0)]
)
def test_the_number_of_diagonal_rows_is_exact(size, diagonal, off):
    assert {SortedPair(diagonal=diagonal).draw(rows(size, seed), 1.0).num_jumps for seed in range(20)} == {
        off
    }


def test_the_number_of_diagonal_rows_may_be_random():
    """Binomial(64, 1/4): mean 16, standard deviation √12."""
    counts = np.array([SortedPair(fixed=False).draw(rows(64, seed), 1.0).num_jumps for seed in range(400)])
    assert counts.mean() == pytest.approx(16, abs=4 * math.sqrt(12 / 400))
    assert counts.std() == pytest.approx(math.sqrt(12), rel=0.15)


# the gradual sampler


@pytest.mark.parametrize("horizon", [1 / 30, 0.5])
def test_landings_at_the_data_follow_the_arc_cosine(horizon):
    """1 at the start, arccos(½)/arccos(0) = ⅔ half-way, 0 from the horizon on."""
    law = Gradual(horizon=horizon)
    assert law.probability(0.0) == 1.0
    assert law.probability(horizon / 2) == pytest.approx(2 / 3, rel=1e-12)
    assert law.probability(horizon) == 0.0 and law.probability(1.0) == 0.0


@pytest.mark.parametrize(("progress", "share"), [(0.0, 1.0), (0.05, 2 / 3), (0.1, 0.0), (0.7, 0.0)])
def test_the_share_of_landings_at_the_data(progress, share):
    law = Gradual(SortedPair(diagonal=0.5), horizon=0.1)
    t, _, r, off = law.draw(rows(8_000), progress)
    assert off == 4_000
    zeros = int((r[:off] == 0).sum())
    assert abs(zeros - share * off) <= 4 * math.sqrt(off * share * (1 - share))
    assert torch.equal(r[off:], t[off:]), "diagonal rows stay on the diagonal"
    if progress == 0.7:
        plain = law.pair.draw(rows(8_000), progress)
        assert torch.equal(plain.t, t) and torch.equal(plain.r, r), "once over, it is the pair itself"


# jumps with laws of their own


@pytest.mark.parametrize("size", [64, 10, 6, 97])
@pytest.mark.parametrize("landing", [None, LogitNormal(-1.2)])
def test_jumps_without_a_law_of_their_own_are_sorted_pairs(size, landing):
    """The same numbers draw by draw, so that a study of the law changes nothing else."""
    pair = SortedPair(LogitNormal(0.4), diagonal=0.75, landing=landing).draw(rows(size), 0.5)
    jumps = Jumps(0.25, LogitNormal(0.4), landing).draw(rows(size), 0.5)
    assert pair.num_jumps == jumps.num_jumps
    assert all(torch.equal(a, b) for a, b in zip(pair[:3], jumps[:3], strict=True))


def test_jump_rows_and_diagonal_rows_have_laws_of_their_own():
    """The larger of two uniform numbers has the law t², the smaller 1 − (1 − r)²."""
    t, s, r, num = Jumps(0.5, Uniform(), law=LogitNormal(-0.4)).draw(rows(20_000), 1.0)
    assert num == 10_000 and torch.equal(s, t)
    assert fits(t[:num], lambda t: t**2) and fits(r[:num], lambda r: 1 - (1 - r) ** 2)
    assert fits(t[num:], logit_normal(-0.4, 1.0))


def test_jumps_come_in_kinds():
    """To the data, from noise, both, and pairs: disjoint, in their shares, each end exact, the other untouched."""
    law = Jumps(0.5, Uniform(0.1, 0.9), to_data=0.3, from_noise=0.2, full=0.1)
    t, _, r, num = law.draw(rows(20_000), 1.0)
    data, noise = r[:num] == 0, t[:num] == 1
    for found, share in ((data & ~noise, 0.3), (noise & ~data, 0.2), (data & noise, 0.1)):
        assert abs(int(found.sum()) - share * num) <= 4 * math.sqrt(num * share * (1 - share))
    plain = Jumps(0.5, Uniform(0.1, 0.9)).draw(rows(20_000), 1.0)
    assert torch.equal(t[:num][~noise], plain.t[:num][~noise]) and torch.equal(
        r[:num][~data], plain.r[:num][~data]
    )
    assert torch.equal(t[num:], plain.t[num:]) and torch.equal(r[num:], t[num:])
    assert law.lands == "anywhere" and law.support == (0.0, 1.0)
    assert Jumps(to_data=0.75, full=0.25).lands == "data" and Jumps(from_noise=1.0).lands == "anywhere"


def test_the_share_of_jumps_may_follow_a_schedule():
    """0.1 + 0.8 σ(8 (p − 0.6)) of 1,000 rows, rounded."""
    law = Jumps(SigmoidSchedule(0.1, 0.9, slope=8.0, middle=0.6))
    for progress in (0.0, 0.3, 0.6, 1.0):
        share = 0.1 + 0.8 / (1 + math.exp(-8 * (progress - 0.6)))
        assert law.draw(rows(1000), progress).num_jumps == 1000 - round(1000 * (1 - share))
    assert law.horizon == 1.0 and law.has_diagonal
    assert Jumps().horizon is None and not Jumps(1.0).has_diagonal


# stops on the way


def test_a_stop_may_lie_anywhere_on_the_way():
    """(t − s)/(t − r) uniform, whatever the jump; t and r are those of the law inside."""
    inner = SortedPair(Uniform(), diagonal=0.5)
    t, s, r, num = Split(inner, Uniform()).draw(rows(20_000), 1.0)
    plain = inner.draw(rows(20_000), 1.0)
    assert num == 10_000 and torch.equal(t, plain.t) and torch.equal(r, plain.r)
    long = (t - r)[:num] > 0.1  # the share of a short way is rounded
    assert fits(((t - s) / (t - r))[:num][long], stats.uniform.cdf)
    assert torch.equal(s[num:], t[num:])


@pytest.mark.parametrize(
    ("progress", "share"), [(0.0, 1.0), (0.25, 1.0), (0.5, 0.5), (0.75, 0.0), (1.0, 0.0)]
)
def test_a_stop_may_move_to_the_departure(progress, share):
    """At its ends the schedule is snapped: s = r at first, s = t at last, without rounding."""
    law = Split(SortedPair(diagonal=0.5), SigmoidSchedule(1.0, 0.0, slope=25.0, snap=0.005))
    t, s, r, num = law.draw(rows(1000), progress)
    expected = {1.0: r, 0.0: t}.get(share, t - share * (t - r))
    assert torch.equal(s[:num], expected[:num])
    assert law.horizon == 1.0 and law.has_stop and not law.always_stops


def test_what_a_split_says_of_itself():
    assert Split().always_stops and Split(at=0.5).always_stops and Split().has_step and Split().has_diagonal
    assert not Split(at=1.0).has_stop and Split(Jumps(1.0), 0.5).has_diagonal is False
    assert Split(at=0.5).horizon is None and Split(Gradual(), 0.5).horizon == 1 / 30


# the dyadic grid


@pytest.mark.parametrize(
    ("size", "every", "whole", "each"), [(64, 8, 2, 1), (64, 4, 4, 2), (256, 8, 8, 4), (256, 4, 10, 9)]
)
def test_quotas_are_the_published_ones(size, every, whole, each):
    """`each` rows of d = 1/2 … 1/64, from fine to coarse, then `whole` rows of d = 1."""
    t, _, r, off = DyadicGrid(share=1 / every, quotas=True).draw(rows(size), 0.0)
    assert off == size // every
    exponents = (-(t - r)[:off].log2()).round().int().tolist()
    assert exponents == sorted(exponents, reverse=True), "guidance takes the finest rows first"
    assert Counter(exponents) == {0: whole, **dict.fromkeys(range(1, 7), each)}


@pytest.mark.parametrize(("quotas", "least"), [(True, 56), (False, 8)])
def test_a_batch_too_small_for_its_jumps_is_refused_and_told_how_many_rows_it_needs(quotas, least):
    law = DyadicGrid(share=1 / 8, quotas=quotas)
    with pytest.raises(ValueError, match=f"at least {least}, a larger share, or quotas=False"):
        law.draw(rows(32 if quotas else 7), 0.0)
    with pytest.raises(ValueError, match="a batch of"):
        law.draw(rows(least - 1), 0.0)
    law.draw(rows(least), 0.0)


@given(power=st.integers(1, 9), seed=st.integers(0, 99))
def test_jumps_start_and_land_on_multiples_of_their_length(power, seed):
    law = DyadicGrid(share=0.5, base_steps=2**power)
    t, s, r, off = (v.double() if isinstance(v, torch.Tensor) else v for v in law.draw(rows(256, seed), 0.0))
    d = (t - r)[:off]
    assert torch.equal(d.log2(), d.log2().round()) and float(d.min()) >= 2 / 2**power and float(d.max()) <= 1
    assert torch.equal(t[:off] / d, (t[:off] / d).round())
    assert torch.equal(s[:off], t[:off] - d / 2)
    assert float(t.max()) <= 1 and float(r.min()) >= 0
    assert torch.equal(t[off:] * 2**power, (t[off:] * 2**power).round()) and float(t[off:].min()) > 0
    assert law.finest == 1 / 2**power and law.levels == power


def test_jump_lengths_and_starting_points_are_uniform():
    """Each of the seven lengths equally often, each multiple of the length equally often: χ²."""
    t, _, r, off = DyadicGrid(share=1.0).draw(rows(28_000), 0.0)
    exponents = (-(t - r).log2()).round().int()
    counts = torch.bincount(exponents, minlength=7)
    assert off == 28_000 and len(counts) == 7
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    for b in (1, 3, 6):
        places = (t[exponents == b] * 2**b).round().long()
        places = torch.bincount(places, minlength=2**b + 1)
        assert places[0] == 0
        assert stats.chisquare(places[1:].numpy()).pvalue > 1e-3


def test_diagonal_times_of_the_grid():
    """{1/N, …, 1} equally often, or any law."""
    t, _, _, off = DyadicGrid(share=1 / 8, base_steps=16).draw(rows(32_000), 0.0)
    counts = torch.bincount((t[off:] * 16).long(), minlength=17)
    assert counts[0] == 0 and stats.chisquare(counts[1:].numpy()).pvalue > 1e-3
    t, _, _, off = DyadicGrid(share=1 / 8, law=LogitNormal(-0.4)).draw(rows(20_000), 0.0)
    assert fits(t[off:], logit_normal(-0.4, 1.0))


# levels in equal stages


@pytest.mark.parametrize("steps", [*range(7, 60), 400, 777, 1000, 3000, 3600])
def test_the_levels_of_a_run_and_the_stages_of_its_teacher_change_in_the_same_step(steps):
    """Seven equal stages: step k of K is in stage ⌊7k/K⌋, counted in whole numbers; 6 … 0 or 0 … 6."""
    stages = [7 * k // steps for k in range(steps)]
    assert [Halving().level(k / steps) for k in range(steps)] == [6 - stage for stage in stages]
    assert [Curriculum().level(k / steps) for k in range(steps)] == stages
    assert [Refreshed(7).stage(k / steps) for k in range(steps)] == stages
    lengths = Counter(stages)
    assert sorted(lengths) == list(range(7)) and max(lengths.values()) - min(lengths.values()) <= 1
    assert Refreshed(7).stage(1.0) == 6 and Halving().level(1.0) == 0 and Curriculum().level(1.0) == 6


@pytest.mark.parametrize("steps", [49, 10_007, 49_000, 409_999, 410_000, 2_000_003, 700_000_000])
@pytest.mark.parametrize("stages", [1, 4, 7, 49])
def test_stages_of_long_runs_begin_in_their_step(stages, steps):
    for number in range(1, stages):
        begin = -(-number * steps // stages)
        assert Refreshed(stages).stage((begin - 1) / steps) == number - 1
        assert Refreshed(stages).stage(begin / steps) == number


@pytest.mark.parametrize(("steps", "begins"), [(7, [0, 1, 2, 3, 4, 5, 6]), (20, [0, 3, 6, 9, 12, 15, 18]),
                                               (400, [0, 58, 115, 172, 229, 286, 343])])  # fmt: skip
def test_where_the_levels_begin(steps, begins):
    levels = [Halving().level(k / steps) for k in range(steps)]
    assert [levels.index(level) for level in (6, 5, 4, 3, 2, 1, 0)] == begins


@pytest.mark.parametrize("level", range(7))
def test_a_level_of_the_curriculum(level):
    """t = (j + 1)/2^b, s = t − 2^−b, r = 0; the whole batch, every cell equally often."""
    t, s, r, off = Curriculum().draw(rows(6_400), (level + 0.5) / 7)
    assert off == 6_400 and torch.equal(t - s, torch.full_like(t, 2.0**-level)) and not r.any()
    assert torch.equal((t * 2**level), (t * 2**level).round())
    counts = torch.bincount((t * 2**level).long() - 1, minlength=2**level)
    assert len(counts) == 2**level and (level == 0 or stats.chisquare(counts.numpy()).pvalue > 1e-3)
    if level == 0:
        assert bool((t == 1).all()) and not s.any()


@pytest.mark.parametrize("level", range(7))
def test_a_level_of_the_halvings(level):
    """t − r = 2^−b in two halves, all on the grid, every cell equally often."""
    t, s, r, off = Halving().draw(rows(6_400), (6 - level + 0.5) / 7)
    assert off == 6_400 and torch.equal(t - r, torch.full_like(t, 2.0**-level)) and torch.equal(t - s, s - r)
    counts = torch.bincount((t * 2**level).long() - 1, minlength=2**level)
    assert len(counts) == 2**level and (level == 0 or stats.chisquare(counts.numpy()).pvalue > 1e-3)
    assert Halving().finest == 1 / 128 and Halving().levels == 7 and Halving(16).levels == 4


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_adjacent_times_stay_on_one_grid(progress):
    t, s, r, off = Adjacent(16).draw(rows(6_400), progress)
    counts = torch.bincount((t * 16).long() - 1, minlength=16)
    assert (
        off == 6_400 and not r.any() and len(counts) == 16 and stats.chisquare(counts.numpy()).pvalue > 1e-3
    )
    torch.testing.assert_close(t - s, torch.full_like(t, 1 / 16), rtol=0, atol=0)


def test_a_share_of_the_rows_lands_at_the_data():
    t, s, r, off = ToData().draw(rows(51_200), 0.3)
    assert off == 6_400 and not r[:off].any() and torch.equal(s, r)
    for some in (t[:off], t[off:]):
        counts = torch.bincount((some * 128).long() - 1, minlength=128)
        assert len(counts) == 128 and stats.chisquare(counts.numpy()).pvalue > 1e-3
    t, _, _, off = ToData(law=Uniform()).draw(rows(20_000), 0.0)
    assert fits(t[off:], stats.uniform.cdf)


@pytest.mark.parametrize(("size", "off"), [(8, 1), (15, 1), (16, 2), (96, 12), (100, 12)])
def test_the_number_of_rows_that_land_at_the_data_is_exact(size, off):
    assert ToData().draw(rows(size), 0.0).num_jumps == off
    with pytest.raises(ValueError, match="at least 8, or a larger share"):
        ToData().draw(rows(7), 0.0)


def test_the_last_level_begins_where_the_horizon_says():
    assert Curriculum().horizon == Halving().horizon == Refreshed(7).horizon == 6 / 7
    assert Curriculum(2).horizon is Halving(2).horizon is Refreshed(1).horizon is None


# refusals


@pytest.mark.parametrize("steps", [0, 1, 3, 12, 100, 127, -8])
def test_a_grid_that_is_no_power_of_two_is_refused_with_its_neighbors(steps):
    with pytest.raises(ValueError, match="a power of two is expected") as caught:
        DyadicGrid(base_steps=steps)
    if steps == 100:
        assert "64 or 128" in str(caught.value)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Uniform(0.5, 0.5), "Uniform"),
        (lambda: Uniform(-0.1, 0.5), "Uniform"),
        (lambda: LogitNormal(std=0.0), "LogitNormal"),
        (lambda: LogNormal(std=-1.0), "LogNormal"),
        (lambda: SortedPair(diagonal=1.1), "SortedPair"),
        (lambda: SortedPair(diagonal=float("nan")), "SortedPair"),
        (lambda: Gradual(horizon=0.0), "Gradual"),
        (lambda: Jumps(1.5), r"Jumps\(share=1.5\)"),
        (lambda: Jumps(SigmoidSchedule(0.1, 1.2, 8.0)), r"Jumps\(share=SigmoidSchedule"),
        (lambda: Jumps(to_data=0.6, from_noise=0.5), "add up to at most 1"),
        (lambda: Jumps(from_noise=-0.1), "add up to at most 1"),
        (lambda: Split(at=0.0), r"Split\(at=0.0\).*not 0 throughout"),
        (lambda: Split(at=1.5), r"Split\(at=1.5\)"),
        (lambda: Split(at=LogNormal()), "Split"),
        (lambda: Split(OneTime()), "such as SortedPair"),
        (lambda: Split(Split()), "without a stop"),
        (lambda: DyadicGrid(share=0.0), "DyadicGrid"),
        (lambda: DyadicGrid(share=1.5), "DyadicGrid"),
        (lambda: Curriculum(100), "Curriculum.*64 or 128"),
        (lambda: Halving(0), "Halving"),
        (lambda: Adjacent(0), "Adjacent"),
        (lambda: ToData(share=0.0), "ToData"),
        (lambda: ToData(base_steps=0), "ToData"),
        (lambda: Refreshed(0), "Refreshed"),
    ],
)
def test_laws_that_make_no_sense_are_refused_by_name(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_full_jumps_land_at_the_data_and_stop_at_once():
    t, s, r, off = FullJump(LogitNormal(-1.0, 1.4), diagonal=0.75).draw(rows(40), 0.0)
    assert off == 10 and torch.equal(s, t) and not bool(r[:10].any()) and torch.equal(r[10:], t[10:])
    assert FullJump().draw(rows(40), 0.0).num_jumps == 40
    with pytest.raises(ValueError, match=r"FullJump\(diagonal=1.5\)"):
        FullJump(diagonal=1.5)


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_levels_on_the_trigonometric_path_are_log_normal(scale):
    """ln(κ tan(πt/2)) ~ N(mean, std²); with κ = 1 the levels are those of the logit-normal law on the linear path."""
    t = LogNormalAngle(-1.0, 1.4, scale).sample(rows(4000)).double()
    assert fits(torch.log(scale * torch.tan(t * math.pi / 2)), stats.norm(-1.0, 1.4).cdf)
    if scale == 1:
        linear = LogitNormal(-1.0, 1.4).sample(rows(4000)).double()
        torch.testing.assert_close(torch.tan(t * math.pi / 2), linear / (1 - linear), rtol=1e-3, atol=1e-3)
    for bad in ({"std": 0.0}, {"noise_scale": -1.0}):
        with pytest.raises(ValueError, match="positive numbers"):
            LogNormalAngle(**bad)


def test_jumps_that_start_anywhere_cover_the_grid():
    """t uniform on {d, d + 1/N, …, 1}, r = t − d, s half-way; the sizes have the quotas of the other law."""
    law = DyadicGrid(share=1.0, base_steps=8, quotas=True, anywhere=True)
    t, s, r, off = law.draw(rows(3000), 0.0)
    jump = t - r
    assert off == 3000 and Counter(jump.tolist()) == {0.25: 1000, 0.5: 1000, 1.0: 1000}
    torch.testing.assert_close(s, (t + r) / 2)
    for size in (0.25, 0.5, 1.0):
        starts = Counter((8 * t[jump == size]).tolist())
        assert set(starts) == set(range(int(8 * size), 9))
        assert len(starts) == 1 or stats.chisquare(list(starts.values())).pvalue > 1e-3


def test_jumps_from_noise_start_at_the_highest_level_of_a_path_of_levels():
    """t = σ_max and r = σ_min in a point, where the law itself says ∞ and 0."""
    path = VEPath(t_min=0.002, t_max=80.0)
    times = Jumps(1.0, LogNormal(), from_noise=0.25, to_data=0.25, full=0.5)
    objective = replace(methods.meanflow(), path=path, times=times)
    point = objective.draw(Batch(torch.zeros(64, 2)), 0, 0)
    noise, data = point.t == 80, point.r == 0.002
    assert bool((noise | data).all()) and 16 <= int((noise & data).sum()) < 64
