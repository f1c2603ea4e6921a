"""Convert a file of published weights to a run folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from flowleap import data as data_sets
from flowleap import methods, networks
from flowleap.data import Dataset, Preprocessing, opening
from flowleap.files import replace_file
from flowleap.guidance import Guidance
from flowleap.importers import hub
from flowleap.importers.files import Contents, read
from flowleap.importers.layouts import (
    LATENT_CHANNELS,
    TRAINING_ONLY,
    Geometry,
    Layout,
    Named,
    geometry,
    layout_of,
    parameters,
    sets_of,
)
from flowleap.networks.adapters import Border
from flowleap.networks.embeddings import sincos_positions
from flowleap.objectives import Objective
from flowleap.training import checkpoint, folder
from flowleap.training.config import (
    DataConfig,
    EvaluationConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)

FILES = {"ema": "ema.safetensors", "raw": "network.safetensors"}


class Published(NamedTuple):
    """How a layout is represented here.

    Args:
        adapters: around our transformer, from the inside out.
        decay: of the published weight average. decoder, scale: of its latents.
    """

    method: str
    adapters: tuple[type[Border], ...]
    decay: float
    decoder: str
    scale: float


PUBLISHED: dict[Layout, Published] = {
    "esc": Published("esc", (), 0.9999, "stabilityai/sd-vae-ft-ema", 0.18125),
    "sit": Published("flow_matching", (networks.Reversed,), 0.9999, "stabilityai/sd-vae-ft-ema", 0.18215),
    "dit": Published("diffusion", (networks.Timestep,), 0.9999, "stabilityai/sd-vae-ft-ema or -mse", 0.18215),
    "shortcut": Published(
        "shortcut_repo", (networks.Reversed, networks.StepToken), 0.999, "stabilityai/sd-vae-ft-mse", 0.18215
    ),
}
STEPS = ("steps", "step", "train_state/step")
"""Names under which files state the step of the weights."""
LATENTS, IMAGE = "latents", "image"


@dataclass(frozen=True)
class Imported:
    """The imported run folder, and a line of text about it."""

    folder: Path
    layout: Layout
    weights: str
    kind: str
    text: str
    steps: int
    """The fewest sampling steps that the method is trained for."""


@dataclass(frozen=True)
class Network:
    """Parameters under the names of our network, its config, and the objective that they were trained with."""

    config: dict[str, Any]
    parameters: Named
    objective: Objective
    method: str


def import_weights(
    file: str | Path,
    out: str | Path,
    *,
    layout: str = "auto",
    weights: str = "ema",
    classes: int | str | None = None,
    heads: int | None = None,
    image_size: int | None = None,
    kind: str = "auto",
    data: str | None = None,
    overwrite: bool = False,
) -> Imported:
    """Write the weights in a file, or of a model of the Hugging Face hub, as the run folder `out`.

    Args:
        file: a .pt, .pth, .safetensors or .npz, or OWNER/NAME of the hub, or OWNER/NAME:FILE.
        layout: one of `LAYOUTS`, or "auto".
        weights: "ema" or "raw"; a single set that is not named is either.
        classes: their number, which is only checked; "none" for a network that is always given its null class, as the
            one that kvfrans/shortcut-models trains on CelebA (the default for a single class in that layout).
        heads, image_size: sizes that do not follow from shapes, see `layouts.geometry`.
        kind: "latents", "image", or "auto": latents if there are four channels.
        data: the data set that the network was trained on, if available.

    Raises: FileNotFoundError; CheckpointError for a file that cannot be read; ValueError for an unknown layout or a
        network that cannot be represented, with the reason; FileExistsError for a folder that is not empty.
    """
    place = Path(out)
    contents = _contents(str(file))
    try:
        named, layout_found, g = _recognized(contents, layout, weights, heads, image_size)
        labels = _labels(g, layout_found, classes)
        network = _network(contents, named, layout_found, g, labels)
    except ValueError as error:
        where = str(contents.path)
        raise ValueError(str(error) if str(error).startswith(where) else f"{where}: {error}") from error
    sort = _kind(kind, g)
    dataset = _dataset(data, network.config, g, sort)
    config = _config(contents, network, layout_found, dataset)
    about: dict[str, Any] = {
        "file": contents.path.name,
        "checksum": contents.checksum,
        "layout": layout_found,
        "weights": weights,
        "left_out": [name for name in TRAINING_ONLY if name in named],
        "unknown": ["batch", "lr", "seed", *([] if _step(contents) else ["steps"])],
    }
    if sort == LATENTS:
        known = PUBLISHED[layout_found]
        about |= {"decoder": known.decoder, "scale": known.scale}
    known_data: dict[str, Any] = {
        "kind": sort,
        "shape": [g.channels, g.side, g.side],
        "classes": g.classes if labels else None,
        "class_names": [] if dataset is None or not labels else list(dataset.class_names),
        "class_counts": [] if dataset is None or not labels else list(dataset.class_counts),
        "rows": None if dataset is None else len(dataset),
        "checksum": None if dataset is None or not dataset.path else dataset.checksum,
    }
    if dataset is not None and dataset.codec is not None:
        known_data["codec"] = asdict(dataset.codec)
    _write(place, network, config, about, known_data, overwrite=overwrite)
    return Imported(
        folder=place,
        layout=layout_found,
        weights=weights,
        kind=sort,
        text=_line(contents, named, layout_found, g, sort, labels, weights),
        steps=network.objective.sampling.least,
    )


def _contents(file: str) -> Contents:
    path = Path(file)
    if not path.exists() and hub.is_id(file):
        path = hub.fetch(file)
    return read(path)


def _recognized(
    contents: Contents, layout: str, weights: str, heads: int | None, image_size: int | None
) -> tuple[Named, Layout, Geometry]:
    """Return the parameters asked for, their layout and their sizes."""
    if weights not in FILES:
        raise ValueError(f"weights={weights!r}: expected {' or '.join(FILES)}")
    for name, number in (("--heads", heads), ("--image-size", image_size)):
        if number is not None and number < 1:
            raise ValueError(f"{name} {number}: a number from 1 up is expected")
    sets = sets_of(contents)
    named = sets.get(weights, sets.get(""))
    if named is None:
        raise ValueError(
            f"it holds no {weights} weights, only {' and '.join(sets)}: take these, --weights {next(iter(sets))}"
        )
    found = layout_of(named, layout)
    return named, found, geometry(named, found, heads, image_size)


def _labels(g: Geometry, layout: Layout, classes: int | str | None) -> bool:
    """Return whether the network is given labels; a single class of shortcut-models is always dropped (cfg_scale 0).

    Raises: ValueError for another number of classes than that of the label embedding.
    """
    if classes is None:
        return g.classes is not None and (g.classes > 1 or layout != "shortcut")
    if isinstance(classes, str):
        if classes.lower() == "none":
            return False
        if not classes.isdecimal():
            raise ValueError(f"classes={classes!r}: expected a number, or none")
    if g.classes is None or int(classes) != g.classes:
        rows = "no table of labels" if g.classes is None else f"a table of {g.classes + 1} rows"
        exact = g.classes is not None and int(classes) == g.classes + 1
        null = "; without a row for 'no class' it cannot be represented" if exact else ""
        raise ValueError(f"it has {rows}, and {classes} classes and 'no class' take {int(classes) + 1}{null}")
    return True


def _network(contents: Contents, named: Named, layout: Layout, g: Geometry, labels: bool) -> Network:
    """Return the converted network inside the adapters of its layout.

    Raises: ValueError for a network that cannot be represented.
    """
    converted = parameters(named, layout, g, labels)
    if "pos_embed" not in converted:
        converted["pos_embed"] = sincos_positions(g.width, g.side // g.patch, g.side // g.patch)
    network: Border | networks.DiT = g.network(g.classes if labels else None)
    network.load_state_dict(converted, assign=True)
    for adapter in PUBLISHED[layout].adapters:
        network = adapter(network)
    method, objective = _method(contents, layout)
    return Network(network.config, network.state_dict(), objective, method)


def _method(contents: Contents, layout: Layout) -> tuple[str, Objective]:
    """Return the method of the weights, with the guidance of their settings if the file has them.

    Raises: ValueError for a method whose output cannot be represented.
    """
    method, said = PUBLISHED[layout].method, contents.notes
    if layout == "esc":
        trained = said.get("args/model_name", "esc")
        if trained not in ("esc", "meanflow"):
            raise ValueError(
                f"it was trained as {trained!r}: only esc and meanflow, whose output is the average velocity, can be "
                "represented"
            )
        if said.get("args/path_type", "linear") != "linear":
            raise ValueError(
                f"it was trained on the path {said['args/path_type']!r}: only the linear one, with average velocities, "
                "can be represented"
            )
        method = str(trained)
    objective = methods.get(method)
    names = ("cfg_omega", "cfg_kappa", "cfg_min_t", "cfg_max_t")
    omega, kappa, low, high = (said.get(f"args/{name}") for name in names)
    if layout == "esc" and omega is not None and kappa is not None:
        window = None if low is None or high is None else (float(low), float(high))
        guidance = Guidance(omega=float(omega), kappa=float(kappa), window=window)
        objective = replace(objective, guidance=None if (omega, kappa) == (1, 0) else guidance)
    return method, objective


def _kind(asked: str, g: Geometry) -> str:
    if asked not in ("auto", LATENTS, IMAGE):
        raise ValueError(f"kind={asked!r}: expected auto, {LATENTS} or {IMAGE}")
    if asked == "auto":
        return LATENTS if g.channels == LATENT_CHANNELS else IMAGE
    return asked


def _dataset(data: str | None, config: dict[str, Any], g: Geometry, kind: str) -> Dataset | None:
    """Return the data set that the network was trained on.

    Raises: ValueError for a network of another shape or other classes.
    """
    if data is None:
        return None
    preprocessing = Preprocessing(size=g.side) if opening.present(data) else None
    dataset, shape = data_sets.load(data, preprocessing=preprocessing), (g.channels, g.side, g.side)
    if dataset.shape != shape or dataset.kind != kind:
        raise ValueError(
            f"the network makes {kind} of shape {shape}, and {data} holds {dataset.kind} of shape {dataset.shape}: "
            "leave --data out, or name what it was trained on"
        )
    while "network" in config:
        config = config["network"]
    if config["classes"] not in (None, dataset.num_classes):
        raise ValueError(
            f"the network knows {config['classes']} classes, and {data} has {dataset.num_classes or 'none'}"
        )
    return dataset


def _step(contents: Contents) -> int | None:
    """Return the step that a file states."""
    found = (contents.notes.get(name) for name in STEPS)
    return next((int(step) for step in found if isinstance(step, int | float) and step >= 1), None)


def _config(contents: Contents, network: Network, layout: Layout, dataset: Dataset | None) -> TrainConfig:
    """Return a config of the known settings; `imported` in config.json lists the unknown ones."""
    return TrainConfig(
        method=network.method,
        objective=network.objective,
        network=json.loads(json.dumps(network.config)),
        data=DataConfig(name="", batch=1)
        if dataset is None
        else DataConfig(dataset.address, 1, dataset.preprocessing.square, dataset.preprocessing.size),
        optimizer=OptimizerConfig(lr=1e-4, ema=(PUBLISHED[layout].decay,)),
        schedule=ScheduleConfig(steps=_step(contents) or 1),
        evaluation=EvaluationConfig(online_share=0.0),
    )


def _write(
    place: Path,
    network: Network,
    config: TrainConfig,
    about: dict[str, Any],
    dataset: dict[str, Any],
    *,
    overwrite: bool,
) -> None:
    """Write a run folder; config.json, which makes it one, comes last."""
    write = partial(checkpoint.write_tensors, tensors=network.parameters, step=config.schedule.steps)
    with folder.held(place, new=True, overwrite=overwrite):
        replace_file(place / FILES[about["weights"]], write)
        folder.note_environment(place / "environment.json")
        folder.write(place, config, dataset, imported=about)


def _line(
    contents: Contents, named: Named, layout: Layout, g: Geometry, kind: str, labels: bool, weights: str
) -> str:
    """Return a line about the network; the number of parameters is that of the file."""
    asked = (tensor for name, tensor in named.items() if name not in ("pos_embed", *TRAINING_ONLY))
    known = f"{g.classes} class{'es' * (g.classes != 1)}" if labels else "no labels"
    step = _step(contents)
    things = "images" if kind == IMAGE else kind
    return (
        f"{layout}: {things} {g.channels} x {g.side} x {g.side}, patch {g.patch}, width {g.width}, depth {g.depth}, "
        f"{g.heads} heads, {known}, {sum(map(Tensor.numel, asked)):,} parameters, {weights} weights"
        f"{'' if step is None else f' of step {step:,}'}"
    )
