"""Samples of a run for pictures, real samples beside them, and samples that are written as they are made."""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowleap import evaluation, memory, processes
from flowleap.autoencoders import Decoder
from flowleap.data import Dataset
from flowleap.data.codec import Codec
from flowleap.evaluation.generation import Aside, Request, overlapped
from flowleap.formatting import roughly
from flowleap.runs.reading import Run
from flowleap.runs.sample_files import SampleFiles

USUAL = 250
"""Rows at a time by which the time of many samples is foretold."""


def first(run: Run, num: int, steps: int, decoder: Decoder | None = None) -> Tensor:
    """Return the first samples of a run, from the same noise for all runs, classes in turn; no advice on steps.

    Shapes: (num, *shape of a sample, or of an image where latents are decoded).
    Raises: NotFinite where samples hold NaN or infinity.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return evaluation.generate(
            run.flow,
            run.objective,
            run.shape,
            num,
            label=evaluation.cycle(num, run.num_classes),
            steps=steps,
            bounds=evaluation.BOUNDS.get(run.kind),
            decode=decoder,
        )


def requested(
    run: Run,
    label: Tensor | None,
    *,
    steps: int | None = None,
    times: Sequence[float] | None = None,
    decoder: Decoder | None = None,
    **about: Any,
) -> Request:
    """Return what makes samples of a run, clamped as image files are.

    Args:
        label: of all samples, None without classes.
        steps, times: one of them, or neither for one step.
        about: seed, guidance, interval and noise, as `Request` takes them.

    Shapes: label (samples,) int64.
    Raises: ValueError for times that do not suit the method, and as `Request`.
    """
    ((budget, grid),) = evaluation.samplings(run.flow, (1 if steps is None else steps,), times)
    return Request(
        run.flow,
        run.objective,
        run.shape,
        label=label,
        steps=None if grid else budget,
        times=grid,
        bounds=evaluation.BOUNDS.get(run.kind),
        decode=decoder,
        **about,
    )


def real(data: Dataset, num: int, decoder: Decoder | None = None) -> Tensor:
    """Return the first real samples, classes in turn where all have rows; of latents, the decoded ones.

    Shapes: (at most num, *shape).
    """
    if decoder is not None:
        return decoder(real(data, num))
    if data.label is None or data.kind == "points" or not data.num_classes:
        return data.x[:num]
    members = [(data.label == wanted).nonzero().flatten() for wanted in range(min(num, data.num_classes))]
    if not all(map(len, members)):
        return data.x[:num]
    rows = [members[index % data.num_classes] for index in range(num)]
    taken = [own[index // data.num_classes % len(own)] for index, own in enumerate(rows)]
    return data.x[torch.stack(taken)]


def foretell(request: Request, files: SampleFiles, num: int, say: Callable[[str], None]) -> None:
    """Say how much room and time many samples take, before any is made.

    Raises: ValueError where they do not fit.
    """
    each, where = files.room
    needed = float(each * num * math.prod(files.run.shape))
    room = memory.free("cpu") if where == "memory" else shutil.disk_usage(existing(files.path)).free
    seconds = evaluation.pace(request.flow, request.shape, min(USUAL, num)) * request.nfe * num
    say(f"{num:,} samples: at most {needed / 1e9:.2g} GB in {where}, about {roughly(seconds)} to make")
    if needed > room:
        raise ValueError(
            f"--num {num}: {needed / 1e9:.3g} GB of samples do not fit into the {room / 1e9:.3g} GB that are free in "
            f"{where}: make fewer at a time, each with a --seed and an --out of its own"
        )


def existing(path: Path) -> Path:
    """Return the nearest folder above a path that exists."""
    return next(above for above in path.absolute().parents if above.is_dir())


def write(
    request: Request,
    files: SampleFiles,
    num: int,
    done: int = 0,
    *,
    batch: int | None = None,
    tick: Callable[[int], None] = lambda samples: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> int:
    """Make samples number `done` to `num` − 1 and write them as they are made; return how many are written in all.

    Memory holds a few batches, whatever `num` is. Files are written in a thread while the next samples are made, and on
    a GPU samples are decoded and copied meanwhile too. Processes share each round of batches, and the first one writes.

    Args:
        batch: the most rows at a time of a process, None to let memory decide (`Request.rows_at_once`).
        tick: called with the samples that are made. interrupted: asked before each round.

    Raises: NotFinite where samples hold NaN or infinity.
    """
    request = replace(request, tick=in_samples(tick, request.nfe))
    size, aside = memory.Rows(batch or request.rows_at_once()), Aside(request)
    through = map if request.device.type == "cpu" else overlapped  # on a CPU both would want the same cores

    def made() -> Iterator[Any]:
        for own in rounds(done, num, size, interrupted):
            parts = [*size.computed(own, request.sample)] or [torch.empty(0, *request.shape)]
            yield aside.queued(torch.cat(parts))

    def gathered() -> Iterator[tuple[int, Tensor]]:
        start = done
        for own in through(aside, made()):
            samples = processes.gathered(own)
            if broken := int((~samples.flatten(1).isfinite().all(dim=1)).sum()):
                raise evaluation.NotFinite(broken, len(samples))
            yield start, samples
            start += len(samples)

    save = files.write if processes.first() else lambda start, samples: len(samples)
    done += sum(overlapped(lambda batch: save(*batch), gathered()))
    if done == num and processes.first():
        files.close()
    return done


def asked(run: Run, request: Request) -> dict[str, Any]:
    """Return what the samples of a run depend on beside its weights; an interrupted call goes on where it is equal."""
    return {
        "run": str(run.folder.resolve()),
        "seed": request.seed,
        "steps": request.steps,
        "times": request.times,
        "guidance": request.guidance,
        "renoise": request.objective.sampling.renoise,
    } | ({} if request.interval is None else {"interval": request.interval})


def rounds(done: int, num: int, size: memory.Rows, interrupted: Callable[[], bool]) -> Iterator[range]:
    """Yield the samples that this process makes in each round: one batch for each process."""
    while done < num and not processes.any_of(interrupted()):
        stop = min(num, done + processes.count() * min(processes.every(size.count)))
        own = processes.share(stop - done)
        yield range(done + own.start, done + own.stop)
        done = stop


def in_samples(tick: Callable[[int], None], nfe: int) -> Callable[[int], None]:
    """Return a function that takes network evaluations of one process, and calls `tick` with samples of all."""
    spent = 0

    def spend(evaluations: int) -> None:
        nonlocal spent
        before, spent = spent // nfe, spent + processes.count() * evaluations
        tick(spent // nfe - before)

    return spend


def decoding(run: Run, decoder: Decoder | None) -> str:
    """Return how latents became images, or become them where that is known; nothing for anything else."""

    def way(codec: Codec) -> str:
        return f"/ {codec.scaling:g}" + (f" + {codec.shift:g}" if codec.shift else "")

    if decoder is not None:
        return f"; decoded by {decoder.autoencoder.name} from latents {way(decoder.codec)}"
    if run.kind != "latents" or run.codec is None:
        return ""
    return f"; images are what {run.codec.vae} decodes from them {way(run.codec)}"
