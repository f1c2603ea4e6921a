"""Files of samples, written batch by batch as the samples are made; the same request goes on after an interruption.

| --out   | while it is written                                      | memory       |
|---------|----------------------------------------------------------|--------------|
| .png    | nothing                                                  | all samples  |
| .npz    | .NAME.npz.unfinished: samples as they are, and a record  | one batch    |
| folder  | the images, and a record                                 | one batch    |

The record, unfinished.json, says what was asked for and how many samples are written whole.
"""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from flowleap import data as data_sets
from flowleap import pictures
from flowleap.files import replace_file
from flowleap.runs.reading import Run

RECORD = "unfinished.json"
MADE_HERE = re.compile(r"\d{6,}\.png|labels\.csv|unfinished\.json")


@dataclass
class SampleFiles(ABC):
    """Where the samples of a run are written.

    Args:
        path: the file or folder. run: whose samples they are.
        label: of all samples, (num,) int64, None without classes.
    """

    path: Path
    run: Run
    label: Tensor | None = None

    @property
    @abstractmethod
    def home(self) -> Path | None:
        """The folder of what is not finished; None where all is kept in memory until the end."""

    @property
    @abstractmethod
    def room(self) -> tuple[int, str]:
        """The most bytes that a number of a sample takes, and where: "memory" or "the disk"."""

    @abstractmethod
    def holds(self, done: int) -> bool:
        """Return whether the first `done` samples are there, whole."""

    @abstractmethod
    def open(self, done: int) -> None:
        """Make ready to write sample number `done` and those that follow."""

    @abstractmethod
    def add(self, start: int, samples: Tensor) -> None:
        """Write the samples from number `start` on, (n, *shape) float32."""

    @abstractmethod
    def close(self) -> None:
        """Finish the file or folder, once all samples are written."""

    def begin(self, asked: Mapping[str, Any], overwrite: bool) -> int:
        """Return how many samples an interrupted call for the same wrote already, and make ready for the others.

        Args:
            asked: what the samples depend on, as JSON-able values. overwrite: whether other samples are replaced.

        Raises: ValueError where others are unfinished there.
        """
        self.asked = json.loads(json.dumps(asked))
        kept = self._record()
        if kept and kept["asked"] != self.asked and not overwrite:
            other = {name: kept["asked"].get(name) for name in self.asked}
            unlike = ", ".join(
                f"{name} {value} instead of {self.asked[name]}"
                for name, value in other.items()
                if value != self.asked[name]
            )
            raise ValueError(
                f"{self.path}: {kept['done']:,} other samples were interrupted there, {unlike}: go on with these, "
                "choose another --out, or replace them with --overwrite"
            )
        same = kept and kept["asked"] == self.asked and self.holds(kept["done"])
        done = kept["done"] if same else 0
        self.open(done)
        return int(done)

    def write(self, start: int, samples: Tensor) -> int:
        """Write the samples from number `start` on, record it, and return how many they are."""
        self.add(start, samples)
        if self.home is not None:
            record = {"asked": self.asked, "done": start + len(samples)}
            replace_file(self.home / RECORD, json.dumps(record, indent=2) + "\n")
        return len(samples)

    def _record(self) -> Any:
        return None if self.home is None else record_in(self.home)


def record_in(home: Path) -> Any:
    """Return the record in a folder, None where there is none that can be read."""
    try:
        return json.loads((home / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@dataclass
class Picture(SampleFiles):
    """A grid of images with a row for each class where several are shown, or points beside the real data."""

    parts: list[Tensor] = field(default_factory=list)

    @property
    def home(self) -> None:
        return None

    @property
    def room(self) -> tuple[int, str]:
        return 4, "memory"

    def holds(self, done: int) -> bool:
        return False

    def open(self, done: int) -> None:
        self.parts.clear()

    def add(self, start: int, samples: Tensor) -> None:
        self.parts.append(samples)

    def close(self) -> None:
        samples, run = torch.cat(self.parts), self.run
        if samples.ndim > 2:
            pictures.save(pictures.grid(samples, label=self.label, names=run.classes), self.path)
            return
        behind = (
            data_sets.load(run.config.data.name).x[:] if run.config.data.name in data_sets.names else None
        )
        pictures.scatter({f"{len(samples)} samples": samples}, self.path, real=behind)


@dataclass
class Arrays(SampleFiles):
    """A .npz: images, points or latents in float32, labels in int64 (−1 where there are none), names of the classes."""

    @property
    def home(self) -> Path:
        return self.path.with_name(f".{self.path.name}.unfinished")

    @property
    def room(self) -> tuple[int, str]:
        return 8, "the disk"  # once as they are, once in the file

    def holds(self, done: int) -> bool:
        place = self.home / "samples"
        return place.is_file() and place.stat().st_size >= 4 * done * math.prod(self.run.shape)

    def open(self, done: int) -> None:
        if not done:
            shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True, exist_ok=True)

    def add(self, start: int, samples: Tensor) -> None:
        with (self.home / "samples").open("r+b" if start else "wb") as file:
            file.seek(4 * start * math.prod(self.run.shape))
            file.truncate()  # a batch that was cut off
            file.write(numpy.ascontiguousarray(samples.numpy(), dtype="<f4").data)

    def close(self) -> None:
        place = self.home / "samples"
        shape = (place.stat().st_size // (4 * math.prod(self.run.shape)), *self.run.shape)
        label = numpy.full(shape[0], -1) if self.label is None else self.label.numpy()
        arrays = {} if self.label is None else {"classes": numpy.array(self.run.classes)}
        name = {"points": "points", "latents": "latents"}.get(self.run.kind, "images")

        def write(partial: Path) -> None:
            with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file, place.open("rb") as source:
                    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                    numpy.lib.format.write_array_header_1_0(file, header)
                    shutil.copyfileobj(source, file, 1 << 20)
                for other, array in {**arrays, "labels": label.astype("int64")}.items():
                    with archive.open(f"{other}.npy", "w") as file:
                        numpy.lib.format.write_array(file, array)

        replace_file(self.path, write)
        shutil.rmtree(self.home)


@dataclass
class Images(SampleFiles):
    """A folder with one PNG per image in its own size, 000000.png and up, and labels.csv; earlier ones are removed."""

    @property
    def home(self) -> Path:
        return self.path

    @property
    def room(self) -> tuple[int, str]:
        return 1, "the disk"

    def holds(self, done: int) -> bool:
        return all((self.path / f"{index:06d}.png").is_file() for index in range(done))

    def open(self, done: int) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        for entry in [] if done else self.path.iterdir():
            if MADE_HERE.fullmatch(entry.name):
                entry.unlink()

    def add(self, start: int, samples: Tensor) -> None:
        for index, image in enumerate(pictures.images(samples), start):
            image.save(self.path / f"{index:06d}.png")

    def close(self) -> None:
        if self.label is not None:
            with (self.path / "labels.csv").open("w", encoding="utf-8", errors="replace", newline="") as file:
                table = csv.writer(file, lineterminator="\n")
                table.writerow(("file", "label", "class"))
                table.writerows(
                    (f"{i:06d}.png", value, self.run.classes[value])
                    for i, value in enumerate(self.label.tolist())
                )
        (self.path / RECORD).unlink()


def kind_of(path: Path) -> type[SampleFiles]:
    """Return how to write to a path, by its suffix.

    Raises: ValueError for a suffix that is neither .png nor .npz nor that of a folder.
    """
    known: dict[str, type[SampleFiles]] = {".png": Picture, ".npz": Arrays, "": Images}
    suffix = "" if path.is_dir() else path.suffix.lower()
    if suffix not in known:
        raise ValueError(f"{path}: --out takes a .png, a .npz or a folder, not {path.suffix!r}")
    return known[suffix]


def unfinished(path: Path) -> bool:
    """Return whether a folder holds samples of an interrupted call, not yet all."""
    return path.is_dir() and record_in(path) is not None


def place(run: Run, out: Path | None, label: Tensor | None) -> SampleFiles:
    """Return where samples of a run are written; by default into its folder.

    Args:
        run: of kind "image" and with the shape of an image where latents are decoded.

    Raises: ValueError for what the place cannot hold: pictures of latents that are not decoded, a folder of points.
    """
    latents = run.kind == "latents"
    path = run.folder / ("samples.npz" if latents else "samples.png") if out is None else out
    kind = kind_of(path)
    if latents and kind is not Arrays:
        raise ValueError(
            f"{path}: the samples of {run.folder} are latents, not yet images: name the autoencoder that decodes them "
            "with --vae, or write them as a .npz"
        )
    if len(run.shape) == 1 and kind is Images:
        raise ValueError(f"{path}: points are written as a .png scatter plot or a .npz, not as a folder")
    return kind(path, run, label)
