"""What several commands take, and how it is read: numbers of steps, times, labels, devices."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

if TYPE_CHECKING:
    import torch

    from flowleap.objectives import Objective


BUDGETS = "1,2,4,128"
"""The numbers of steps that are measured and shown unless others are named."""


class Weights(str):
    """Which weights of a run are used: the running average, those of the last step, the best on the way, or an average
    of a width that `flowleap ema` made."""

    ema: ClassVar[Weights]

    def __new__(cls, name: str) -> Weights:
        """Read a name.

        Raises: typer.BadParameter for one that names no weights.
        """
        if name not in ("ema", "raw", "best") and not name.startswith("width-"):
            raise typer.BadParameter(f"{name!r} is not one of ema, raw, best, or width-W as in width-0.1")
        return super().__new__(cls, name)

    @property
    def value(self) -> str:
        """The name as plain text."""
        return str(self)


Weights.ema = Weights("ema")


RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run folder that `flowleap train` or `flowleap import` wrote.")
]
Teacher = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        help="A finished run, of flow-matching best, whose averaged weights teach.",
        show_default="for a method that needs one: its own, with half of the steps",
    ),
]
Times = Annotated[
    str | None,
    typer.Option(
        metavar="T,T,…",
        help="Times to visit instead of equal steps, from noise to data: 1,0.6,0. The first is where the method is "
        "sampled from, which `flowleap methods table` shows.",
    ),
]
Seed = Annotated[
    int, typer.Option(min=0, help="Seed of the noise; image i depends on the seed and on i only.")
]
WeightsOption = Annotated[
    Weights,
    typer.Option(
        parser=Weights,
        metavar="ema|raw|best|width-W",
        help="The running average of the weights, the last ones, the average that did best, or one of a width that "
        "`flowleap ema` made.",
        show_default="ema",
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(help="Classifier-free guidance when sampling, 1 for none; it doubles the evaluations."),
]
Renoise = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        metavar="GAMMA",
        help="Noise added between steps: 0 chains the jumps, 1 jumps to the data in each step and adds fresh noise, as "
        "consistency models do.",
        show_default="that of the method",
    ),
]
Vae = Annotated[
    str | None,
    typer.Option(
        "--vae",
        metavar="ID|FOLDER",
        help="What decodes latents: an autoencoder of diffusers, a folder or an id of the Hugging Face hub.",
        show_default="the one that the latents were made with",
    ),
]
Imports = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        metavar="FILE.py|MODULE",
        help="Run a file or a module of your own, whose methods, parts and networks are then known; repeatable.",
        show_default="none",
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples made at a time; changes speed and memory only.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps; auto takes a GPU where there is one.")]


Threads = Annotated[
    int | None,
    typer.Option(
        min=1, help="CPU threads of this process.", show_default="one for each core, or OMP_NUM_THREADS"
    ),
]


def import_all(sources: list[str] | None) -> None:
    """Make what files and modules of the user define known.

    Raises: ValueError, FileNotFoundError as `extensions.imported`.
    """
    if sources:
        from flowleap import extensions

        for source in sources:
            extensions.imported(source)


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers ≥ 1 separated by commas.

    Raises: typer.BadParameter for anything else.
    """
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise typer.BadParameter(
            f"{text!r}: expected whole numbers from 1 up, separated by commas, as in 1,2,4,128",
            param_hint=option,
        )
    return found


def instants(text: str | None) -> tuple[float, ...] | None:
    """Numbers separated by commas; None stays None. `samplers.grid` checks them as times of a method.

    Raises: typer.BadParameter for anything else.
    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r}: expected times separated by commas, as in 1,0.6,0", param_hint="--times"
        ) from None


def renoised(objective: Objective, strength: float | None) -> Objective:
    """An objective sampled with fresh noise between steps; None leaves it as it is.

    Raises: typer.BadParameter for a method that only steps with its velocity, and jumps nowhere.
    """
    if strength is None:
        return objective
    if strength and objective.sampling.instantaneous(1):
        raise typer.BadParameter(
            f"{objective.name} is sampled with its velocity, without fresh noise between steps: leave it out",
            param_hint="--renoise",
        )
    return replace(objective, sampling=replace(objective.sampling, renoise=strength))


def device(name: str) -> torch.device:
    """The device of a name; "auto" is a GPU where there is one, else the CPU.

    Raises: typer.BadParameter for unknown names and for devices this machine lacks.
    """
    import torch

    if name == "auto":
        own = int(os.environ.get("LOCAL_RANK", "0"))  # the GPU of this process where torchrun started several
        return torch.device("cuda", own) if torch.cuda.is_available() else torch.device("cpu")
    try:
        found = torch.device(name)
        torch.empty(1, device=found)
    except Exception as error:  # torch raises several types here, some with long dumps
        reason = str(error).splitlines()[0].split(". ")[0]
        raise typer.BadParameter(f"{name!r} cannot be used: {reason}", param_hint="--device") from None
    return found


def refuse_to_overwrite(path: Path, overwrite: bool) -> None:
    """Stop before any work where the output is there already: a file, or a folder that holds something.

    Raises: ValueError unless `overwrite`.
    """
    taken = any(path.iterdir()) if path.is_dir() else path.exists()
    if taken and not overwrite:
        raise ValueError(f"{path} exists already: choose another --out, or replace it with --overwrite")
