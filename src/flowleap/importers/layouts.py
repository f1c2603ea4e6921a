"""Recognize published networks by the names and shapes of their tensors, and convert their parameters to our DiT.

| layout   | code                        | conditioned on                        | output                     |
|----------|-----------------------------|---------------------------------------|----------------------------|
| esc      | EDAPINENUT/ExplicitShortCut | t, t - r, label; t = 1 is noise       | average velocity           |
| sit      | willisma/SiT                | t, label; t = 1 is data               | velocity, data minus noise |
| dit      | facebookresearch/DiT        | timestep 0 … 999, label               | noise                      |
| shortcut | kvfrans/shortcut-models     | t, log2(1/d), label; t = 1 is data    | velocity, data minus noise |

SiT and DiT have the same names and shapes, so a file alone cannot tell them apart.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from flowleap import networks
from flowleap.importers.files import Contents
from flowleap.networks import DiT

Layout = Literal["esc", "sit", "dit", "shortcut"]
LAYOUTS: tuple[str, ...] = get_args(Layout)

TORCH, FLAX = "x_embedder.proj.weight", "PatchEmbed_0/Conv_0/kernel"
"""The tensors that identify a set of parameters in a file."""
NAMES = {"ema": "ema", "params_ema": "ema", "model": "raw", "params": "raw"}
IGNORED = ("model_tgt",)
WAVES = 256
HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
"""Heads by width, in the sizes S, B, L and XL of Peebles and Xie 2022 (arXiv 2212.09748), table 1."""
LATENT_CHANNELS, LATENT_SIDE = 4, 32
TRAINING_ONLY = ("logvar_linear.weight", "logvar_linear.bias", "Embed_0/embedding")
"""Parameters for a learned weight of the loss, which sampling does not need."""

Named = dict[str, Tensor]


@dataclass(frozen=True)
class Geometry:
    """The sizes of a network; `outputs` are its output channels, twice the inputs with a learned sigma."""

    channels: int
    side: int
    patch: int
    width: int
    depth: int
    heads: int
    hidden: int
    outputs: int
    classes: int | None
    positions: bool

    def network(self, classes: int | None) -> DiT:
        """Return our network of these sizes on the meta device."""
        made: DiT = networks.build_on_meta(
            {
                "kind": "DiT",
                "image": (self.channels, self.side, self.side),
                "classes": classes,
                "patch": self.patch,
                "width": self.width,
                "depth": self.depth,
                "heads": self.heads,
                "mlp_ratio": self.hidden / self.width,
            }
        )
        return made


def sets_of(contents: Contents) -> dict[str, Named]:
    """Return the sets of parameters in a file: "ema", "raw", or "" if the file does not say.

    Raises: ValueError if there is none, or several of one kind.
    """
    tensors = contents.tensors
    if not any(name.endswith(FLAX) for name in tensors):
        tensors = {_slashed(name): tensor for name, tensor in tensors.items()}
    prefixes = [
        name.removesuffix(anchor) for name in tensors for anchor in (TORCH, FLAX) if name.endswith(anchor)
    ]
    found: dict[str, Named] = {}
    for prefix in prefixes:
        parts = [part for part in re.split(r"[/.]", prefix) if part]
        if any(part in IGNORED for part in parts):
            continue
        kind = next((NAMES[part] for part in parts if part in NAMES), "")
        if kind in found:
            raise ValueError(f"{contents.path} holds several sets of {kind or 'unnamed'} weights")
        found[kind] = {
            name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)
        }
    if not found:
        some = ", ".join(list(contents.tensors)[:3])
        raise ValueError(
            f"{contents.path} holds no network of a known layout ({', '.join(LAYOUTS)}): there is no {TORCH} and no "
            f"{FLAX}; its tensors are {some}, …"
        )
    return found


def _slashed(name: str) -> str:
    """Return a name of Flax with slashes, if a file joined it by dots."""
    return name.replace(".", "/") if FLAX.partition("/")[0] in name or re.search(r"_\d+\.", name) else name


def layout_of(named: Mapping[str, Tensor], asked: str = "auto") -> Layout:
    """Return the layout of a set of parameters.

    Raises: ValueError if it is ambiguous, or not the one asked for.
    """
    if asked not in ("auto", *LAYOUTS):
        raise ValueError(f"layout={asked!r}: expected auto, {', '.join(LAYOUTS)}")
    if FLAX in named:
        possible: tuple[Layout, ...] = ("shortcut",)
    elif any(name.startswith("r_embedder.") for name in named):
        possible = ("esc",)
    else:
        possible = ("sit", "dit")
    if asked == "auto" and len(possible) > 1:
        raise ValueError(
            "SiT and DiT have the same tensors, and this file is one of them: say which, --layout sit (velocity) or "
            "--layout dit (noise of a diffusion)"
        )
    for layout in possible:
        if asked in ("auto", layout):
            return layout
    raise ValueError(f"the tensors are those of {' or '.join(possible)}, not of {asked}: leave --layout out")


def geometry(
    named: Mapping[str, Tensor], layout: Layout, heads: int | None = None, side: int | None = None
) -> Geometry:
    """Return the sizes of a network from the shapes of its tensors.

    Args:
        heads: of the attention, which does not follow from shapes; None for those published with this width.
        side: height and width of the input; None for those of the position embedding, or of published latents.

    Raises: ValueError for tensors that are missing or of another rank, and for sizes that do not follow from shapes.
    """
    flax = layout == "shortcut"
    if flax:
        patch, _, channels, width = _shape(named, FLAX, 4)
        hidden = _shape(named, "DiTBlock_0/MlpBlock_0/Dense_0/kernel", 2)[1]
        last = _shape(named, "FinalLayer_0/Dense_1/kernel", 2)[1]
        table, block = "LabelEmbedder_0/Embed_0/embedding", r"DiTBlock_(\d+)/"
    else:
        width, channels, patch, _ = _shape(named, TORCH, 4)
        hidden = _shape(named, "blocks.0.mlp.fc1.weight", 2)[0]
        last = _shape(named, "final_layer.linear.weight", 2)[0]
        table, block = "y_embedder.embedding_table.weight", r"blocks\.(\d+)\."
    found = [re.match(block, name) for name in named]
    heads = heads or HEADS.get(width)
    if heads is None:
        raise ValueError(
            f"the number of attention heads cannot be read from the tensors, and no published network is {width} wide: "
            "give --heads N"
        )
    if width % heads or width % 4 or hidden % width:
        raise ValueError(
            f"a network {width} wide with {heads} heads and {hidden} in its MLP cannot be represented: the width is a "
            "multiple of 4 and of the heads, the MLP one of the width"
        )
    return Geometry(
        channels=channels,
        side=_side(named, channels, patch, side),
        patch=patch,
        width=width,
        depth=1 + max(int(match[1]) for match in found if match),
        heads=heads,
        hidden=hidden,
        outputs=last // patch**2,
        classes=_shape(named, table, 2)[0] - 1 if table in named else None,
        positions="pos_embed" in named,
    )


def _shape(named: Mapping[str, Tensor], name: str, rank: int) -> tuple[int, ...]:
    if name not in named:
        raise ValueError(f"the file lacks {name}")
    shape = tuple(named[name].shape)
    if len(shape) != rank:
        raise ValueError(f"{name} has {len(shape)} dimensions, {shape}; {rank} are expected")
    return shape


def _side(named: Mapping[str, Tensor], channels: int, patch: int, side: int | None) -> int:
    """Return the height and width of the input."""
    if "pos_embed" in named:
        tokens = _shape(named, "pos_embed", 3)[1]
        root = math.isqrt(tokens)
        if root**2 != tokens:
            raise ValueError(
                f"pos_embed is for {tokens} tokens, which are no square, and only squares are known"
            )
        if side not in (None, root * patch):
            raise ValueError(
                f"pos_embed is for images of {root * patch} x {root * patch}, not of {side} x {side}: leave "
                "--image-size out"
            )
        return root * patch
    if side is None and channels != LATENT_CHANNELS:
        raise ValueError("the size of the images cannot be read from the tensors: give --image-size N")
    found = side or LATENT_SIDE
    if found % patch:
        raise ValueError(
            f"images of {found} x {found} do not split into patches of {patch} x {patch}: give another --image-size"
        )
    return found


def shapes(layout: Layout, g: Geometry) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of all parameters of a layout that sampling needs."""
    return _flax_shapes(g) if layout == "shortcut" else _torch_shapes(layout, g)


def _torch_shapes(layout: Layout, g: Geometry) -> dict[str, tuple[int, ...]]:
    found = {name: tuple(tensor.shape) for name, tensor in g.network(g.classes).state_dict().items()}
    if not g.positions:
        del found["pos_embed"]
    outputs = g.outputs * g.patch**2
    found |= {"final_layer.linear.weight": (outputs, g.width), "final_layer.linear.bias": (outputs,)}
    return {name: s for name, s in found.items() if layout == "esc" or not name.startswith("r_embedder.")}


def _flax_shapes(g: Geometry) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {FLAX: (g.patch, g.patch, g.channels, g.width)}
    found["PatchEmbed_0/Conv_0/bias"] = (g.width,)
    if g.classes is not None:
        found["LabelEmbedder_0/Embed_0/embedding"] = (g.classes + 1, g.width)
    for _, name, inputs, outputs in _dense(g):
        found |= {f"{name}/kernel": (inputs, outputs), f"{name}/bias": (outputs,)}
    return found


def _dense(g: Geometry) -> Iterable[tuple[str, str, int, int]]:
    """Yield our name, that of Flax, inputs and outputs of every linear layer, of queries, keys and values each."""
    for ours, theirs in (("t_embedder", "TimestepEmbedder_0"), ("r_embedder", "TimestepEmbedder_1")):
        yield f"{ours}.mlp.0", f"{theirs}/Dense_0", WAVES, g.width
        yield f"{ours}.mlp.2", f"{theirs}/Dense_1", g.width, g.width
    for i in range(g.depth):
        ours, theirs = f"blocks.{i}", f"DiTBlock_{i}"
        yield f"{ours}.adaLN_modulation.1", f"{theirs}/Dense_0", g.width, 6 * g.width
        yield f"{ours}.k", f"{theirs}/Dense_1", g.width, g.width
        yield f"{ours}.q", f"{theirs}/Dense_2", g.width, g.width
        yield f"{ours}.v", f"{theirs}/Dense_3", g.width, g.width
        yield f"{ours}.attn.proj", f"{theirs}/Dense_4", g.width, g.width
        yield f"{ours}.mlp.fc1", f"{theirs}/MlpBlock_0/Dense_0", g.width, g.hidden
        yield f"{ours}.mlp.fc2", f"{theirs}/MlpBlock_0/Dense_1", g.hidden, g.width
    yield "final_layer.adaLN_modulation.1", "FinalLayer_0/Dense_0", g.width, 2 * g.width
    yield "final_layer.linear", "FinalLayer_0/Dense_1", g.width, g.outputs * g.patch**2


def compare(named: Mapping[str, Tensor], layout: Layout, g: Geometry) -> None:
    """Raise ValueError for parameters that are missing, unknown, of another shape, or not representable here."""
    expected = shapes(layout, g)
    if any(".q_norm." in name for name in named):
        raise ValueError(
            "its attention has q_norm and k_norm, LayerNorms with a bias: the DiT here has none but RMSNorm"
        )
    if g.outputs not in (g.channels, 2 * g.channels):
        raise ValueError(
            f"it takes {g.channels} channels and gives {g.outputs}: as many, or twice that with a learned sigma, are "
            "expected"
        )
    if layout in ("esc", "shortcut") and g.outputs != g.channels:
        raise ValueError(f"it gives {g.outputs} channels for {g.channels}, and {layout} has no learned sigma")
    missing = [name for name in expected if name not in named]
    unknown = [name for name in named if name not in expected and name not in TRAINING_ONLY]
    wrong = [
        f"{name} is {tuple(named[name].shape)}, expected {shape}"
        for name, shape in expected.items()
        if name in named and tuple(named[name].shape) != shape
    ]
    complaints = [
        f"{title} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for title, names in (("lacks", missing), ("has unknown", unknown), ("differs:", wrong))
        if names
    ]
    if complaints:
        raise ValueError(f"not the parameters of {layout}; the file {'; it '.join(complaints)}")


def parameters(named: Mapping[str, Tensor], layout: Layout, g: Geometry, labels: bool = True) -> Named:
    """Return the parameters of our DiT, in float32, that computes what the network of a layout does.

    Channels of a learned sigma are dropped. Without a second time its embedding is zero. If the attention divides by
    the head size d instead of √d, the queries are divided by √d here. With labels=False the null class becomes part of
    the embedding of t, c = t_embedder(t) + table[-1] + …

    Raises: ValueError for parameters that do not fit the layout.
    """
    compare(named, layout, g)
    whole = {name: tensor.float() for name, tensor in named.items() if name not in TRAINING_ONLY}
    found = _from_flax(whole, g) if layout == "shortcut" else whole
    if layout in ("sit", "dit"):
        times = {name: tensor for name, tensor in found.items() if name.startswith("t_embedder.")}
        found |= {f"r{name[1:]}": torch.zeros_like(tensor) for name, tensor in times.items()}
    for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
        kept = found[name].unflatten(0, (g.patch**2, g.outputs))[:, : g.channels]
        found[name] = kept.flatten(0, 1)
    if not labels and g.classes is not None:
        table = found.pop("y_embedder.embedding_table.weight")
        found["t_embedder.mlp.2.bias"] = found["t_embedder.mlp.2.bias"] + table[-1]
    return found


def _from_flax(named: Named, g: Geometry) -> Named:
    """Return parameters of Flax under our names: kernels transposed, queries, keys and values concatenated."""
    found = {
        TORCH: named[FLAX].permute(3, 2, 0, 1),
        "x_embedder.proj.bias": named["PatchEmbed_0/Conv_0/bias"],
    }
    for ours, theirs, _, _ in _dense(g):
        found |= {f"{ours}.weight": named[f"{theirs}/kernel"].T, f"{ours}.bias": named[f"{theirs}/bias"]}
    for block in (f"blocks.{i}" for i in range(g.depth)):
        for part in ("weight", "bias"):
            q, k, v = (found.pop(f"{block}.{name}.{part}") for name in "qkv")
            found[f"{block}.attn.qkv.{part}"] = torch.cat([q / math.sqrt(g.width // g.heads), k, v])
    if g.classes is not None:
        found["y_embedder.embedding_table.weight"] = named["LabelEmbedder_0/Embed_0/embedding"]
    return found
