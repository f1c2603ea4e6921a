"""Methods with a teacher, as named compositions like those of `methods.py`.

| method                   | the teacher gives                          | and the student                            |
|--------------------------|--------------------------------------------|--------------------------------------------|
| consistency_distillation | one step t → s along its line              | agrees with its own average at s           |
| progressive_distillation | two steps, then one by the student, …      | makes them in one, level after level       |
| reflow                   | pairs of noise and sample                  | is flow matching on these pairs            |
| ctm                      | many steps t → s along its line            | lands where a shorter jump from s lands    |
| amed                     | its trajectories, and its frozen weights   | learns when and how far to step along them |
| sid                      | the score of its law                       | makes samples whose score is the same      |
| ect_tuned                | nothing but its weights                    | is tuned until neighbors agree             |
| tcm                      | all it knows, as the first of two stages   | learns to jump from high noise levels only |

Each is a plain value that waits for its teacher:

    >>> from flowleap import methods
    >>> objective = methods.get("consistency_distillation")
    >>> objective.needs_teacher, objective.starts_from_teacher
    (True, True)

`objective.with_teacher(flow)` puts the trained map in. Every student starts from the teacher's weights; `ect_tuned`
needs them alone, so that only `needs_run` says that there is a run before it.
"""

from __future__ import annotations

from collections.abc import Callable

from flowleap.couplings import Generated, StoredPairs
from flowleap.guidance import FinestLevel
from flowleap.losses import Boundary, Norm, ScoreIdentity, Squared, Weighted
from flowleap.objectives import (
    EMA,
    AuxiliaryNetwork,
    Consistency,
    FirstStage,
    LearnedSolver,
    Objective,
    Refreshed,
    ScoreGap,
    SelfConsistency,
    Trajectory,
)
from flowleap.parameterization import EDM
from flowleap.paths import VEPath
from flowleap.samplers import Sampling
from flowleap.times import (
    Adjacent,
    Denoising,
    Halving,
    Intervals,
    LogitNormal,
    NoiseLevels,
    OneTime,
    Ratio,
    StudentT,
    Trajectories,
    Truncation,
    Uniform,
)
from flowleap.velocities import Teacher

__all__ = [
    "RECIPES",
    "amed",
    "consistency_distillation",
    "ctm",
    "ect_tuned",
    "progressive_distillation",
    "reflow",
    "sid",
    "tcm",
]


def consistency_distillation(guidance: float | None = None, base_steps: int = 128) -> Objective:
    """Points one teacher step apart lead to the same image (Song et al., 2023), on a fixed grid of 1/128.

    As the baseline of Frans et al. (2024), but without its clipping and its path floor; its teacher is unguided. Like
    its code, sampling chains maps, which only one step is made for; `sampling.renoise=1` adds fresh noise between
    steps, as in Song et al. (2023).

    Args:
        guidance: scale of classifier-free guidance of the teacher; None for none.
        base_steps: the steps of the grid.
    """
    return Objective(
        name="consistency distillation",
        conditioning="t",
        times=Adjacent(base_steps),
        velocity=Teacher(guidance=guidance),
        target=Consistency(),
        loss=Squared(reduce="mean"),
        frozen=EMA(0.999),
        starts_from_teacher=True,
        label_dropout=0.0,
    )


def progressive_distillation(guidance: float | None = None, base_steps: int = 128) -> Objective:
    """One step makes two of the teacher, which the student then becomes (Salimans and Ho, 2022): 64, …, 2, 1 steps.

    As the baseline of Frans et al. (2024), but without its clipping and its path floor, and with new teacher and
    new level in the same step. Only one step is meaningful at the end.

    Args:
        guidance: scale of classifier-free guidance of the first teacher, which all levels inherit; None for none.
        base_steps: the steps of the first teacher, a power of two; each of its halvings is an equal stage of the run.
    """
    times = Halving(base_steps)
    return Objective(
        name="progressive distillation",
        conditioning="t",
        times=times,
        guidance=None if guidance is None else FinestLevel(guidance),
        target=SelfConsistency(),
        loss=Squared(reduce="mean"),
        frozen=Refreshed(stages=times.levels),
        starts_from_teacher=True,
        label_dropout=0.0,
        sampling=Sampling(trained=(1,)),
    )


def reflow() -> Objective:
    """Flow matching on pairs of noise and a teacher's sample from it: straighter lines (Liu et al., 2022)."""
    return Objective(
        name="reflow",
        times=OneTime(Uniform()),
        coupling=StoredPairs(),
        loss=Squared(reduce="mean"),
        starts_from_teacher=True,
        sampling=Sampling(finest=1),
    )


def ctm(guidance: float | None = None, base_steps: int = 8, longest: int | None = None) -> Objective:
    """A jump t → r ends where many steps of a solver and a shorter jump end, compared at the data (Kim et al., 2023).

    The consistency term and the denoising term of the paper; without its discriminator and its perceptual distance.

    Args:
        guidance: scale of classifier-free guidance of the teacher; None for none.
        base_steps: the steps of the grid.
        longest: the most steps that the solver takes at once, None for any number; see `times.Trajectories`.
    """
    return Objective(
        name="consistency trajectory model",
        times=Trajectories(base_steps=base_steps, longest=longest),
        target=Trajectory(Teacher(guidance=guidance)),
        loss=Squared(reduce="mean"),
        frozen=EMA(0.999),
        starts_from_teacher=True,
    )


def sid(alpha: float = 1.2, guidance: float | None = None) -> Objective:
    """The score of one-step samples, learned by a second network, is to equal the teacher's (Zhou et al., 2024).

    Needs no images, only labels. Generation starts at noise of level 2.5, which is t = 2.5/3.5 on the linear path: at
    t = 1 the step of the teacher, which the generator begins as, is the mean of the data whatever the noise.
    The noise levels of both losses are the published ones by t = σ/(1 + σ). The fake score is trained as flow matching;
    the published weight is (1 + 4σ²)/(1 + σ)² times that, 0.8 to 4. Without the augmentation and the scale of the code.
    Both networks learn at a tenth of the run's learning rate, with the published betas. On digits the whole rate was
    half as good after 300 steps, and betas (0.9, 0.95) drove samples away from the data in a hundred, at any rate.

    Args:
        alpha: α of the loss, see `losses.ScoreIdentity`.
        guidance: scale of classifier-free guidance of the teacher's score; None for none.
    """
    start = 5 / 7
    fake = Objective(
        name="fake score",
        conditioning="t",
        times=OneTime(LogitNormal(mean=-1.2, std=1.2)),
        coupling=Generated(),
        label_dropout=0.0,
    )
    return Objective(
        name="score identity distillation",
        conditioning="t",
        times=Denoising(NoiseLevels()),
        target=ScoreGap(Teacher(guidance=guidance)),
        loss=ScoreIdentity(alpha),
        frozen=AuxiliaryNetwork(fake, lr_scale=0.1, betas=(0.0, 0.999)),
        starts_from_teacher=True,
        label_dropout=0.0,
        sampling=Sampling(trained=(1,), start=start),
    )


def amed(steps: int = 4, guidance: float | None = None) -> Objective:
    """The teacher with a learned solver: few evaluations at learned times and scales (Zhou et al., 2023).

    Its weights stay as they are. Needs no images, only labels. What is trained is the predictor of a
    `networks.MeanDirection`, thousands of weights; the sampler is a learned midpoint rule on equal intervals of two
    evaluations.

    Args:
        steps: network evaluations of a sample, 3 to 10; where odd, the last interval takes one, by DDIM.
        guidance: scale of classifier-free guidance of the teacher, which sampling then needs as well; None for none.
    """
    return Objective(
        name="AMED solver",
        times=Intervals(steps),
        target=LearnedSolver(Teacher(guidance=guidance)),
        loss=Squared(reduce="mean"),
        starts_from_teacher=True,
        label_dropout=0.0,
        sampling=Sampling(evaluations=2),
    )


def ect_tuned() -> Objective:
    """A run of flow matching tuned until neighbors on a line lead to the same image (Geng et al., 2024).

    Easy consistency tuning on the linear path with average velocity, so that any run of flow-matching can be tuned: its
    denoised image x − t v is the map to the data that training begins with. Noise levels σ = t/(1 − t), metric and
    weight ‖Δ‖/(σ_t − σ_s) are those of `ect`.
    """
    return Objective(
        name="easy consistency tuning (tuned)",
        conditioning="t",
        times=Ratio(clock="linear"),
        target=Consistency(space="map"),
        loss=Weighted(Norm(), by="1/(level(t) - level(s))"),
        starts_from_teacher=True,
        label_dropout=0.0,
        sampling=Sampling(renoise=1.0),
    )


def tcm(boundary: float = 1.0) -> Objective:
    """A consistency model whose second stage learns high noise levels only (Lee et al., 2024), by two networks in one.

    Truncated consistency training: the first stage is `ect`, frozen below a noise level t' = `boundary` and the start
    of the second, which is trained from there on. A quarter of the rows lie on t', where targets come from the first
    stage; their mean loss counts a tenth. The network of a run is `networks.Truncated`, both stages in one, so that it
    is sampled from any time. Published with pseudo-Huber and other weights on ImageNet; these are the ones of CIFAR-10.

    Args:
        boundary: t', the noise level between the stages.
    """
    return Objective(
        name="truncated consistency model",
        path=VEPath(t_min=0.0),
        parameterization=EDM(),
        conditioning="t",
        times=Truncation(StudentT(low=boundary)),
        target=Consistency(space="map"),
        loss=Boundary(Weighted(Norm(), by="1/(t - s)"), boundary=boundary, weight=0.1),
        frozen=FirstStage(),
        starts_from_teacher=True,
        label_dropout=0.0,
        sampling=Sampling(renoise=1.0),
    )


RECIPES: dict[str, Callable[[], Objective]] = {
    "progressive_distillation": progressive_distillation,
    "consistency_distillation": consistency_distillation,
    "reflow": reflow,
    "ctm": ctm,
    "sid": sid,
    "amed": amed,
    "ect_tuned": ect_tuned,
    "tcm": tcm,
}
"""The methods with a teacher by name, with underscores."""
