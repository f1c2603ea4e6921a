"""Base classes of the parts of an objective, with the default of every property.

| base class      | the part                                                   | lives in       |
|-----------------|------------------------------------------------------------|----------------|
| TimeLaw         | the joint law of the times (t, s, r)                       | `times`        |
| Coupling        | how noise meets data                                       | `couplings`    |
| VelocitySource  | the velocity that drives a target                          | `velocities`   |
| TrainedGuidance | classifier-free guidance in training                       | `guidance`     |
| Identity        | the target of the rows r < t                               | `objectives`   |
| TargetNetwork   | the network that targets are made with                     | `objectives`   |
| Loss            | distance and weight                                        | `losses`       |

A part is a frozen dataclass that inherits from one of these. What it does not say has the default written here, and no
other code asks for a class by name. `refusal` is called where an objective is made, with the whole composition.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol, Self

from torch import Tensor

from flowleap.citations import Cited
from flowleap.derivatives import Derivative
from flowleap.flow_map import Conditioning, FlowMap, Network
from flowleap.parameterization import Parameterization
from flowleap.paths import Path
from flowleap.point import Point, Regression, Target
from flowleap.randomness import RowGenerator
from flowleap.tensors import Image, Label, Time

__all__ = [
    "Composition",
    "Coupling",
    "Draw",
    "Identity",
    "Lands",
    "Loss",
    "Part",
    "TargetNetwork",
    "TimeLaw",
    "TrainedGuidance",
    "VelocitySource",
]

Lands = Literal["nowhere", "data", "next", "anywhere"]
"""Where the rows r < t of a time law land; see `TimeLaw.lands`."""


class Composition(Protocol):
    """An objective as its parts see it; `objectives.Objective` is one."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def parameterization(self) -> Parameterization: ...
    @property
    def conditioning(self) -> Conditioning: ...
    @property
    def times(self) -> TimeLaw: ...
    @property
    def coupling(self) -> Coupling: ...
    @property
    def velocity(self) -> VelocitySource: ...
    @property
    def guidance(self) -> TrainedGuidance | None: ...
    @property
    def target(self) -> Identity: ...
    @property
    def loss(self) -> Loss: ...
    @property
    def frozen(self) -> TargetNetwork: ...
    @property
    def starts_from_teacher(self) -> bool: ...
    @property
    def label_dropout(self) -> float: ...
    @property
    def sampling(self) -> Sampler: ...
    @property
    def steps(self) -> int | None: ...
    @property
    def mixes_rows(self) -> bool: ...
    def progress(self, step: int) -> float: ...


class Sampler(Protocol):
    """How a method is meant to be sampled; `samplers.Sampling` is one."""

    @property
    def start(self) -> float | None: ...
    @property
    def asks_velocity(self) -> tuple[str, str] | None: ...


class Part(Cited, ABC):
    """A part of an objective."""

    @property
    def horizon(self) -> float | None:
        """The fraction of a run after which it no longer changes; None where it does not change."""
        return None

    @property
    def needs_teacher(self) -> bool:
        """Whether a trained map is missing, which `with_teacher` puts in."""
        return False

    def with_teacher(self, flow: FlowMap) -> Self:
        """Return the same part with this trained map in it."""
        return self

    @property
    def asks_velocity(self) -> tuple[str, str] | None:
        """What in it asks the network for its velocity, u(x, t, t), and what to use instead; None: nothing does."""
        return None

    @property
    def asks_null(self) -> bool:
        """Whether the network is asked without its label."""
        return False

    @property
    def teacher_scale(self) -> float | None:
        """The guidance scale at which a teacher is asked; None for none."""
        return None

    @property
    def makes_samples(self) -> bool:
        """Whether samples are made of noise of its own, `Point.extra_noise`, beside the noise that is added to data."""
        return False

    def refusal(self, o: Composition) -> str | None:
        """Return why the part does not fit this composition, and what would; None where it fits."""
        return None


class Draw(NamedTuple):
    """Times of rows of a batch: t ≥ s ≥ r, each (rows,) float32 on the CPU.

    Those of the rows [0, num_jumps) of the global batch have r < t.
    """

    t: Time
    s: Time
    r: Time
    num_jumps: int


class TimeLaw(Part):
    """A joint law of (t, s, r).

    What the rows of a law train decides which targets fit it: `lands`, `has_step`, `has_stop`, `has_diagonal`.
    """

    @property
    @abstractmethod
    def support(self) -> tuple[float, float]:
        """The interval all times lie in."""

    @abstractmethod
    def draw(self, generator: RowGenerator, progress: float) -> Draw:
        """Return the times of some rows of a batch; those of a row depend on no other row.

        Args:
            generator: draws numbers for these rows; `generator.rows` says which they are of the global batch, and
                `generator.total` how many that has.
            progress: the fraction of the run that has passed.
        """

    def on(self, path: Path) -> TimeLaw:
        """Return the law on a path, for one that speaks of noise levels.

        Raises: ValueError where the path has no such levels.
        """
        return self

    @property
    def lands(self) -> Lands:
        """Where rows r < t land. "nowhere": there are none. "data": r = t_min. "next": each t has one r at a time,
        above the data. "anywhere": one t has many r.
        """
        return "data"

    @property
    def has_step(self) -> bool:
        """Whether s < t on the rows r < t; False where s = t."""
        return True

    @property
    def has_stop(self) -> bool:
        """Whether s > r on some rows r < t; False where s = r on all of them."""
        return True

    @property
    def only_full_jumps(self) -> bool:
        """Whether every row jumps from noise to data at once."""
        return False

    @property
    def always_stops(self) -> bool:
        """Whether s > r on every row r < t."""
        return self.has_stop

    @property
    def has_diagonal(self) -> bool:
        """Whether some rows have r = t."""
        return False

    @property
    def finest(self) -> float:
        """The step length in or below which the instantaneous velocity is asked for; 0 for continuous laws."""
        return 0.0

    @property
    def highest(self) -> float | None:
        """The highest time that is drawn, above which nothing is trained; None for the end of the path."""
        return None

    @property
    def group(self) -> int | None:
        """How many neighboring rows share their times and are compared as a set; None where each row has its own."""
        return None

    @property
    def halves(self) -> bool:
        """Whether each jump is made of two of half its length, down to two of the finest."""
        return False

    @property
    def taught_levels(self) -> int | None:
        """The number of levels of jumps, each taught by the one before it; None where all are trained together."""
        return None

    @property
    def solver_steps(self) -> int | None:
        """The network evaluations of the solver whose intervals are drawn; None where they are of no solver."""
        return None

    @property
    def boundary(self) -> float | None:
        """The time below which a first stage of training has learned the map already; None where there is none."""
        return None

    @property
    def boundary_share(self) -> float | None:
        """The share of rows exactly on the boundary; None without one."""
        return None

    def grid_points(self, progress: float) -> tuple[int, int] | None:
        """Return how many points a growing grid began with and has now; None where there is no such grid."""
        return None


class Coupling(Part):
    """A law of the pairs (x, ε)."""

    def noise(self, generator: RowGenerator, shape: tuple[int, ...]) -> Image:
        """Return standard normal noise of some rows, (rows, *shape), float32 on the device of the generator."""
        return generator.normal(*shape)

    def data(
        self,
        x: Image,
        noise: Image,
        label: Label,
        num_jumps: int,
        frozen: FlowMap | None,
        extra_noise: Image | None = None,
    ) -> Image:
        """Return the data that is paired with this noise, like x; the leading `num_jumps` rows are those with r < t.

        `extra_noise` is noise of its own where the coupling `makes_samples`.
        """
        return x

    @property
    def ties_noise(self) -> bool:
        """Whether each noise belongs to one x, the sample that a map makes of it."""
        return False

    @property
    def stored(self) -> bool:
        """Whether the noise comes with the data, `Batch.noise`."""
        return False

    @property
    def mixes_rows(self) -> bool:
        """Whether which x meets a noise depends on the other rows of its class in the batch."""
        return False

    @property
    def splits(self) -> bool:
        """Whether a row does not depend on the network or on other rows, so that a batch may be split anywhere."""
        return False


class VelocitySource(Part):
    """A source of velocities."""

    @abstractmethod
    def __call__(self, point: Point, flow: FlowMap | None = None) -> Image:
        """Return v at every row of the point, (batch, *dims), without a graph."""

    @property
    def marginal(self) -> bool:
        """Whether v is that of a flow, of which each point has one, and not that of the row's own pair."""
        return False

    @property
    def own(self) -> bool:
        """Whether it is the velocity of the network in training."""
        return False

    @property
    def head(self) -> bool:
        """Whether it is that of a velocity head, which the loss trains."""
        return False

    @property
    def averages(self) -> float:
        """The share of rows whose velocity is averaged over the rows of a batch."""
        return 0.0


class TrainedGuidance(Part):
    """Classifier-free guidance that becomes part of the trained weights."""

    @property
    def is_input(self) -> bool:
        """Whether the network is told the scale of each row, so that samples of any scale take single evaluations."""
        return False

    @property
    def head(self) -> bool:
        """Whether it asks the velocity head of the network, which the loss trains, and not the map itself."""
        return False

    @property
    def intervals(self) -> bool:
        """Whether it is told an interval of times for each row, too."""
        return False

    @property
    def largest(self) -> float:
        """The largest scale that the network is told in training, where it is told one."""
        return 1.0

    def draw(self, generator: RowGenerator) -> Tensor | None:
        """Return what the network is told of each row, (rows, 3): the scale, the first and the last guided time.

        None where it is not told.
        """
        return None

    @abstractmethod
    def rows(self, point: Point) -> Tensor:
        """Return the indices of the rows to guide; the times and masks are those of the CPU."""

    @abstractmethod
    def __call__(self, flow: FlowMap, point: Point, velocity: Image, known: Image | None = None) -> Image:
        """Return the guided velocity, like `velocity`.

        Args:
            known: u(x_t, t, t) of `flow`, or of its `head`, on the rows r = t under the labels that it sees, without a
                graph, where it has been asked already; None where it has not.
        """

    @property
    def drives(self) -> bool:
        """Whether the velocity that drives the target is guided, by what the network itself answers."""
        return False

    @property
    def jump_scale(self) -> float:
        """The scale at which frozen jumps of the guided rows are guided."""
        return 1.0

    @property
    @abstractmethod
    def scale(self) -> float:
        """The guidance scale that trained maps have; that of samples for which none is asked where `is_input`."""

    @property
    def guides_velocity(self) -> bool:
        """Whether the trained velocity has that scale too."""
        return False

    def sampling_advice(self, scale: float) -> str | None:
        """Return why samples of this scale are not what is trained, or None."""
        return None


class Identity(Part):
    """An identity turned into a target for the rows r < t: X^θ_{t→r}(x_t) regressed onto X̂_{s→r}(X̂_{t→s}(x_t)).

    Source of the two-step template: Lin et al. 2025 (arXiv 2512.11831).
    """

    @abstractmethod
    def __call__(self, flow: FlowMap, frozen: FlowMap, point: Point) -> Target:
        """Return the target of the rows of `point`, all of which have r < t and carry `point.v` and `point.output`."""

    def predicts(self, own: bool) -> bool:
        """Return whether it asks the student itself; otherwise that is asked before, and the answer is `point.output`.

        Args:
            own: whether targets are made with the network in training, and not with another.
        """
        return False

    def flow_map(self, network: Network, *meaning: Any) -> FlowMap:
        """Return the map of a network; `meaning`: parameterization, path, conditioning and start of a `FlowMap`."""
        return FlowMap(network, *meaning)

    @property
    def template(self) -> Mapping[str, str]:
        """How the identity fills the two-step template, in words; {velocity} and {output} are the objective's."""
        return {}

    @property
    def keep_labels(self) -> bool:
        """Whether rows r < t are never dropped their label."""
        return False

    @property
    def space(self) -> str:
        """What is compared: "output" for network outputs, "map" for points, "velocity" for average velocities u.

        For velocities, which are compared on every row, `__call__` is given maps whose outputs are velocities.
        """
        return "output"

    @property
    def asks_step(self) -> bool:
        """Whether the first step t → s has a length, s < t."""
        return False

    @property
    def derivative(self) -> Derivative | None:
        """How dF/dt is taken; None where no derivative is."""
        return None

    @property
    def differentiates_derivative(self) -> bool:
        """Whether the gradient of the loss runs through the derivative too."""
        return False

    def settled(self, flow: FlowMap, x: Image) -> tuple[Identity, str]:
        """Return the identity with what it leaves open settled for a run, and in words what that is and why, or "".

        Args:
            flow: the map to be trained, under autocast as it is in the run. x: a few rows that it takes.

        Raises: ValueError where the network does not allow what the identity asks for.
        """
        return self, ""

    @property
    def one_landing(self) -> bool:
        """Whether jumps to the same r from several t are compared."""
        return True

    @property
    def driven(self) -> bool:
        """Whether the velocity of the objective reaches the rows r < t."""
        return True

    @property
    def guides_jumps(self) -> bool:
        """Whether both steps of the target are jumps of the network, which `guidance.jump_scale` may guide."""
        return False

    @property
    def network_kind(self) -> str | None:
        """The kind of network that a run trains around the user's; None for the user's as it is."""
        return None

    def regresses_pairs(self, times: TimeLaw) -> bool:
        """Return whether rows r < t are regressed onto the end of their own pair, with times of this law."""
        return False

    def sampling_advice(self, name: str, guidance: float | None) -> list[str] | None:
        """Return, in sentences, what samples of a method of this name with guidance are not trained for.

        None leaves it to the guidance of the objective.
        """
        return None


class TargetNetwork(Part):
    """The network that targets are computed with: a copy of the trained network, or another one."""

    @property
    def copy(self) -> Literal["average", "snapshot"] | None:
        """The copy of the weights that a run keeps: a moving average, or a snapshot when each stage begins."""
        return None

    def decay_at(self, times: TimeLaw, updates: int, progress: float) -> float | None:
        """Return the decay of the moving average at the update after `updates` others; None without an average."""
        return None

    @property
    def taught_by(self) -> str:
        """The method by which a run trains its teacher, where it needs one."""
        return "flow_matching"

    @property
    def stages(self) -> int:
        """The number of stages of a run."""
        return 1

    def stage(self, progress: float) -> int:
        """Return the stage, 0 … stages − 1, once this fraction of the run has passed."""
        return 0

    @property
    def holds_teacher(self) -> bool:
        """Whether targets are computed with a teacher, during a part of the run or for a part of the times."""
        return False

    @property
    def network_kind(self) -> str | None:
        """The kind of network that a run trains around the user's; None for the user's as it is."""
        return None

    @property
    def auxiliary(self) -> Any | None:
        """The objective of another network that is trained in alternation, an `Objective`; None without one."""
        return None

    @property
    def betas(self) -> tuple[float, float] | None:
        """Adam's for both networks; None for those of the run."""
        return None

    @property
    def period(self) -> int:
        """The main network is updated in every period-th step."""
        return 1

    @property
    def lr_scale(self) -> float:
        """A factor of the learning rate of the run."""
        return 1.0

    def for_run(self, steps: int) -> Self:
        """Return the same for a run of `steps` steps."""
        return self

    def resolve(self, o: Composition, flow: FlowMap, given: FlowMap | None, progress: float) -> FlowMap:
        """Return the map that targets are computed with.

        Args:
            flow: the map in training. given: the copy, or the other network, that the run keeps; None for none.
            progress: the fraction of the run that has passed.

        Raises: ValueError where a network is missing.
        """
        return flow if given is None else given


class Loss(Part):
    """A per-sample loss."""

    @abstractmethod
    def __call__(self, regression: Regression, point: Point) -> Tensor:
        """Return (batch,)."""

    @property
    def template(self) -> Mapping[str, str]:
        """The metric and the weight in words, of its fields and of what `inner` says."""
        return {}

    @property
    def inner(self) -> Loss | None:
        """The loss that this one weighs; None for a distance."""
        return None

    def chain(self) -> list[Loss]:
        """Return this loss and those inside it, the outermost first."""
        return [self] if self.inner is None else [self, *self.inner.chain()]

    @property
    def compares_sets(self) -> bool:
        """Whether the rows of a group are compared as a set, so that no row needs to have the target of its own."""
        return False if self.inner is None else self.inner.compares_sets

    @property
    def encoder(self) -> str | None:
        """The file of features that samples and data are compared in; None for the values themselves."""
        return None if self.inner is None else self.inner.encoder

    @property
    def error_power(self) -> float:
        """The power of the error that the loss is divided by: with 1 its value stays near 1 whatever the error is."""
        return 0.0

    @property
    def velocity_head(self) -> bool:
        """Whether the velocity head of the network is trained as well."""
        return False

    @property
    def learned(self) -> str | None:
        """The times that a learned weight is a function of, "t, r" or "t"; None where nothing is learned."""
        return None
