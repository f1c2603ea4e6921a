"""Load an autoencoder of diffusers from a folder or the hub, encode, decode, and identify its weights."""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowleap.data.codec import Codec

KINDS = ("AutoencoderKL", "AutoencoderTiny")
"""The supported classes of diffusers: with a posterior, and without."""
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ID = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+?)(?::(?P<folder>[\w./-]+))?")
UNREACHED = (
    "LocalEntryNotFoundError",
    "ConnectError",
    "ConnectionError",
    "ConnectTimeout",
    "OfflineModeIsEnabled",
)
INSTALL = (
    "autoencoders are those of the package diffusers, which is not installed: pip install 'flowleap[latents]'"
)


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """A frozen autoencoder on a device.

    Args:
        name: its folder or id, as it was given.
        module: of diffusers, in evaluation mode.
        checksum: the SHA-256 of its weights in float32, independent of their file format.
        precision: the dtype of its computation.
    """

    name: str
    module: nn.Module
    checksum: str
    precision: str = "float32"

    @property
    def kind(self) -> str:
        """The name of its class in diffusers."""
        return type(self.module).__name__

    @property
    def config(self) -> Any:
        """The config of diffusers."""
        return self.module.config

    @property
    def posterior(self) -> bool:
        """Whether it encodes an image to a distribution of latents."""
        return self.kind == "AutoencoderKL"

    @property
    def factor(self) -> int:
        """Pixels per latent along a side."""
        stages = "block_out_channels" if self.posterior else "encoder_block_out_channels"
        return int(2 ** (len(self.config[stages]) - 1))

    @property
    def device(self) -> torch.device:
        """The device of its weights."""
        return next(self.module.parameters()).device

    def codec(
        self, scaling: float | None = None, shift: float | None = None, channels: int | None = None
    ) -> Codec:
        """Return its record; scaling and shift default to those of its config. `channels` are those of the images."""
        own = self.config.get("scaling_factor"), self.config.get("shift_factor")
        return Codec(
            self.name,
            self.kind,
            self.checksum,
            float(own[0] or 1.0) if scaling is None else scaling,
            float(own[1] or 0.0) if shift is None else shift,
            None if channels == int(self.config["in_channels"]) else channels,
        )

    def latent_shape(self, image: tuple[int, ...]) -> tuple[int, int, int]:
        """Return the shape of the latents of images.

        Shapes: (channels, height, width) of an image -> (latent channels, height / factor, width / factor).
        Raises: ValueError for sides that are no multiple of the factor, or other channels.
        """
        wanted = int(self.config["in_channels"])
        if len(image) != 3 or image[0] not in (1, wanted):
            raise ValueError(
                f"{self.name} takes images of {wanted} channel{'s' * (wanted != 1)}, and these are of shape "
                f"{' × '.join(map(str, image))} (channels × height × width)"
            )
        _, height, width = image
        if height % self.factor or width % self.factor:
            side = max(self.factor, round(min(height, width) / self.factor) * self.factor)
            raise ValueError(
                f"images of {height} × {width} do not fit {self.name}, which makes one latent of {self.factor} × "
                f"{self.factor} pixels: their sides must be multiples of {self.factor}; resize them, as to "
                f"{side} × {side}"
            )
        return int(self.config["latent_channels"]), height // self.factor, width // self.factor

    def encode(self, images: Tensor) -> Tensor:
        """Encode images: return mean and clamped log-variance of the posterior, or latents if there is no posterior.

        Before shift and scaling. Grey images become RGB if the autoencoder needs that.

        Shapes: (n, channels, height, width) in [-1, 1] -> float32 (n, 2 · latent channels or latent channels, h, w), on
            its device.
        """
        images = images.to(self.device, PRECISIONS[self.precision], non_blocking=True)
        images = images.expand(-1, int(self.config["in_channels"]), -1, -1)
        module: Any = self.module
        with torch.no_grad():
            made = module.encode(images)
            if not self.posterior:
                return made.latents.float()
            posterior = made.latent_dist
            return torch.cat([posterior.mean, posterior.logvar], dim=1).float()

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents of the autoencoder; images are not clamped.

        Shapes: (n, latent channels, h, w) -> float32 (n, channels, height, width), on its device.
        """
        module: Any = self.module
        with torch.no_grad():
            made = module.decode(latents.to(self.device, PRECISIONS[self.precision], non_blocking=True))
            return made.sample.float()


def load(text: str | Path, device: str | torch.device = "cpu", precision: str = "float32") -> Autoencoder:
    """Load the autoencoder in a folder or of an id on the Hugging Face hub; `ID:FOLDER` is one inside a pipeline.

    Raises: ValueError without diffusers, for text that is neither a folder nor an id, for another class than `KINDS`,
        or another precision; OSError if the hub does not provide it.
    """
    try:
        import diffusers
    except ImportError as error:
        raise ValueError(INSTALL) from error
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}: expected {', '.join(PRECISIONS)}")
    place, options = _place(str(text))
    with _quiet(diffusers):
        try:
            known = diffusers.AutoencoderKL.load_config(place, **options)
        except Exception as error:  # of several libraries, with long texts
            raise OSError(_missing(str(text), error)) from error
        kind = str(known.get("_class_name"))
        if kind not in KINDS:
            raise ValueError(
                f"{text} is a {kind} of diffusers, and {' or '.join(KINDS)} is expected: give an autoencoder of images"
            )
        try:
            module: Any = getattr(diffusers, kind).from_pretrained(place, **options)
        except Exception as error:
            raise OSError(_missing(str(text), error)) from error
        module = module.float().eval().requires_grad_(False)
        checksum = weights_checksum(module)
        module = module.to(device, PRECISIONS[precision])
    return Autoencoder(str(text), module, checksum, precision)


@contextmanager
def _quiet(diffusers: Any) -> Iterator[None]:
    """Silence diffusers and the hub: failures are raised as errors."""
    own, hub = diffusers.utils.logging, logging.getLogger("huggingface_hub")
    levels = own.get_verbosity(), hub.level
    own.set_verbosity(own.CRITICAL)
    hub.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        own.set_verbosity(levels[0])
        hub.setLevel(levels[1])


def _place(text: str) -> tuple[str, dict[str, Any]]:
    """Return the path or id for `from_pretrained`, and its options."""
    path = Path(text)
    if path.is_dir():
        inside = [folder for folder in (path, path / "vae") if (folder / "config.json").is_file()]
        if not inside:
            raise ValueError(
                f"{text} holds no autoencoder (no config.json): give the folder that save_pretrained of diffusers wrote"
            )
        return str(inside[0]), {"local_files_only": True}
    found = ID.fullmatch(text)
    if path.exists() or found is None or text.startswith((".", "/", "~")):
        raise ValueError(
            f"autoencoder {text!r}: there is no such folder, and it is no id of the Hugging Face hub such as "
            "stabilityai/sd-vae-ft-ema"
        )
    folder = found["folder"]
    return found["repository"], {} if folder is None else {"subfolder": folder}


def _missing(text: str, error: Exception) -> str:
    if any(type(cause).__name__ in UNREACHED for cause in _causes(error)):
        error = OSError("it cannot be reached")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = (lines or [type(error).__name__])[0][:200]
    if Path(text).is_dir():
        return f"{text}: its autoencoder cannot be read ({reason})"
    return (
        f"autoencoder {text}: there is no such folder here, and the Hugging Face hub did not provide it ({reason}). "
        "Without internet, download it elsewhere (huggingface-cli download) and give its folder"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def weights_checksum(module: nn.Module) -> str:
    """Return the SHA-256 of the names and float32 values of weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
