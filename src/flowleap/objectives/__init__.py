"""Objectives: one file per identity, and the composition that trains a network with it."""

from flowleap.interfaces import Identity, TargetNetwork
from flowleap.objectives.annealed import Annealed
from flowleap.objectives.auxiliary import AuxiliaryNetwork
from flowleap.objectives.base import Objective
from flowleap.objectives.consistency import Consistency
from flowleap.objectives.data_law import DataLaw
from flowleap.objectives.diagonal import Diagonal
from flowleap.objectives.eulerian import Eulerian
from flowleap.objectives.lagrangian import Lagrangian
from flowleap.objectives.score_identity import ScoreGap
from flowleap.objectives.self_consistency import SelfConsistency
from flowleap.objectives.solver import LearnedSolver
from flowleap.objectives.target_networks import EMA, FirstStage, GridEMA, Refreshed, Self
from flowleap.objectives.trajectory import Trajectory

__all__ = [
    "EMA",
    "Annealed",
    "AuxiliaryNetwork",
    "Consistency",
    "DataLaw",
    "Diagonal",
    "Eulerian",
    "FirstStage",
    "GridEMA",
    "Identity",
    "Lagrangian",
    "LearnedSolver",
    "Objective",
    "Refreshed",
    "ScoreGap",
    "Self",
    "SelfConsistency",
    "TargetNetwork",
    "Trajectory",
]
