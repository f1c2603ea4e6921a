"""ONNX graphs: traced from torch modules, joined by a loop over steps, and with weights of fewer bits."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

Precision = Literal["fp32", "fp16", "int8"]
Graph = Any
"""An onnx.ModelProto, GraphProto or NodeProto: the library is imported where it is needed."""
MOST = 63
"""Rows that graphs are traced for. They serve any number: from 64 on, code of diffusers only copies tensors first."""
SMALLEST = 1024
"""Numbers that a weight has at least to be stored with fewer bits."""
MATRICES = ("MatMul", "Gemm", "Conv", "ConvTranspose", "Gather", "Transpose")
"""Operators whose weights are stored as int8, with a scale for each row of their first dimension, MatMul: the last."""


def traced(module: nn.Module, inputs: Mapping[str, Tensor], shared: tuple[str, ...], opset: int) -> Graph:
    """Return the ONNX model of a torch module.

    Args:
        inputs: examples of its arguments by name, in their order. shared: those without a batch dimension.

    Raises: ValueError for a module that cannot be traced, or with an operator that ONNX lacks, naming it.
    """
    batch = torch.export.Dim("batch", max=MOST)
    shapes = {name: None if name in shared else {0: batch} for name in inputs}
    module.eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _located(module) as trail:
            try:
                program = torch.export.export(module, (), dict(inputs), dynamic_shapes=shapes, strict=False)
            except Exception as error:
                raise ValueError(_untraceable(error, trail)) from error
        try:
            made: Any = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                input_names=list(inputs),
                output_names=["image"],
                verbose=False,
            )
        except Exception as error:
            raise ValueError(_unsupported(error, program)) from error
    return _named(cleaned(made.model_proto))


@contextmanager
def _located(module: nn.Module) -> Iterator[list[str]]:
    """Yield the classes of the modules that are being evaluated, from the outermost to the innermost."""
    trail: list[str] = []

    def enter(inner: nn.Module, given: Any) -> None:
        trail.append(type(inner).__name__)

    def leave(inner: nn.Module, given: Any, made: Any) -> None:
        trail.pop()

    handles: list[Any] = []
    for inner in module.modules():
        handles += [inner.register_forward_pre_hook(enter), inner.register_forward_hook(leave)]
    try:
        yield trail
    finally:
        for handle in handles:
            handle.remove()


def _untraceable(error: Exception, trail: list[str]) -> str:
    reason = str(error).strip().split("\n")[0].rstrip(".")
    where = f"the module {trail[-1]}" if trail else "the network"
    return (
        f"{where} cannot be traced into a graph: {reason}. A graph is made of operations on tensors: without item(), "
        "without if on values, and with x.shape[0] in place of len(x), which fixes the batch"
    )


def _unsupported(error: BaseException | None, program: Any) -> str:
    """Return which operator has no counterpart in ONNX, and in which module it is used."""
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__
    found = re.search(r"OpOverload\(op='(\w+)\.(\w+)', overload='(\w+)'\)", "\n".join(texts))
    if found is None:
        return f"the network cannot be written as ONNX: {texts[-1].strip().splitlines()[0]}"
    name = ".".join(found.groups())
    table = dict(torch._decomp.decomposition_table)  # of the operators that ONNX is given
    parts = program.run_decompositions(table)
    modules = sorted(_users_of(name, program) | _users_of(name, parts))
    inside = f", which {' and '.join(modules)} uses" if modules else ""
    return f"the operator {name}{inside} has no counterpart in ONNX: replace it there by others"


def _users_of(operator: str, program: Any) -> set[str]:
    """Return the classes of the modules in which an operator is used."""
    users = [node for node in program.graph.nodes if str(node.target) == operator]
    stacks = [list((node.meta.get("nn_module_stack") or {}).values()) for node in users]
    return {str(stack[-1][1]).rpartition(".")[2] for stack in stacks if stack}


def cleaned(model: Graph) -> Graph:
    """Remove from a model what describes how it was traced: names of files, and shapes of what lies between."""
    for node in model.graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    for value in [*model.graph.input, *model.graph.output, *model.graph.initializer]:
        value.ClearField("doc_string")
        value.ClearField("metadata_props")
    for part in ("value_info", "doc_string", "metadata_props"):
        model.graph.ClearField(part)
    model.ClearField("metadata_props")
    model.ClearField("doc_string")
    return model


def _named(model: Graph) -> Graph:
    """Call the first dimension of inputs and output of a traced model "batch", where it is not fixed."""
    for value in [*model.graph.input, *model.graph.output]:
        sizes = value.type.tensor_type.shape.dim
        if sizes and sizes[0].dim_param:
            sizes[0].dim_param = "batch"
    return model


def looped(step: Graph, finish: Graph, inputs: Mapping[str, Tensor], scale: float) -> Graph:
    """Return a model that takes a step between each two of its input `times`, and then what follows the last one.

    x = scale · noise; for i in range(len(times) − 1): x = step(x, times[i], times[i + 1]); image = finish(x)

    Args:
        step: a model (x, t, r, …) → image. finish: a model x → image. inputs: as of `step`, for their shapes.
        scale: the factor on the noise.
    """
    from onnx import TensorProto, compose, helper

    step, finish = compose.add_prefix(step, "step."), compose.add_prefix(finish, "finish.")
    own = [name for name in inputs if name not in ("x", "t", "r")]
    before = [helper.make_node("Identity", [name], [f"step.{name}"]) for name in own]
    body = _body(step)
    constants = {"scale": float(scale), "one": 1}
    kinds = {"scale": TensorProto.FLOAT, "one": TensorProto.INT64}
    values = [helper.make_tensor(name, kinds[name], (), [value]) for name, value in constants.items()]
    nodes = [
        *before,
        helper.make_node("Mul", ["noise", "scale"], ["start"]),
        helper.make_node("Size", ["times"], ["stops"]),
        helper.make_node("Sub", ["stops", "one"], ["steps"]),
        helper.make_node("Loop", ["steps", "", "start"], ["finish.x"], body=body, name="steps"),
        *finish.graph.node,
        helper.make_node("Identity", ["finish.image"], ["image"]),
    ]
    given = [_input("noise", TensorProto.FLOAT, ["batch", *inputs["x"].shape[1:]])]
    given += [_input(name, _KINDS[inputs[name].dtype], ["batch"]) for name in own]
    given += [_input("times", TensorProto.FLOAT, ["stops"])]
    image = finish.graph.output[0]
    image.name = "image"
    held = [*step.graph.initializer, *finish.graph.initializer, *values]
    graph = helper.make_graph(nodes, "flowleap", given, [image], held)
    return helper.make_model(graph, opset_imports=list(step.opset_import), ir_version=step.ir_version)


_KINDS = {torch.float32: 1, torch.int64: 7}
"""The types of inputs, as ONNX numbers them."""


def _input(name: str, kind: int, shape: list[Any]) -> Graph:
    from onnx import helper

    return helper.make_tensor_value_info(name, kind, shape)


def _body(step: Graph) -> Graph:
    """Return the body of the loop: (i, going, x) → (going, x after step i). Weights and times are those outside."""
    from onnx import TensorProto, helper

    x, image = step.graph.input[0], step.graph.output[0]
    nodes = [
        helper.make_node("Add", ["i", "one"], ["next"]),
        helper.make_node("Gather", ["times", "i"], ["step.t"]),
        helper.make_node("Gather", ["times", "next"], ["step.r"]),
        helper.make_node("Identity", ["going"], ["going_on"]),
        *step.graph.node,
    ]
    given = [_input("i", TensorProto.INT64, []), _input("going", TensorProto.BOOL, []), x]
    return helper.make_graph(nodes, "step", given, [_input("going_on", TensorProto.BOOL, []), image])


def stored(model: Graph, precision: Precision) -> Graph:
    """Store the large weights of a model as float16 or int8; the graph converts them back, and computes in float32.

    int8 weights have a scale for each output channel: w ≈ scale · q, scale = max |w| / 127.
    """
    if precision == "fp32":
        return model
    from onnx import TensorProto, helper, numpy_helper

    users = _users(model.graph)
    kept, nodes = [], []
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        large = weight.data_type == TensorProto.FLOAT and values.size >= SMALLEST
        if large and precision == "fp16":
            kept.append(numpy_helper.from_array(values.astype("float16"), f"{weight.name}.fp16"))
            nodes.append(
                helper.make_node("Cast", [f"{weight.name}.fp16"], [weight.name], to=TensorProto.FLOAT)
            )
        elif large and values.ndim > 1 and users.get(weight.name, set()) & set(MATRICES):
            axis = values.ndim - 1 if "MatMul" in users[weight.name] else 0
            whole, scale = _rounded(values, axis)
            names = [f"{weight.name}.int8", f"{weight.name}.scale"]
            kept += [numpy_helper.from_array(a, n) for a, n in zip((whole, scale), names, strict=True)]
            nodes.append(helper.make_node("DequantizeLinear", names, [weight.name], axis=axis))
        else:
            kept.append(weight)
    every = [*nodes, *model.graph.node]
    graph = helper.make_graph(every, model.graph.name, model.graph.input, model.graph.output, kept)
    return helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)


def _rounded(values: Any, axis: int) -> tuple[Any, Any]:
    """Return weights as int8 with the scales of an axis."""
    import numpy

    others = tuple(other for other in range(values.ndim) if other != axis)
    most = numpy.abs(values).max(axis=others, keepdims=True)
    scale = numpy.where(most > 0, most / 127, 1).astype("float32")
    return numpy.rint(values / scale).astype("int8"), scale.reshape(-1)


def _users(graph: Graph) -> dict[str, set[str]]:
    """Return the operators that use each value, also inside of loops."""
    found: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            found.setdefault(name, set()).add(node.op_type)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                for name, kinds in _users(attribute.g).items():
                    found.setdefault(name, set()).update(kinds)
    return found
