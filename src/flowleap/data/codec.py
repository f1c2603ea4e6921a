"""The autoencoder of latents as it is recorded in caches and runs: its name, checksum, scaling and shift."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Codec:
    """An autoencoder by name and checksum, with the scale and the shift of its latents.

    A network is trained on (z − shift) · scaling, and z = x / scaling + shift is what the autoencoder decodes.

    Args:
        vae: the folder, or the id on the Hugging Face hub, as it was given.
        kind: the class of diffusers, AutoencoderKL or AutoencoderTiny; "" if unknown.
        checksum: the SHA-256 of its weights, independent of their file format; "" if unknown.
        scaling, shift: chosen when the latents were made. The published configs of Stable Diffusion say 0.18215 and 0;
            the published ESC runs took 0.18125.
        channels: of the images, if the autoencoder has others: grey images are encoded as RGB, and decoded images are
            averaged over the channels. None for those of the autoencoder.
    Raises: ValueError for a scaling that is not above 0, or a shift that is not finite.
    Source: scaling, Rombach et al. 2021 (latent diffusion), section 4.3.2 and appendix D.1; 0.18125,
        EDAPINENUT/ExplicitShortCut.
    """

    vae: str
    kind: str = ""
    checksum: str = ""
    scaling: float = 1.0
    shift: float = 0.0
    channels: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scaling) and self.scaling > 0 and math.isfinite(self.shift)):
            raise ValueError(
                f"scaling={self.scaling}, shift={self.shift}: latents are trained on as (z − shift) · scaling, with a "
                "scaling above 0 and a finite shift"
            )

    @property
    def name(self) -> str:
        """Its name in protocols: the last part of its id or folder, with the start of its checksum."""
        last = "".join(c if c.isalnum() or c in "-._" else "-" for c in self.vae.rstrip("/").split("/")[-1])
        return f"{last}@{self.checksum[:12]}" if self.checksum else last

    def scaled(self, z: Tensor) -> Tensor:
        """Latents of the autoencoder → inputs of the network, (z − shift) · scaling."""
        return (z - self.shift) * self.scaling

    def unscaled(self, x: Tensor) -> Tensor:
        """Samples of the network → latents of the autoencoder, x / scaling + shift."""
        return x / self.scaling + self.shift
