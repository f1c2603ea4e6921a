"""Refusals of parts that do not fit one another, raised by `Objective.__post_init__`, with a choice that fits.

Most is said by the parts themselves (`Part.refusal`). What concerns no single part is here: which jumps and velocities
a target asks the network for, and which ones the rows of a time law train.

| target          | first step t → s           | second step               | needs of the law             |
|-----------------|----------------------------|---------------------------|------------------------------|
| Eulerian        | no length, with a velocity | the same r, one rate      | rows down to the landing     |
| Lagrangian      | jump t → r                 | its velocity at r         | every landing, the diagonal  |
| Consistency     | one step with a velocity   | jump s → r                | short steps, or tied pairs   |
| Annealed        | as Consistency, later none| as Consistency            | s < t, s → t                 |
| SelfConsistency | jump t → s                 | jump s → r                | both jumps, and the diagonal |
| Trajectory      | steps with a velocity      | jumps s → r and r → t_min | s > r                        |
| ScoreGap        |                            |                           | no diagonal rows             |
| LearnedSolver   |                            |                           | the intervals of its grid    |

A network that is conditioned on t and r, or on t − r, can learn every jump; others (conditioning="t" or "t,end") have
one jump at each t.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from flowleap import fields as fields_of_parts
from flowleap.flow_map import EVERY_JUMP, FlowMap
from flowleap.interfaces import Composition, Part
from flowleap.objectives.consistency import SHORT
from flowleap.tensors import Image, Label, Time

__all__ = ["check", "within"]


def check(o: Composition) -> None:
    """Refuse an objective whose parts do not fit one another.

    Raises: ValueError: what was given, why it does not fit, and what does.
    """
    for part in within(o):
        fields_of_parts.check(part)
    rules = (
        _numbers,
        _parts,
        _domain,
        _step,
        _conditioning,
        _velocity,
        _null_label,
        _start,
        _boundary,
        _spread,
        _map,
        _target,
    )
    for rule in rules:
        reason = rule(o)
        if reason is not None:
            raise ValueError(reason)


def within(value: Any) -> Iterator[Any]:
    """Yield a part and every part inside it, depth first, but for trained maps."""
    yield value
    for f in fields(value):
        child = getattr(value, f.name)
        if is_dataclass(child) and not isinstance(child, type | FlowMap):
            yield from within(child)


def _kind(part: object) -> str:
    return type(part).__name__


def _numbers(o: Composition) -> str | None:
    if not 0 <= o.label_dropout <= 1:
        return f"label_dropout={o.label_dropout}: a share of the rows in [0, 1] is expected"
    if o.steps is not None and o.steps < 1:
        return f"steps={o.steps}: a run of at least one step is expected"
    if o.velocity.own:
        return (
            "velocity=Own() would regress the diagonal onto itself, and nothing is learned: keep Conditional() or "
            "PlugIn(), and take the derivative along the network's own velocity, target=Eulerian(tangent=Own())"
        )
    return None


def _parts(o: Composition) -> str | None:
    """Refusals of the parts, given the other parts."""
    parts: list[Part] = [o.times, *o.loss.chain(), o.frozen, o.coupling, o.velocity]
    parts += [] if o.guidance is None else [o.guidance]
    return next((reason for part in parts if (reason := part.refusal(o)) is not None), None)


def _map(o: Composition) -> str | None:
    """A map of this parameterization exists on this path, and can be sampled from where it is asked to be."""
    FlowMap(_unasked, o.parameterization, o.path, o.conditioning, o.sampling.start)
    return None


def _unasked(x: Image, t: Time, r: Time, label: Label) -> Image:
    raise AssertionError("this map only carries a path and a parameterization")


def _target(o: Composition) -> str | None:
    return o.target.refusal(o)


def _domain(o: Composition) -> str | None:
    if (o.path.t_max > 1) == (o.times.support[1] > 1):
        return None
    law = "LogNormal(-1.2, 1.2), a law of noise levels" if o.path.t_max > 1 else "LogitNormal(-0.4, 1.0)"
    return (
        f"{_kind(o.times)} draws times in {o.times.support}, but those of {_kind(o.path)} lie in "
        f"[{o.path.t_min:g}, {o.path.t_max:g}]: use {law}"
    )


def _step(o: Composition) -> str | None:
    """A discrete target needs a first step t → s with s < t, and only some laws have rows r < t at all."""
    if not o.target.asks_step or o.times.has_step or o.times.lands == "nowhere":
        return None
    return (
        f"{_kind(o.target)} compares the way from t with that from a point s nearer to the data, and "
        f"{_kind(o.times)} has s = t, where nothing is left to learn: use times such as {SHORT}; or "
        "target=Eulerian(), the limit of no step"
    )


def _conditioning(o: Composition) -> str | None:
    """A network that is not conditioned on r has one output for every r below t."""
    lands, law, rather = o.times.lands, _kind(o.times), 'conditioning="t,r"'
    given = f'conditioning="{o.conditioning}"'
    if o.conditioning == "t-r" and o.path.t_max > 1:
        return (
            f"{given}, but networks read the logarithms of the noise levels of {_kind(o.path)}: use {rather}"
        )
    if o.conditioning in EVERY_JUMP or lands == "nowhere":
        return None
    if lands == "anywhere":
        return f"{given}, but {law} draws any r below t, which one output cannot serve: use {rather}"
    if lands == "next" and o.target.one_landing:
        return (
            f"{given}, but {_kind(o.target)} compares jumps to one r from several t, and {law} has another r "
            f"at every t: use {rather}"
        )
    if o.conditioning == "t" and o.times.has_diagonal:
        return (
            f'conditioning="t", but {law} has rows r = t beside those that jump, which one output cannot serve: use '
            f'conditioning="t,end", or {rather}'
        )
    return None


def _velocity(o: Composition) -> str | None:
    """The velocity of the network, its output at r = t, is trained by rows r = t, or by rows that come near."""
    times = o.times
    near = times.lands == "anywhere" and times.finest == 0 and o.conditioning in EVERY_JUMP
    if times.lands == "nowhere" or times.has_diagonal or near:
        return None
    asked = (
        None if o.guidance is None else o.guidance.asks_velocity,
        o.target.asks_velocity,
        o.coupling.asks_velocity,
        o.sampling.asks_velocity,
    )
    found = next((each for each in asked if each is not None), None)
    if found is None:
        return None
    where = (
        'conditioning="t" it knows the jump to the data in its place: use conditioning="t,r" and a law with such rows'
        if o.conditioning == "t"
        else f"no row of {_kind(times)} has r = t: use a law with such rows"
    )
    return (
        f"{found[0]} asks the network for its velocity, r = t, but {where}, as FullJump(diagonal=0.5) or "
        f"SortedPair(diagonal=0.5), or {found[1]}"
    )


def _null_label(o: Composition) -> str | None:
    """What contrasts labels with none needs the null label, which a teacher of the first stage knows already."""
    if o.label_dropout > 0 or o.frozen.copy == "snapshot":
        return None
    asking = (part for part in (o.guidance, o.coupling) if part is not None and part.asks_null)
    part = next(asking, None)
    if part is None:
        return None
    return (
        f"{_kind(part)} contrasts labels with the null label, which label_dropout=0 never trains: use "
        "label_dropout=0.1"
    )


def _start(o: Composition) -> str | None:
    """Where sampling is asked to start must have been trained."""
    highest, start = o.times.highest, o.sampling.start
    if highest is None or start is None or start <= highest + 1e-6 * o.path.t_max:
        return None
    return (
        f"sampling starts at t = {start:g}, but {_kind(o.times)} draws none above {highest:g}: use "
        "sampling.start=None"
    )


def _boundary(o: Composition) -> str | None:
    if o.times.boundary is None or o.frozen.network_kind is not None:
        return None
    return (
        f"{o.name} learns times above {o.times.boundary:g} only, and what lies below is the first stage of its "
        "training: use frozen=FirstStage(), and objective.with_teacher(flow) with a trained consistency model"
    )


def _spread(o: Composition) -> str | None:
    """The standard deviation of the data is one number, whichever parts state it."""
    stated = {
        f"{field}.sigma_data": part.sigma_data
        for field, value in (("parameterization", o.parameterization), ("loss", o.loss))
        for part in within(value)
        if "sigma_data" in (f.name for f in fields(part))
    }
    if len(set(stated.values())) <= 1:
        return None
    return (
        f"{' and '.join(f'{name}={value:g}' for name, value in stated.items())} state the standard deviation of the "
        "same data: give all the same number"
    )
