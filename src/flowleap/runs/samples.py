"""Samples of a run for pictures, real samples beside them, and samples as files."""

from __future__ import annotations

import csv
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from flowleap import data as data_sets
from flowleap import evaluation, pictures
from flowleap.autoencoders import Decoder
from flowleap.data import Dataset
from flowleap.data.codec import Codec
from flowleap.files import replace_file
from flowleap.formatting import roughly
from flowleap.runs import estimate
from flowleap.runs.reading import Run

MADE_HERE = re.compile(r"\d{6}\.png|labels\.csv")
Writer = Callable[[Path, Tensor, Tensor | None, Run], None]


def first(run: Run, num: int, steps: int, decoder: Decoder | None = None) -> Tensor:
    """Return the first samples of a run, from the same noise for all runs, classes in turn; no advice on steps.

    Shapes: (num, *shape of a sample, or of an image where latents are decoded).
    Raises: NotFinite where samples hold NaN or infinity.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return evaluation.generate(
            run.flow,
            run.objective,
            run.shape,
            num,
            label=evaluation.cycle(num, run.num_classes),
            steps=steps,
            bounds=evaluation.BOUNDS.get(run.kind),
            decode=decoder,
        )


def real(data: Dataset, num: int, decoder: Decoder | None = None) -> Tensor:
    """Return the first real samples, classes in turn where all have rows; of latents, the decoded ones.

    Shapes: (at most num, *shape).
    """
    if decoder is not None:
        return decoder(real(data, num))
    if data.label is None or data.kind == "points" or not data.num_classes:
        return data.x[:num]
    members = [(data.label == wanted).nonzero().flatten() for wanted in range(min(num, data.num_classes))]
    if not all(map(len, members)):
        return data.x[:num]
    rows = [members[index % data.num_classes] for index in range(num)]
    taken = [own[index // data.num_classes % len(own)] for index, own in enumerate(rows)]
    return data.x[torch.stack(taken)]


def foretell(run: Run, num: int, nfe: int, batch: int, say: Callable[[str], None]) -> None:
    """Say how much memory and time many samples take, before any is made.

    Raises: ValueError where they do not fit into memory.
    """
    needed, room = 4.0 * num * math.prod(run.shape), estimate.free_memory("cpu")
    seconds = evaluation.pace(run.flow, run.shape, min(batch, num)) * nfe * num
    say(f"{num:,} samples: {needed / 1e9:.2g} GB in memory, about {roughly(seconds)} to make")
    if needed > room:
        raise ValueError(
            f"--num {num}: {needed / 1e9:.3g} GB of samples do not fit into the {room / 1e9:.3g} GB of free memory: "
            "make fewer at a time, each with a --seed and an --out of its own"
        )


def decoding(run: Run, decoder: Decoder | None) -> str:
    """Return how latents became images, or become them where that is known; nothing for anything else."""

    def way(codec: Codec) -> str:
        return f"/ {codec.scaling:g}" + (f" + {codec.shift:g}" if codec.shift else "")

    if decoder is not None:
        return f"; decoded by {decoder.autoencoder.name} from latents {way(decoder.codec)}"
    if run.kind != "latents" or run.codec is None:
        return ""
    return f"; images are what {run.codec.vae} decodes from them {way(run.codec)}"


# ---------------------------------------------------------------- files


def writer(path: Path) -> Writer:
    """Return how to write to a path, by its suffix.

    Raises: ValueError for a suffix that is neither .png nor .npz nor that of a folder.
    """
    known: dict[str, Writer] = {".png": write_picture, ".npz": write_arrays, "": write_folder}
    suffix = "" if path.is_dir() else path.suffix.lower()
    if suffix not in known:
        raise ValueError(f"{path}: --out takes a .png, a .npz or a folder, not {path.suffix!r}")
    return known[suffix]


def place(run: Run, out: Path | None, decoder: Decoder | None) -> tuple[Path, Writer]:
    """Return where samples of a run are written, and how; by default into its folder.

    Raises: ValueError for what the place cannot hold: pictures of latents that are not decoded, a folder of points.
    """
    latents = run.kind == "latents" and decoder is None
    path = run.folder / ("samples.npz" if latents else "samples.png") if out is None else out
    write = writer(path)
    if latents and write is not write_arrays:
        raise ValueError(
            f"{path}: the samples of {run.folder} are latents, not yet images: name the autoencoder that decodes them "
            "with --vae, or write them as a .npz"
        )
    if len(run.shape) == 1 and write is write_folder:
        raise ValueError(f"{path}: points are written as a .png scatter plot or a .npz, not as a folder")
    return path, write


def write_picture(path: Path, samples: Tensor, label: Tensor | None, run: Run) -> None:
    """A grid of images with a row for each class where several are shown, or points beside the real data."""
    if samples.ndim == 2:
        behind = (
            data_sets.load(run.config.data.name).x[:] if run.config.data.name in data_sets.names else None
        )
        pictures.scatter({f"{len(samples)} samples": samples}, path, real=behind)
        return
    pictures.save(pictures.grid(samples, label=label, names=run.classes), path)


def write_arrays(path: Path, samples: Tensor, label: Tensor | None, run: Run) -> None:
    """images, points or latents in float32, labels in int64 (−1 where there are none), and the names of the classes."""
    numbers = numpy.full(len(samples), -1) if label is None else label.numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    name = {"points": "points", "latents": "latents"}.get(run.kind, "images")
    arrays: dict[str, Any] = {name: samples.numpy()}
    if label is not None:
        arrays["classes"] = numpy.array(run.classes)

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            numpy.savez_compressed(file, **arrays, labels=numbers.astype("int64"))

    replace_file(path, write)


def write_folder(path: Path, samples: Tensor, label: Tensor | None, run: Run) -> None:
    """One PNG per image in its own size, 000000.png and up, with labels.csv; earlier ones are removed."""
    from PIL import Image

    path.mkdir(parents=True, exist_ok=True)
    for entry in path.iterdir():
        if MADE_HERE.fullmatch(entry.name):
            entry.unlink()
    for index, colors in enumerate(pictures.pixels(samples)):
        gray = colors[..., 0] if samples.shape[1] == 1 else colors
        Image.fromarray(gray).save(path / f"{index:06d}.png")
    if label is not None:
        with (path / "labels.csv").open("w", encoding="utf-8", errors="replace", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(("file", "label", "class"))
            table.writerows(
                (f"{i:06d}.png", value, run.classes[value]) for i, value in enumerate(label.tolist())
            )
