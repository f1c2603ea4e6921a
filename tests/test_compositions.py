"""Every composition of parts that an objective accepts has the exact map as its fixed point and finite targets.

Compositions are drawn at random from path × parameterization × times × told × target × coupling × frozen × guidance ×
loss. FLOWLEAP_COMPOSITIONS=1000 draws that many accepted ones in place of a few.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowleap import Batch, FlowMap, Objective, methods, networks, samplers
from flowleap.couplings import Independent, LivePairs, StoredPairs
from flowleap.derivatives import CentralDifference
from flowleap.guidance import FinestLevel, Guidance
from flowleap.losses import (
    AdaptivePower,
    LearnedVariance,
    Norm,
    PseudoHuber,
    ScoreIdentity,
    Squared,
    Weighted,
)
from flowleap.objectives import (
    EMA,
    AuxiliaryNetwork,
    Consistency,
    Diagonal,
    Eulerian,
    Identity,
    Lagrangian,
    LearnedSolver,
    Refreshed,
    ScoreGap,
    Self,
    SelfConsistency,
    Trajectory,
)
from flowleap.oracles import Gaussian
from flowleap.parameterization import (
    EDM,
    AverageVelocity,
    ConsistencyEDM,
    Endpoint,
    Noise,
    Preconditioned,
    Velocity,
)
from flowleap.paths import LinearPath, Path, TrigPath, VEPath, VPPath
from flowleap.randomness import RowGenerator
from flowleap.samplers import Sampling
from flowleap.tensors import like
from flowleap.times import (
    Adjacent,
    Curriculum,
    Denoising,
    DyadicGrid,
    FullJump,
    Gradual,
    Halving,
    Intervals,
    LogitNormal,
    LogNormal,
    NoiseGrid,
    OneTime,
    Particles,
    Ratio,
    SortedPair,
    TimeLaw,
    ToData,
    Trajectories,
    Truncation,
    Uniform,
)
from flowleap.velocities import Conditional, Own, PlugIn, Teacher

COUNT = int(os.environ.get("FLOWLEAP_COMPOSITIONS", "0"))
UNIT = (LinearPath(), LinearPath(noise_scale=0.7, sigma_min=1e-3), TrigPath(noise_scale=0.5), VPPath())
LEVELS = (VEPath(), VEPath(t_min=0.0))
MEANINGS = (
    AverageVelocity(),
    Velocity(),
    Endpoint(),
    Noise(),
    EDM(),
    ConsistencyEDM(),
    Preconditioned(Velocity()),
    Preconditioned(AverageVelocity()),
)
ON_UNIT: tuple[TimeLaw, ...] = (
    OneTime(Uniform()),
    SortedPair(),
    SortedPair(diagonal=0.0),
    Gradual(),
    DyadicGrid(),
    DyadicGrid(share=1.0),
    Curriculum(),
    Adjacent(),
    Adjacent(16),
    Halving(),
    ToData(),
    ToData(share=1.0),
    Trajectories(),
    Trajectories(share=1.0),
    Intervals(),
    Denoising(),
    FullJump(),
    FullJump(diagonal=0.5),
    NoiseGrid(clock="trigonometric"),
    NoiseGrid(clock="linear"),
    Ratio(clock="trigonometric"),
    Ratio(clock="linear"),
    Particles(),
)
ON_LEVELS: tuple[TimeLaw, ...] = (
    OneTime(LogNormal()),
    SortedPair(LogNormal()),
    Denoising(LogNormal()),
    FullJump(LogNormal()),
    FullJump(LogNormal(), diagonal=0.5),
    NoiseGrid(),
    Ratio(),
    Truncation(),
    Intervals(low=0.002, high=80.0),
)
EXTREME_UNIT = (
    OneTime(LogitNormal(0, 30.0)),
    SortedPair(LogitNormal(0, 12.0)),
    FullJump(LogitNormal(0, 12.0)),
    FullJump(Uniform(), diagonal=0.5),
    Denoising(LogitNormal(-3, 6.0)),
)
EXTREME_LEVELS = (
    SortedPair(LogNormal(0, 6.0)),
    FullJump(LogNormal(-4, 6.0)),
    Denoising(LogNormal(-3, 5.0)),
)
TARGETS = (
    Diagonal(),
    SelfConsistency(),
    Consistency(),
    Consistency(space="map"),
    Eulerian(),
    Eulerian(weighting="cos2"),
    Eulerian(CentralDifference(eps=1e-5)),
    Trajectory(),
    Trajectory(Own()),
)
SELF_TAUGHT = (Lagrangian(CentralDifference(eps=1e-5)), Eulerian(velocity=Own(), through_time=True))
"""Targets that take the velocity of the network where a jump lands or begins."""
LOSSES = (
    Squared(),
    PseudoHuber(),
    Norm(),
    AdaptivePower(),
    LearnedVariance(),
    Weighted(Norm(), by="1/(t - s)"),
    Weighted(Squared(), by="1/(level(t) - level(s))"),
    Weighted(Squared(), by="alpha/(kappa sigma)"),
)


def accepted(
    seed: int, count: int, extreme: bool = False, targets: tuple[Identity, ...] = TARGETS
) -> Iterator[Objective]:
    """Draw compositions until so many were accepted."""
    draw = random.Random(seed)
    while count:
        levels = draw.random() < 0.25
        laws = (ON_LEVELS if levels else ON_UNIT) + (
            ((EXTREME_LEVELS if levels else EXTREME_UNIT) * 3) if extreme else ()
        )
        try:
            objective = Objective(
                path=draw.choice(LEVELS if levels else UNIT),
                parameterization=draw.choice(MEANINGS),
                conditioning=draw.choice(("t,r", "t", "t,end")),
                times=draw.choice(laws),
                coupling=draw.choice((Independent(), Independent(), LivePairs(), StoredPairs())),
                velocity=draw.choice((Conditional(), Teacher())),
                guidance=draw.choice((None, None, Guidance(1.0, 0.5), Guidance(2.0, 0.0))),
                target=draw.choice(targets),
                loss=draw.choice(LOSSES),
                frozen=draw.choice((Self(), EMA(), Refreshed())),
                sampling=Sampling(),
            )
        except ValueError:
            continue
        count -= 1
        yield objective


# the exact map ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tied:
    """The flow of pairs x = m + c ε, whose lines do not cross: every point knows its pair."""

    path: Path
    mean: float = 0.4
    std: float = 0.6

    def noise(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.path.alpha(t), self.path.sigma(t) * self.path.noise_scale
        return (x - like(alpha, x) * self.mean) / like(alpha * self.std + sigma, x)

    def __call__(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None = None) -> Tensor:
        noise = self.noise(x, t)
        return self.path.point(self.mean + self.std * noise, noise, r)

    def velocity(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        noise = self.noise(x, t)
        return self.path.velocity(self.mean + self.std * noise, noise, t)


@dataclass(frozen=True)
class Trained:
    """A network that has learned exactly what rows of a law teach, and gives NaN for all else.

    `length` is that of the jumps of a level of `Halving`; 0 for a teacher that knows velocities only.
    """

    jump: Any
    velocity: Any
    objective: Objective
    length: float | None = None
    num_classes = 2

    def __call__(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
        o, jumps = self.objective, self.objective.times
        instant, unknown = self.velocity(x, t, t, label), torch.full_like(x, math.nan)
        end = torch.full_like(t, o.path.t_min)
        at_end = like(t <= end * (1 + 1e-6), x)
        if o.conditioning == "t" or (o.conditioning == "t,end" and self.length is not None):
            if jumps.lands == "nowhere" or self.length == 0:
                return instant
            lands = end if self.length is None else (t - self.length).clamp_min(o.path.t_min)
            return torch.where(
                like(r == t, x) & (o.conditioning == "t,end"), unknown, self.jump(x, t, lands, label)
            )
        known = jumps.has_diagonal or self.length == 0
        known |= jumps.lands == "anywhere" and o.times.finest == 0
        found = self.jump(x, t, r, label)
        if jumps.lands == "data":
            found = torch.where(like(r <= end * (1 + 1e-6), x), found, unknown)
        return torch.where(like(r < t, x), found, instant if known else torch.where(at_end, instant, unknown))


def gap(o: Objective, rows: int = 64) -> tuple[float, float]:
    """How far prediction and target are apart at the exact map: of jumps, relative to their length, and of the others.

    Velocities are exact: those of the pair where noise and data are tied, the marginal ones elsewhere.
    """
    random_ = torch.Generator().manual_seed(0)
    law: Any = o.times.on(o.path)
    *times, off = law.draw(RowGenerator(0, "times", total=rows), 1.0)
    t, s, r = (time.double().clamp(o.path.t_min, o.path.t_max) for time in times)
    if o.times.lands == "data":
        s = torch.where((s <= r) & (r < t), o.path.t_min, s)  # t_min exactly, not in single precision
        r = torch.where(r < t, o.path.t_min, r)
    stored, live = isinstance(o.coupling, StoredPairs), isinstance(o.coupling, LivePairs)
    straight, curved = Tied(o.path), Gaussian(0.4, 0.6, o.path)
    jump = FlowMap.of(straight if stored or live else curved, o.parameterization)
    velocity = FlowMap.of(straight if stored else curved, o.parameterization)
    noise = torch.randn(rows, 1, generator=random_, dtype=torch.float64)
    x = 0.4 + 0.6 * torch.randn(rows, 1, generator=random_, dtype=torch.float64)
    x = torch.where(
        (torch.arange(rows) < (rows if stored else off if live else 0))[:, None], 0.4 + 0.6 * noise, x
    )
    make = partial(Trained, jump.network, velocity.network, o)
    level = 2.0 ** -law.level(1.0) if isinstance(law, Halving) else None
    flow = o.flow_map(make(level))
    frozen = flow if level is None else o.flow_map(make(level / 2))
    if isinstance(o.frozen, Refreshed):
        o = replace(o, frozen=replace(o.frozen, teacher=frozen))
    o = o.with_teacher(velocity) if o.needs_teacher else o
    o = replace(o, velocity=Conditional() if stored or live else Teacher(velocity))
    point = o.point(x, noise, t, s, r, torch.zeros(rows, dtype=torch.int64), num_jumps=off)
    found = o.regress(flow, frozen, point)
    ours, theirs = found.prediction.detach(), found.target
    apart = (ours - theirs)[off:].abs().amax() if off < rows else torch.zeros(())
    if found.space == "output":
        ours, theirs = (flow.step(output, point.x_t, point.t, point.r) for output in (ours, theirs))
    missed, way = (ours - theirs)[:off].square().sum(), (ours - point.x_t)[:off].square().sum()
    return float((missed / way).sqrt()) if off else 0.0, 0.0 if live else float(apart)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_the_exact_map_is_the_fixed_point_of_every_composition_that_is_accepted(seed: int) -> None:
    """With a network that knows what its rows train, and nothing else. Steps of solvers and of grids leave a rest."""
    for objective in accepted(seed, COUNT // 4 or 25):
        jumps, others = gap(objective)
        coarse = objective.times.finest > 0.1
        assert jumps <= (0.12 if coarse else 0.03), objective
        assert others <= 1e-6, objective


def test_the_exact_map_is_the_fixed_point_of_targets_that_take_the_networks_own_velocity() -> None:
    for objective in accepted(0, COUNT // 4 or 12, targets=SELF_TAUGHT):
        jumps, others = gap(objective)
        assert jumps <= 0.03 and others <= 1e-6, objective


# finite targets --------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Four numbers as a network, with a log-variance."""

    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, 0.3, -0.2, 0.1]))

    def forward(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
        a, b, c, d = self.weight
        return a * torch.sin(x) + b * like(t / (1 + t), x) + c * like(r / (1 + r), x) + d * x

    def log_variance(self, t: Tensor, r: Tensor) -> Tensor:
        return self.weight[0] * t / (1 + t) + self.weight[1] * r / (1 + r)


def assert_finite(objective: Objective, seed: int, rows: int = 20_000) -> None:
    network, random_ = Net(), torch.Generator().manual_seed(seed)
    flow = objective.flow_map(network)
    objective = (objective.with_teacher(flow) if objective.needs_teacher else objective).for_run(1000)
    x, noise = (torch.randn(rows, 1, generator=random_) for _ in range(2))
    label = torch.randint(2, (rows,), generator=random_)
    batch = Batch(x / 2, label, noise if isinstance(objective.coupling, StoredPairs) else None)
    point = objective.draw(batch, 999, seed, flow)
    found = objective.regress(flow, flow, point)
    loss = objective.per_sample(found, point)
    loss.mean().backward()
    for value in (found.prediction, found.target, loss, network.weight.grad):
        assert value.isfinite().all(), objective


@pytest.mark.parametrize("seed", range(4))
def test_targets_and_losses_are_finite_on_twenty_thousand_rows_of_every_composition(seed: int) -> None:
    for number, objective in enumerate(accepted(100 + seed, COUNT // 4 or 12, extreme=True)):
        assert_finite(objective, number)


def test_targets_that_take_the_networks_own_velocity_are_finite() -> None:
    for number, objective in enumerate(accepted(100, COUNT // 4 or 6, extreme=True, targets=SELF_TAUGHT)):
        assert_finite(objective, number)


def test_a_score_gap_is_finite_where_the_path_raises_times() -> None:
    for path in (LinearPath(), VPPath()):
        objective = methods.sid()
        fake = replace(objective.auxiliary, path=path)
        times = Denoising(LogitNormal(-3, 6.0))
        objective = replace(objective, path=path, parameterization=Velocity(), times=times, label_dropout=0.0,
                            frozen=AuxiliaryNetwork(replace(fake, parameterization=Velocity())))  # fmt: skip
        assert_finite(objective, 0)


def test_rows_raised_to_the_end_of_a_path_learn_the_velocity_there() -> None:
    """X_{t→t}(x) is x whatever F is, so a row with t = r = t_min has the target of a row on the diagonal."""
    path = VPPath()
    objective = replace(methods.flow_matching(), path=path, parameterization=Velocity(), conditioning="t,end",
                        times=ToData(share=0.5), coupling=StoredPairs(), target=Consistency())  # fmt: skip
    x, noise = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low = torch.full((4,), path.t_min, dtype=torch.float64)
    t = torch.tensor([path.t_min, 0.5, path.t_min, 0.5], dtype=torch.float64)
    r = torch.stack([low[0], low[1], low[2], t[3]])
    point = objective.point(x, noise, t, r, r, num_jumps=2)
    flow = objective.flow_map(Net().double())
    target = objective.regress(flow, flow, point).target
    torch.testing.assert_close(target[0], path.velocity(x, noise, t)[0])
    assert target.isfinite().all()


# what is refused -------------------------------------------------------------------------------------------------


def made(**changes: Any) -> Objective:
    return replace(methods.flow_matching(), sampling=Sampling(), **changes)


JUMPS = Eulerian()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: made(conditioning="t,end", times=SortedPair(), target=JUMPS), "but SortedPair draws any r below t"),
        (lambda: made(conditioning="t,end", times=DyadicGrid(), target=SelfConsistency()), "one output cannot serve"),
        (lambda: replace(methods.imm(), conditioning="t,end"), 'conditioning="t,end", but Particles draws any r'),
        (lambda: replace(methods.ctm_self(), conditioning="t,end"), '"t,end", but Trajectories draws any r'),
        (lambda: replace(methods.live_reflow(), guidance=Guidance(2.0)), r"use coupling=LivePairs\(guidance=…\)"),
        (lambda: replace(methods.live_reflow(), conditioning="t"), "rows r = t beside those that jump"),
        (lambda: made(conditioning="t,end", times=Halving(), target=JUMPS), "has another r at every t"),
        (lambda: made(times=ToData(), target=SelfConsistency()), "ToData has s = r.*regressed onto themselves"),
        (lambda: made(times=Denoising(), target=SelfConsistency()), "Denoising has s = r"),
        (lambda: made(times=Adjacent(16), target=SelfConsistency()), "Adjacent trains jumps to the data only"),
        (lambda: made(conditioning="t", times=Curriculum(), target=SelfConsistency()), "to the data only"),
        (lambda: made(times=NoiseGrid(clock="linear"), target=SelfConsistency()), "to the data only"),
        (lambda: made(conditioning="t", times=Ratio(clock="linear"), target=SelfConsistency()), "to the data only"),
        (lambda: made(times=Trajectories(), target=SelfConsistency()), "some rows of Trajectories have s = r"),
        (lambda: made(times=DyadicGrid(share=1.0), target=SelfConsistency()), "DyadicGrid with share < 1"),
        (lambda: made(times=Particles(), target=SelfConsistency()), "no row of Particles has r = t"),
        (lambda: made(times=Halving(), target=SelfConsistency()), r"frozen=Refreshed\(stages=7\)"),
        (lambda: made(times=Denoising(), target=Consistency()), "whose mean is the mean of the data"),
        (lambda: made(times=ToData(), target=Consistency()), r"coupling=LivePairs\(\) or StoredPairs\(\)"),
        (lambda: made(times=DyadicGrid(), target=Consistency()), "at once with the velocity"),
        (lambda: made(times=Trajectories(), target=Consistency()), "at once with the velocity"),
        (lambda: made(times=Denoising(), target=Trajectory()), "one step of Euler's method goes all the way"),
        (lambda: made(times=SortedPair(), target=JUMPS, coupling=LivePairs()), "would mix the two"),
        (lambda: made(times=DyadicGrid(), target=SelfConsistency(), coupling=LivePairs()), "would mix the two"),
        (lambda: replace(methods.reflow(), velocity=PlugIn()), "StoredPairs ties each noise to one"),
        (lambda: replace(methods.live_reflow(), velocity=PlugIn()), "LivePairs ties each noise to one"),
        (
            lambda: made(times=FullJump(), target=JUMPS, guidance=Guidance(1.0, 0.5)),
            "Guidance asks the network for its velocity, r = t, but no row of FullJump has r = t",
        ),
        (lambda: made(times=FullJump(), target=Eulerian(tangent=Own())), "no row of FullJump.*tangent=None"),
        (lambda: replace(methods.ctm_self(), times=Trajectories(share=1.0)), r"solver=Own\(\) asks"),
        (
            lambda: made(times=ToData(share=1.0), target=Consistency(), coupling=LivePairs()),
            "LivePairs asks the network for its velocity",
        ),
        (lambda: replace(methods.flow_matching(), times=FullJump(), target=JUMPS), r"Sampling\(finest=1\) asks"),
        (lambda: made(times=Adjacent(), target=Consistency(), frozen=Refreshed()), "Adjacent has no levels"),
        (lambda: made(times=Denoising(), target=ScoreGap()), r"frozen=AuxiliaryNetwork\(objective\)"),
        (lambda: made(times=SortedPair(), target=ScoreGap()), "SortedPair has rows r = t"),
        (lambda: replace(methods.sid(), target=JUMPS, loss=Squared()), "AuxiliaryNetwork learns the score"),
        (lambda: made(times=Adjacent(), target=LearnedSolver()), r"times=Intervals\(steps=4\)"),
        (lambda: replace(methods.tcm(), target=JUMPS, loss=Squared()), "trains none below its boundary"),
        (lambda: replace(methods.ctm(), guidance=Guidance(1.0, 0.5)), r"Trajectory\(Teacher\(guidance=…\)\)"),
        (lambda: replace(methods.ctm(), guidance=FinestLevel(1.5)), "FinestLevel guides the jumps"),
        (
            lambda: made(times=SortedPair(), target=Eulerian(CentralDifference(along="path")), guidance=Guidance(2.0)),
            'guidance asks for another: use CentralDifference\\(along="tangent"\\)',
        ),
        (lambda: made(loss=ScoreIdentity()), r"ScoreIdentity .* Diagonal makes none: use target=ScoreGap\(\)"),
        (lambda: made(times=SortedPair(landing=LogNormal()), target=JUMPS), r"draws times in \(0.0, inf\)"),
        (lambda: made(times=DyadicGrid(law=LogNormal()), target=SelfConsistency()), "draws times in"),
        (lambda: replace(methods.amed(), path=VEPath(), times=Intervals(high=50.0)), "are not the ends of VEPath"),
    ],
)  # fmt: skip
def test_jumps_and_velocities_that_no_row_trains_are_refused(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_laws_that_land_at_the_data_may_have_a_velocity_beside() -> None:
    """conditioning="t,end" has two outputs: the jump to the data, and the velocity on rows r = t."""
    for times in (FullJump(diagonal=0.5), FullJump()):
        assert made(conditioning="t,end", times=times, target=Eulerian()).conditioning == "t,end"
    assert methods.live_reflow().conditioning == "t,end"


@pytest.mark.parametrize("law", [*ON_UNIT, *ON_LEVELS], ids=str)
def test_what_a_law_says_of_its_jumps_is_what_it_draws(law: TimeLaw) -> None:
    jumps = law
    (t, s, r, off) = law.draw(RowGenerator(0, "times", total=2048), 0.5)
    low = 0.0021 if law in ON_LEVELS else 0.0
    assert jumps.has_diagonal == (off < 2048) and (off == 0) == (jumps.lands == "nowhere")
    t, s, r = t[:off], s[:off], r[:off]
    if not off:
        return
    assert bool((s < t).any()) == jumps.has_step
    assert not jumps.has_step or bool((s > r).any()) == jumps.has_stop
    above = {(float(a), float(b)) for a, b in zip(t, r, strict=True)}
    lands = (
        "data" if bool((r <= low).all()) else "next" if len(above) == len(t.unique()) < 200 else "anywhere"
    )
    assert lands == jumps.lands


# guidance everywhere, weights of any type ------------------------------------------------------------------------


@pytest.mark.parametrize("path", [LinearPath(), VPPath(), VEPath()], ids=str)
def test_guidance_reaches_every_time_of_every_path_unless_a_window_is_given(path: Path) -> None:
    times = SortedPair(LogNormal(1.0, 2.0) if path.t_max > 1 else LogitNormal())
    objective = made(
        path=path, times=times, target=Eulerian(), guidance=Guidance(0.5, 0.5), label_dropout=0.0
    )
    batch = Batch(torch.zeros(512, 1), torch.zeros(512, dtype=torch.int64))
    assert len(objective.draw(batch, 0, 0).guided) == 512
    narrow = replace(objective, guidance=Guidance(0.5, 0.5, window=(0.0, 0.5)))
    point = narrow.draw(batch, 0, 0)
    assert 0 < len(point.guided) == int((point.t <= 0.5).sum()) < 512


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize(
    "name", [name for name in methods.names() if not methods.get(name).needs_run or name == "ect_tuned"]
)
def test_modules_of_any_floating_type_train_and_sample(name: str, kind: torch.dtype) -> None:
    torch.manual_seed(0)
    network = networks.MLP(2, classes=3, width=16, depth=1, log_variance=True).to(kind)
    objective = methods.get(name)
    flow, label = objective.flow_map(network), torch.arange(64) % 3
    for x in (torch.randn(64, 2), torch.randn(64, 2, dtype=kind)):
        loss = objective.for_run(10)(flow, flow, Batch(x, label), 5, 0)
        loss.mean().backward()
        assert (
            loss.isfinite().all() and flow.output(x, torch.ones(64), torch.zeros(64), label).dtype == x.dtype
        )
    assert all(weight.grad.dtype == kind for weight in network.parameters() if weight.grad is not None)
    assert (
        objective.sample(samplers.guide(flow, 2.0), torch.randn(3, 2), label=label[:3]).dtype == torch.float32
    )
