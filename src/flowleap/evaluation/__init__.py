"""How good samples are: features, distances, label accuracy, and the protocol behind each number."""

from flowleap.evaluation import labels, quality_table
from flowleap.evaluation.distances import Statistics, frechet, statistics
from flowleap.evaluation.evaluator import (
    Evaluator,
    TooFew,
    evaluator_for,
    held_out,
    originals,
    stored_evaluator,
)
from flowleap.evaluation.features import Features
from flowleap.evaluation.generation import NotFinite, cycle, device_of, generate, pace
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
    samplings,
)

__all__ = [
    "BOUNDS", "STANDARDS", "STEPS", "Evaluator", "Features", "NotFinite", "Protocol", "Standard", "Statistics",
    "TooFew", "cycle", "decoder_for", "device_of", "enough", "evaluate", "evaluate_images", "evaluate_set",
    "evaluator_for", "frechet", "generate", "held_out", "labels", "measure", "named", "originals", "pace",
    "quality_table", "same", "samplings", "standard", "statistics", "stored_evaluator",
]  # fmt: skip
