"""flowleap sample: pictures or arrays out of a run."""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowleap.cli import options
from flowleap.cli.group import echo, say, waiting
from flowleap.cli.launcher import on_all_processes

if TYPE_CHECKING:
    from torch import Tensor

    from flowleap.autoencoders import Decoder
    from flowleap.data.codec import Codec

MANY = 10_000
"""Samples from which on it is said what they take."""
MADE_HERE = re.compile(r"\d{6}\.png|labels\.csv")
Writer = Callable[[Path, "Tensor", "Tensor | None", Any], None]

Steps = Annotated[
    int | None, typer.Option(min=1, help="Sampling steps from noise to image.", show_default="1")
]
Num = Annotated[
    int | None, typer.Option(min=1, help="How many samples are made.", show_default="100; 2000 points")
]
Label = Annotated[
    str,
    typer.Option(
        metavar="NAME|all|data",
        help="One class, by its name (or number, where no name is one); all in turn; or data: as often as in the "
        "training data.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Where to write: a .png grid (a scatter plot for points); a .npz with `images` float32 (N, C, H, W) in "
        "[-1, 1] and `labels`, with the names of their `classes` (`points` (N, 2) for points; labels are -1 where the "
        "run has none); or a folder of one PNG each. Latents that are not decoded are a .npz with `latents` "
        "(N, C, H, W).",
        show_default="samples.png in the run folder, samples.npz for latents that are not decoded",
    ),
]
Latents = Annotated[
    bool, typer.Option("--latents", help="Write latents as they are made, not decoded into images.")
]


@on_all_processes
def sample(
    run: options.RunFolder,
    steps: Steps = None,
    times: options.Times = None,
    num: Num = None,
    seed: options.Seed = 0,
    label: Label = "all",
    out: Out = None,
    overwrite: options.Overwrite = False,
    weights: options.WeightsOption = options.Weights.ema,
    guidance: options.Guidance = None,
    renoise: options.Renoise = None,
    vae: options.Vae = None,
    latents: Latents = False,
    per_device: options.PerDevice = 250,
    device: options.Device = "auto",
    threads: options.Threads = None,
    imports: options.Imports = None,
) -> None:
    """Sample images from a trained run.

    Runs with labels cycle through their classes unless --label says otherwise. Image i depends on the seed and on
    i only. Latents are decoded by the autoencoder that they were made with, where it is at hand. Started by torchrun,
    all processes make their share.
    """
    options.import_all(imports)
    if steps is not None and times is not None:
        raise typer.BadParameter("give --steps or --times, not both", param_hint="--times")
    grid = options.instants(times)
    path = run / ("samples.npz" if latents else "samples.png") if out is None else out
    write = writer(path)
    options.refuse_to_overwrite(path, overwrite)

    from flowleap import processes, runs
    from flowleap.evaluation import BOUNDS, generate, plan

    loaded = runs.load_run(run, weights=weights.value, device=options.device(device))
    objective = options.renoised(loaded.objective, renoise)
    ((budget, _),) = plan(loaded.flow, (steps or 1,), grid)
    decoder = None if latents else loaded.decoder(vae)
    if loaded.kind == "latents" and decoder is None:
        path, write = latents_only(run, out, write), write_arrays
        options.refuse_to_overwrite(path, overwrite)
    points = len(loaded.shape) == 1
    if points and write is write_folder:
        raise ValueError(f"{path}: points are written as a .png scatter plot or a .npz, not as a folder")
    count = num or (2000 if points else 100)
    wanted, which = labels(label, count, loaded.classes, loaded.class_counts)
    nfe, fresh = objective.nfe(budget, guidance=guidance, times=grid), objective.sampling.renoised(budget)
    processes.from_first(lambda: foretell(loaded, count, nfe, per_device))
    start = time.perf_counter()
    with waiting(f"making {count} samples"):
        samples = generate(
            loaded.flow,
            objective,
            loaded.shape,
            count,
            seed=seed,
            label=wanted,
            steps=None if grid else budget,
            times=grid,
            guidance=guidance,
            batch=per_device,
            bounds=BOUNDS.get(loaded.kind),
            decode=decoder,
            shared=True,
        )
    if not processes.first():
        return
    seconds = time.perf_counter() - start
    write(path, samples, wanted, replace(loaded, kind="image") if decoder else loaded)
    way = f" with fresh noise between them (γ = {fresh:g})" if fresh else ""
    cost = f"{nfe} network evaluation{'s' * (nfe > 1)} each{way}, {seconds:.2f} s"
    things = "samples" if decoder or loaded.kind != "latents" else "latents"
    told = decoding(loaded, decoder)
    echo(f"{path}: {count} {things}{which}, {cost}, seed {seed}, weights {loaded.weights}{told}")


def foretell(loaded: Any, count: int, nfe: int, batch: int) -> None:
    """Say what many samples take, before any is made.

    Raises: ValueError where they do not fit into memory.
    """
    import math

    from flowleap.evaluation import pace
    from flowleap.runs.estimate import free_memory
    from flowleap.training.log import spelled

    if count <= MANY:
        return
    needed = 4.0 * count * math.prod(loaded.shape)
    seconds = pace(loaded.flow, loaded.shape, min(batch, count)) * nfe * count
    say(f"{count:,} samples: {needed / 1e9:.2g} GB in memory, about {spelled(seconds)} to make")
    room = free_memory("cpu")
    if needed > room:
        raise ValueError(
            f"--num {count}: {needed / 1e9:.3g} GB of samples do not fit into the {room / 1e9:.3g} GB of free memory: "
            "make fewer at a time, each with a --seed and an --out of its own"
        )


def latents_only(run: Path, out: Path | None, write: Writer) -> Path:
    """Where latents are written.

    Raises: ValueError for pictures.
    """
    if out is not None and write is not write_arrays:
        raise ValueError(
            f"{out}: the samples of {run} are latents, not yet images: name the autoencoder that decodes them with "
            "--vae, or write them as a .npz"
        )
    return out or run / "samples.npz"


def decoding(loaded: Any, decoder: Decoder | None) -> str:
    """How latents became images, or become them where that is known; nothing for anything else."""
    if decoder is not None:
        return f"; decoded by {decoder.autoencoder.name} from latents {way(decoder.codec)}"
    if loaded.kind != "latents" or loaded.codec is None:
        return ""
    return f"; images are what {loaded.codec.vae} decodes from them {way(loaded.codec)}"


def way(codec: Codec) -> str:
    """What is done to latents before they are decoded."""
    return f"/ {codec.scaling:g}" + (f" + {codec.shift:g}" if codec.shift else "")


def labels(text: str, num: int, names: Sequence[str], counts: Sequence[int]) -> tuple[Tensor | None, str]:
    """The labels to sample with, and which they are, in words: all classes in turn, in proportion to counts, or one.

    A class that is called "all" or "data" is meant by its name.

    Raises: ValueError for a class that the run does not know, and for counts that it does not.
    """
    import torch

    from flowleap.data.classes import find
    from flowleap.evaluation import cycle, proportional

    if text == "all" and text not in names:
        return cycle(num, len(names) or None), ""
    if not names:
        raise ValueError(
            f"--label {text} was asked for, but this run was trained without labels: leave the label out"
        )
    by_counts = text == "data" and text not in names
    if by_counts and not counts:
        raise ValueError(
            "--label data: this run does not say how many images of each class it was trained on; give a class, or all"
        )
    if by_counts:
        return proportional(num, counts), " with classes as often as in the training data"
    index = find(text, names)
    number = "" if names[index] == str(index) else f" (number {index})"
    return torch.full((num,), index), f" of class {names[index]}{number}"


def writer(path: Path) -> Writer:
    """How to write to a path, by its suffix.

    Raises: ValueError for a suffix that is neither .png nor .npz nor that of a folder.
    """
    known: dict[str, Writer] = {".png": write_picture, ".npz": write_arrays, "": write_folder}
    suffix = "" if path.is_dir() else path.suffix.lower()
    if suffix not in known:
        raise ValueError(f"{path}: --out takes a .png, a .npz or a folder, not {path.suffix!r}")
    return known[suffix]


def write_picture(path: Path, samples: Tensor, label: Tensor | None, run: Any) -> None:
    """A grid of images with a row for each class where several are shown, or points beside the real data."""
    from flowleap import data, pictures

    if samples.ndim == 2:
        real = data.load(run.config.data).x[:] if run.config.data in data.names else None
        pictures.scatter({f"{len(samples)} samples": samples}, path, real=real)
        return
    pictures.save(pictures.grid(samples, label=label, names=run.classes), path)


def write_arrays(path: Path, samples: Tensor, label: Tensor | None, run: Any) -> None:
    """images, points or latents in float32, labels in int64 (−1 where there are none), and the names of the classes."""
    import numpy

    from flowleap.files import replace_file

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


def write_folder(path: Path, samples: Tensor, label: Tensor | None, run: Any) -> None:
    """One PNG per image in its own size, 000000.png and up, with labels.csv; earlier ones are removed."""
    from PIL import Image

    from flowleap import pictures

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
