"""flowleap data: reference statistics of any data set, and the classifier whose features they are of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowleap.cli import check, encode, options
from flowleap.cli.group import counting, echo, say, waiting

if TYPE_CHECKING:
    from flowleap.data import Dataset

app = typer.Typer(
    no_args_is_help=True, help="Look at images before training; make what samples are measured with."
)


@app.callback()
def common() -> None:
    """Look at images before they are trained on; make what samples are measured with: statistics and classifiers."""


@app.command("stats")
def stats(
    source: Annotated[
        str,
        typer.Argument(
            metavar="PATH|hf:NAME|NAME",
            help="A folder of images, an .npz of them, hf:NAME, or a data set by its name.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.npz", help="Where to write: the file.")],
    features: Annotated[
        str,
        typer.Option(
            help="Features that are compared: pixel, pixel16, digits, mnist, fashion-mnist, cifar10-jpeg75, inception, "
            "timm:MODEL, or the .npz of a classifier; auto goes by the images.",
        ),
    ] = "auto",
    num: Annotated[
        int | None,
        typer.Option(
            min=2, help="How many samples are used, a fixed random part of all.", show_default="all"
        ),
    ] = None,
    split: options.Split = None,
    square: options.SquarePolicy = None,
    size: options.Size = None,
    overwrite: options.Overwrite = False,
    device: options.Device = "auto",
) -> None:
    """Write mean and covariance of the features of real images, for `flowleap evaluate --reference`.

    The file is an .npz with mu and sigma, as ADM's, with the features and the data it was made from.
    """
    refuse_output(out, overwrite)

    import torch

    from flowleap.data import Dataset
    from flowleap.evaluation import library, statistics_file

    opened = open_source(source, split, square, size)
    like = Dataset(opened.name, torch.empty(0, *opened.shape), kind=opened.kind)  # features follow from it
    chosen = library.named(features, like, options.device(device))
    count = len(opened) if num is None else num
    if chosen.dims is not None and count <= chosen.dims:
        raise ValueError(
            f"the covariance of {chosen.dims} {chosen.name} features needs more than {chosen.dims} images, and there "
            f"are {count}: give more, or choose other features"
        )
    with counting(f"{chosen.name} features of {opened.name}", count) as tick:
        made, found = statistics_file.gathered(opened, chosen, count, tick)
    about = {
        **statistics_file.about_features(chosen),
        "source": opened.name,
        "split": opened.split if count == len(opened) else f"{opened.split}[{count}]",
        "of": len(opened),
        "shape": list(opened.shape),
        **found,
    }
    statistics_file.write(out, made, about)
    things = "images" if opened.kind == "image" else opened.kind
    which = "all of them" if count == len(opened) else f"a fixed random part of {len(opened):,}"
    split_said = "" if opened.split == "all" else f", split {opened.split}"
    echo(
        f"{out}: mean and covariance of {len(made.mean):,} {chosen.name} features over {count:,} {things} of "
        f"{opened.name}{split_said} ({which})"
    )


app.command("check")(check.check)
app.command("encode")(encode.encode)


@app.command("classifier")
def classifier(
    source: Annotated[
        str,
        typer.Argument(
            metavar="PATH|NAME",
            help="Labeled images: a folder with a folder for each class, an .npz with labels, or a data set by name.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.npz", help="Where to write: the file.")],
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of all random draws: initial weights and held-out part.")
    ] = 0,
    split: options.Split = None,
    square: options.SquarePolicy = None,
    size: options.Size = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Fit a small classifier to labeled images, as features to compare samples by: `--features FILE.npz`.

    The same images and seed give the same weights. One core is used: 8 × 8 digits take seconds, large sets
    much longer.
    """
    refuse_output(out, overwrite)

    from flowleap import data
    from flowleap.evaluation.classifier import fit

    dataset = data.load(source, split=split, preprocessing=preprocessing(square, size))
    for note in dataset.notes:
        say(note)
    with waiting(f"fitting a classifier to {len(dataset):,} images of {dataset.name}"):
        made = fit(dataset, seed)
    made.save(out)
    held = "" if made.accuracy is None else f", {made.accuracy:.1%} right on held-out images"
    echo(f"{out}: {len(made.mean)} features of {dataset.name}{held}; use it with --features {out}")


def refuse_output(out: Path, overwrite: bool) -> None:
    """Stop before any work where the output cannot be written.

    Raises: typer.BadParameter, ValueError.
    """
    if out.suffix != ".npz":
        raise typer.BadParameter(f"{out}: expected a name that ends in .npz", param_hint="--out")
    if not out.parent.is_dir():
        raise typer.BadParameter(f"{out.parent} is no folder: make it first", param_hint="--out")
    options.refuse_to_overwrite(out, overwrite)


def preprocessing(square: Any, size: int | None, memory: float | None = None) -> Any:
    """How images at a path are taken by options; None where nothing is said.

    Raises: ValueError for values that mean nothing.
    """
    from flowleap.training.config import preprocessing_of

    return preprocessing_of([("square", square), ("size", size), ("memory", memory)])


def open_source(text: str, split: str | None, square: Any = None, size: int | None = None) -> Dataset:
    """A data set by its name, or images at a path; a name wins over a file of the same name.

    Images of a folder and of a table are read as they are needed, and made alike as for training.

    Raises: ValueError for what is neither, and for a split that is not there.
    """
    from flowleap import data
    from flowleap.data import opening, store
    from flowleap.data.prepare import prepare

    taken = preprocessing(square, size)
    if data.is_name(text) or not data.present(text):
        return data.load(text, split=split, preprocessing=taken)
    if opening.is_address(text) or opening.is_folder(text):
        images = opening.store_of(
            text, split, store.files_of
        )  # all parts are meant, or the one that is named
        dataset = prepare(images, preprocessing(square, size, memory=0.0), text)
    elif taken is None:
        dataset = data.open_images(text, split)
    else:
        dataset = opening.from_path(text, split, taken)
    for note in dataset.notes:
        say(note)
    return dataset
