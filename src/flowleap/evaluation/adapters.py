"""Networks as features: any module, or a timm model such as DINOv2."""

from __future__ import annotations

import copy
import difflib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, float32, nn
from torch.nn import functional

from flowleap import files
from flowleap.evaluation.features import Features
from flowleap.suggest import suggest

POPULAR = ("vit_small_patch14_dinov2.lvd142m", "vit_base_patch14_dinov2.lvd142m", "resnet50.a1_in1k")


def of_module(
    module: nn.Module,
    name: str,
    size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    device: torch.device | str | None = None,
    channels: int | None = 3,
    filter: str = "bicubic",
    batch: int = 64,
) -> Features:
    """Return the output of a network as features; the network is copied, and in evaluation mode.

    Images in [-1, 1] become u = (x + 1)/2, resized with antialiasing, then (u − mean)/std.

    Args:
        name: in the names of distances.
        size: (height, width) or the side of a square; None leaves images as they are.
        mean, std: for each channel or one for all; None leaves images in [0, 1].
        channels: of its input; grey images are repeated to that many. None takes images as they are.
        filter: bicubic or bilinear.

    Shapes: the module takes (n, channels, height, width) and returns (n, d) or, to be averaged over positions,
        (n, d, height, width).
    Raises: ValueError when features are asked for and the module returns something else.
    """
    where = torch.device(device or "cpu")
    network = copy.deepcopy(module).eval().requires_grad_(False).to(where)
    shape = (size, size) if isinstance(size, int) else size
    center = torch.tensor(0.0 if mean is None else mean, device=where).view(1, -1, 1, 1)
    scale = torch.tensor(1.0 if std is None else std, device=where).view(1, -1, 1, 1)

    def extract(samples: Tensor) -> Tensor:
        images = (samples.to(where, float32) + 1) / 2
        if channels is not None and images.shape[1] != channels:
            if images.shape[1] != 1:
                raise ValueError(
                    f"{name} features take {channels} channels, these images have {images.shape[1]}"
                )
            images = images.expand(-1, channels, -1, -1)
        if shape is not None and tuple(images.shape[2:]) != shape:
            images = functional.interpolate(images, shape, mode=filter, antialias=True).clamp(0, 1)
        return pooled(network((images - center) / scale), name)

    settings = f"{shape} {mean} {std} {filter}"
    return Features(
        name, extract, fingerprint(network, settings), (None, None, None), (-1.0, 1.0), batch=batch
    )


def pooled(made: Any, name: str) -> Tensor:
    """Return one row per image: (n, d) as it is, (n, d, height, width) averaged; raises ValueError otherwise."""
    if isinstance(made, Tensor) and made.ndim == 4:
        return made.mean((2, 3))
    if isinstance(made, Tensor) and made.ndim == 2:
        return made
    found = f"a tensor of shape {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
    raise ValueError(
        f"the network of {name} features returns {found}: wrap it so that it returns (n, d) or (n, d, height, width)"
    )


def fingerprint(module: nn.Module, settings: str = "") -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 of the weights of a module and of its settings."""
    digest = hashlib.sha256(settings.encode())
    for name, value in sorted(module.state_dict().items()):
        held = value.detach().cpu().contiguous()
        digest.update(f"{name} {held.dtype} {tuple(held.shape)}".encode())
        digest.update(held.flatten().view(torch.uint8).numpy().tobytes() if held.numel() else b"")
    return digest.hexdigest()[:12]


def timm_features(
    model: str,
    pretrained: bool = True,
    weights: Path | str | None = None,
    device: torch.device | str | None = None,
) -> Features:
    """Return the pooled features of a timm model, with the image size, mean and standard deviation of its training.

    The whole image is resized, not cropped. A DINOv2 model is named "dinov2-…", others as in timm, without weights
    "…-untrained".

    Args:
        weights: a file (.safetensors, or a torch file of tensors) in place of the published weights.

    Raises: ValueError without timm, for unknown models, and for weights that cannot be fetched or do not fit.
    """
    try:
        import timm
    except ImportError:
        raise ValueError(f"timm:{model} needs timm: pip install 'flowleap[timm]'") from None
    if not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models(), n=5) or list(POPULAR)
        raise ValueError(f"timm has no model {model!r}{suggest(model, near)}")
    try:
        network = timm.create_model(model, pretrained=pretrained and weights is None, num_classes=0)
    except Exception as error:  # of timm, of the hub, of the network
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"the weights of timm:{model} could not be fetched ({reason}): fetch them where there is a network and "
            "give the file, or choose other features, such as --features pixel"
        ) from None
    if weights is not None:
        load_weights(network, Path(weights))
    data = timm.data.resolve_model_data_config(network)
    filter = "bilinear" if data["interpolation"] == "bilinear" else "bicubic"
    channels, *size = data["input_size"]
    return of_module(
        network,
        named(model) + ("" if pretrained or weights is not None else "-untrained"),
        size=tuple(size),
        mean=data["mean"],
        std=data["std"],
        device=device,
        channels=channels,
        filter=filter,
    )


def named(model: str) -> str:
    """Return the name of the features of a timm model.

    >>> named("vit_small_patch14_dinov2.lvd142m"), named("resnet18.a1_in1k")
    ('dinov2-vit_small_patch14', 'resnet18.a1_in1k')
    """
    head = model.partition(".")[0]
    return "dinov2-" + head.replace("_dinov2", "") if "_dinov2" in head else model


def load_weights(network: nn.Module, path: Path) -> None:
    """Load the weights of a network from a file of tensors, without those of a classification head.

    Raises: OSError without a file; ValueError where they do not fit, or the file holds something else.
    """
    state = files.read_weights(path)
    head = getattr(network, "pretrained_cfg", {}).get("classifier") or "head"
    heads = (head,) if isinstance(head, str) else tuple(head)
    try:
        missing, surplus = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the model: {' '.join(str(error).split())[:200]}") from None
    surplus = [name for name in surplus if not name.startswith(tuple(f"{part}." for part in heads))]
    if missing or surplus:
        said = (
            f"{len(missing)} weights are missing, {len(surplus)} unknown, such as {(*missing, *surplus)[0]!r}"
        )
        raise ValueError(f"{path} does not fit the model: {said}")
