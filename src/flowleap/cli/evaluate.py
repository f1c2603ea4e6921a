"""flowleap evaluate: quality and time of a run by number of network evaluations, or quality of a set of images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowleap.cli import options
from flowleap.cli.group import counting, say

if TYPE_CHECKING:
    from flowleap.autoencoders import Decoder
    from flowleap.data import Dataset
    from flowleap.evaluation import Reference, Standard
    from flowleap.runs import Run

CHUNK = 250


class LabelLaw(StrEnum):
    """Laws of labels, see `evaluation.labels`."""

    data = "data"
    cycle = "cycle"
    uniform = "uniform"


Target = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|IMAGES",
        help="A run folder that `flowleap train` wrote; or samples to measure: a folder of images, or a .npz of them.",
    ),
]
Num = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="How many samples are behind each number.",
        show_default="1000, or what the protocol asks for",
    ),
]
ProtocolName = Annotated[
    str,
    typer.Option(
        "--protocol",
        help="flowleap, or a published one with its Inception features, sizes and labels: adm-in256, "
        "pytorch-fid, clean, edm.",
    ),
]
FeaturesName = Annotated[
    str | None,
    typer.Option(
        "--features",
        help="Features that are compared: pixel, pixel16, digits, mnist, fashion-mnist, cifar10-jpeg75, inception, "
        "timm:MODEL, or the .npz of a classifier.",
        show_default="by the data and the protocol",
    ),
]
ReferenceName = Annotated[
    str | None,
    typer.Option(
        "--reference",
        metavar="NAME|PATH",
        help="What to compare with: a data set by name, a folder or .npz of images, or statistics (.npz with mu and "
        "sigma) that `flowleap data stats` or ADM wrote.",
        show_default="what the run was trained on",
    ),
]
Labels = Annotated[
    LabelLaw | None,
    typer.Option(
        "--labels",
        help="How classes are asked for: data gives each its share of the reference, cycle every class equally often, "
        "uniform draws them.",
        show_default="what the protocol asks for; data",
    ),
]
Save = Annotated[
    bool,
    typer.Option(
        "--save",
        help="Make this the table of the run, which `flowleap report` shows; the table that was there is kept.",
    ),
]


def evaluate(
    target: Target,
    steps: options.Counts = None,
    times: options.Times = None,
    num: Num = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    protocol: ProtocolName = "flowleap",
    features: FeaturesName = None,
    reference: ReferenceName = None,
    weights: options.WeightsOption = options.Weights.ema,
    guidance: options.Guidance = None,
    labels: Labels = None,
    renoise: options.Renoise = None,
    vae: options.Vae = None,
    per_device: options.PerDevice = CHUNK,
    device: options.Device = "auto",
    threads: options.Threads = None,
    save: Save = False,
    imports: options.Imports = None,
) -> None:
    """Measure a trained run, or images, against real data.

    Fréchet distance with its interval, kernel distance with its error, label accuracy, precision and recall,
    distance to the nearest training sample, and seconds; each number with the id of its protocol. The same
    command twice gives the same numbers. Started by torchrun, all processes measure a run together. Latents are
    decoded and compared with the images they were made from; --features latent measures them as they are.
    """
    options.import_all(imports)
    if steps is not None and times is not None:
        raise typer.BadParameter("give --steps or --times, not both", param_hint="--times")
    counts, grid = options.numbers(steps or options.BUDGETS, "--steps"), options.instants(times)

    from flowleap import evaluation, processes
    from flowleap.threads import limited, most

    standard = lawful(evaluation.standard(protocol), labels)
    chosen = standard_features(standard, features)
    where = options.device(device)
    given: dict[str, Any]
    if not target.exists() and reference is not None:
        raise FileNotFoundError(
            f"{target} does not exist: give a run folder, a folder of images, or a .npz of them"
        )
    with processes.together(), limited(threads or most()):
        first = processes.rank() == 0
        if (target / "config.json").is_file() or not target.exists():
            about = {"weights": weights.value, "device": where}
            given = {"seed": seed, "batch": per_device, "times": grid, "guidance": guidance}
            rows = of_run(target, about, standard, chosen, reference, counts, num, renoise, vae, **given)
        else:
            changed = {
                "seed": seed != 0,
                "per-device": per_device != CHUNK,
                "weights": weights.value != "ema",
            }
            given = {"steps": steps, "times": times, "guidance": guidance, "renoise": renoise}
            given |= {"save": save or None, "vae": vae, "labels": labels}
            refuse_sampling(**given, **{name: told or None for name, told in changed.items()})
            rows = of_images(target, standard, chosen, reference, num, where) if first else []
    if not first:
        return
    if save:
        from flowleap.training.report import write_table

        write_table(target, rows, evaluation.report.notes(rows))
    show(rows, as_json)


def of_run(
    target: Path,
    about: dict[str, Any],
    standard: Standard,
    features: str | None,
    reference: str | None,
    steps: Sequence[int],
    num: int | None,
    renoise: float | None = None,
    vae: str | None = None,
    **sampling: Any,
) -> list[dict[str, Any]]:
    """The rows of a run."""
    from flowleap import evaluation, runs

    loaded = runs.load_run(target, **about)
    objective = options.renoised(loaded.objective, renoise)
    planned = evaluation.plan(loaded.flow, steps, sampling["times"])
    dataset = trained_on(loaded, reference)
    shape = loaded.shape if loaded.kind == "image" else ()
    look = like_samples(shape, reference, loaded.config.square)
    asked, decoder = features or loaded.config.features, loaded.decoder(vae)
    if loaded.kind == "latents":
        asked = latent_features(loaded, dataset, asked, reference, decoder)
    ruler = ruler_of(standard, asked, reference, dataset, about["device"], look)
    if ruler.features.latents:
        decoder = None
    count = num or standard.num
    total = count * sum(objective.nfe(n, guidance=sampling["guidance"], times=t) for n, t in planned)
    budgets = ", ".join(str(n) for n, _ in planned)
    with counting(f"{count} samples at {budgets} steps", total) as tick:
        return evaluation.evaluate(
            loaded.flow,
            objective,
            dataset,
            steps=steps,
            num=count,
            weights=loaded.weights,
            ruler=ruler,
            standard=standard,
            tick=tick,
            decoder=decoder,
            **sampling,
        )


def trained_on(loaded: Any, reference: str | None) -> Any:
    """The data set of a run; without rows where it is not to be had, or not known to an imported run, and a reference
    is named.

    Raises: ValueError where it is needed and not to be had; typer.BadParameter where there is nothing to compare with.
    """
    if loaded.config.data:
        try:
            return loaded.dataset()
        except (OSError, ValueError) as error:
            if reference is None:
                raise
            say(f"no distance to training images is measured: {error}")
    elif reference is None and loaded.kind == "latents":
        raise typer.BadParameter(
            f"the samples of {loaded.folder} are latents, which are not measured as they are: say what to compare the "
            "decoded ones with, and name the autoencoder that decodes them with --vae",
            param_hint="--reference",
        )
    elif reference is None:
        raise typer.BadParameter(
            f"{loaded.folder} was imported, and does not say what it was trained on: say what to compare it with, as "
            "in --reference digits",
            param_hint="--reference",
        )
    import torch

    from flowleap.data import Dataset

    return Dataset(
        "unknown",
        torch.empty(0, *loaded.shape),
        num_classes=loaded.num_classes,
        classes=loaded.classes,
        kind=loaded.kind,
        codec=loaded.codec,
    )


def latent_features(
    loaded: Run, dataset: Dataset, asked: str, reference: str | None, decoder: Decoder | None
) -> str:
    """The features that samples which are latents are compared by: those of images where they can be decoded.

    Raises: ValueError where only decoded images could be compared, and they cannot be decoded.
    """
    from flowleap import evaluation
    from flowleap.data.latents import is_cache

    if asked != "auto":
        return asked
    if reference is not None and is_cache(Path(reference)):
        return "auto"
    if decoder is None and (reference is not None or not len(dataset)):
        raise ValueError(
            f"the samples of {loaded.folder} are latents, which are not measured beside images: name the autoencoder "
            "that decodes them with --vae"
        )
    if reference is not None:
        return "auto"
    own, why = evaluation.features.default(dataset), "their autoencoder is not at hand"
    if decoder is not None:
        try:
            return evaluation.named("auto", evaluation.originals(dataset)).name
        except ValueError as error:
            why = str(error)
    say(f"latents are measured as they are, by {own.name} features: {why}")
    return own.name


def of_images(
    target: Path,
    standard: Standard,
    features: str | None,
    reference: str | None,
    num: int | None,
    device: Any,
) -> list[dict[str, Any]]:
    """The one row of images that are there already."""
    from flowleap import evaluation
    from flowleap.data.source import open_images

    if reference is None:
        raise typer.BadParameter(
            f"{target} holds images, no run: say what to compare them with, as in --reference digits",
            param_hint="--reference",
        )
    source = open_images(target)
    for line in source.notes:
        say(line)
    count = len(source) if num is None else num
    if count > len(source):
        raise ValueError(f"{target} holds {len(source)} images, and {count} were asked for with --num")
    look = like_samples(source.shape, reference, None)
    ruler = ruler_of(standard, features, reference, None, device, look)
    with counting(f"{count} images of {target}", count) as tick:
        label = None if source.label is None else source.label[source.chosen(count)]
        found = evaluation.labels.given(label, source.classes, ruler)
        judged = found.there(label)
        parts = [None] * count if judged is None else judged.split(CHUNK)
        batches = zip(source.batches(CHUNK, count), parts, strict=False)
        row = evaluation.evaluate_set(
            batches, count, ruler, standard=standard, source=target.name, law=found.law, tick=tick
        )
    return [row]


def lawful(standard: Standard, labels: LabelLaw | None) -> Standard:
    """The standard with another law of labels, where one is asked for and it fixes none.

    Raises: typer.BadParameter for a published protocol, which fixes it.
    """
    if labels is None or labels.value == standard.labels:
        return standard
    if standard.name != "flowleap":
        raise typer.BadParameter(
            f"protocol {standard} is defined with labels drawn by {standard.labels}: leave --labels out, or --protocol",
            param_hint="--labels",
        )
    return replace(standard, labels=labels.value)


def like_samples(shape: Sequence[int], reference: str | None, square: Any) -> Any:
    """How the images of a reference at a path are taken, so that they are as large as the samples; None of a name."""
    from flowleap.data import Look, opening

    if reference is None or len(shape) != 3 or shape[1] != shape[2] or not opening.present(reference):
        return None
    return Look(square=square, size=shape[2])


def ruler_of(
    standard: Standard,
    features: str | None,
    reference: str | None,
    trained_on: Any,
    device: Any,
    look: Any = None,
) -> Reference:
    """What to hold samples against, and by which features; a look says how a reference at a path is taken.

    Raises: ValueError where the protocol needs other statistics, or statistics were made with other features.
    """
    from flowleap import evaluation
    from flowleap.data.source import load_any

    if reference is None and standard.reference:
        raise ValueError(
            f"protocol {standard} compares with {standard.reference}: give that file with --reference FILE.npz"
        )
    path = None if reference is None else Path(reference)
    if path is not None and evaluation.is_statistics(path):
        unsaid = features is None or features == "auto"
        kind = None if unsaid else evaluation.named(str(features), device=device)
        return evaluation.stored_reference(path, kind)
    if reference is None:
        return evaluation.held_out(trained_on, features or "auto", device)
    dataset = load_any(reference, look=look)
    return evaluation.reference(dataset, evaluation.named(features or "auto", dataset, device=device))


def standard_features(standard: Standard, features: str | None) -> str | None:
    """The features of a protocol, or those asked for where it leaves them open.

    Raises: typer.BadParameter where the protocol fixes others.
    """
    if standard.features is None or features in (None, standard.features):
        return standard.features or features
    raise typer.BadParameter(
        f"{features!r}: protocol {standard} is defined with {standard.features}; leave --features out, or "
        "--protocol",
        param_hint="--features",
    )


def refuse_sampling(**given: Any) -> None:
    """Refuse options that only make sense for a run.

    Raises: typer.BadParameter naming the first that was given.
    """
    for name, value in given.items():
        if value is not None:
            raise typer.BadParameter(
                "samples that are there already are only measured", param_hint=f"--{name}"
            )


def show(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print the rows as JSON, or as a table with notes."""
    from flowleap import evaluation

    if as_json:
        typer.echo(json.dumps(rows, indent=2, allow_nan=False, ensure_ascii=False))
        return
    from flowleap.terminal import console, print_line

    screen = console()
    screen.print(evaluation.report.table(rows))
    for line in evaluation.report.notes(rows):
        print_line(screen, line, style="dim")
