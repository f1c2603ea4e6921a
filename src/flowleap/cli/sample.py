"""flowleap sample: write samples of a run as a picture, an array file or a folder."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Exit, Option

from flowleap.cli import options
from flowleap.cli.group import echo, print_json, say
from flowleap.cli.launcher import on_all_processes
from flowleap.formatting import plural

if TYPE_CHECKING:
    from flowleap.evaluation.generation import Request
    from flowleap.runs.sample_files import SampleFiles

MANY = 10_000
"""From this number of samples on, the time and room they take are printed first."""
SIGNALED = 128
"""What is added to the number of a signal to make the exit code."""
MESSAGE = "finishing this batch; once more to stop at once"

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
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    *,
    sampling: options.Sampling,
) -> None:
    """Sample images from a trained run.

    Classes are sampled in turn unless --label says otherwise. Image i depends on the seed and on i only. Latents are
    decoded by the autoencoder they were made with, if it is available. A .npz or a folder is written as the images are
    made, at a constant memory; after an interruption, the same command continues. Started by torchrun, all processes
    share the work.
    """
    times, scale, interval = sampling.grid(steps), sampling.scale, sampling.interval
    path = run / ("samples.npz" if latents else "samples.png") if out is None else out

    from flowleap import evaluation, processes, runs
    from flowleap.runs import sample_files, samples

    def refuse_to_overwrite(path: Path) -> None:
        options.refuse_to_overwrite(path, overwrite or sample_files.unfinished(path))

    sample_files.kind_of(path)
    refuse_to_overwrite(path)
    loaded = runs.load_run(run, weights=sampling.weights, device=options.device(sampling.device))
    loaded = replace(loaded, objective=options.renoised(loaded.objective, sampling.renoise))
    decoder = None if latents else loaded.decoder(sampling.vae)
    shown = loaded if decoder is None else replace(loaded, kind="image", shape=decoder.shape(loaded.shape))
    count = num or (2000 if len(loaded.shape) == 1 else 100)
    wanted, which = evaluation.labels.wanted(label, count, loaded.classes, loaded.class_counts)
    request = samples.requested(
        loaded,
        wanted,
        steps=steps,
        times=times,
        decoder=decoder,
        seed=sampling.seed,
        guidance=scale,
        interval=interval,
    )
    files = sample_files.place(shown, path if latents else out, wanted)
    refuse_to_overwrite(files.path)
    if count > MANY:
        processes.from_first(lambda: samples.foretell(request, files, count, say))
    about = {
        "num": count,
        "label": label,
        "weights": loaded.weights,
        "decoder": decoder and decoder.autoencoder.checksum,
    }
    done = processes.from_first(lambda: files.begin(samples.asked(loaded, request) | about, overwrite))
    seconds = make(request, files, count, done, sampling.per_device)
    if as_json:
        told = {"file": str(files.path), "made": count - done, "nfe": request.nfe, "seed": sampling.seed}
        print_json({**about, **told, "seconds": seconds})
        return
    things = "latents" if shown.kind == "latents" else "samples"
    speed = (
        f"{seconds:.2f} s ({(count - done) / seconds:,.0f} {'images' if shown.kind == 'image' else things}/s)"
    )
    echo(
        f"{files.path}: {count} {things}{which}, {way(request)}, {speed}, seed {sampling.seed}, weights "
        f"{loaded.weights}{samples.decoding(loaded, decoder)}"
    )


def way(request: Request) -> str:
    """Return in words what was done for each sample."""
    from flowleap.evaluation.protocol import effective_guidance

    steps = len(request.times) - 1 if request.times else request.steps or 1
    fresh = request.objective.sampling.renoised(steps)
    noise = f" with fresh noise between them (γ = {fresh:g})" if fresh else ""
    guided = effective_guidance(request.objective, request.guidance, request.interval)
    scale = "" if guided == "none" else f", guidance {guided}"
    return f"{plural(request.nfe, 'network evaluation')} each{noise}{scale}"


def make(request: Request, files: SampleFiles, count: int, done: int, batch: int | None) -> float:
    """Make and write the samples that are missing, with progress; return the seconds that it took.

    Raises: typer.Exit if interrupted.
    """
    from flowleap import processes
    from flowleap.progress import counted
    from flowleap.runs import samples
    from flowleap.training.interrupt import Interruption

    if done:
        say(f"{files.path}: {done:,} of {count:,} samples are there, going on with the others")
    start = time.perf_counter()
    with Interruption(MESSAGE) as interruption, counted(f"making {count} samples", count - done) as tick:
        written = samples.write(request, files, count, done, batch=batch, tick=tick, interrupted=interruption)
    if written < count:
        kept = f"{written:,} of {count:,} samples are written: continue with the same command"
        say(
            "interrupted; " + ("a .png needs all samples, nothing is written" if files.home is None else kept)
        )
        raise Exit(SIGNALED + max(filter(None, processes.every(interruption.signal))))
    return time.perf_counter() - start
