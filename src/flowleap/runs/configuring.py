"""How the config of a run follows from a method, its data and what is asked for.

>>> config = configure("meanflow", steps=500, settings=[("times.diagonal", "0.5"), ("network.width", "96")])
>>> config.objective.times.diagonal, config.network["width"], config.data.batch
(0.5, 96, 96)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin

from flowleap import data as data_sets
from flowleap import extensions, methods, networks, serialize
from flowleap.data import Dataset, Preprocessing
from flowleap.losses import Loss
from flowleap.networks import options as network_options
from flowleap.networks.options import core, inside, kinds, with_core
from flowleap.objectives import Objective
from flowleap.suggest import suggest
from flowleap.training import folder
from flowleap.training.config import FIELDS, FLAT, GROUPS, TrainConfig, dotted, from_fields

METHOD, DATA = "esc", "digits"
"""What a run is about where nothing is said."""
WHOLE = {
    "method": "name the method itself",
    "data.name": "use --data",
    "objective": "give its fields by their own names, as in times.diagonal=0.5",
    "imports": "use --import",
    "network": "use --network for its name, and network.width=64 for an option of it",
}
"""The fields of the config that are not set by `change`, and what to do instead."""
PREPROCESSING = tuple(f"data.{field.name}" for field in fields(Preprocessing))
"""The fields that say how images at a path are preprocessed."""

HEAD = networks.WithLogVariance.__name__
"""The kind of a network around one that has no log-variance of its own."""
LEVELS = networks.NoiseTime.__name__
"""The kind of a network around one that is to read noise levels."""

LARGE = 24
"""Images from this side up are cut into patches of 4 where that fits: 28 × 28 are 49 tokens, not 196."""
PRESETS: dict[str, dict[str, Any]] = {
    "image": {"network": "dit-nano", "steps": 3600, "batch": 96, "lr": 2e-3, "decay": 0.5},
    "latents": {"network": "dit-small", "steps": 100_000, "batch": 256, "lr": 1e-4, "ema": (0.9999,)},
    "points": {"network": "mlp", "steps": 3000, "batch": 256, "lr": 1e-3, "decay": 0.5},
}
"""Settings by the kind of data, where nothing else is said. Runs are then unguided, and no label is dropped; guidance
by a setting brings the method's own label dropout back.
"""


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
    dataset, base = data, methods.get(method)
    preset = dict(PRESETS[dataset.kind])
    own = network_options.named(network or preset["network"])
    if not network and known:
        own = taught["network"] if taught else inherited(begun["network"])
    config = from_fields(
        {
            "method": method_name(method),
            "objective": replace(base, label_dropout=0.0),
            "data.name": dataset.address,
            "imports": extensions.checksums(),
            "teacher.path": None if teacher is None else str(teacher),
            "init.path": None if init is None else str(init),
            **{dotted(name): value for name, value in preset.items()},
            **_preprocessing(dataset.address, known, {}),
            **{dotted(name): value for name, value in options.items() if value is not None},
            "data.square": dataset.preprocessing.square,
            "data.size": dataset.preprocessing.size,
            "network": own,
        }
    )
    serialize.to_dict(config.objective)  # refused here where it cannot be written down
    if any("guidance" in name for name, _ in settings) and "label_dropout" not in dict(settings):
        settings.append(("label_dropout", base.label_dropout))  # guidance needs a trained null label
    return settle(change(solved(config), settings), dataset)


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
    name = (known.get("data", {}).get("name") or DATA) if data is None else data
    return data_sets.load(
        name, preprocessing=preprocessing_of([*_preprocessing(name, known, options).items(), *settings])
    )


def _preprocessing(address: str, known: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return how images are preprocessed: as the options say, or else as those of another run on the same data."""
    before = {f"data.{name}": value for name, value in known.get("data", {}).items()}
    same = before if before.get("data.name") == address else {}
    given = {FLAT.get(name, name): value for name, value in options.items() if value is not None}
    return {name: value for name, value in (same | given).items() if name in PREPROCESSING}


def inherited(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a network as a run takes them over that begins with its weights: without what follows from
    data and method, and without a solver or a first stage around it.
    """
    outer = inside(options)
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
        config = config.replace(data=data_sets.address(data))
    if network is not None:
        config = solved(replace(config, network=network_options.named(network)))
        config = settle(config, config.data.load())
    given = [(name, value) for name, value in options.items() if value is not None]
    return change(config, [*given, *settings])


def preprocessing_of(settings: Iterable[tuple[str, Any]]) -> Preprocessing | None:
    """Return how images at a path are taken by settings such as ("size", "64"), others aside; None without any.

    Raises: ValueError for values that mean nothing.
    """
    given = {
        path: as_field(path, value)
        for name, value in settings
        if (path := FLAT.get(name, name)) in PREPROCESSING
    }
    given = {path.partition(".")[2]: value for path, value in given.items() if value is not None}
    return Preprocessing(**given) if given else None


def method_name(method: str) -> str:
    """Return the name of a method as configs and folders hold it, with underscores."""
    return method.strip().lower().replace("-", "_").replace(" ", "_")


def change(config: TrainConfig, settings: Iterable[tuple[str, Any]]) -> TrainConfig:
    """Return a config with some values replaced, given by name as text or as they are.

    A field of the config ("warmup"), an option of the network ("network.width"), or a field of the objective
    at any depth ("times.diagonal", "loss.power").

    Raises: ValueError for an unknown name, with its neighbors, or a value that does not fit.
    """
    changed: dict[str, Any] = {}
    parts: list[tuple[str, str]] = []
    for name, value in settings:
        head, _, rest = name.partition(".")
        path = FLAT.get(name, name)
        if head == "network" and rest:
            network = network_options.change(changed.get("network", config.network), rest, parse(value))
            changed["network"] = network
        elif path in WHOLE or head in WHOLE:
            raise ValueError(f"{name!r} is not set as a field: {WHOLE.get(path) or WHOLE[head]}")
        elif path in FIELDS or head in GROUPS:
            changed[dotted(name)] = as_field(path, value)
        else:
            parts.append((name, value if isinstance(value, str) else json.dumps(value)))
    return config.replace(**changed, objective=override(config.objective, parts))


def solved(config: TrainConfig) -> TrainConfig:
    """Return a config whose network is one around the one it names, where its method trains such: a solver, or one in
    two stages.
    """
    objective = config.objective
    kind = objective.target.network_kind or objective.frozen.network_kind
    if kind is None or config.network.get("kind") == kind:
        return config
    return replace(config, network={"kind": kind, "network": config.network})


def override(objective: Objective, settings: Iterable[tuple[str, str]]) -> Objective:
    """Return an objective with some fields replaced, all at once."""
    known = [f.name for f in fields(Objective)]
    for name, _ in settings:
        head = name.partition(".")[0]
        if serialize.renamed(head, None, known)[0] not in known:
            every = [
                *known,
                *(path for path in FIELDS if path not in WHOLE),
                "network.width",
                "network.depth",
            ]
            raise ValueError(f"unknown field {name!r}{suggest(head, every, FLAT)}")
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
    if config.data.batch % group:
        nearest = max(1, round(config.data.batch / group)) * group
        raise ValueError(
            f"batch={config.data.batch}: {config.method} compares groups of {group} rows, which do not fill it: use "
            f"batch={nearest}, or another times.group"
        )


def parse(value: Any) -> Any:
    """Read text as JSON where it is JSON ("64", "true", "[1, 2]"), "none" as None, the rest as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value.lower() if value.lower() in ("true", "false") else value)
    except ValueError:
        return None if value.lower() in ("none", "null") else value


def as_field(path: str, value: Any) -> Any:
    """Read the text of a field; "0.9,0.99" and a single number both make a tuple where one is expected."""
    if path in ("teacher.path", "init.path"):
        return None if value is None else str(value)
    several = tuple in (get_origin(hint) for hint in (FIELDS[path], *get_args(FIELDS[path])))
    if several and isinstance(value, str):
        return tuple(parse(part) for part in value.strip("[]()").split(",") if part.strip())
    return parse(value)
