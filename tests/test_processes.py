"""Several processes measure together what one measures alone."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from rich.console import Console
from torch import distributed
from typer.testing import CliRunner

from flowleap import processes, runs
from flowleap.cli import app

TOGETHER = """
import sys, torch
torch.set_num_threads(1)
from flowleap import processes
with processes.together():
    rank = processes.rank()
    assert processes.count() == 2 and processes.total(rank + 1) == 3
    assert processes.share(5) == (range(2), range(2, 5))[rank]
    rows = torch.arange(5)[processes.share(5).start : processes.share(5).stop]
    assert processes.gathered(rows).tolist() == [0, 1, 2, 3, 4]
assert processes.count() == 1
from flowleap.cli import app
try:
    app(["train", "--resume", "--out", sys.argv[2] + "-of-no-one"])
except SystemExit as left:
    assert left.code == (2, 1)[rank]  # the first has said it
app(sys.argv[1:])
"""


@pytest.mark.distributed
@pytest.mark.skipif(not distributed.is_available(), reason="this build of torch has no torch.distributed")
def test_two_processes_give_the_numbers_of_one(tmp_path):
    """Under torchrun, `flowleap evaluate` prints once, and what one process prints, to the last digit; so do errors."""
    tiny = [("network.width", "16"), ("network.depth", "1")]
    config = runs.configure("meanflow", "two-moons", settings=tiny, steps=2, eval_num=0, sample_every=0)
    run = str(runs.train(config, tmp_path / "run", console=Console(quiet=True)).folder)
    (tmp_path / "together.py").write_text(TOGETHER)
    command = ["evaluate", run, "--steps", "1,2", "--num", "200", "--per-device", "50", "--json"]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--", str(tmp_path / "together.py")]
    done = subprocess.run([sys.executable, *torchrun, *command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stderr.count("holds no run") == 1, done.stderr
    alone = CliRunner().invoke(app, command)
    found = [
        [{name: value for name, value in row.items() if name != "seconds"} for row in json.loads(text)]
        for text in (
            done.stdout[done.stdout.index("[\n") :],
            alone.stdout,
        )  # Gloo of torch 2.8 prints before it
    ]
    assert found[0] == found[1]


def test_one_process_alone_has_everything():
    rows = torch.arange(6).view(3, 2)
    assert processes.gathered(rows) is rows
    assert (processes.count(), processes.rank(), processes.total(2.5)) == (1, 0, 2.5)
    assert processes.share(7) == range(7)
