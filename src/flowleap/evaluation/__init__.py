"""How good samples are: features, distances, class agreement, and the protocol behind each number."""

from flowleap.evaluation import report
from flowleap.evaluation.agreement import Judge, fit
from flowleap.evaluation.distances import Statistics, frechet, nearest_ratio, statistics
from flowleap.evaluation.features import PIXEL, POINT, Features
from flowleap.evaluation.generation import NotFinite, check_label, cycle, generate
from flowleap.evaluation.protocol import STEPS, Protocol, Reference, evaluate, measure, reference

__all__ = [
    "PIXEL",
    "POINT",
    "STEPS",
    "Features",
    "Judge",
    "NotFinite",
    "Protocol",
    "Reference",
    "Statistics",
    "check_label",
    "cycle",
    "evaluate",
    "fit",
    "frechet",
    "generate",
    "measure",
    "nearest_ratio",
    "reference",
    "report",
    "statistics",
]
