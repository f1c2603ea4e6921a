"""Named compositions. Read from top to bottom: each method is the one before it with the parts it changed.

Those with a teacher are in `distillation.py`, and found by name here.

An ablation is one `replace`:

    >>> from dataclasses import replace
    >>> from flowleap import methods, velocities
    >>> without_plug_in = replace(methods.esc(), velocity=velocities.Conditional())
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from flowleap.citations import CITATIONS, Citation
from flowleap.couplings import LivePairs, NearestPairs
from flowleap.data.batching import ClassGroups
from flowleap.derivatives import CentralDifference
from flowleap.distillation import (
    RECIPES,
    amed,
    consistency_distillation,
    ctm,
    ect_tuned,
    progressive_distillation,
    reflow,
    sid,
    tcm,
)
from flowleap.guidance import FinestLevel
from flowleap.losses import (
    AdaptivePower,
    Drift,
    Energy,
    Kernel,
    LearnedCauchy,
    LearnedVariance,
    MomentMatching,
    Norm,
    PseudoHuber,
    ShortJumpsFirst,
    Sinkhorn,
    Squared,
    StepQuotient,
    VelocityHead,
    Weighted,
)
from flowleap.objectives import (
    EMA,
    Annealed,
    Consistency,
    DataLaw,
    Diagonal,
    Eulerian,
    GridEMA,
    Lagrangian,
    Objective,
    Self,
    SelfConsistency,
    Trajectory,
)
from flowleap.parameterization import (
    EDM,
    AverageVelocity,
    ConsistencyEDM,
    ImagePrediction,
    Noise,
    Preconditioned,
    Velocity,
)
from flowleap.paths import LinearPath, TrigPath, VEPath, VPPath
from flowleap.samplers import Sampling
from flowleap.schedules import ExponentialSchedule, SigmoidSchedule
from flowleap.suggest import suggest
from flowleap.times import (
    Curriculum,
    DyadicGrid,
    FullJump,
    Gap,
    Gradual,
    Jumps,
    LogitNormal,
    LogNormal,
    LogNormalAngle,
    NoiseGrid,
    NoiseToData,
    OneTime,
    Particles,
    Ratio,
    SortedPair,
    Split,
    ToData,
    Uniform,
)
from flowleap.velocities import Head, Own, PlugIn

__all__ = [
    "about",
    "add",
    "aliases",
    "alpha_flow",
    "amed",
    "best",
    "citations",
    "consistency_distillation",
    "consistency_training",
    "ctm",
    "ctm_self",
    "de_cm",
    "diffusion",
    "dmf",
    "drifting",
    "ect",
    "ect_tuned",
    "energy_distance",
    "esc",
    "esd",
    "flow_matching",
    "get",
    "ict",
    "imf",
    "imm",
    "live_reflow",
    "lsd",
    "meanflow",
    "names",
    "pmf",
    "progressive_distillation",
    "psd",
    "reflow",
    "remove",
    "sct",
    "shortcut",
    "sid",
    "soflow",
    "split_meanflow",
    "tcm",
    "temf",
    "tim",
    "tvm",
    "v_first",
    "w_flow",
]


def flow_matching() -> Objective:
    """The instantaneous velocity alone, r = t (Lipman et al., 2022; Liu et al., 2022). Needs many steps."""
    return Objective(
        name="flow matching",
        times=OneTime(LogitNormal(mean=-0.4, std=1.0)),
        target=Diagonal(),
        loss=Squared(reduce="mean"),
        sampling=Sampling(finest=1, least=16),
    )


def diffusion() -> Objective:
    """The noise predicted along a variance-preserving path, sampled by DDIM (Song et al., 2020). Needs many steps."""
    return replace(
        flow_matching(),
        name="diffusion",
        path=VPPath(),
        parameterization=Noise(),
        times=OneTime(Uniform()),
    )


def live_reflow(guidance: float | None = None, base_steps: int = 128) -> Objective:
    """Flow matching, and straight lines from noise to the samples of its own eight steps (Frans et al., 2024).

    As their baseline: an eighth of the rows are pairs of noise and what the network makes of it, given to the network
    as such. Fewer than `base_steps` steps sample with that second head. Without its path floor.

    Args:
        guidance: scale of classifier-free guidance in the eight steps; None for none.
        base_steps: from this many steps on, sampling uses the velocity.
    """
    return replace(
        flow_matching(),
        name="live reflow",
        conditioning="t,end",
        times=ToData(share=1 / 8, base_steps=base_steps),
        coupling=LivePairs(steps=8, guidance=guidance),
        target=Consistency(),
        sampling=Sampling(finest=base_steps),
    )


def consistency_training(variant: str = "table1", base_steps: int = 128) -> Objective:
    """Neighboring points of a line between noise and data lead to the same image (Song et al., 2023).

    Args:
        variant: "table1", the baseline of Frans et al. (2024): whole batches on 1, 2, …, 64 equal steps in equal stages
            of the run, a moving average (0.999) as target network, squared error of the velocity. Without its path
            floor. Like its code for inference, sampling adds fresh noise between steps.
            "original": noise levels 0.002 … 80, a grid of 2 to 151 of them, an average whose decay follows the grid
            (μ_0 = 0.95) as target network, squared error of the images; fresh noise between steps of sampling. The
            numbers are those of 256 × 256 images; 64 × 64 images end at 201, `times.end=200`. Published with LPIPS:
            `loss=Perceptual(file=…)`.
            "esc", the column of Lin et al. (2025): the same grid on the trigonometric path, the network gives a
            velocity, no average, r = 0. "esc-linear": the same on the linear path.
        base_steps: "table1": twice the steps of the last stage, a power of two.
    """
    if variant == "table1":
        return replace(
            flow_matching(),
            name="consistency training (table1)",
            conditioning="t",
            times=Curriculum(base_steps),
            target=Consistency(),
            frozen=EMA(0.999),
            label_dropout=0.0,
            sampling=Sampling(renoise=1.0),
        )
    original = replace(
        flow_matching(),
        name="consistency training (original)",
        path=VEPath(),
        parameterization=ConsistencyEDM(),
        conditioning="t",
        times=NoiseGrid(),
        target=Consistency(space="map"),
        frozen=GridEMA(0.95),
        label_dropout=0.0,
        sampling=Sampling(renoise=1.0),
    )
    if variant == "original":
        return original
    if variant in ("esc", "esc-linear"):
        linear = variant == "esc-linear"
        return replace(
            original,
            name=f"consistency training ({variant})",
            path=LinearPath() if linear else TrigPath(),
            parameterization=AverageVelocity() if linear else Velocity(),
            times=NoiseGrid(clock="linear" if linear else "trigonometric"),
            frozen=Self(),
        )
    raise ValueError(
        f'consistency_training(variant={variant!r}): expected "table1", "original", "esc" or "esc-linear"'
    )


def ict() -> Objective:
    """Consistency training without an average: grids that double, pseudo-Huber loss, more weight on short steps.

    Improved consistency training (Song and Dhariwal, 2023): 11 to 1281 noise levels, ln t ~ N(−1.1, 2²) on the grid,
    pseudo-Huber of the images with c = 0.00054 √D, weight 1/(t − s).
    """
    return replace(
        consistency_training("original"),
        name="improved consistency training",
        times=NoiseGrid(start=10, end=1280, growth="doubling", law=LogNormal(mean=-1.1, std=2.0)),
        loss=Weighted(PseudoHuber(), by="1/(t - s)"),
        frozen=Self(),
    )


def ect() -> Objective:
    """Diffusion training that becomes consistency training: s/t rises from 0 to 1 in stages (Geng et al., 2024).

    Easy consistency tuning, here from scratch: EDM's network on noise levels 0 … 80, ln t ~ N(−1.1, 2²), s/t closes in
    8 stages, ‖Δ‖/(t − s) of the images. From a run of flow matching: `ect_tuned`.
    """
    return replace(
        ict(),
        name="easy consistency tuning",
        path=VEPath(t_min=0.0),
        parameterization=EDM(),
        times=Ratio(),
        loss=Weighted(Norm(), by="1/(t - s)"),
    )


def shortcut(variant: str = "paper", guidance: float | None = None, base_steps: int = 128) -> Objective:
    """One jump of size d equals two of d/2, down to d = 1/128 (Frans et al., 2024).

    Args:
        variant: "paper": a quarter of the batch jumps, each row with a size of its own, t uniform on the diagonal.
            "repo": an eighth, fixed quotas per size, t on the grid, |x_s| and targets clipped at 4, 1e-5 path floor.
            "esc": the baseline of Lin et al. (2025): of the paper the quarter, of its code quotas, grid and clip, but
            without path floor; jumps start anywhere on the grid, the network as it stands makes the target instead of
            an average, and errors are summed. Their networks are given t − r, 1/128 on the diagonal where it is 0 here.
        guidance: scale of classifier-free guidance at the finest level, inherited upwards; None for none.
        base_steps: the steps of the finest sampler, a power of two.
    """
    paper = replace(
        flow_matching(),
        name="shortcut",
        times=DyadicGrid(share=1 / 4, base_steps=base_steps, law=Uniform()),
        guidance=None if guidance is None else FinestLevel(guidance),
        target=SelfConsistency(),
        frozen=EMA(0.999),
        sampling=Sampling().with_base(base_steps),
    )
    if variant == "paper":
        return paper
    if variant == "repo":
        return replace(
            paper,
            name="shortcut-repo",
            path=LinearPath(sigma_min=1e-5),
            times=DyadicGrid(share=1 / 8, base_steps=base_steps, quotas=True),
            target=SelfConsistency(clip=4.0),
        )
    if variant == "esc":
        return replace(
            paper,
            name="shortcut-esc",
            times=DyadicGrid(share=1 / 4, base_steps=base_steps, quotas=True, anywhere=True),
            target=SelfConsistency(clip=4.0),
            loss=Squared(reduce="sum"),
            frozen=Self(),
        )
    raise ValueError(f'shortcut(variant={variant!r}): expected "paper", "repo" or "esc"')


def meanflow() -> Objective:
    """Average velocity learned from its own total derivative (Geng et al., 2025)."""
    return replace(
        flow_matching(),
        name="meanflow",
        times=SortedPair(LogitNormal(mean=-0.4, std=1.0), diagonal=0.75),
        target=Eulerian(),
        loss=AdaptivePower(power=1.0, eps=1e-2, reduce="sum"),
        sampling=Sampling(),
    )


def imf(head: bool = False) -> Objective:
    """MeanFlow whose derivative follows the network's own velocity (Geng et al., 2025), half of the rows on r = t.

    Improved MeanFlow: V = u + (t − r) sg(du/dt) is regressed onto v, with du/dt along u(x, t, t) in place of the
    velocity of the pair. V − v is u − (v − (t − r) du/dt), so that the target is MeanFlow's but for the tangent.
    Unguided; published with the scale and the interval as inputs, `guidance=GuidanceInput()`, so that one run is
    sampled at any scale. The paper also conditions on the length of a jump alone, `conditioning="t-r"`.

    Args:
        head: whether the tangent comes from a second head of the network, which learns the velocity beside the map and
            is dropped afterwards; `GuidanceInput(by_head=True)` asks it as well. On the command line:
            `--set target.tangent=Head --set loss=VelocityHead`.
    """
    plain = replace(
        meanflow(),
        name="improved meanflow",
        times=SortedPair(LogitNormal(mean=-0.4, std=1.0), diagonal=0.5),
        target=Eulerian(tangent=Own()),
    )
    if not head:
        return plain
    return replace(plain, target=Eulerian(tangent=Head()), loss=VelocityHead(plain.loss))


def lsd() -> Objective:
    """Lagrangian self-distillation: a jump moves, where it lands, with the network's own velocity (Boffi et al., 2025).

    ‖∂_r X_{t→r}(x_t) − sg u(X_{t→r}(x_t), r, r)‖² on a quarter of the rows, t and r of them two uniform draws; the
    others are flow matching, the only rows that see data. The gradient runs through the derivative in r, in which
    nothing is differentiated in x; the velocity and the point it is taken at have none. Squared errors, no average.
    The paper weighs with a learned function of both times besides: `loss=LearnedVariance()`.
    """
    return replace(
        flow_matching(),
        name="lagrangian self-distillation",
        times=SortedPair(Uniform(), diagonal=0.75),
        target=Lagrangian(),
        sampling=Sampling(),
    )


def esd() -> Objective:
    """Eulerian self-distillation: a jump ends at the same point wherever on its line it begins (Boffi et al., 2025).

    Of LSD, with d/dt X_{t→r}(x_t) = 0 along the network's own velocity: ‖∂_t X + sg[(∇_x X) u(x_t, t, t)]‖². The
    gradient runs through X and through its derivative in t; the derivative in x and the velocity have none, which the
    paper leaves open. MeanFlow regresses the velocity of the pair instead, and differentiates no derivative.
    """
    return replace(
        lsd(),
        name="eulerian self-distillation",
        target=Eulerian(velocity=Own(), through_time=True),
    )


def tvm() -> Objective:
    """Terminal velocity matching: LSD with the velocity of an average, jumps drawn by length (Zhou et al., 2025).

    ‖∂_r X_{t→r}(x_t) − ū(sg X_{t→r}(x_t), r, r)‖² on half of the rows and flow matching on the others, ū of weights
    averaged with decay 0.99. The gradient runs through the derivative in r. Here each row has one of the two terms,
    where the code has both for every image. Published with guidance, `guidance=Guidance(omega=2.0)`, whose label-free
    part is the average's, and every term divided by ω; with `qk_norm` and normalized modulation (`double_norm`) in the
    network, and with the scale as an input or not.
    """
    return replace(lsd(), name="terminal velocity matching", times=Gap(), frozen=EMA(0.99))


def tim() -> Objective:
    """Transition models: MeanFlow by a difference along the path of each pair, no derivative (Wang et al., 2025).

    v − (t − r)(F(x_{t+ε}, t + ε, r) − F(x_{t−ε}, t − ε, r))/2ε, x_{t±ε} of the same data and noise, ε = 0.005. Half of
    the rows have r = t, a tenth r = 0 (on average: two tenths of the jumps, drawn row by row). The mean squared error
    is divided by itself plus 1e-5 and weighed by 1/√(tan t − tan r + 1). Guidance asks for another velocity than the
    pair's: then `target=Eulerian(CentralDifference())`. Without the cosine loss, the aligned features and the
    time-aware attention of the code.
    """
    return replace(
        meanflow(),
        name="transition models",
        times=Jumps(share=0.5, to_data=0.2),
        target=Eulerian(CentralDifference(eps=5e-3, along="path")),
        loss=Weighted(AdaptivePower(power=1.0, eps=1e-5, reduce="mean"), by="1/sqrt(tan(t) - tan(r) + 1)"),
    )


def pmf() -> Objective:
    """Pixel MeanFlow: improved MeanFlow of a network that predicts an image, errors of velocities (Lu et al., 2026).

    u = (x_t − F)/max(t, 0.05), u* = v − (t − r) du/dt along the network's own velocity u(x_t, t, t), t and r two draws
    of LN(0.8, 0.8²), half of the rows r = t. With du/dt along v it would be the loss of `meanflow` of another
    parameterization. The published network has a second output for the velocity, and guidance as an input
    (`guidance=GuidanceInput()`); its loss has perceptual terms besides, by features that you give:
    `loss=WithPerceptual("lpips_vgg.pth")`. There (x_t − x)/max(t, 0.05) stands for v, which
    differs below t = 0.05 alone, where this law draws a row in a million.
    """
    return replace(
        imf(),
        name="pixel meanflow",
        parameterization=ImagePrediction(floor=0.05),
        times=SortedPair(LogitNormal(mean=0.8, std=0.8), diagonal=0.5),
        target=Eulerian(space="velocity", tangent=Own()),
    )


def dmf() -> Objective:
    """Decoupled MeanFlow: the first blocks of the network know t, the last ones r (Lee et al., 2025).

    The loss of MeanFlow, half of the rows r = t: there t ~ LN(0, 1), elsewhere t and r are the larger and the smaller
    of LN(0.4, 1) and LN(−1.2, 1); ln(e^{−ℓ} m + 0.01) + ℓ of the mean squared error, ℓ learned. What decouples is an
    option of the transformer: `--set network.decoder=2` tells the last 2 blocks, a third of them, r in the place of t;
    without it this is the loss alone. Published for a flow model that is tuned, `--init` with a run of flow-matching,
    with guidance `Guidance(omega=1.0, kappa=0.6, window=(0.0, 0.7))`; from scratch its authors find MeanFlow more
    efficient.
    """
    return replace(
        meanflow(),
        name="decoupled meanflow",
        times=Jumps(
            share=0.5, jump=LogitNormal(0.4, 1.0), landing=LogitNormal(-1.2, 1.0), law=LogitNormal(0.0, 1.0)
        ),
        loss=LearnedCauchy(Squared(reduce="mean"), eps=0.01),
    )


def sct(path: str = "trigonometric") -> Objective:
    """Consistency training in the limit of no step, without a teacher (Lu and Song, 2024): one time, jumps to the data.

    The discrete variant of the same method is another target with times that have a step, and back:

        >>> from dataclasses import replace
        >>> from flowleap import methods, objectives, times
        >>> grid = times.NoiseGrid(clock="trigonometric")
        >>> discrete = replace(methods.sct(), target=objectives.Consistency(), times=grid)
        >>> discrete.target.template["model type"], methods.sct().target.template["model type"]
        ('discrete', 'continuous, s → t')

    The warm-up is 10,000 steps in the paper, a fortieth of the run here. Two steps (`steps=2`) go through the middle of
    the path, with fresh noise; the published stop is at 1.1 rad, `times=(1, 0.7, 0)`. Adam's betas are published as
    (0.9, 0.99): `--set optimizer.betas=0.9,0.99`.

    Args:
        path: "trigonometric": F per angle and unit of the data, ln σ ~ N(−1, 1.4²), a tangent of normalized length
            (c = 0.1, which is 0.2 in units of F), 1/(σ_d tan θ) and a learned weight on the squared error.
            "linear": the average velocity, the logit-normal law of the same numbers, warm-up and learned weight, but no
            normalization and no other weight, as Lin et al. (2025) have it. In their code three quarters of the rows
            have r = t besides: `conditioning="t,end"` and `times.diagonal=0.75`.

    Raises: ValueError for another path.
    """
    if path not in ("trigonometric", "linear"):
        raise ValueError(f'sct(path={path!r}): expected "trigonometric" or "linear"')
    linear = replace(
        flow_matching(),
        name="sct-linear",
        conditioning="t",
        times=FullJump(LogitNormal(mean=-1.0, std=1.4)),
        target=Eulerian(warmup=1 / 40),
        loss=LearnedVariance(Squared(reduce="mean")),
        sampling=Sampling(renoise=1.0),
    )
    if path == "linear":
        return linear
    spread = 0.5
    return replace(
        linear,
        name="sct",
        path=TrigPath(noise_scale=spread),
        parameterization=Preconditioned(Velocity(), sigma_data=spread, gain=spread * math.pi / 2),
        times=FullJump(LogNormalAngle(mean=-1.0, std=1.4, noise_scale=spread)),
        target=Eulerian(warmup=1 / 40, weighting="cos2", normalize=0.1 / spread),
        loss=LearnedVariance(Weighted(Squared(reduce="mean"), by="alpha/(kappa sigma)")),
    )


def imm(group: int = 4) -> Objective:
    """Samples at r from t have the distribution of those from s, one small step nearer (Zhou et al., 2025), by MMD.

    Inductive moment matching: noise of the scale of the data, σ_d = 0.5, jumps x − (t − r) σ_d F. Made for data of
    about that standard deviation, such as images in [−1, 1]; give other data its own by path.noise_scale,
    parameterization.sigma_data and gain, and loss.sigma_data. Samples chain maps from t = 0.994 (pushforward);
    sampling.renoise=1 goes to the data in each step and adds fresh noise (restart). Guidance is at sampling only.

    Args:
        group: how many particles share their times and are compared; it must divide the batch.
    """
    return replace(
        flow_matching(),
        name="inductive moment matching",
        path=LinearPath(noise_scale=0.5),
        parameterization=Preconditioned(AverageVelocity(), sigma_data=0.5, gain=0.5),
        times=Particles(group),
        target=Consistency(space="map", keep_labels=False),
        loss=MomentMatching(),
        frozen=Self(),
        sampling=Sampling(),
    )


def energy_distance(features: str | None = None, group: int = 16) -> Objective:
    """Samples made in one step have the law of the data, by the energy distance of sets (Bellemare et al., 2017).

    No time and no path: each sample is drawn to the data and away from other samples, by unit vectors, as in TBSM
    (arXiv 2607.18198). Trained for one step. On images it needs features: raw pixels are compared as points.

    Args:
        features: the file of a classifier or an encoder (`flowleap data classifier`, `data encoder`); None compares raw
            coordinates.
        group: how many rows, of one class, are compared as a set; it must divide the batch.
    """
    return replace(
        flow_matching(),
        name="energy distance",
        times=NoiseToData(group),
        target=DataLaw(),
        loss=Drift(Energy(), features),
        label_dropout=0.0,
        batching=ClassGroups(group),
        sampling=Sampling(trained=(1,)),
    )


def w_flow(features: str | None = None, group: int = 16) -> Objective:
    """As `energy_distance`, along the gradient flow of the Sinkhorn divergence (Han et al., 2026): optimal transport.

    Without its guidance. Args: as of `energy_distance`.
    """
    return replace(energy_distance(features, group), name="w-flow", loss=Drift(Sinkhorn(), features))


def drifting(features: str | None = None, group: int = 16) -> Objective:
    """As `energy_distance`, along a field of normalized kernels at three temperatures (Deng et al., 2026).

    Without its guidance, and with data of the batch where the paper keeps a memory of data. Args: as of
    `energy_distance`.
    """
    return replace(energy_distance(features, group), name="drifting", loss=Drift(Kernel(), features))


def ctm_self(base_steps: int = 8, longest: int | None = None) -> Objective:
    """The consistency trajectory model from scratch: its own average is the teacher that the solver follows.

    Args: as of `ctm`.
    """
    return replace(
        ctm(base_steps=base_steps, longest=longest),
        name="consistency trajectory model (self)",
        target=Trajectory(solver=Own()),
        starts_from_teacher=False,
    )


def esc() -> Objective:
    """MeanFlow with the four components of the explicit shortcut model (Lin et al., 2025), each one field.

    Unguided; the published B/2 adds `guidance=Guidance(omega=1.0, kappa=0.5)`.
    """
    return replace(
        meanflow(),
        name="esc",
        velocity=PlugIn(probability=0.5),
        times=Gradual(SortedPair(LogitNormal(mean=-0.4, std=1.0), diagonal=0.75), horizon=1 / 30),
        loss=LearnedVariance(AdaptivePower(power=1.0, eps=1e-3, reduce="sum")),
        batching=ClassGroups(),
    )


def best() -> Objective:
    """MeanFlow with what made its one step better on the same seconds of training, each one field (docs/log.md).

    Squared error in place of an adaptive weight: digits, FD-pixel in one step after 1,200 steps, 0.658 → 0.539. Noise
    paired with near data by optimal transport inside each class: 0.539 → 0.419. Half of the rows jump in place of a
    quarter: 0.419 → 0.378.

    Unguided; with labels, `guidance=Guidance(omega=1.0, kappa=0.5)` learns to be guided by 2.
    """
    return replace(
        meanflow(),
        name="best",
        times=Jumps(share=0.5),
        coupling=NearestPairs(),
        loss=Squared(reduce="mean"),
        batching=ClassGroups(),
    )


def de_cm() -> Objective:
    """MeanFlow on three kinds of rows: jumps to the data, jumps from noise, and the diagonal (Dong et al., 2026).

    The times of the dual-end consistency model, r = 0, t = 1 and r = t, from scratch; published is a distillation, and
    the shares of the kinds are a choice of this library: three quarters of the rows have r = t, as in MeanFlow, and the
    others are half to the data, half from noise. Rows to the data determine the map to the data from every t. Those
    from noise have no neighbors t < 1 with the same landing, and rest on what the network makes of ∂u/∂t at t = 1;
    `times.from_noise=0.25` leaves a quarter of the jumps as pairs, which are such neighbors. Several steps therefore
    go to the data and add fresh noise; sampling.renoise=0 chains the map from noise with that to the data.
    """
    return replace(
        meanflow(),
        name="dual-end consistency model",
        times=Jumps(0.25, LogitNormal(mean=-0.4, std=1.0), to_data=0.5, from_noise=0.5),
        sampling=Sampling(renoise=1.0),
    )


def temf() -> Objective:
    """MeanFlow with a weight by the length of a jump and ever more jumps (temporal equilibrium, Tu et al., 2026).

    w(d) = 1/((1 + d/2) √(1 + d²)), d = t − r, evens out the variance of gradients, bounded by C₁/d + C₂ d². The share
    of jumps is 0.1 + 0.8 σ(8 (p − 0.6)) at progress p; the second time of a pair is uniform. The law of t and the rest
    are MeanFlow's. The numbers are those of a summary of the paper. Published with guidance that is mixed with the
    prediction of the network, `guidance=Guidance(omega=…, mix=LinearSchedule(0.3, 0.1))`.
    """
    law = LogitNormal(mean=-0.4, std=1.0)
    return replace(
        meanflow(),
        name="temporal equilibrium meanflow",
        times=Jumps(SigmoidSchedule(0.1, 0.9, slope=8.0, middle=0.6), law, landing=Uniform(), law=law),
        loss=Weighted(AdaptivePower(power=1.0, eps=1e-2, reduce="sum"), by="temporal equilibrium"),
    )


def v_first() -> Objective:
    """MeanFlow that learns velocity and short jumps first (Kim et al., 2025).

    Jumps weigh β = 1 − q + q (1 − d)/(1 − E[d]), d = t − r, where q falls from 1 to 0 in the course of the run; rows
    r = t weigh min(SNR, 5)/(SNR + 1). For larger networks the paper has another law of t in place of this second
    weight, which stands in the way of the adaptive one.
    """
    return replace(
        meanflow(),
        name="velocity-first meanflow",
        loss=ShortJumpsFirst(
            Weighted(AdaptivePower(power=1.0, eps=1e-2, reduce="sum"), by="min(SNR, 5)/(SNR + 1)"), mean=0.233
        ),
    )


def alpha_flow() -> Objective:
    """From velocity regression over long steps to MeanFlow, by a step that shrinks (α-Flow, Zhang et al., 2025).

    s = t − α(t − r), target α v + (1 − α) u(x_s, s, r), weight α; α falls from 1 to 0 by a sigmoid of slope 25 over the
    whole run, and is 1 above 0.995 and 0, which is MeanFlow, below 0.005. Half of the rows have r = t, as published
    without guidance (a quarter with). The largest published runs clip targets at 4 and let α fall between half and five
    sixths of the run: `times.at.slope=75` and `times.at.middle=0.667`.
    """
    return replace(
        meanflow(),
        name="alpha-flow",
        times=Split(
            SortedPair(LogitNormal(mean=-0.4, std=1.0), diagonal=0.5),
            at=SigmoidSchedule(1.0, 0.0, slope=25.0, snap=0.005),
        ),
        target=Annealed(),
        loss=Weighted(AdaptivePower(power=1.0, eps=1e-3, reduce="mean"), by="(t - s)/(t - r)"),
    )


def soflow() -> Objective:
    """Jumps from two near points of a line end together, by forward passes alone (SoFlow, Luo et al., 2025).

    s = t − ρ(t − r), ρ from 0.1 to 0.002; the loss weighs the difference quotient of the two ends. Rows r = t and jumps
    have times of their own. Published for CIFAR-10: no rows r = t, ρ from 1 to 1/3200, power 0.75 and c = 0.001,
    logit-normal laws of mean −0.9 and −4, spread 1.6. Several steps go to the data and add fresh noise.

    Published with `guidance=Guidance(omega=3.0, window=(0.0, 0.8), mix=0.25)`, where the scale fades out above t = 0.8
    within a few hundredths, and the prediction is mixed in at all times.
    """
    return replace(
        meanflow(),
        name="solution flow",
        times=Split(
            Jumps(
                share=0.25,
                jump=LogitNormal(mean=0.2, std=0.8),
                landing=LogitNormal(mean=-1.0, std=0.8),
                law=LogitNormal(mean=-0.2, std=1.0),
            ),
            at=ExponentialSchedule(0.1, 0.002),
        ),
        target=Consistency(keep_labels=False),
        loss=StepQuotient(AdaptivePower(power=1.0, eps=1e-2, reduce="mean")),
        sampling=Sampling(renoise=1.0),
    )


def psd(split: str = "uniform") -> Objective:
    """One jump equals two, split anywhere: progressive self-distillation of flow maps (Boffi et al., 2025).

    Uniform pairs, three quarters of the rows with r = t; the target is made by the network as it stands.

    Args:
        split: "uniform": the stop is uniform between t and r. "midpoint": half-way, as in shortcut models, but from
            any t to any r.

    Raises: ValueError for another split.
    """
    if split not in ("uniform", "midpoint"):
        raise ValueError(f'psd(split={split!r}): expected "uniform" or "midpoint"')
    return replace(
        flow_matching(),
        name="progressive self-distillation" + (" (midpoint)" if split == "midpoint" else ""),
        times=Split(SortedPair(Uniform(), diagonal=0.75), at=0.5 if split == "midpoint" else Uniform()),
        target=SelfConsistency(keep_labels=False),
        sampling=Sampling(),
    )


def split_meanflow() -> Objective:
    """One jump equals two, split anywhere: interval splitting from scratch (SplitMeanFlow, Guo et al., 2025).

    `psd` with half of the rows on r = t, the least that the paper advises: without them a network that never moves
    satisfies the identity. Published as a distillation, with the guided velocity of a teacher on these rows.
    """
    return replace(
        psd(),
        name="split meanflow",
        times=Split(SortedPair(Uniform(), diagonal=0.5), at=Uniform()),
    )


_METHODS: dict[str, Callable[[], Objective]] = {
    "flow_matching": flow_matching,
    "diffusion": diffusion,
    "consistency_training": consistency_training,
    "consistency_training_original": lambda: consistency_training("original"),
    "consistency_training_esc": lambda: consistency_training("esc"),
    "consistency_training_esc_linear": lambda: consistency_training("esc-linear"),
    "ict": ict,
    "ect": ect,
    "live_reflow": live_reflow,
    "shortcut": shortcut,
    "shortcut_repo": lambda: shortcut("repo"),
    "shortcut_esc": lambda: shortcut("esc"),
    "meanflow": meanflow,
    "esc": esc,
    "best": best,
    "imf": imf,
    "de_cm": de_cm,
    "lsd": lsd,
    "esd": esd,
    "temf": temf,
    "v_first": v_first,
    "alpha_flow": alpha_flow,
    "soflow": soflow,
    "psd": psd,
    "psd_midpoint": lambda: psd("midpoint"),
    "split_meanflow": split_meanflow,
    "tvm": tvm,
    "tim": tim,
    "pmf": pmf,
    "dmf": dmf,
    "sct": sct,
    "sct_linear": lambda: sct("linear"),
    "imm": imm,
    "energy_distance": energy_distance,
    "w_flow": w_flow,
    "drifting": drifting,
    "ctm_self": ctm_self,
    **RECIPES,
}
_ALIASES = {"consistency_training_table1": "consistency_training"}
_OWN: dict[str, Callable[[], Objective]] = {}


def names() -> tuple[str, ...]:
    """Return the names of all methods, with underscores; those that were added come last."""
    return (*_METHODS, *_OWN)


def aliases() -> dict[str, str]:
    """Return other names of methods, and what they stand for."""
    return dict(_ALIASES)


def add(name: str, make: Callable[[], Objective]) -> None:
    """Make a method of your own known by a name: a function that returns its objective.

    Raises: ValueError where the name is taken.
    """
    if name in _METHODS or name in _ALIASES or name in _OWN:
        raise ValueError(f"there is a method {name.replace('_', '-')} already: give yours another name")
    _OWN[name] = make


def remove(name: str) -> None:
    """Forget a method that was added."""
    _OWN.pop(name, None)


def about(name: str) -> str:
    """Return the docstring of a method, empty for a variant without a function of its own."""
    make = _OWN.get(name) or (globals()[name] if name in __all__ else None)
    return (make.__doc__ or "") if make is not None else ""


def key(name: str) -> str:
    """Return the name of a method with underscores, as configs and folders hold it."""
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def get(name: str) -> Objective:
    """Return a method by name, with underscores or hyphens.

    Raises: ValueError for an unknown name, naming its neighbors.
    """
    found = _ALIASES.get(key(name), key(name))
    if found in _METHODS:
        return _METHODS[found]()
    if found in _OWN:
        return _OWN[found]()
    near = suggest(found.replace("_", "-"), (known.replace("_", "-") for known in (*names(), *_ALIASES)))
    raise ValueError(f"unknown method {name!r}{near}")


def citations(method: str | Objective) -> list[Citation]:
    """Return the papers of exactly the parts in use, in the order of the composition."""
    objective = get(method) if isinstance(method, str) else method
    keys = dict.fromkeys(key for part in objective.parts() for key in part.cites)
    return [CITATIONS[key] for key in keys]
