"""A learned solver: a frozen network, and a small one that predicts where and when to evaluate it a second time.

Source: Zhou et al. 2023 (arXiv 2312.00094), the AMED-Solver, with the sizes of its code (zju-pi/diff-sampler).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from flowleap.networks.adapters import Border, Network
from flowleap.networks.embeddings import sinusoid, zero_linear
from flowleap.tensors import like

CODE, WAVES = 4, 8
"""Widths of the encoded features and of an embedded time."""
SCALE, PERIOD = 8.0, 64.0
"""Largest angular frequency of embedded times, and its ratio to the smallest, as in `MLP`."""


class Predictor(nn.Module):
    """Features of the first evaluation and both times → (fraction p of the way, scale c of direction, a of time).

    h = (Linear(SiLU(Linear(features))), e(t), e(r)),  e = SiLU(Linear(sinusoid)),  raw = Linear(h)
    p = sigmoid(raw),  c = 1 + direction · (2 sigmoid(raw) − 1),  a = 1 + time · (2 sigmoid(raw) − 1)

    (½, 1, 1) at init, the midpoint rule.
    Shapes: features (batch, features), t and r (batch,) → p, c, a (batch,), in at least fp32.
    """

    def __init__(self, features: int, hidden: int, direction: float, time: float) -> None:
        super().__init__()
        self.direction, self.time = direction, time
        if features:
            self.features = nn.Sequential(nn.Linear(features, hidden), nn.SiLU(), nn.Linear(hidden, CODE))
        self.times = nn.Linear(WAVES, WAVES)
        self.head = zero_linear((CODE if features else 0) + 2 * WAVES, 3)

    def forward(self, features: Tensor | None, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast(t.device.type, enabled=False):
            kind = self.head.weight.dtype
            waves = (sinusoid(SCALE * time, WAVES, PERIOD).to(kind) for time in (t, r))
            known = [nn.functional.silu(self.times(wave)) for wave in waves]
            if features is not None:
                known.append(self.features(features.to(kind)))
            fraction, direction, time = torch.sigmoid(self.head(torch.cat(known, dim=1))).unbind(1)
            return fraction, 1 + self.direction * (2 * direction - 1), 1 + self.time * (2 * time - 1)


class MeanDirection(Border):
    """A frozen network and the `Predictor` of two-evaluation solver steps, which are the jumps of the flow map.

    From (x, t) to r, with v the instantaneous velocity of the frozen network,
        s = t + p (r − t),  x_s = x + (s − t) v(x, t),  X_{t→r}(x) = x + c (r − t) v(x_s, a s)     on the linear path.
    On any other path both steps follow the line of one pair (x, ε), see `second_step`, and noise levels are
    interpolated by their seventh root, as on Karras' grid. (p, c, a) are predicted from the first evaluation: the
    activations of block depth // 2, averaged over tokens; for a network without blocks, from the times only.

    `forward` is that of the frozen network, one evaluation; `solver_step` the jump of an `objectives.solver.SolverMap`.

    Args:
        network: such as a DiT or an MLP; its weights are frozen in place, and part of the state dict.
        hidden: the width of the predictor.
        direction: half the width of the range of c around 1.
        time: half the width of the range of a around 1. The time a s is clamped to the path.

    Shapes: as the network's.
    Raises: ValueError for a range that reaches 0.
    Source: Zhou et al. 2023 (arXiv 2312.00094): bottleneck features, 128 hidden units, a code of 4 beside times of 8
    dimensions each, noise levels interpolated geometrically. Published ranges are 1 ± 0.01 for c, on noise levels, and
    1 for a (1 ± 0.2 in its plug-ins): on the linear path the mean direction over half of the way is shorter by a tenth.
    """

    def __init__(
        self, network: Network, hidden: int = 128, direction: float = 0.2, time: float = 0.2
    ) -> None:
        super().__init__(network, hidden=hidden, direction=direction, time=time)
        if not (0 <= direction < 1 and 0 <= time < 1):
            raise ValueError(
                f"MeanDirection(direction={direction}, time={time}): half the widths of two ranges around 1 are "
                "expected, in [0, 1)"
            )
        if isinstance(network, nn.Module):
            network.requires_grad_(False)
        core = _core(network)
        self.predictor = Predictor(0 if core is None else _channels(core), hidden, direction, time)

    def solver_step(self, flow: Any, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None = None) -> Tensor:
        """Return X_{t→r}(x), like x, in two evaluations of `flow`, a map with this network, guided or not.

        The graph runs through the second evaluation into the predictor; the first has none.
        """
        path = flow.path
        with torch.no_grad(), self._recorded() as seen:
            velocity = flow.velocity(x, t, label=label)
        features = seen[0][: x.shape[0]] if seen else None  # a guided map evaluates with the label first
        rho = 1.0 if path.t_max <= 1 else 7.0
        start, end = t ** (1 / rho), r ** (1 / rho)
        fraction, direction, time = (value.to(t.dtype) for value in self.predictor(features, start, end))
        s = (start + fraction * (end - start)) ** rho
        asked = (time * s).clamp(path.t_min, path.t_max)
        move = second_step(path, x, velocity, t, s, r, lambda x_s: flow.velocity(x_s, asked, label=label))
        return x + like(direction.to(x.dtype), x) * move

    @contextmanager
    def _recorded(self) -> Iterator[list[Tensor]]:
        """Yield a list of the pooled activations of the middle block, one for each evaluation in the context."""
        seen: list[Tensor] = []
        core = _core(self.network)
        if core is None:
            yield seen
            return
        middle = core.blocks[len(core.blocks) // 2]
        hook = middle.register_forward_hook(lambda block, given, output: seen.append(_pooled(output)))
        try:
            yield seen
        finally:
            hook.remove()


def second_step(
    path: Any,
    x: Tensor,
    velocity: Tensor,
    t: Tensor,
    s: Tensor,
    r: Tensor,
    ahead: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return the change of x in a step from t to r with the velocity at an intermediate time s.

    x_s = DDIM_{t→s}(x; v),  X − x = DDIM_{s→r}(x_s; v_s) − DDIM_{s→t}(x_s; v_s),  v_s = ahead(x_s)
    which is (r − t) v_s on straight paths, and exact on every path for the velocity of one pair (x, ε). Of second order
    if s is the midpoint.
    """
    x_s = _line(path, x, velocity, t, s)
    slope = ahead(x_s)
    return _line(path, x_s, slope, s, r) - _line(path, x_s, slope, s, t)


def _core(network: Any) -> Any:
    """Return the network with blocks inside adapters, or None."""
    while not hasattr(network, "blocks"):
        if not isinstance(network, Border):
            return None
        network = network.network
    return network


def _channels(core: Any) -> int:
    """Return the number of output channels of the middle block."""
    middle = core.blocks[len(core.blocks) // 2]
    return int(getattr(middle, "outputs", core.config["width"]))


def _pooled(activations: Tensor) -> Tensor:
    """Average over tokens or pixels: (batch, …, width) or (batch, width, rows, columns) → (batch, width)."""
    if activations.ndim == 4:
        return activations.mean((2, 3))
    return activations.flatten(1, -2).mean(1) if activations.ndim > 2 else activations


def _line(path: Any, x: Tensor, velocity: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """Return the point at r of the path of the pair (x, ε) that passes x at t with this velocity."""
    a, b = path.transfer(t, r)
    return like(a.to(x.dtype), x) * x + like(b.to(x.dtype), x) * velocity
