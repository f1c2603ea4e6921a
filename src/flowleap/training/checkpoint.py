"""Checkpoints: a folder of safetensors and one JSON file, whole or not there at all, never a pickle.

checkpoints/
  latest                        the name of the newest checkpoint
  step-00002000/
    network.safetensors         the weights
    ema-0.999.safetensors       their running averages, one file per decay
    target.safetensors          the target network, where the objective has one
    frozen.safetensors          the copy that teaches a stage, where the objective has stages
    optimizer.safetensors       moments and step counts, named <moment>/<parameter>
    rival.*.safetensors         network and optimizer of the auxiliary network, where the objective has one
    state.json                  step, skipped, streak, seconds, stage, format
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from flowleap import processes
from flowleap.files import new_folder, open_tensors, replace_file
from flowleap.training.distributed import whole
from flowleap.training.state import AUXILIARY, State, TrainedNetwork

FORMAT = 2
"""Of checkpoints. Those of format 1 are of versions that drew the numbers of a step otherwise, and hold the same."""
OPTIMIZER = "optimizer.safetensors"
Tensors = dict[str, Tensor]


class CheckpointError(OSError):
    """A checkpoint could not be written or read; the message says which file, why, and what is left."""


@dataclass(frozen=True)
class Progress:
    """The numbers of a `State` that are not tensors, as state.json holds them."""

    step: int
    skipped: int
    streak: int
    seconds: float
    stage: int = 0
    format: int = FORMAT

    @property
    def drawn_otherwise(self) -> bool:
        """Whether the steps so far drew other random numbers than the coming ones of the same run would have."""
        return self.format != FORMAT


def save(folder: Path, state: State, kept: int = 2) -> Path:
    """Write the checkpoint of `state` into `folder`, point `latest` at it and remove all but the last `kept`, 0: none.

    Its files are the same whatever the number of processes, all of which call this and the first of which writes.

    Raises: CheckpointError where the disk is full or otherwise refuses; earlier checkpoints are untouched.
    """
    path = folder / f"step-{state.step:08d}"
    state.averages()  # completes their updates
    files = {
        name: {key: whole(tensor).detach().cpu() for key, tensor in tensors.items()}
        for name, tensors in files_of(state.trained).items()
    }
    processes.from_first(lambda: _write(folder, path, files, state))
    if kept and processes.first():
        _prune(folder, path, kept)
    return path


def _write(folder: Path, path: Path, files: dict[str, Tensors], state: State) -> None:
    """Write the files of a checkpoint, which are whole; the first process does it for all."""
    progress = Progress(state.step, state.skipped, state.streak, state.seconds, state.trained.stage)
    try:
        with new_folder(path) as temporary:
            for name, tensors in files.items():
                write_tensors(temporary / name, tensors, state.step)
            text = json.dumps(asdict(progress), indent=2) + "\n"
            (temporary / "state.json").write_text(text, encoding="utf-8")
        replace_file(folder / "latest", path.name + "\n")
    except (OSError, SafetensorError) as error:
        left = _existing(folder)
        kept = f"the checkpoint {left[-1].name} is untouched" if left else "there is no earlier checkpoint"
        raise CheckpointError(f"could not write the checkpoint {path}: {error}; {kept}") from error


def latest(folder: Path) -> Path | None:
    """Return the newest checkpoint in `folder`, None where there is none.

    Raises: CheckpointError where `latest` names a checkpoint that is not there.
    """
    pointer = folder / "latest"
    if not pointer.exists():
        left = _existing(folder)
        return left[-1] if left else None
    path = folder / pointer.read_text(encoding="utf-8").strip()
    if not path.is_dir():
        raise CheckpointError(f"{pointer} names {path.name!r}, which is not there{_alternative(path)}")
    return path


def restore(path: Path, state: State) -> Progress:
    """Fill `state` from the checkpoint at `path`, and return its numbers; nothing changes unless every file is sound.

    Raises: CheckpointError for a missing, truncated or foreign file, naming it and the reason.
    """
    try:
        progress = read_progress(path / "state.json")
        expected = files_of(state.trained, empty_moments=True)
        found = {name: read_tensors(path / name) for name in expected}
        for name, tensors in expected.items():
            _compare(path / name, found[name], tensors, subset=name.endswith(OPTIMIZER))
    except CheckpointError as error:
        raise CheckpointError(f"{error}{_alternative(path)}") from error
    _fill(state.trained, found, progress.step)
    state.step, state.skipped = progress.step, progress.skipped
    state.streak, state.seconds = progress.streak, progress.seconds
    state.trained.stage = progress.stage
    return progress


def files_of(trained: TrainedNetwork, *, empty_moments: bool = False) -> dict[str, Tensors]:
    """Return the tensors of every file of a checkpoint by its name.

    Args:
        empty_moments: whether to describe an optimizer that has not stepped by what it will hold.
    """
    files = {name: network.state_dict() for name, network in networks_of(trained).items()}
    files[OPTIMIZER] = _moments(trained, fill=empty_moments)
    if trained.auxiliary is not None:
        theirs = files_of(trained.auxiliary, empty_moments=empty_moments)
        files |= {f"{AUXILIARY}.{name}": tensors for name, tensors in theirs.items()}
    return files


def networks_of(trained: TrainedNetwork) -> dict[str, nn.Module]:
    """Return a network and its copies by the names of their files."""
    return {
        "network.safetensors": trained.network,
        **{average_name(decay): copy.module for decay, copy in trained.averages.items()},
        **{f"width-{width:g}.safetensors": copy.module for width, copy in trained.powers.items()},
        **({} if trained.target is None else {"target.safetensors": trained.target.module}),
        **({} if trained.copy is None else {"frozen.safetensors": trained.copy}),
    }


def average_name(decay: float) -> str:
    """Return the name of the file with the running average of a decay."""
    return f"ema-{decay}.safetensors"


def _moments(trained: TrainedNetwork, *, fill: bool) -> Tensors:
    """Return the optimizer's state by "<moment>/<parameter>"; `fill` adds zeros where it has not stepped."""
    tensors: Tensors = {}
    for name, parameter in trained.network.named_parameters():
        state = trained.optimizer.state.get(parameter, {})
        if not state and fill:
            state = trained.optimizer.empty_state(parameter)
        tensors |= {f"{moment}/{name}": value for moment, value in state.items()}
    return tensors


def _fill(trained: TrainedNetwork, files: dict[str, Tensors], step: int) -> None:
    """Load checked tensors, those after `step` steps of the run, into a network, its copies and its optimizer."""
    for name, network in networks_of(trained).items():
        network.load_state_dict(files[name])
    for copy in trained.every_average():
        copy.updates = trained.updates(step)
    ordered = [weight for group in trained.optimizer.param_groups for weight in group["params"]]
    numbers = {id(weight): number for number, weight in enumerate(ordered)}
    places = {name: numbers[id(weight)] for name, weight in trained.network.named_parameters()}
    state: dict[int, Tensors] = {}
    for key, value in files[OPTIMIZER].items():
        moment, name = key.split("/", 1)
        state.setdefault(places[name], {})[moment] = value
    groups = trained.optimizer.state_dict()["param_groups"]
    trained.optimizer.load_state_dict({"state": state, "param_groups": groups})
    if trained.auxiliary is not None:
        head = f"{AUXILIARY}."
        theirs = {name.removeprefix(head): files[name] for name in files if name.startswith(head)}
        _fill(trained.auxiliary, theirs, step)


def write_tensors(path: Path, tensors: Tensors, step: int) -> None:
    """Write tensors as safetensors, noting the step they are from."""
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(whole, path, metadata={"step": str(step)})


def step_of(path: Path) -> int:
    """Return the step that the tensors of a file are from.

    Raises: CheckpointError for a file that is not ours, naming it and the reason.
    """
    with _opened(path) as file:
        step = (file.metadata() or {}).get("step", "")
    if not step.isdigit():
        raise CheckpointError(f"{path}: not written by flowleap (it does not say which step it is from)")
    return int(step)


def load_weights(path: Path, network: nn.Module) -> None:
    """Load the weights in a safetensors file into `network`.

    Raises: CheckpointError for a missing, truncated or foreign file, naming it and the reason.
    """
    tensors = read_tensors(path)
    _compare(path, tensors, network.state_dict())
    network.load_state_dict(tensors)


def read_tensors(path: Path) -> Tensors:
    """Read a safetensors file; never a pickle.

    Raises: CheckpointError for a missing, truncated or foreign file, naming it and the reason.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file and say in words what is wrong with it."""
    try:
        with open_tensors(path) as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: {_reason(path, error)}") from error


def read_progress(path: Path) -> Progress:
    """Read state.json.

    Raises: CheckpointError where it is missing, cut off, or not ours.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] not in (1, FORMAT):
            raise ValueError(f"a format other than {FORMAT}, written by another version of flowleap")
        return Progress(**content)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: the file is missing") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: truncated or not the state of a run ({error})") from error


def _reason(path: Path, error: Exception) -> str:
    """Say in words why a file is no safetensors file."""
    if not path.is_file():
        return "the file is missing"
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return "a PyTorch pickle, not safetensors; pickles can run code and are never loaded"
    size = path.stat().st_size
    cut = ("not fully covered", "MetadataIncompleteBuffer")  # as safetensors says it now, and in 0.4
    if size < 8 or int.from_bytes(head, "little") > size or any(words in str(error) for words in cut):
        return f"truncated, or not safetensors at all ({size} bytes; {error})"
    return f"not a safetensors file ({error})"


def _compare(path: Path, found: Tensors, expected: Tensors, *, subset: bool = False) -> None:
    """Raise where the tensors of a file are not those expected, by name, shape and type (or a `subset`)."""
    missing = [] if subset else [name for name in expected if name not in found]
    foreign = [name for name in found if name not in expected]
    shared = [name for name in found if name in expected]
    wrong = [
        f"{name} is {tuple(found[name].shape)} {found[name].dtype}, "
        f"expected {tuple(expected[name].shape)} {expected[name].dtype}"
        for name in shared
        if found[name].shape != expected[name].shape or found[name].dtype != expected[name].dtype
    ]
    complaints = [
        f"{title} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for title, names in (("lacks", missing), ("has unknown", foreign), ("differs:", wrong))
        if names
    ]
    if complaints:
        raise CheckpointError(f"{path}: of another network than this run's; it {'; it '.join(complaints)}")


def _existing(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def _alternative(path: Path) -> str:
    """Return the advice to go back to an earlier checkpoint, where there is one."""
    others = [other.name for other in _existing(path.parent) if other != path]
    if not others:
        return ""
    return f"; to go back to {others[-1]}, write that name into {path.parent / 'latest'}"


def _prune(folder: Path, newest: Path, kept: int) -> None:
    """Remove the checkpoints before the last `kept`, counting `newest`; later steps are not touched."""
    earlier = [path for path in _existing(folder) if path.name < newest.name]
    for path in earlier[: max(0, len(earlier) - (kept - 1))]:
        shutil.rmtree(path, ignore_errors=True)
