"""The runs that the app shows, read when they are first asked for, and again where their weights have changed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from threading import RLock
from typing import Generic, TypeVar

import torch

from flowleap import runs
from flowleap.data import Dataset
from flowleap.export import origin
from flowleap.model import Model, load
from flowleap.reports import unique
from flowleap.training import folder

HOME = Path("runs")
"""Where runs are looked for if none are named."""
KEPT = 4
"""Models in memory, and data sets."""
Item = TypeVar("Item")


class Recent(Generic[Item]):
    """The `KEPT` values that were used last, each made again where what it was made of has changed."""

    def __init__(self) -> None:
        self.values: OrderedDict[str, tuple[Hashable, Item]] = OrderedDict()

    def get(self, name: str, stamp: Hashable, make: Callable[[], Item]) -> Item:
        """Return the value of a name, made anew unless it was made with the same stamp."""
        known = self.values.pop(name, None)
        self.values[name] = known if known is not None and known[0] == stamp else (stamp, make())
        while len(self.values) > KEPT:
            self.values.popitem(last=False)
        return self.values[name][1]


class Library:
    """Runs by their labels: the names of their folders, with those of their parents where they repeat.

    Args:
        given: run folders, exported folders of diffusers, files of weights, or folders that hold runs; none for the
            runs in `HOME`. A folder that holds runs is read again whenever the labels are asked for.
        weights, device, vae: as `flowleap.load` takes them.

    Raises: FileNotFoundError where no run is found, naming what to do.
    """

    def __init__(
        self,
        given: Sequence[Path],
        weights: str = "ema",
        device: str | torch.device = "auto",
        vae: str | None = None,
    ) -> None:
        self.given, self.weights, self.device, self.vae = tuple(given), weights, device, vae
        self.models: Recent[Model] = Recent()
        self.data: Recent[Dataset] = Recent()
        self.lock = RLock()
        self.places = found(self.given)

    def labels(self) -> list[str]:
        """Return the labels of all runs that are there now; the former ones where none are."""
        try:
            self.places = found(self.given)
        except OSError:
            return list(self.places)
        return list(self.places)

    def place(self, label: str) -> Path:
        """Return where a run is. Raises: ValueError for another label: nothing but the listed runs is opened."""
        place = self.places.get(label)
        if place is None or not place.exists():
            raise ValueError(f"there is no run {label!r}: reload the page to see which there are")
        return place

    def model(self, label: str) -> Model:
        """Return the model of a run: its last weights, also while it is in training.

        Raises: ValueError, OSError as `flowleap.load`, such as for a run that has no weights yet.
        """
        place = self.place(label)
        with self.lock:
            return self.models.get(label, stamp(place, self.weights), lambda: self.read(place))

    def read(self, place: Path) -> Model:
        """Return the model at a place."""
        vae = self.vae if not folder.is_run(place) or kind(place) == "latents" else None
        return load(place, "ema" if origin.written(place) else self.weights, self.device, vae=vae)

    def real(self, label: str) -> Dataset:
        """Return the training data of a run.

        Raises: ValueError, OSError where they are not there any more, or the run does not say what they were.
        """
        run = self.model(label).run
        with self.lock:
            data = self.data.get(label, run.checksum, run.dataset)
        if data.shape != run.shape:
            name = run.config.data.name
            raise ValueError(
                f"the data {name!r} of this run were given from Python, and cannot be loaded by name"
            )
        return data


def found(given: Sequence[Path]) -> dict[str, Path]:
    """Return the runs at some places by their labels.

    Raises: FileNotFoundError where there is none.
    """
    places = [place for path in (given or (HOME,)) for place in inside(path)]
    if not places and not given:
        raise FileNotFoundError(
            f"there is no run in {HOME}/: train one first, with flowleap train, or name a run folder: flowleap app RUN"
        )
    places = list(dict.fromkeys(places))
    names = [place.absolute().name for place in places]
    long = [f"{place.absolute().parent.name}/{name}" for place, name in zip(places, names, strict=True)]
    labels = [b if names.count(a) > 1 else a for a, b in zip(names, long, strict=True)]
    return dict(zip(unique(labels), places, strict=True))


def inside(path: Path) -> list[Path]:
    """Return a run, or the runs in a folder or in its folder runs/ as studies have it, the newest first.

    Raises: FileNotFoundError for a path that is neither; none for `HOME`.
    """
    if path.is_file() or folder.is_run(path) or origin.written(path):
        return [path]
    configs = [*path.glob("*/config.json"), *path.glob("runs/*/config.json")]
    newest = sorted(configs, key=lambda config: config.stat().st_mtime, reverse=True)
    if not newest and path != HOME:
        folder.read(path)  # says that there is no run, and which are beside it
    return [config.parent for config in newest]


def kind(place: Path) -> str:
    """Return the kind of samples of a run folder: image, points or latents."""
    return str(folder.read(place)["dataset"]["kind"])


def stamp(place: Path, weights: str) -> Hashable:
    """Return what changes with the weights of a run: their file and its time; None for anything but a run folder.

    Raises: FileNotFoundError for a run that has no weights yet.
    """
    if not folder.is_run(place):
        return None
    path, step = runs.weights_file(place, runs.read_config(place), weights)
    return str(path), step, path.stat().st_mtime_ns
