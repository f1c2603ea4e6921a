"""The config of a run: every setting, resolved, and how it follows from a few names.

>>> config = configure("meanflow", steps=500, settings=[("times.diagonal", "0.5"), ("network.width", "96")])
>>> config.objective.times.diagonal, config.network["width"], config.batch
(0.5, 96, 96)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import ConfigDict, Field, InstanceOf, NonNegativeFloat, PositiveFloat, ValidationError
from pydantic.dataclasses import dataclass

from flowleap import data as data_sets
from flowleap import extensions, methods, networks, serialize
from flowleap.data import Dataset, Preprocessing
from flowleap.data.batching import ClassGroups
from flowleap.fields import LARGEST
from flowleap.losses import Loss
from flowleap.objectives import Objective
from flowleap.suggest import suggest
from flowleap.training import folder
from flowleap.training.power import WIDEST

__all__ = [
    "DATA",
    "FREE",
    "METHOD",
    "NETWORKS",
    "PAIRS_PER_ROW",
    "PRESETS",
    "TrainConfig",
    "change",
    "configure",
    "data_for",
    "from_dict",
    "from_fields",
    "frozen_network",
    "load_data",
    "method_name",
    "preprocessing_of",
    "reconfigure",
    "to_dict",
]

PositiveInt = Annotated[int, Field(gt=0, lt=LARGEST)]
NonNegativeInt = Annotated[int, Field(ge=0, lt=LARGEST)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
Beta = Annotated[float, Field(ge=0.0, lt=1.0)]
Width = Annotated[float, Field(gt=0.0, lt=WIDEST)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True))
class TrainConfig:
    """Everything that a run depends on, resolved; as JSON it is the config.json of the run.

    Args:
        method: the name of the method that `objective` began as.
        objective: what is trained for, without a teacher in it and without the length of the run.
        data: the name of the data set; empty in an imported run that does not know it.
        network: what `networks.build` takes.
        steps: optimizer steps of the whole run; horizons are fractions of it. A run that trains its own teacher gives
            it the first half of them, rounded down.
        batch: rows of a step.
        lr: the learning rate of Adam; `warmup` is the fraction of the run over which it rises,
            `decay` the fraction at its end over which it falls to zero as a cosine.
        clip: the largest gradient norm, None for no bound.
        patience: steps in a row that may be skipped because loss or gradient were not finite.
        ema: decays of the running averages of the weights; the first is what is sampled and judged.
        log_every, sample_every, checkpoint_every: intervals in steps; 0 switches pictures or checkpoints off
            (the last step always makes both).
        eval_num: samples behind each number of the final table, 0 for no table.
        show: the numbers of steps of the final picture and table; None for the usual ones, of which those are left out
            that would take long beside training.
        watch_share: the share of the time that measuring quality while training may take, 0 for none.
        watch_steps, watch_num: the numbers of steps that are measured then, and the samples behind each number.
        features: what distances compare, see `evaluation.library.named`; "auto" follows from the data.
        teacher: the folder of the run whose averaged weights teach this one; None for a method without a teacher, and
            for one that trains a teacher of its own first.
        teacher_weights, teacher_checksum: which weights these are, and the SHA-256 of their file; found at the start.
        pairs: how many pairs of noise and sample the teacher makes (reflow), None for `PAIRS_PER_ROW` a row of data.
        pair_steps, pair_guidance: the steps it takes for each, and their classifier-free guidance, None for none.
        recipe: the name of the recipe that the settings began as.
        init: the folder of the run whose averaged weights this one begins with; None for new weights.
        init_weights, init_checksum: which weights these are, and the SHA-256 of their file; found at the start.
        square, size: how images at a path become squares, and their side, see `data.Preprocessing`; None: as they are.
        flip: whether images are mirrored every other time, drawn anew in each step; None for no, but for
            latents where those of mirrored images are there.
        strict: whether a file that cannot be used stops the run, rather than being left out.
        memory: how many GiB images at a path may take; beyond it they are read from the disk in each step.
        workers: processes that read them ahead, None for one less than there are cores, at most 8.
        threads: CPU threads of each process; None for the number that is fastest in trial steps of a new run, and in a
            resumed one for that of its last steps, which may then change while it trains (`threads.Adaptive`). Other
            numbers of threads change the last digits of sums.
        precision: "fp32", or "bf16" for autocast of the network; weights and losses stay in float32.
        per_device: the most rows that a process computes at a time, None for its whole share; `accumulate` is the least
            number of parts that it cuts its share into. `batch` is that of all processes together and does not change.
        shard: whether the weights, their averages and the moments of Adam are divided among the processes (FSDP2).
        compiled: whether the loss is compiled.
        check: whether to check the gradient and the derivative before the first step on one process, too.
        widths: those of the power-function averages that are stored every `width_every` steps, for an average of any
            width afterwards (`training.power`); none by default.
        imports: what was imported (`extensions`) when the run was configured, by name, and the SHA-256 of each file.

    Raises: ValueError (pydantic's) for a value out of range or of another type.
    """

    method: str
    objective: InstanceOf[Objective]
    data: str
    network: dict[str, Any]
    steps: PositiveInt
    batch: PositiveInt
    lr: PositiveFloat
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    weight_decay: NonNegativeFloat = 0.0
    warmup: Fraction = 0.0
    decay: Fraction = 0.0
    clip: PositiveFloat | None = 1.0
    patience: PositiveInt = 20
    ema: Annotated[tuple[Decay, ...], Field(min_length=1)] = (0.999,)
    seed: NonNegativeInt = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    log_every: PositiveInt = 50
    sample_every: NonNegativeInt = 500
    checkpoint_every: NonNegativeInt = 500
    eval_num: NonNegativeInt = 1000
    show: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | None = None
    watch_share: Fraction = 0.05
    watch_steps: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 2, 4)
    watch_num: PositiveInt = 1000
    features: str = "auto"
    teacher: str | None = None
    teacher_weights: str | None = None
    teacher_checksum: str | None = None
    pairs: PositiveInt | None = None
    pair_steps: PositiveInt = 128
    pair_guidance: PositiveFloat | None = None
    recipe: str | None = None
    init: str | None = None
    init_weights: str | None = None
    init_checksum: str | None = None
    square: Literal["crop", "resize"] | None = None
    size: PositiveInt | None = None
    flip: bool | None = None
    strict: bool = False
    memory: NonNegativeFloat = data_sets.Preprocessing.memory
    workers: NonNegativeInt | None = None
    threads: PositiveInt | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    per_device: PositiveInt | None = None
    accumulate: PositiveInt = 1
    shard: bool = False
    compiled: bool = False
    check: bool = False
    widths: tuple[Width, ...] = ()
    width_every: PositiveInt = 500
    imports: dict[str, str] = Field(default_factory=dict)


PAIRS_PER_ROW = 4
"""Pairs that a teacher makes for each row of the data, where their number is not given."""
METHOD, DATA = "esc", "digits"
"""What a run is about where nothing is said."""
FIELDS = tuple(field.name for field in fields(TrainConfig))
FIELD_TYPES = get_type_hints(TrainConfig)
FREE = (
    "steps",
    "data",
    "patience",
    "device",
    "log_every",
    "sample_every",
    "checkpoint_every",
    "eval_num",
    "show",
    "watch_share",
    "teacher",
    "strict",
    "workers",
    "threads",
    "per_device",
    "accumulate",
    "shard",
    "compiled",
    "check",
)
"""The fields that may change when a run is resumed; only `steps` and `device` change its numbers, threads and the split
of a batch beyond rounding none. A teacher may have moved, and data at a path, but their checksums may not have changed.
"""

WHOLE = {
    "method": "name the method itself",
    "data": "use --data",
    "objective": "give its fields by their own names, as in times.diagonal=0.5",
    "imports": "use --import",
    "network": "use --network for its name, and network.width=64 for an option of it",
}
"""The fields of the config that are not set by `change`, and what to do instead."""
PREPROCESSING = tuple(field.name for field in fields(data_sets.Preprocessing))
"""The fields that say how images at a path are taken."""

NETWORKS: dict[str, dict[str, Any]] = {
    "dit-nano": {"kind": "DiT", "width": 64, "depth": 4, "heads": 4},
    "dit-tiny": {"kind": "DiT", "width": 192, "depth": 6, "heads": 3},
    "dit-small": {"kind": "DiT", "width": 384, "depth": 12, "heads": 6},
    "dit-base": {"kind": "DiT", "width": 768, "depth": 12, "heads": 12},
    "dit-large": {"kind": "DiT", "width": 1024, "depth": 24, "heads": 16},
    "dit-xlarge": {"kind": "DiT", "width": 1152, "depth": 28, "heads": 16},
    "mlp": {"kind": "MLP", "width": 256, "depth": 4},
    "unet-small": {
        "kind": "UNet",
        "width": 32,
        "multipliers": [1, 2, 2],
        "depth": 2,
        "attention": [2],
        "heads": 2,
    },
    "unet-base": {"kind": "UNet", "width": 128, "multipliers": [2, 2, 2], "depth": 4, "attention": [1]},
    "unet-64": {"kind": "UNet", "width": 128, "multipliers": [1, 2, 2, 2], "depth": 4, "attention": [2]},
}
"""Networks by name; shape, classes and patch come from the data, everything else from the defaults."""
NETWORKS |= {
    f"dit-{size}-{patch}": {**NETWORKS[f"dit-{size}"], "patch": patch}
    for size in ("small", "base", "large", "xlarge")
    for patch in (2, 4, 8)
}

HEAD = networks.WithLogVariance.__name__
"""The kind of a network around one that has no log-variance of its own."""
LEVELS = networks.NoiseTime.__name__
"""The kind of a network around one that is to read noise levels."""

LARGE = 24
"""Images from this side up are cut into patches of 4 where that fits: 28 × 28 are 49 tokens, not 196."""
UNGUIDED = {"label_dropout": 0.0}
PRESETS: dict[str, dict[str, Any]] = {
    "image": {
        "network": "dit-nano",
        "steps": 3600,
        "batch": 96,
        "lr": 2e-3,
        "decay": 0.5,
        "objective": UNGUIDED,
    },
    "latents": {
        "network": "dit-small",
        "steps": 100_000,
        "batch": 256,
        "lr": 1e-4,
        "ema": (0.9999,),
        "objective": UNGUIDED,
    },
    "points": {
        "network": "mlp",
        "steps": 3000,
        "batch": 256,
        "lr": 1e-3,
        "decay": 0.5,
        "objective": UNGUIDED,
    },
}
"""Settings by the kind of data, where nothing else is said. They are unguided, so no label is dropped;
guidance by a setting brings the method's own label dropout back."""


def configure(
    method: str = METHOD,
    data: str | Dataset | None = None,
    network: str | None = None,
    settings: Iterable[tuple[str, Any]] = (),
    teacher: str | Path | None = None,
    init: str | Path | None = None,
    **options: Any,
) -> TrainConfig:
    """Return the config of a new run: the preset for the data, changed by `options` and then by `settings`.

    Args:
        method: where the objective begins, a name.
        data: a data set or its name, None for that of the teacher or of `init`, or else digits.
        network: one of `NETWORKS`, None for that of the teacher or of `init`, or else the preset's.
        teacher: the folder of the run that teaches this one.
        init: the folder of the run whose weights this one begins with.
        options: fields of the config (None: not given); `objective` may be an `Objective` of your own.
        settings: pairs such as ("times.diagonal", "0.5"), see `change`.

    Raises: ValueError for an unknown method, data set, network, field or option, naming its neighbors;
        FileNotFoundError for a teacher that is no run.
    """
    taught = {} if teacher is None else folder.read(Path(teacher))["config"]
    begun = {} if init is None else folder.read(Path(init))["config"]
    known, settings = taught or begun, list(settings)
    if not isinstance(data, Dataset):
        data = data_for(data, settings=settings, teacher=teacher, init=init, **options)
    dataset, given = data, _preprocessing(data.address, known, options)
    preset = dict(PRESETS[dataset.kind])
    objective = replace(methods.get(method), **preset.pop("objective"))
    chosen = {**preset, **{name: value for name, value in options.items() if value is not None}}
    serialize.to_dict(chosen.get("objective", objective))  # refused here where it cannot be written down
    named = {"method": method_name(method), "objective": objective, "data": dataset.address}
    named |= {"imports": extensions.checksums()}
    named |= {
        "teacher": None if teacher is None else str(teacher),
        "init": None if init is None else str(init),
    }
    chosen |= {
        name: getattr(dataset.preprocessing, name)
        for name in PREPROCESSING
        if name not in ("strict", "memory")
    }
    chosen |= {name: given[name] for name in PREPROCESSING if name in given and name not in chosen}
    own = network_options(network or preset["network"])
    if not network and known:
        own = taught["network"] if taught else inherited(begun["network"])
    config = solved(from_fields(named | chosen | {"network": own}))
    if any("guidance" in name for name, _ in settings) and "label_dropout" not in dict(settings):
        settings.append(
            ("label_dropout", methods.get(method).label_dropout)
        )  # guidance needs a trained null label
    return settle(change(config, settings), dataset)


def data_for(
    data: str | None = None,
    *,
    settings: Iterable[tuple[str, Any]] = (),
    teacher: str | Path | None = None,
    init: str | Path | None = None,
    **options: Any,
) -> Dataset:
    """Load the data set of a new run, given what `configure` is given: to hand it on to that and to `runs.train`.

    Raises: ValueError as `data.load`; FileNotFoundError for a teacher that is no run.
    """
    other = init if teacher is None else teacher
    known = {} if other is None else folder.read(Path(other))["config"]
    name = (known.get("data") or DATA) if data is None else data
    return data_sets.load(
        name, preprocessing=preprocessing_of([*_preprocessing(name, known, options).items(), *settings])
    )


def _preprocessing(address: str, known: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return how images are taken: as the options say, or else as those of another run on the same data."""
    before = {name: known[name] for name in PREPROCESSING if name in known and address == known.get("data")}
    return before | {name: options[name] for name in PREPROCESSING if options.get(name) is not None}


def inherited(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a network as a run takes them over that begins with its weights: without what follows from
    data and method, and without a solver or a first stage around it.
    """
    outer = dict(options["network"]) if options.get("kind") in networks.TAUGHT else dict(options)
    derived = ("image", "shape", "classes", "log_variance")
    return with_core(outer, {name: value for name, value in core(outer).items() if name not in derived})


def reconfigure(
    stored: TrainConfig,
    method: str | None = None,
    data: str | None = None,
    network: str | None = None,
    settings: Iterable[tuple[str, Any]] = (),
    **options: Any,
) -> TrainConfig:
    """Return the config of a run to be resumed, changed by what was given (None: not), as in `configure`."""
    config = stored
    if method is not None:
        config = replace(config, method=method_name(method))
    if data is not None:
        config = replace(config, data=data_sets.address(data))
    if network is not None:
        config = solved(replace(config, network=network_options(network)))
        config = settle(config, load_data(config))
    given = [(name, value) for name, value in options.items() if value is not None]
    return change(config, [*given, *settings])


def preprocessing_of(settings: Iterable[tuple[str, Any]]) -> Preprocessing | None:
    """Return how images at a path are taken by settings such as ("size", "64"), others aside; None without any.

    Raises: ValueError for values that mean nothing.
    """
    given = {name: as_field(name, value) for name, value in settings if name in PREPROCESSING}
    given = {name: value for name, value in given.items() if value is not None}
    return Preprocessing(**given) if given else None


def load_data(config: TrainConfig, checksum: str | None = None) -> Dataset:
    """Load the data of a run as its config says.

    Args:
        checksum: what the data had when the run began.

    Raises: ValueError as `data.load`, and where what cannot be mirrored is to be.
    """
    preprocessing = preprocessing_of([(name, getattr(config, name)) for name in PREPROCESSING])
    if checksum is not None and not data_sets.present(config.data):
        raise ValueError(
            f"the data of this run were at {config.data}, and nothing is there (seen from {Path.cwd().name or '/'}/): "
            "put them back, or say where they are now: flowleap train --resume --out RUN --data PATH"
        )
    dataset = data_sets.load(config.data, checksum=checksum, preprocessing=preprocessing)
    dataset.turned(config.flip)  # refused here where it cannot be
    return dataset


def method_name(method: str) -> str:
    """Return the name of a method as configs and folders hold it, with underscores."""
    return method.strip().lower().replace("-", "_").replace(" ", "_")


def network_options(name: str) -> dict[str, Any]:
    """Return the options of a network by its name in `NETWORKS`."""
    if name.strip() in networks.own():
        return {"kind": name.strip()}
    key = name.strip().lower().replace("_", "-")
    if key not in NETWORKS:
        raise ValueError(f"unknown network {name!r}{suggest(key, [*NETWORKS, *networks.own()])}")
    return dict(NETWORKS[key])


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """Return a config as JSON-able values, which `from_dict` reads back."""
    content = {name: getattr(config, name) for name in FIELDS} | {
        "objective": serialize.to_dict(config.objective)
    }
    return dict(json.loads(json.dumps(content)))


def change(config: TrainConfig, settings: Iterable[tuple[str, Any]]) -> TrainConfig:
    """Return a config with some values replaced, given by name as text or as they are.

    A field of the config ("warmup"), an option of the network ("network.width"), or a field of the objective
    at any depth ("times.diagonal", "loss.power").

    Raises: ValueError for an unknown name, with its neighbors, or a value that does not fit.
    """
    parts: list[tuple[str, Any]] = []
    for name, value in settings:
        head, _, rest = name.partition(".")
        if head == "network" and rest:
            config = replace(config, network=change_network(config.network, rest, parse(value)))
        elif name in FIELDS and name not in WHOLE:
            config = from_fields({**{f: getattr(config, f) for f in FIELDS}, name: as_field(name, value)})
        else:
            parts.append((name, value if isinstance(value, str) else json.dumps(value)))
    return replace(config, objective=override(config.objective, parts)) if parts else config


def solved(config: TrainConfig) -> TrainConfig:
    """Return a config whose network is one around the one it names, where its method trains such: a solver, or one in
    two stages.
    """
    objective = config.objective
    kind = objective.target.network_kind or objective.frozen.network_kind
    if kind is None or config.network.get("kind") == kind:
        return config
    return replace(config, network={"kind": kind, "network": config.network})


def change_network(options: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    """Return options of a network with one replaced: that of a wrapper where it has it, else of the network inside."""
    if "network" in options and not networks.knows(options["kind"], name):
        return {**options, "network": change_network(options["network"], name, value)}
    return {**options, name: value}


def frozen_network(config: TrainConfig) -> dict[str, Any]:
    """Return the options of the network that a teacher's weights go into: that inside of a solver or of one in two
    stages, or the whole.
    """
    options = config.network
    return dict(options["network"]) if options.get("kind") in networks.TAUGHT else dict(options)


def core(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the network inside all wrappers."""
    return core(options["network"]) if "network" in options else dict(options)


def with_core(options: Mapping[str, Any], inner: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of a network with another inside all wrappers."""
    if "network" not in options:
        return dict(inner)
    return {**options, "network": with_core(options["network"], inner)}


def kinds(options: Mapping[str, Any]) -> list[str]:
    """Return the kinds of a network and of those inside it, from the outermost."""
    return [str(options.get("kind")), *(kinds(options["network"]) if "network" in options else [])]


def override(objective: Objective, settings: Iterable[tuple[str, str]]) -> Objective:
    """Return an objective with some fields replaced, all at once."""
    known = [f.name for f in fields(Objective)]
    for name, _ in settings:
        head = name.partition(".")[0]
        if head in WHOLE:
            raise ValueError(f"{name!r} is not set as a field: {WHOLE[head]}")
        if head not in known:
            every = [
                *known,
                *(field for field in FIELDS if field not in WHOLE),
                "network.width",
                "network.depth",
            ]
            raise ValueError(f"unknown field {name!r}{suggest(head, every)}")
    return serialize.overrides(objective, settings)


def settle(config: TrainConfig, dataset: Dataset) -> TrainConfig:
    """Return a config whose network is resolved to its last option, with shape and classes from the data.

    On a path whose times are noise levels the network reads their logarithms (`networks.NoiseTime`). A network in two
    stages is divided where the times of the objective begin.

    Raises: ValueError for a network that does not fit the data or has unknown options, or a batch that is not made of
        whole groups.
    """
    options, objective = core(config.network), config.objective
    whole_groups(config, objective.group)
    kind = str(options.get("kind"))
    shape = next((name for name in ("image", "shape") if networks.knows(kind, name)), None)
    if shape is not None:
        if shape == "image" and dataset.kind == "points":
            raise ValueError(
                f"a {kind} is made for images and {dataset.name} holds points: use --network mlp"
            )
        options.setdefault(shape, list(dataset.shape))
        learned = any(isinstance(part, Loss) and part.learned for part in objective.parts())
        if networks.knows(kind, "classes"):
            options.setdefault("classes", dataset.num_classes)
        if networks.knows(kind, "log_variance"):
            options.setdefault("log_variance", learned)
        elif learned and HEAD not in kinds(config.network):
            options = {"kind": HEAD, "network": options}
        side = [] if kind != "DiT" or dataset.kind != "image" else dataset.shape[1:]
        if side and min(side) >= LARGE and not any(n % 4 for n in side):
            options.setdefault("patch", 4)
        derivative = objective.target.derivative
        if options.get("checkpointing") and derivative is not None and derivative.single_pass:
            raise ValueError(
                "network.checkpointing=true: a derivative that keeps its graph (ExactJVP) cannot be computed again: "
                "use two passes, --set target.derivative=TwoPass"
            )
        if objective.path.t_max > 1 and LEVELS not in kinds(config.network):
            options = {"kind": LEVELS, "network": options}
    options = with_core(config.network, options)
    if objective.times.boundary is not None and options.get("kind") == objective.frozen.network_kind:
        options["boundary"] = objective.times.boundary
    network = networks.build_on_meta(options)
    if network.num_classes not in (None, dataset.num_classes):
        raise ValueError(
            f"the network has {network.num_classes} classes and {dataset.name} {dataset.num_classes}: "
            "leave network.classes out, or set it to none for training without labels"
        )
    return replace(config, network=network.config)


def whole_groups(config: TrainConfig, group: int) -> None:
    """Refuse a batch that is not made of whole groups, naming the nearest one that is.

    Raises: ValueError.
    """
    if config.batch % group:
        nearest = max(1, round(config.batch / group)) * group
        raise ValueError(
            f"batch={config.batch}: {config.method} compares groups of {group} rows, which do not fill it: use "
            f"batch={nearest}, or another times.group"
        )


def from_dict(content: Mapping[str, Any]) -> TrainConfig:
    """Return a config from its values, as `to_dict` gives them.

    Raises: ValueError for an unknown field, naming its neighbors, or a value that does not fit.
    """
    objective = content.get("objective")
    if isinstance(objective, dict):
        content = {**content, "objective": serialize.from_dict(_completed(objective))}
    return from_fields(content)


def from_fields(content: Mapping[str, Any]) -> TrainConfig:
    """Return a config of these fields, the objective as a value; errors as `from_dict`."""
    for name, value in content.items():
        if name not in FIELDS:
            raise ValueError(f"unknown field {name!r}{suggest(name, FIELDS)}")
        if isinstance(value, bool) and FIELD_TYPES[name] not in (bool, bool | None):
            raise ValueError(f"{name}={value!r}: a truth value does not fit")
    try:
        return TrainConfig(**content)
    except ValidationError as error:
        raise ValueError("; ".join(problems(error))) from error


def problems(error: ValidationError) -> list[str]:
    """Return what is wrong with the values of a config, each once: the field, what was given, what is expected."""
    found: dict[str, str] = {}
    for problem in error.errors():  # those of an item come before that of the tuple which lacks it
        name = str(problem["loc"][0])
        count = len(problem["input"]) if problem["type"] == "missing" else 0
        what = f"{count + 1} values or more are expected" if count else problem["msg"]
        found.setdefault(name, f"{name}={problem['input']!r}: {what[:1].lower()}{what[1:]}")
    return list(found.values())


def _completed(objective: dict[str, Any]) -> dict[str, Any]:
    """Return the values of an objective with what an earlier version did that did not know a field: draw classes
    uniformly.
    """
    batching = objective.get("batching")
    if (
        not isinstance(batching, dict)
        or batching.get("type") != ClassGroups.__name__
        or "classes" in batching
    ):
        return objective
    return {**objective, "batching": {**batching, "classes": "uniform"}}


def parse(value: Any) -> Any:
    """Read text as JSON where it is JSON ("64", "true", "[1, 2]"), "none" as None, the rest as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value.lower() if value.lower() in ("true", "false") else value)
    except ValueError:
        return None if value.lower() in ("none", "null") else value


def as_field(name: str, value: Any) -> Any:
    """Read the text of a field; "0.9,0.99" and a single number both make a tuple where one is expected."""
    if name in ("teacher", "init"):
        return None if value is None else str(value)
    if name in ("ema", "betas", "watch_steps", "widths", "show") and isinstance(value, str):
        return tuple(parse(part) for part in value.strip("[]()").split(",") if part.strip())
    return parse(value)
