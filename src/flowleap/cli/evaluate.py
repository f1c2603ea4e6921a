"""flowleap evaluate: measure quality and time of a run by sampling steps, or the quality of a set of images."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer import Argument, Option

from flowleap.cli import options
from flowleap.cli.group import print_json, say, show

Target = Annotated[
    Path,
    Argument(
        metavar="RUN|IMAGES",
        help="A run folder that `flowleap train` wrote; or samples to measure: a folder of images, or a .npz of them.",
    ),
]
Num = Annotated[
    int | None,
    Option(
        min=1,
        help="How many samples are behind each number.",
        show_default="1000, or what the protocol asks for",
    ),
]
ProtocolName = Annotated[
    str,
    Option(
        "--protocol",
        help="Evaluation protocol: flowleap, or a published one with its Inception features, number of samples and "
        "labels: adm-in256, pytorch-fid, clean, edm.",
    ),
]
FeaturesName = Annotated[
    str | None,
    Option(
        "--features",
        help=f"{options.FEATURES}.",
        show_default="by the data and the protocol",
    ),
]
ReferenceName = Annotated[
    str | None,
    Option(
        "--reference",
        metavar="NAME|PATH",
        help="What to compare with: a data set by name, a folder or .npz of images, or statistics (.npz with mu and "
        "sigma) that `flowleap data stats` or ADM wrote.",
        show_default="what the run was trained on",
    ),
]
Labels = Annotated[
    Literal["data", "cycle", "uniform"] | None,
    Option(
        "--labels",
        help="Classes of the samples: data: as often as in the reference; cycle: all equally often; uniform: drawn at "
        "random.",
        show_default="what the protocol asks for; data",
    ),
]
Save = Annotated[
    bool,
    Option(
        "--save",
        help="Save as the table of the run that `flowleap report` shows; a copy of the previous table is kept.",
    ),
]


@options.grouped
def evaluate(
    target: Target,
    steps: options.Counts = None,
    num: Num = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    protocol: ProtocolName = "flowleap",
    features: FeaturesName = None,
    reference: ReferenceName = None,
    labels: Labels = None,
    save: Save = False,
    *,
    sampling: options.Sampling,
) -> None:
    """Measure a trained run, or images, against real data.

    Prints the Fréchet distance with its confidence interval, kernel distance with its error, label accuracy, precision
    and recall, distance to the nearest training sample, and seconds, each with the id of its protocol. Repeating the
    command gives the same numbers. Started by torchrun, all processes share the work. Latents are decoded and compared
    with the images they were made from; --features latent compares the latents.
    """
    times, scales = sampling.grid(steps), sampling.scales
    if save and len(scales) > 1:
        raise typer.BadParameter(
            "the table of a run has one scale of guidance: give one with --save", param_hint="--guidance"
        )
    counts = options.numbers(steps or options.BUDGETS, "--steps")

    from flowleap import evaluation, processes
    from flowleap.threads import limited, most

    standard = evaluation.standard(protocol).with_labels(labels)
    chosen = standard.with_features(features)
    device = options.device(sampling.device)
    if not target.exists() and reference is not None:
        raise FileNotFoundError(
            f"{target} does not exist: give a run folder, a folder of images, or a .npz of them"
        )
    with processes.together(), limited(sampling.threads or most()):
        first = processes.rank() == 0
        if (target / "config.json").is_file() or not target.exists():
            about = {"times": times, "features": chosen, "reference": reference, "num": num}
            rows = of_run(target, sampling, counts, standard, **about)
        else:
            refuse_sampling(sampling, steps=steps, save=save or None, labels=labels)
            if reference is None:
                raise ValueError(
                    f"{target} holds images, no run: say what to compare them with, as in --reference digits"
                )
            rows = (
                [evaluation.evaluate_images(target, reference, standard, chosen, num, device, say)]
                if first
                else []
            )
    if not first:
        return
    notes = evaluation.quality_table.notes(rows)
    if save:
        from flowleap.training.report import write_table

        write_table(target, rows, notes)
    if as_json:
        print_json(rows)
    else:
        show(evaluation.quality_table.table(rows), *notes)


def of_run(
    target: Path, sampling: options.Sampling, steps: tuple[int, ...], standard: Any, **about: Any
) -> list[dict[str, Any]]:
    """Return the measured rows of a run."""
    from flowleap import runs
    from flowleap.runs.measuring import measure

    run = runs.load_run(target, weights=sampling.weights, device=options.device(sampling.device))
    run = replace(run, objective=options.renoised(run.objective, sampling.renoise))
    return measure(
        run,
        steps,
        standard,
        seed=sampling.seed,
        batch=sampling.per_device or 250,
        guidance=sampling.scales,
        interval=sampling.interval,
        vae=sampling.vae,
        say=say,
        **about,
    )


def refuse_sampling(sampling: options.Sampling, **given: Any) -> None:
    """Raise typer.BadParameter for the first given option that only makes sense for a run."""
    for field in fields(sampling):
        if field.name not in ("device", "threads", "imports"):
            value = getattr(sampling, field.name)
            given[field.name.replace("_", "-")] = None if value == field.default else value
    for name, value in given.items():
        if value is not None:
            raise typer.BadParameter(
                "samples that are there already are only measured", param_hint=f"--{name}"
            )
