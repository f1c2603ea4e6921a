"""Dropout whose masks belong to the rows of a batch: every evaluation of a row drops the same activations.

The derivative of a row, the target made of it and the prediction that is held to it are evaluations of their own, of
other numbers of rows. They are about one network only if they drop the same. So a row has a key, and what is dropped
is a function of (key, layer, place) on every device, not of a random state.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["Dropout", "keyed", "only", "row_keys"]

_keys: list[Tensor] = []
"""The keys of the rows in training, the innermost last."""


@contextmanager
def keyed(keys: Tensor | None) -> Iterator[None]:
    """Let every evaluation inside drop by these keys, (rows,) int64; None changes nothing."""
    if keys is None:
        yield
        return
    _keys.append(keys)
    try:
        yield
    finally:
        _keys.pop()


@contextmanager
def only(rows: Tensor) -> Iterator[None]:
    """Let every evaluation inside drop by the keys of these rows, of those that are keyed now, in their order.

    Shapes: rows (n,) int64, for evaluations of n rows, or of n in turn several times.
    """
    with keyed(_keys[-1][rows.to(_keys[-1].device)] if _keys else None):
        yield


def row_keys(x: Tensor) -> Tensor:
    """Return a key for each row of a batch: the first keys of `keyed`, in turn for more rows than there are.

    Outside of `keyed` they are drawn anew from the global random state.
    Shapes: x (batch, …) → (batch,) int64.
    """
    rows = len(x)
    if not _keys:
        return torch.randint(1 << 31, (rows,), device=x.device)
    keys = _keys[-1].to(x.device)
    return keys[:rows] if rows <= len(keys) else keys.repeat(-(-rows // len(keys)))[:rows]


class Dropout(nn.Module):
    """Zero for a share of the activations and 1/(1 − share) times the others, by the keys of the rows, in training.

    Args:
        share: the share that is dropped, in [0, 1).
        layer: the number of this layer in its network: masks of two layers are independent.

    Shapes: x (batch, …), keys (batch,) int64 or None for nothing dropped → like x.
    """

    def __init__(self, share: float, layer: int) -> None:
        super().__init__()
        if not 0 <= share < 1:
            raise ValueError(f"dropout={share}: a share in [0, 1) is expected")
        self.share, self.layer = share, layer

    def forward(self, x: Tensor, keys: Tensor | None) -> Tensor:
        if keys is None or not self.training or self.share == 0:
            return x
        with torch.no_grad():
            place = torch.arange(x[0].numel(), device=x.device)
            row = mixed(keys + _WORD * (self.layer + 1))
            kept = mixed(row[:, None] ^ mixed(place)) >= round(self.share * _RANGE)
        return x * kept.view_as(x).to(x.dtype) * (1 / (1 - self.share))


_WORD, _RANGE = 0x9E3779B9, 1 << 32


def mixed(number: Tensor) -> Tensor:
    """Return 32 bits that look random, a bijection of the lowest 32 bits of an int64 (multiply, fold, multiply, fold).

    Source: the constants of C. Wellons' search for hashes of low bias ("lowbias32").
    """
    number = number & 0xFFFFFFFF
    number = ((number ^ (number >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    number = ((number ^ (number >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return number ^ (number >> 16)
