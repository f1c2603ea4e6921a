"""All randomness of a training step, drawn for the rows that are here, as functions of (key, stream, step, row).

One process and many see the same draws, each makes those of its own rows alone, and a run that is interrupted resumes
exactly. Times and what is counted are made on the CPU, noise where the data are.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flowleap.flow_map import FlowMap
from flowleap.interfaces import Composition
from flowleap.networks import dropout
from flowleap.point import Batch, Point
from flowleap.randomness import RowGenerator, permutation
from flowleap.tensors import Image, Label, Time, onto

__all__ = ["EARLIEST", "context", "draw", "part", "point"]

EARLIEST = 1e-30
"""The least time of departure, and the least length of a jump, that single precision divides by."""


def draw(o: Composition, batch: Batch, step: int, key: int, frozen: FlowMap | None = None) -> Point:
    """Return the point of a step; see `Objective.draw`."""
    total = batch.total
    if o.mixes_rows and len(batch.x) < total and batch.context is None:
        what = "NearestPairs orders" if o.coupling.mixes_rows else "PlugIn averages over"
        warnings.warn(
            f"{what} the rows of a class that are here, {len(batch.x)} of a global batch of {total}: a process must "
            "hold every row of its classes, or be given those it lacks (Batch.context), or the split changes the "
            "target",
            stacklevel=3,
        )
    slots, rows, numbers = _local(_Order(o, total, step, key), batch.row)

    def random(stream: str, rows: Tensor, device: torch.device | str = "cpu") -> RowGenerator:
        return RowGenerator(key, stream, step, total=total, rows=rows, device=device)

    def chance(share: float, stream: str) -> Tensor | None:
        """Return which rows an event of this probability happens to, or None where it never does."""
        return random(stream, slots).uniform() < share if share else None

    law = o.times.on(o.path).draw(random("times", slots), o.progress(step))
    num_jumps = int((slots < law.num_jumps).sum())
    shape, device = batch.x.shape[1:], batch.x.device
    if batch.noise is None:
        noise = o.coupling.noise(random("noise", numbers, device), shape).to(batch.x)
    else:
        noise = batch.noise[onto(rows, batch.noise.device)]
    extra_noise = None
    if o.coupling.makes_samples or o.target.makes_samples:
        extra_noise = random("latent", numbers, device).normal(*shape).to(batch.x)
    dropped = None if batch.label is None else chance(o.label_dropout, "labels")
    if dropped is not None and o.target.keep_labels:
        dropped[:num_jumps] = False
    plug_in = None if o.velocity.averages == 1 else chance(o.velocity.averages, "plug-in")
    guidance = None if o.guidance is None else o.guidance.draw(random("guidance", slots))
    here = onto(rows, device)
    label = None if batch.label is None else batch.label[here]
    keys = onto(random("dropout", numbers).integers(1 << 31), device)
    with dropout.keyed(keys):
        images, own, known = batch.x[here], noise, label
        if o.coupling.mixes_rows and batch.context_row is not None:
            beside = o.coupling.noise(random("noise", batch.context_row, device), shape).to(batch.x)
            others = (batch.context, beside, batch.context_label)
            images, own, known = map(_joined, (images, own, known), others)
        x = o.coupling.data(images, own, known, num_jumps, frozen, extra_noise)[: len(here)]
    t, s, r = _in_domain(o, law.t, law.s, law.r, num_jumps)
    groups = _groups(o, slots)
    made = point(
        o, x, noise, t, s, r, label, step, dropped, plug_in, groups, num_jumps, extra_noise, guidance
    )
    return replace(made, keys=keys, context=batch.context, context_label=batch.context_label)


def point(
    o: Composition,
    x: Image,
    noise: Image,
    t: Time,
    s: Time,
    r: Time,
    label: Label = None,
    step: int = 0,
    dropped: Tensor | None = None,
    plug_in: Tensor | None = None,
    group: Tensor | None = None,
    num_jumps: int | None = None,
    extra_noise: Image | None = None,
    guidance: Tensor | None = None,
) -> Point:
    """Return a point made without any randomness; see `Objective.point`."""
    low, high = o.path.t_min, o.path.t_max
    wide = torch.promote_types(x.dtype, torch.float32)  # short steps are lost in half precision
    t, s, r = (time.cpu().to(wide) for time in (t, s, r))
    if not len(t) == len(s) == len(r) == len(x):
        raise ValueError(f"{len(x)} rows need as many times, got t: {len(t)}, s: {len(s)}, r: {len(r)}")
    if not bool(((t <= high) & (r >= 0) & (s <= t) & (r <= s)).all()):
        raise ValueError(
            f"times t ≥ s ≥ r in [{low:g}, {high:g}], the domain of {type(o.path).__name__}, are expected"
        )
    if num_jumps is None:
        num_jumps = int((r < t).sum())
        if not bool((r < t)[:num_jumps].all()):
            raise ValueError(
                "rows with r < t come first in a point, then the rows with r = t: sort the rows so"
            )
    t, s, r = (time.clamp_min(low) for time in (t, s, r))
    group = _groups(o, torch.arange(len(x))) if group is None else group
    made = Point(
        path=o.path,
        x=x,
        noise=noise,
        t=t,
        s=s,
        r=r,
        times=torch.stack([t, s, r], dim=1),
        x_t=x,
        num_jumps=num_jumps,
        label=label,
        dropped=dropped,
        plug_in=plug_in,
        group=group,
        guidance=None if guidance is None else guidance.cpu().to(wide),
        group_size=1 if group is None or o.times.group is None else _group_size(group.cpu(), len(x)),
        onward=(s > r).nonzero().squeeze(1),
        extra_noise=extra_noise,
        finest=o.times.finest,
        jump_scale=1.0 if o.guidance is None else o.guidance.jump_scale,
        step=step,
        progress=1.0 if o.steps is None else o.progress(step),
    )
    made = _guided(o, made).to(x.device)
    return replace(made, x_t=o.path.point(x, noise, made.t).to(x.dtype))


def part(o: Composition, total: int, step: int, key: int, index: int, parts: int) -> Tensor:
    """Return which rows of the global batch make up a part of it; see `Objective.part`."""
    order = _Order(o, total, step, key)
    if not 0 <= index < parts <= order.units:
        what = "rows" if order.group == 1 else f"groups of {order.group} rows"
        raise ValueError(
            f"{o.name}: part {index + 1} of {parts} of a batch of {total} rows, which has {order.units} {what}: "
            f"give at most {order.units} parts (processes times micro-batches), or a larger batch"
        )
    if o.mixes_rows:
        return torch.arange(total * index // parts, total * (index + 1) // parts)
    first = torch.arange(index, order.units, parts) * order.group
    return order.rows((first[:, None] + torch.arange(order.group)).flatten())


def context(o: Composition, label: Label, here: Tensor, total: int) -> Tensor:
    """Return the rows elsewhere that belong together with those here; see `Objective.context`."""
    if not o.mixes_rows:
        return torch.empty(0, dtype=torch.int64)
    wanted = torch.ones(total, dtype=torch.bool)
    if label is not None:
        wanted = torch.isin(label.cpu(), label.cpu()[here])
    wanted[here] = False
    return wanted.nonzero().squeeze(1)


def _joined(here: Any, elsewhere: Any) -> Any:
    """Return a tensor of the rows here followed by those elsewhere; None where there are none."""
    return None if here is None or elsewhere is None else torch.cat([here, elsewhere])


def _in_domain(o: Composition, t: Time, s: Time, r: Time, num_jumps: int) -> tuple[Time, Time, Time]:
    """Return the times raised and lowered into the domain of the path, each (rows,).

    No row departs from t = 0 itself, where a path without noise divides by σ(t): the least time is 1e-30.
    """
    t, s, r = (time.clamp(o.path.t_min, o.path.t_max) for time in (t, s, r))
    t = t.clamp_min(EARLIEST)
    s, r = (torch.cat([time[:num_jumps], time[num_jumps:].clamp_min(EARLIEST)]) for time in (s, r))
    return t, s, r


def _groups(o: Composition, slots: Tensor) -> Tensor | None:
    """Return the group of each row by its place in the global order, or None where rows stand alone."""
    size = o.times.group or 1
    if size == 1:
        return None
    group = slots // size
    if bool((torch.bincount(group)[group] != size).any()):
        raise ValueError(
            f"{o.name} compares groups of {size} rows, and {len(slots)} rows here do not make whole ones: "
            f"give every process a multiple of {size} consecutive rows"
        )
    return group


def _group_size(group: Tensor, rows: int) -> int:
    """Return how many rows make a group; those of a group are neighbors, and all groups are alike.

    Raises: ValueError where they are not.
    """
    count = group.unique_consecutive(return_counts=True)[1]
    size = int(count[0])
    if rows != len(group) or bool((count != size).any()) or len(group.unique()) != len(count):
        raise ValueError(
            f"groups of {count.tolist()} rows of {rows}: groups of neighboring rows, all of the same number, are "
            "expected"
        )
    return size


def _guided(o: Composition, made: Point) -> Point:
    """Return the point with the rows that are guided, counted on the CPU."""
    if o.guidance is None:
        return made
    mask = None if made.dropped is None else made.dropped.cpu()
    rows = o.guidance.rows(replace(made, dropped=mask))
    return replace(made, guided=rows, guided_jumps=int((rows < made.num_jumps).sum()))


class _Order:
    """The row of the global batch at each place of a point, and back: a permutation that keeps groups together.

    Raises: ValueError where groups do not fill the batch.
    """

    def __init__(self, o: Composition, total: int, step: int, key: int) -> None:
        self.group, self.total = o.times.group or 1, total
        if total % self.group:
            raise ValueError(
                f"a batch of {total} rows is not made of whole groups of {self.group}: use a batch of "
                f"{max(1, round(total / self.group)) * self.group}, or another times.group"
            )
        self.units = total // self.group
        self.permutation = permutation(key, "order", step, self.units)

    def rows(self, slots: Tensor) -> Tensor:
        """Return the rows at these places."""
        return self.permutation(slots // self.group) * self.group + slots % self.group

    def slots(self, rows: Tensor) -> Tensor:
        """Return the places of these rows."""
        return self.permutation.places(rows // self.group) * self.group + rows % self.group


def _local(order: _Order, row: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the places of the global order that are here, rising, and the row of each, here and in the batch."""
    if row is None:
        slots = torch.arange(order.total)
        rows = order.rows(slots)
        return slots, rows, rows
    row = row.cpu()
    slots, rows = order.slots(row).sort()
    return slots, rows, row[rows]
