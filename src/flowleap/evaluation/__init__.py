"""How good samples are: features, distances, label accuracy, and the protocol behind each number."""

from flowleap.evaluation import labels, report
from flowleap.evaluation.agreement import Judge, fit
from flowleap.evaluation.distances import Statistics, frechet, statistics
from flowleap.evaluation.features import PIXEL, POINT, Features
from flowleap.evaluation.generation import (
    NotFinite,
    check_label,
    cycle,
    device_of,
    generate,
    pace,
    proportional,
)
from flowleap.evaluation.library import named
from flowleap.evaluation.numbers import enough, measure
from flowleap.evaluation.protocol import STANDARDS, Protocol, Standard, same, standard
from flowleap.evaluation.quality import (
    BOUNDS,
    STEPS,
    decoder_for,
    evaluate,
    evaluate_images,
    evaluate_set,
    plan,
)
from flowleap.evaluation.rulers import Reference, TooFew, held_out, originals, reference, stored_reference
from flowleap.evaluation.statistics_file import is_statistics

__all__ = [
    "BOUNDS",
    "PIXEL",
    "POINT",
    "STANDARDS",
    "STEPS",
    "Features",
    "Judge",
    "NotFinite",
    "Protocol",
    "Reference",
    "Standard",
    "Statistics",
    "TooFew",
    "check_label",
    "cycle",
    "decoder_for",
    "device_of",
    "enough",
    "evaluate",
    "evaluate_images",
    "evaluate_set",
    "fit",
    "frechet",
    "generate",
    "held_out",
    "is_statistics",
    "labels",
    "measure",
    "named",
    "originals",
    "pace",
    "plan",
    "proportional",
    "reference",
    "report",
    "same",
    "standard",
    "statistics",
    "stored_reference",
]
