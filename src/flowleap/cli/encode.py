"""flowleap data encode: encode images into latents of an autoencoder for training."""

from __future__ import annotations

import os
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Argument, Option

from flowleap.cli import options
from flowleap.cli.group import echo, say, waiting

if TYPE_CHECKING:
    from flowleap.autoencoders import Autoencoder
    from flowleap.data import Dataset, Preprocessing
    from flowleap.data.latent_cache import Cache, Contents

SIGNALED = 128
SIDE = 256
"""The default side of images of several sizes."""
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
MESSAGE = "finishing this batch; once more to stop at once"

Parts = tuple[dict[str, "Dataset"], dict[str, str], str]
"""The images of each split, their checksums, and how they became squares."""


def computed_in(name: str) -> str:
    """Parse --precision, fp32 or float32.

    Raises: typer.BadParameter for any other.
    """
    found = {**PRECISIONS, **{kind: kind for kind in PRECISIONS.values()}}.get(name)
    if found is None:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(PRECISIONS)}")
    return found


Size = Annotated[
    int | None,
    Option(
        min=8,
        help="The side that images are resized to first (Lanczos, antialiased).",
        show_default="no resizing if all have one size, else 256",
    ),
]
Strict = Annotated[
    bool,
    Option(
        "--strict",
        help="Stop at the first unusable image. By default unusable images are left out; one whose header is intact "
        "but whose pixels are damaged is replaced by the next one of its class, with a warning.",
    ),
]

Images = Annotated[
    str,
    Argument(metavar="PATH|NAME", help="A folder of images, an .npz, IDX files, or a data set by name."),
]
Vae = Annotated[
    str,
    Option(
        "--vae",
        metavar="ID|FOLDER",
        help="The autoencoder of diffusers, AutoencoderKL or AutoencoderTiny: a folder that save_pretrained wrote, or "
        "an id of the Hugging Face hub such as stabilityai/sd-vae-ft-ema; ID:FOLDER for one inside a pipeline.",
    ),
]
Out = Annotated[
    Path,
    Option(metavar="FOLDER", help="Where to write: the cache, which `flowleap train --data` takes."),
]
Scaling = Annotated[
    float | None,
    Option(
        help="Training uses (z − shift) · scaling. The published ESC runs used 0.18125. With --overwrite, another "
        "scaling is recorded in an existing cache without encoding again.",
        show_default="that of the autoencoder's config",
    ),
]
Shift = Annotated[float | None, Option(help="See --scaling.", show_default="that of the config, or 0")]
Flip = Annotated[
    bool,
    Option(
        "--flip/--no-flip",
        help="Mirror images with probability ½ in training: encode mirrored images, too.",
    ),
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"],
    Option(help="Dtype of the stored latents: float16 needs half the disk space."),
]
Precision = Annotated[
    str,
    Option(
        parser=computed_in,
        metavar="fp32|bf16|fp16",
        help="Precision of the network, here the autoencoder: bf16 is faster on a GPU, and less exact.",
        show_default="fp32",
    ),
]
PerFile = Annotated[
    int, Option(min=1, help="Images per file; an interruption loses at most the file in progress.")
]
Streamed = Annotated[
    bool,
    Option(
        "--stream",
        help="Read hf:NAME over the network in one pass without storing its images, for data that do not fit onto the "
        "disk. Small images are enlarged; an unusable image stops the encoding.",
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

    Stored are the posterior (mean and log-variance) of each image and of the mirrored one; training samples it anew in
    each step. After an interruption, the same command continues with the missing files. Under torchrun or accelerate
    launch, all processes share the work, each on its own GPU.
    """
    from flowleap import autoencoders
    from flowleap.data import Preprocessing

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
    fill(begun(out, contents, overwrite), parts, model, per_device)


def fill(cache: Cache, parts: dict[str, Dataset], model: Autoencoder, batch: int) -> None:
    """Encode this process's share of a cache, and print what was done.

    Raises: typer.Exit if interrupted.
    """
    from flowleap import autoencoders
    from flowleap.autoencoders.encoding import Stopped
    from flowleap.lock import locked
    from flowleap.training.interrupt import Interruption

    own, every = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if own == 0:
        say(described(cache.contents))
    made, start = sum(len(shard.rows) for shard in cache.missing(own, every)), time.perf_counter()
    alone = locked(cache.folder) if own == 0 else nullcontext()  # the first process holds it for all of them
    with alone, Interruption(MESSAGE) as interruption:
        try:
            whole = autoencoders.encode(
                cache, parts, model, batch=batch, process=own, processes=every, interrupted=interruption
            )
        except Stopped:
            assert interruption.signal is not None
            say(f"interrupted; {state(cache)}. Continue with the same command")
            raise typer.Exit(SIGNALED + interruption.signal) from None
    if whole:
        size = sum(cache.path(shard).stat().st_size for shard in cache.contents.shards())
        pace = f"{made} images in {time.perf_counter() - start:.1f} s" if made else "nothing was missing"
        command = f"flowleap train --data {cache.folder}"
        echo(f"{cache.folder}: {state(cache)}, {size / 1e6:,.1f} MB, {pace}; train with: {command}")
    elif own == 0:
        say(f"{cache.folder}: {state(cache)}; the last process to finish completes it")


def opened(text: str, split: str | None, preprocessing: Preprocessing) -> Parts:
    """Load one split, by default the training split and the held-out one, to be read from the disk.

    Raises: ValueError for unknown data or an unknown split.
    """
    from flowleap import data

    dataset = data.load(text, split=split, preprocessing=preprocessing)
    if (
        preprocessing.size is None and dataset.preprocessing.size is not None
    ):  # the default size is for pixels, and small for latents
        dataset = data.load(text, split=split, preprocessing=replace(preprocessing, size=SIDE))
    for note in dataset.notes:
        say(note)
    apart = data.held_out(dataset) if split is None else None
    parts = {part.split: part for part in (dataset, apart) if part is not None}
    return parts, {name: part.checksum for name, part in parts.items()}, dataset.preprocessing.square or ""


def streamed(text: str, split: str | None, preprocessing: Preprocessing) -> Parts:
    """As `opened`, but read over the network.

    Raises: ValueError for data that cannot be streamed.
    """
    from flowleap.data.preprocessing import ResizeCrop
    from flowleap.data.streaming import open_streams

    view = ResizeCrop(preprocessing.square or "crop", preprocessing.size or SIDE)
    parts, images, notes = open_streams(text, view, split)
    for note in notes:
        say(note)
    return parts, images, view.square


def begun(out: Path, contents: Contents, overwrite: bool) -> Cache:
    """Begin the cache in the first of several processes; the others wait for it and open it.

    Raises: ValueError for a folder that holds anything else.
    """
    from flowleap import processes
    from flowleap.data.latent_cache import Cache

    try:
        with processes.together():
            processes.from_first(lambda: Cache.begin(out, contents, overwrite=overwrite) and None)
    except processes.Elsewhere:  # the first process says why
        raise typer.Exit(2) from None
    return Cache.begin(out, contents)


def described(contents: Contents) -> str:
    """One line on the latents that are going to be encoded."""
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


def state(cache: Cache) -> str:
    """The number of finished files and images of a cache."""
    every, missing = cache.contents.shards(), cache.missing()
    images = sum(len(shard.rows) for shard in every) - sum(len(shard.rows) for shard in missing)
    return f"{len(every) - len(missing)} of {len(every)} files are whole, {images:,} images"
