"""flowleap data encode: images as latents of an autoencoder, once, for training."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flowleap.cli import options
from flowleap.cli.group import counting, echo, say, waiting

if TYPE_CHECKING:
    from flowleap.data import Dataset, Preprocessing
    from flowleap.data.latent_cache import Cache, Contents

SIGNALED = 128
SIDE = 256
"""The side of images of several sizes, where none is asked for."""
EVERY = 30.0
"""Seconds between lines where there is no terminal for a bar."""


Size = Annotated[
    int | None,
    typer.Option(
        min=8,
        help="The side that images are resized to first (Lanczos, antialiased).",
        show_default="as they are if alike, else 256",
    ),
]


Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Stop where an image cannot be used. Otherwise it is left out, or, where only its pixels turn out to be "
        "damaged, the next one of its class takes its place, with a warning.",
    ),
]


PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def computed_in(name: str) -> str:
    """Read the precision of a network, by the name that `flowleap train` gives it or by that of its numbers.

    Raises: typer.BadParameter for any other.
    """
    found = {**PRECISIONS, **{kind: kind for kind in PRECISIONS.values()}}.get(name)
    if found is None:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(PRECISIONS)}")
    return found


Images = Annotated[
    str,
    typer.Argument(
        metavar="PATH|NAME", help="A folder of images, an .npz, IDX files, or a data set by name."
    ),
]
Vae = Annotated[
    str,
    typer.Option(
        "--vae",
        metavar="ID|FOLDER",
        help="The autoencoder: one of diffusers (AutoencoderKL, AutoencoderTiny), a folder that save_pretrained wrote, "
        "or an id of the Hugging Face hub such as stabilityai/sd-vae-ft-ema; ID:FOLDER for one inside of a pipeline.",
    ),
]
Out = Annotated[
    Path,
    typer.Option(metavar="FOLDER", help="Where to write: the cache, which `flowleap train --data` takes."),
]
Scaling = Annotated[
    float | None,
    typer.Option(
        help="Training sees (z − shift) · scaling. 0.18125 is what the published ESC runs took. "
        "With --overwrite, another one is just noted in a cache that is there.",
        show_default="that of the autoencoder's config",
    ),
]
Shift = Annotated[float | None, typer.Option(help="See --scaling.", show_default="that of the config, or 0")]
Flip = Annotated[
    bool,
    typer.Option(
        "--flip/--no-flip", help="Mirror images with probability ½ in training: encode mirrored ones too."
    ),
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"],
    typer.Option(help="What the numbers are kept in: float16 halves the disk."),
]
Precision = Annotated[
    str,
    typer.Option(
        parser=computed_in,
        metavar="fp32|bf16|fp16",
        help="Precision of the network, the autoencoder: bf16 is faster on a GPU, and coarser.",
        show_default="fp32",
    ),
]
PerFile = Annotated[
    int, typer.Option(min=1, help="Images in a file; an interruption loses less than one of these.")
]
Streamed = Annotated[
    bool,
    typer.Option(
        "--stream",
        help="Read hf:NAME over the network in one pass and keep none of its images, for what does not fit onto the "
        "disk. Small images are enlarged; one that cannot be used stops it.",
    ),
]


def encode(
    source: Images,
    vae: Vae,
    out: Out,
    scaling: Scaling = None,
    shift: Shift = None,
    split: options.Split = None,
    square: options.SquarePolicy = None,
    size: Size = None,
    strict: Strict = False,
    flip: Flip = True,
    dtype: Dtype = "float32",
    precision: Precision = "float32",
    per_device: options.PerDevice = 32,
    per_file: PerFile = 512,
    stream: Streamed = False,
    overwrite: options.Overwrite = False,
    device: options.Device = "auto",
) -> None:
    """Encode images into latents of an autoencoder, so that training reads them instead of pixels.

    What is kept is the posterior (mean and log-variance) of each image and of the mirrored one; training samples it
    anew in each step. Interrupted, the same command goes on with the files that are missing. Under torchrun or
    accelerate launch, all processes share the work, each on its own GPU.
    """
    from flowleap import autoencoders
    from flowleap.autoencoders.encoding import Stopped
    from flowleap.data import Preprocessing
    from flowleap.lock import locked
    from flowleap.training.interrupt import Interruption

    preprocessing = Preprocessing(square, size, strict=strict, memory=0.0)
    parts, images, policy = (
        streamed(source, split, preprocessing) if stream else opened(source, split, preprocessing)
    )
    with waiting(f"reading {vae}"):
        model = autoencoders.load(vae, options.device(device), precision)
    contents = autoencoders.planned(
        parts,
        model,
        source=source,
        scaling=scaling,
        shift=shift,
        flip=flip,
        square=policy,
        dtype=dtype,
        shard=per_file,
        images=images,
    )
    own, every = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    cache = begun(out, contents, overwrite, own)
    if own == 0:
        say(described(contents))
    start = time.perf_counter()
    alone = locked(out) if own == 0 else nullcontext()  # the first process holds it for all of them
    with alone, Interruption(MESSAGE) as interruption, shown(own, every) as told:
        progress = autoencoders.Progress(told.found, told.tick, interruption)
        try:
            whole = autoencoders.encode(
                cache, parts, model, batch=per_device, process=own, processes=every, progress=progress
            )
        except Stopped:
            assert interruption.signal is not None
            say(f"interrupted; {state(cache)}. Go on with the same command")
            raise typer.Exit(SIGNALED + interruption.signal) from None
    if whole:
        conclude(out, cache, told.made, time.perf_counter() - start)
    elif own == 0:
        say(f"{out}: {state(cache)}; the last process to finish completes it")


MESSAGE = "finishing this batch; once more to stop at once"


Found = tuple[dict[str, "Dataset"], dict[str, str], str]
"""The images of each part that is to be encoded, what tells them from others, and how they became squares."""


def opened(text: str, split: str | None, preprocessing: Preprocessing) -> Found:
    """The part that is named, or that for training and a held-out one, read from the disk as they are needed.

    Raises: ValueError for what is no data, or a split that is not there.
    """
    from flowleap import data

    dataset = data.load(text, split=split, preprocessing=preprocessing)
    if preprocessing.size is None and dataset.preprocessing.size is not None:
        dataset = data.load(
            text, split=split, preprocessing=replace(preprocessing, size=SIDE)
        )  # what suits pixels is small for latents
    for note in dataset.notes:
        say(note)
    apart = data.held_out(dataset) if split is None else None
    parts = [part for part in (dataset, apart) if part is not None]
    images = {part.split: part.checksum for part in parts}
    return {part.split: part for part in parts}, images, dataset.preprocessing.square or ""


def streamed(text: str, split: str | None, preprocessing: Preprocessing) -> Found:
    """The same parts, read over the network.

    Raises: ValueError for what cannot be streamed.
    """
    from flowleap.data.preprocessing import ResizeCrop
    from flowleap.data.streaming import open_streams

    view = ResizeCrop(preprocessing.square or "crop", preprocessing.size or SIDE)
    parts, images, notes = open_streams(text, view, split)
    for note in notes:
        say(note)
    return parts, images, view.square


def begun(out: Path, contents: Contents, overwrite: bool, own: int) -> Cache:
    """Begin the cache, in the first of several processes; the others wait for it.

    Raises: ValueError for a folder that holds anything else.
    """
    from flowleap import processes
    from flowleap.data.latent_cache import Cache

    with processes.together():
        failed: ValueError | None = None
        if own == 0:
            try:
                Cache.begin(out, contents, overwrite=overwrite)
            except ValueError as error:
                failed = error
        if processes.total(float(failed is not None)) and failed is None:
            raise typer.Exit(2)  # the first process says why
    if failed is not None:
        raise failed
    return Cache.begin(out, contents)


def described(contents: Contents) -> str:
    """What is going to be encoded, in a line."""
    codec = contents.codec
    parts = " and ".join(f"{count:,} ({part})" for part, count in contents.parts.items())
    grey = ", grey taken as colored" if contents.image[0] == 1 else ""
    what = "mean and log-variance" if contents.posterior else "latents (this autoencoder has no posterior)"
    mirrored = ", plain and mirrored" if contents.flipped else ""
    size = " × ".join(map(str, contents.image))
    return (
        f"{codec.kind} {codec.vae} ({codec.checksum[:12]}): {parts} images of {size}{grey} to {what} of "
        f"{' × '.join(map(str, contents.shape))}{mirrored}; scaling {codec.scaling:g}, shift {codec.shift:g}"
    )


def conclude(out: Path, cache: Cache, made: int, seconds: float) -> None:
    """Say that a cache is whole, what this process did for it, and how to train on it."""
    size = sum(cache.path(shard).stat().st_size for shard in cache.contents.shards())
    pace = f", {made} images in {seconds:.1f} s" if made else ", nothing was missing"
    echo(f"{out}: {state(cache)}, {size / 1e6:,.1f} MB{pace}; train with: flowleap train --data {out}")


def state(cache: Cache) -> str:
    """How much of a cache is there, in words."""
    every = cache.contents.shards()
    missing = cache.missing()
    images = sum(len(shard.rows) for shard in every) - sum(len(shard.rows) for shard in missing)
    return f"{len(every) - len(missing)} of {len(every)} files are whole, {images:,} images"


@dataclass
class Told:
    """What is shown of the progress: a bar on a terminal, else a line every half a minute; by the first process."""

    own: int
    every: int
    begun: float = 0.0
    spoken: float = 0.0
    before: int = 0
    made: int = 0
    total: int = 0
    bar: Callable[[int], Any] | None = None
    context: Any = None

    def found(self, done: int, total: int) -> None:
        """Take note of what there is to do."""
        self.before, self.total = done, total
        self.begun = self.spoken = time.perf_counter()
        if self.own:
            return
        if done:
            say(f"{done:,} of {total:,} images are there and are looked through")
        others = f" (process 1 of {self.every})" if self.every > 1 else ""
        self.context = counting(f"encoding {total:,} images{others}", total)
        self.bar = self.context.__enter__()
        self.bar(done)

    def tick(self, images: int) -> None:
        """Take note of images that were encoded."""
        self.made += images
        if self.own:
            return
        if self.bar is not None:
            self.bar(images)
        now = time.perf_counter()
        if not terminal() and now - self.spoken >= EVERY:
            self.spoken = now
            pace = self.made / (now - self.begun)
            left = (self.total - self.before - self.made) / pace
            say(
                f"{self.before + self.made:,} of {self.total:,} images, {pace:.1f} images/s, "
                f"{int(left) // 60}:{int(left) % 60:02d} left"
            )


def terminal() -> bool:
    """Whether somebody sees a bar on standard error."""
    from rich.console import Console

    return Console(stderr=True).is_terminal


@contextmanager
def shown(own: int, every: int) -> Iterator[Told]:
    """Show the progress for as long as the context lasts."""
    told = Told(own, every)
    try:
        yield told
    finally:
        if told.context is not None:
            told.context.__exit__(None, None, None)
