"""Objectives: one file per identity, and the composition that trains a network with it."""

from flowleap.objectives.base import EMA, Identity, Objective, Refreshed, Self
from flowleap.objectives.consistency import Consistency
from flowleap.objectives.diagonal import Diagonal
from flowleap.objectives.eulerian import Eulerian
from flowleap.objectives.self_consistency import SelfConsistency

__all__ = [
    "EMA",
    "Consistency",
    "Diagonal",
    "Eulerian",
    "Identity",
    "Objective",
    "Refreshed",
    "Self",
    "SelfConsistency",
]
