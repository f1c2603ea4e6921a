"""flowleap data: check and encode images; make reference statistics and features for `flowleap evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from flowleap.cli import check, encode, options
from flowleap.cli.group import counting, echo, say

if TYPE_CHECKING:
    from flowleap.data import Dataset
    from flowleap.evaluation.classifier import Classifier

app = typer.Typer(
    no_args_is_help=True, help="Check or encode images before training; make statistics to evaluate with."
)


@app.callback()
def common() -> None:
    """Check or encode images before training; make reference statistics and classifiers to evaluate with."""


@app.command("stats")
def stats(
    source: Annotated[
        str,
        Argument(
            metavar="PATH|hf:NAME|NAME",
            help="A folder of images, an .npz of them, hf:NAME, or a data set by its name.",
        ),
    ],
    out: Annotated[Path, Option(metavar="FILE.npz", help="Where to write: the file.")],
    features: Annotated[
        str,
        Option(help=f"{options.FEATURES}; auto chooses by the data."),
    ] = "auto",
    num: Annotated[
        int | None,
        Option(min=2, help="How many samples are used, a fixed random part of all.", show_default="all"),
    ] = None,
    split: options.Split = None,
    square: options.SquarePolicy = None,
    size: options.Size = None,
    overwrite: options.Overwrite = False,
    device: options.Device = "auto",
) -> None:
    """Compute mean and covariance of the features of real images, for `flowleap evaluate --reference`.

    The .npz holds mu and sigma, as those of ADM do, and the names of the features and the data.
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
    part = {"split": opened.split if count == len(opened) else f"{opened.split}[{count}]", "of": len(opened)}
    about = {"source": opened.name, **part, "shape": list(opened.shape), **found}
    statistics_file.write(out, made, {**statistics_file.about_features(chosen), **about})
    what = f"mean and covariance of {len(made.mean):,} {chosen.name} features"
    echo(f"{out}: {what} over {extent(opened, count)}")


def extent(opened: Dataset, count: int) -> str:
    """Say how many samples of a data set are used."""
    things = "images" if opened.kind == "image" else opened.kind
    which = "all of them" if count == len(opened) else f"a fixed random part of {len(opened):,}"
    split = "" if opened.split == "all" else f", split {opened.split}"
    return f"{count:,} {things} of {opened.name}{split} ({which})"


app.command("check")(check.check)
app.command("encode")(encode.encode)


FeaturesFile = Annotated[Path, Option(metavar="FILE.npz", help="Where to write: the file.")]
Seed = Annotated[int, Option(min=0, help="Seed of all random draws: initial weights and held-out part.")]


@app.command("classifier")
def classifier(
    source: Annotated[
        str,
        Argument(
            metavar="PATH|NAME",
            help="Labeled images: a folder with a sub-folder per class, an .npz with labels, or a data set by name.",
        ),
    ],
    out: FeaturesFile,
    seed: Seed = 0,
    split: options.Split = None,
    square: options.SquarePolicy = None,
    size: options.Size = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Train a small classifier on labeled images, whose features samples are compared by: `--features FILE.npz`.

    The same images and seed give the same weights. It uses one core: 8 × 8 digits take seconds, large data sets much
    longer.
    """
    refuse_output(out, overwrite)

    from flowleap.evaluation.classifier import fit

    dataset = read_images(source, split, square, size)
    made, held = learned(fit, "a classifier", dataset, seed, out)
    echo(f"{out}: {len(made.mean)} features of {dataset.name}{held}; use it with --features {out}")


@app.command("encoder")
def encoder(
    source: Annotated[
        str,
        Argument(
            metavar="PATH|hf:NAME|NAME",
            help="Images: a folder, an .npz, hf:NAME, or a data set by name; labels are not used.",
        ),
    ],
    out: FeaturesFile,
    seed: Seed = 0,
    split: options.Split = None,
    square: options.SquarePolicy = None,
    size: options.Size = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Train features on images without labels: for losses in features, and for `--features FILE.npz`.

    A small network learns, on these images alone, which two views show the same image: crops of another brightness, and
    mirrored where they have colors (SimCLR, Chen et al. 2020). Train on the same images in its features: flowleap train
    drifting --data PATH --set loss.features=FILE.npz. It uses one core: 8 × 8 digits take a minute, large data sets
    much longer.
    """
    refuse_output(out, overwrite)

    from flowleap.evaluation.contrastive import fit

    dataset = read_images(source, split, square, size)
    made, held = learned(fit, "an encoder", dataset, seed, out)
    echo(
        f"{out}: {len(made.mean)} features of {dataset.name}{held}; use it with --features {out}, and in training with "
        f"flowleap train drifting --data {source} --set loss.features={out}"
    )


def read_images(source: str, split: str | None, square: Any, size: int | None) -> Dataset:
    """Return the images of a place or a name as training reads them, and say its notes."""
    from flowleap import data

    dataset = data.load(source, split=split, preprocessing=preprocessing(square, size))
    for note in dataset.notes:
        say(note)
    return dataset


def learned(
    fit: Callable[..., Classifier], what: str, dataset: Dataset, seed: int, out: Path
) -> tuple[Classifier, str]:
    """Train a network on images and save it; return it, and in words how often it is right."""
    from flowleap.evaluation.classifier import epochs

    with counting(
        f"training {what} on {len(dataset):,} images of {dataset.name}", epochs(len(dataset))
    ) as tick:
        made = fit(dataset, seed, tick)
    made.save(out)
    return made, "" if made.accuracy is None else f", {made.accuracy:.1%} right on held-out images"


def refuse_output(out: Path, overwrite: bool) -> None:
    """Raise typer.BadParameter or ValueError before any work if the output cannot be written."""
    if out.suffix != ".npz":
        raise typer.BadParameter(f"{out}: expected a name that ends in .npz", param_hint="--out")
    if not out.parent.is_dir():
        raise typer.BadParameter(f"{out.parent} is no folder: make it first", param_hint="--out")
    options.refuse_to_overwrite(out, overwrite)


def preprocessing(square: Any, size: int | None, memory: float | None = None) -> Any:
    """The `Preprocessing` of these options; None if none is given."""
    from flowleap.data import Preprocessing

    named = {"square": square, "size": size, "memory": memory}
    given: Any = {name: value for name, value in named.items() if value is not None}
    return Preprocessing(**given) if given else None


def open_source(text: str, split: str | None, square: Any = None, size: int | None = None) -> Dataset:
    """Open a data set by name or path; a name wins over a file of the same name.

    Images of a folder or a Hugging Face data set stay on the disk, and are cropped and resized as for training.

    Raises: ValueError for an unknown name or path, and for an unknown split.
    """
    from flowleap import data
    from flowleap.data import opening, store
    from flowleap.data.prepare import prepare

    taken = preprocessing(square, size)
    if data.is_name(text) or not data.present(text):
        return data.load(text, split=split, preprocessing=taken)
    if opening.is_address(text) or opening.is_folder(text):
        images = opening.store_of(
            text, split, store.split_files
        )  # all parts are meant, or the one that is named
        dataset = prepare(images, preprocessing(square, size, memory=0.0), text)
    elif taken is None:
        dataset = data.open_images(text, split)
    else:
        dataset = opening.from_path(text, split, taken)
    for note in dataset.notes:
        say(note)
    return dataset
