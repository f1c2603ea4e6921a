"""What is recorded of the autoencoder behind latents: which one it is, and how its latents are scaled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

__all__ = ["Codec"]


@dataclass(frozen=True)
class Codec:
    """An autoencoder by name and checksum, with the scale and the shift of its latents.

    A network is trained on (z − shift) · scaling, and z = x / scaling + shift is what the autoencoder decodes.

    Args:
        vae: the folder, or the id on the Hugging Face hub, as it was given.
        kind: the class of diffusers, AutoencoderKL or AutoencoderTiny; empty where that is not known.
        checksum: the SHA-256 of its weights, however a file packs them; empty where that is not known.
        scaling, shift: chosen when the latents were made. The published configs of Stable Diffusion say 0.18215 and 0;
            the published ESC runs took 0.18125.
        channels: of the images, where the autoencoder has others: grey ones go in as colored ones, and what comes out
            is averaged over the colors. None for those of the autoencoder.
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
        """What it is called in protocols: the last part of its id or folder, with the start of its checksum."""
        last = "".join(c if c.isalnum() or c in "-._" else "-" for c in self.vae.rstrip("/").split("/")[-1])
        return f"{last}@{self.checksum[:12]}" if self.checksum else last

    def scaled(self, z: Tensor) -> Tensor:
        """Return latents of the autoencoder as a network sees them, (z − shift) · scaling."""
        return (z - self.shift) * self.scaling

    def unscaled(self, x: Tensor) -> Tensor:
        """Return what a network makes as latents of the autoencoder, x / scaling + shift."""
        return x / self.scaling + self.shift

    def to_dict(self) -> dict[str, Any]:
        """Return its fields as JSON-able values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Codec:
        """Return a codec from its fields."""
        return cls(**content)
