"""--init: a run that begins with the weights of another, of another method or with other classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from flowleap import networks
from flowleap.data import Dataset
from flowleap.data.shards import checksum
from flowleap.networks.options import kinds
from flowleap.networks.warm import begin_with
from flowleap.runs.phases import own_teacher
from flowleap.runs.reading import Run, load_run, weights_file
from flowleap.training import checkpoint
from flowleap.training.config import TrainConfig

IGNORED = ("DiT", "MLP", "UNet", "WithLogVariance", *networks.TAUGHT)
"""Kinds of networks that say nothing about how times and signs are read."""


@dataclass(frozen=True)
class Start:
    """The run whose averaged weights another one begins with, and what is to be said about it.

    `same` says which class of that run each class is, where it is one of them, see `same_classes`.
    """

    run: Run
    remarks: tuple[str, ...] = ()
    same: Mapping[int, int] | None = None

    def into(self, network: nn.Module) -> list[str]:
        """Put the weights into a network, and say which.

        Raises: ValueError where they share nothing.
        """
        try:
            taken = begin_with(network, self.run.network, self.same)
        except ValueError as error:
            raise ValueError(f"--init {self.run.folder}: {error}") from error
        return [f"begins with {self.run.folder}, {self.run.weights}", *taken.lines, *self.remarks]


def find(
    config: TrainConfig, place: Path, resume: bool, dataset: Dataset
) -> tuple[TrainConfig, Start | None]:
    """Return the config of a run with the name and checksum of the weights it begins with, and these.

    A resumed run has weights of its own: what it began with is not read again, unless it stopped before its first
    checkpoint.

    Raises: ValueError for a method that begins with its teacher, a network with other adapters around it, or a run that
        is not the one it began with; FileNotFoundError where there is no run.
    """
    if config.init.path is None or (resume and checkpoint.latest(place / "checkpoints") is not None):
        return config, None
    objective = config.objective
    if objective.starts_from_teacher:
        hint = "give that run as --teacher" if own_teacher(config) else "leave it out"
        raise ValueError(
            f"--init {config.init.path}: {config.method} begins with the weights of its teacher: {hint}"
        )
    run = _loaded(Path(config.init.path))
    ours, theirs = (
        [kind for kind in kinds(options) if kind not in IGNORED]
        for options in (config.network, run.config.network)
    )
    if ours != theirs:
        raise ValueError(
            f"--init {run.folder}: its network is seen through {' and '.join(theirs) or 'nothing'}, and that of this "
            f"run through {' and '.join(ours) or 'nothing'}: leave --network out, or the method that asks for it"
        )
    kind = "raw" if run.weights.startswith("raw") else "ema"
    found = checksum(weights_file(run.folder, run.config, kind)[0])
    if config.init.checksum not in (None, found):
        raise ValueError(
            f"--init {run.folder}: its weights ({run.weights}) are not those that this run began with; put the former "
            "ones back, or start a new run"
        )
    same = same_classes(config, dataset, run)
    remarks = [
        f"{name} is {theirs} there and {ours} here: its first samples are others"
        for name, ours, theirs in (
            ("path", objective.path, run.objective.path),
            ("parameterization", objective.parameterization, run.objective.parameterization),
        )
        if ours != theirs
    ]
    if not same and run.num_classes and dataset.num_classes:
        remarks.append(
            "its data are others, and none of its classes is known to be one of these: classes are the same that have "
            "the same name, and numbers are no names"
        )
    return config.replace(init_weights=run.weights, init_checksum=found), Start(run, tuple(remarks), same)


def same_classes(config: TrainConfig, dataset: Dataset, run: Run) -> dict[int, int]:
    """Which class of a run each class of some data is: all of them on the data it was trained on, else those that have
    the same name. Numbers are no names across data: a 0 may be a digit here and a bag there.
    """
    checksum = dataset.checksum if dataset.path else None
    alike = run.num_classes == dataset.num_classes and run.checksum == checksum
    if alike and (checksum is not None or run.config.data.name == config.data.name):
        return {number: number for number in range(dataset.num_classes or 0)}
    return {
        number: run.classes.index(name)
        for number, name in enumerate(dataset.class_names)
        if name in run.classes and not name.isdecimal()
    }


def _loaded(place: Path) -> Run:
    """Return a run by its averaged weights; an imported one by those that it has."""
    try:
        return load_run(place)
    except FileNotFoundError:
        run = load_run(place, weights="raw")
        if run.imported is None:
            raise
        return run
