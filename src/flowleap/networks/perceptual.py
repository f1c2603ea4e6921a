"""Feature networks of the perceptual distance LPIPS: VGG16 and SqueezeNet 1.0 up to their last feature maps.

Their weights are read from a file that the user names; nothing is downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowleap.files import read_weights

Tensors = dict[str, Tensor]


def distance(a: Sequence[Tensor], b: Sequence[Tensor], weights: Sequence[Tensor] | None = None) -> Tensor:
    """Return Σ_l mean_hw Σ_c w_lc (â_lc − b̂_lc)² of two lists of feature maps, (batch,); w = 1 where none are given.

    â = a/‖a‖ over the channels of a place, and 0 where a = 0.

    Shapes: maps (batch, channels, height, width); weights (channels,).
    """
    total = torch.zeros((), dtype=a[0].dtype, device=a[0].device)
    for i, (one, other) in enumerate(zip(a, b, strict=True)):
        apart = (_unit(one) - _unit(other)).square()
        if weights is not None:
            apart = apart * weights[i].view(1, -1, 1, 1)
        total = total + apart.sum(1).mean((1, 2))
    return total


def _unit(x: Tensor) -> Tensor:
    squared = x.square().sum(1, keepdim=True)
    length = torch.where(squared > 0, squared, torch.ones_like(squared)).sqrt()  # no gradient of √0
    return x / (length + 1e-10)


class Features(nn.Module):
    """Base class: a network that returns feature maps of images in [−1, 1], with the `weights` of LPIPS.

    `least` is the smallest side of an image for which the last map is not empty.
    """

    channels: tuple[int, ...]
    least: int

    def __init__(self) -> None:
        super().__init__()
        for i, count in enumerate(self.channels):
            self.register_buffer(f"w{i}", torch.ones(count))

    @property
    def weights(self) -> list[Tensor]:
        """w of each map, (channels,)."""
        return [getattr(self, f"w{i}") for i in range(len(self.channels))]

    def translate(self, found: Tensors) -> Tensors:
        """Return the tensors of a file under the names of this network, without those it does not use."""
        raise NotImplementedError

    def wanted(self) -> str:
        """Return a description of the tensors that a file must hold."""
        raise NotImplementedError


class VGGFeatures(Features):
    """VGG16 up to the last activation of each of its five blocks.

    Shapes: (n, 3, height, width) in [−1, 1], at least 16 a side → 5 maps of 64, 128, 256, 512, 512 channels.
    Source: Simonyan and Zisserman's 16 layers as torchvision numbers them; the scale of the input is that of
        richzhang/PerceptualSimilarity, lpips/lpips.py: x − (−0.030, −0.088, −0.188) over (0.458, 0.448, 0.450).
    """

    channels = (64, 128, 256, 512, 512)
    least = 16
    blocks = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))

    def __init__(self) -> None:
        super().__init__()
        widths = [3]
        for count, block in zip(self.channels, self.blocks, strict=True):
            widths += [count] * len(block)
        numbers = [number for block in self.blocks for number in block]
        self.conv = nn.ModuleDict(
            {
                str(n): nn.Conv2d(i, o, 3, padding=1)
                for n, (i, o) in zip(numbers, pairwise(widths), strict=True)
            }
        )
        self.register_buffer(
            "shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False
        )
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)

    shift: Tensor
    scale: Tensor

    def forward(self, x: Tensor) -> list[Tensor]:
        x, maps = (x - self.shift) / self.scale, []
        for i, block in enumerate(self.blocks):
            x = functional.max_pool2d(x, 2) if i else x
            for number in block:
                x = functional.relu(self.conv[str(number)](x))
            maps.append(x)
        return maps

    def translate(self, found: Tensors) -> Tensors:
        translated = {}
        for name, tensor in found.items():
            if match := re.search(r"(?:^|\.)(?:features|slice\d)\.(\d+)\.(weight|bias)$", name):
                translated[f"conv.{match[1]}.{match[2]}"] = tensor
            elif match := re.search(r"(?:^|\.)lin(\d)\.model\.\d\.weight$", name):
                translated[f"w{match[1]}"] = tensor.flatten()
        return translated

    def wanted(self) -> str:
        return (
            "features.0.weight, features.0.bias … features.28.bias as torchvision's VGG16 has them (or "
            "net.slice1.0.weight … net.slice5.28.bias as LPIPS has), and lin0.model.1.weight … lin4.model.1.weight"
        )


class SqueezeFeatures(Features):
    """SqueezeNet 1.0 after its first convolution and after six of its fire modules.

    Shapes: (n, 3, height, width) in [−1, 1], at least 21 a side → 7 maps of 96, 256, 256, 384, 384, 512, 512 channels.
    Units: the network reads BGR in 0 … 255 less (104, 117, 123), as its weights in Caffe were trained.
    Source: forresti/SqueezeNet, SqueezeNet_v1.0: 7 × 7 / 2 convolution, then fire modules 2 to 9, max pooling of 3 / 2
        with ceil after conv1, fire4 and fire8. The maps are the counterparts of those that LPIPS takes of version 1.1.
    """

    channels = (96, 256, 256, 384, 384, 512, 512)
    least = 21
    squeezed = (16, 16, 32, 32, 48, 48, 64, 64)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.ModuleDict({"conv1": nn.Conv2d(3, 96, 7, stride=2)})
        width = 96
        for number, count in enumerate(self.squeezed, start=2):
            self.conv[f"fire{number}-1"] = nn.Conv2d(width, count, 1)
            self.conv[f"fire{number}-2"] = nn.Conv2d(count, 4 * count, 1)
            self.conv[f"fire{number}-3"] = nn.Conv2d(count, 4 * count, 3, padding=1)
            width = 8 * count
        self.register_buffer("mean", torch.tensor([104.0, 117.0, 123.0]).view(1, 3, 1, 1), persistent=False)

    mean: Tensor

    def forward(self, x: Tensor) -> list[Tensor]:
        x = functional.relu(self.conv["conv1"]((x.flip(1) + 1) * 127.5 - self.mean))
        maps = [x]
        for number in range(2, 10):
            if number in (2, 5, 9):
                x = functional.max_pool2d(x, 3, stride=2, ceil_mode=True)
            x = functional.relu(self.conv[f"fire{number}-1"](x))
            x = torch.cat([functional.relu(self.conv[f"fire{number}-{i}"](x)) for i in (2, 3)], dim=1)
            if number in (4, 5, 6, 7, 8, 9):
                maps.append(x)
        return maps

    def translate(self, found: Tensors) -> Tensors:
        translated = {}
        for name in found:
            match = re.fullmatch(r"(conv1|fire\d)(?:\.conv[13]x[13]_([12]))?\.(bias|weight|code)", name)
            if match is None:
                continue
            part = match[1] if match[2] is None else f"{match[1]}-{3 if 'conv3x3' in name else match[2]}"
            kind = "bias" if match[3] == "bias" else "weight"
            tensor = found[name]
            if match[3] == "code":  # each weight is a number of a book of 256
                tensor = found[f"{name.removesuffix('code')}codebook"][tensor.long()]
            translated[f"conv.{part}.{kind}"] = tensor
        return translated

    def wanted(self) -> str:
        return (
            "conv1.weight, conv1.bias, fire2.conv1x1_1.weight … fire9.conv3x3_2.bias (a weight may be a code with its "
            'codebook); LPIPS has no weights for this network, so linear="equal"'
        )


NETWORKS: dict[str, type[Features]] = {"vgg": VGGFeatures, "squeeze": SqueezeFeatures}
"""The networks by name."""


@lru_cache(maxsize=4)
def load(
    file: str, linear: str | None, net: str, device: torch.device, dtype: torch.dtype = torch.float32
) -> Features:
    """Return a network with frozen weights from a file; cached for each device and dtype.

    Args: as of `losses.Perceptual`.
    Raises: ValueError for tensors that are not those of the network; FileNotFoundError for a missing file.
    """
    with torch.device("meta"):
        network = NETWORKS[net]()
    places = [file] if linear in (None, "equal") else [file, str(linear)]
    found: Tensors = {}
    for place in places:
        found |= network.translate(read_weights(Path(place)))
    if linear == "equal":
        found |= {f"w{i}": torch.ones(count) for i, count in enumerate(network.channels)}
    expected = network.state_dict()
    missing = [name for name in expected if name not in found]
    wrong = [name for name in expected if name in found and found[name].shape != expected[name].shape]
    if missing or wrong:
        raise ValueError(_complaint(" and ".join(places), net, network, found, missing, wrong))
    network = NETWORKS[net]()
    network.load_state_dict({name: found[name].float() for name in expected})
    return network.to(device=device, dtype=dtype).eval().requires_grad_(False)


def _complaint(
    places: str, net: str, network: Features, found: Tensors, missing: list[str], wrong: list[str]
) -> str:
    """The error message for missing tensors or tensors of another shape."""
    if missing and all(re.fullmatch(r"w\d", name) for name in missing) and not wrong:
        return (
            f"{places}: holds the network but not the weights of LPIPS, "
            'lin0.model.1.weight, …: name a file that does as `linear`, or use linear="equal"'
        )
    lacks = f"lacks {', '.join(missing[:3])}{f' and {len(missing) - 3} more' if len(missing) > 3 else ''}"
    shapes = ", ".join(
        f"{name} is {tuple(found[name].shape)}, expected {tuple(network.state_dict()[name].shape)}"
        for name in wrong[:3]
    )
    problems = "; ".join(text for text in (lacks if missing else "", shapes) if text)
    return f"{places}: not the weights of net={net!r} ({problems}); expected are {network.wanted()}"
