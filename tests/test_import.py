"""Published weights as runs: every layout against its definition, written out here parameter by parameter."""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
import sys
import types
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from flowleap import importers, networks, runs
from flowleap.cli import app
from flowleap.importers import hub, layouts
from flowleap.networks import DiT, Reversed, Timestep
from flowleap.training.checkpoint import CheckpointError

WIDTH, DEPTH, HEADS, PATCH, CLASSES, SIDE = 32, 2, 4, 2, 3, 8
TOKENS = (SIDE // PATCH) ** 2
HIDDEN = 4 * WIDTH


# ------------------------------------------------------------------ files, as the published code writes them


def torch_shapes(
    *, second: bool, channels: int = 4, out: int = 4, width: int = WIDTH, depth: int = DEPTH,
    patch: int = PATCH, tokens: int = TOKENS, classes: int = CLASSES,
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Names and shapes of SiT and DiT, as a training script saves them; with `second`, of ExplicitShortCut."""
    found: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, tokens, width),
        "x_embedder.proj.weight": (width, channels, patch, patch),
        "x_embedder.proj.bias": (width,),
        "y_embedder.embedding_table.weight": (classes + 1, width),
        "final_layer.linear.weight": (patch * patch * out, width),
        "final_layer.linear.bias": (patch * patch * out,),
        "final_layer.adaLN_modulation.1.weight": (2 * width, width),
        "final_layer.adaLN_modulation.1.bias": (2 * width,),
    }
    for time in ["t_embedder", "r_embedder"] if second else ["t_embedder"]:
        found[f"{time}.mlp.0.weight"], found[f"{time}.mlp.0.bias"] = (width, 256), (width,)
        found[f"{time}.mlp.2.weight"], found[f"{time}.mlp.2.bias"] = (width, width), (width,)
    for i in range(depth):
        for name, rows, columns in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", 4 * width, width),
            ("mlp.fc2", width, 4 * width),
            ("adaLN_modulation.1", 6 * width, width),
        ):
            found[f"blocks.{i}.{name}.weight"], found[f"blocks.{i}.{name}.bias"] = (rows, columns), (rows,)
    return found


def flax_shapes(
    *, channels: int = 4, width: int = WIDTH, depth: int = DEPTH, patch: int = PATCH, classes: int = CLASSES
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the DiT of shortcut-models, as Flax numbers its modules."""
    found: dict[str, tuple[int, ...]] = {
        "PatchEmbed_0/Conv_0/kernel": (patch, patch, channels, width),
        "PatchEmbed_0/Conv_0/bias": (width,),
        "LabelEmbedder_0/Embed_0/embedding": (classes + 1, width),
        "Embed_0/embedding": (256, 1),
    }
    dense = {
        "FinalLayer_0/Dense_0": (width, 2 * width),
        "FinalLayer_0/Dense_1": (width, patch * patch * channels),
    }
    for i in (0, 1):
        dense[f"TimestepEmbedder_{i}/Dense_0"] = (256, width)
        dense[f"TimestepEmbedder_{i}/Dense_1"] = (width, width)
    for i in range(depth):
        dense[f"DiTBlock_{i}/Dense_0"] = (width, 6 * width)
        for j in (1, 2, 3, 4):
            dense[f"DiTBlock_{i}/Dense_{j}"] = (width, width)
        dense[f"DiTBlock_{i}/MlpBlock_0/Dense_0"] = (width, 4 * width)
        dense[f"DiTBlock_{i}/MlpBlock_0/Dense_1"] = (4 * width, width)
    for name, shape in dense.items():
        found[f"{name}/kernel"], found[f"{name}/bias"] = shape, shape[1:]
    return found


def filled(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Random values of the size that trained ones have, positions as they are."""
    g = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes.items():
        fan = 1 if len(shape) == 1 else shape[0] if "kernel" in name else math.prod(shape[1:])
        spread = 0.3 if len(shape) == 1 else 1.5 / math.sqrt(fan)
        found[name] = torch.randn(shape, generator=g) * spread
    if "pos_embed" in shapes:
        found["pos_embed"] = positions(math.isqrt(shapes["pos_embed"][1]), shapes["pos_embed"][2]).float()[
            None
        ]
    return found


def positions(side: int, width: int) -> Tensor:
    """Positions by their definition: a token's column, then its row; sines, then cosines."""
    rows = []
    for row in range(side):
        for column in range(side):
            values = []
            for place in (column, row):
                angles = [place / 10000 ** (k / (width / 4)) for k in range(width // 4)]
                values += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            rows.append(values)
    return torch.tensor(rows, dtype=torch.float64)


# ------------------------------------------------------------------ the networks by their definition, in float64


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def normed(x: Tensor) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    return centered / (centered.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def waves(time: Tensor) -> Tensor:
    angles = [time * math.exp(-math.log(10000) * k / 128) for k in range(128)]
    return torch.stack([torch.cos(a) for a in angles] + [torch.sin(a) for a in angles], dim=1)


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(scale · q kᵀ) v, one head after the other."""
    size, heads = WIDTH // HEADS, []
    for h in range(HEADS):
        part = slice(h * size, (h + 1) * size)
        weight = torch.softmax(scale * (q[..., part] @ k[..., part].transpose(1, 2)), dim=-1)
        heads.append(weight @ v[..., part])
    return torch.cat(heads, dim=-1)


def unpatched(tokens: Tensor, out: int) -> Tensor:
    """Tokens of (p, q, channel), row by row → images."""
    n = SIDE // PATCH
    x = torch.zeros(len(tokens), out, SIDE, SIDE, dtype=tokens.dtype)
    for index in range(n * n):
        row, column = divmod(index, n)
        patch = tokens[:, index].reshape(-1, PATCH, PATCH, out)
        for p in range(PATCH):
            for q in range(PATCH):
                x[:, :, row * PATCH + p, column * PATCH + q] = patch[:, p, q]
    return x


def defined_torch(
    named: dict[str, Tensor], x: Tensor, time: Tensor, span: Tensor | None, label: Tensor
) -> Tensor:
    """SiT and DiT by their definition, with an embedding of the span where there is one; all channels."""
    w = {name: tensor.double() for name, tensor in named.items()}

    def linear(name: str, h: Tensor) -> Tensor:
        return h @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    h = torch.nn.functional.conv2d(x, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=PATCH)
    h = h.flatten(2).transpose(1, 2) + w["pos_embed"]
    c = linear("t_embedder.mlp.2", silu(linear("t_embedder.mlp.0", waves(time))))
    if span is not None:
        c = c + linear("r_embedder.mlp.2", silu(linear("r_embedder.mlp.0", waves(span))))
    c = c + w["y_embedder.embedding_table.weight"][label]
    for i in range(DEPTH):
        m = linear(f"blocks.{i}.adaLN_modulation.1", silu(c))[:, None].split(WIDTH, dim=2)
        q, k, v = linear(f"blocks.{i}.attn.qkv", normed(h) * (1 + m[1]) + m[0]).split(WIDTH, dim=2)
        mixed = attention(q, k, v, 1 / math.sqrt(WIDTH // HEADS))
        h = h + m[2] * linear(f"blocks.{i}.attn.proj", mixed)
        inner = gelu(linear(f"blocks.{i}.mlp.fc1", normed(h) * (1 + m[4]) + m[3]))
        h = h + m[5] * linear(f"blocks.{i}.mlp.fc2", inner)
    shift, scale = linear("final_layer.adaLN_modulation.1", silu(c))[:, None].split(WIDTH, dim=2)
    tokens = linear("final_layer.linear", normed(h) * (1 + scale) + shift)
    return unpatched(tokens, tokens.shape[2] // PATCH**2)


def defined_flax(named: dict[str, Tensor], x: Tensor, time: Tensor, b: Tensor, label: Tensor) -> Tensor:
    """The DiT of shortcut-models by its definition: q, k and v apart, logits over the size of a head."""
    w = {name: tensor.double() for name, tensor in named.items()}

    def dense(name: str, h: Tensor) -> Tensor:
        return h @ w[f"{name}/kernel"] + w[f"{name}/bias"]

    n, kernel, rows = SIDE // PATCH, w["PatchEmbed_0/Conv_0/kernel"], []
    for index in range(n * n):
        r, s = (PATCH * place for place in divmod(index, n))
        patch = x[:, :, r : r + PATCH, s : s + PATCH]
        rows.append(torch.einsum("bcpq,pqcw->bw", patch, kernel) + w["PatchEmbed_0/Conv_0/bias"])
    h = torch.stack(rows, dim=1) + positions(n, WIDTH)
    c = w["LabelEmbedder_0/Embed_0/embedding"][label]
    for i, said in enumerate((time, b)):
        c = c + dense(
            f"TimestepEmbedder_{i}/Dense_1", silu(dense(f"TimestepEmbedder_{i}/Dense_0", waves(said)))
        )
    for i in range(DEPTH):
        block = f"DiTBlock_{i}"
        m = dense(f"{block}/Dense_0", silu(c))[:, None].split(WIDTH, dim=2)
        y = normed(h) * (1 + m[1]) + m[0]
        k, q, v = (dense(f"{block}/Dense_{j}", y) for j in (1, 2, 3))
        h = h + m[2] * dense(f"{block}/Dense_4", attention(q, k, v, 1 / (WIDTH // HEADS)))
        y = normed(h) * (1 + m[4]) + m[3]
        h = h + m[5] * dense(f"{block}/MlpBlock_0/Dense_1", gelu(dense(f"{block}/MlpBlock_0/Dense_0", y)))
    shift, scale = dense("FinalLayer_0/Dense_0", silu(c))[:, None].split(WIDTH, dim=2)
    return unpatched(dense("FinalLayer_0/Dense_1", normed(h) * (1 + scale) + shift), x.shape[1])


# ------------------------------------------------------------------ helpers


ESC = torch_shapes(second=True)
SIT = torch_shapes(second=False)
SIGMA = torch_shapes(second=False, out=8)
FLAX = flax_shapes()


def saved(path: Path, named: dict[str, Tensor], **more: object) -> Path:
    """A checkpoint as the scripts of ESC, SiT and DiT write it, or the bare parameters."""
    torch.save({"ema": named, **more} if more else named, path)
    return path


def arrays(path: Path, named: dict[str, Tensor], prefix: str = "") -> Path:
    numpy.savez(path, **{prefix + name: tensor.numpy() for name, tensor in named.items()})
    return path


def imported(path: Path, **options: object) -> runs.Run:
    """The run of a file, in float64."""
    out = path.parent / f"run-{path.stem}"
    made = importers.import_weights(path, out, **{"heads": HEADS, **options})  # type: ignore[arg-type]
    run = runs.load_run(out, weights=made.weights)
    run.network.double()
    return run


def inputs(rows: int = 4, channels: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(7)
    x = torch.randn(rows, channels, SIDE, SIDE, generator=g, dtype=torch.float64)
    t = torch.tensor([1.0, 0.75, 0.5, 0.31], dtype=torch.float64)
    r = torch.tensor([0.0, 0.5, 0.5, 0.1], dtype=torch.float64)
    return x, t, r, torch.tensor([0, 2, CLASSES, 1])


def close(ours: Tensor, defined: Tensor) -> None:
    assert defined.std() > 0.3  # random values, not zeros that agree
    assert float((ours - defined).abs().max()) < 1e-5


# ------------------------------------------------------------------ parity, layout by layout


def test_esc_is_its_definition(tmp_path: Path) -> None:
    named = filled(ESC)
    run = imported(saved(tmp_path / "0600000.pt", named, model=filled(ESC, 1), steps=600_000))
    x, t, r, label = inputs()
    close(run.network(x, t, r, label), defined_torch(named, x, t, t - r, label))
    assert isinstance(run.network, DiT) and run.objective.name == "esc"
    assert (run.step, run.kind, run.shape, run.num_classes) == (600_000, "latents", (4, SIDE, SIDE), CLASSES)


def test_esc_is_sampled_as_published(tmp_path: Path) -> None:
    """x ← x − (t − r) u over equal steps from 1 to 0."""
    named = filled(ESC)
    run = imported(saved(tmp_path / "esc.pt", named))
    z, _, _, label = inputs()
    ours = run.objective.sample(run.flow, z, steps=2, label=label)
    for t, r in ((1.0, 0.5), (0.5, 0.0)):
        now, then = torch.full((4,), t).double(), torch.full((4,), r).double()
        z = z - (t - r) * defined_torch(named, z, now, now - then, label)
    close(ours, z)


@pytest.mark.parametrize("shapes", [SIT, SIGMA], ids=["plain", "learned-sigma"])
def test_sit_is_its_definition_with_time_and_sign_turned(tmp_path: Path, shapes: dict) -> None:
    """Its t is 1 − t, its velocity data minus noise, and a second half of its channels is not used."""
    named = filled(shapes)
    run = imported(saved(tmp_path / "sit.pt", named), layout="sit")
    x, t, r, label = inputs()
    defined = -defined_torch(named, x, 1 - t, None, label)[:, :4]
    close(run.network(x, t, r, label), defined)
    close(run.flow.velocity(x, t, label=label), defined)
    assert isinstance(run.network, Reversed) and run.objective.name == "flow matching"


def test_sit_is_sampled_along_its_own_time(tmp_path: Path) -> None:
    """x ← x + v/N from its 0, noise, to its 1, data."""
    named = filled(SIGMA)
    run = imported(saved(tmp_path / "sit.pt", named), layout="sit")
    x, _, _, label = inputs()
    ours = run.objective.sample(run.flow, x, steps=16, label=label)
    for i in range(16):
        x = x + defined_torch(named, x, torch.full((4,), i / 16).double(), None, label)[:, :4] / 16
    close(ours, x)


def noise_levels() -> list[float]:
    """Π (1 − β) of the thousand timesteps, β from 1e-4 to 0.02."""
    found, product = [], 1.0
    for i in range(1000):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * i / 999)
        found.append(product)
    return found


def time_of(level: float) -> float:
    """The t of the path with β from 0.1 to 20 at which α² is a level: 0.05 t + 4.975 t² = −½ ln level."""
    height = -math.log(level) / 2
    return (-0.05 + math.sqrt(0.05**2 + 4 * 4.975 * height)) / (2 * 4.975)


def test_dit_is_its_definition_at_its_own_timesteps(tmp_path: Path) -> None:
    named = filled(SIGMA)
    run = imported(saved(tmp_path / "dit.pt", named), layout="dit")
    x, _, _, label = inputs()
    steps, levels = [990, 600, 251, 3], noise_levels()
    t = torch.tensor([time_of(levels[k]) for k in steps], dtype=torch.float64)
    assert isinstance(run.network, Timestep)
    assert run.config.network == run.network.config
    assert (
        float((run.network.timestep(t) - torch.tensor(steps)).abs().max()) < 2e-3
    )  # its table is in float32
    run.network.levels = -0.5 * torch.tensor(levels, dtype=torch.float64).log()
    defined = defined_torch(named, x, torch.tensor(steps).double(), None, label)[:, :4]
    close(run.network(x, t, t, label), defined)
    close(run.flow.output(x, t, t, label), defined)


def test_dit_is_stepped_by_ddim(tmp_path: Path) -> None:
    """x ← √ᾱ_r x̂ + √(1 − ᾱ_r) ε with x̂ = (x − √(1 − ᾱ_t) ε)/√ᾱ_t, in its own noise levels."""
    named = filled(SIGMA)
    run = imported(saved(tmp_path / "dit.pt", named), layout="dit")
    x, _, _, label = inputs()
    levels = noise_levels()
    run.network.levels = -0.5 * torch.tensor(levels, dtype=torch.float64).log()  # type: ignore[union-attr]
    high, low = levels[500], levels[250]
    eps = defined_torch(named, x, torch.full((4,), 500).double(), None, label)[:, :4]
    clean = (x - math.sqrt(1 - high) * eps) / math.sqrt(high)
    ours = run.flow(x, time_of(high), time_of(low), label)
    close(ours, math.sqrt(low) * clean + math.sqrt(1 - low) * eps)


def test_timesteps_cover_the_path() -> None:
    adapter = Timestep(DiT((1, 4, 4), width=8, heads=2, depth=1))
    t = torch.linspace(1e-3, 1, 101, dtype=torch.float64)
    k = adapter.timestep(t)
    assert bool((k[1:] > k[:-1]).all()) and 0 <= float(k[0]) < 1 and 995 < float(k[-1]) <= 999
    assert networks.build(adapter.config).config == adapter.config
    inside = t[:-1] + 0.00123
    (rate,) = torch.autograd.grad(adapter.timestep(inside.requires_grad_()).sum(), inside)
    slope = (adapter.timestep(inside + 1e-7) - adapter.timestep(inside - 1e-7)) / 2e-7
    assert float((rate / slope.detach() - 1).abs().max()) < 1e-6


def test_shortcut_is_its_definition(tmp_path: Path) -> None:
    """Queries, keys and values apart; logits over the size of a head; kernels transposed; log2(1/d) as a token."""
    named = filled(FLAX)
    run = imported(arrays(tmp_path / "shortcut.npz", named), image_size=SIDE)
    x, t, r, label = inputs()
    b = torch.tensor([0.0, 2.0, 7.0, math.log2(1 / 0.21)], dtype=torch.float64)
    defined = -defined_flax(named, x, 1 - t, b, label)
    close(run.network(x, t, r, label), defined)
    assert run.objective.name == "shortcut-repo"
    assert run.weights.startswith("ema-shortcut.npz@")


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "b"), [(1, 0), (4, 2), (128, 7)])
def test_shortcut_is_sampled_as_published(tmp_path: Path, steps: int, b: int) -> None:
    """x ← x + f(x, i/N, log2 N)/N."""
    named = filled(FLAX)
    run = imported(arrays(tmp_path / "shortcut.npz", named), image_size=SIDE)
    x, _, _, label = inputs()
    ours = run.objective.sample(run.flow, x, steps=steps, label=label)
    for i in range(steps):
        time, token = torch.full((4,), i / steps).double(), torch.full((4,), float(b)).double()
        x = x + defined_flax(named, x, time, token, label) / steps
    close(ours, x)


@pytest.mark.slow
def test_a_network_without_labels_is_given_its_null_class(tmp_path: Path) -> None:
    """One class, whose label is always dropped, is what CelebA is trained with; others can be asked for."""
    named = filled(flax_shapes(classes=1))
    x, t, r, _ = inputs()
    null = torch.ones(4, dtype=torch.int64)
    b = -torch.log2((t - r).clamp_min(1 / 128))
    run = imported(arrays(tmp_path / "celeba.npz", named), image_size=SIDE)
    assert run.num_classes is None
    close(run.network(x, t, r), -defined_flax(named, x, 1 - t, b, null))
    kept = imported(arrays(tmp_path / "kept.npz", named), image_size=SIDE, classes=1)
    assert kept.num_classes == 1
    alone = imported(saved(tmp_path / "alone.pt", filled(torch_shapes(second=True, classes=1))))
    assert alone.num_classes == 1  # only shortcut-models drop a single class always
    esc = filled(ESC)
    free = imported(saved(tmp_path / "esc.pt", esc), classes="none")
    close(free.network(x, t, r), defined_torch(esc, x, t, t - r, torch.full((4,), CLASSES)))


# ------------------------------------------------------------------ files and their sets of weights


@pytest.mark.slow
def test_the_same_weights_from_every_kind_of_file(tmp_path: Path) -> None:
    named = filled(ESC)
    half = {name: tensor.bfloat16().float() for name, tensor in named.items()}
    save_file(named, tmp_path / "a.safetensors")
    files = [
        tmp_path / "a.safetensors",
        arrays(tmp_path / "b.npz", named),
        saved(tmp_path / "c.pt", named),
        saved(tmp_path / "d.pt", {f"module.{name}": tensor for name, tensor in named.items()}, steps=3),
    ]
    torch.save(named, tmp_path / "e.pt", _use_new_zipfile_serialization=False)
    x, t, r, label = inputs()
    first = imported(files[0]).network(x, t, r, label)
    for file in [*files[1:], tmp_path / "e.pt"]:
        assert torch.equal(imported(file).network(x, t, r, label), first), file.name
    rounded = imported(saved(tmp_path / "f.pt", {n: v.bfloat16() for n, v in named.items()}))
    close(rounded.network(x, t, r, label), defined_torch(half, x, t, t - r, label))


def test_flax_names_by_dots_or_under_a_prefix(tmp_path: Path) -> None:
    named = filled(FLAX)
    save_file({name.replace("/", "."): tensor for name, tensor in named.items()}, tmp_path / "a.safetensors")
    both = {f"train_state/params_ema/{name}": tensor for name, tensor in named.items()}
    both |= {f"train_state/params/{name}": tensor for name, tensor in filled(FLAX, 1).items()}
    both["train_state/step"] = torch.tensor(800_000)
    x, t, r, label = inputs()
    plain = imported(tmp_path / "a.safetensors", image_size=SIDE)
    nested = imported(arrays(tmp_path / "b.npz", both), image_size=SIDE)
    assert torch.equal(plain.network(x, t, r, label), nested.network(x, t, r, label))
    assert nested.step == 800_000


@pytest.mark.slow
def test_the_weights_that_are_asked_for(tmp_path: Path) -> None:
    ema, raw = filled(ESC), filled(ESC, 1)
    path = saved(tmp_path / "both.pt", ema, model=raw, model_tgt=filled(ESC, 2))
    x, t, r, label = inputs()
    close(imported(path).network(x, t, r, label), defined_torch(ema, x, t, t - r, label))
    run = imported(path, weights="raw", overwrite=True)
    close(run.network(x, t, r, label), defined_torch(raw, x, t, t - r, label))
    assert run.weights.startswith("raw-both.pt@")
    with pytest.raises(FileNotFoundError, match="with its raw weights only: use --weights raw"):
        runs.load_run(run.folder)
    torch.save({"model": raw, "model_tgt": ema}, tmp_path / "raw.pt")
    with pytest.raises(ValueError, match="no ema weights, only raw"):
        importers.import_weights(tmp_path / "raw.pt", tmp_path / "out", heads=HEADS)


def test_settings_say_guidance_and_what_cannot_be_represented(tmp_path: Path) -> None:
    """The settings of a script are the one other type that is read."""
    named = filled(ESC)
    about = {"model_name": "meanflow", "path_type": "linear", "cfg_omega": 1.0, "cfg_kappa": 0.5,
             "cfg_min_t": 0.0, "cfg_max_t": 0.75}  # fmt: skip
    run = imported(saved(tmp_path / "a.pt", named, args=argparse.Namespace(**about), steps=7))
    assert (run.objective.name, run.step) == ("meanflow", 7)
    assert (run.objective.guidance.scale, run.objective.guidance.window) == (2.0, (0.0, 0.75))  # type: ignore[union-attr]
    for change, reason in (({"path_type": "cosine"}, "path 'cosine'"), ({"model_name": "imm"}, "'imm'")):
        file = saved(tmp_path / "b.pt", named, args=argparse.Namespace(**about | change))
        with pytest.raises(ValueError, match=reason):
            importers.import_weights(file, tmp_path / "no", heads=HEADS)
    assert not (tmp_path / "no").exists()


def test_the_head_of_the_loss_is_left_out_and_said(tmp_path: Path) -> None:
    named = filled(ESC | {"logvar_linear.weight": (1, WIDTH), "logvar_linear.bias": (1,)})
    run = imported(saved(tmp_path / "a.pt", named))
    assert run.imported is not None
    assert run.imported["left_out"] == ["logvar_linear.weight", "logvar_linear.bias"]
    assert (run.imported["layout"], run.imported["file"]) == ("esc", "a.pt")


@pytest.mark.slow
@pytest.mark.parametrize(("width", "depth", "heads", "millions"), [(768, 12, 12, 131), (1152, 28, 16, 676)])
def test_published_sizes_match_name_by_name(width: int, depth: int, heads: int, millions: int) -> None:
    size = {"width": width, "depth": depth, "patch": 2, "classes": 1000}
    for layout, shapes in (
        ("esc", torch_shapes(second=True, tokens=256, **size)),
        ("sit", torch_shapes(second=False, tokens=256, out=8, **size)),
        ("dit", torch_shapes(second=False, tokens=1024, out=8, **size)),
        ("shortcut", flax_shapes(**size)),
    ):
        named = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        g = layouts.geometry(named, layout)  # type: ignore[arg-type]
        assert (g.width, g.depth, g.heads, g.classes) == (width, depth, heads, 1000)
        assert g.side == (64 if layout == "dit" else 32)
        with torch.device("meta"):
            ours = DiT((4, g.side, g.side), 1000, width=width, depth=depth, heads=heads)
            made = layouts.parameters(named, layout, g)  # type: ignore[arg-type]
        expected = {name: tensor.shape for name, tensor in ours.state_dict().items()}
        if layout == "shortcut":
            del expected["pos_embed"]
        assert {name: tensor.shape for name, tensor in made.items()} == expected
        assert round(sum(p.numel() for p in ours.parameters()) / 1e6) == millions


# ------------------------------------------------------------------ what is refused


class Trap:
    """What a pickle does to whoever loads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


class Settings(argparse.Namespace):
    """A type that is not the one allowed."""


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "trapped"
    for zipped in (True, False):
        path = tmp_path / f"evil-{zipped}.pt"
        content = {"ema": filled(ESC), "args": Trap(trap)}
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(
            CheckpointError, match=r"holds \w+\.mkdir; only tensors.*argparse.Namespace.*nothing"
        ):
            importers.import_weights(path, tmp_path / "out", heads=HEADS)
    plain = tmp_path / "plain.pkl"
    plain.write_bytes(pickle.dumps({"params": Trap(trap)}))
    with pytest.raises(CheckpointError, match=r"plain\.pkl: a pickle, but not one of PyTorch"):
        importers.import_weights(plain, tmp_path / "out")
    assert not trap.exists() and not (tmp_path / "out").exists()
    torch.load(tmp_path / "evil-True.pt", weights_only=False)  # the trap is one
    assert trap.exists()


def test_only_the_one_type_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", filled(ESC), args=Settings(steps=1))
    with pytest.raises(CheckpointError, match=r"the pickle holds [\w.]*test_import\.Settings; only"):
        importers.import_weights(path, tmp_path / "out")
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_a_dictionary_that_holds_itself_is_refused_however_deep_calls_may_go(tmp_path: Path) -> None:
    endless: dict[str, object] = {"ema": filled(ESC)}
    endless["again"] = endless
    torch.save(endless, tmp_path / "a.pt")
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(10**6)  # as some libraries do
    try:
        with pytest.raises(CheckpointError, match="without an end"):
            importers.import_weights(tmp_path / "a.pt", tmp_path / "out")
    finally:
        sys.setrecursionlimit(before)


def test_a_pickle_of_flax_says_how_to_convert_it(tmp_path: Path) -> None:
    path = tmp_path / "celeba-shortcut2-every4400001"
    path.write_bytes(pickle.dumps({"params": {name: t.numpy() for name, t in filled(FLAX).items()}}))
    with pytest.raises(CheckpointError, match=r"not one of PyTorch.*never loaded.*numpy\.savez"):
        importers.import_weights(path, tmp_path / "out")


@pytest.mark.parametrize("kind", ["pt", "legacy.pt", "safetensors", "npz"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_cut_file_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    path = tmp_path / f"whole.{kind}"
    if kind == "safetensors":
        save_file(filled(ESC), path)
    elif kind == "npz":
        arrays(path, filled(ESC))
    else:
        torch.save(filled(ESC), path, _use_new_zipfile_serialization=kind == "pt")
    cut = tmp_path / f"cut.{kind}"
    cut.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match=r"cut\..*(truncated|not a file of weights)"):
        importers.import_weights(cut, tmp_path / "out", heads=HEADS)
    assert not (tmp_path / "out").exists()


def test_bare_arrays_of_bfloat16_say_what_they_are(tmp_path: Path) -> None:
    numpy.savez(tmp_path / "a.npz", x=numpy.zeros(3, dtype="V2"))
    with pytest.raises(CheckpointError, match=r"x is of type \|V2, and plain numbers are expected"):
        importers.import_weights(tmp_path / "a.npz", tmp_path / "out")


def test_arrays_hold_numbers_alone(tmp_path: Path) -> None:
    trap = tmp_path / "trapped"
    numpy.savez(tmp_path / "a.npz", x=numpy.array([Trap(trap)], dtype=object))
    with pytest.raises(CheckpointError, match="not arrays of numbers alone"):
        importers.import_weights(tmp_path / "a.npz", tmp_path / "out")
    assert not trap.exists()
    numpy.savez(tmp_path / "b.npz", x=numpy.array(["text"]))
    with pytest.raises(CheckpointError, match="x is of type <U4"):
        importers.import_weights(tmp_path / "b.npz", tmp_path / "out")


def without(shapes: dict, name: str) -> dict:
    return {key: shape for key, shape in shapes.items() if key != name}


@pytest.mark.parametrize(
    ("shapes", "options", "reason"),
    [
        (SIT, {}, "same tensors.*--layout sit.*--layout dit"),
        (SIT, {"layout": "esc"}, "those of sit or dit, not of esc"),
        (ESC, {"layout": "shortcut"}, "those of esc, not of shortcut"),
        (ESC, {"heads": None}, "heads cannot be read.*--heads"),
        (ESC, {"heads": 5}, "cannot be represented"),
        (ESC, {"image_size": 16}, "8 x 8, not of 16 x 16"),
        (ESC, {"classes": 4}, "without a row for 'no class'"),
        (ESC, {"classes": 1000}, "a table of 4 rows, and 1000 classes"),
        (ESC, {"data": "digits"}, "digits holds image of shape"),
        (without(ESC, "blocks.1.attn.proj.bias"), {}, "lacks blocks.1.attn.proj.bias"),
        (without(ESC, "final_layer.linear.weight"), {}, "lacks final_layer.linear.weight"),
        (ESC | {"blocks.0.extra": (3,)}, {}, "unknown blocks.0.extra"),
        (ESC | {"blocks.0.mlp.fc2.weight": (WIDTH, 5)}, {}, r"fc2.weight is \(32, 5\), expected \(32, 128\)"),
        (ESC | {"blocks.0.attn.q_norm.weight": (8,)}, {}, "q_norm and k_norm"),
        (torch_shapes(second=True, out=8), {}, "esc has no learned sigma"),
        (torch_shapes(second=False, out=5), {"layout": "sit"}, "takes 4 channels and gives 5"),
        (ESC | {"pos_embed": (1, 15, WIDTH)}, {}, "15 tokens"),
        (FLAX, {"image_size": 7}, "do not split"),
        (flax_shapes(channels=3), {}, "--image-size"),
        (without(FLAX, "DiTBlock_1/Dense_2/kernel"), {"image_size": 8}, "lacks DiTBlock_1/Dense_2/kernel"),
        ({"decoder.conv.weight": (3, 3)}, {}, "no network of a known layout.*decoder.conv.weight"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, shapes: dict, options: dict, reason: str) -> None:
    g = torch.Generator().manual_seed(0)
    named = {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}
    save_file(named, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=reason):
        importers.import_weights(tmp_path / "a.safetensors", tmp_path / "out", **{"heads": HEADS, **options})
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", filled(ESC))
    imported(path)
    with pytest.raises(FileExistsError, match="already holds a run"):
        imported(path)
    imported(path, overwrite=True)
    assert (tmp_path / "run-a.old-1" / "config.json").exists()


# ------------------------------------------------------------------ the hub, by a stand-in


def stand_in(monkeypatch: pytest.MonkeyPatch, names: list[str], path: Path) -> list[tuple[str, str]]:
    asked: list[tuple[str, str]] = []

    def download(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(path)

    module = types.ModuleType("huggingface_hub")
    lister = types.SimpleNamespace(list_repo_files=lambda repository: names)
    module.HfApi, module.hf_hub_download = lambda: lister, download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return asked


def test_a_model_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "0600000.pt", filled(ESC))
    asked = stand_in(monkeypatch, ["README.md", "0600000.pt"], path)
    importers.import_weights("owner/esc", tmp_path / "run", heads=HEADS)
    asked += stand_in(monkeypatch, ["a.pt", "b.pt"], path)
    with pytest.raises(ValueError, match=r"it holds a.pt, b.pt; name one.*owner/esc:a.pt"):
        importers.import_weights("owner/esc", tmp_path / "other", heads=HEADS)
    importers.import_weights("owner/esc:b.pt", tmp_path / "other", heads=HEADS)
    assert asked == [("owner/esc", "0600000.pt")]


def test_without_the_package_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"there is no such file.*pip install 'flowleap\[hub\]'"):
        importers.import_weights("owner/esc", tmp_path / "out")
    for text in ("a.pt", "./a/b", "../b", "/a/b", "a/b/c.pt"):
        assert not hub.is_id(text)
        with pytest.raises(FileNotFoundError):
            importers.import_weights(text, tmp_path / "out")


# ------------------------------------------------------------------ on the command line


def call(*words: object) -> tuple[int, str, str]:
    result = CliRunner(env={"COLUMNS": None}).invoke(app, [str(word) for word in words])
    return result.exit_code, result.stdout, result.stderr


def ok(*words: object) -> str:
    code, out, err = call(*words)
    assert code == 0, err
    return out


def refused(*words: object) -> str:
    code, out, err = call(*words)
    assert (code, out, err.count("\n")) == (2, "", 1), (code, out, err)
    return err


@pytest.mark.slow
def test_latents_on_the_command_line(tmp_path: Path) -> None:
    path, run = saved(tmp_path / "esc.pt", filled(ESC), steps=5), tmp_path / "run"
    told = ok("import", path, "--out", run, "--heads", HEADS).splitlines()
    assert told[0].startswith("esc: latents 4 x 8 x 8, patch 2, width 32, depth 2, 4 heads, 3 classes, ")
    assert told[0].endswith("ema weights of step 5")
    assert told[1] == f"{run}: sample with: flowleap sample {run}"
    made = ok("sample", run, "--num", 6, "--steps", 2)
    assert "6 latents, 2 network evaluations" in made and "sd-vae-ft-ema decodes from them / 0.18125" in made
    with numpy.load(run / "samples.npz") as file:
        assert file["latents"].shape == (6, 4, SIDE, SIDE) and file["labels"].tolist() == [0, 1, 2, 0, 1, 2]
        assert abs(file["latents"]).max() > 1  # nothing is clamped
    assert "exists already" in refused("sample", run, "--num", 6)
    assert "latents, not yet images" in refused("sample", run, "--out", tmp_path / "a.png")
    assert "latents, which are not measured" in refused("evaluate", run)
    ok("report", run)
    told = (run / "report.html").read_text()
    assert "no pictures: its samples are latents" in told and "batch, lr, seed are not known" in told
    assert "not finished" not in told and "nothing was logged" not in told


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SiT of the size of the digits, in a file."""
    shapes = torch_shapes(second=False, channels=1, out=1, classes=10)
    named = {
        name: tensor * 0.3 if name.startswith("final") else tensor for name, tensor in filled(shapes).items()
    }
    return saved(tmp_path_factory.mktemp("sit") / "sit.pt", named)


@pytest.mark.slow
def test_images_on_the_command_line(tmp_path: Path, pixels: Path) -> None:
    run = tmp_path / "run"
    told = ok("import", pixels, "--out", run, "--heads", HEADS, "--layout", "sit")
    assert "sit: images 1 x 8 x 8" in told and "flowleap sample" in told and "--steps 16" in told
    assert "10 samples" in ok("sample", run, "--num", 10, "--steps", 2) and (run / "samples.png").exists()
    said = refused("evaluate", run, "--num", 100, "--steps", 1)
    assert "was imported, and does not say what it was trained on" in said and "--reference" in said
    rows = json.loads(ok("evaluate", run, "--num", 100, "--steps", 1, "--reference", "digits", "--json"))
    assert rows[0]["weights"].startswith("ema-sit.pt@") and rows[0]["reference_seen"] is None
    said = refused("diagnose", run)
    assert "was imported, and does not say what it was trained on: import it with --data" in said
    assert "tensors" not in said
    said = refused("train", "--resume", "--out", run)
    assert "was imported, so there is no training to resume" in said


@pytest.mark.slow
def test_an_imported_run_teaches(tmp_path: Path, pixels: Path) -> None:
    run = tmp_path / "run"
    ok("import", pixels, "--out", run, "--heads", HEADS, "--layout", "sit", "--data", "digits")
    rows = json.loads(ok("evaluate", run, "--num", 100, "--steps", 1, "--json"))
    assert rows[0]["reference"] == "digits" and rows[0]["reference_seen"] is True
    small = ["--steps", 2, "--batch", 8, "--no-eval", "--set", "evaluation.online_share=0", "--device", "cpu"]
    ok("train", "consistency-distillation", "--teacher", run, "--out", tmp_path / "student", *small)
    student = runs.load_run(tmp_path / "student")
    assert isinstance(student.network, Reversed)


@pytest.mark.slow
def test_raw_weights_say_how_to_sample_them(tmp_path: Path, pixels: Path) -> None:
    run = tmp_path / "run"
    told = ok("import", pixels, "--out", run, "--heads", 4, "--layout", "sit", "--weights", "raw")
    assert told.splitlines()[1].endswith("--steps 16 --weights raw")
    assert "use --weights raw" in refused("sample", run)
    ok("sample", run, "--weights", "raw", "--num", 10, "--steps", 16)


def test_errors_are_one_line(tmp_path: Path) -> None:
    assert "is no file" in refused("import", tmp_path / "no.pt", "--out", tmp_path / "run")
    (tmp_path / "a.pt").write_text("not weights")
    assert "not a file of weights" in refused("import", tmp_path / "a.pt", "--out", tmp_path / "run")
    assert "layout" in refused("import", tmp_path / "a.pt", "--out", tmp_path / "run", "--layout", "unet")
