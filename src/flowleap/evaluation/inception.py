"""Inception-v3 with the FID weights, and the preprocessing of four published protocols.

The network is torch-fidelity's. Protocols differ in how values in [-1, 1] become 8 bits (`truncated`, `rounded`,
`shifted`) and how 8-bit images become the 299 × 299 input of the network (`RESIZES`).
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import urllib.request
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, float32, nn, uint8
from torch.nn import functional

from flowleap.evaluation.features import Features
from flowleap.files import read_weights, replace_file
from flowleap.suggest import suggest

CHECKSUM = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
URLS = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
)
"""Addresses of the weights; both are the same file."""

VARIABLE = "FLOWLEAP_INCEPTION"
SIDE = 299
TIMEOUT = 20.0  # seconds
NUDGE = 1e-4  # more than float32 rounding of 127.5 (x + 1), far less than a grey level


def truncated(x: Tensor) -> Tensor:
    """Quantize by truncation: ⌊127.5 (x + 1)⌋; images of 8 bits come back as they were.

    Shapes: kept; uint8. Source: clamp(255 (x + 1)/2) to uint8 in EDAPINENUT/ExplicitShortCut, evaluate.py, and in
        openai/guided-diffusion, scripts/image_sample.py.
    """
    return (127.5 * (x + 1) + NUDGE).clamp(0, 255).to(uint8)


def rounded(x: Tensor) -> Tensor:
    """Quantize by rounding: round(127.5 (x + 1)), the inverse of x = u / 127.5 − 1.

    Shapes: kept; uint8.
    """
    return (127.5 * (x + 1)).round().clamp(0, 255).to(uint8)


def shifted(x: Tensor) -> Tensor:
    """Quantize as in EDM: ⌊127.5 x + 128⌋.

    Shapes: kept; uint8. Source: NVlabs/edm, generate.py.
    """
    return (127.5 * x + 128).clamp(0, 255).to(uint8)


def tensorflow(pixels: Tensor) -> Tensor:
    """Resize as the graph of 2015 does inside the network: bilinear, corner to corner, without antialiasing.

    Shapes: uint8 (n, 3, height, width) -> (n, 3, 299, 299). Units: -> (value − 128) / 128.
    Source: torch-fidelity 0.4, feature_extractor_inceptionv3.py and interpolate_compat_tensorflow.py.
    """
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    large = interpolate_bilinear_2d_like_tensorflow1x(
        pixels.to(float32), size=(SIDE, SIDE), align_corners=False
    )
    return (large - 128) / 128


def adm(x: Tensor) -> Tensor:
    """ADM, DiT, SiT, ESC: truncated to 8 bits, resized inside the network.

    Shapes: (n, 3, height, width) in [-1, 1] -> (n, 3, 299, 299).
    Source: openai/guided-diffusion, evaluations/evaluator.py; EDAPINENUT/ExplicitShortCut, evaluate.py.
    """
    return tensorflow(truncated(x))


def edm(x: Tensor) -> Tensor:
    """EDM: 127.5 x + 128 truncated to 8 bits, resized inside the network.

    Shapes: (n, 3, height, width) in [-1, 1] -> (n, 3, 299, 299). Source: NVlabs/edm, generate.py and fid.py.
    """
    return tensorflow(shifted(x))


def pytorch_fid(x: Tensor) -> Tensor:
    """pytorch-fid: 8-bit files, bilinear between pixel centers without antialiasing, u / 255 to 2 u / 255 − 1.

    Shapes: (n, 3, height, width) in [-1, 1] -> (n, 3, 299, 299).
    Source: mseitzer/pytorch-fid, src/pytorch_fid/inception.py and fid_score.py.
    """
    pixels = rounded(x).to(float32) / 255
    return 2 * functional.interpolate(pixels, size=(SIDE, SIDE), mode="bilinear", align_corners=False) - 1


def clean(x: Tensor) -> Tensor:
    """clean-fid: 8-bit files, Pillow's antialiased bicubic for each channel in float32, clipped, not rounded again.

    Shapes: (n, 3, height, width) in [-1, 1] -> (n, 3, 299, 299). Units: -> (value − 128) / 128.
    Source: Parmar, Zhang and Zhu 2022 (arXiv 2104.11222); GaParmar/clean-fid, cleanfid/resize.py, make_resizer("PIL",
        False, "bicubic", (299, 299)), and cleanfid/inception_torchscript.py.
    """
    from PIL import Image

    def resized(channel: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(channel).resize((SIDE, SIDE), resample=Image.Resampling.BICUBIC))

    planes = rounded(x).to(float32).cpu().flatten(0, 1).numpy()
    large = np.stack([resized(plane) for plane in planes]).clip(0, 255)
    return (torch.from_numpy(large).view(*x.shape[:2], SIDE, SIDE).to(x.device) - 128) / 128


RESIZES: dict[str, Callable[[Tensor], Tensor]] = {
    "adm": adm,
    "pytorch-fid": pytorch_fid,
    "clean": clean,
    "edm": edm,
}


def load(
    resize: str = "adm",
    weights: Path | str | None = None,
    device: torch.device | str | None = None,
    unverified: bool = False,
) -> Features:
    """Return the 2,048 features of Inception-v3 and its logits without bias, by one of four ways of resizing.

    The weights are those of `weights`, of the file that FLOWLEAP_INCEPTION names, or of torch hub's cache, into which
    they are fetched. Distances are called FID only over the published weights.

    Args:
        resize: adm, pytorch-fid, clean or edm.
        unverified: accept weights of another checksum; the features are then named after it.

    Raises: ValueError for an unknown `resize`, without torch-fidelity, without weights, or where their checksum or
        layout is not the expected one.
    """
    if resize not in RESIZES:
        raise ValueError(f"unknown resize {resize!r} of Inception{suggest(resize, RESIZES)}")
    path = Path(weights) if weights is not None else find()
    found = checksum(path)
    fid = found == CHECKSUM
    if not fid and not unverified:
        raise ValueError(
            f"{path} has the SHA-256 {found[:8]}…, and the FID weights have {CHECKSUM[:8]}…: remove that file, and "
            f"fetch {URLS[0]} again"
        )
    where = torch.device(device or "cpu")
    trunk, last = network(path)
    trunk, last = trunk.to(where), last.to(where)

    def extract(samples: Tensor) -> tuple[Tensor, Tensor]:
        rows = trunk(RESIZES[resize](colored(samples.to(where, float32)))).flatten(1)
        return rows, rows.mm(last.T)

    name = f"inception:{resize}" if fid else f"inception@{found[:8]}"
    return Features(
        name,
        extract,
        checksum=f"{found[:12]}-{resize}",
        shape=(None, None, None),
        bounds=(-1.0, 1.0),
        batch=50,
        fid=fid,
        dims=2048,
    )


def colored(samples: Tensor) -> Tensor:
    """Return grey images as RGB images with equal channels.

    Shapes: (n, 1 or 3, height, width) -> (n, 3, height, width). Raises: ValueError for other channels.
    """
    if samples.shape[1] not in (1, 3):
        raise ValueError(f"Inception takes grey or RGB images, these have {samples.shape[1]} channels")
    return samples.expand(-1, 3, -1, -1)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find() -> Path:
    """Return the file of the FID weights: named by FLOWLEAP_INCEPTION, cached by torch hub, or fetched into that cache.

    Raises: ValueError where there is none and it cannot be fetched.
    """
    named = os.environ.get(VARIABLE)
    if named:
        if not Path(named).is_file():
            raise ValueError(f"{VARIABLE} names {named}, which is no file")
        return Path(named)
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    known = [cache / url.rpartition("/")[2] for url in URLS]
    for path in known:
        if path.is_file():
            return path
    return _fetched(known[0])


def _fetched(path: Path) -> Path:
    """Fetch the weights into a file, from the first address that answers; raises ValueError where none does."""
    reason: object = ""
    for url in URLS:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
                warnings.warn(f"fetching the FID weights (96 MB) from {url} to {path}", stacklevel=2)
                path.parent.mkdir(parents=True, exist_ok=True)
                replace_file(path, lambda part, answer=answer: _copy(answer, part))  # type: ignore[misc]
            return path
        except OSError as error:
            reason = error
    raise ValueError(
        f"the FID weights are not on this machine and could not be fetched ({reason}): put {URLS[0]} at {path}, or "
        f"anywhere and set {VARIABLE} to its path; or choose other features, such as --features pixel, digits, mnist, "
        "cifar10-jpeg75 or timm:MODEL"
    )


def _copy(answer: Any, path: Path) -> None:
    with path.open("wb") as file:
        shutil.copyfileobj(answer, file)
    if checksum(path) != CHECKSUM:
        raise OSError(f"{answer.url} sent something else")


def network(weights: Path) -> tuple[nn.Sequential, Tensor]:
    """Return torch-fidelity's Inception-v3 up to the pooled features, and the matrix of its logits.

    The file is read as tensors only; torch-fidelity, which would unpickle anything, gets a copy in memory.

    Shapes: ((n, 3, 299, 299) -> (n, 2048, 1, 1)), (1008, 2048).
    Raises: ValueError without torch-fidelity, and for files that hold other tensors or something else.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise ValueError(
            "Inception features need torch-fidelity: pip install 'flowleap[fid]', or choose other features, "
            "such as --features pixel"
        ) from None
    held = io.BytesIO()
    torch.save(dict(read_weights(weights)), held)
    held.seek(0)
    try:
        with torch.random.fork_rng(devices=[]):  # building layers draws numbers
            whole = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=held)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{weights} holds other weights than torch-fidelity's Inception: {reason}…"
        ) from None
    layers = dict(whole.named_children())
    last = layers.pop("fc")
    return nn.Sequential(*layers.values()), last.weight
