"""flowleap sample: write samples of a run as a picture, an array file or a folder."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from typer import Option

from flowleap.cli import options
from flowleap.cli.group import echo, say, waiting
from flowleap.cli.launcher import on_all_processes
from flowleap.formatting import plural

MANY = 10_000
"""From this number of samples on, the time and memory they take are printed first."""

Steps = Annotated[int | None, Option(min=1, help="Sampling steps from noise to image.", show_default="1")]
Num = Annotated[int | None, Option(min=1, help="How many samples are made.", show_default="100; 2000 points")]
Label = Annotated[
    str,
    Option(
        metavar="NAME|all|data",
        help="Class of the samples: a name (or number, if names are no numbers); all: in turn; or data: as often as in "
        "the training data.",
    ),
]
Out = Annotated[
    Path | None,
    Option(
        help="Where to write: a .png grid (a scatter plot for points); a .npz with `images` float32 (N, C, H, W) in "
        "[-1, 1] (`points` (N, 2) for points), `labels` (-1 without) and `classes`, their names; or a folder of PNG "
        "files. Latents that are not decoded: a .npz with `latents` (N, C, H, W).",
        show_default="samples.png in the run folder, samples.npz for latents that are not decoded",
    ),
]
Latents = Annotated[bool, Option("--latents", help="Write latents without decoding them.")]


@on_all_processes
@options.grouped
def sample(
    run: options.RunFolder,
    steps: Steps = None,
    num: Num = None,
    label: Label = "all",
    out: Out = None,
    overwrite: options.Overwrite = False,
    latents: Latents = False,
    *,
    sampling: options.Sampling,
) -> None:
    """Sample images from a trained run.

    Classes are sampled in turn unless --label says otherwise. Image i depends on the seed and on i only. Latents are
    decoded by the autoencoder they were made with, if it is available. Started by torchrun, all processes share the
    work.
    """
    times = sampling.grid(steps)
    path = run / ("samples.npz" if latents else "samples.png") if out is None else out

    from flowleap import evaluation, processes, runs
    from flowleap.runs import samples

    samples.writer(path)
    options.refuse_to_overwrite(path, overwrite)
    loaded = runs.load_run(run, weights=sampling.weights, device=options.device(sampling.device))
    objective = options.renoised(loaded.objective, sampling.renoise)
    ((budget, _),) = evaluation.samplings(loaded.flow, (steps or 1,), times)
    decoder = None if latents else loaded.decoder(sampling.vae)
    path, write = samples.place(loaded, path if latents else out, decoder)
    options.refuse_to_overwrite(path, overwrite)
    count = num or (2000 if len(loaded.shape) == 1 else 100)
    wanted, which = evaluation.labels.wanted(label, count, loaded.classes, loaded.class_counts)
    nfe = objective.nfe(budget, guidance=sampling.guidance, times=times)
    if count > MANY:
        processes.from_first(lambda: samples.foretell(loaded, count, nfe, sampling.per_device, say))
    start = time.perf_counter()
    with waiting(f"making {count} samples"):
        made = evaluation.generate(
            loaded.flow,
            objective,
            loaded.shape,
            count,
            seed=sampling.seed,
            label=wanted,
            steps=None if times else budget,
            times=times,
            guidance=sampling.guidance,
            batch=sampling.per_device,
            bounds=evaluation.BOUNDS.get(loaded.kind),
            decode=decoder,
            shared=True,
        )
    if not processes.first():
        return
    seconds = time.perf_counter() - start
    write(path, made, wanted, replace(loaded, kind="image") if decoder else loaded)
    fresh = objective.sampling.renoised(budget)
    way = f" with fresh noise between them (γ = {fresh:g})" if fresh else ""
    cost = f"{plural(nfe, 'network evaluation')} each{way}, {seconds:.2f} s, seed {sampling.seed}"
    things = "samples" if decoder or loaded.kind != "latents" else "latents"
    told = samples.decoding(loaded, decoder)
    echo(f"{path}: {count} {things}{which}, {cost}, weights {loaded.weights}{told}")
