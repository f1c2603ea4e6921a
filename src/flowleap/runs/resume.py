"""Choose the folder and the config of a call of `train`, and check whether a run can be resumed with that config."""

from __future__ import annotations

import shlex
import warnings
from pathlib import Path

from flowleap import data as data_sets
from flowleap import methods
from flowleap.runs.configuring import DATA, METHOD
from flowleap.runs.phases import TEACHER, length, own_teacher
from flowleap.runs.reading import read_config
from flowleap.training import checkpoint, folder
from flowleap.training.config import FREE, TrainConfig
from flowleap.training.log import lines_of

FOUND = ("teacher.weights", "teacher.checksum", "teacher.pairs", "init.weights", "init.checksum")
"""Fields that are found at the start of a run where they are not given."""


def default_folder(method: str = METHOD, data: str = DATA, seed: int = 0) -> Path:
    """Return runs/<data>-<method>-seed<seed>, with hyphens."""
    return Path("runs") / f"{data_sets.short(data)}-{methods.key(method)}-seed{seed}".replace("_", "-")


def resumed_folder(method: str = METHOD, data: str = DATA, seed: int = 0) -> Path:
    """Return the newest run in the default folder or its -2, -3, …."""
    return folder.newest(default_folder(method, data, seed))


def choose(
    config: TrainConfig | None, out: str | Path | None, *, resume: bool, overwrite: bool
) -> tuple[Path, TrainConfig]:
    """Return the folder and the config that a call of `train` means.

    Raises: ValueError for contradictions; FileNotFoundError where there is nothing to resume.
    """
    if resume and overwrite:
        raise ValueError("resume continues a run and overwrite starts it anew: give one of them")
    if config is None and (out is None or not resume):
        raise ValueError(
            "without a config there is nothing to train: configure(), or the folder of a run to resume"
        )
    if not resume:
        assert config is not None
        if out is not None:
            return Path(out), config
        base = default_folder(config.method, config.data.name, config.seed)
        return (base if overwrite else folder.unused(base)), config
    if out is not None:
        place = Path(out)
    else:
        assert config is not None
        place = resumed_folder(config.method, config.data.name, config.seed)
    stored = read_config(place)
    if folder.read(place)["imported"] is not None:
        raise ValueError(
            f"{place} was imported, so there is no training to resume: name it as --teacher of a new run"
        )
    return place, stored if config is None else compatible(stored, completed(stored, config), place)


def completed(stored: TrainConfig, wanted: TrainConfig) -> TrainConfig:
    """Return a config with what was found at the start of the run that it is to continue."""
    before, now = stored.flat(), wanted.flat()
    return wanted.replace(**{name: before[name] for name in FOUND if now[name] is None})


def compatible(stored: TrainConfig, wanted: TrainConfig, place: Path) -> TrainConfig:
    """Return the config of a run that is resumed with some fields changed.

    Raises: ValueError where a field changes that would make it another run.
    """
    before, after = stored.flat(), wanted.flat()
    changed = [name for name in before if before[name] != after[name]]
    fixed = [name for name in changed if name not in FREE]
    if "teacher.path" in changed and None in (stored.teacher.path, wanted.teacher.path):
        fixed.append("teacher.path")
    if "data.name" in changed and folder.read(place)["dataset"].get("checksum") is None:
        fixed.append("data.name")
    if "schedule.steps" in changed and own_teacher(stored):
        raise ValueError(
            f"{place} divides {stored.schedule.steps} steps between its teacher and itself, so they cannot become "
            f"{wanted.schedule.steps}: leave --steps out, or start a new run"
        )
    if wanted.schedule.steps != stored.schedule.steps and not fixed:
        horizons = "; its horizons and learning rates are fractions of the new length"
        warnings.warn(
            f"{place}: {stored.schedule.steps} steps become {wanted.schedule.steps}{horizons}",
            UserWarning,
            stacklevel=4,
        )
    if fixed:
        differences = "; ".join(
            f"{name} is {before[name]!r}, not {after[name]!r}"
            if name not in ("objective", "network")
            else f"its {name} is another"
            for name in fixed
        )
        raise ValueError(
            f"{place} cannot be resumed as another run: {differences}. Leave these out, or start a new run"
        )
    return wanted


def resumable(place: Path) -> None:
    """Refuse to resume a run that was trained and has lost its checkpoints: it would begin again over its weights.

    A run without a checkpoint whose log does not go past its first one begins again: nothing of it is lost.

    Raises: ValueError.
    """
    for phase in (place / TEACHER, place):
        if not folder.is_run(phase) or checkpoint.latest(phase / "checkpoints") is not None:
            continue
        config = read_config(phase)
        finals = [phase / name for name in ("ema.safetensors", "network.safetensors")]
        weights = [checkpoint.step_of(path) for path in finals if path.exists()]
        if phase != place and max(weights, default=0) >= length(config):
            continue  # a teacher that is done needs no checkpoint
        done = max([*weights, *(row["step"] for row in lines_of(phase / "metrics.jsonl"))], default=0)
        if weights or 0 < config.schedule.checkpoint_every < done:  # a step is logged before it is saved
            name = shlex.quote(str(phase))
            cure = f"begin a new run with its weights: flowleap train {config.method.replace('_', '-')} --init {name}"
            raise ValueError(
                f"{phase} was trained to step {done} and has no checkpoint to go on from ({phase / 'checkpoints'} is "
                f"missing or empty); starting at step 0 would overwrite what it holds. Put the checkpoints back, or "
                + (cure if weights else "begin a new run in another folder (--out)")
            )


def not_shorter(place: Path, config: TrainConfig) -> None:
    """Refuse to resume a run to an end that lies before its last step.

    Raises: ValueError.
    """
    path = checkpoint.latest(place / "checkpoints")
    done = 0 if path is None else checkpoint.read_progress(path / "state.json").step
    if done > length(config):
        raise ValueError(
            f"{place} has done {done} steps already: --steps {config.schedule.steps} would end before them, give at "
            f"least {done}"
        )
