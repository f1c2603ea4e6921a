"""What may make one step better, each a method: `base` with one part changed. For `flowleap compare --import`.

`base` is MeanFlow with guidance in training; a lever is named after what it changes.
"""

from __future__ import annotations

from dataclasses import replace

from flowleap import methods
from flowleap.couplings import NearestPairs
from flowleap.data.batching import ClassGroups
from flowleap.guidance import Guidance
from flowleap.losses import AdaptivePower, LearnedVariance, Squared, Weighted
from flowleap.objectives import Objective
from flowleap.schedules import SigmoidSchedule
from flowleap.times import Jumps, LogitNormal, Uniform
from flowleap.velocities import PlugIn

DIAGONAL = LogitNormal(-0.4, 1.0)
RISING = SigmoidSchedule(0.1, 0.9, slope=8, middle=0.6)


def base() -> Objective:
    """MeanFlow with guidance in training (ω = 1, κ = ½): what every lever is compared with."""
    return replace(methods.meanflow(), guidance=Guidance(omega=1.0, kappa=0.5))


def _lever(**parts: object) -> Objective:
    return replace(base(), **parts)  # type: ignore[arg-type]


# where and when rows jump


def half_jump() -> Objective:
    """Half of the rows jump, by the published law."""
    return _lever(times=Jumps(share=0.5))


def most_jump() -> Objective:
    """Three quarters of the rows jump, by the published law."""
    return _lever(times=Jumps(share=0.75))


def uniform_pairs() -> Objective:
    """Half of the rows jump, uniform pairs, half of these to the data."""
    return _lever(times=Jumps(share=0.5, jump=Uniform(), law=DIAGONAL, to_data=0.5))


def full_jumps() -> Objective:
    """Half of the rows jump, a quarter of these from noise to data at once."""
    return _lever(times=Jumps(share=0.5, jump=Uniform(), law=DIAGONAL, to_data=0.25, full=0.25))


def ends() -> Objective:
    """Half of the rows jump, all of them to the data or from noise."""
    return _lever(times=Jumps(share=0.5, jump=Uniform(), law=DIAGONAL, to_data=0.5, from_noise=0.5))


def rising() -> Objective:
    """The share of jumps rises from 0.1 to 0.9, uniform pairs, half of them to the data."""
    return _lever(times=Jumps(share=RISING, jump=Uniform(), law=DIAGONAL, to_data=0.5))


# how they are weighed


def squared() -> Objective:
    """The mean squared error as it is."""
    return _lever(loss=Squared(reduce="mean"))


def learned_weight() -> Objective:
    """The squared error over its mean at the times of a row, which the network learns."""
    return _lever(loss=LearnedVariance(Squared(reduce="mean")))


def half_power() -> Objective:
    """The adaptive weight with power ½."""
    return _lever(loss=AdaptivePower(power=0.5, eps=1e-2, reduce="sum"))


def equilibrium() -> Objective:
    """The weight of TEMF by the length of a jump."""
    return _lever(loss=Weighted(base().loss, by="temporal equilibrium"))


# how guidance enters


def unguided() -> Objective:
    """No guidance in training."""
    return _lever(guidance=None, label_dropout=0.0)


def mixed() -> Objective:
    """The guided target mixed with the network's own prediction, a quarter of it kept."""
    return _lever(guidance=Guidance(omega=1.0, kappa=0.5, mix=0.25))


def window() -> Objective:
    """Guidance below t = 0.8 alone."""
    return _lever(guidance=Guidance(omega=1.0, kappa=0.5, window=(0.0, 0.8)))


# how noise meets data, and which velocity drives


def near_pairs() -> Objective:
    """Optimal transport between noise and data within the classes of a batch."""
    return _lever(coupling=NearestPairs(), batching=ClassGroups())


def plug_in() -> Objective:
    """The velocity averaged over the batch on half of the rows, as in ESC."""
    return _lever(velocity=PlugIn(probability=0.5), batching=ClassGroups())
