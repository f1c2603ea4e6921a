"""ONNX graphs of runs: in onnxruntime they make the images that torch makes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import flowleap
from flowleap import methods, pictures, runs, samplers
from flowleap.cli import app
from flowleap.export import onnx as exports
from flowleap.export import source
from flowleap.export.onnx import graphs
from flowleap.guidance import GuidanceInput
from flowleap.networks import MLP, DiT, MeanDirection, NoiseTime, Truncated, UNet
from flowleap.runs import Run

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SHAPE = (1, 8, 8)
BOUND = 1e-5


def run_of(objective: Any, network: Any, shape: tuple[int, ...] = SHAPE, kind: str = "image") -> Run:
    """A run as if it had been trained, with random weights."""
    if isinstance(objective, str):
        objective = methods.get(objective)
    random = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        weight.data += 0.05 * torch.randn(weight.shape, generator=random)
    network.eval().requires_grad_(False)
    count = network.num_classes
    return Run(
        folder=Path("runs", "tiny"),
        config=SimpleNamespace(method="tiny", recipe=None),  # type: ignore[arg-type]
        objective=objective,
        network=network,
        flow=objective.flow_map(network),
        weights="ema-0.999@8",
        step=8,
        kind=kind,
        shape=shape,
        num_classes=count,
        classes=tuple(map(str, range(count or 0))),
    )


def dit(**options: Any) -> DiT:
    return DiT(SHAPE, 10, width=32, depth=2, heads=2, **options)


def runner(file: Path) -> Any:
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def made(session: Any, **inputs: Any) -> numpy.ndarray:
    return session.run(None, {name: numpy.asarray(value) for name, value in inputs.items()})[0]


def metadata(file: Path) -> dict[str, Any]:
    found = runner(file).get_modelmeta().custom_metadata_map
    assert list(found) == ["flowleap"]
    return json.loads(found["flowleap"])


def call(*words: object) -> Any:
    return CliRunner(env={"COLUMNS": None}).invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def tiny() -> Run:
    return run_of("meanflow", dit())


@pytest.fixture(scope="module")
def one(tiny, tmp_path_factory) -> Path:
    return exports.export(tiny, tmp_path_factory.mktemp("onnx") / "one.onnx").file


@pytest.fixture(scope="module")
def several(tiny, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("onnx") / "several.onnx"
    return exports.export(tiny, file, steps=(4, 1, 2)).file


def test_one_step_is_that_of_torch_at_any_batch_and_without_a_class(tiny, one):
    session = runner(one)
    for label in ([3], [0, 10, 9]):
        noise = samplers.noise(5, range(len(label)), SHAPE)
        wanted = tiny.objective.sample(tiny.flow, noise, label=torch.tensor(label)).clamp(-1, 1)
        found = made(session, noise=noise, label=label)
        assert found.dtype == numpy.float32 and abs(found - wanted.numpy()).max() <= BOUND
        assert found.std() > 0.1


def test_inputs_and_outputs_are_named_and_of_any_batch(one, several):
    inputs = {i.name: (i.type, i.shape) for i in runner(one).get_inputs()}
    assert inputs == {
        "noise": ("tensor(float)", ["batch", *SHAPE]),
        "label": ("tensor(int64)", ["batch"]),
    }
    assert {i.name: (i.type, i.shape) for i in runner(several).get_inputs()} == {
        **inputs,
        "times": ("tensor(float)", ["stops"]),
    }
    for file in (one, several):
        ((name, shape),) = [(o.name, o.shape) for o in runner(file).get_outputs()]
        assert name == "image" and shape == ["batch", *SHAPE]


def test_a_graph_for_several_steps_takes_any_times(tiny, several):
    session, noise = runner(several), samplers.noise(1, range(3), SHAPE)
    label = torch.tensor([1, 10, 2])
    known = metadata(several)["times"]
    assert list(known) == ["1", "2", "4"] and known["2"] == [1.0, 0.5, 0.0]
    seen = []
    for times in [*known.values(), [1.0, 0.9, 0.3, 0.2, 0.1, 0.0]]:
        wanted = samplers.chain(tiny.flow, noise, times=times, label=label).clamp(-1, 1)
        found = made(session, noise=noise, label=label, times=numpy.float32(times))
        assert abs(found - wanted.numpy()).max() <= BOUND
        seen.append(found)
    assert abs(seen[0] - seen[1]).max() > 1e-3


def test_a_graph_for_several_steps_holds_its_weights_once(one, several):
    assert several.stat().st_size < 1.3 * one.stat().st_size


def test_the_metadata_says_what_a_page_needs(one):
    found = metadata(one)
    assert found["classes"] == [str(i) for i in range(10)] and found["null_label"] == 10
    assert found["shape"] == found["image"] == list(SHAPE) and found["kind"] == "image"
    assert found["start"] == 1.0 and found["times"] == {"1": [1.0, 0.0]}
    assert found["method"] == "tiny" and found["weights"] == "ema-0.999@8" and found["guidance"] is None


def test_the_metadata_has_the_measured_rows_of_these_weights(tiny, tmp_path):
    row = {
        "steps": 1,
        "metric": "FD-pixel",
        "distance": 0.5,
        "interval": [0.4, 0.6],
        "protocol": "p",
        "seconds": 1.0,
    }
    others = [{**row, "weights": "raw@8"}, {**row, "weights": tiny.weights, "steps": 128}]
    (tmp_path / "table.json").write_text(json.dumps([{**row, "weights": tiny.weights}, *others]))
    del row["seconds"]
    assert exports.exporting.measured(replace(tiny, folder=tmp_path), (1, 2)) == [row]
    assert exports.exporting.measured(tiny, (1, 2)) == []


def test_the_file_says_nothing_of_the_machine(one):
    content = one.read_bytes()
    assert str(Path(flowleap.__file__).parent).encode() not in content
    assert b"stack_trace" not in content and b".py" not in content


@pytest.mark.slow
def test_bytes_are_those_of_pictures(tmp_path):
    run = run_of("meanflow", UNet((3, 7, 7), None, width=8, multipliers=(1, 2), depth=1), (3, 7, 7))
    exported = exports.export(run, tmp_path / "u.onnx", output="uint8")
    session, noise = runner(exported.file), samplers.noise(0, range(3), (3, 7, 7))
    found = made(session, noise=noise)
    wanted = pictures.pixels(run.objective.sample(run.flow, noise))
    assert found.dtype == numpy.uint8 and found.shape == (3, 7, 7, 3)
    assert abs(found.astype(int) - wanted.astype(int)).max() <= 1
    assert (found == wanted).mean() > 0.99 and len(numpy.unique(found)) > 20
    assert [i.name for i in session.get_inputs()] == ["noise"]


@pytest.mark.parametrize(("precision", "share", "bound"), [("fp16", 0.65, 2e-3), ("int8", 0.45, 6e-2)])
def test_weights_of_fewer_bits_take_less_room_and_change_little(one, precision, share, bound):
    model = onnx.load(one)
    smaller = graphs.stored(model, precision).SerializeToString()
    assert len(smaller) < share * one.stat().st_size
    session = onnxruntime.InferenceSession(smaller, providers=["CPUExecutionProvider"])
    given = {"noise": samplers.noise(0, range(4), SHAPE), "label": torch.arange(4)}
    difference = abs(made(session, **given) - made(runner(one), **given))
    assert 0 < difference.max() < bound


def test_weights_inside_of_the_loop_are_stored_with_fewer_bits_too(several):
    smaller = graphs.stored(onnx.load(several), "int8").SerializeToString()
    assert len(smaller) < 0.45 * several.stat().st_size
    session = onnxruntime.InferenceSession(smaller, providers=["CPUExecutionProvider"])
    given = {"noise": samplers.noise(0, range(4), SHAPE), "label": torch.arange(4)}
    times = numpy.float32([1, 0.5, 0])
    difference = abs(made(session, **given, times=times) - made(runner(several), **given, times=times))
    assert 0 < difference.max() < 6e-2


@pytest.mark.slow
def test_guidance_that_the_network_is_told_is_an_input(tmp_path):
    objective = replace(methods.get("meanflow"), guidance=GuidanceInput())
    run = run_of(objective, MLP(SHAPE, 10, width=32, depth=1, guidance_input=True))
    exported = exports.export(run, tmp_path / "g.onnx")
    session, noise, label = runner(exported.file), samplers.noise(0, range(2), SHAPE), torch.tensor([4, 10])
    seen = []
    for scale in (1.0, 3.0):
        wanted = run.objective.sample(run.flow, noise, label=label, guidance=scale).clamp(-1, 1)
        seen.append(made(session, noise=noise, label=label, guidance=numpy.float32([scale] * 2)))
        assert abs(seen[-1] - wanted.numpy()).max() <= BOUND
    assert abs(seen[0] - seen[1]).max() > 1e-4
    assert exported.about["guidance"] == objective.guidance.scale
    with pytest.raises(ValueError, match="takes the scale of guidance as an input"):
        exports.export(run, tmp_path / "h.onnx", guidance=2.0)


@pytest.mark.slow
def test_guidance_by_two_evaluations_is_built_in(tmp_path):
    run = run_of("meanflow", MLP(SHAPE, 10, width=32, depth=1))
    exported = exports.export(run, tmp_path / "g.onnx", guidance=3.0, steps=(2,))
    noise, label, times = samplers.noise(0, range(3), SHAPE), torch.tensor([4, 10, 0]), [1.0, 0.5, 0.0]
    wanted = run.objective.sample(run.flow, noise, 2, label=label, guidance=3.0).clamp(-1, 1)
    found = made(runner(exported.file), noise=noise, label=label, times=numpy.float32(times))
    assert abs(found - wanted.numpy()).max() <= BOUND


def test_the_comparison_sees_what_differs(tiny, several):
    plan = exports.exporting.planned(tiny, (1, 2), "float", "fp32", False, None, None, 20)
    exported = exports.Exported(plan, several, several.stat().st_size, {})
    rows = exports.compare(exported, batches=(1,))
    assert [row.steps for row in rows] == [1, 2]
    assert all(0 < row.mean <= row.largest <= BOUND for row in rows)
    assert all(row.torch[1] > 0 and row.onnxruntime[1] > 0 for row in rows)
    other = replace(exported, plan=replace(plan, run=run_of("meanflow", dit())))
    other.plan.run.network.final_layer.linear.bias.data += 0.01
    assert exports.compare(other, batches=(1,))[0].largest > 5e-3


@pytest.mark.slow
def test_a_truncated_network_is_exported_with_both_stages(tmp_path):
    objective, small = methods.get("tcm"), MLP(SHAPE, 10, width=32, depth=1)
    run = run_of(objective, Truncated(NoiseTime(small)))
    with pytest.raises(ValueError, match="fresh noise between steps"):
        exports.export(run, tmp_path / "t.onnx", steps=(1, 2))
    run = replace(run, objective=replace(objective, sampling=replace(objective.sampling, renoise=0.0)))
    with pytest.warns(UserWarning, match="shorter jumps"):
        exported = exports.export(run, tmp_path / "t.onnx", steps=(1, 2))
    noise, label = samplers.noise(0, range(3), SHAPE), torch.tensor([4, 10, 0])
    start, end = run.flow.path.t_max, run.flow.path.t_min
    for times in ([start, end], [start, 2.0, 0.5, end]):
        wanted = samplers.chain(run.flow, noise, times=times, label=label).clamp(-1, 1)
        found = made(runner(exported.file), noise=noise, label=label, times=numpy.float32(times))
        assert abs(found - wanted.numpy()).max() <= BOUND


@pytest.mark.slow
def test_a_learned_solver_is_exported_with_its_predictor(tmp_path):
    run = run_of(methods.amed(4), MeanDirection(dit()))
    with pytest.raises(ValueError, match="two evaluations"):
        exports.export(run, tmp_path / "a.onnx")
    exported = exports.export(run, tmp_path / "a.onnx", steps=(4,))
    times = metadata(exported.file)["times"]["4"]
    assert len(times) == 3
    noise, label = samplers.noise(0, range(3), SHAPE), torch.tensor([4, 10, 0])
    wanted = run.objective.sample(run.flow, noise, 4, label=label).clamp(-1, 1)
    found = made(runner(exported.file), noise=noise, label=label, times=numpy.float32(times))
    assert abs(found - wanted.numpy()).max() <= BOUND


@pytest.mark.slow
def test_flow_matching_steps_with_its_velocity_and_says_how_many_it_needs(tmp_path):
    run = run_of("flow_matching", MLP(SHAPE, None, width=32, depth=1))
    with pytest.warns(UserWarning, match="needs many steps"):
        exported = exports.export(run, tmp_path / "f.onnx", steps=(1, 128))
    noise, times = samplers.noise(0, range(3), SHAPE), [1.0, 0.7, 0.4, 0.0]
    wanted = samplers.ddim(run.flow, noise, times=times).clamp(-1, 1)
    found = made(runner(exported.file), noise=noise, times=numpy.float32(times))
    assert abs(found - wanted.numpy()).max() <= BOUND and exported.about["sampler"] == "ddim"


@pytest.mark.slow
def test_the_decoder_is_part_of_the_graph(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.3,
        shift_factor=0.25,
    ).save_pretrained(tmp_path / "vae")
    run = run_of("meanflow", DiT((4, 4, 4), None, width=16, depth=1, heads=2), (4, 4, 4), "latents")
    decoder = run.decoder(str(tmp_path / "vae"))
    for output, steps in (("float", (1,)), ("uint8", (1, 2))):
        asked = {"decode": True, "vae": str(tmp_path / "vae"), "output": output, "steps": steps}
        exported = exports.export(run, tmp_path / "d.onnx", **asked)
        assert exported.about["shape"] == [4, 4, 4] and exported.about["image"] == [3, 8, 8]
        noise = samplers.noise(0, range(3), (4, 4, 4))
        given = {"noise": noise} | ({"times": numpy.float32([1, 0])} if steps != (1,) else {})
        found, wanted = made(runner(exported.file), **given), decoder(run.objective.sample(run.flow, noise))
        if output == "float":
            assert abs(found - wanted.numpy()).max() <= BOUND and found.std() > 0.01
        else:
            assert abs(found.astype(int) - pictures.pixels(wanted).astype(int)).max() <= 1


# What cannot be exported


class Counting(nn.Module):
    """A network with an operator that ONNX lacks, in a module of its own."""

    num_classes = None

    class Inner(nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.special.i1(x)

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.weight = self.Inner(), nn.Parameter(torch.ones(()))

    def forward(self, x: Any, t: Any, r: Any, label: Any = None) -> Any:
        return self.inner(x) * self.weight


class Choosing(Counting):
    """A network that looks at values."""

    class Inner(nn.Module):
        def forward(self, x: Any) -> Any:
            return x if float(x.sum()) > 0 else -x


@pytest.mark.parametrize("kind", [pytest.param(Counting, marks=pytest.mark.slow), Choosing])
def test_a_module_that_onnx_cannot_hold_is_named(kind, tmp_path):
    with pytest.raises(ValueError, match="Inner"):
        exports.export(run_of("meanflow", kind()), tmp_path / "x.onnx")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"steps": ()}, "from 1 up"),
        ({"steps": (0,)}, "from 1 up"),
        ({"output": "bytes"}, "one of float, uint8"),
        ({"precision": "int4"}, "one of fp32, fp16, int8"),
        ({"opset": 9}, "one of 18"),
        ({"decode": True}, "no latents"),
        ({"vae": "x"}, "--decode"),
    ],
)
def test_what_is_asked_for_wrongly_is_refused_before_tracing(tiny, tmp_path, given, told):
    with pytest.raises(ValueError, match=told):
        exports.export(tiny, tmp_path / "x.onnx", **given)


@pytest.mark.parametrize("name", ["network.safetensors", "digits", "folder.onnx"])
def test_no_other_file_than_a_graph_is_replaced(tiny, tmp_path, name):
    (tmp_path / "network.safetensors").write_bytes(b"weights")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ValueError, match=r"ends in \.onnx"):
        exports.export(tiny, tmp_path / name)
    assert (tmp_path / "network.safetensors").read_bytes() == b"weights"


def test_bytes_of_points_and_latents_are_refused(tmp_path):
    points = run_of("meanflow", MLP((2,), None, width=8, depth=1), (2,), "points")
    with pytest.raises(ValueError, match="are points"):
        exports.export(points, tmp_path / "x.onnx", output="uint8")
    with pytest.raises(ValueError, match="are latents: add --decode"):
        exports.export(replace(points, kind="latents"), tmp_path / "x.onnx", output="uint8")
    with pytest.raises(ValueError, match="no classes to guide to"):
        exports.export(points, tmp_path / "x.onnx", guidance=2.0)


def test_a_graph_that_is_too_large_is_refused(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(exports.exporting, "LARGEST", 10_000)
    monkeypatch.setattr(
        exports.exporting, "built", lambda plan, opset: onnx.ModelProto(doc_string="x" * 20_000)
    )
    with pytest.raises(ValueError, match="fp16 or int8"):
        exports.export(tiny, tmp_path / "x.onnx")


def test_a_missing_package_names_the_extra(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(source.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'flowleap\[onnx\]'"):
        exports.export(tiny, tmp_path / "x.onnx")


# The command line


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    settings = {
        "steps": 4,
        "batch": 20,
        "eval_num": 0,
        "sample_every": 0,
        "checkpoint_every": 2,
        "device": "cpu",
    }
    width = [("network.width", "16"), ("network.depth", "1")]
    config = runs.configure("esc", "digits", network="mlp", settings=width, **settings)
    return runs.train(config, tmp_path_factory.mktemp("runs") / "digits").folder


@pytest.mark.slow
def test_the_command_writes_a_graph_and_compares_it(trained, tmp_path):
    file = tmp_path / "new" / "digits.onnx"
    result = call("export", "onnx", trained, file, "--steps", "1,2", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["file"] == str(file) and found["bytes"] == file.stat().st_size
    assert found["metadata"] == metadata(file) and found["metadata"]["method"] == "esc"
    assert [row["steps"] for row in found["comparison"]] == [1, 2]
    assert all(row["largest"] <= BOUND for row in found["comparison"])
    assert all(set(row["torch"]) == set(row["onnxruntime"]) == {"1", "64"} for row in found["comparison"])
    again = call("export", "onnx", trained, file)
    assert again.exit_code == 2 and "exists already" in again.stderr
    said = call("export", "onnx", trained, file, "--overwrite", "--precision", "int8")
    assert said.exit_code == 0 and "in int8" in said.stdout and "difference" in said.stdout


def test_a_run_in_training_is_refused(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    for name in ("network.safetensors", "ema.safetensors"):
        (tmp_path / "run" / name).unlink()
    result = call("export", "onnx", tmp_path / "run", tmp_path / "x.onnx")
    assert result.exit_code == 2 and "still in training" in result.stderr and "--resume" in result.stderr
