"""Jumps drawn by their length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from flowleap.interfaces import Draw, Lands, TimeLaw
from flowleap.randomness import RowGenerator
from flowleap.times.grid import reach
from flowleap.times.laws import Law, LogitNormal

__all__ = ["Gap"]


@dataclass(frozen=True)
class Gap(TimeLaw):
    """Rows that jump have a length t − r from one law, and land by another one truncated to [0, 1 − (t − r)].

    r = 1/(1 + e^{−z}), z ~ N(mean, std²) given r ≤ 1 − (t − r), by the inverse of the distribution function. The rows
    r = t have a law of their own.

    Args:
        length: the law of t − r.
        landing: the law of r, which is truncated.
        law: the law of t on the rows r = t.
        diagonal: the share of rows with r = t.

    Raises: ValueError for a share out of [0, 1].
    Source: Zhou et al. 2025 (arXiv 2511.19797) and its code (lumalabs/tvm): t − r logit-normal (−0.8, 1), the others
    (−0.4, 1), and both terms for each image, half of the rows for each here.
    """

    length: LogitNormal = LogitNormal(-0.8, 1.0)
    landing: LogitNormal = LogitNormal(-0.4, 1.0)
    law: Law = LogitNormal(-0.4, 1.0)
    diagonal: float = 0.5
    has_step: ClassVar[bool] = False
    lands: ClassVar[Lands] = "anywhere"
    cites: ClassVar[tuple[str, ...]] = ("zhou2025terminal",)

    def __post_init__(self) -> None:
        if not 0 <= self.diagonal <= 1:
            raise ValueError(f"Gap(diagonal={self.diagonal}): a share of the rows in [0, 1] is expected")

    @property
    def support(self) -> tuple[float, float]:
        return reach((0.0, 1.0), self.law.support)

    @property
    def has_diagonal(self) -> bool:
        return self.diagonal > 0

    def draw(self, generator: RowGenerator, progress: float) -> Draw:
        length = self.length.sample(generator).double()
        share, mean, std = generator.uniform().double(), self.landing.mean, self.landing.std
        below = torch.special.ndtr((torch.logit(1 - length) - mean) / std)  # P(r ≤ 1 − length)
        r = torch.sigmoid(mean + std * torch.special.ndtri(share * below))
        t = (r + length).clamp_max(1.0).float()
        num_jumps = generator.total - round(self.diagonal * generator.total)
        jumping = generator.rows < num_jumps
        t = torch.where(jumping, t, self.law.sample(generator))
        return Draw(t, t, torch.where(jumping, torch.minimum(r.float(), t), t), num_jumps)
