"""Mean and covariance of a stream of feature rows, in float64, with memory that does not grow with their number."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

BLOCK = 2**22  # numbers buffered in float64 (32 MiB) before they are added to the scatter
ROWS = 4096  # rows of a block, at most


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of feature rows, in float64.

    Shapes: mean (d,), covariance (d, d); `count`: the number of rows, 0 where it is not known.
    """

    mean: Tensor
    covariance: Tensor
    count: int

    @cached_property
    def factor(self) -> Tensor:
        """A square A with A Aᵀ = Σ: the Cholesky factor, or V √Λ where Σ is close to singular.

        Eigenvalues within rounding of 0 count as 0: their roots, 1e-8 of the largest, would be noise.
        Shapes: (d, d).
        """
        lower, failed = torch.linalg.cholesky_ex(self.covariance)
        pivots = lower.diagonal().square()
        if not failed and bool(pivots.min() > 1e-10 * self.covariance.diagonal().max()):
            return lower
        values, vectors = torch.linalg.eigh(self.covariance)
        noise = torch.finfo(values.dtype).eps * len(values) ** 0.5 * values[-1].clamp(min=0.0)
        return vectors * torch.where(values > noise, values, 0.0).sqrt()


@dataclass
class Moments:
    """Mean μ and scatter S = Σ (f − μ)(f − μ)ᵀ of the rows added so far.

    Rows are buffered in blocks of a fixed size, so that the numbers do not depend on the batches. Sets a and b are
    joined by Chan's update, which subtracts no large squares:

        μ = μ_a + n_b/(n_a + n_b) (μ_b − μ_a),   S = S_a + S_b + n_a n_b/(n_a + n_b) (μ_b − μ_a)(μ_b − μ_a)ᵀ

    Memory: the scatter, and one block of 32 MiB, on the device of the first rows (the CPU for devices without
    float64), whatever the number of rows.
    Source: Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979.
    """

    _count: int = 0
    _mean: Tensor | None = None  # (d,)
    _scatter: Tensor | None = None  # (d, d)
    _block: Tensor | None = field(default=None, repr=False)  # rows that are not in the mean and scatter yet
    _waiting: int = 0

    @property
    def count(self) -> int:
        """The number of rows so far."""
        return self._count + self._waiting

    def add(self, rows: Tensor) -> None:
        """Add rows of any floating dtype.

        Shapes: (n, d), any n.
        Raises: ValueError for rows of another size, and, at the latest in `statistics`, for rows not finite.
        """
        if rows.ndim != 2:
            raise ValueError(f"feature rows of shape {tuple(rows.shape)}: (rows, features) is expected")
        if self._block is None:
            self._start(rows)
        assert self._block is not None
        size, dims = self._block.shape
        if rows.shape[1] != dims:
            raise ValueError(f"rows of {rows.shape[1]} features cannot follow rows of {dims}: use one kind")
        for part in rows.detach().split(size):
            while len(part):
                taken = part[: size - self._waiting]
                self._block[self._waiting : self._waiting + len(taken)].copy_(taken)
                self._waiting += len(taken)
                part = part[len(taken) :]
                if self._waiting == size:
                    self._settle()

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows together; neither is changed.

        Raises: ValueError for rows of different sizes, or not finite.
        """
        joined = Moments()
        for part in (self, other):
            part._settle()
            if part._mean is not None and part._scatter is not None:
                joined._join(part._count, part._mean, part._scatter)
        return joined

    def statistics(self) -> Statistics:
        """Return the unbiased statistics Σ f / n and S / (n − 1), on the CPU; more rows may be added afterwards.

        Raises: ValueError where n ≤ d, since the covariance is then singular by construction, and where
            rows are not finite.
        """
        self._settle()
        if self._mean is None or self._scatter is None:
            raise ValueError("no feature rows were added: there is nothing to compute statistics of")
        dims = len(self._mean)
        if self._count <= dims:
            raise ValueError(
                f"the covariance of {dims} features needs more than {dims} samples, got {self._count}: "
                f"ask for at least {dims + 1} (1000 is the usual protocol)"
            )
        covariance = (self._scatter + self._scatter.T).div_(2 * (self._count - 1))
        return Statistics(self._mean.clone().cpu(), covariance.cpu(), self._count)

    def _start(self, rows: Tensor) -> None:
        device = torch.device("cpu") if rows.device.type == "mps" else rows.device
        size = min(ROWS, max(64, BLOCK // max(1, rows.shape[1])))
        self._block = torch.empty(size, rows.shape[1], dtype=torch.float64, device=device)

    def _settle(self) -> None:
        """Add the buffered rows to mean and scatter."""
        if not self._waiting:
            return
        assert self._block is not None
        rows = self._block[: self._waiting]
        mean = rows.mean(dim=0)
        if not bool(mean.isfinite().all()):
            bad = int((~rows.isfinite().all(dim=1)).sum())
            raise ValueError(
                f"{bad} of {len(rows)} feature rows are not finite: look at the samples they are made from"
            )
        rows -= mean
        self._join(len(rows), mean, rows=rows)
        self._waiting = 0

    def _join(
        self, count: int, mean: Tensor, scatter: Tensor | None = None, *, rows: Tensor | None = None
    ) -> None:
        """Add a set by its mean, and its scatter or its centered rows."""
        if self._mean is None or self._scatter is None:
            self._mean = torch.zeros_like(mean)
            self._scatter = torch.zeros(len(mean), len(mean), dtype=mean.dtype, device=mean.device)
        if len(mean) != len(self._mean):
            raise ValueError(
                f"moments of {len(mean)} features cannot be merged with those of {len(self._mean)}: use one kind"
            )
        shift = mean.to(self._mean) - self._mean
        if rows is not None:
            self._scatter.addmm_(rows.T, rows)
        if scatter is not None:
            self._scatter += scatter.to(self._scatter)
        together = self._count + count
        self._scatter.addr_(shift, shift, alpha=self._count * count / together)
        self._mean += shift * (count / together)
        self._count = together
