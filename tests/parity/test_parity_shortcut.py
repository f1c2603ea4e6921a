"""The bootstrap targets of shortcut models, written out: paper, its code, and the baseline of the ESC code.

Frans et al. 2024 (arXiv 2410.12557) eq. 4, here with t = 1 for noise: x_s = x_t − d/2 u(x_t, t, t − d/2),
u* = ½ (u(x_t, t, t − d/2) + u(x_s, s, s − d/2)); steps of 1/N ask for the velocity u(x, t, t). Its code
(kvfrans/shortcut-models) clips x_s and u* at ±4, guides both halves at the finest level, u∅ + w (u_y − u∅), and leaves
1e-5 of noise in the data. EDAPINENUT/ExplicitShortCut clips and guides the same way, on the plain linear path.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flowleap import methods

D = torch.float64
NULL = 3
WAVES = torch.tensor([[0.6, -1.0], [0.8, 0.3]], dtype=D)
CLASSES = torch.tensor([[0.5, -0.3], [-0.8, 0.7], [0.2, 0.9], [0.0, -0.4]], dtype=D)
HEIGHT = 6.0  # so that the clip at 4 is met


class Known:
    """u(x, t, r | y) = 6 sin(x W + e_y + t − 2 r)."""

    num_classes = NULL

    def __init__(self, height: float = HEIGHT) -> None:
        self.height = height

    def __call__(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor) -> Tensor:
        return self.height * torch.sin(x @ WAVES + CLASSES[label] + (t - 2 * r)[:, None])


RANDOM = torch.Generator().manual_seed(9)
X, NOISE = 2.0 * torch.randn(2, 10, 2, dtype=D, generator=RANDOM)  # so that stops are clipped, too
JUMP = torch.tensor([1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 64, 0, 0], dtype=D)
T = torch.tensor([1, 1 / 2, 3 / 4, 5 / 8, 1, 15 / 32, 33 / 64, 1, 0.4, 1], dtype=D)
LABEL = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])


def by_hand(floor: float, scale: float | None, clip: float | None) -> Tensor:
    rows, stops = [], []
    for i in range(10):
        t, half = float(T[i]), float(JUMP[i]) / 2
        x_t = (1 - t) * X[i] + (floor + (1 - floor) * t) * NOISE[i]
        if half == 0:
            rows.append((1 - floor) * NOISE[i] - X[i])
            continue
        finest = half == 1 / 128

        def asked(x: Tensor, start: float, label: int, half: float = half, finest: bool = finest) -> Tensor:
            end = start if finest else start - half
            times = (torch.tensor([time], dtype=D) for time in (start, end))
            return Known()(x[None], *times, torch.tensor([label]))[0]

        def guided(x: Tensor, start: float, label: int, finest: bool = finest, asked=asked) -> Tensor:
            known = asked(x, start, label)
            if scale is None or not finest:
                return known
            null = asked(x, start, NULL)
            return null + scale * (known - null)

        label = int(LABEL[i])
        first = guided(x_t, t, label)
        x_s = x_t - half * first
        stops.append(float(x_s.abs().max()))
        x_s = x_s if clip is None else x_s.clamp(-clip, clip)
        second = guided(x_s, t - half, label)
        mean = (first + second) / 2  # of outputs, also where x_s was clipped
        rows.append(mean if clip is None else mean.clamp(-clip, clip))
    assert max(stops) > 4 and max(float(row.abs().max()) for row in rows) >= 4, "both clips are met"
    return torch.stack(rows)


@pytest.mark.parametrize("scale", [None, 1.5, 3.0])
@pytest.mark.parametrize(
    ("variant", "floor", "clip"), [("paper", 0.0, None), ("repo", 1e-5, 4.0), ("esc", 0.0, 4.0)]
)
def test_bootstrap_targets(variant: str, floor: float, clip: float | None, scale: float | None) -> None:
    objective = methods.shortcut(variant, guidance=scale)
    point = objective.point(X, NOISE, T, T - JUMP / 2, T - JUMP, LABEL)
    found = objective.regress(objective.flow_map(Known(1.0)), objective.flow_map(Known()), point)
    torch.testing.assert_close(found.target, by_hand(floor, scale, clip), rtol=1e-9, atol=1e-9)
