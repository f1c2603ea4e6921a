"""The recipes themselves: published settings and numbers, each with its source, and what was chosen where none is.

None of the large ones has been run here yet; `Recipe.measured` says so, or what came out.

Shared by ImageNet-256: latents of 4 × 32 × 32 of Stable Diffusion's autoencoder, 1000 classes, 1,281,167 images, so
that 240 epochs are 600,000 steps of 512 or 1.2 million of 256. FID-50k is the Fréchet distance of 50,000 samples by the
Inception network. NFE are network evaluations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from flowleap import methods
from flowleap.data.batching import ClassGroups
from flowleap.distillation import progressive_distillation
from flowleap.guidance import Guidance
from flowleap.losses import AdaptivePower
from flowleap.objectives import Objective
from flowleap.times import Gradual, LogitNormal, OneTime, SortedPair, Uniform
from flowleap.velocities import PlugIn

Kind = Literal["image", "latents"]
PIXELS: Kind = "image"
UNTRIED = "not yet run here"


@dataclass(frozen=True)
class Published:
    """A number that was published: its value, what it is of, and where it stands."""

    value: float
    what: str
    source: str


@dataclass(frozen=True)
class Recipe:
    """Settings of a training.

    Args:
        name: what it is asked for by. title: what it is, in a line.
        method: the method that `objective` began as.
        network: one of `NETWORKS`; options: what differs there; adapters: what it is seen through, from the inside out.
        shape, classes, kind: what it is for; classes None is unconditional. data: where such data come from, in words.
        dataset: the name of these data where they come with the package; None where they are the user's.
        rows: how many there are, 0 where that is the user's.
        any_classes: whether another number of classes, or none, is as good.
        steps, batch, lr, betas, weight_decay, muon, warmup, decay, clip, ema, precision, eval_num, pair_guidance: as
            of `TrainConfig`; `batch` is that of all processes together.
        source: where the settings are published. numbers: what is published for them.
        hardware: what it takes. notes: what is not published, and was chosen.
        measured: what came out here.
    """

    name: str
    title: str
    method: str
    objective: Objective
    network: str
    shape: tuple[int, ...]
    classes: int | None
    kind: Kind
    data: str
    steps: int
    batch: int
    lr: float
    rows: int = 0
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    muon: float | None = None
    warmup: float = 0.0
    decay: float = 0.0
    clip: float | None = 1.0
    ema: tuple[float, ...] = (0.9999,)
    precision: Literal["fp32", "bf16"] = "bf16"
    eval_num: int = 50_000
    pair_guidance: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    adapters: tuple[str, ...] = ()
    any_classes: bool = False
    dataset: str | None = None
    source: str = ""
    numbers: tuple[Published, ...] = ()
    hardware: str = "one node of GPUs; what it needs here: --dry-run"
    notes: tuple[str, ...] = ()
    measured: str = UNTRIED


ESC, ESC_CODE = "Lin et al. 2025 (arXiv 2512.11831)", "EDAPINENUT/ExplicitShortCut"
MEANFLOW = "Geng et al. 2025 (arXiv 2505.13447)"
SHORTCUT, SHORTCUT_CODE = "Frans et al. 2024 (arXiv 2410.12557)", "kvfrans/shortcut-models"
MEANFLOW_CODE = "Gsunshine/meanflow"
LATENTS_EMA = (  # as the ESC runs
    "ImageNet-1k, 256 x 256, as latents of stabilityai/sd-vae-ft-ema: posterior samples times 0.18125, plain and "
    "flipped"
)
LATENTS_MSE = "as latents of stabilityai/sd-vae-ft-mse: posterior samples times 0.18215"
PLAIN = f"ImageNet-1k, center crops of 256 x 256, {LATENTS_MSE}, not flipped"  # as the code of MeanFlow
IMAGENET = f"ImageNet-1k, center crops of 256 x 256, {LATENTS_MSE}, flipped at random"
CELEBA = f"CelebA-HQ, 256 x 256, {LATENTS_MSE}, flipped at random"


IMAGES, FACES = 1_281_167, 28_000
"""Images for training of ImageNet-1k, and of CelebA-HQ, of which 2,000 more are for validation."""
UNLIKE = (
    "the network there divides attention by head_dim rather than its root, begins its adaLN projections at Xavier "
    "values rather than zero, and keeps its residual stream in bf16; here it is the DiT of all recipes",
    "the average there has no warm-up, and the code judges the raw weights unless asked for it",
)
"""How the code of Frans et al. differs from what a recipe does here."""


def _latents(
    name: str, title: str, method: str, objective: Objective, network: str, **settings: Any
) -> Recipe:
    """Return a recipe for ImageNet-256 by the settings that papers on one-step transformers share."""
    shared: dict[str, Any] = {
        "shape": (4, 32, 32), "classes": 1000, "kind": "latents", "data": LATENTS_EMA, "lr": 1e-4, "batch": 256,
        "rows": IMAGES,
    }  # fmt: skip
    return Recipe(
        name=name, title=title, method=method, objective=objective, network=network, **(shared | settings)
    )


def _esc() -> list[Recipe]:
    """ESC, and the baselines of its paper on the same network."""
    base: Any = methods.esc()
    code = f"{ESC}; {ESC_CODE}, scripts/README.md"
    base = replace(base, batching=ClassGroups(classes="uniform"), loss=replace(base.loss, of="t"))
    pair = SortedPair(LogitNormal(mean=-0.4, std=1.0), diagonal=0.75)
    large = replace(
        base,
        velocity=PlugIn(probability=0.2),
        guidance=Guidance(omega=0.2, kappa=0.92, window=(0.0, 0.75)),
        times=Gradual(pair, horizon=20_000 / 1_200_000),
    )
    small = replace(base, guidance=Guidance(omega=1.0, kappa=0.5))
    table = f"{ESC_CODE}, README.md"
    return [
        _latents(
            "esc-b2", "ESC, DiT-B/2, ImageNet-256, 240 epochs", "esc", small, "dit-base-2", steps=600_000, batch=512,
            source=code,
            numbers=(Published(5.78, "FID-50k, 1 NFE", table), Published(5.77, "FID-50k, 1 NFE", ESC)),
        ),
        _latents(
            "esc-xl2", "ESC, DiT-XL/2, ImageNet-256, 240 epochs", "esc", large, "dit-xlarge-2", steps=1_200_000,
            source=code,
            numbers=(
                Published(2.85, "FID-50k, 1 NFE", f"{ESC}; {table}"),
                Published(2.53, "FID-50k, 1 NFE, after 2,400,000 steps (--steps 2400000)", table),
            ),
        ),
        *_baselines(),
    ]  # fmt: skip


def _baselines() -> list[Recipe]:
    """The methods that ESC is compared with, on SiT-B/2."""
    code = f"{ESC_CODE}, scripts/run_baseline.sh"
    linear: Any = methods.sct("linear")
    continuous = replace(
        linear,
        conditioning="t,end",
        times=replace(linear.times, diagonal=0.75),
        target=replace(linear.target, warmup=10_000 / 1_200_000),
        loss=replace(linear.loss, of="t"),
    )
    curved: Any = methods.sct()
    curved = replace(curved, target=replace(curved.target, warmup=10_000 / 1_200_000))
    shared: dict[str, Any] = {"network": "dit-base-2", "steps": 1_200_000, "source": code}
    unknown = "no number of this baseline alone was found"
    return [
        _latents(
            "ct-b2", "consistency training as in the ESC paper, DiT-B/2, ImageNet-256", "consistency_training_esc",
            methods.consistency_training("esc"), **shared,
            notes=("published with LPIPS of decoded images; here the squared error of latents", unknown),
        ),
        _latents(
            "shortcut-esc-b2", "shortcut (SCD) as in the ESC paper, DiT-B/2, ImageNet-256", "shortcut_esc",
            methods.shortcut("esc", guidance=1.5), **shared,
            numbers=(
                Published(90.1, "FID-50k, 1 NFE, after 80,000 steps", f"{ESC_CODE}, samples/shortcut-b2-cfg"),
            ),
        ),
        _latents(
            "imm-b2", "inductive moment matching as in the ESC paper, DiT-B/2, ImageNet-256", "imm", methods.imm(),
            "dit-base-2", steps=600_000, batch=2048, source=code,
            numbers=(Published(91.96, "FID-50k, 1 NFE, no guidance, another loss", f"{ESC_CODE}, samples/imm-b2-cnd"),),
            notes=(
                "batches of 2,048, groups of 4 and 2^-12 of the range of noise levels (gamma 12) are published, and "
                "fp16, which is bf16 here; the samples are of step 600,000, 960 epochs, the command says 240",
                "the loss that made 91.96 multiplies distances of shape (groups, 4, 4) by kernel widths of shape "
                "(groups, 1, ..., 1): each group is compared at the widths of all groups; here each at its own",
                "its command asks for logit-normal times, which its loss refuses; times are uniform here and there",
            ),
        ),
        _latents(
            "sct-b2", "sCT on the trigonometric path as in the ESC paper, DiT-B/2, ImageNet-256", "sct", curved,
            **shared,
            notes=(
                "weighed by 1/(0.5 tan(angle)) as in Lu and Song 2024 (arXiv 2410.11081); their loss has no such "
                "weight",
                "F is per angle and unit of 0.5, as in that paper; theirs is in units of the velocity in t, beside the "
                "same constant of 0.1 in the length of the tangent",
                unknown,
            ),
        ),
        _latents(
            "sct-linear-b2", "sCT on the linear path as in the ESC paper, DiT-B/2, ImageNet-256", "sct_linear",
            continuous, **shared, notes=(unknown,),
        ),
    ]  # fmt: skip


def _meanflow() -> list[Recipe]:
    """MeanFlow on ImageNet-256, and on CIFAR-10."""
    base = methods.meanflow()
    scales = {
        "b4": Guidance(omega=3.0, kappa=0.0),
        "b2": Guidance(omega=1.0, kappa=0.5),
        "xl2": Guidance(omega=0.2, kappa=0.92, window=(0.0, 0.75)),
    }
    guided = {size: replace(base, guidance=guidance) for size, guidance in scales.items()}
    shared: dict[str, Any] = {
        "source": f"{MEANFLOW}, table 4; {MEANFLOW_CODE}, configs/default.py", "data": PLAIN,
        "precision": "fp32", "notes": ("there gradients are not clipped, here at 1",),
    }  # fmt: skip
    return [
        _latents(
            "meanflow-b4", "MeanFlow, DiT-B/4, ImageNet-256, 80 epochs", "meanflow", guided["b4"], "dit-base-4",
            steps=400_000, **shared,
            numbers=(
                Published(15.53, "FID-50k, 1 NFE", f"{MEANFLOW}, table 1f"),
                Published(61.06, "FID-50k, 1 NFE, without guidance (--set guidance=none)", f"{MEANFLOW}, table 1"),
            ),
        ),
        _latents(
            "meanflow-b2", "MeanFlow, DiT-B/2, ImageNet-256, 240 epochs", "meanflow", guided["b2"], "dit-base-2",
            steps=1_200_000, **shared, numbers=(Published(6.17, "FID-50k, 1 NFE", f"{MEANFLOW}, table 2"),),
        ),
        _latents(
            "meanflow-xl2", "MeanFlow, DiT-XL/2, ImageNet-256, 240 epochs", "meanflow", guided["xl2"], "dit-xlarge-2",
            steps=1_200_000, **shared,
            numbers=(
                Published(3.43, "FID-50k, 1 NFE", f"{MEANFLOW}, table 2"),
                Published(2.93, "FID-50k, 2 NFE", f"{MEANFLOW}, table 2"),
            ),
        ),
        Recipe(
            name="cifar10", title="MeanFlow, U-Net of 55 M, CIFAR-10 unconditional", method="meanflow",
            objective=replace(
                base,
                times=SortedPair(LogitNormal(mean=-2.0, std=2.0), diagonal=0.25),
                loss=AdaptivePower(power=0.75, eps=1e-3, reduce="sum"),
            ),
            network="unet-base", options={"dropout": 0.2, "classes": None}, shape=(3, 32, 32), classes=None,
            kind=PIXELS, data="CIFAR-10, 50,000 images of 32 x 32", rows=50_000, steps=800_000, batch=1024, lr=6e-4,
            betas=(0.9, 0.999),
            warmup=10_000 / 800_000, ema=(0.99995,), precision="fp32", any_classes=True, source=f"{MEANFLOW}, appendix",
            numbers=(Published(2.92, "FID-50k, 1 NFE", f"{MEANFLOW}, table 3"),),
            notes=(
                "published with the augmentation of Karras et al. 2022 without vertical flips and rotations, here none",
                "the network is that of Karras et al. 2022 with a second time; clipping at 1 is not published",
            ),
        ),
    ]  # fmt: skip


NUMBERS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "progressive-distillation": ((302.9, 251.3, 14.8), (201.9, 142.5, 35.6)),
    "consistency-distillation": ((59.5, 39.6, 38.2), (132.8, 98.01, 136.5)),
    "reflow": ((16.1, 18.4, 23.2), (16.9, 32.8, 44.8)),
    "diffusion": ((23.0, 123.4, 132.2), (39.7, 464.5, 467.2)),
    "flow-matching": ((7.3, 63.3, 280.5), (17.3, 108.2, 324.8)),
    "consistency-training": ((53.7, 19.0, 33.2), (42.8, 43.0, 69.7)),
    "live-reflow": ((6.3, 27.2, 43.3), (46.3, 95.8, 58.1)),
    "shortcut": ((6.9, 13.8, 20.5), (15.5, 28.3, 40.3)),
}
"""FID-50k at 128, 4 and 1 steps on CelebA-HQ-256 and ImageNet-256, as published in table 1 of Frans et al."""


def _rows(guidance: float | None) -> dict[str, tuple[str, Objective, tuple[str, ...]]]:
    """Return the eight rows of the table: method, objective and what was chosen, at a scale of guidance."""
    uniform = OneTime(Uniform())
    live: Any = methods.live_reflow(guidance=guidance)
    twice = (
        "the split of the compute is not published: as many steps for the teacher of its own as for itself"
    )
    return {
        "progressive-distillation": (
            "progressive_distillation", methods.get("progressive_distillation"), (twice,),
        ),
        "consistency-distillation": (
            "consistency_distillation", methods.get("consistency_distillation"),
            (twice, "as in the code, the teacher is unguided"),
        ),
        "reflow": ("reflow", methods.get("reflow"), (twice, "pairs, and the steps they take, are not published")),
        "diffusion": (
            "diffusion", methods.diffusion(), ("schedule and sampler are not published: those of `methods.diffusion`",),
        ),
        "flow-matching": ("flow_matching", replace(methods.flow_matching(), times=uniform), ()),
        "consistency-training": ("consistency_training_table1", methods.consistency_training("table1"), ()),
        "live-reflow": ("live_reflow", replace(live, times=replace(live.times, law=Uniform())), ()),
        "shortcut": ("shortcut", methods.shortcut("paper", guidance=guidance), ()),
    }  # fmt: skip


def _table_1() -> list[Recipe]:
    """All rows of table 1 of Frans et al. on both sets, and the larger shortcut model of their repository."""
    found = []
    sets: list[tuple[str, str, int | None, str, int, int, float | None]] = [
        ("celebahq256", "CelebA-HQ-256", None, CELEBA, 400_000, 64, None),
        ("imagenet256", "ImageNet-256", 1000, IMAGENET, 800_000, 256, 1.5),
    ]
    for prefix, title, classes, data, steps, batch, guidance in sets:
        for row, (method, objective, notes) in _rows(guidance).items():
            if row == "progressive-distillation" and guidance:
                objective = progressive_distillation(guidance=guidance)
            numbers = zip((128, 4, 1), NUMBERS[row][classes is not None], strict=True)
            found.append(
                _frans(
                    f"{prefix}-{row}", f"{row.replace('-', ' ')}, table 1 of Frans et al., DiT-B/2, {title}", method,
                    objective, notes, numbers, f"{SHORTCUT}, table 1", network="dit-base-2", classes=classes,
                    data=data, steps=steps * (2 if objective.needs_run else 1), batch=batch,
                    pair_guidance=guidance if row == "reflow" else None,
                )
            )  # fmt: skip
    found.append(
        _frans(
            "shortcut-xl2", "shortcut, DiT-XL/2, ImageNet-256", "shortcut_repo",
            methods.shortcut("repo", guidance=1.5),
            ("the length is not known: the weights are those of a run that was continued",),
            ((128, 3.8), (4, 7.8), (1, 10.6)), f"{SHORTCUT_CODE}, README.md", network="dit-xlarge-2", classes=1000,
            data=IMAGENET, steps=800_000, batch=256,
        )
    )  # fmt: skip
    return found


def _frans(
    name: str,
    title: str,
    method: str,
    objective: Objective,
    notes: tuple[str, ...],
    numbers: Iterable[tuple[int, float]],
    table: str,
    *,
    classes: int | None,
    **settings: Any,
) -> Recipe:
    """Return a recipe by the settings of kvfrans/shortcut-models; shortcut models read the exponent of their step.

    Args:
        numbers: the published FID-50k by number of steps, and the table where it stands.
    """
    return Recipe(
        name=name, title=title, method=method, objective=objective, shape=(4, 32, 32), classes=classes, kind="latents",
        rows=IMAGES if classes else FACES, lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1, clip=None, ema=(0.999,),
        adapters=("StepToken",) if method.startswith("shortcut") else (),
        source=f"{SHORTCUT}; {SHORTCUT_CODE}, README.md and train.py",
        numbers=tuple(Published(v, f"FID-50k, {n} step{'s' * (n > 1)}", table) for n, v in numbers),
        notes=(*notes, *(["samples of 128 steps are guided by 1.5 there"] if classes else []), *UNLIKE), **settings,
    )  # fmt: skip


def _own() -> list[Recipe]:
    """Small ones, for a laptop and for one GPU in about an hour."""
    pair = SortedPair(LogitNormal(mean=-0.4, std=1.0), diagonal=0.75)
    esc = replace(methods.esc(), times=Gradual(pair, horizon=1 / 30), label_dropout=0.0)
    small: dict[str, Any] = {
        "method": "esc", "objective": esc, "kind": PIXELS, "clip": 1.0, "decay": 0.5, "any_classes": True,
        "eval_num": 2000, "source": "sized here",
    }  # fmt: skip
    guided = replace(esc, guidance=Guidance(omega=1.0, kappa=0.5), label_dropout=0.1)
    fashion: dict[str, Any] = {
        "shape": (1, 28, 28), "classes": 10, "rows": 60_000, "objective": guided,
        "data": "Fashion-MNIST, 60,000 images of 28 x 28, ten classes",
    }  # fmt: skip
    folder: dict[str, Any] = {
        "shape": (3, 64, 64),
        "classes": None,
        "data": "a folder of images, cut to 64 x 64",
    }
    laptop, gpu = "two CPU cores, 45 minutes", "one GPU, about an hour"
    less, more = {"eval_num": 1000}, {"eval_num": 10_000}
    best = replace(methods.best(), label_dropout=0.0)
    return [
        Recipe(
            name="digits", title="`best`, a small DiT, 8 x 8 digits, for a laptop",
            **(small | less | {"method": "best", "objective": best, "any_classes": False}), shape=(1, 8, 8), classes=10,
            rows=1797,
            data="the 1,797 digits of scikit-learn", dataset="digits", network="dit-nano", steps=2200, batch=96,
            lr=4e-3, ema=(0.999,), precision="fp32", hardware="one CPU core, 5 minutes",
            measured="FD-pixel 0.28, label accuracy 0.984 in one step; mean of three seeds (benchmarks/digits.md)",
        ),
        Recipe(
            name="fashion-mnist", title="ESC, a small DiT, Fashion-MNIST, for a laptop", **(small | fashion),
            network="dit-nano", steps=7000, batch=128, lr=2e-3, ema=(0.999,), precision="fp32", hardware=laptop,
            measured="37 min on two cores; one step: distance 41, label accuracy 0.92 (benchmarks/fashion_mnist.md)",
        ),
        Recipe(
            name="fashion-mnist-gpu", title="ESC, DiT, Fashion-MNIST, for one GPU", **(small | more | fashion),
            network="dit-small", options={"patch": 2}, steps=40_000, batch=512, lr=3e-4, warmup=0.02, ema=(0.9995,),
            hardware=gpu,
        ),
        Recipe(
            name="folder-64", title="ESC, a small U-Net, your images at 64 x 64, for a laptop", **(small | less),
            **folder, network="unet-small", options={"multipliers": [1, 2, 2, 2], "attention": [3]}, steps=6000,
            batch=32, lr=1e-3, ema=(0.999,), precision="fp32", hardware="two CPU cores, a night",
        ),
        Recipe(
            name="folder-64-gpu", title="ESC, a U-Net, your images at 64 x 64, for one GPU", **(small | more), **folder,
            network="unet-64", options={"width": 64, "dropout": 0.1}, steps=30_000, batch=128, lr=4e-4, warmup=0.02,
            ema=(0.9995,), hardware=gpu,
        ),
    ]  # fmt: skip


ALL: dict[str, Recipe] = {recipe.name: recipe for recipe in (*_esc(), *_meanflow(), *_table_1(), *_own())}
"""Every recipe by its name."""
