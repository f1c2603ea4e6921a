"""Write a run as an ONNX graph."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from flowleap import evaluation, samplers
from flowleap.autoencoders import Decoder
from flowleap.export.onnx import graphs
from flowleap.export.onnx.modules import Finish, OneStep, Output, Step
from flowleap.export.source import needs
from flowleap.files import replace_file
from flowleap.flow_map import FlowMap
from flowleap.guidance import guide
from flowleap.provenance import version
from flowleap.runs import Run

FORMAT = 1
"""Of the metadata."""
MEASURED = ("steps", "metric", "distance", "interval", "protocol")
"""What of a measured row is in the metadata."""
OPSETS = range(18, 24)
LARGEST = 2**31 - 2**20
"""Bytes that a file in the format of ONNX, a protobuf message, holds at most."""


@dataclass(frozen=True)
class Plan:
    """What is exported, see `export`."""

    run: Run
    steps: tuple[int, ...]
    output: Output
    precision: graphs.Precision
    decoder: Decoder | None
    guidance: float | None

    @property
    def flow(self) -> FlowMap:
        """The map of the run, guided where a scale was asked for."""
        return guide(self.run.flow, self.guidance)

    @property
    def times(self) -> dict[int, list[float]]:
        """The times that each number of steps visits."""
        flow, apart = self.run.flow, self.run.objective.sampling.evaluations
        return {n: samplers.grid(flow.path, n, start=flow.start)[::apart] for n in self.steps}

    @property
    def scale(self) -> float:
        """The standard deviation of the noise that sampling begins with."""
        return float(self.run.flow.prior(torch.ones(())))

    @property
    def kind(self) -> str:
        """What the graph makes: image, latents or points."""
        return self.run.kind if self.decoder is None else "image"

    @property
    def image(self) -> tuple[int, ...]:
        """The shape of what the graph makes, channels first."""
        return self.run.shape if self.decoder is None else self.decoder.shape(self.run.shape)

    @property
    def asks_guidance(self) -> bool:
        """Whether the scale of guidance is an input of the graph."""
        return self.run.flow.guidance_input

    def step(self) -> Step:
        """Return a step of the sampler as a torch module."""
        move = self.run.objective.sampling.step(self.steps[-1])
        return Step(self.flow, self.run.network, move)

    def finish(self) -> Finish:
        """Return what follows the last step as a torch module."""
        return Finish(self.decoder, evaluation.BOUNDS.get(self.kind), self.output)

    def inputs(self, rows: int = 2) -> dict[str, Tensor]:
        """Return examples of the inputs of the graph, without times."""
        found = {"noise": samplers.noise(0, range(rows), self.run.shape)}
        label = evaluation.cycle(rows, self.run.num_classes)
        if label is not None:
            found["label"] = label
        if self.asks_guidance:
            found["guidance"] = torch.full((rows,), self.usual_guidance)
        return found

    @property
    def usual_guidance(self) -> float:
        """The scale of guidance that samples have where none is asked for."""
        return float(self.run.objective.guidance_of(self.guidance) or 1.0)

    @property
    def several(self) -> bool:
        """Whether the graph takes its times as an input."""
        return self.steps != (1,)


@dataclass(frozen=True)
class Exported:
    """A graph that was written: its file, its size in bytes and its metadata."""

    plan: Plan
    file: Path
    size: int
    about: dict[str, Any]


def export(
    run: Run,
    file: str | Path,
    *,
    steps: Sequence[int] = (1,),
    output: Output = "float",
    precision: graphs.Precision = "fp32",
    decode: bool = False,
    vae: str | None = None,
    guidance: float | None = None,
    opset: int = 20,
) -> Exported:
    """Write a run as one ONNX graph; its inputs and its output are those that `flowleap.export.onnx` lists.

    Args:
        run: as `export.source.finished` reads it.
        file: ends in .onnx; replaced where it exists.
        steps: numbers of steps; with another than 1 alone, the times are an input of the graph.
        output: "float" or "uint8". precision: of the stored weights; the graph computes in float32.
        decode: whether the graph decodes latents, by `vae` or by the autoencoder that they were made with.
        guidance: a scale that is built into the graph, at two evaluations a step.
        opset: the version of ONNX operators.

    Raises: ValueError for what the run or ONNX does not have, before anything is written.
    Warns: where the run is not trained for a number of steps.
    """
    path = Path(file)
    if path.suffix != ".onnx" or path.is_dir():
        raise ValueError(f"{path}: the name of a file that ends in .onnx is expected, such as digits.onnx")
    for package in ("onnx", "onnxscript"):
        needs(package, "onnx")
    plan = planned(run, steps, output, precision, decode, vae, guidance, opset)
    model = graphs.stored(built(plan, opset), precision)
    found = about(plan)
    entry = model.metadata_props.add()
    entry.key, entry.value = "flowleap", json.dumps(found)
    model.producer_name, model.producer_version = "flowleap", version("flowleap") or ""
    size = _checked(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, partial(_write, content=model.SerializeToString()))
    return Exported(plan, path, size, found)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def planned(
    run: Run,
    steps: Sequence[int],
    output: Output,
    precision: graphs.Precision,
    decode: bool,
    vae: str | None,
    guidance: float | None,
    opset: int,
) -> Plan:
    """Return what is exported.

    Raises, warns: as `export`.
    """
    for name, value, known in (
        ("output", output, get_args(Output)),
        ("precision", precision, get_args(graphs.Precision)),
        ("opset", opset, OPSETS),
    ):
        if value not in known:
            raise ValueError(f"{name}={value!r}: expected one of {', '.join(map(str, known))}")
    if not decode and vae is not None:
        raise ValueError(f"an autoencoder, {vae}, decodes latents inside of the graph: add --decode")
    plan = Plan(
        run, tuple(sorted(set(steps))), output, precision, _decoder(run, vae) if decode else None, guidance
    )
    if output == "uint8" and plan.kind != "image":
        hint = ": add --decode" if plan.kind == "latents" else ""
        raise ValueError(f"bytes are of images, and the samples of {run.folder} are {plan.kind}{hint}")
    if guidance is not None and plan.asks_guidance:
        raise ValueError(
            f"guidance={guidance:g}: the network of {run.folder} takes the scale of guidance as an input, and so does "
            "the graph; leave it out here"
        )
    if guidance is not None and run.num_classes is None:
        raise ValueError(f"guidance={guidance:g}: {run.folder} has no classes to guide to; leave it out")
    _check_steps(plan)
    for count in plan.steps:
        for sentence in run.objective.advice(count, guidance=guidance):
            warnings.warn(sentence, stacklevel=3)
    return plan


def _decoder(run: Run, vae: str | None) -> Decoder:
    if run.kind != "latents":
        raise ValueError(f"the samples of {run.folder} are no latents to be decoded: leave --decode out")
    found = run.decoder(vae)
    if found is None:
        raise ValueError(
            f"the autoencoder of {run.folder} is not at hand: name one of the same latents with --vae, or leave "
            "--decode out"
        )
    return found


def _check_steps(plan: Plan) -> None:
    """Raise ValueError for numbers of steps that one graph cannot take."""
    sampling, steps = plan.run.objective.sampling, plan.steps
    listed = ",".join(map(str, steps))
    if not steps or steps[0] < 1:
        raise ValueError(f"steps={listed}: numbers of steps from 1 up are expected")
    odd = [n for n in steps if n % sampling.evaluations]
    if odd:
        raise ValueError(
            f"steps={listed}: a step of the learned solver of {plan.run.config.method} takes two evaluations, so that "
            f"graphs are for even numbers of them, such as {','.join(map(str, plan.run.objective.trained or (2, 4)))}"
        )
    fresh = [n for n in steps if sampling.renoised(n)]
    if fresh:
        raise ValueError(
            f"steps={listed}: {plan.run.config.method} adds fresh noise between steps (γ = {sampling.renoise:g}), "
            "which a graph has none of: export one step, or chain the steps with --renoise 0"
        )
    if len({sampling.instantaneous(n) for n in steps}) > 1:
        raise ValueError(
            f"steps={listed}: from {sampling.finest} steps on, {plan.run.config.method} steps with its instantaneous "
            "velocity, below that with its maps: export two graphs"
        )


def built(plan: Plan, opset: int) -> Any:
    """Return the ONNX model of a plan, with its weights in float32."""
    given, step, finish = plan.inputs(), plan.step(), plan.finish()
    if not plan.several:
        ((t, r),) = plan.times.values()
        return graphs.traced(OneStep(step, finish, plan.scale, (t, r)), given, (), opset)
    times = {"t": torch.tensor(plan.run.flow.path.t_max), "r": torch.tensor(plan.run.flow.path.t_min)}
    inputs = {"x": given.pop("noise"), **times, **given}
    after = {"x": inputs["x"]}
    return graphs.looped(
        graphs.traced(step, inputs, ("t", "r"), opset),
        graphs.traced(finish, after, (), opset),
        inputs,
        plan.scale,
    )


def about(plan: Plan) -> dict[str, Any]:
    """Return the metadata of a graph, plain data.

    format, flowleap: versions. kind: image, latents or points, `shape` that of one noise, `image` that of what is made,
    channels first. classes: their names; null_label: the label of no class. start, times: where sampling begins, and
    the times of each number of steps. method, recipe, weights, sampler: of the run. guidance: the usual scale where it
    is an input, otherwise the one that is built in. measured: the distance of samples to the data with its interval and
    protocol, where the table of the run is of these weights.
    """
    run, objective = plan.run, plan.run.objective
    times = plan.times
    return {
        "format": FORMAT,
        "flowleap": version("flowleap"),
        "kind": plan.kind,
        "shape": list(run.shape),
        "image": list(plan.image),
        "output": plan.output,
        "precision": plan.precision,
        "classes": list(run.classes),
        "null_label": run.num_classes,
        "start": times[plan.steps[0]][0],
        "end": times[plan.steps[0]][-1],
        "times": {str(n): stops for n, stops in times.items()},
        "sampler": objective.sampling.name(plan.steps[-1]),
        "method": run.config.method,
        "recipe": run.config.recipe,
        "weights": run.weights,
        "guidance": plan.usual_guidance if plan.asks_guidance or plan.guidance is not None else None,
        "measured": measured(run, plan.steps),
    }


def measured(run: Run, steps: Sequence[int]) -> list[dict[str, Any]]:
    """Return what the table of a run says of its weights in some numbers of steps, each row with its protocol."""
    table = run.folder / "table.json"
    rows = json.loads(table.read_text(encoding="utf-8")) if table.is_file() else []
    kept = [row for row in rows if row.get("weights") == run.weights and row.get("steps") in steps]
    return [{name: row.get(name) for name in MEASURED} for row in kept]


def _checked(model: Any) -> int:
    """Return the size of a model in bytes.

    Raises: ValueError for one that is too large, or that the library finds at fault.
    """
    import onnx

    size = int(model.ByteSize())
    if size > LARGEST:
        raise ValueError(
            f"the graph takes {size / 1e9:.2f} GB, and an ONNX file holds 2.1 GB: store its weights with --precision "
            "fp16 or int8"
        )
    onnx.checker.check_model(model)
    return size
