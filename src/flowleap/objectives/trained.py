"""Which jumps a target asks the network for, and which ones the rows of a time law train: the two must agree.

| target          | first step t → s           | second step               | needs of the law             |
|-----------------|----------------------------|---------------------------|------------------------------|
| Eulerian        | no length, with a velocity | the same r, one rate      | rows down to the landing     |
| Consistency     | one step with a velocity   | jump s → r                | short steps, or tied pairs   |
| SelfConsistency | jump t → s                 | jump s → r                | both jumps, and the diagonal |
| Trajectory      | steps with a velocity      | jumps s → r and r → t_min | s > r                        |
| ScoreGap        |                            |                           | no diagonal rows             |
| LearnedSolver   |                            |                           | the intervals of its grid    |

A network that is told r can learn every jump; told "nothing" or "data" it has one jump at each t.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from flowleap.couplings import LivePairs, StoredPairs
from flowleap.derivatives import CentralDifference
from flowleap.flow_map import FlowMap
from flowleap.guidance import FinestLevel, Guidance
from flowleap.objectives.consistency import Consistency
from flowleap.objectives.eulerian import Eulerian
from flowleap.objectives.frozen import Refreshed
from flowleap.objectives.score_identity import ScoreGap
from flowleap.objectives.self_consistency import SelfConsistency
from flowleap.objectives.solver import LearnedSolver
from flowleap.objectives.trajectory import Trajectory
from flowleap.samplers import Sampling
from flowleap.times import DyadicGrid, Halving, Intervals, Trajectories, jumps_of
from flowleap.velocities import PlugIn, Teacher

if TYPE_CHECKING:
    from flowleap.objectives.base import Objective

__all__ = ["STEPS", "check_plug_in", "check_trained", "kind", "within"]

STEPS = 'Adjacent(128), NoiseGrid(clock="linear") or Ratio(clock="linear") to the data, Particles() anywhere'


def check_trained(o: Objective) -> None:
    """Refuse an objective that asks the network for a jump or a velocity that none of its rows trains.

    Raises: ValueError: what is asked for, why no row trains it, and which choice of parts does.
    """
    _steps(o)
    _players(o)
    if jumps_of(o.times).lands == "nowhere":
        return
    for rule in (_told, _velocity, _self_consistency, _straight, _pairs, _stages, _guided, _along):
        rule(o)


def within(value: Any, maps: bool = True) -> Iterator[Any]:
    """Yield a part and every part inside it, depth first; `maps` says whether trained maps are among them."""
    if isinstance(value, FlowMap) and not maps:
        return
    yield value
    for f in fields(value):
        child = getattr(value, f.name)
        if is_dataclass(child) and not isinstance(child, type):
            yield from within(child, maps)


def kind(part: object) -> str:
    """Return the name of a part."""
    return type(part).__name__


def _steps(o: Objective) -> None:
    """A discrete target needs a first step t → s with s < t, and only some have rows r < t at all."""
    jumps = jumps_of(o.times)
    if getattr(o.target, "asks_step", False) and not jumps.has_step and jumps.lands != "nowhere":
        raise ValueError(
            f"{kind(o.target)} compares the way from t with that from a point s nearer to the data, and "
            f"{kind(o.times)} has s = t, where nothing is left to learn: use times such as {STEPS}; or "
            "target=Eulerian(), the limit of no step"
        )


def _told(o: Objective) -> None:
    """A network that is told t alone, or t and the data, has one output for every r below t."""
    jumps, law, rather = jumps_of(o.times), kind(o.times), 'told="landing", which tells it r'
    if o.told == "landing":
        return
    if jumps.lands == "anywhere":
        raise ValueError(
            f'told="{o.told}", but {law} draws any r below t, which one output cannot serve: use {rather}'
        )
    if jumps.lands == "next" and not isinstance(o.target, SelfConsistency | LearnedSolver):
        raise ValueError(
            f'told="{o.told}", but {kind(o.target)} compares jumps to one r from several t, and {law} has another r '
            f"at every t: use {rather}"
        )
    if o.told == "nothing" and jumps.has_diagonal:
        raise ValueError(
            f'told="nothing", but {law} has rows r = t beside those that jump, which one output cannot serve: use '
            f'told="data", or {rather}'
        )


def _velocity(o: Objective) -> None:
    """The velocity of the network, its output at r = t, is trained by rows r = t, or by rows that come near."""
    jumps = jumps_of(o.times)
    if jumps.has_diagonal or (jumps.lands == "anywhere" and o.times.finest == 0 and o.told == "landing"):
        return
    parts = (o.guidance, o.target, o.coupling, o.sampling)
    asking = next((part for part in parts if getattr(part, "asks_velocity", False)), None)
    if asking is None:
        return
    name, instead = {
        Guidance: ("Guidance", "velocity=Teacher(guidance=…)"),
        Eulerian: ("tangent=Own()", "tangent=None"),
        Trajectory: ("solver=Own()", "solver=Teacher()"),
        LivePairs: ("LivePairs", "coupling=StoredPairs()"),
        Sampling: (f"Sampling(finest={o.sampling.finest})", "sampling=Sampling()"),
    }.get(type(asking), (kind(asking), "another part"))
    where = (
        'told="nothing" it knows the jump to the data in its place: use told="landing" and a law with such rows'
        if o.told == "nothing"
        else f"no row of {kind(o.times)} has r = t: use a law with such rows"
    )
    raise ValueError(
        f"{name} asks the network for its velocity, r = t, but {where}, as FullJump(diagonal=0.5) or "
        f"SortedPair(diagonal=0.5), or {instead}"
    )


def _self_consistency(o: Objective) -> None:
    if not isinstance(o.target, SelfConsistency):
        return
    jumps, law = jumps_of(o.times), kind(o.times)
    rather = "use times=DyadicGrid(), or target=Consistency(), whose first step is made with a velocity"
    if not jumps.has_stop:
        raise ValueError(
            f"SelfConsistency makes two jumps of one, and {law} has s = r: its second jump goes nowhere, and rows are "
            f"regressed onto themselves: {rather}"
        )
    if isinstance(o.times, Trajectories):
        raise ValueError(
            f"SelfConsistency makes two jumps of one, and some rows of {law} have s = r, whose second jump goes "
            f"nowhere: {rather}"
        )
    if jumps.lands == "data":
        raise ValueError(
            f"SelfConsistency asks for jumps t → s that end above the data, and {law} trains jumps to the data only: "
            f"{rather}"
        )
    if not jumps.has_diagonal and not isinstance(o.times, Halving):
        share = f"{law} with share < 1" if hasattr(o.times, "share") else "DyadicGrid(share=0.25)"
        raise ValueError(
            f"SelfConsistency compares jumps with jumps, and no row of {law} has r = t to say where they lead: use "
            f"times={share}"
        )


def _straight(o: Objective) -> None:
    """A long step with the velocity is exact on a straight line only."""
    jumps, law = jumps_of(o.times), kind(o.times)
    if isinstance(o.target, Consistency) and o.times.finest > 0:
        raise ValueError(
            f"Consistency makes its first step t → s at once with the velocity, and the steps of {law} are up to half "
            "of the way or more, where that leaves the flow: use target=SelfConsistency() or Trajectory(), or times "
            f"such as {STEPS}"
        )
    if jumps.has_stop:
        return
    if isinstance(o.target, Trajectory):
        raise ValueError(
            f"Trajectory follows the velocity from t to s, and {law} has s = r, so that one step of Euler's method "
            "goes all the way: use times=Trajectories(), or Adjacent(128)"
        )
    tied = isinstance(o.coupling, LivePairs | StoredPairs) and not isinstance(o.velocity, Teacher)
    if isinstance(o.target, Consistency) and not tied:
        raise ValueError(
            f"Consistency on {law}, which has s = r, regresses the end of one step with the velocity, whose mean is "
            "the mean of the data and no point of the flow, unless noise and data are tied: use "
            f"coupling=LivePairs() or StoredPairs() with velocity=Conditional(), times such as {STEPS}, or "
            "target=Eulerian()"
        )


def _pairs(o: Objective) -> None:
    """Pairs of noise and what a map makes of it have a flow of their own, straighter than that of the data."""
    straight = isinstance(o.target, Consistency) and not jumps_of(o.times).has_stop
    if isinstance(o.coupling, LivePairs) and not straight:
        raise ValueError(
            f"LivePairs gives the rows r < t pairs of their own flow and the rows r = t those of the data, and "
            f"{kind(o.target)} on {kind(o.times)} would mix the two: use target=Consistency() with times=ToData(), or "
            "coupling=StoredPairs(), which pairs every row"
        )


def check_plug_in(o: Objective) -> None:
    """The plug-in velocity is the mean over data that any noise may have met.

    Raises: ValueError where noise belongs to its data.
    """
    plug_in = isinstance(o.velocity, PlugIn) and o.velocity.probability > 0
    if plug_in and isinstance(o.coupling, LivePairs | StoredPairs):
        raise ValueError(
            f"PlugIn averages over all data that may have met the noise of a row, and {kind(o.coupling)} ties each "
            "noise to one: use velocity=Conditional(), or coupling=Independent()"
        )


def _stages(o: Objective) -> None:
    """A law whose jumps grow from stage to stage, and a target network that does, need each other."""
    staged, law = isinstance(o.frozen, Refreshed), kind(o.times)
    if staged and not isinstance(o.times, Halving):
        raise ValueError(
            f"Refreshed is a teacher that knows its velocity in the first stage and one level of jumps in each other, "
            f"and {law} has no levels: use times=Halving() with Refreshed(stages=…), or frozen=EMA(0.999)"
        )
    if not isinstance(o.times, Halving):
        return
    stages = o.frozen.stages if isinstance(o.frozen, Refreshed) else None
    if stages is not None and o.times.levels != stages:
        raise ValueError(
            f"Halving(base_steps={o.times.base_steps}) has {o.times.levels} levels and Refreshed {stages} "
            f"stages, but each level is taught by the one before it: use Refreshed(stages={o.times.levels})"
        )
    if isinstance(o.target, Trajectory):
        raise ValueError(
            f"Trajectory asks for jumps s → r that Halving trains in other stages or not at all: use "
            f"target=SelfConsistency() with frozen=Refreshed(stages={o.times.levels}), or times=Trajectories()"
        )
    if isinstance(o.target, SelfConsistency) and not staged:
        raise ValueError(
            "Halving trains one level of jumps at a time, which the level before it teaches: use "
            f"frozen=Refreshed(stages={o.times.levels})"
        )


def _players(o: Objective) -> None:
    """Targets that only one law or one kind of frozen map gives a meaning to."""
    jumps, law = jumps_of(o.times), kind(o.times)
    if isinstance(o.target, ScoreGap) and jumps.has_diagonal:
        raise ValueError(
            f"ScoreGap judges samples on every row, and {law} has rows r = t, which train a velocity: use "
            "times=Denoising()"
        )
    if isinstance(o.target, ScoreGap) and o.rival is None:
        raise ValueError(
            "ScoreGap holds the teacher's score against that of the samples, which another network learns: use "
            "frozen=Rival(objective), as methods.sid() has"
        )
    if o.rival is not None and not isinstance(o.target, ScoreGap):
        raise ValueError(
            f"Rival learns the score of the samples, which {kind(o.target)} does not ask for: use target=ScoreGap(), "
            "or frozen=EMA(0.999)"
        )
    if isinstance(o.target, LearnedSolver) and not isinstance(o.times, Intervals):
        raise ValueError(
            f"LearnedSolver learns the steps of a solver between the times of its grid, and {law} has none: use "
            "times=Intervals(steps=4)"
        )
    if isinstance(o.target, Eulerian) and getattr(o.times, "boundary", None) is not None:
        raise ValueError(
            f"Eulerian ties the map at t to the map just below it, and {law} trains none below its boundary, so that "
            'the first stage is never asked: use target=Consistency(space="map")'
        )


def _guided(o: Objective) -> None:
    """Guidance in training reaches the jumps through the velocity that drives them, or level by level."""
    if isinstance(o.guidance, FinestLevel) and not isinstance(o.times, DyadicGrid | Halving):
        raise ValueError(
            f"FinestLevel guides the jumps made of two finest steps, of which all others are made, and those of "
            f"{kind(o.times)} are not halved: use times=DyadicGrid(), or Guidance(omega, kappa)"
        )
    baked = isinstance(o.guidance, Guidance) and o.guidance.asks_network
    if baked and not getattr(o.target, "driven", True):
        raise ValueError(
            f"Guidance changes the velocity of the rows r = t, and {kind(o.target)} takes that of its teacher for the "
            f"others: use target={kind(o.target)}(Teacher(guidance=…)) with guidance=None"
        )


def _along(o: Objective) -> None:
    """A difference along the path of a pair is one along its own velocity."""
    if not isinstance(o.target, Eulerian):
        return
    derivative, velocity = o.target.derivative, o.velocity
    if not isinstance(derivative, CentralDifference) or derivative.along != "path":
        return
    guided = (isinstance(velocity, Teacher) and velocity.guidance not in (None, 1.0)) or (
        isinstance(o.guidance, Guidance) and o.guidance.asks_network
    )
    if guided or o.target.tangent is not None:
        part = "guidance" if guided else f"tangent={kind(o.target.tangent)}()"
        raise ValueError(
            f'CentralDifference(along="path") differs along the velocity of the pair itself, and {part} asks for '
            'another: use CentralDifference(along="tangent")'
        )
