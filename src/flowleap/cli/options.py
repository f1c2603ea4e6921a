"""Options that several commands share, and how they are parsed."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer
from typer import Argument, Option

from flowleap.cli.group import be_quiet
from flowleap.fields import SINGLE

if TYPE_CHECKING:
    import torch

    from flowleap.objectives import Objective


BUDGETS = "1,2,4,128"
"""The default numbers of sampling steps of tables and reports."""
FEATURES = (
    "Features that are compared: pixel, pixel16, digits, mnist, fashion-mnist, cifar10-jpeg75, inception, timm:MODEL, "
    "or the .npz of a classifier"
)


def weights(name: str) -> str:
    """Parse --weights.

    Raises: typer.BadParameter for an unknown name.
    """
    if name not in ("ema", "raw", "best") and not name.startswith("width-"):
        raise typer.BadParameter(f"{name!r} is not one of ema, raw, best, or width-W as in width-0.1")
    return name


RunFolder = Annotated[
    Path, Argument(metavar="RUN", help="A run folder that `flowleap train` or `flowleap import` wrote.")
]
Teacher = Annotated[
    Path | None,
    Option(
        metavar="RUN",
        help="A finished run, preferably of flow-matching, whose averaged weights are the teacher.",
        show_default="for a method that needs one: trained first, with half of the steps",
    ),
]
Times = Annotated[
    str | None,
    Option(
        metavar="T,T,…",
        help="Times to visit instead of equal steps, from noise to data: 1,0.6,0. The first must be the start time of "
        "the method, see `flowleap methods table`.",
    ),
]
Seed = Annotated[
    int, Option(min=0, help="Seed of all random draws; image i depends on the seed and on i only.")
]
AsJson = Annotated[bool, Option("--json", help="Print JSON on standard output, and nothing else.")]
Quiet = Annotated[
    bool,
    Option(
        "--quiet",
        "-q",
        callback=be_quiet,
        help="Print results, warnings and errors only: no notes, no progress.",
    ),
]
Overwrite = Annotated[
    bool, Option("--overwrite", help="Replace what is at --out; a run is moved to NAME.old-N instead.")
]
Split = Annotated[
    str | None,
    Option(
        metavar="train|test",
        help="The part of the data to use.",
        show_default="all of a folder, train of an .npz; encode: train and the held-out split",
    ),
]
Show = Annotated[
    str | None,
    Option(
        metavar="N,N,…",
        help="Numbers of sampling steps of the final pictures and table.",
        show_default="1,2,4,128 as far as each takes a tenth of the training time",
    ),
]
Counts = Annotated[
    str | None,
    Option(
        metavar="N,N,…",
        help="Numbers of sampling steps, each 1 or more.",
        show_default=BUDGETS,
    ),
]
Settings = Annotated[
    list[str] | None,
    Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Any other setting; repeatable: label_dropout=0.2, times.pair.diagonal=0.5 (the objective), "
        "network.width=96, network.classes=none (train without labels), schedule.warmup=0.05, "
        "optimizer.ema=0.999,0.99.",
    ),
]
Weights = Annotated[
    str,
    Option(
        parser=weights,
        metavar="ema|raw|best|width-W",
        help="Which weights: the running average (ema), those of the last step (raw), the average with the best online "
        "evaluation, or one that `flowleap ema` made.",
        show_default="ema",
    ),
]
Guidance = Annotated[
    str | None,
    Option(
        metavar="W",
        help="Scale of classifier-free guidance, 1 for none; evaluate: several, as in 1,2,4. Guidance doubles the "
        "network evaluations, unless the run was trained with --set guidance=GuidanceInput.",
        show_default="none, or the usual scale of GuidanceInput",
    ),
]
GuidanceInterval = Annotated[
    str | None,
    Option(
        metavar="FROM,TO",
        help="Times that are guided, such as 0.2,0.8; for runs trained with --set guidance=GuidanceInput.",
        show_default="all",
    ),
]
Renoise = Annotated[
    float | None,
    Option(
        min=0,
        max=1,
        metavar="GAMMA",
        help="Noise added between steps: 0 adds none, 1 jumps to the data in each step and adds fresh noise, as "
        "consistency models do.",
        show_default="that of the method",
    ),
]
Vae = Annotated[
    str | None,
    Option(
        "--vae",
        metavar="ID|FOLDER",
        help="The autoencoder of diffusers that decodes latents: a folder or an id of the Hugging Face hub.",
        show_default="the one that the latents were made with",
    ),
]
Imports = Annotated[
    list[str] | None,
    Option(
        "--import",
        metavar="FILE.py|MODULE",
        help="Run a Python file or import a module with your own methods, components or networks; repeatable.",
        show_default="none",
    ),
]
PerDevice = Annotated[
    int,
    Option(min=1, help="Rows that a process computes at a time; affects speed and memory only."),
]
SamplesPerDevice = Annotated[
    int | None,
    Option(
        min=1,
        help="Rows that a process computes at a time; affects speed and memory only.",
        show_default="250, or fewer if memory is short; sample: up to 1024 on a GPU",
    ),
]
Device = Annotated[
    str,
    Option(help="Where to compute: cpu, cuda, cuda:1, mps; auto: a GPU if there is one."),
]
Threads = Annotated[
    int | None,
    Option(min=1, help="CPU threads of each process.", show_default="one for each core, or OMP_NUM_THREADS"),
]
TrainingDevice = Annotated[
    Literal["auto", "cpu", "cuda"] | None,
    Option(help="Where to compute: cpu, cuda; auto: a GPU if there is one.", show_default="auto"),
]
TrainingThreads = Annotated[
    int | None,
    Option(
        min=1,
        help="CPU threads of each process; the number is saved with the run.",
        show_default="OMP_NUM_THREADS, or the fastest number in a few trial steps",
    ),
]
Data = Annotated[
    str | None,
    Option(
        metavar="PATH|hf:NAME|NAME",
        help="The data: a folder of images (sub-folders are classes), an .npz, IDX files; hf:NAME[:CONFIG][:SPLIT] of "
        "Hugging Face, or hf:FOLDER that save_to_disk wrote; or digits, two-moons, eight-gaussians, checkerboard.",
        show_default="that of --teacher, or digits",
    ),
]
SquarePolicy = Annotated[
    Literal["crop", "resize"] | None,
    Option(
        "--square",
        help="Images of a folder become squares: crop the largest centered square, or resize with distortion.",
        show_default="crop, if sizes differ",
    ),
]
Size = Annotated[
    int | None,
    Option(
        min=4,
        help="The side that images are resized to (Lanczos, antialiased).",
        show_default="no resizing if all have one size, else a power of two up to 64",
    ),
]
Flip = Annotated[
    bool | None,
    Option(
        "--flip/--no-flip",
        help="Mirror images with probability ½.",
        show_default="no; for latents: if they have mirrored ones",
    ),
]
Strict = Annotated[
    bool | None,
    Option(
        "--strict/--no-strict",
        help="Stop at an unusable image, instead of leaving it out.",
        show_default=False,
    ),
]
Workers = Annotated[
    int | None,
    Option(
        min=0,
        help="Processes that read images ahead, for data that do not fit into memory.",
        show_default="number of cores − 1, at most 8",
    ),
]
Batch = Annotated[int | None, Option(min=1, help="Batch size, in images.", show_default="chosen by the data")]
Lr = Annotated[float | None, Option(help="Learning rate of Adam.", show_default="chosen by the data")]
Network = Annotated[
    str | None,
    Option(
        help="The network: dit-nano, -tiny, -small, -base, -large, -xlarge (the last four also with a patch size, as "
        "in dit-base-2, -4, -8); unet-small, unet-base, unet-64 for pixels; or mlp.",
        show_default="chosen by the data",
    ),
]
Precision = Annotated[
    Literal["fp32", "bf16"] | None,
    Option(
        help="Precision of the network: bf16 computes in bfloat16; weights, times and losses stay in float32.",
        show_default="fp32, or that of accelerate launch",
    ),
]

PushToHub = Annotated[
    str | None,
    Option(
        metavar="OWNER/NAME",
        help="Also upload the exported run as a new model of the Hugging Face hub; nothing is sent without this.",
    ),
]
Private = Annotated[bool, Option("--private", help="Make the model on the hub a private one.")]


@dataclass(frozen=True)
class Training:
    """Options of all commands that train."""

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
    """Options of all commands that sample from a run."""

    times: Times = None
    seed: Seed = 0
    weights: Weights = "ema"
    guidance: Guidance = None
    guidance_interval: GuidanceInterval = None
    renoise: Renoise = None
    vae: Vae = None
    per_device: SamplesPerDevice = None
    device: Device = "auto"
    threads: Threads = None
    imports: Imports = None

    @property
    def scales(self) -> tuple[float | None, ...]:
        """The scales of guidance, (None,) where none is asked for."""
        return (None,) if self.guidance is None else _floats(self.guidance, "--guidance", "scales", "1,2,4")

    @property
    def scale(self) -> float | None:
        """The one scale of guidance."""
        if len(self.scales) > 1:
            raise typer.BadParameter(
                f"{self.guidance}: one scale is expected, as in 3; flowleap evaluate compares several",
                param_hint="--guidance",
            )
        return self.scales[0]

    @property
    def interval(self) -> tuple[float, float] | None:
        """The first and the last time that are guided, None for all."""
        if self.guidance_interval is None:
            return None
        found = _floats(self.guidance_interval, "--guidance-interval", "two times", "0.2,0.8")
        if len(found) != 2 or not 0 <= found[0] < found[1] <= 1:
            raise typer.BadParameter(
                f"{self.guidance_interval}: two times 0 ≤ from < to ≤ 1 are expected, as in 0.2,0.8",
                param_hint="--guidance-interval",
            )
        return found[0], found[1]

    def grid(self, steps: Any) -> tuple[float, ...] | None:
        """Return the times to visit, None for equal steps; `samplers.grid` checks them against the method.

        Raises: typer.BadParameter for text that is no list of numbers, and if steps are given as well.
        """
        if self.times is None:
            return None
        if steps is not None:
            raise typer.BadParameter("give --steps or --times, not both", param_hint="--times")
        return _floats(self.times, "--times", "times", "1,0.6,0")


def _floats(text: str, option: str, what: str, example: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if found and all(abs(number) <= SINGLE for number in found):
        return found
    raise typer.BadParameter(
        f"{text!r}: expected {what} separated by commas, as in {example}", param_hint=option
    )


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command whose keyword-only dataclass parameters stand for one option per field."""
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


def renamed(settings: list[str] | None) -> list[tuple[str, str]]:
    """Split the FIELD=VALUE of --set; a field by the name of an earlier version becomes the present one, and is said.

    Raises: typer.BadParameter where the = is missing.
    """
    from flowleap.training.config import present

    found = [(name, present(name), value) for name, value in pairs(settings or [])]
    for old, new, _ in found:
        if old != new:
            warnings.warn(f"--set {old} is called {new} now", UserWarning, stacklevel=2)
    return [(new, value) for _, new, value in found]


def as_settings(settings: list[str] | None, **given: Any) -> tuple[tuple[str, str], ...]:
    """Return options as the settings that they are short for, followed by those of --set.

    >>> as_settings(["schedule.warmup=0.1"], size=64, flip=True, lr=None)
    (('data.size', '64'), ('data.flip', 'true'), ('schedule.warmup', '0.1'))

    Raises: typer.BadParameter where the = is missing; ValueError as `refuse_twice`.
    """
    from flowleap.training.config import FLAT
    from flowleap.training.settings import refuse_twice

    found = renamed(settings)
    refuse_twice(given, found)
    own = [(FLAT[name], str(value).lower()) for name, value in given.items() if value is not None]
    return (*own, *found)


def import_all(sources: list[str] | None) -> None:
    """Import the files and modules of --import.

    Raises: ValueError, FileNotFoundError as `extensions.imported`.
    """
    if sources:
        from flowleap import extensions

        for source in sources:
            extensions.imported(source)


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Parse whole numbers ≥ 1 separated by commas.

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


def renoised(objective: Objective, strength: float | None) -> Objective:
    """Return an objective with this noise added between sampling steps; None leaves it as it is.

    Raises: typer.BadParameter for a method that is sampled with its instantaneous velocity only.
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
    """Return the device of a name; "auto" is a GPU if there is one, else the CPU.

    Raises: typer.BadParameter for an unknown or unavailable device.
    """
    import torch

    if name == "auto":
        own = int(os.environ.get("LOCAL_RANK", "0"))  # the GPU of this process under torchrun
        return torch.device("cuda", own) if torch.cuda.is_available() else torch.device("cpu")
    try:
        found = torch.device(name)
        torch.empty(1, device=found)
    except Exception as error:  # torch raises several types, some with long messages
        reason = str(error).splitlines()[0].split(". ")[0]
        raise typer.BadParameter(f"{name!r} cannot be used: {reason}", param_hint="--device") from None
    return found


def refuse_to_overwrite(path: Path, overwrite: bool) -> None:
    """Raise ValueError, unless `overwrite`, if the output exists: a file, or a folder that is not empty."""
    taken = any(path.iterdir()) if path.is_dir() else path.exists()
    if taken and not overwrite:
        raise ValueError(f"{path} exists already: choose another place, or replace it with --overwrite")
