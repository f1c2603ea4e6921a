"""Several processes measure together what one measures alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from flowleap import data, evaluation, methods, networks
from flowleap.evaluation import processes


def measured() -> list[dict]:
    torch.manual_seed(0)
    objective = methods.meanflow().for_run(100)
    flow = objective.flow_map(networks.MLP(shape=(2,), width=16, depth=1))
    rows = evaluation.evaluate(flow, objective, data.load("two-moons"), steps=(1, 2), num=200, batch=50)
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def work(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    assert (processes.rank(), processes.count()) == (rank, world)
    assert processes.share(5) == (range(2), range(2, 5))[rank]
    assert processes.total(rank + 1) == 3
    rows = measured()
    (Path(folder) / f"{rank}.json").write_text(json.dumps(rows))
    distributed.destroy_process_group()


@pytest.mark.skipif(not distributed.is_available(), reason="this build of torch has no torch.distributed")
def test_two_processes_give_the_numbers_of_one(tmp_path):
    multiprocessing.spawn(work, (2, str(tmp_path)), nprocs=2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second == json.loads(json.dumps(measured()))


def test_one_process_alone_has_everything():
    rows = torch.arange(6).view(3, 2)
    assert processes.gathered(rows) is rows
    assert (processes.count(), processes.rank(), processes.total(2.5)) == (1, 0, 2.5)
    assert processes.share(7) == range(7)
