"""The settings of a run: a frozen value in groups, its names in `--set`, and its form in config.json.

>>> from flowleap.runs import configure
>>> config = configure("meanflow", "digits", steps=500)
>>> config.schedule.steps, config.optimizer.lr, config.replace(lr=1e-3).optimizer.lr
(500, 0.002, 0.001)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import ConfigDict, Field, InstanceOf, NonNegativeFloat, PositiveFloat, ValidationError
from pydantic.dataclasses import dataclass

from flowleap import data as data_sets
from flowleap import serialize
from flowleap.data import Dataset, Preprocessing
from flowleap.data.batching import ClassGroups
from flowleap.fields import LARGEST
from flowleap.objectives import Objective
from flowleap.suggest import suggest
from flowleap.training.power import WIDEST

PositiveInt = Annotated[int, Field(gt=0, lt=LARGEST)]
NonNegativeInt = Annotated[int, Field(ge=0, lt=LARGEST)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
Width = Annotated[float, Field(gt=0.0, lt=WIDEST)]
Counts = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """The data, how images are preprocessed, and the size of a batch.

    Args:
        name: the name of a data set, or the address of a folder, a file or a table; empty in an imported run that does
            not know it.
        batch: rows of a step, of all processes together.
        square, size: how images at a path become squares, and their side, see `data.Preprocessing`; None: as they are.
        flip: whether images are mirrored with probability ½, drawn anew in each step; None for no, but for latents
            where those of mirrored images are there.
        strict: whether a file that cannot be used stops the run, rather than being left out.
        memory: how many GiB images at a path may take; beyond it they are read from the disk in each step.
        workers: processes that read them ahead, None for one less than there are cores, at most 8.
    """

    name: str
    batch: PositiveInt
    square: Literal["crop", "resize"] | None = None
    size: PositiveInt | None = None
    flip: bool | None = None
    strict: bool = False
    memory: NonNegativeFloat = Preprocessing.memory
    workers: NonNegativeInt | None = None

    @property
    def preprocessing(self) -> Preprocessing:
        """How images at a path are preprocessed."""
        return Preprocessing(self.square, self.size, self.strict, self.memory)

    def load(self, checksum: str | None = None) -> Dataset:
        """Load the data.

        Args:
            checksum: what the data had when the run began.

        Raises: ValueError as `data.load`, and where data are to be mirrored that cannot be.
        """
        if checksum is not None and not data_sets.present(self.name):
            raise ValueError(
                f"the data of this run were at {self.name}, and nothing is there (seen from {Path.cwd().name or '/'}/)"
                ": put them back, or say where they are now: flowleap train --resume --out RUN --data PATH"
            )
        dataset = data_sets.load(self.name, checksum=checksum, preprocessing=self.preprocessing)
        dataset.turned(self.flip)  # refused here where it cannot be
        return dataset


@dataclass(frozen=True, config=STRICT)
class OptimizerConfig:
    """Adam, gradient clipping, and the running averages of the weights.

    Args:
        lr: the learning rate before warm-up and decay, see `ScheduleConfig`.
        betas, weight_decay: as of `torch.optim.AdamW`.
        muon: the rate of the matrices inside the blocks of the network, which then learn by Muon, as a multiple of
            `lr`, see `training.optimizer`; None for AdamW everywhere.
        clip: the largest gradient norm, None for no bound.
        patience: steps in a row that may be skipped because loss or gradient were not finite.
        ema: decays of the running averages of the weights; the first is what is sampled and measured.
        widths: those of the power-function averages that are stored every `width_every` steps, for an average of any
            width afterwards (`training.power`); none by default.
    """

    lr: PositiveFloat
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    weight_decay: NonNegativeFloat = 0.0
    muon: PositiveFloat | None = None
    clip: PositiveFloat | None = 1.0
    patience: PositiveInt = 20
    ema: Annotated[tuple[Decay, ...], Field(min_length=1)] = (0.999,)
    widths: tuple[Width, ...] = ()
    width_every: PositiveInt = 500


@dataclass(frozen=True, config=STRICT)
class ScheduleConfig:
    """The length of a run, its learning-rate schedule, and what is written at which steps.

    Args:
        steps: optimizer steps of the whole run; horizons are fractions of it. A run that trains its own teacher gives
            it the first half of them, rounded down.
        warmup: the fraction of the run over which the learning rate rises.
        decay: the fraction at its end over which it falls to zero as a cosine.
        log_every, sample_every, checkpoint_every: intervals in steps; 0 switches pictures or checkpoints off
            (the last step always makes both). The first picture comes with the first numbers.
        checkpoints_total_limit: how many checkpoints are kept, 0 for all; older ones are removed.
    """

    steps: PositiveInt
    warmup: Fraction = 0.0
    decay: Fraction = 0.0
    log_every: PositiveInt = 50
    sample_every: NonNegativeInt = 500
    checkpoint_every: NonNegativeInt = 500
    checkpoints_total_limit: NonNegativeInt = 2


@dataclass(frozen=True, config=STRICT)
class ParallelConfig:
    """Where and in which precision a step is computed, and how a batch is split; numbers change by rounding only.

    Args:
        device: "cpu", "cuda", or "auto" for a GPU where there is one.
        threads: CPU threads of each process; None for the number that is fastest in trial steps of a new run, and in a
            resumed one for that of its last steps, which may then change while it trains (`threads.Adaptive`). Other
            numbers of threads change the last digits of sums.
        precision: "fp32", or "bf16" for autocast of the network; weights and losses stay in float32.
        per_device: the most rows that a process computes at a time, None for its whole share.
        accumulate: the least number of parts that a process cuts its share of a batch into.
        shard: whether the weights, their averages and the moments of Adam are divided among the processes (FSDP2).
        averages_device: where the running averages of the weights are kept: "same", on the device of the network, or
            "cpu", which takes no memory of a GPU but while pictures are drawn or quality is measured.
        compiled: whether the loss is compiled.
        compile_limit: seconds that compiling may take for each network; a training whose loss takes longer goes on
            uncompiled, with a warning.
        check: whether to check the gradient and the derivative before the first step on one process, too.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: PositiveInt | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    per_device: PositiveInt | None = None
    accumulate: PositiveInt = 1
    shard: bool = False
    averages_device: Literal["same", "cpu"] = "same"
    compiled: bool = False
    compile_limit: PositiveFloat = 600.0
    check: bool = False


@dataclass(frozen=True, config=STRICT)
class TeacherConfig:
    """The run that teaches this one, and the pairs of noise and sample that it makes (reflow).

    Args:
        path: the folder of the run whose averaged weights teach this one; None for a method without a teacher, and
            for one that trains a teacher of its own first.
        weights, checksum: which weights these are, and the SHA-256 of their file; found at the start.
        pairs: how many pairs the teacher makes, None for `phases.PAIRS_PER_ROW` a row of data.
        pair_steps: the steps it takes for each.
        pair_guidance: the classifier-free guidance of these, None for none.
    """

    path: str | None = None
    weights: str | None = None
    checksum: str | None = None
    pairs: PositiveInt | None = None
    pair_steps: PositiveInt = 128
    pair_guidance: PositiveFloat | None = None


@dataclass(frozen=True, config=STRICT)
class InitConfig:
    """The run whose averaged weights this one begins with.

    Args:
        path: its folder; None for new weights.
        weights, checksum: which weights these are, and the SHA-256 of their file; found at the start.
    """

    path: str | None = None
    weights: str | None = None
    checksum: str | None = None


@dataclass(frozen=True, config=STRICT)
class EvaluationConfig:
    """How quality is measured: at the end of a run, and online, while it trains.

    Args:
        num: samples behind each number of the final table, 0 for no table.
        show: the numbers of steps of the final picture and table; None for the usual ones, of which those are left out
            that would take long beside training.
        features: what distances compare, see `evaluation.library.named`; "auto" follows from the data.
        online_share: the share of the time that online evaluation may take, 0 for none.
        online_steps, online_num: the numbers of steps that it measures, and the samples behind each number.
        validation_labels: the classes, by name or number, of the pictures that are drawn while training; None for all.
    """

    num: NonNegativeInt = 1000
    show: Counts | None = None
    features: str = "auto"
    online_share: Fraction = 0.05
    online_steps: Counts = (1, 2, 4)
    online_num: PositiveInt = 1000
    validation_labels: tuple[str, ...] | None = None


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    """Everything that a run depends on, resolved; as JSON it is the config.json of the run.

    Args:
        method: the name of the method that `objective` began as.
        objective: what is trained for, without a teacher in it and without the length of the run.
        network: what `networks.build` takes.
        seed: of all random draws and of the initial weights.
        recipe: the name of the recipe that the settings began as.
        track: the experiment trackers that are sent the log, see `training.trackers`.
        imports: what was imported (`extensions`) when the run was configured, by name, and the SHA-256 of each file.

    Raises: ValueError (pydantic's) for a value out of range or of another type.
    """

    method: str
    objective: InstanceOf[Objective]
    network: dict[str, Any]
    data: DataConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    parallel: ParallelConfig = ParallelConfig()
    teacher: TeacherConfig = TeacherConfig()
    init: InitConfig = InitConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    seed: NonNegativeInt = 0
    recipe: str | None = None
    track: tuple[str, ...] = ()
    imports: dict[str, str] = Field(default_factory=dict)

    def flat(self) -> dict[str, Any]:
        """Return every field by its dotted path."""
        content = {f.name: getattr(self, f.name) for f in fields(TrainConfig)}
        return flattened(content | {name: vars(content[name]) for name in GROUPS})

    def replace(self, **changes: Any) -> TrainConfig:
        """Return the config with some fields changed, by their dotted paths or short names: replace(steps=500).

        Raises: ValueError as `from_fields`.
        """
        return from_fields(self.flat() | {FLAT.get(name, name): value for name, value in changes.items()})


GROUPS = {
    name: kind
    for name, kind in get_type_hints(TrainConfig).items()
    if is_dataclass(kind) and kind is not Objective
}
"""The classes of the groups by name."""
FIELDS: dict[str, Any] = {
    path: hint
    for name, kind in get_type_hints(TrainConfig).items()
    for path, hint in (
        {f"{name}.{field}": hint for field, hint in get_type_hints(kind).items()}
        if name in GROUPS
        else {name: kind}
    ).items()
}
"""The type of every field by its dotted path, as in "optimizer.lr"."""
RENAMED = {
    "data": "data.name",
    "teacher": "teacher.path",
    "teacher_weights": "teacher.weights",
    "teacher_checksum": "teacher.checksum",
    "init": "init.path",
    "init_weights": "init.weights",
    "init_checksum": "init.checksum",
    "eval_num": "evaluation.num",
    "watch_share": "evaluation.online_share",
    "watch_steps": "evaluation.online_steps",
    "watch_num": "evaluation.online_num",
}
LEAVES = [path.partition(".")[2] for path in FIELDS]
FLAT = {
    leaf: path
    for path, leaf in zip(FIELDS, LEAVES, strict=True)
    if leaf not in ("", "name") and LEAVES.count(leaf) == 1
} | RENAMED
"""The dotted paths of fields in groups by their short names and by their names in format 1 of config.json; `name` is a
field of the objective.
"""
FREE = (
    *("schedule.steps", "schedule.log_every", "schedule.sample_every", "schedule.checkpoint_every"),
    *("schedule.checkpoints_total_limit", "evaluation.validation_labels", "track"),
    *("data.name", "data.strict", "data.workers", "optimizer.patience", "teacher.path"),
    *("evaluation.num", "evaluation.show", "evaluation.online_share"),
    *(path for path in FIELDS if path.startswith("parallel.") and path != "parallel.precision"),
)
"""The fields that may change when a run is resumed; only the steps and the device change its numbers, threads and the
split of a batch beyond rounding none. A teacher may have moved, and data at a path, but their checksums may not have
changed.
"""


def present(name: str) -> str:
    """Return the present name of a setting, which may be of one method of a study: "esc:lr" is "esc:optimizer.lr"."""
    owner, colon, field = name.rpartition(":")
    return f"{owner}{colon}{FLAT.get(field, field)}"


def dotted(name: str) -> str:
    """Return the dotted path of a field by that or by its short name.

    Raises: ValueError for an unknown field, naming the paths that are near.
    """
    path = FLAT.get(name, name)
    if path not in FIELDS:
        raise ValueError(f"unknown field {name!r}{suggest(name, FIELDS, FLAT)}")
    return path


def flattened(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a config by dotted paths, out of groups that are dictionaries, or by short names."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        if name in GROUPS and isinstance(value, Mapping):
            found |= {f"{name}.{field}": one for field, one in value.items()}
        else:
            found[FLAT.get(name, name)] = value
    return found


def nested(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a config in groups, out of those by dotted paths or short names."""
    found: dict[str, Any] = {name: {} for name in GROUPS}
    for name, value in content.items():
        group, _, field = FLAT.get(name, name).rpartition(".")
        (found[group] if group else found)[field] = value
    return found


def from_fields(content: Mapping[str, Any]) -> TrainConfig:
    """Return a config of values by dotted paths or short names, the objective as a value.

    Raises: ValueError for an unknown field, naming its neighbors, or a value that does not fit.
    """
    for name, value in content.items():
        path = dotted(name)
        if isinstance(value, bool) and FIELDS[path] not in (bool, bool | None):
            raise ValueError(f"{path}={value!r}: a truth value does not fit")
    try:
        return TrainConfig(**nested(content))
    except ValidationError as error:
        raise ValueError("; ".join(problems(error))) from error


def problems(error: ValidationError) -> list[str]:
    """Return what is wrong with the values of a config, each once: the field, what was given, what is expected."""
    found: dict[str, str] = {}
    for problem in error.errors():  # those of an item come before that of the tuple which lacks it
        where = [str(part) for part in problem["loc"]]
        name = ".".join(where[: 2 if where[0] in GROUPS else 1])
        what = problem["msg"]
        if problem["type"] == "missing":
            count = len(problem["input"]) if isinstance(problem["input"], tuple | list) else None
            what = "a value is needed" if count is None else "more values are expected"
        found.setdefault(name, f"{name}={problem['input']!r}: {what[:1].lower()}{what[1:]}")
    return list(found.values())


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """Return a config as JSON-able values, which `from_dict` reads back."""
    content = {f.name: getattr(config, f.name) for f in fields(TrainConfig)}
    content |= {name: asdict(content[name]) for name in GROUPS}
    return dict(json.loads(json.dumps(content | {"objective": serialize.to_dict(config.objective)})))


def from_dict(content: Mapping[str, Any]) -> TrainConfig:
    """Return a config from its values, as `to_dict` gives them, or from those of format 1, which has no groups.

    Raises: ValueError for an unknown field, naming its neighbors, or a value that does not fit.
    """
    objective = content.get("objective")
    if isinstance(objective, dict):
        batching = objective.get("batching")
        if isinstance(batching, dict) and batching.get("type") == ClassGroups.__name__:
            # a version without the field drew classes uniformly
            objective = {**objective, "batching": {"classes": "uniform", **batching}}
        content = {**content, "objective": serialize.from_dict(objective)}
    return from_fields(flattened(content))
