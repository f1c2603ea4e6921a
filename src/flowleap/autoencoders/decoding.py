"""Decode latents to images."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from flowleap import memory
from flowleap.autoencoders.model import Autoencoder, load
from flowleap.data.codec import Codec

BATCH = 32
BOUNDS = (-1.0, 1.0)
_LOST: set[Codec] = set()
_loaded = lru_cache(maxsize=2)(load)


@dataclass(frozen=True, eq=False)
class Decoder:
    """Decodes samples of the network, x / scaling + shift, and clamps the images to [-1, 1].

    Args:
        batch: number of latents decoded at a time, fewer where the memory of a GPU is exhausted.

    Shapes: (n, latent channels, h, w) -> float32 (n, channels, height, width), on the CPU.
    """

    autoencoder: Autoencoder
    codec: Codec
    batch: int = BATCH

    def __call__(self, latents: Tensor) -> Tensor:
        """Decode latents; images of latents that are not finite are NaN."""
        rows = memory.Rows(self.batch).computed(
            range(len(latents)), lambda p: self._images(latents[p.start : p.stop])
        )
        made = list(rows)
        return torch.cat(made) if made else torch.empty(0, *self.shape(tuple(latents.shape[1:])))

    def _images(self, latents: Tensor) -> Tensor:
        images = self.images(latents).cpu()
        sound = (latents.flatten(1).isfinite().all(dim=1).cpu())[:, None, None, None] & images.isfinite()
        return torch.where(sound, images.clamp(*BOUNDS), torch.nan)

    def images(self, latents: Tensor) -> Tensor:
        """Return the images of one batch of latents as the autoencoder makes them, not clamped, on its device."""
        images = self.autoencoder.decode(self.codec.unscaled(latents))
        return images.mean(dim=1, keepdim=True) if self.codec.channels == 1 else images

    def shape(self, latent: tuple[int, ...]) -> tuple[int, int, int]:
        """Return the shape of an image, given that of its latent."""
        factor = self.autoencoder.factor
        channels = self.codec.channels or int(self.autoencoder.config["out_channels"])
        return channels, latent[1] * factor, latent[2] * factor


def decoder(
    codec: Codec | None,
    vae: str | Path | None = None,
    device: str | torch.device = "cpu",
    precision: str = "float32",
) -> Decoder:
    """Return the decoder of latents: of the autoencoder recorded in `codec`, or of the one that `vae` names.

    Without `codec`, scaling and shift are those of the config of `vae`. The last two autoencoders stay loaded.

    Raises: ValueError if the recorded autoencoder has other weights now; as `autoencoders.load`.
    """
    if codec is None and vae is None:
        raise ValueError(
            "which autoencoder makes images of these latents is not recorded: name it with --vae"
        )
    name = str(vae) if vae is not None or codec is None else codec.vae
    found = _loaded(name, str(device), precision)
    codec = codec or found.codec()
    made_by = codec.checksum
    if made_by and found.checksum != made_by:
        told = (
            f"the weights of {found.name} are not those that the latents were made by: their checksum is "
            f"{found.checksum[:12]}…, not {made_by[:12]}…"
        )
        if vae is None:
            raise ValueError(
                f"{told}. Put {codec.vae} back, or name an autoencoder of the same latents with --vae"
            )
        warnings.warn(told, UserWarning, stacklevel=2)
    return Decoder(found, codec)


def decoder_or_none(codec: Codec | None, device: str | torch.device = "cpu") -> Decoder | None:
    """Return the decoder of recorded latents; None with a warning if it cannot be loaded.

    None without a warning if only the name of the autoencoder is known, as for imported weights.
    """
    if codec is None or not codec.checksum or codec in _LOST:
        return None
    try:
        return decoder(codec, device=device)
    except (OSError, ValueError) as error:
        _LOST.add(codec)  # the hub is not asked again for every picture
        warnings.warn(f"latents are not decoded: {error}", UserWarning, stacklevel=2)
        return None
