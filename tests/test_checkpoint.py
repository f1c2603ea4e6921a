"""Checkpoints are whole or absent, resume is bitwise, and nothing foreign is believed."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from flowleap import files, methods, networks
from flowleap.data import Dataset
from flowleap.objectives import EMA, Objective
from flowleap.training import checkpoint
from flowleap.training.checkpoint import CheckpointError
from flowleap.training.loop import Events, Plan, fit
from flowleap.training.state import State, new_trained_network


def objective() -> Objective:
    return replace(methods.meanflow(), frozen=EMA(0.9))


def begin(width: int = 16, seed: int = 0, muon: float | None = None) -> State:
    torch.manual_seed(seed)
    network = networks.MLP(2, width=width, depth=1)
    options = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.01, "decays": (0.99, 0.5)}
    options["muon"] = muon
    return State(new_trained_network(network, objective(), **options))


def advance(state: State, stop: int, folder: Path | None = None, checkpoint_every: int = 0) -> State:
    """Train up to step `stop` of a run of 12."""
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(1))
    plan = Plan(steps=12, batch=16, seed=3, lr=1e-2, warmup=0.5, decay=1.0, checkpoint_every=checkpoint_every)
    save = (lambda s: None) if folder is None else (lambda s: checkpoint.save(folder, s))
    events = Events(
        log=lambda row: None, sample=lambda s: None, save=save, interrupted=lambda: state.step >= stop
    )
    fit(state, objective().for_run(12), Dataset("cloud", x, kind="points"), plan, events)
    return state


def everything(state: State) -> dict[str, torch.Tensor]:
    files = checkpoint.files_of(state.trained)
    return {f"{file}/{name}": t.clone() for file, tensors in files.items() for name, t in tensors.items()}


def assert_same(a: State, b: State) -> None:
    first, second = everything(a), everything(b)
    assert first.keys() == second.keys() and len(first) > 50
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert (a.step, a.skipped, a.streak) == (b.step, b.skipped, b.streak)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints after steps 3 and 5."""
    place = tmp_path / "checkpoints"
    state = begin()
    for step in (3, 5):
        advance(state, step, place)
    return place


def test_a_checkpoint_holds_all_that_the_page_promises(folder: Path) -> None:
    path = checkpoint.latest(folder)
    assert path is not None and path.name == "step-00000005"
    assert sorted(file.name for file in path.iterdir()) == [
        "ema-0.5.safetensors", "ema-0.99.safetensors", "network.safetensors", "optimizer.safetensors",
        "state.json", "target.safetensors",
    ]  # fmt: skip
    assert json.loads((path / "state.json").read_text())["step"] == 5
    assert checkpoint.step_of(path / "network.safetensors") == 5


@pytest.mark.slow
@pytest.mark.parametrize(("stops", "muon"), [((5,), None), ((1, 7), None), ((3, 4, 11), None), ((1, 7), 2.5)])
def test_resume_is_bitwise_whatever_the_interruptions_and_intervals(
    tmp_path: Path, stops: tuple[int, ...], muon: float | None
) -> None:
    whole = advance(begin(muon=muon), 12)
    for number, stop in enumerate((*stops, 12)):
        state, path = begin(seed=number, muon=muon), checkpoint.latest(tmp_path)
        if path is not None:
            checkpoint.restore(path, state)
        advance(state, stop, tmp_path, checkpoint_every=number + 2)
    assert_same(whole, state)


def test_the_last_two_checkpoints_stay(tmp_path: Path) -> None:
    state = begin()
    for step in range(1, 6):
        advance(state, step, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000004", "step-00000005"]


@pytest.mark.slow
def test_saving_the_same_step_again_replaces_it(folder: Path) -> None:
    state = begin()
    checkpoint.restore(folder / "step-00000005", state)
    (folder / "step-00000005" / "network.safetensors").write_bytes(b"broken")
    checkpoint.save(folder, state)
    checkpoint.restore(folder / "step-00000005", begin())
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.parametrize("failing", ["first file", "later file", "sync", "rename", "pointer"])
def test_the_earlier_checkpoints_survive_a_full_disk(folder: Path, monkeypatch, failing: str) -> None:
    before = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    state = advance(restored(folder), 8)
    fail_on(monkeypatch, failing)
    with pytest.raises(CheckpointError, match=r"step-00000008: .*No space left.*step-0000000\d is untouched"):
        checkpoint.save(folder, state)
    monkeypatch.undo()
    after = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    assert {path: after.get(path) for path in before} == before
    leftovers = {path.parts[len(folder.parts)] for path in after.keys() - before.keys()}
    assert leftovers == ({"step-00000008"} if failing == "pointer" else set())
    assert checkpoint.latest(folder) == folder / "step-00000005"
    assert_same(advance(restored(folder), 8), state)
    assert checkpoint.save(folder, state) == checkpoint.latest(folder)  # and with room again, it works


def restored(folder: Path) -> State:
    state, path = begin(), checkpoint.latest(folder)
    assert path is not None
    checkpoint.restore(path, state)
    return state


def fail_on(monkeypatch, failing: str) -> None:
    """Let the disk be full at one place of the writing."""
    calls = {"count": 0}

    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def half(tensors: dict, path: Path, **options: object) -> None:
        calls["count"] += 1
        if calls["count"] > (3 if failing == "later file" else 0):
            Path(path).write_bytes(b"half a fi")
            full()
        save_file(tensors, path, **options)

    if failing.endswith("file"):
        monkeypatch.setattr(checkpoint, "save_file", half)
    elif failing == "sync":
        monkeypatch.setattr(files.os, "fsync", full)
    elif failing == "rename":
        monkeypatch.setattr(files.os, "rename", full)
    else:
        monkeypatch.setattr(files.os, "replace", full)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes of files")
def test_files_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    """safetensors itself writes files that only their owner may read."""
    before = os.umask(0o027)
    try:
        files.replace_file(tmp_path / "one", lambda path: save_file({"x": torch.ones(1)}, path))
        files.replace_file(tmp_path / "text", "words")
        with files.new_folder(tmp_path / "folder") as made:
            save_file({"x": torch.ones(1)}, made / "two")
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.rglob("*") if path.is_file()} == {"0o640"}


@pytest.mark.slow
def test_a_rename_that_fails_half_way_puts_the_old_folder_back(folder: Path, monkeypatch) -> None:
    state, rename = restored(folder), os.rename

    def second_fails(source: Path, target: Path) -> None:
        if ".writing" in Path(source).name:
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(files.os, "rename", second_fails)
    with pytest.raises(CheckpointError):
        checkpoint.save(folder, state)  # step 5 exists already
    monkeypatch.undo()
    assert_same(restored(folder), state)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no file size limits on Windows")
def test_a_file_that_really_cannot_be_written(tmp_path: Path) -> None:
    script = (
        "import resource, sys, torch; from pathlib import Path\n"
        "from flowleap.training import checkpoint\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: checkpoint.write_tensors(Path(sys.argv[1]), {'a': torch.zeros(10_000)}, step=0)\n"
        "except (OSError, checkpoint.SafetensorError) as error: print('refused:', error)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "big.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "refused:" in done.stdout and "large" in done.stdout, done.stderr


SPOILED = {
    "truncated": (lambda data: data[: len(data) // 2], "truncated"),
    "cut in its header": (lambda data: data[:20], "truncated"),
    "empty": (lambda data: b"", "truncated"),
    "a pickle": (lambda data: pickle.dumps({"a": 1}), "pickle.*never loaded"),
    "a zipped pickle": (lambda data: b"PK\x03\x04" + data, "pickle.*never loaded"),
    "text": (lambda data: b"hello, I am a text file", "not safetensors"),
    "missing": (None, "is missing"),
}


@pytest.mark.parametrize("file", ["network", "ema-0.99", "target", "optimizer"])
def test_a_spoiled_file_is_named_with_the_reason_and_nothing_is_loaded(folder: Path, file: str) -> None:
    path, state = folder / "step-00000005" / f"{file}.safetensors", begin()
    before, whole = everything(state), path.read_bytes()
    for spoil, reason in SPOILED.values():
        if spoil is None:
            path.unlink()
        else:
            path.write_bytes(spoil(whole))
        advice = r"to go back to step-00000003, write that name into .*latest"
        said = rf"step-00000005.{file}\.safetensors: .*{reason}.*; {advice}"
        with pytest.raises(CheckpointError, match=said):
            checkpoint.restore(folder / "step-00000005", state)
        after = everything(state)
        assert state.step == 0 and all(torch.equal(before[name], t) for name, t in after.items())


def test_a_pickle_is_not_executed(folder: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"weight": Trap()}, folder / "step-00000005" / "network.safetensors")
    with pytest.raises(CheckpointError, match="pickle"):
        restored(folder)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "truncated"),
        ("[]", "not the state"),
        ('{"format": 7}', "another version"),
        ('{"format": 1}', "not the"),
        ("{}", "not the"),
    ],
)
def test_a_spoiled_state_file_is_named(folder: Path, text: str, reason: str) -> None:
    (folder / "step-00000005" / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match=rf"state\.json: .*{reason}"):
        restored(folder)


def test_weights_of_another_network_are_refused_by_name_and_shape(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"network\.safetensors: of another network.*differs: .*\(24,"):
        checkpoint.restore(folder / "step-00000005", begin(width=24))
    path = folder / "step-00000005" / "network.safetensors"
    tensors = load_file(path)
    some = next(iter(tensors))
    save_file({"foreign" if name == some else name: t for name, t in tensors.items()}, path)
    with pytest.raises(CheckpointError, match=rf"lacks {some}; it has unknown foreign"):
        restored(folder)


def test_a_pointer_to_nothing_is_an_error_that_names_what_is_left(folder: Path) -> None:
    shutil.rmtree(folder / "step-00000005")
    with pytest.raises(CheckpointError, match=r"latest names 'step-00000005'.*go back to step-00000003"):
        checkpoint.latest(folder)
    (folder / "latest").write_text("step-00000003\n")
    assert restored(folder).step == 3
    (folder / "latest").unlink()
    assert checkpoint.latest(folder) == folder / "step-00000003"


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "nothing") is None


def test_weights_alone_can_be_loaded_into_a_network(folder: Path) -> None:
    network: nn.Module = networks.MLP(2, width=16, depth=1)
    checkpoint.load_weights(folder / "step-00000005" / "ema-0.5.safetensors", network)
    expected = restored(folder).trained.averages[0.5].module.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())
