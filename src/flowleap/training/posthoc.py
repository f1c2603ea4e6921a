"""Power-function averages stored in a run folder, and averages of other widths computed from them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from flowleap import processes
from flowleap.files import replace_file
from flowleap.training import checkpoint, power
from flowleap.training.checkpoint import Tensors
from flowleap.training.distributed import whole
from flowleap.training.state import TrainedNetwork

FOLDER = "averages"
FARTHEST = 0.1
"""The largest part of a profile, by norm, that stored averages may leave unexplained."""
PREFIX = "width-"


def name_of(width: float) -> str:
    """Return what the weights of an average are called, as in "width-0.1"."""
    return f"{PREFIX}{width:g}"


def width_in(weights: str) -> float | None:
    """Return the width that the name of weights asks for, None where it asks for none.

    Raises: ValueError for a name that begins so but holds no number.
    """
    if not weights.startswith(PREFIX):
        return None
    try:
        return float(weights.removeprefix(PREFIX))
    except ValueError:
        raise ValueError(
            f"weights={weights!r}: a width is expected after {PREFIX!r}, as in width-0.1"
        ) from None


def store(place: Path, trained: TrainedNetwork, step: int) -> None:
    """Store the power-function averages of a network as they are after `step` steps."""
    updates = trained.updates(step)
    for width, average in trained.powers.items():
        average.finish()
        tensors = {name: whole(tensor).cpu() for name, tensor in average.module.state_dict().items()}
        path = place / FOLDER / f"{name_of(width)}-update-{updates:08d}.safetensors"
        if processes.first():
            path.parent.mkdir(exist_ok=True)
            replace_file(path, partial(checkpoint.write_tensors, tensors=tensors, step=step))


def snapshots(place: Path) -> list[tuple[Path, float, int]]:
    """Return the stored averages of a run: file, width and updates, in this order."""
    found = []
    for path in (place / FOLDER).glob(f"{PREFIX}*-update-*.safetensors"):
        width, _, updates = path.stem.removeprefix(PREFIX).partition("-update-")
        found.append((path, float(width), int(updates)))
    return sorted(found, key=lambda each: each[1:])


def synthesized(place: Path, width: float, step: int | None = None) -> tuple[Tensors, int]:
    """Return the average of a width, out of those that the run in a folder stored, and the step that it is from.

    One file is read at a time.

    Args:
        step: one at which averages were stored; None for the last.

    Raises: ValueError where none are stored, none at this step, or they do not reach that width.
    """
    gamma = power.exponent(width)
    stored = snapshots(place)
    if not stored:
        raise ValueError(
            f"{place} has stored no averages to make others of: train with --set optimizer.widths=0.05,0.1 (and "
            "width_every=STEPS)"
        )
    steps = {checkpoint.step_of(path): updates for path, _, updates in stored}
    step = max(steps) if step is None else step
    if step not in steps:
        raise ValueError(
            f"{place} has stored averages at steps {', '.join(map(str, sorted(steps)))}, not at {step}"
        )
    stored = [each for each in stored if each[2] <= steps[step]]
    profiles = [(updates, power.exponent(its)) for _, its, updates in stored]
    weights, left = power.combination(profiles, (steps[step], gamma))
    if left > FARTHEST:
        raise ValueError(
            f"an average of width {width:g} at step {step} cannot be made of the {len(stored)} stored up to there: "
            f"{left:.0%} of its profile would be missing; ask for a later step or a width nearer to theirs "
            f"({', '.join(sorted({f'{its:g}' for _, its, _ in stored}))}), or train with a smaller width_every"
        )
    total: Tensors = {}
    for (path, _, _), weight in zip(stored, weights.tolist(), strict=True):
        for name, tensor in checkpoint.read_tensors(path).items():
            part = weight * tensor.double() if tensor.is_floating_point() else tensor
            total[name] = total[name] + part if name in total and tensor.is_floating_point() else part
    kinds = checkpoint.read_tensors(stored[-1][0])
    return {name: tensor.to(kinds[name].dtype) for name, tensor in total.items()}, step
