"""A trained run read back from its folder."""

from __future__ import annotations

import os
import re
import shlex
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flowleap import autoencoders, extensions, networks, processes
from flowleap import data as data_sets
from flowleap.autoencoders import Decoder
from flowleap.data import Dataset
from flowleap.data.codec import Codec
from flowleap.files import replace_file
from flowleap.flow_map import FlowMap
from flowleap.objectives import Objective
from flowleap.runs.phases import TEACHER, length, own_teacher
from flowleap.threads import Adaptive
from flowleap.training import checkpoint, folder
from flowleap.training.config import TrainConfig, from_dict
from flowleap.training.online_evaluation import BEST
from flowleap.training.posthoc import name_of, synthesized, width_in

WEIGHTS = ("ema", "raw", BEST)


@dataclass(frozen=True)
class Run:
    """A trained run: its config and objective, and the flow map of the weights that were asked for.

    Shapes: `shape` is that of one sample. `weights` names the weights and their step, as in "ema-0.999@2200".
    `kind` is that of its samples: image, points, or latents, which a decoder of its own makes images of. `imported`
    says which file the weights are from where they were not trained here, see `flowleap.importers`. `codec` is the
    autoencoder of latents. `classes` are the names of the classes that the network knows, their numbers where the run
    does not say; `named` whether it says. `class_counts` are the rows that each had in training, where it says so.
    """

    folder: Path
    config: TrainConfig
    objective: Objective
    network: nn.Module
    flow: FlowMap
    weights: str
    step: int
    kind: str
    shape: tuple[int, ...]
    num_classes: int | None
    checksum: str | None = None
    imported: Mapping[str, Any] | None = None
    codec: Codec | None = None
    classes: tuple[str, ...] = ()
    named: bool = False
    class_counts: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """The steps of its training, without those of a teacher of its own."""
        return length(self.config)

    def decoder(self, vae: str | None = None) -> Decoder | None:
        """Return what makes images of its latents: the autoencoder they were made with, or another that is named.

        None for images and points, and, with a warning, where that autoencoder is not at hand.

        Raises: ValueError where one is named for anything but latents; as `autoencoders.load`.
        """
        if self.kind != "latents":
            if vae is not None:
                raise ValueError(
                    f"the samples of {self.folder} are no latents to be decoded: leave --vae out"
                )
            return None
        device = next(self.network.parameters()).device
        if vae is None:
            return autoencoders.decoder_or_none(self.codec, device)
        return autoencoders.decoder(self.codec, vae, device)

    def dataset(self) -> Dataset:
        """Load the data set that the run was trained on.

        Raises: ValueError where it was given as tensors rather than by name, or the run was imported without it.
        """
        if not self.config.data.name:
            raise ValueError(
                f"{self.folder} was imported, and does not say what it was trained on: import it with --data, where "
                "that is at hand"
            )
        if self.imported is not None and not data_sets.present(self.config.data.name):
            raise ValueError(
                f"{self.folder} was imported with --data {self.config.data.name}, and nothing is there: put it back, "
                "or import it again with the place where the data are now"
            )
        return self.config.data.load(self.checksum)


def device_of(name: str | torch.device) -> torch.device:
    """Return the device of a name; "auto" is a GPU where there is one.

    Raises: ValueError for a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r}: torch sees no GPU on this machine; use --device cpu")
    return device


def weights_name(config: TrainConfig, weights: str, step: int) -> str:
    """Return what weights are called in a protocol: "ema-0.999@2200", "raw@2200" or "best@2200"."""
    return f"ema-{config.optimizer.ema[0]}@{step}" if weights == "ema" else f"{weights}@{step}"


def origin(place: Path) -> str | None:
    """Return, in words, where the weights of the run in a folder are from; None where they were trained there."""
    imported = folder.read(place)["imported"]
    if imported is None:
        return None
    return (
        f"imported from {imported['file']} (SHA-256 {imported['checksum'][:12]}), layout {imported['layout']}: its "
        f"{', '.join(imported['unknown'])} are not known, and the settings for them mean nothing"
    )


def imported_name(imported: Mapping[str, Any]) -> str:
    """Return what imported weights are called in a protocol: "ema-0600000.pt@1a2b3c4d5e6f", by their file."""
    file = re.sub(r"[^\w.-]", "_", str(imported["file"]))
    return f"{imported['weights']}-{file}@{imported['checksum'][:12]}"


def write_config(place: Path, config: TrainConfig, dataset: Dataset) -> None:
    """Write the config.json in `place`, the config and what sampling needs to know of the data; copy imported files."""
    extensions.copy_into(place, config.imports)
    known = {
        "kind": dataset.kind,
        "shape": list(dataset.shape),
        "classes": dataset.num_classes,
        "class_names": list(dataset.class_names),
        "class_counts": list(dataset.class_counts),
        "rows": len(dataset),
        "checksum": dataset.checksum if dataset.path else None,
        "place": data_sets.place(dataset.path) if dataset.path else None,
    } | ({} if dataset.codec is None else {"codec": asdict(dataset.codec)})
    folder.write(place, stored(config, place), known)


def stored(config: TrainConfig, place: Path) -> TrainConfig:
    """Return a config as its file in `place` holds it: another run beside or inside it is named relative to it."""

    def seen(other: str | None) -> str | None:
        if other is None:
            return None
        path = Path(other).resolve()
        near = path.is_relative_to(place.resolve().parent)
        return (Path(os.path.relpath(path, place.resolve())) if near else path).as_posix()

    return config.replace(teacher=seen(config.teacher.path), init=seen(config.init.path))


def note(place: Path, config: TrainConfig, dataset: Dataset, adaptive: Adaptive | None = None) -> None:
    """Write the config.json and the environment.json of a run; all processes wait until they are there."""
    processes.from_first(lambda: write_config(place, config, dataset))
    processes.from_first(lambda: folder.note_environment(place / "environment.json", adaptive))


def read_config(place: str | Path) -> TrainConfig:
    """Return the config of the run in a folder; its teacher is named so that it is found from here.

    Raises: FileNotFoundError, ValueError where there is none.
    """
    return config_of(folder.read(Path(place))["config"], Path(place))


def config_of(content: dict[str, Any], place: Path) -> TrainConfig:
    """Return a config from the values in the folder of a run; fields that its version did not know have defaults.

    Raises: ValueError where it needs parts that are not known, naming the file to import.
    """
    reason = extensions.missing(content, place)
    if reason is not None:
        raise ValueError(reason)
    for name in extensions.changed(content):
        warnings.warn(
            f"{name} is not as it was when {place} was trained; its copy is in {extensions.FOLDER}/",
            stacklevel=3,
        )
    config = from_dict(content)

    def found(other: str | None) -> str | None:
        return other if other is None or Path(other).is_absolute() else os.path.normpath(place / other)

    return config.replace(teacher=found(config.teacher.path), init=found(config.init.path))


def load_run(place: str | Path, weights: str = "ema", device: str | torch.device = "cpu") -> Run:
    """Read a run back: the weights at its end, or those of its last checkpoint where it has not ended.

    A teacher is neither needed nor read.

    Args:
        weights: "ema" for the first running average, "raw" for the weights of the last step, "best" for those
            that did best while training, "width-0.1" for an average of that width, made by `write_average`.

    Raises: FileNotFoundError for a folder without a run or a run without weights; CheckpointError for a
        truncated or foreign file, naming it and the reason; ValueError for other weights.
    """
    place = Path(place)
    if weights not in WEIGHTS and width_in(weights) is None:
        raise ValueError(
            f'weights={weights!r}: expected "ema" (the running average), "raw" (the last step), "best" (the average '
            'that measured best while training) or "width-W" (an average of that width, which flowleap ema makes)'
        )
    content = folder.read(place)
    config, imported = config_of(content["config"], place), content["imported"]
    path, step = weights_file(place, config, weights)
    network = networks.build(config.network)
    checkpoint.load_weights(path, network)
    name = weights_name(config, weights, step) if imported is None else imported_name(imported)
    return assembled(place, config, content, network.to(device_of(device)), name, step)


def assembled(
    place: Path, config: TrainConfig, content: Mapping[str, Any], network: nn.Module, weights: str, step: int
) -> Run:
    """Return a run of its config, its trained network, and the rest of what config.json says.

    Args:
        content: dataset and imported, as `folder.read` returns them. weights, step: what the weights are called.
    """
    known, imported = content["dataset"], content["imported"]
    network.eval().requires_grad_(False)
    objective = config.objective.for_run(length(config))
    count: int | None = network.num_classes  # type: ignore[assignment]
    names = tuple(known.get("class_names") or ())
    named = count is not None and len(names) == count
    return Run(
        folder=place,
        config=config,
        objective=objective,
        network=network,
        flow=objective.flow_map(network),
        weights=weights,
        step=step,
        kind=known["kind"],
        shape=tuple(known["shape"]),
        num_classes=count,
        checksum=known.get("checksum"),
        imported=imported,
        codec=codec_of(known, imported),
        classes=names if named else tuple(str(number) for number in range(count or 0)),
        named=named,
        class_counts=tuple(known.get("class_counts") or ()) if named else (),
    )


def codec_of(known: Mapping[str, Any], imported: Mapping[str, Any] | None) -> Codec | None:
    """Return what a run knows of the autoencoder behind its latents; None for anything but latents."""
    if known.get("codec"):
        return Codec(**known["codec"])
    if known["kind"] == "latents" and imported is not None and "scale" in imported:
        return Codec(str(imported["decoder"]), scaling=float(imported["scale"]))
    return None


def write_average(place: str | Path, width: float, step: int | None = None) -> Path:
    """Make the average of a width out of those that a run stored, and write it into its folder; return the file.

    It is then what `load_run(place, weights="width-0.1")` reads. One that is there already is replaced.

    Args:
        width: see `training.power`. step: one at which averages were stored, None for the last.

    Raises: ValueError where none are stored, or they do not reach that width; FileNotFoundError where there is no run.
    """
    place = Path(place)
    folder.read(place)
    tensors, step = synthesized(place, width, step)
    path = place / f"{name_of(width)}.safetensors"
    replace_file(path, partial(checkpoint.write_tensors, tensors=tensors, step=step))
    return path


def weights_file(place: Path, config: TrainConfig, weights: str) -> tuple[Path, int]:
    """Return the file that holds the weights of a run, and the step that they are from.

    Raises: FileNotFoundError for a run that has not saved any.
    """
    if weights == BEST:
        best = place / f"{BEST}.safetensors"
        if not best.exists():
            raise FileNotFoundError(
                f"{place} has no best weights: quality was not measured while it trained (online_share=0, or too "
                "short a run); use the weights of its end, --weights ema"
            )
        return best, checkpoint.step_of(best)
    if width_in(weights) is not None:
        average = place / f"{weights}.safetensors"
        if not average.exists():
            raise FileNotFoundError(
                f"{place} has no average {weights}: make it with: flowleap ema {shlex.quote(str(place))} --width "
                f"{width_in(weights):g}"
            )
        return average, checkpoint.step_of(average)
    final = place / ("ema.safetensors" if weights == "ema" else "network.safetensors")
    ended = checkpoint.step_of(final) if final.exists() else -1
    path = checkpoint.latest(place / "checkpoints") if ended < length(config) else None
    if path is not None:
        step = checkpoint.read_progress(path / "state.json").step
        name = checkpoint.average_name(config.optimizer.ema[0]) if weights == "ema" else "network.safetensors"
        return path / name, step
    if ended < 0:
        imported = folder.read(place)["imported"]
        if imported is not None:
            raise FileNotFoundError(
                f"{place} was imported with its {imported['weights']} weights only: use --weights "
                f"{imported['weights']}"
            )
        begun = own_teacher(config) and folder.is_run(place / TEACHER)
        hint = f"; it is at its teacher, a run of its own in {place / TEACHER}" if begun else ""
        raise FileNotFoundError(
            f"{place} has no weights yet: it was stopped before its first checkpoint{hint}"
        )
    return final, ended
