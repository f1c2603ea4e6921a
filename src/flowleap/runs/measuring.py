"""The quality of a finished run by NFE, against its own data or others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from flowleap import evaluation
from flowleap.autoencoders import Decoder
from flowleap.data import Dataset
from flowleap.data.latent_cache import is_cache
from flowleap.evaluation import Standard
from flowleap.evaluation.evaluator import chosen, preprocessing_like
from flowleap.progress import counted
from flowleap.runs.reading import Run

Say = Callable[[str], None]


def measure(
    run: Run,
    steps: Sequence[int],
    standard: Standard,
    *,
    features: str | None = None,
    reference: str | None = None,
    num: int | None = None,
    seed: int = 0,
    batch: int = 250,
    times: Sequence[float] | None = None,
    guidance: Sequence[float | None] = (None,),
    interval: tuple[float, float] | None = None,
    vae: str | None = None,
    say: Say,
) -> list[dict[str, Any]]:
    """Return the rows of `evaluation.evaluate` for a run.

    Args:
        guidance: one or several scales, each of which is measured at all steps; None for that of the run.
        interval: as in `Objective.sample`.
        features: their name, None for those of the run. num: None for what the standard asks for.
        reference: the name or place of other data or of their statistics, None for what the run was trained on.
        vae: another autoencoder than that of its latents.
        say: called with what could not be measured, in words.

    Raises: ValueError, OSError where there is nothing to compare with, or what there is does not fit.
    """
    planned = evaluation.samplings(run.flow, steps, times)
    run.objective.check_interval(interval)
    dataset = trained_on(run, reference, say)
    preprocessing = preprocessing_like(
        run.shape if run.kind == "image" else (), reference, run.config.data.square
    )
    asked, decoder = features or run.config.evaluation.features, run.decoder(vae)
    if run.kind == "latents":
        asked = latent_features(run, dataset, asked, reference, decoder, say)
    evaluator = chosen(standard, asked, reference, dataset, evaluation.device_of(run.flow), preprocessing)
    count = num or standard.num
    total = count * sum(run.objective.nfe(n, guidance=w, times=t) for n, t in planned for w in guidance)
    with counted(f"{count} samples at {', '.join(str(n) for n, _ in planned)} steps", total) as tick:
        measured = [
            evaluation.evaluate(
                run.flow,
                run.objective,
                dataset,
                steps,
                count,
                seed,
                batch,
                times,
                scale,
                interval,
                weights=run.weights,
                evaluator=evaluator,
                standard=standard,
                tick=tick,
                decoder=None if evaluator.features.latents else decoder,
            )
            for scale in guidance
        ]
        return [row for rows in measured for row in rows]


def trained_on(run: Run, reference: str | None, say: Say) -> Dataset:
    """Return the data set of a run; without rows where a reference is named, and it is not known or not to be had.

    Raises: ValueError, OSError where it is needed and not to be had, or there is nothing to compare with.
    """
    if run.config.data.name:
        try:
            return run.dataset().turned(run.config.data.flip)
        except (OSError, ValueError) as error:
            if reference is None:
                raise
            say(f"no distance to training images is measured: {error}")
    elif reference is None and run.kind == "latents":
        raise ValueError(
            f"the samples of {run.folder} are latents, which are not measured as they are: say with --reference what "
            "to compare the decoded ones with, and name the autoencoder that decodes them with --vae"
        )
    elif reference is None:
        raise ValueError(
            f"{run.folder} was imported, and does not say what it was trained on: say what to compare it with, as "
            "in --reference digits"
        )
    return Dataset(
        "unknown",
        torch.empty(0, *run.shape),
        num_classes=run.num_classes,
        classes=run.classes,
        kind=run.kind,  # type: ignore[arg-type]
        codec=run.codec,
    )


def latent_features(
    run: Run, dataset: Dataset, asked: str, reference: str | None, decoder: Decoder | None, say: Say
) -> str:
    """Return the features that samples which are latents are compared by: of images where they can be decoded.

    Raises: ValueError where only decoded images could be compared, and they cannot be decoded.
    """
    if asked != "auto" or (reference is not None and is_cache(Path(reference))):
        return asked
    if decoder is None and (reference is not None or not len(dataset)):
        raise ValueError(
            f"the samples of {run.folder} are latents, which are not measured beside images: name the autoencoder "
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
