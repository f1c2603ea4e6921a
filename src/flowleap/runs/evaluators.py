"""The data that samples of a run are compared with, while it trains and at its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from flowleap import data as data_sets
from flowleap import evaluation, networks
from flowleap.data import Dataset
from flowleap.runs.setup import Setup
from flowleap.training import report
from flowleap.training.config import TrainConfig
from flowleap.training.log import Reporter
from flowleap.training.online_evaluation import OnlineEvaluation


@dataclass
class Evaluators:
    """What samples are compared with, by the features of a run; each is made when it is first asked for.

    `reasons` say why there is none.
    """

    config: TrainConfig
    dataset: Dataset
    reasons: list[str] = field(default_factory=list)

    @cached_property
    def online(self) -> evaluation.Evaluator | None:
        """All data, for quality while training; None where they are too few."""
        return self.evaluator_for(self.dataset.turned(self.config.data.flip))

    @cached_property
    def final(self) -> evaluation.Evaluator | None:
        """The held-out part of the data, or else all, for the finished run; None where it is too small."""
        apart = data_sets.held_out(self.dataset)
        return self.online if apart is None else self.evaluator_for(apart)

    def evaluator_for(self, dataset: Dataset) -> evaluation.Evaluator | None:
        """Return what samples are compared with in a data set; None, with its reason, where it is too small."""
        try:
            return evaluation.evaluator_for(
                dataset, evaluation.named(self.config.evaluation.features, dataset)
            )
        except evaluation.TooFew as error:
            self.reasons.append(str(error))
            return None

    def check(self) -> None:
        """Raise ValueError where the samples of the final table are too few to be compared, and for unknown labels."""
        count = networks.build_on_meta(self.config.network).num_classes
        report.chosen_labels(self.dataset, count, self.config.evaluation.validation_labels)
        if self.config.evaluation.num and self.final is not None:
            evaluation.enough(self.config.evaluation.num, self.final)

    def online_evaluation(
        self, place: Path, setup: Setup, reporter: Reporter, log: Callable[[dict[str, Any]], None]
    ) -> OnlineEvaluation | None:
        """Return what measures quality while training; None where that is switched off or nothing can be compared.

        `log` is given each row of quality.jsonl.
        """
        config = setup.config
        evaluator = self.online if config.evaluation.online_share else None
        if evaluator is None:
            return None
        try:
            evaluation.enough(config.evaluation.online_num, evaluator)
        except ValueError as error:
            reporter.warn(f"quality is not measured while training: {error}")
            return None
        conditional = setup.data.num_classes is not None
        return OnlineEvaluation(
            place,
            setup.objective,
            self.dataset if conditional else replace(self.dataset, label=None, num_classes=None),
            evaluator,
            share=config.evaluation.online_share,
            last=setup.steps,
            step=setup.state.step,
            num=config.evaluation.online_num,
            steps=config.evaluation.online_steps,
            say=reporter.say,
            log=log,
        )
