"""What several commands take, and how it is read: numbers of steps, times, labels, devices."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

if TYPE_CHECKING:
    import torch

    from flowleap.objectives import Objective


BUDGETS = "1,2,4,128"
"""The numbers of steps that are measured and shown unless others are named."""


def weights(name: str) -> str:
    """Read which weights of a run are used.

    Raises: typer.BadParameter for a name of none.
    """
    if name not in ("ema", "raw", "best") and not name.startswith("width-"):
        raise typer.BadParameter(f"{name!r} is not one of ema, raw, best, or width-W as in width-0.1")
    return name


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
    int, typer.Option(min=0, help="Seed of all random draws; image i depends on the seed and on i only.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what is at --out; a run is moved to NAME.old-N instead.")
]
Split = Annotated[
    str | None,
    typer.Option(
        metavar="train|test",
        help="The part of the data to use.",
        show_default="all of a folder, train of an .npz; encode: train and what is held out",
    ),
]
Show = Annotated[
    str | None,
    typer.Option(
        metavar="N,N,…",
        help="Numbers of sampling steps of the final pictures and table, whatever time they take.",
        show_default="1,2,4,128, but pictures within a tenth of the time of training",
    ),
]
Counts = Annotated[
    str | None,
    typer.Option(
        metavar="N,N,…",
        help="Numbers of sampling steps, each 1 or more.",
        show_default=BUDGETS,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Any other setting; repeatable: label_dropout=0.2, times.pair.diagonal=0.5 (the objective), "
        "network.width=96, network.classes=none (train without labels), warmup=0.05, ema=0.999,0.99.",
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        parser=weights,
        metavar="ema|raw|best|width-W",
        help="Which weights: the running average, the last ones, the average that did best, or one of a width that "
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
        help="The autoencoder of diffusers that decodes latents: a folder or an id of the Hugging Face hub.",
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
PerDevice = Annotated[
    int,
    typer.Option(min=1, help="Rows that a process computes at a time; changes speed and memory only."),
]
Device = Annotated[
    str,
    typer.Option(help="Where to compute: cpu, cuda, cuda:1, mps; auto takes a GPU where there is one."),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1, help="CPU threads of each process.", show_default="one for each core, or OMP_NUM_THREADS"
    ),
]
TrainingDevice = Annotated[
    Literal["auto", "cpu", "cuda"] | None,
    typer.Option(help="Where to compute: auto takes a GPU where there is one.", show_default="auto"),
]
TrainingThreads = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="CPU threads of each process; the number is kept with the run.",
        show_default="OMP_NUM_THREADS, or as many as are fastest in a few trial steps",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|hf:NAME|NAME",
        help="The data: a folder of images (sub-folders are classes), an .npz, IDX files; hf:NAME[:CONFIG][:SPLIT] of "
        "Hugging Face, or hf:FOLDER that save_to_disk wrote; or digits, two-moons, eight-gaussians, checkerboard.",
        show_default="that of --teacher, or digits",
    ),
]
SquarePolicy = Annotated[
    Literal["crop", "resize"] | None,
    typer.Option(
        "--square",
        help="Images of a folder become squares: crop takes the largest one in the middle, resize squeezes all of it.",
        show_default="crop, where sizes differ",
    ),
]
Size = Annotated[
    int | None,
    typer.Option(
        min=4,
        help="The side that images are resized to (Lanczos, antialiased).",
        show_default="as they are if alike, else a power of two up to 64",
    ),
]
Flip = Annotated[
    bool | None,
    typer.Option(
        "--flip/--no-flip",
        help="Mirror images with probability ½.",
        show_default="no; of latents, what is there",
    ),
]
Strict = Annotated[
    bool | None,
    typer.Option(
        "--strict/--no-strict",
        help="Stop where an image cannot be used, rather than leaving it out.",
        show_default=False,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Processes that read images ahead, of data that do not fit into memory.",
        show_default="one less than cores, at most 8",
    ),
]
Batch = Annotated[
    int | None, typer.Option(min=1, help="Images of a training step.", show_default="by the data")
]
Lr = Annotated[float | None, typer.Option(help="Learning rate of Adam.", show_default="by the data")]
Network = Annotated[
    str | None,
    typer.Option(
        help="The network: dit-nano, -tiny, -small, -base, -large, -xlarge (the last four also with a patch of their "
        "own, as dit-base-2, -4, -8); for pixels unet-small, unet-base, unet-64; or mlp.",
        show_default="by the data",
    ),
]
Precision = Annotated[
    Literal["fp32", "bf16"] | None,
    typer.Option(
        help="Precision of the network: bf16 computes it in bfloat16; its weights, times and losses stay in float32.",
        show_default="fp32, or that of accelerate launch",
    ),
]


@dataclass(frozen=True)
class Training:
    """Options of every command that trains."""

    data: Data = None
    network: Network = None
    batch: Batch = None
    lr: Lr = None
    precision: Precision = None
    square: SquarePolicy = None
    size: Size = None
    flip: Flip = None
    strict: Strict = None
    workers: Workers = None
    teacher: Teacher = None
    threads: TrainingThreads = None
    device: TrainingDevice = None
    imports: Imports = None


@dataclass(frozen=True)
class Sampling:
    """Options of every command that samples from a run."""

    times: Times = None
    seed: Seed = 0
    weights: Weights = "ema"
    guidance: Guidance = None
    renoise: Renoise = None
    vae: Vae = None
    per_device: PerDevice = 250
    device: Device = "auto"
    threads: Threads = None
    imports: Imports = None

    def grid(self, steps: Any) -> tuple[float, ...] | None:
        """Return the times to visit, None for equal steps; `samplers.grid` checks them as times of a method.

        Raises: typer.BadParameter for what are no numbers, and where numbers of steps are given as well.
        """
        if steps is not None and self.times is not None:
            raise typer.BadParameter("give --steps or --times, not both", param_hint="--times")
        return instants(self.times)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take each field of the dataclasses among its keyword-only parameters as an option."""
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, Any] = {}
    taken = []
    for param in signature.parameters.values():
        if not is_dataclass(param.annotation):
            taken.append(param)
            continue
        hints = get_type_hints(param.annotation, include_extras=True)
        groups[param.name] = param.annotation
        taken += [
            param.replace(name=f.name, default=f.default, annotation=hints[f.name])
            for f in fields(param.annotation)
        ]

    @wraps(command)
    def run(**given: Any) -> None:
        made = {
            name: kind(**{f.name: given.pop(f.name) for f in fields(kind)}) for name, kind in groups.items()
        }
        for group in made.values():
            import_all(group.imports)
        command(**made, **given)

    run.__annotations__ = {param.name: param.annotation for param in taken}
    setattr(run, "__signature__", signature.replace(parameters=taken))  # noqa: B010
    return run


def pairs(settings: list[str], option: str = "--set") -> list[tuple[str, str]]:
    """Split FIELD=VALUE.

    Raises: typer.BadParameter where the = is missing.
    """
    for setting in settings:
        if "=" not in setting:
            raise typer.BadParameter(
                f"{setting!r}: expected FIELD=VALUE, as in label_dropout=0.2", param_hint=option
            )
    return [
        (name.strip(), value.strip()) for name, _, value in (setting.partition("=") for setting in settings)
    ]


def as_settings(settings: list[str] | None, **given: Any) -> tuple[tuple[str, str], ...]:
    """Return options that are fields of a run, as the settings that they are short for, and then those of --set.

    >>> as_settings(["warmup=0.1"], size=64, flip=True, lr=None)
    (('size', '64'), ('flip', 'true'), ('warmup', '0.1'))
    """
    own = [(name, str(value).lower()) for name, value in given.items() if value is not None]
    return (*own, *pairs(settings or []))


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
