"""Joint laws of the times (t, s, r), r ≤ s ≤ t: where departures, stops on the way and landings fall.

| law        | t, r                                                        | s    | used by                    |
|------------|-------------------------------------------------------------|------|----------------------------|
| OneTime    | t = r from one law                                          | t    | flow matching, diffusion   |
| SortedPair | max and min of two draws; a share of rows r := t            | → t  | MeanFlow, iMF              |
| Gradual    | SortedPair, with r := t_min at first, ever more rarely      | → t  | ESC                        |
| DyadicGrid | t a multiple of the jump d = 2^−b, r = t − d                | t−d/2| shortcut                   |
| Curriculum | t a multiple of d = 2^−b, r = 0, ever finer                 | t − d| consistency training       |
| Adjacent   | t a multiple of h = 1/N, r = 0                              | t − h| consistency distillation   |
| Halving    | t a multiple of d = 2^−b, r = t − d, ever coarser           | t−d/2| progressive distillation   |
| ToData     | a share of rows: t a multiple of 1/N, r = 0; the others r = t | r  | live reflow                |
| Trajectories | a share of rows: t, r multiples of 1/N; the others r = t  | t−n/N| CTM                        |
| Intervals  | the intervals of a grid of few steps                        | r    | AMED                       |
| Denoising  | t from one law, r = 0                                       | r    | SiD                        |

A law draws rows in the order in which points carry them: the `off` rows with r < t first, then the rows r = t.
Marginal laws are `Uniform`, `LogitNormal` and `NoiseLevels` on [0, 1] and `LogNormal` for the variance-exploding path.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from flowleap.tensors import Time

__all__ = [
    "Adjacent",
    "Curriculum",
    "Denoising",
    "Draw",
    "DyadicGrid",
    "Gradual",
    "Halving",
    "Intervals",
    "LogNormal",
    "LogitNormal",
    "NoiseLevels",
    "OneTime",
    "SortedPair",
    "TimeLaw",
    "ToData",
    "Trajectories",
    "Uniform",
    "spaced",
    "stage",
]


class Draw(NamedTuple):
    """Times of a batch: t ≥ s ≥ r, each (batch,) float32 on the CPU; rows [0, off) have r < t."""

    t: Time
    s: Time
    r: Time
    off: int


@runtime_checkable
class Law(Protocol):
    """A law of one time."""

    @property
    def support(self) -> tuple[float, float]:
        """The interval the times lie in."""
        ...

    def sample(self, generator: torch.Generator, size: int) -> Tensor:
        """Return (size,) float32."""
        ...


@runtime_checkable
class TimeLaw(Protocol):
    """A joint law of (t, s, r)."""

    @property
    def support(self) -> tuple[float, float]:
        """The interval all times lie in."""
        ...

    @property
    def finest(self) -> float:
        """The step length in or below which the instantaneous velocity is asked for; 0 for continuous laws."""
        ...

    def draw(self, generator: torch.Generator, size: int, progress: float) -> Draw:
        """Return the times of a batch; `progress` is the fraction of the run that has passed."""
        ...


@dataclass(frozen=True)
class Uniform:
    """t uniform on [low, high]."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise ValueError(f"Uniform(low={self.low}, high={self.high}): 0 ≤ low < high is expected")

    @property
    def support(self) -> tuple[float, float]:
        return self.low, self.high

    def sample(self, generator: torch.Generator, size: int) -> Tensor:
        return self.low + (self.high - self.low) * torch.rand(size, generator=generator)


@dataclass(frozen=True)
class LogitNormal:
    """t = 1/(1 + e^{−z}), z ~ N(mean, std²); a negative mean favors clean times.

    Source: Esser et al. 2024 (arXiv 2403.03206) section 3.1; MeanFlow uses mean −0.4, std 1.
    """

    mean: float = 0.0
    std: float = 1.0
    support: ClassVar[tuple[float, float]] = (0.0, 1.0)
    cites: ClassVar[tuple[str, ...]] = ("esser2024scaling",)

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"LogitNormal(std={self.std}): a positive standard deviation is expected")

    def sample(self, generator: torch.Generator, size: int) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.randn(size, generator=generator))


@dataclass(frozen=True)
class NoiseLevels:
    """t = σ/(1 + σ), with σ^{1/ρ} uniform from low^{1/ρ} on, over a share of the way to high^{1/ρ}.

    σ is a ratio of noise to signal, and t where the linear path has it. The grid of Karras et al. made continuous.

    Args:
        low, high, rho: the ends and the exponent of the grid.
        share: how far towards `high` levels are drawn; 0.8 of the way to 80 is σ = 24.4, t = 0.96.

    Source: Karras et al. 2022 (arXiv 2206.00364) eq. 5; the share is that of Zhou et al. 2024 (arXiv 2404.04057),
    whose code draws 0 … 800 of 1000 places of that grid.
    """

    low: float = 0.002
    high: float = 80.0
    rho: float = 7.0
    share: float = 0.8
    cites: ClassVar[tuple[str, ...]] = ("karras2022elucidating",)

    def __post_init__(self) -> None:
        if not (0 < self.low < self.high and self.rho > 0 and 0 < self.share <= 1):
            raise ValueError(
                f"NoiseLevels(low={self.low}, high={self.high}, rho={self.rho}, share={self.share}): "
                "0 < low < high, rho > 0 and a share in (0, 1] are expected"
            )

    @property
    def support(self) -> tuple[float, float]:
        return 0.0, 1.0

    def sample(self, generator: torch.Generator, size: int) -> Tensor:
        first, last = self.low ** (1 / self.rho), self.high ** (1 / self.rho)
        way = self.share * torch.rand(size, generator=generator)
        level = (first + way * (last - first)) ** self.rho
        return level / (1 + level)


@dataclass(frozen=True)
class LogNormal:
    """ln t ~ N(mean, std²), for the noise levels of the variance-exploding path.

    Source: Karras et al. 2022 (arXiv 2206.00364) table 1: mean −1.2, std 1.2.
    """

    mean: float = -1.2
    std: float = 1.2
    support: ClassVar[tuple[float, float]] = (0.0, math.inf)
    cites: ClassVar[tuple[str, ...]] = ("karras2022elucidating",)

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"LogNormal(std={self.std}): a positive standard deviation is expected")

    def sample(self, generator: torch.Generator, size: int) -> Tensor:
        return torch.exp(self.mean + self.std * torch.randn(size, generator=generator))


@dataclass(frozen=True)
class OneTime:
    """r = s = t: every row is on the diagonal, which is flow matching."""

    law: Law = LogitNormal()
    finest: ClassVar[float] = 0.0

    @property
    def support(self) -> tuple[float, float]:
        return self.law.support

    def draw(self, generator: torch.Generator, size: int, progress: float) -> Draw:
        t = self.law.sample(generator, size)
        return Draw(t, t, t, 0)


@dataclass(frozen=True)
class SortedPair:
    """t = max and r = min of two draws, then r := t for a share of the rows.

    Args:
        law: the law of both draws.
        diagonal: the share of rows with r = t.
        landing: a law of its own for the second draw, or None.
        fixed: a fixed number of diagonal rows per batch; False draws each row's fate (both are unbiased).

    Source: Geng et al. 2025 (arXiv 2505.13447) section 4.3 "sampling time steps".
    """

    law: Law = LogitNormal(-0.4, 1.0)
    diagonal: float = 0.75
    landing: Law | None = None
    fixed: bool = True
    finest: ClassVar[float] = 0.0
    cites: ClassVar[tuple[str, ...]] = ("geng2025mean",)

    def __post_init__(self) -> None:
        if not 0 <= self.diagonal <= 1:
            raise ValueError(
                f"SortedPair(diagonal={self.diagonal}): a share of the rows in [0, 1] is expected"
            )

    @property
    def support(self) -> tuple[float, float]:
        return self.law.support

    def draw(self, generator: torch.Generator, size: int, progress: float) -> Draw:
        first = self.law.sample(generator, size)
        second = (self.landing or self.law).sample(generator, size)
        if self.fixed:
            off = size - round(self.diagonal * size)
        else:
            off = int((torch.rand(size, generator=generator) >= self.diagonal).sum())
        t, r = torch.maximum(first, second), torch.minimum(first, second)
        r = torch.cat([r[:off], t[off:]])
        return Draw(t, t, r, off)


@dataclass(frozen=True)
class Gradual:
    """SortedPair whose landings start at the data: r := t_min with probability arccos(min(1, k/K))/arccos(0).

    The probability falls from 1 to 0 over the first K steps; K is `horizon` as a fraction of the run
    (20,000 of 600,000 published steps).

    Source: Lin et al. 2025 (arXiv 2512.11831), gradual time sampler.
    """

    pair: SortedPair = SortedPair()
    horizon: float = 1 / 30
    finest: ClassVar[float] = 0.0
    cites: ClassVar[tuple[str, ...]] = ("lin2025design",)

    def __post_init__(self) -> None:
        if not self.horizon > 0:
            raise ValueError(f"Gradual(horizon={self.horizon}): a positive fraction of the run is expected")

    @property
    def support(self) -> tuple[float, float]:
        return self.pair.support

    def probability(self, progress: float) -> float:
        """Return P(r := t_min) once this fraction of the run has passed."""
        return math.acos(min(1.0, progress / self.horizon)) / math.acos(0.0)

    def draw(self, generator: torch.Generator, size: int, progress: float) -> Draw:
        t, s, r, off = self.pair.draw(generator, size, progress)
        to_data = torch.rand(size, generator=generator) < self.probability(progress)
        to_data[off:] = False
        return Draw(t, s, torch.where(to_data, torch.zeros_like(r), r), off)


@dataclass(frozen=True)
class DyadicGrid:
    """Jumps of d = 2^−b, b = 0 … log2(N) − 1, from multiples of d, in two halves; N = `base_steps`.

    r = t − d, s = t − d/2, t = 1 − j d with j uniform on {0, …, 2^b − 1}; times below the path's t_min are raised.

    Args:
        share: the share of rows that jump (k = 1/4 in the paper, 1/8 in its code).
        base_steps: N, a power of two: the number of steps of the finest sampler.
        quotas: a fixed number of rows per jump size (the remainder goes to d = 1); False draws each row's size.
        law: the law of t on the diagonal rows; None draws it on the grid {1/N, …, 1}.

    Raises: ValueError for a base that is no power of two, or a batch too small for one row per jump size.
    Source: Frans et al. 2024 (arXiv 2410.12557) algorithm 1; the quotas are its code's (kvfrans/shortcut-models).
    """

    share: float = 0.25
    base_steps: int = 128
    quotas: bool = False
    law: Law | None = None
    cites: ClassVar[tuple[str, ...]] = ("frans2024one",)

    def __post_init__(self) -> None:
        _check_base(self, self.base_steps)
        if not 0 < self.share <= 1:
            raise ValueError(f"DyadicGrid(share={self.share}): a share of the rows in (0, 1] is expected")

    @property
    def support(self) -> tuple[float, float]:
        return 0.0, 1.0

    @property
    def levels(self) -> int:
        """The number of jump sizes, log2(N)."""
        return self.base_steps.bit_length() - 1

    @property
    def finest(self) -> float:
        return 1 / self.base_steps

    def exponents(self, generator: torch.Generator, jumps: int) -> Tensor:
        """Return b of each jumping row, (jumps,): quotas from fine to coarse, or uniform."""
        if not self.quotas:
            return torch.randint(self.levels, (jumps,), generator=generator)
        each = jumps // self.levels
        fine_to_coarse = torch.arange(self.levels - 1, -1, -1).repeat_interleave(each)
        return torch.cat([fine_to_coarse, torch.zeros(jumps - len(fine_to_coarse), dtype=torch.int64)])

    def draw(self, generator: torch.Generator, size: int, progress: float) -> Draw:
        jumps = int(size * self.share)
        least = self.levels if self.quotas else 1
        if jumps < least:
            raise ValueError(
                f"a batch of {size} leaves {jumps} rows for jumps (share {self.share:g}), fewer than the {least} that "
                f"{self.levels} jump sizes with quotas={self.quotas} need: use a batch of at least "
                f"{math.ceil(least / self.share)}, a larger share, or quotas=False"
            )
        count = 2.0 ** self.exponents(generator, jumps)
        start = (torch.rand(jumps, generator=generator) * count).floor().clamp(max=count - 1)
        jump = 1 / count
        t, s, r = 1 - start * jump, 1 - (start + 0.5) * jump, 1 - (start + 1) * jump
        rest = size - jumps
        if self.law is None:
            grid = torch.randint(1, self.base_steps + 1, (rest,), generator=generator)
            diagonal = grid / self.base_steps
        else:
            diagonal = self.law.sample(generator, rest)
        t, s, r = (torch.cat([jumping, diagonal]) for jumping in (t, s, r))
        return Draw(t, s, r, jumps)


def spaced(high: float, low: float, steps: int, rho: float | None = None) -> list[float]:
    """Return the times of N steps from `high` to `low`, t_i^{1/ρ} equally far from one another.

    ρ is 1, equal steps, for times up to 1, and 7 for noise levels, where it is not given.

    >>> spaced(1.0, 0.0, 4)
    [1.0, 0.75, 0.5, 0.25, 0.0]

    Source: Karras et al. 2022 (arXiv 2206.00364) eq. 5.
    """
    rho = (1 if high <= 1 else 7) if rho is None else rho
    first, last = high ** (1 / rho), low ** (1 / rho)
    return [high, *((first + (last - first) * i / steps) ** rho for i in range(1, steps)), low]


def _check_base(law: TimeLaw, n: int) -> None:
    if n < 2 or n & (n - 1):
        lower = 2 ** max(1, n.bit_length() - 1) if n > 0 else 2
        raise ValueError(
            f"{type(law).__name__}(base_steps={n}): jumps halve down to one base step, so a power of two is expected "
            f"(such as {lower} or {2 * lower})"
        )


def stage(progress: float, stages: int) -> int:
    """Return the stage, 0 … stages − 1, of a run cut into equal parts: step k of K is in stage ⌊stages · k/K⌋.

    >>> [stage(k / 10, 7) for k in range(10)]
    [0, 0, 1, 2, 2, 3, 4, 4, 5, 6]
    """
    return min(
        stages - 1, math.floor(stages * progress + 1e-9)
    )  # k/K as a float may fall short of a whole stage


@dataclass(frozen=True)
class Curriculum:
    """The whole batch on steps of d = 2^−b of a line to the data, from coarse to fine: t → s = t − d, r = 0.

    b = 0, 1, …, log2(N) − 1 in equal stages of the run; t = (j + 1) d with j uniform on {0, …, 2^b − 1}. In the first
    stage t = 1 and s = r = 0.

    Args:
        base_steps: N, a power of two; the last stage steps by 2/N.

    Raises: ValueError for a base that is no power of two.
    Source: the consistency-training baseline of Frans et al. 2024 (arXiv 2410.12557), kvfrans/shortcut-models.
    """

    base_steps: int = 128
    support: ClassVar[tuple[float, float]] = (0.0, 1.0)
    finest: ClassVar[float] = 0.0
    cites: ClassVar[tuple[str, ...]] = ("frans2024one",)

    def __post_init__(self) -> None:
        _check_base(self, self.base_steps)

    @property
    def levels(self) -> int:
        """The number of levels, log2(N)."""
        return self.base_steps.bit_length() - 1

    @property
    def horizon(self) -> float | None:
        """When the last level begins, as a fraction of the run."""
        return (self.levels - 1) / self.levels or None

    def level(self, progress: float) -> int:
        """Return b once this fraction of the run has passed."""
        return stage(progress, self.levels)

    def draw(self, generator: torch.Generator, size: int, progress: float) -> Draw:
        t, s = _cells(generator, size, 2 ** self.level(progress))
        return Draw(t, s, torch.zeros(size), size)


@dataclass(frozen=True)
class Adjacent:
    """The whole batch on single steps of a fixed grid of a line to the data: t → s = t − 1/N, r = 0.

    t = (j + 1)/N with j uniform on {0, …, N − 1}.

    Args:
        base_steps: N, at least one.

    Source: the consistency-distillation baseline of Frans et al. 2024 (arXiv 2410.12557), kvfrans/shortcut-models.
    """

    base_steps: int = 128
    support: ClassVar[tuple[float, float]] = (0.0, 1.0)
    finest: ClassVar[float] = 0.0
    cites: ClassVar[tuple[str, ...]] = ("frans2024one",)

    def __post_init__(self) -> None:
        _check_count(self, self.base_steps)

    def draw(self, generator: torch.Generator, size: int, progress: float) -> Draw:
        t, s = _cells(generator, size, self.base_steps)
        return Draw(t, s, torch.zeros(size), size)


@dataclass(frozen=True)
class Halving:
    """The whole batch on jumps of d = 2^−b in two halves, from fine to coarse: t → s = t − d/2 → r = t − d.

    b = log2(N) − 1, …, 1, 0 in equal stages of the run, so that each level halves the steps of the one before it;
    t = (j + 1) d with j uniform on {0, …, 2^b − 1}.

    Args:
        base_steps: N, a power of two: the steps of the teacher.

    Raises: ValueError for a base that is no power of two.
    Source: Salimans and Ho 2022 (arXiv 2202.00512); the stages are those of the baseline of Frans et al. 2024
    (arXiv 2410.12557), kvfrans/shortcut-models.
    """

    base_steps: int = 128
    support: ClassVar[tuple[float, float]] = (0.0, 1.0)
    cites: ClassVar[tuple[str, ...]] = ("salimans2022progressive", "frans2024one")

    def __post_init__(self) -> None:
        _check_base(self, self.base_steps)

    @property
    def levels(self) -> int:
        """The number of levels, log2(N)."""
        return self.base_steps.bit_length() - 1

    @property
    def finest(self) -> float:
        return 1 / self.base_steps

    @property
    def horizon(self) -> float | None:
        """When the last level begins, as a fraction of the run."""
        return (self.levels - 1) / self.levels or None

    def level(self, progress: float) -> int:
        """Return b once this fraction of the run has passed."""
        return self.levels - 1 - stage(progress, self.levels)

    def draw(self, generator: torch.Generator, size: int, progress: float) -> Draw:
        t, r = _cells(generator, size, 2 ** self.level(progress))
        return Draw(t, (t + r) / 2, r, size)


@dataclass(frozen=True)
class ToData:
    """A share of the rows jumps to the data in one step, s = r = 0 from t = k/N; the others have r = t.

    Args:
        share: the share of rows that jump, rounded down to whole rows.
        base_steps: N: k is uniform on {1, …, N}.
        law: the law of t on the diagonal rows; None draws it on the grid {1/N, …, 1}.

    Raises: ValueError for a batch too small for one row that jumps.
    Source: the live-reflow baseline of Frans et al. 2024 (arXiv 2410.12557), kvfrans/shortcut-models: an eighth.
    """

    share: float = 1 / 8
    base_steps: int = 128
    law: Law | None = None
    support: ClassVar[tuple[float, float]] = (0.0, 1.0)
    finest: ClassVar[float] = 0.0
    cites: ClassVar[tuple[str, ...]] = ("frans2024one",)

    def __post_init__(self) -> None:
        _check_count(self, self.base_steps)
        if not 0 < self.share <= 1:
            raise ValueError(f"ToData(share={self.share}): a share of the rows in (0, 1] is expected")

    def draw(self, generator: torch.Generator, size: int, progress: float) -> Draw:
        jumps = int(size * self.share)
        if jumps < 1:
            raise ValueError(
                f"a batch of {size} leaves no row to jump (share {self.share:g}): use a batch of at least "
                f"{math.ceil(1 / self.share)}, or a larger share"
            )
        start, _ = _cells(generator, jumps, self.base_steps)
        if self.law is None:
            diagonal, _ = _cells(generator, size - jumps, self.base_steps)
        else:
            diagonal = self.law.sample(generator, size - jumps)
        t, r = torch.cat([start, diagonal]), torch.cat([torch.zeros(jumps), diagonal])
        return Draw(t, r, r, jumps)


@dataclass(frozen=True)
class Intervals:
    """The whole batch on the intervals of the grid of a solver, in equal shares: from t straight to r, s = r.

    A solver of N network evaluations takes two on an interval of 2/N of the way, so that every other time of the grid
    of N steps is a stop. Where N is odd the last 1/N has a single evaluation, which leaves nothing to learn, and no
    rows.

    Args:
        steps: N, from 3 to 10.
        low, high: the ends of the path, which the grid is that of `spaced` between; [0.002, 80] for noise levels.

    Raises: ValueError for another number of evaluations, or ends that are not 0 ≤ low < high.
    Source: Zhou et al. 2023 (arXiv 2312.00094). Published odd budgets save the first evaluation of all instead, by an
    analytic first step.
    """

    steps: int = 4
    low: float = 0.0
    high: float = 1.0
    cites: ClassVar[tuple[str, ...]] = ("zhou2023fast",)

    def __post_init__(self) -> None:
        if not 3 <= self.steps <= 10:
            raise ValueError(
                f"Intervals(steps={self.steps}): a solver is learned for 3 to 10 network evaluations, such as steps=4"
            )
        if not 0 <= self.low < self.high:
            raise ValueError(f"Intervals(low={self.low}, high={self.high}): 0 ≤ low < high is expected")

    @property
    def support(self) -> tuple[float, float]:
        return self.low, self.high

    @property
    def finest(self) -> float:
        """One interval as a share of the way."""
        return 2 / self.steps

    @property
    def trained(self) -> tuple[int, ...]:
        """The only number of evaluations that the steps are trained for."""
        return (self.steps,)

    def draw(self, generator: torch.Generator, size: int, progress: float) -> Draw:
        grid = torch.tensor(spaced(self.high, self.low, self.steps)[::2])
        count = self.steps // 2
        first = torch.randint(count, (), generator=generator)  # a batch may be smaller than the grid
        place = (torch.arange(size) + first) % count
        return Draw(grid[place], grid[place + 1], grid[place + 1], size)


@dataclass(frozen=True)
class Denoising:
    """The whole batch on the way to the data: t from one law, s = r = 0.

    Source: Zhou et al. 2024 (arXiv 2404.04057), with `NoiseLevels()` for t.
    """

    law: Law = NoiseLevels()
    finest: ClassVar[float] = 0.0
    cites: ClassVar[tuple[str, ...]] = ("zhou2024score",)

    @property
    def support(self) -> tuple[float, float]:
        return self.law.support

    def draw(self, generator: torch.Generator, size: int, progress: float) -> Draw:
        t = self.law.sample(generator, size)
        return Draw(t, torch.zeros(size), torch.zeros(size), size)


@dataclass(frozen=True)
class Trajectories:
    """A share of the rows on t > s ≥ r of a grid of N equal steps, n of them from t to s; the others have r = t.

    P(n) ∝ n on {1, …, longest}; t = i/N with i uniform on {n, …, N}, s = (i − n)/N, r = j/N with j uniform on
    {0, …, i − n}.

    Published are 18 times of Karras' grid of noise levels for small images and 40 for larger ones, as many steps at
    most, and one n for a whole batch. Here steps are equal, which leaves a smaller error of the solver on the linear
    path, and each row draws an n of its own. With the 8 by default, 1, 2, 4 and 8 equal steps of sampling are on the
    grid, and training costs 9 forward-equivalents an image rather than the 16 of 17 steps; larger images want more.

    Args:
        share: the share of rows on the grid, rounded down to whole rows.
        base_steps: N.
        longest: the largest n, None for N; the mean is (2 longest + 1)/3, and each step costs two evaluations.
        law: the law of t on the rows r = t.

    Raises: ValueError for a batch too small for one row on the grid.
    Source: Kim et al. 2023 (arXiv 2310.02279), and its code (sony/ctm) for the three laws.
    """

    share: float = 0.5
    base_steps: int = 8
    longest: int | None = None
    law: Law = LogitNormal(-0.4, 1.0)
    support: ClassVar[tuple[float, float]] = (0.0, 1.0)
    cites: ClassVar[tuple[str, ...]] = ("kim2023consistency",)

    def __post_init__(self) -> None:
        _check_count(self, self.base_steps)
        if not 0 < self.share <= 1:
            raise ValueError(f"Trajectories(share={self.share}): a share of the rows in (0, 1] is expected")
        if self.longest is not None and not 1 <= self.longest <= self.base_steps:
            raise ValueError(
                f"Trajectories(longest={self.longest}): between 1 and base_steps={self.base_steps} steps are expected, "
                "or None for all of them"
            )

    @property
    def finest(self) -> float:
        return 1 / self.base_steps

    def draw(self, generator: torch.Generator, size: int, progress: float) -> Draw:
        rows = int(size * self.share)
        if rows < 1:
            raise ValueError(
                f"a batch of {size} leaves no row on the grid (share {self.share:g}): use a batch of at least "
                f"{math.ceil(1 / self.share)}, or a larger share"
            )
        weights = torch.arange(1.0, (self.longest or self.base_steps) + 1)
        steps = 1 + torch.multinomial(weights, rows, replacement=True, generator=generator)
        stop = _below(generator, self.base_steps - steps)
        landing = _below(generator, stop)
        grid = (torch.stack([stop + steps, stop, landing]) / self.base_steps).unbind()
        diagonal = self.law.sample(generator, size - rows)
        t, s, r = (torch.cat([on_grid, diagonal]) for on_grid in grid)
        return Draw(t, s, r, rows)


def _below(generator: torch.Generator, most: Tensor) -> Tensor:
    """Return whole numbers, each uniform on {0, …, most}."""
    return (torch.rand(len(most), generator=generator) * (most + 1)).floor().clamp(max=most).to(torch.int64)


def _cells(generator: torch.Generator, size: int, count: int) -> tuple[Time, Time]:
    """Return the upper and lower ends of `size` of the `count` equal cells of [0, 1], drawn uniformly."""
    cell = torch.randint(count, (size,), generator=generator)
    return (cell + 1) / count, cell / count


def _check_count(law: TimeLaw, n: int) -> None:
    if n < 1:
        raise ValueError(f"{type(law).__name__}(base_steps={n}): at least one step is expected")
