"""Compare a graph in onnxruntime with the run in torch: the largest and the mean difference, and images per second."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowleap.export.onnx.exporting import Exported, Plan
from flowleap.export.source import needs

ROWS = 64
"""Images that are compared."""
BATCHES = (1, 64)
"""Batch sizes that are timed."""
SECONDS = 0.5
"""How long a batch size is timed at least, unless one call takes longer."""


@dataclass(frozen=True)
class Comparison:
    """Images of one number of steps by both: differences, and images per second by the batch size.

    Units: differences of float output on [-1, 1], of uint8 output in levels of 255.
    """

    steps: int
    largest: float
    mean: float
    onnxruntime: dict[int, float]
    torch: dict[int, float]

    def as_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def compare(exported: Exported, batches: tuple[int, ...] = BATCHES, rows: int = ROWS) -> list[Comparison]:
    """Return a comparison for each number of steps, on the CPU, from the same noise and classes in turn.

    Raises: ValueError without onnxruntime.
    """
    needs("onnxruntime", "onnx")
    plan, session = exported.plan, opened(exported.file)
    found = []
    for steps, times in plan.times.items():
        made = _runtime(session, plan, times, rows)(), _torch(plan, steps, rows)()
        difference = (made[0].double() - made[1].double()).abs()
        speeds = [
            {batch: batch / seconds(make(batch)) for batch in batches}
            for make in (
                lambda batch, times=times: _runtime(session, plan, times, batch),
                lambda batch, steps=steps: _torch(plan, steps, batch),
            )
        ]
        found.append(Comparison(steps, float(difference.max()), float(difference.mean()), *speeds))
    return found


def opened(file: str | Path) -> Any:
    """Return a session of onnxruntime on the CPU, with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _runtime(session: Any, plan: Plan, times: list[float], rows: int) -> Callable[[], Tensor]:
    given = {name: value.numpy() for name, value in plan.inputs(rows).items()}
    if plan.several:
        given["times"] = torch.tensor(times, dtype=torch.float32).numpy()
    return lambda: torch.from_numpy(session.run(None, given)[0])


def _torch(plan: Plan, steps: int, rows: int) -> Callable[[], Tensor]:
    """Return a function that samples as `Objective.sample` does."""
    given, finish = plan.inputs(rows), plan.finish()
    scale = plan.usual_guidance if plan.asks_guidance else plan.guidance

    def made() -> Tensor:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            x = plan.run.objective.sample(
                plan.run.flow, given["noise"], steps, label=given.get("label"), guidance=scale
            )
            return finish(x)

    return made


def seconds(call: Callable[[], Any]) -> float:
    """Return the seconds of the fastest call, after one that is not timed."""
    call()
    taken: list[float] = []
    while sum(taken) < SECONDS:
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
    return min(taken)
