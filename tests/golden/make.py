"""What is frozen of every method: its draws, targets, losses, gradients and samples, and how it is written down.

`python tests/golden/make.py` writes the files beside it anew, but for numbers that agree with those that are there. It
is run on purpose only: when a method is new, or when its numbers are meant to change. What users type and import
(surface.json) is that of a release, and written anew with `--surface` alone.
"""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowleap import Batch, FlowMap, Objective, Point, methods, networks, serialize
from flowleap.derivatives import CentralDifference, ExactJVP
from flowleap.guidance import Guidance, GuidanceInput
from flowleap.objectives import Consistency, Eulerian
from flowleap.parameterization import EDM, Velocity
from flowleap.paths import TrigPath, VEPath
from flowleap.schedules import LinearSchedule, SigmoidSchedule
from flowleap.tensors import classes_of, like
from flowleap.times import (
    FullJump,
    Jumps,
    LogitNormal,
    LogNormal,
    NoiseGrid,
    OneTime,
    Ratio,
    SortedPair,
    Uniform,
)
from flowleap.velocities import Own, PlugIn, Teacher

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # where this is run as a script

from golden import surface

NUMBERS, OBJECTIVES = HERE / "numbers.json", HERE / "objectives.json"
TIGHT, EXACT = 1e-10, 12
"""The tolerance of what is computed in float64, as a share of the sum of absolute values, and the digits written down.
"""
LOOSE, SINGLE = 1e-5, 9
"""Those of what is drawn in float32: libraries and processors differ in the last bits of a logarithm."""
RUN, STEPS, KEY = 120, (1, 60, 119), 7
ROWS = {"shortcut_repo": 56, "shortcut_esc": 28}
"""Rows of a batch where 16 are too few for every size of a jump."""
D = torch.float64
Made = Callable[[], Objective]


def changed(name: str, **parts: Any) -> Made:
    return lambda: replace(methods.get(name), **parts)


CASES: dict[str, Made] = {
    **{name: (lambda name=name: methods.get(name)) for name in methods.names()},
    "consistency_training, 16 steps": lambda: methods.consistency_training(base_steps=16),
    "consistency_distillation, guided": lambda: methods.consistency_distillation(guidance=1.5, base_steps=16),
    "progressive_distillation, guided": lambda: methods.progressive_distillation(guidance=1.5, base_steps=16),
    "live_reflow, guided": lambda: methods.live_reflow(guidance=2.0, base_steps=16),
    "shortcut, guided": lambda: methods.shortcut(guidance=1.5, base_steps=4),
    "shortcut_repo, guided": lambda: methods.shortcut("repo", guidance=1.5, base_steps=4),
    "ctm, guided": lambda: methods.ctm(guidance=1.5, longest=2),
    "ctm_self, 4 steps": lambda: methods.ctm_self(base_steps=4),
    "sid, guided": lambda: methods.sid(alpha=1.0, guidance=1.5),
    "amed, guided, odd": lambda: methods.amed(steps=5, guidance=1.5),
    "tcm, another boundary": lambda: methods.tcm(boundary=0.5),
    "imm, groups of 2": lambda: methods.imm(group=2),
    "esc, guided": changed("esc", guidance=Guidance(omega=1.0, kappa=0.5)),
    "imf, guidance as an input": changed("imf", guidance=GuidanceInput(power=2.0)),
    "imf, lengths of jumps": changed("imf", conditioning="t-r"),
    "esc, all rows plug in": changed("esc", velocity=PlugIn(1.0)),
    "meanflow, guided": changed("meanflow", guidance=Guidance(0.2, 0.92, (0.0, 0.75))),
    "temf, guided": changed("temf", guidance=Guidance(2.0, 0.0, (0.0, 0.9), mix=LinearSchedule(0.3, 0.1))),
    "meanflow, one pass": changed("meanflow", target=Eulerian(ExactJVP())),
    "meanflow, difference": changed("meanflow", target=Eulerian(CentralDifference(1e-3))),
    "meanflow, difference along the path": changed(
        "meanflow", target=Eulerian(CentralDifference(1e-3, along="path"))
    ),
    "meanflow, own tangent": changed("meanflow", target=Eulerian(tangent=Own(), warmup=0.1)),
    "meanflow, clipped": changed("meanflow", target=Eulerian(clip=0.5)),
    "meanflow, taught": changed("meanflow", velocity=Teacher(guidance=1.5)),
    "meanflow, rows drawn": changed("meanflow", times=SortedPair(LogitNormal(), 0.5, fixed=False)),
    "meanflow, jumps of all kinds": changed(
        "meanflow",
        times=Jumps(SigmoidSchedule(0.1, 0.9, 8.0, 0.6), Uniform(), None, LogitNormal(), 0.25, 0.25, 0.25),
    ),
    "flow_matching, noise levels": changed(
        "flow_matching", path=VEPath(), parameterization=EDM(0.3), times=OneTime(LogNormal())
    ),
    "ect_tuned, trigonometric": changed(
        "ect_tuned", path=TrigPath(), parameterization=Velocity(), times=Ratio(clock="trigonometric")
    ),
    "sct, discrete": changed("sct", target=Consistency(), times=NoiseGrid(clock="trigonometric")),
    "sct_linear, with a diagonal": changed(
        "sct_linear", conditioning="t,end", times=FullJump(LogitNormal(-1.0, 1.4), diagonal=0.75)
    ),
    "sid, its rival": lambda: methods.sid().auxiliary,
}
"""Every method, and its variants that draw or aim otherwise."""


def wave(shape: tuple[int, ...], pace: float, shift: float = 0.0) -> Tensor:
    """Numbers in [−1, 1] without any randomness: multiples of 1/1024, the same on every machine."""
    place = torch.arange(math.prod(shape), dtype=D)
    return (torch.sin(pace * place + shift) * 1024).round().div(1024).view(shape)


class Tiny(nn.Module):
    """tanh(x M + (t/(1 + t), r/(1 + r)) T + e_y), and a log-variance linear in these times."""

    num_classes = 3

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.mix = nn.Parameter(wave((4, 4), 1.7, shift))
        self.time = nn.Parameter(wave((2, 4), 2.9, shift))
        self.name = nn.Parameter(wave((4, 4), 0.7, shift))
        self.spread = nn.Parameter(wave((2,), 1.1, shift))

    def forward(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor) -> Tensor:
        times = torch.stack([t / (1 + t), r / (1 + r)], dim=1)
        return torch.tanh(x.flatten(1) @ self.mix + times @ self.time + self.name[label]).view_as(x)

    def log_variance(self, t: Tensor, r: Tensor) -> Tensor:
        return self.spread[0] * t / (1 + t) + self.spread[1] * r / (1 + r)


class Told(Tiny):
    """The same, told its guidance."""

    guidance_input = True

    def forward(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor) -> Tensor:
        classes, guidance = classes_of(label)
        scale = 1.0 if guidance is None else 1 + torch.sin(guidance @ wave((3,), 1.3).to(guidance))
        return super().forward(x, t, r, classes) * (scale if guidance is None else like(scale, x))


def network_for(plain: Objective, shift: float) -> nn.Module:
    """Return a network as a run of the objective has it, with weights that are written down."""
    kinds = {part["type"] for part in serialize.to_dict(plain).values() if isinstance(part, dict)}
    if "FirstStage" in kinds:
        return networks.Truncated(Tiny(shift), plain.times.boundary)
    if "LearnedSolver" in kinds:
        solver = networks.MeanDirection(Tiny(shift)).double()
        for number, weight in enumerate(solver.predictor.parameters()):
            weight.data.copy_(wave(tuple(weight.shape), 0.9, shift + number))
        return solver
    return Told(shift) if plain.guidance_input else Tiny(shift)


def maps_for(name: str) -> tuple[Objective, FlowMap, FlowMap | None]:
    """Return the objective of a case in a run with its teacher, the map in training, and the one of targets."""
    plain = CASES[name]()
    frozen = serialize.to_dict(plain)["frozen"]["type"]
    objective = plain.for_run(RUN)
    if plain.needs_teacher:
        objective = objective.with_teacher(methods.get(plain.taught_by).flow_map(Tiny(2.0)))
    flow = objective.flow_map(network_for(plain, 0.0))
    if name.endswith("rival"):  # its frozen map is the network that it rivals
        return objective, flow, methods.sid().flow_map(Tiny(1.0))
    if frozen in ("Self", "FirstStage"):
        return objective, flow, None
    return objective, flow, objective.flow_map(network_for(plain, 1.0))


def batch_for(name: str) -> Batch:
    rows = ROWS.get(name, 16)
    stored = serialize.to_dict(CASES[name]())["coupling"]["type"] == "StoredPairs"
    label = torch.arange(rows) // (rows // 3 + 1)
    noise = wave((rows, 1, 2, 2), 2.1) if stored else None
    return Batch(x=wave((rows, 1, 2, 2), 0.9, 0.3), label=label, noise=noise)


def short(value: float, digits: int = EXACT) -> float:
    return float(f"{value:.{digits}g}")


def few(tensor: Tensor | None, digits: int = EXACT, count: int = 3) -> list[float] | None:
    """Return the first numbers of a tensor, the sum of all, and that of their absolute values."""
    if tensor is None:
        return None
    flat = tensor.detach().to(D).flatten()
    return [short(float(value), digits) for value in (*flat[:count], flat.sum(), flat.abs().sum())]


def drawn(point: Point, x: Tensor) -> dict[str, Any]:
    """Return the random choices of a step.

    `order` names rows of the batch, −1 for one that was made; `s` is "t" and `r` is "s" where they are alike.
    """
    t, s, r = ([short(time, SINGLE) for time in times.tolist()] for times in (point.t, point.s, point.r))
    same = (point.x.flatten(1)[:, None] == x.flatten(1)[None]).all(dim=2)
    order = torch.where(same.any(dim=1), same.int().argmax(dim=1), -1)
    rows = {"group": point.group, "label": point.label, "dropped": point.dropped, "plug_in": point.plug_in}
    tensors = {"x": point.x if bool((order < 0).any()) else None, "noise": point.noise, "x_t": point.x_t}
    return {
        "t": t,
        "s": "t" if s == t else s,
        "r": "s" if r == s else r,
        "jumps": int((point.r < point.t).sum()),
        "order": order.tolist(),
        **{name: "".join(map(str, each.int().tolist())) for name, each in rows.items() if each is not None},
        "keys": int(point.keys.sum()),
        **{name: few(each, SINGLE) for name, each in tensors.items() if each is not None},
        **({} if point.guidance is None else {"guidance": few(point.guidance, SINGLE)}),
        **({} if point.extra_noise is None else {"extra noise": few(point.extra_noise, SINGLE)}),
    }


def held(
    objective: Objective, flow: FlowMap, frozen: FlowMap | None, point: Point, times: dict[str, Any]
) -> dict[str, Any]:
    """Return what is regressed and the loss, at times, data and noise that are written down, in float64."""
    t = torch.tensor(times["t"], dtype=D)
    s = t if times["s"] == "t" else torch.tensor(times["s"], dtype=D)
    r = s if times["r"] == "s" else torch.tensor(times["r"], dtype=D)
    x, noise = wave(tuple(point.x.shape), 0.9, 0.3), wave(tuple(point.x.shape), 2.3, 0.4)
    extra_noise = None if point.extra_noise is None else wave(tuple(point.x.shape), 1.3, 0.1)
    x_t = objective.path.point(x, noise, t)
    point = replace(point, x=x, noise=noise, extra_noise=extra_noise, t=t, s=s, r=r, x_t=x_t)
    regression = objective.regress(flow, frozen, point)
    loss = objective.per_sample(regression, point)
    assert isinstance(flow.network, nn.Module)
    weights = {name: weight for name, weight in flow.network.named_parameters() if weight.requires_grad}
    slopes = torch.autograd.grad(loss.mean(), list(weights.values()), allow_unused=True)
    found = {"prediction": regression.prediction, "target": regression.target, "sample": regression.sample}
    return {
        **{name: few(tensor) for name, tensor in found.items() if tensor is not None},
        "loss": few(loss),
        **{
            f"gradient of {name}": few(slope, count=1)
            for name, slope in zip(weights, slopes, strict=True)
            if slope is not None
        },
    }


def numbers_of(name: str, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the numbers of a case; those in float64 belong to the times of `before` where it is given."""
    objective, flow, frozen = maps_for(name)
    batch = batch_for(name)
    found: dict[str, Any] = {}
    for step in STEPS:
        point = objective.draw(batch, step, KEY, flow if frozen is None else frozen)
        draw = drawn(point, batch.x)
        times = draw if before is None else before[f"draw {step}"]
        found[f"draw {step}"] = draw
        found[f"step {step}"] = held(objective, flow, frozen, point, times)
    noise, label = wave((4, 1, 2, 2), 2.7), torch.arange(4) % 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # steps that a method was not trained for
        with torch.no_grad():
            made = {
                f"{steps}": few(objective.sample(flow, noise, steps, label=label), SINGLE) for steps in (1, 2)
            }
    return {**found, "samples": made}


def written(name: str) -> Any:
    """Return the objective of a case as a file holds it."""
    return json.loads(json.dumps(serialize.to_dict(CASES[name]())))


def as_before(name: str) -> Any:
    """Return how an objective was written down by an earlier version, where that is read as what it is now."""
    before, now = read(OBJECTIVES).get(name), written(name)
    return before if before is not None and serialize.upgraded(before) == now else now


def differences(before: Any, now: Any, where: str = "", tolerance: float = TIGHT) -> Iterator[str]:
    """Yield where numbers differ by more than their tolerance, and whatever else differs."""
    if where.startswith(("draw ", "samples")):
        tolerance = LOOSE
    if isinstance(before, dict) and isinstance(now, dict):
        for name in dict.fromkeys((*before, *now)):
            place = f"{where}, {name}" if where else name
            yield from differences(before.get(name), now.get(name), place, tolerance)
    elif not alike(before, now, where.rpartition(" ")[2], tolerance):
        yield f"{where}: {before} became {now}"


def alike(before: Any, now: Any, name: str, tolerance: float) -> bool:
    """Whether times agree one by one, a few numbers of a tensor by their size, and everything else exactly."""
    numbers = isinstance(before, list) and any(isinstance(value, float) for value in before)
    if not numbers or not isinstance(now, list) or len(before) != len(now):
        return bool(before == now)
    sizes = before if name in ("t", "s", "r") else [before[-1]] * len(before)
    return all(abs(a - b) <= tolerance * abs(size) for a, b, size in zip(before, now, sizes, strict=True))


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a file with a line for each entry of each entry."""
    blocks = []
    for name, entries in content.items():
        lines = [
            f"  {json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}"
            for key, value in entries.items()
        ]
        blocks.append(f"{json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n}")
    path.write_text("{\n" + ",\n".join(blocks) + "\n}\n", encoding="utf-8")


def merged(before: Any, now: Any) -> Any:
    """Return what there is now, in order, and beside it what was there before under other names."""
    if isinstance(now, dict) and "type" not in now:
        old = before if isinstance(before, dict) else {}
        return {key: merged(old.get(key), now.get(key, old.get(key))) for key in sorted({*old, *now})}
    if isinstance(now, list) and all(isinstance(each, str) for each in now):
        return sorted({*(before or ()), *now})
    return now


def main() -> None:
    before, kept = read(NUMBERS), {}
    for name in CASES:
        found, old = numbers_of(name), before.get(name)
        kept[name] = found if old is None or any(differences(old, numbers_of(name, old))) else old
    write(NUMBERS, kept)
    write(OBJECTIVES, {name: as_before(name) for name in CASES})
    if "--surface" in sys.argv:
        write(surface.SURFACE, merged(read(surface.SURFACE), surface.today()))


if __name__ == "__main__":
    main()
