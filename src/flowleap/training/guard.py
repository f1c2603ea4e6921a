"""A loss or a gradient that is not finite: the step is skipped and counted, too many in a row end the run."""

from __future__ import annotations

import torch
from torch import Tensor

from flowleap.point import Batch, Regression
from flowleap.tensors import onto
from flowleap.training.optimizer import Optimizer

VAGUE = "the loss is finite but its gradient is not"
"""The cause where data, prediction, derivative, target and loss are all finite."""


class Diverged(RuntimeError):
    """Too many steps in a row had a loss or a gradient that was not finite."""


class Guard:
    """Lets the optimizer step only where loss and gradient are finite, and counts the steps that it refused.

    Whether a step is finite stays on the device: the fused optimizers take it as `found_inf`, as in gradient
    scaling, and leave parameters and moments as they are where it is 1. Nothing waits for the device until
    `read` is called.
    """

    def __init__(self, device: torch.device, skipped: int = 0, streak: int = 0) -> None:
        self.counts = onto(torch.tensor([skipped, streak]), device)
        self.bad = torch.zeros((), dtype=torch.int64, device=device)

    def step(self, optimizer: Optimizer, finite: Tensor) -> None:
        """Let `optimizer` step where the boolean scalar `finite` is true, else record that it did not."""
        bad = (~finite).to(torch.int64)
        optimizer.found_inf = bad.float()
        optimizer.step()
        self.bad = torch.maximum(self.bad, bad)

    def count(self, *, whole: bool = True) -> None:
        """Count the step as skipped where an optimizer was refused; a streak ends where a `whole` step had none.

        A step is whole where every network was updated.
        """
        skipped, streak = self.counts.unbind()
        kept = self.bad if whole else 1
        self.counts = torch.stack([skipped + self.bad, (streak + self.bad) * kept])
        self.bad = torch.zeros_like(self.bad)

    def read(self) -> tuple[int, int]:
        """Return (steps skipped so far, how many of them are the latest ones); waits for the device."""
        skipped, streak = self.counts.tolist()
        return skipped, streak


def likely_cause(batch: Batch, regression: Regression, loss: Tensor, usual: float | None) -> str:
    """Name what most likely made a loss or a gradient non-finite, looking from the data forward.

    Args:
        usual: ‖du/dt‖ in the last finite steps, None where none was measured.
    """
    norm = regression.derivative_norm
    finite = {
        "data": bool(batch.x.isfinite().all()),
        "prediction": bool(regression.prediction.isfinite().all()),
        "derivative": norm is None or bool(norm.isfinite().all()),
        "target": bool(regression.target.isfinite().all()),
        "loss": bool(loss.isfinite()),
    }
    before = "" if usual is None else f" (it was {usual:.3g} in the last finite steps)"
    causes = {
        "data": "the data are not finite: check the data set",
        "prediction": "the output of the network is not finite: the learning rate is too high for it, "
        "or the weights it started from are not finite",
        "derivative": f"the derivative du/dt of the network blew up{before}: "
        "lower the learning rate, or train with qk_norm=true or a shorter time range",
        "target": "the target is not finite although network and derivative are: "
        "look at the guidance scale and at the range of times",
        "loss": "the loss overflows although prediction and target are finite: lower the learning rate",
    }
    for name, fine in finite.items():
        if not fine:
            return causes[name]
    derivative = "" if norm is None or not norm.numel() else f" (‖du/dt‖ is {float(norm.mean()):.3g}{before})"
    return f"{VAGUE}{derivative}: lower the learning rate"
