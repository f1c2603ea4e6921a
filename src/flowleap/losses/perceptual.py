"""Distances of images in the features of a network (LPIPS)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from flowleap.interfaces import Composition, Loss
from flowleap.losses.distances import AdaptivePower
from flowleap.networks import perceptual
from flowleap.paths import LinearPath
from flowleap.point import Point, Regression
from flowleap.suggest import suggest
from flowleap.tensors import Image, like

__all__ = ["Perceptual", "WithPerceptual"]


@dataclass(frozen=True)
class Perceptual(Loss):
    """LPIPS: d(a, b) = Σ_l mean_hw Σ_c w_lc (â_lc − b̂_lc)², â, b̂ feature maps of unit length over channels.

    It compares images in [−1, 1], so it needs a target that compares points, such as Consistency(space="map"). The
    weights are read when the loss is first asked for, once per device, and are no part of the value.

    Args:
        file: the weights of the network, as .safetensors, .pth (read without running code) or .npz, named as in
            torchvision or as in the files of LPIPS; None where `features` are given.
        linear: a second file with the w of LPIPS; None where `file` holds them too, "equal" for w = 1.
        net: "vgg" (VGG16 after 5 blocks) or "squeeze" (SqueezeNet 1.0 after 7, which LPIPS has no w for).
        size: images are resized to this side before, bilinearly; None for as they are.
        features: any callable from images (n, 3, height, width) to a list of feature maps, in place of a file, with
            w = 1; such a value is no plain data.

    Raises: ValueError for an unknown network, neither or both of a file and features, points in place of images, or
        tensors that are not those of the network; FileNotFoundError for a file that is not there.
    Source: Zhang et al. 2018 (arXiv 1801.03924), and its code (richzhang/PerceptualSimilarity) for the scale of the
    input and for "equal"; the resize to 224 is that of Song et al. 2023, openai/consistency_models.
    """

    file: str | None
    linear: str | None = None
    net: str = "vgg"
    size: int | None = 224
    features: Callable[[Tensor], Sequence[Tensor]] | None = field(default=None, repr=False)
    cites: ClassVar[tuple[str, ...]] = ("zhang2018unreasonable",)

    def __post_init__(self) -> None:
        if self.net not in perceptual.NETWORKS:
            raise ValueError(
                f"Perceptual(net={self.net!r}): unknown network{suggest(self.net, perceptual.NETWORKS)}"
            )
        if (self.file is None) == (self.features is None):
            raise ValueError(
                f"Perceptual(file={self.file!r}, features={self.features!r}): give one of them, such as "
                'file="lpips_vgg.pth", the weights of a network, or a feature module of your own'
            )
        if self.size is not None and self.size < 1:
            raise ValueError(
                f"Perceptual(size={self.size}): a side in pixels is expected, or None to leave images"
            )

    @property
    def template(self) -> dict[str, str]:
        """The metric by what gives the features."""
        name = "features of a module" if self.features is not None else self.net.upper()
        return {"loss metric": f"LPIPS, {name}", "weight": "1"}

    def refusal(self, o: Composition) -> str | None:
        if o.target.space == "map":
            return None
        return (
            f"Perceptual compares images, and {type(o.target).__name__} compares outputs of the network: use "
            'Consistency(space="map"), or another loss'
        )

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        if regression.space != "map" or point.num_jumps < len(point):
            raise ValueError(
                "Perceptual compares images, and here are rows that compare outputs of the network (r = t, or a target "
                'of outputs): use Consistency(space="map") and times with r < t, such as NoiseGrid()'
            )
        return self.distance(regression.prediction, regression.target)

    def distance(self, first: Image, second: Image) -> Tensor:
        """Return d of each pair of images, (batch,)."""
        a, b = (self._images(each) for each in (first, second))
        if self.features is not None:
            return perceptual.distance(self.features(a), self.features(b))
        assert self.file is not None
        network = perceptual.load(self.file, self.linear, self.net, a.device, a.dtype)
        if min(a.shape[-2:]) < network.least:
            raise ValueError(
                f"Perceptual(net={self.net!r}) needs images of at least {network.least} a side, and these are "
                f"{a.shape[-2]} × {a.shape[-1]}: give a size, such as 224"
            )
        return perceptual.distance(network(a), network(b), network.weights)

    def _images(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ValueError(
                f"Perceptual compares images of 1 or 3 channels, and the data has shape {tuple(x.shape[1:])}: use "
                "Squared() or PseudoHuber()"
            )
        x = x.to(torch.promote_types(x.dtype, torch.float32)).expand(-1, 3, -1, -1)
        if self.size is None or x.shape[-2:] == (self.size, self.size):
            return x
        return functional.interpolate(x, size=(self.size, self.size), mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class WithPerceptual(Loss):
    """m + w d/sg(d + c) on rows t < `below`, d = LPIPS(x_t − t u, x): where a velocity leads, and the image itself.

    m is another loss of velocities. The features compare images, so that a row must come near its image: the rows above
    `below`, whose average velocity leads to a mean of many images, have m alone. For several networks, one around
    another. Without the random crops of the published code.

    Args:
        file, linear, net, size, features: those of `Perceptual`.
        inner: m.
        weight: w.
        below: the time up to which rows are compared by features.
        eps: c.

    Raises: ValueError as `Perceptual`, and for a weight, time or c that is not positive.
    Source: Lu et al. 2026 (arXiv 2601.22158), and its code (Lyy-iiis/pMF): LPIPS by VGG with 0.4, ConvNeXt with 0.1,
    t < 0.8, c = 0.01.
    """

    file: str | None
    inner: Loss = AdaptivePower()
    linear: str | None = None
    net: str = "vgg"
    size: int | None = 224
    features: Callable[[Tensor], Sequence[Tensor]] | None = field(default=None, repr=False)
    weight: float = 0.4
    below: float = 0.8
    eps: float = 0.01
    cites: ClassVar[tuple[str, ...]] = ("lu2026one", "zhang2018unreasonable")

    def __post_init__(self) -> None:
        _ = self.perceptual  # which refuses what it cannot compare with
        if not (self.weight > 0 and self.below > 0 and self.eps > 0):
            raise ValueError(
                f"WithPerceptual(weight={self.weight}, below={self.below}, eps={self.eps}): positive numbers are "
                "expected"
            )

    @property
    def perceptual(self) -> Perceptual:
        """The distance of images."""
        return Perceptual(self.file, self.linear, self.net, self.size, self.features)

    @property
    def template(self) -> dict[str, str]:
        """The metric of the loss inside, and that of images."""
        return {"loss metric": f"{{loss metric}} + {self.perceptual.template['loss metric']}"}

    @property
    def error_power(self) -> float:
        return self.inner.error_power

    @property
    def horizon(self) -> float | None:
        return self.inner.horizon

    def refusal(self, o: Composition) -> str | None:
        if o.target.space == "velocity" and isinstance(o.path, LinearPath):
            return None
        return (
            "WithPerceptual compares x_t − t u with an image, which it is for average velocities u on LinearPath: use "
            'target=Eulerian(space="velocity") there, or the loss inside it'
        )

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        image = point.x_t - like(point.t, point.x_t).to(point.x_t.dtype) * regression.prediction
        distance = self.perceptual.distance(image, point.x)
        term = torch.where(point.t < self.below, distance / (distance.detach() + self.eps), 0.0)
        return self.inner(regression, point) + self.weight * term
