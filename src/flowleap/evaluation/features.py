"""Features map samples (n, ...) to rows (n, d), which distances compare and are named after."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, float64
from torch.nn import functional

from flowleap.data import Dataset, Rows, Samples

Extracted = Tensor | tuple[Tensor, Tensor]
READ = 250  # images that are read from the disk at a time
SLACK = 1e-3  # tolerance of the range of values, for rounding


@dataclass(frozen=True)
class Features:
    """A named map from samples to feature rows, with the shape and the range it expects.

    Args:
        name: in the names of distances, as in FD-pixel.
        extract: samples (n, ...) -> rows (n, d), or (rows, logits (n, classes)) where a classifier makes them.
        checksum: the first 12 hexadecimal digits of the SHA-256 of the weights, and what else changes the rows, as in
            "6726825d0af5-clean"; None without weights.
        shape: of one sample, (channels, height, width), with None for an axis of any length; None for any shape.
        bounds: the range of the values; None for any.
        batch: rows that go through at once.
        fid: whether these are the Inception features of FID, KID and IS.
        dims: the number of features, None where it follows from the samples.
        latents: whether these are features of latents themselves, not of the decoded images.
    """

    name: str
    extract: Callable[[Tensor], Extracted]
    checksum: str | None = None
    shape: tuple[int | None, ...] | None = None
    bounds: tuple[float, float] | None = None
    batch: int = 250
    fid: bool = False
    dims: int | None = None
    latents: bool = False

    @property
    def frechet(self) -> str:
        """The name of the Fréchet distance over these features."""
        return "FID" if self.fid else f"FD-{self.name}"

    @property
    def kernel(self) -> str:
        """The name of the kernel distance over these features."""
        return "KID" if self.fid else f"KD-{self.name}"

    def __call__(self, samples: Samples) -> Tensor:
        """Return the feature rows, on the CPU.

        Shapes: (n, ...) -> (n, d). Raises: ValueError as `stream`.
        """
        return torch.cat([rows for rows, _ in self.stream(samples)])

    def stream(self, samples: Samples) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield (rows, logits or None) of at most `batch` samples at a time, on the CPU.

        Samples that stay on the disk are read block by block.
        Raises: ValueError for another shape or values outside the bounds.
        """
        if isinstance(samples, Tensor) or not len(samples):
            self.check(samples[:])
        for part in samples.split(min(self.batch, READ) if isinstance(samples, Rows) else self.batch):
            if isinstance(samples, Rows):
                self.check(part)
            with torch.no_grad():
                made = self.extract(part)
            rows, logits = made if isinstance(made, tuple) else (made, None)
            yield rows.cpu(), None if logits is None else logits.cpu()

    def check(self, samples: Tensor) -> None:
        """Raise ValueError for samples of another shape, with values outside the bounds, or for none at all."""
        if len(samples) == 0:
            raise ValueError(f"no samples were given for {self.name} features")
        found = tuple(samples.shape[1:])
        if self.shape is not None and not _fits(found, self.shape):
            wanted = " × ".join("any" if length is None else str(length) for length in self.shape)
            raise ValueError(
                f"samples of shape {' × '.join(map(str, found))} do not fit {self.name} features, which are made for "
                f"{wanted} (channels × height × width): choose other features, such as pixel, or resize the images"
            )
        if self.bounds is not None:
            low, high = self.bounds
            least, most = float(samples.min()), float(samples.max())
            if not (low - SLACK <= least and most <= high + SLACK):
                raise ValueError(
                    f"samples between {least:g} and {most:g} do not fit {self.name} features, which take values in "
                    f"[{low:g}, {high:g}]: rescale them (8-bit images as x / 127.5 − 1), or clamp them"
                )


def _fits(found: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(found) == len(wanted) and all(b in (None, a) for a, b in zip(found, wanted, strict=True))


def flat(samples: Tensor) -> Tensor:
    """Return the values themselves, one row per sample.

    Shapes: (n, ...) -> (n, d), float64. Units: those of the data, so images count in [-1, 1].
    """
    return samples.flatten(1).to(float64)


@dataclass(frozen=True)
class Thumbnail:
    """The values of images shrunk to a small square with antialiasing, one row per image.

    Shapes: (n, channels, height, width) -> (n, side² · channels), float64.
    """

    side: int

    def __call__(self, samples: Tensor) -> Tensor:
        size = (self.side, self.side)
        return flat(functional.interpolate(samples.float(), size=size, mode="bilinear", antialias=True))


PIXEL = Features("pixel", flat, batch=10_000)
PIXEL16, PIXEL8, PIXEL4, PIXEL2 = (
    Features(f"pixel{side}", Thumbnail(side), batch=1_000) for side in (16, 8, 4, 2)
)
LATENT = Features("latent", flat, batch=1_000, latents=True)
SHRUNK = {
    side: Features(f"latent{side}", Thumbnail(side), batch=1_000, latents=True) for side in (16, 8, 4, 2)
}
"""Features of shrunk latents, by their side."""
POINT = Features("point", flat, batch=10_000)
SMALLER = ((PIXEL8, 8), (PIXEL4, 4), (PIXEL2, 2))
MANY = 784  # pixels beyond which a covariance asks for more than the usual 1,000 samples


def default(dataset: Dataset) -> Features:
    """Return the default features of a data set: pixels, latents, or coordinates of points.

    Images and latents of more than 784 values are shrunk first, so that 1,000 samples are enough for a covariance, and
    further where the data set is smaller than that.
    """
    if dataset.kind == "latents":
        most = min(MANY, len(dataset) - 1) if len(dataset) else MANY
        if math.prod(dataset.shape) <= most:
            return LATENT
        return next((kind for side, kind in SHRUNK.items() if dataset.shape[0] * side**2 <= most), SHRUNK[2])
    if dataset.kind != "image":
        return POINT
    channels = dataset.shape[0]
    usual, dims = PIXEL, math.prod(dataset.shape)
    if dims > MANY:
        usual, dims = PIXEL16, 256 * channels
    if not len(dataset) or len(dataset) > dims:
        return usual
    return next((kind for kind, side in SMALLER if side * side * channels < len(dataset)), SMALLER[-1][0])
