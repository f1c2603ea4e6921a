"""Resolve the config of a run from a method or a recipe, its data, and options.

>>> config = configure("meanflow", steps=500, settings=[("times.diagonal", "0.5"), ("network.width", "96")])
>>> config.objective.times.diagonal, config.network["width"], config.data.batch
(0.5, 96, 96)
>>> found = resolve(recipe="esc-b2", batch=256)
>>> found.config.data.batch, found.changes
(256, ('recipe esc-b2: data.batch is 256 instead of 512',))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flowleap import data as data_sets
from flowleap import extensions, methods, networks, serialize
from flowleap.data import Dataset
from flowleap.interfaces import Identity
from flowleap.networks import options as network_options
from flowleap.networks.options import core, inside, kinds, with_core
from flowleap.runs import recipes
from flowleap.training import folder
from flowleap.training.config import FLAT, TrainConfig, dotted, from_fields
from flowleap.training.settings import PREPROCESSING, change, preprocessing_of, refuse_named

METHOD, DATA, RECIPE = "esc", "digits", "digits"
"""The method and the data of a run where none are named, and the recipe of one where nothing is."""
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


@dataclass(frozen=True)
class Resolved:
    """The config of a new run, its data, and what was changed about its recipe, in sentences."""

    config: TrainConfig
    dataset: Dataset
    changes: tuple[str, ...] = ()


def configure(
    method: str | None = None,
    data: str | Dataset | None = None,
    network: str | None = None,
    settings: Iterable[tuple[str, Any]] = (),
    teacher: str | Path | None = None,
    init: str | Path | None = None,
    recipe: str | None = None,
    **options: Any,
) -> TrainConfig:
    """Return the config of a new run, given what `resolve` takes."""
    return resolve(method, data, network, settings, teacher, init, recipe, **options).config


def resolve(
    method: str | None = None,
    data: str | Dataset | None = None,
    network: str | None = None,
    settings: Iterable[tuple[str, Any]] = (),
    teacher: str | Path | None = None,
    init: str | Path | None = None,
    recipe: str | None = None,
    preset: Mapping[str, Any] | None = None,
    **options: Any,
) -> Resolved:
    """Resolve a new run: the preset for its data or a recipe, changed by `options` and then by `settings`.

    Where no method, data, network, objective or other run is named it is `RECIPE`.

    Args:
        method: where the objective begins, a name; None for `METHOD`, or that of the recipe.
        data: a data set or its name, None for that of the teacher, of `init` or of the recipe, or else `DATA`. A recipe
            for data of the user is resolved on the shapes it is for, to plan with.
        network: one of `NETWORKS`, None for that of the recipe, the teacher or `init`, or else the preset's.
        teacher: the folder of the run that teaches this one.
        init: the folder of the run whose weights this one begins with.
        options: fields of the config by their short names (None: not given); `objective` may be an `Objective` of your
            own.
        settings: pairs such as ("times.diagonal", "0.5"), see `change`.
        preset: fields by dotted paths that take the place of those of `PRESETS`, as `sizing.preset` has them.

    Raises: ValueError for an unknown method, data set, network, field or option, naming its neighbors, and for a recipe
        of another method or another kind of data; FileNotFoundError for a teacher that is no run.
    """
    others = [folder.read(Path(place))["config"] for place in (teacher, init) if place is not None]
    settings = list(settings)
    refuse_named(settings)
    recipe = _recipe(recipe, method, data, network, teacher, init, options.get("objective"))
    known = others[0] if others and recipe is None else {}
    given = {dotted(name): value for name, value in options.items() if value is not None}
    asked = given | {FLAT.get(name, name): value for name, value in settings}
    if recipe is None:
        if not isinstance(data, Dataset):
            data = (known.get("data", {}).get("name") or DATA) if data is None else data
            seen = preprocessing_of((_preprocessing(data, known) | asked).items())
            data = data_sets.load(data, preprocessing=seen)
        dataset = data
        base = _preset(method or METHOD, dataset, preset) | _preprocessing(dataset.address, known)
        own = base.pop("network")
        if known:
            own = known["network"] if teacher is not None else inherited_network(known["network"])
        wanted = network_options.named(network) if network else own
    else:
        chosen = recipes.get(recipe, method)
        data = chosen.dataset if data is None else data
        dataset = data if isinstance(data, Dataset) else recipes.load(chosen, data, asked)
        base, own = recipes.fields_of(chosen, dataset), recipes.network_of(chosen)
        wanted = recipes.network_of(chosen, network)
    settings += _null_label(base, settings)
    found = {
        "data.name": dataset.address if recipe is None or data is not None else "",
        "data.square": dataset.preprocessing.square,
        "data.size": dataset.preprocessing.size,
        "imports": extensions.checksums(),
        "teacher.path": None if teacher is None else str(teacher),
        "init.path": None if init is None else str(init),
    }
    config = wrapped(from_fields({**base, **given, **found, "network": wanted}))
    serialize.to_dict(config.objective)  # raises for an objective that config.json cannot hold
    config = complete_network(change(config, settings), dataset)
    if recipe is None:
        return Resolved(config, dataset)
    plain = complete_network(wrapped(from_fields({**base, **found, "network": own})), dataset)
    return Resolved(config, dataset, tuple(recipes.changes(chosen, dataset, plain, config)))


def _recipe(recipe: str | None, *named: object) -> str | None:
    """Return the recipe of a run: `RECIPE` where neither that nor anything else is named."""
    return RECIPE if recipe is None and all(one is None for one in named) else recipe


def _null_label(base: Mapping[str, Any], settings: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return the setting that brings label dropout back: guidance by a setting needs a trained null label."""
    named = [name for name, _ in settings]
    asked = any("guidance" in name for name in named) and "label_dropout" not in named
    if not asked or base["objective"].label_dropout:
        return []
    return [("label_dropout", methods.get(base["method"]).label_dropout)]


def _preset(method: str, dataset: Dataset, changed: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the fields of a run by the kind of its data, unguided where the method is, or data have no labels; and
    those that are `changed`.
    """
    preset, objective = dict(PRESETS[dataset.kind]), methods.get(method)
    if objective.guidance is None or dataset.num_classes is None:
        objective = replace(objective, label_dropout=0.0, guidance=None)
    return {
        "method": methods.key(method),
        "objective": objective,
        "network": network_options.named(preset.pop("network")),
        **{dotted(name): value for name, value in preset.items()},
        **(changed or {}),
    }


def _preprocessing(address: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return how another run preprocesses images, where it is on the same data."""
    before = {f"data.{name}": value for name, value in known.get("data", {}).items()}
    same = before.get("data.name") == address
    return {name: value for name, value in before.items() if same and name in PREPROCESSING}


def inherited_network(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the network of a run that begins with the weights of another: without those that follow
    from data and method, and without a solver or a first stage around it.
    """
    outer = inside(options)
    derived = ("image", "shape", "classes", "log_variance", "guidance_input", "velocity_head")
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
        config = replace(config, method=methods.key(method))
    if data is not None:
        config = config.replace(data=data_sets.address(data))
    if network is not None:
        config = wrapped(replace(config, network=network_options.named(network)))
        config = complete_network(config, config.data.load())
    given = [(name, value) for name, value in options.items() if value is not None]
    return change(config, [*given, *settings])


def wrapped(config: TrainConfig) -> TrainConfig:
    """Return a config whose network is wrapped in the kind that its method trains, if any: a solver, or two stages."""
    objective = config.objective
    kind = objective.target.network_kind or objective.frozen.network_kind
    if kind is None or config.network.get("kind") == kind:
        return config
    return replace(config, network={"kind": kind, "network": config.network})


def complete_network(config: TrainConfig, dataset: Dataset) -> TrainConfig:
    """Return a config with every option of its network: shape and classes from the data, other defaults from its kind.

    On a path whose times are noise levels the network reads their logarithms (`networks.NoiseTime`). The boundary of a
    network in two stages is that of the times of the objective.

    Raises: ValueError for a network that does not fit the data or has unknown options, or a batch that is not made of
        whole groups.
    """
    options, objective = core(config.network), config.objective
    check_groups(config, objective.group)
    kind = str(options.get("kind"))
    shape = next((name for name in ("image", "shape") if networks.knows(kind, name)), None)
    if shape is not None:
        if shape == "image" and dataset.kind == "points":
            raise ValueError(
                f"a {kind} is made for images and {dataset.name} holds points: use --network mlp"
            )
        options.setdefault(shape, list(dataset.shape))
        learned = any(loss.learned for loss in objective.losses)
        if networks.knows(kind, "classes"):
            options.setdefault("classes", dataset.num_classes)
        if networks.knows(kind, "velocity_head") and networks.knows(kind, "depth"):
            depth = options.get("depth", networks.default(kind, "depth"))
            half = max(1, depth // 2) if isinstance(depth, int) else 1  # the network refuses another
            options.setdefault("velocity_head", half if objective.velocity_head else 0)
        if networks.knows(kind, "guidance_input"):
            options.setdefault("guidance_input", objective.guidance_input)
        if networks.knows(kind, "log_variance"):
            options.setdefault("log_variance", learned)
        elif learned and HEAD not in kinds(config.network):
            options = {"kind": HEAD, "network": options}
        side = [] if kind != "DiT" or dataset.kind != "image" else dataset.shape[1:]
        if side and min(side) >= LARGE and not any(n % 4 for n in side):
            options.setdefault("patch", 4)
        if options.get("checkpointing"):
            check_graph(objective.target)
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


def check_graph(target: Identity) -> None:
    """Raise ValueError where a forward-mode derivative keeps its graph, so that blocks cannot be computed again."""
    derivative, within = target.derivative, target.differentiates_derivative
    if derivative is None or not (derivative.single_pass or (within and derivative.forward_mode)):
        return
    instead = "a difference, --set target.derivative=CentralDifference"
    if not within:
        instead = "two passes, --set target.derivative=TwoPass"
    raise ValueError(
        f"network.checkpointing=true: a derivative that keeps its graph ({type(derivative).__name__} of "
        f"{type(target).__name__}) cannot be computed again: use {instead}"
    )


def check_groups(config: TrainConfig, group: int) -> None:
    """Raise ValueError for a batch that is no multiple of `group`, naming the nearest one that is."""
    if config.data.batch % group:
        nearest = max(1, round(config.data.batch / group)) * group
        raise ValueError(
            f"batch={config.data.batch}: {config.method} compares groups of {group} rows, which do not fill it: use "
            f"batch={nearest}, or another times.group"
        )
