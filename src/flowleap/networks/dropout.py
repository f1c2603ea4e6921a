"""Dropout with masks that belong to the rows of a batch: every evaluation of a row drops the same activations.

A training step evaluates the network several times, for the prediction, the target and its derivative, with other
numbers of rows; these only fit together if they drop the same. So each row has a key, and the mask is a function of
(key, layer, position) on every device, not of a random state.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_keys: list[Tensor] = []
"""A stack of the keys of the rows, see `keyed`."""


@contextmanager
def keyed(keys: Tensor | None) -> Iterator[None]:
    """Use these keys, (rows,) int64, for every evaluation in the context; None changes nothing."""
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
    """Use the keys of these rows, of those that are current, for every evaluation in the context.

    Shapes: rows (n,) int64, for evaluations of n rows, or of a multiple of n.
    """
    with keyed(_keys[-1][rows.to(_keys[-1].device)] if _keys else None):
        yield


def row_keys(x: Tensor) -> Tensor:
    """Return a key for each row of a batch: the first keys of `keyed`, repeated if there are more rows.

    Outside of `keyed` they are drawn from the global random state.
    Shapes: x (batch, …) → (batch,) int64.
    """
    rows = len(x)
    if not _keys:
        return torch.randint(1 << 31, (rows,), device=x.device)
    keys = _keys[-1].to(x.device)
    return keys[:rows] if rows <= len(keys) else keys.repeat(-(-rows // len(keys)))[:rows]


class Dropout(nn.Module):
    """In training, zero a share of the activations by the keys of the rows, and scale the others by 1/(1 − share).

    Args:
        share: in [0, 1).
        layer: the number of this layer in its network; masks of two layers are independent.

    Shapes: x (batch, …), keys (batch,) int64 or None for no dropout → like x.
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
