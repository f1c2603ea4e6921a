"""Networks: zero at init, exact derivatives, published parameter names, and the protocol they share."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flowleap import networks
from flowleap.networks import MLP, DiT, NoiseTime, Reversed, StepToken, UNet, WithLogVariance
from flowleap.networks.dit import PatchEmbedding
from flowleap.networks.embeddings import modulate_normalized, sincos_positions, sinusoid
from flowleap.networks.options import NETWORKS

IMAGE = (2, 4, 6)
SMALL = {"patch": 2, "width": 16, "depth": 2, "heads": 2}
PIXELS = {"width": 8, "multipliers": (1, 2), "depth": 1, "attention": (1,)}
CASES = {
    "dit": lambda: DiT(IMAGE, 3, **SMALL),
    "dit-unconditional": lambda: DiT(IMAGE, **SMALL),
    "dit-landing": lambda: DiT(IMAGE, 3, second="landing", **SMALL),
    "dit-qk-norm": lambda: DiT(IMAGE, 3, qk_norm=True, mlp_ratio=2.0, **SMALL),
    "dit-double-norm": lambda: DiT(IMAGE, 3, double_norm=True, **SMALL),
    "dit-options": lambda: DiT(IMAGE, 3, log_variance=True, time_scale=3.0, **(SMALL | {"patch": 1})),
    "unet": lambda: UNet(IMAGE, 3, **PIXELS),
    "unet-landing": lambda: UNet(IMAGE, second="landing", log_variance=True, heads=2, **PIXELS),
    "mlp-points": lambda: MLP(2, width=16, depth=2),
    "mlp-landing": lambda: MLP((2,), 3, width=16, depth=2, second="landing", log_variance=True),
    "mlp-image": lambda: MLP(IMAGE, 3, width=16, depth=2),
    "with-log-variance": lambda: WithLogVariance(DiT(IMAGE, 3, **SMALL), width=8),
    "step-token": lambda: StepToken(MLP(2, 3, width=16, depth=2, log_variance=True)),
    "reversed": lambda: Reversed(MLP(2, 3, width=16, depth=2, log_variance=True)),
}  # fmt: skip
each_network = pytest.mark.parametrize("case", CASES)


@dataclass
class Inputs:
    """Random inputs that fit a network, in float64 where asked."""

    network: nn.Module
    rows: int = 5
    dtype: torch.dtype = torch.float32
    label: Tensor | None = field(init=False)

    def __post_init__(self) -> None:
        g = torch.Generator().manual_seed(1)
        inner = getattr(self.network, "network", self.network)
        shape = inner.image if isinstance(inner, DiT | UNet) else inner.shape
        self.x = torch.randn(self.rows, *shape, generator=g, dtype=self.dtype)
        self.v = torch.randn(self.rows, *shape, generator=g, dtype=self.dtype)
        self.t = 0.3 + 0.7 * torch.rand(self.rows, generator=g, dtype=self.dtype)
        self.r = self.t * (0.1 + 0.8 * torch.rand(self.rows, generator=g, dtype=self.dtype))
        classes = self.network.num_classes
        self.label = None if classes is None else torch.randint(classes + 1, (self.rows,), generator=g)

    def output(self) -> Tensor:
        return self.network(self.x, self.t, self.r, self.label)


def awakened(case: str, dtype: torch.dtype = torch.float32, std: float = 0.2) -> nn.Module:
    """The network with every parameter random, so that nothing is hidden behind a zero."""
    torch.manual_seed(0)
    network = CASES[case]().to(dtype)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=std)
    return network


# --- at init


@each_network
def test_output_is_exactly_zero_at_init_and_can_be_learned(case: str) -> None:
    inputs = Inputs(CASES[case]())
    output = inputs.output()
    assert output.shape == inputs.x.shape
    assert not output.any()
    (output - 1).square().mean().backward()
    assert any(p.grad is not None and p.grad.any() for p in inputs.network.parameters())


@each_network
def test_after_training_the_output_depends_on_every_input(case: str) -> None:
    """Guards the tests below: a network that ignored t or its label would have a fine derivative."""
    inputs = Inputs(awakened(case))
    reference = inputs.output()
    names = ("x", "t", "r", "label") if inputs.label is not None else ("x", "t", "r")
    for name in names:
        changed = Inputs(inputs.network)
        value = getattr(changed, name)
        setattr(
            changed, name, (value + 1) % (inputs.network.num_classes + 1) if name == "label" else 0.9 * value
        )
        difference = (changed.output() - reference).flatten(1).norm(dim=1)
        assert (difference > 1e-4).all(), name


def test_parameters_follow_from_the_seed() -> None:
    def state(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return DiT(IMAGE, 3, **SMALL).state_dict()

    first, again, other = state(0), state(0), state(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])


# --- derivatives


@each_network
def test_forward_mode_derivative_is_exact(case: str) -> None:
    """d/dε F(x + εv, t + ε, r): jvp against a central difference, float64."""
    inputs = Inputs(awakened(case, torch.float64), dtype=torch.float64)

    def f(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        return inputs.network(x, t, r, inputs.label)

    primal = (inputs.x, inputs.t, inputs.r)
    tangent = (inputs.v, torch.ones_like(inputs.t), torch.zeros_like(inputs.r))
    with sdpa_kernel(SDPBackend.MATH):
        value, derivative = torch.func.jvp(f, primal, tangent)
        ahead = f(*(a + 1e-5 * b for a, b in zip(primal, tangent, strict=True)))
        behind = f(*(a - 1e-5 * b for a, b in zip(primal, tangent, strict=True)))
    difference = (ahead - behind) / 2e-5
    torch.testing.assert_close(value, inputs.output(), rtol=1e-10, atol=1e-12)
    assert (derivative - difference).norm() < 1e-6 * difference.norm()
    assert difference.norm() > 1e-2 * value.norm()  # there is something to compare


@pytest.mark.parametrize("case", ["dit", "mlp-image"])
def test_forward_mode_keeps_gradients_and_works_under_bf16_autocast(case: str) -> None:
    inputs = Inputs(awakened(case))
    tangent = (inputs.v, torch.ones_like(inputs.t), torch.zeros_like(inputs.r))

    def derivative() -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return torch.func.jvp(
                lambda *z: inputs.network(*z, inputs.label), (inputs.x, inputs.t, inputs.r), tangent
            )[1]

    exact = derivative()
    assert exact.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        rough = derivative()
    assert (rough.float() - exact).norm() < 0.05 * exact.norm()


# --- against the published transformer


def test_parameter_names_and_shapes_are_those_of_sit() -> None:
    w = SMALL["width"]
    expected = {
        "pos_embed": (1, 6, w), "x_embedder.proj.weight": (w, 2, 2, 2), "x_embedder.proj.bias": (w,),
        "y_embedder.embedding_table.weight": (4, w),
        "final_layer.linear.weight": (8, w), "final_layer.linear.bias": (8,),
        "final_layer.adaLN_modulation.1.weight": (2 * w, w), "final_layer.adaLN_modulation.1.bias": (2 * w,),
        "logvar_linear.weight": (1, w), "logvar_linear.bias": (1,),
    }  # fmt: skip
    for embedder in ("t_embedder", "r_embedder"):
        expected |= {f"{embedder}.mlp.0.weight": (w, 256), f"{embedder}.mlp.0.bias": (w,)}
        expected |= {f"{embedder}.mlp.2.weight": (w, w), f"{embedder}.mlp.2.bias": (w,)}
    layers = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    for block in ("blocks.0", "blocks.1"):
        for layer, (out, into) in (layers | {"adaLN_modulation.1": (6, 1)}).items():
            expected |= {f"{block}.{layer}.weight": (out * w, into * w), f"{block}.{layer}.bias": (out * w,)}
    state = DiT(IMAGE, 3, log_variance=True, **SMALL).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == expected


@pytest.mark.parametrize(
    ("size", "millions"), [("small", 33), ("base", 130), ("large", 458), ("xlarge", 675)]
)
def test_parameter_counts_are_those_of_the_paper(size: str, millions: int) -> None:
    """Peebles & Xie, table 1; theirs predict a covariance as well, ours embed a second time."""
    with torch.device("meta"):
        network = getattr(DiT, size)((4, 32, 32), 1000)
    count = sum(p.numel() for p in network.parameters())
    assert abs(count / 1e6 - millions) < 0.012 * millions
    assert f"{count:,}" in networks.describe(network)


@pytest.mark.parametrize(
    ("name", "classes", "published"),
    [
        ("dit-base-2", 1, 130_324_496),
        ("dit-base-2", 1000, 131_091_728),
        ("dit-xlarge-2", 1000, 676_440_848),
    ],
)
def test_parameter_counts_are_those_of_shortcut_models(name: str, classes: int, published: int) -> None:
    """Two times and no predicted covariance, as ours; theirs carry 256 weights that nothing reads."""
    with torch.device("meta"):
        network = networks.build({**NETWORKS[name], "image": [4, 32, 32], "classes": classes})
    assert sum(p.numel() for p in network.parameters()) == published - 256


@pytest.mark.slow
def test_a_config_is_made_without_the_compiler() -> None:
    """torch._dynamo takes seconds to import, and every refusal of `flowleap train` would come after it."""
    code = (
        "import sys; from flowleap import runs; runs.configure('esc'); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.slow
@pytest.mark.parametrize("size", ["small", "base", "large", "xlarge"])
def test_every_size_comes_with_three_patches(size: str) -> None:
    for patch in (2, 4, 8):
        options = NETWORKS[f"dit-{size}-{patch}"]
        assert options == {**NETWORKS[f"dit-{size}"], "patch": patch}
        with torch.device("meta"):
            named = networks.build({**options, "image": [4, 32, 32], "classes": 1000})
            made = getattr(DiT, size)((4, 32, 32), 1000, patch=patch)
        assert named.config == made.config


def _sit(state: dict[str, Tensor], x: Tensor, t: Tensor, r: Tensor, label: Tensor, heads: int) -> Tensor:
    """The transformer of SiT with a second time, written down once more, without a single module."""

    def dense(name: str, z: Tensor) -> Tensor:
        return z @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def embed(name: str, time: Tensor) -> Tensor:
        angle = time[:, None] * torch.exp(-math.log(10000) * torch.arange(128, dtype=time.dtype) / 128)
        return dense(
            f"{name}.mlp.2", F.silu(dense(f"{name}.mlp.0", torch.cat([angle.cos(), angle.sin()], 1)))
        )

    def norm(z: Tensor) -> Tensor:
        return (z - z.mean(-1, keepdim=True)) / (z.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()

    n, channels, height, width = x.shape
    p = state["x_embedder.proj.weight"].shape[-1]
    c = (
        embed("t_embedder", t)
        + embed("r_embedder", t - r)
        + state["y_embedder.embedding_table.weight"][label]
    )
    h = F.conv2d(x, state["x_embedder.proj.weight"], state["x_embedder.proj.bias"], stride=p)
    h = h.flatten(2).transpose(1, 2) + state["pos_embed"]
    for i in range(sum(name.endswith("attn.qkv.weight") for name in state)):
        b = f"blocks.{i}"
        m = [z[:, None] for z in dense(f"{b}.adaLN_modulation.1", F.silu(c)).chunk(6, dim=1)]
        qkv = dense(f"{b}.attn.qkv", norm(h) * (1 + m[1]) + m[0])
        q, k, v = qkv.reshape(n, -1, 3, heads, h.shape[-1] // heads).permute(2, 0, 3, 1, 4)
        weight = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        h = h + m[2] * dense(f"{b}.attn.proj", (weight @ v).transpose(1, 2).reshape(h.shape))
        z = dense(f"{b}.mlp.fc1", norm(h) * (1 + m[4]) + m[3])
        z = 0.5 * z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
        h = h + m[5] * dense(f"{b}.mlp.fc2", z)
    shift, scale = dense("final_layer.adaLN_modulation.1", F.silu(c)).chunk(2, dim=1)
    z = dense("final_layer.linear", norm(h) * (1 + scale[:, None]) + shift[:, None])
    z = z.reshape(n, height // p, width // p, p, p, channels)
    return torch.einsum("nhwpqc->nchpwq", z).reshape(x.shape)


def test_dit_computes_what_sit_computes() -> None:
    inputs = Inputs(awakened("dit", torch.float64), dtype=torch.float64)
    expected = _sit(dict(inputs.network.state_dict()), inputs.x, inputs.t, inputs.r, inputs.label, heads=2)
    torch.testing.assert_close(inputs.output(), expected, rtol=1e-9, atol=1e-9)


def test_patches_are_those_of_the_convolution() -> None:
    embed = PatchEmbedding(channels=3, patch=2, width=8)
    x = torch.randn(2, 3, 4, 6)
    torch.testing.assert_close(embed(x), embed.proj(x).flatten(2).transpose(1, 2))


def test_sinusoid_is_cosines_then_sines_of_unscaled_time() -> None:
    t = np.array([0.0, 0.25, 1.0])
    angle = t[:, None] * 10_000.0 ** (-np.arange(128) / 128)
    expected = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    np.testing.assert_allclose(sinusoid(torch.tensor(t)), expected, atol=1e-12)
    assert sinusoid(torch.tensor(t).bfloat16()).dtype == torch.float32


def test_positions_encode_the_column_first() -> None:
    grid = sincos_positions(8, rows=2, columns=3)[0].view(2, 3, 8)
    for row in range(2):
        for column in range(3):
            for half, position in ((grid[row, column, :4], column), (grid[row, column, 4:], row)):
                angle = [position, position / 100]
                expected = [*map(math.sin, angle), *map(math.cos, angle)]
                torch.testing.assert_close(half, torch.tensor(expected), rtol=1e-6, atol=1e-6)


# --- the protocol


@pytest.mark.parametrize("case", ["dit", "mlp-landing"])
def test_no_label_means_the_null_class(case: str) -> None:
    inputs = Inputs(awakened(case))
    null = torch.full((inputs.rows,), inputs.network.num_classes)
    args = inputs.x, inputs.t, inputs.r
    assert torch.equal(inputs.network(*args, None), inputs.network(*args, null))
    assert not torch.equal(inputs.network(*args, None), inputs.network(*args, null - 1))


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (
            torch.tensor([0, 1, 4, 0, 0]),
            "label 4 is out of range: this network knows the classes 0 to 2, and 3",
        ),
        (torch.tensor([0, -1, 2, 0, 0]), "label -1 is out of range"),
        (torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0]), r"integers of shape \(5,\).*float32"),
        (torch.tensor([True] * 5), "integers"),
        (torch.tensor(1), r"integers of shape \(5,\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(label: Tensor, message: str) -> None:
    inputs = Inputs(CASES["dit"]())
    inputs.label = label
    with pytest.raises(ValueError, match=message):
        inputs.output()


def test_inputs_that_do_not_fit_are_refused() -> None:
    for case in ("dit", "mlp-points"):
        inputs = Inputs(CASES[case]())
        with pytest.raises(ValueError, match=r"one entry per sample, shape \(5,\); got \(\) and \(5,\)"):
            inputs.network(inputs.x, torch.tensor(1.0), inputs.r, inputs.label)
        with pytest.raises(ValueError, match=r"this network takes"):
            inputs.network(torch.zeros(5, 7), inputs.t, inputs.r, inputs.label)
    inputs = Inputs(CASES["dit-unconditional"]())
    with pytest.raises(ValueError, match="unconditional"):
        inputs.network(inputs.x, inputs.t, inputs.r, torch.zeros(5, dtype=torch.int64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 3}, "does not split into patches of 3 x 3"),
        ({"heads": 3}, "width is a multiple of heads"),
        ({"second": "step"}, "'span'.*'landing'.*'step'"),
        ({"classes": 0}, "classes is at least 1"),
    ],
)
def test_impossible_transformers_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiT(**({"image": IMAGE, "classes": 3} | SMALL | options))


def test_the_second_time_is_the_span_or_the_landing() -> None:
    """Moving t and r together leaves r_embedder's input alone under 'span', moving t under 'landing'."""
    for case, shift in (("dit", 0.1), ("dit-landing", 0.0)):
        inputs = Inputs(awakened(case))
        seen: list[Tensor] = []
        inputs.network.r_embedder.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        inputs.output()
        inputs.network(inputs.x, inputs.t + 0.1, inputs.r + shift, inputs.label)
        torch.testing.assert_close(seen[0], seen[1])
        torch.testing.assert_close(seen[0], inputs.r if case == "dit-landing" else inputs.t - inputs.r)


def test_time_scale_multiplies_both_times() -> None:
    torch.manual_seed(0)
    network, scaled = DiT(IMAGE, **SMALL), DiT(IMAGE, time_scale=3.0, **SMALL)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    scaled.load_state_dict(network.state_dict())
    inputs = Inputs(network)
    torch.testing.assert_close(
        scaled(inputs.x, inputs.t / 3, inputs.r / 3), inputs.output(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("case", ["dit-options", "mlp-landing", "with-log-variance"])
def test_time_stays_in_fp32_under_bf16_autocast(case: str) -> None:
    inputs = Inputs(awakened(case))
    inner = getattr(inputs.network, "network", inputs.network)
    times: list[Tensor] = []
    block_dtypes: list[torch.dtype] = []
    inner.t_embedder.register_forward_hook(lambda *hook: times.append(hook[2]))
    layer = inner.blocks[0].attn.qkv if isinstance(inner, DiT) else inner.blocks[0].fc1
    layer.register_forward_hook(lambda *hook: block_dtypes.append(hook[2].dtype))
    inputs.output()
    log_variance = getattr(inputs.network, "log_variance", None)
    exact = log_variance(inputs.t, inputs.r)
    with torch.autocast("cpu", torch.bfloat16):
        inputs.output()
        rough = log_variance(inputs.t, inputs.r)
    assert block_dtypes == [torch.float32, torch.bfloat16]
    assert rough.dtype == torch.float32
    assert torch.equal(rough, exact)
    assert all(torch.equal(time, times[0]) for time in times)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 6), case=st.sampled_from(sorted(CASES)))
def test_rows_do_not_see_each_other(rows: int, case: str) -> None:
    inputs = Inputs(awakened(case), rows=6)
    label = None if inputs.label is None else inputs.label[:rows]
    alone = inputs.network(inputs.x[:rows], inputs.t[:rows], inputs.r[:rows], label)
    torch.testing.assert_close(alone, inputs.output()[:rows], rtol=1e-4, atol=1e-5)


# --- configurations


@each_network
def test_a_network_is_rebuilt_from_its_config(case: str) -> None:
    inputs = Inputs(awakened(case))
    twin = networks.build(json.loads(json.dumps(inputs.network.config)))
    assert type(twin) is type(inputs.network)
    assert twin.config == inputs.network.config
    twin.load_state_dict(inputs.network.state_dict())
    assert torch.equal(twin(inputs.x, inputs.t, inputs.r, inputs.label), inputs.output())


def test_unknown_configs_are_refused() -> None:
    known = "DiT, MLP, MeanDirection, NoiseTime, Reversed"
    with pytest.raises(ValueError, match=rf"'Dit'.*did you mean DiT\? Known: {known}"):
        networks.build({"kind": "Dit"})
    with pytest.raises(ValueError, match="unknown kind of network None"):
        networks.build({})
    with pytest.raises(ValueError, match="widht"):
        networks.build({"kind": "MLP", "shape": 2, "widht": 8})


def test_describe_counts_what_is_trained() -> None:
    network = WithLogVariance(MLP(2, width=8, depth=1), width=4)
    count = sum(p.numel() for p in network.parameters())
    line = networks.describe(network)
    assert line.startswith("WithLogVariance(MLP(shape=[2], width=8, depth=1)")
    assert line.endswith(f"width=4), {count:,} parameters")
    frozen = nn.Linear(2, 3)
    frozen.bias.requires_grad_(False)
    assert networks.describe(frozen) == "Linear(), 6 parameters"


# --- log-variance


@pytest.mark.parametrize("case", ["dit-options", "mlp-landing", "with-log-variance"])
def test_log_variance_is_zero_at_init_and_learns_from_both_times(case: str) -> None:
    inputs = Inputs(CASES[case]())
    assert torch.equal(inputs.network.log_variance(inputs.t, inputs.r), torch.zeros(inputs.rows))
    awake = awakened(case)
    base = awake.log_variance(inputs.t, inputs.r)
    assert base.shape == (inputs.rows,)
    assert (awake.log_variance(inputs.t * 0.9, inputs.r) - base).abs().min() > 1e-5
    assert (awake.log_variance(inputs.t, inputs.r * 0.9) - base).abs().min() > 1e-5
    base.sum().backward()
    assert awake.logvar_linear.weight.grad.any()


def test_log_variance_is_absent_unless_asked_for() -> None:
    for network in (DiT(IMAGE, **SMALL), MLP(2), StepToken(MLP(2))):
        assert getattr(network, "log_variance", None) is None
        assert "logvar_linear.weight" not in network.state_dict()


def test_with_log_variance_changes_nothing_else() -> None:
    inputs = Inputs(awakened("dit"))
    wrapped = WithLogVariance(inputs.network)
    assert torch.equal(wrapped(inputs.x, inputs.t, inputs.r, inputs.label), inputs.output())
    assert wrapped.num_classes == 3


def test_with_log_variance_wraps_any_callable() -> None:
    wrapped = WithLogVariance(lambda x, t, r, label: 2 * x)
    assert wrapped.num_classes is None
    assert torch.equal(wrapped(torch.ones(1, 2), torch.ones(1), torch.zeros(1)), torch.full((1, 2), 2.0))


# --- step token


class Recorder(nn.Module):
    """A network that remembers the second time it was given."""

    num_classes = 7

    def __init__(self, second: str) -> None:
        super().__init__()
        self.second = second

    def forward(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
        self.given = r if self.second == "landing" else t - r
        return x

    def log_variance(self, t: Tensor, r: Tensor) -> Tensor:
        return r if self.second == "landing" else t - r


@pytest.mark.parametrize("second", ["span", "landing"])
def test_step_token_is_the_exponent_of_the_step(second: str) -> None:
    """1 → 0, 1/2 → 1, …, 1/128 → 7, and 7 on the diagonal and for anything finer."""
    step = torch.tensor([2.0**-b for b in range(8)] + [1 / 1024, 0.0])
    t = torch.cat([torch.tensor([1.0]), torch.full((9,), 0.75)])
    expected = torch.tensor([0.0, 1, 2, 3, 4, 5, 6, 7, 7, 7])
    inner = Recorder(second)
    network = StepToken(inner)
    network(torch.zeros(10, 2), t, t - step)
    torch.testing.assert_close(inner.given, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(network.log_variance(t, t - step), expected, rtol=0, atol=1e-6)
    assert torch.equal(network.token(t, t - step), expected)
    assert network.num_classes == 7


def test_noise_time_shows_a_quarter_of_the_logarithm() -> None:
    inner = MLP(2, width=16, depth=1, log_variance=True)
    for parameter in inner.parameters():
        torch.nn.init.normal_(parameter)
    outer, x = NoiseTime(inner), torch.randn(3, 2)
    t, r = torch.tensor([80.0, 1.0, 0.5]), torch.tensor([0.002, 1.0, 0.1])
    shown = [torch.tensor([math.log(v) / 4 for v in times.tolist()]) for times in (t, r)]
    assert torch.allclose(outer(x, t, r), inner(x, *shown), atol=1e-5)
    assert torch.allclose(outer.log_variance(t, r), inner.log_variance(*shown), atol=1e-5)
    assert not hasattr(NoiseTime(MLP(2)), "log_variance")


def test_double_normalization_normalizes_scales_and_shifts_over_the_channels() -> None:
    """x p(1 + scale) + p(shift), p(y) = y/√(mean y² + 10⁻⁴); growing modulation no longer grows the output."""
    g = torch.Generator().manual_seed(3)
    x, shift, scale = torch.randn(3, 2, 1, 16, generator=g, dtype=torch.float64)
    p = lambda y: y / (y.square().mean(-1, keepdim=True) + 1e-4).sqrt()  # noqa: E731
    torch.testing.assert_close(modulate_normalized(x, shift, scale), x * p(1 + scale) + p(shift))
    grown = modulate_normalized(x, 1e6 * shift, 1e6 * scale)
    assert float(grown.abs().max()) < 10 * float(x.abs().max())
    start = modulate_normalized(x, torch.zeros_like(shift), torch.zeros_like(scale))
    torch.testing.assert_close(start, x, rtol=1e-4, atol=1e-4)


def test_double_normalization_is_an_option_that_is_written_down() -> None:
    plain, double = DiT(IMAGE, 3, **SMALL), DiT(IMAGE, 3, double_norm=True, **SMALL)
    assert double.config["double_norm"] is True and plain.config["double_norm"] is False
    assert networks.build(double.config).config == double.config
    assert "double_norm=True" in networks.describe(double)
    assert [(n, p.shape) for n, p in plain.named_parameters()] == [
        (n, p.shape) for n, p in double.named_parameters()
    ]
    for network in (plain, double):
        g = torch.Generator().manual_seed(0)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.3, generator=g)
    double.load_state_dict(plain.state_dict())
    inputs = Inputs(plain)
    assert not torch.allclose(
        plain(inputs.x, inputs.t, inputs.r, inputs.label), double(inputs.x, inputs.t, inputs.r, inputs.label)
    )
