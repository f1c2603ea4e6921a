"""Couplings of noise and data: which ε is paired with which x.

| coupling     | noise                 | data                                             | used by       |
|--------------|-----------------------|--------------------------------------------------|---------------|
| Independent  | fresh                 | that of the batch                                | most          |
| NearestPairs | fresh                 | that of the batch, each class in another order   | recipe digits |
| LivePairs    | fresh                 | r < t: where the map in training takes the noise | live reflow   |
| StoredPairs  | `Batch.noise`, stored | that of the batch, where a teacher took it       | reflow        |
| Generated    | fresh                 | one step of another map from noise of its own    | SiD           |
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from flowleap import samplers
from flowleap.flow_map import FlowMap
from flowleap.guidance import guide
from flowleap.interfaces import Composition, Coupling
from flowleap.randomness import RowGenerator
from flowleap.tensors import Image, Label

__all__ = ["Coupling", "Generated", "Independent", "LivePairs", "NearestPairs", "StoredPairs"]


@dataclass(frozen=True)
class Independent(Coupling):
    """ε ~ N(0, I), independent of x."""

    splits: ClassVar[bool] = True


@dataclass(frozen=True)
class NearestPairs(Coupling):
    """The rows of a class in the order in which they lie nearest to the noise: mini-batch optimal transport.

    x_i ← x_π(i),  π = argmin_π Σ_i ‖x_π(i) − ε_i‖²,  π a permutation of the rows of one class in the batch.

    Lines from noise to data then cross less, so that the velocity of a pair varies less around its mean, and the flow
    is straighter. The laws of ε and of x given its class stay what they are. Without labels the batch is one class.
    The order depends on all rows of the class in the batch: a process is given those that others hold, and draws
    their noise (`Batch.context`). Cost O(n³) in the n rows of a class, on the CPU, for
    which each step waits where the data are on a GPU.

    Source: Pooladian et al. 2023 (arXiv 2304.14772), Tong et al. 2023 (arXiv 2302.00482), there
    over whole batches without regard to classes.
    """

    mixes_rows: ClassVar[bool] = True
    cites: ClassVar[tuple[str, ...]] = ("pooladian2023multisample", "tong2023improving")

    def refusal(self, o: Composition) -> str | None:
        if not o.velocity.averages:
            return None
        return (
            "PlugIn averages over all data that may have met the noise of a row, and NearestPairs gives each noise to "
            "data near it: use velocity=Conditional(), or coupling=Independent()"
        )

    def data(
        self,
        x: Image,
        noise: Image,
        label: Label,
        num_jumps: int,
        frozen: FlowMap | None,
        extra_noise: Image | None = None,
    ) -> Image:
        from scipy.optimize import linear_sum_assignment

        rows = torch.zeros(len(x), dtype=torch.int64) if label is None else label.cpu()
        order = torch.arange(len(x))
        flat, target = (images.detach().flatten(1).double().cpu() for images in (x, noise))
        for one in rows.unique():
            here = (rows == one).nonzero().squeeze(1)
            cost = torch.cdist(target[here], flat[here]).square()
            order[here] = here[torch.from_numpy(linear_sum_assignment(cost.numpy())[1])]
        return x[order.to(x.device)]


@dataclass(frozen=True)
class LivePairs(Coupling):
    """On the rows r < t, x is where the map in training takes ε in N steps of its instantaneous velocity, no gradient.

    x̂ = x_N,  x_{i+1} = a(t_i, t_{i+1}) x_i + b(t_i, t_{i+1}) F(x_i, t_i, t_i): Euler's steps on the linear path.
    Those rows lend their labels, not their images; the rows r = t are the data with noise of their own.

    Args:
        steps: N.
        guidance: the scale of classifier-free guidance in these steps, for rows with labels; None for none.

    Raises: ValueError where no map is given, or it cannot be stepped so on its path.
    Source: the live-reflow baseline of Frans et al. 2024 (arXiv 2410.12557), kvfrans/shortcut-models: N = 8.
    """

    steps: int = 8
    guidance: float | None = None
    asks_velocity: ClassVar[tuple[str, str]] = ("LivePairs", "coupling=StoredPairs()")
    ties_noise: ClassVar[bool] = True
    cites: ClassVar[tuple[str, ...]] = ("frans2024one", "liu2022flow")

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"LivePairs(steps={self.steps}): at least one step is expected")

    @property
    def asks_null(self) -> bool:
        return self.guidance not in (None, 1.0)

    def refusal(self, o: Composition) -> str | None:
        if o.times.lands == "nowhere" or o.target.regresses_pairs(o.times):
            return None
        return (
            "LivePairs gives the rows r < t pairs of their own flow and the rows r = t those of the data, and "
            f"{type(o.target).__name__} on {type(o.times).__name__} would mix the two: use target=Consistency() with "
            "times=ToData(), or coupling=StoredPairs(), which pairs every row"
        )

    def data(
        self,
        x: Image,
        noise: Image,
        label: Label,
        num_jumps: int,
        frozen: FlowMap | None,
        extra_noise: Image | None = None,
    ) -> Image:
        if num_jumps == 0:
            return x
        if frozen is None:
            raise ValueError(
                "LivePairs makes its pairs with the map in training, and none is given: "
                "objective.draw(batch, step, key, frozen=flow)"
            )
        with torch.no_grad():
            known = None if label is None else label[:num_jumps]
            made = samplers.ddim(guide(frozen, self.guidance), noise[:num_jumps], self.steps, label=known)
        return torch.cat([made.to(x.dtype), x[num_jumps:]])


@dataclass(frozen=True)
class StoredPairs(Coupling):
    """Every row brings its own noise (`Batch.noise`), and x is where a teacher took that noise: reflow.

    Args:
        teacher: the map that makes the pairs; None until `Objective.with_teacher` puts one in. Training on pairs
            that are stored does not ask it.

    Raises: ValueError for a batch without noise.
    Source: Liu et al. 2022 (arXiv 2209.03003) algorithm 1, reflow.
    """

    teacher: FlowMap | None = field(default=None, repr=False)
    ties_noise: ClassVar[bool] = True
    stored: ClassVar[bool] = True
    splits: ClassVar[bool] = True
    cites: ClassVar[tuple[str, ...]] = ("liu2022flow",)

    @property
    def needs_teacher(self) -> bool:
        return self.teacher is None

    def with_teacher(self, flow: FlowMap) -> StoredPairs:
        return replace(self, teacher=flow)

    def noise(self, generator: RowGenerator, shape: tuple[int, ...]) -> Image:
        raise ValueError(
            "StoredPairs trains on pairs of noise and what a teacher made of it, and this batch has no noise: "
            "give Batch(x, label, noise)"
        )


@dataclass(frozen=True)
class Generated(Coupling):
    """x is what the frozen map makes of noise of its own in one step, no gradient: x = X_{start→t_min}(κ σ(start) z).

    z is `Point.extra_noise`, independent of the noise ε that x is then mixed with. Labels are those of the data, images
    are not. For an `AuxiliaryNetwork`, whose frozen map is the main network: it learns the scores of its samples.

    Raises: ValueError where no map is given.
    Source: Zhou et al. 2024 (arXiv 2404.04057), the samples that the fake score is trained on.
    """

    makes_samples: ClassVar[bool] = True
    cites: ClassVar[tuple[str, ...]] = ("zhou2024score",)

    def data(
        self,
        x: Image,
        noise: Image,
        label: Label,
        num_jumps: int,
        frozen: FlowMap | None,
        extra_noise: Image | None = None,
    ) -> Image:
        if frozen is None or extra_noise is None:
            raise ValueError(
                "Generated trains on what another map makes of noise, and none is given: "
                "objective.draw(batch, step, key, frozen=flow)"
            )
        with torch.no_grad():
            return samplers.chain(frozen, extra_noise, label=label).to(x.dtype)
