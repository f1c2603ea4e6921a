"""Random generators keyed by (key, stream, step), so that every draw can be repeated.

Draws are always made on the CPU for the *global* batch and then sliced, so one process and many, one device
and another, an interrupted run and an uninterrupted one all see the same numbers.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch

__all__ = ["generator", "key_of"]


def generator(key: int, stream: str, step: int = 0) -> torch.Generator:
    """Return a fresh CPU generator that depends on (key, stream, step) and on nothing else.

    Args:
        key: the seed of the run, a non-negative integer.
        stream: what the numbers are for ("noise", "times", …); streams are independent of one another.
        step: the training step, epoch or image index.

    Raises:
        ValueError: for a negative key or step.
    """
    if key < 0 or step < 0:
        raise ValueError(f"key={key}, step={step}: both must be non-negative integers")
    return torch.Generator().manual_seed(key_of(key, stream, step))


def key_of(key: int, stream: str, step: int = 0) -> int:
    """Return a key that depends on (key, stream, step); what is drawn by it is independent of other draws."""
    sequence = np.random.SeedSequence([key, zlib.crc32(stream.encode()), step])
    return int(sequence.generate_state(1, np.uint64)[0])
