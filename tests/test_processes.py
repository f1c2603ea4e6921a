"""Several processes measure together what one measures alone."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from flowleap import processes, runs
from flowleap.cli import app
from flowleap.data import toy
from forked import needs_processes


def called(*words: str) -> object:
    """The exit status of a command."""
    with pytest.raises(SystemExit) as left:
        app(words)
    return left.value.code


def evaluated(run: str, *options: str) -> None:
    """What each of two processes does."""
    with processes.together():
        rank = processes.rank()
        assert processes.count() == 2 and processes.total(rank + 1) == 3
        assert processes.share(5) == (range(2), range(2, 5))[rank]
        rows = torch.arange(5)[processes.share(5).start : processes.share(5).stop]
        assert processes.gathered(rows).tolist() == [0, 1, 2, 3, 4]
    assert processes.count() == 1
    assert called("train", "--resume", "--out", f"{run}-of-no-one") == (2, 1)[rank]  # the first has said it
    assert called("evaluate", run, *options) == 0


@needs_processes
def test_two_processes_give_the_numbers_of_one(tmp_path, monkeypatch):
    """Under torchrun, `flowleap evaluate` prints once, and what one process prints, to the last digit; so do errors.

    The processes are those of torchrun itself, except that they are forked from this one: nothing is imported anew.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    monkeypatch.setitem(toy.POINTS, "two-moons", partial(toy.two_moons, 500))
    tiny = [("network.width", "16"), ("network.depth", "1")]
    config = runs.configure("meanflow", "two-moons", settings=tiny, steps=2, eval_num=0, sample_every=0)
    run = str(runs.train(config, tmp_path / "run", console=Console(quiet=True)).folder)
    options = ["--steps", "1,2", "--num", "200", "--per-device", "50", "--json"]
    logs = DefaultLogsSpecs(str(tmp_path / "logs"), redirects=Std.ALL)
    torchrun = LaunchConfig(
        1,
        1,
        2,
        logs,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        run_id="test",
        start_method="fork",
    )
    assert elastic_launch(torchrun, evaluated)(run, *options) == {0: None, 1: None}
    out, err = (
        "".join(path.read_text() for path in sorted((tmp_path / "logs").rglob(f"{name}.log")))
        for name in ("stdout", "stderr")
    )
    assert err.count("holds no run") == 1, err
    alone = CliRunner().invoke(app, ["evaluate", run, *options])
    found = [
        [{name: value for name, value in row.items() if name != "seconds"} for row in json.loads(text)]
        for text in (out[out.index("[\n") :], alone.stdout)  # Gloo of torch 2.8 prints before it
    ]
    assert found[0] == found[1]


def test_one_process_alone_has_everything():
    rows = torch.arange(6).view(3, 2)
    assert processes.gathered(rows) is rows
    assert (processes.count(), processes.rank(), processes.total(2.5)) == (1, 0, 2.5)
    assert processes.share(7) == range(7)
