"""A run as a pipeline of diffusers: the same images, with and without flowleap; refusals; the code that is written."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from export_runs import images, run_folder
from flowleap import runs, samplers
from flowleap.cli import app

diffusers = pytest.importorskip("diffusers", minversion="0.42")

from flowleap.export import card, modeling, pipeline, source
from flowleap.export.diffusers import FlowleapPipeline, pipeline_of, steps_of
from flowleap.export.standalone import standalone

pytestmark = pytest.mark.slow
SOURCE = Path(source.__file__).resolve().parent.parent
ODD = ('a "quoted" one', "<b>bold|</b>", "`code`'s", "ö_*")


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    diffusers.utils.logging.disable_progress_bar()


@pytest.fixture(autouse=True)
def modules(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code of folders is copied here before it is run."""
    place = str(tmp_path_factory.mktemp("modules"))
    monkeypatch.setattr(diffusers.utils.dynamic_modules_utils, "HF_MODULES_CACHE", place)
    monkeypatch.syspath_prepend(place)
    for name in [name for name in sys.modules if name.startswith("diffusers_modules")]:
        del sys.modules[name]


def sampled(run: runs.Run, num: int, steps: int, **options: Any) -> Tensor:
    """What `flowleap sample --seed 3` makes, classes in turn."""
    label = None if run.num_classes is None else torch.arange(num) % run.num_classes
    noise = samplers.noise(3, range(num), run.shape)
    return run.objective.sample(run.flow, noise, steps, label=label, **options)


def written(place: Path, run: runs.Run) -> Path:
    pipeline_of(run).save_pretrained(place)
    return place


def quietly(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(
    ("method", "network", "steps"),
    [
        ("meanflow", "dit-nano", 1),
        ("esc", "unet-small", 2),
        ("consistency_training", "dit-nano", 1),
        ("ict", "unet-small", 3),  # noise levels, fresh noise between steps
        ("sct", "dit-nano", 2),  # a curved path, fresh noise
        ("imm", "dit-nano", 3),  # begins at t = 0.994
        ("shortcut_repo", "dit-nano", 4),  # step tokens
        ("shortcut", "dit-nano", 128),  # the instantaneous velocity
        ("diffusion", "dit-nano", 3),  # the variance-preserving path
        ("flow_matching", "dit-nano", 4),
        ("live_reflow", "dit-nano", 2),
        ("pmf", "dit-nano", 2),
        ("dmf", "dit-nano", 2),
        ("tcm", "dit-nano", 2),  # two networks
        ("energy_distance", "dit-nano", 1),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_images_are_those_of_the_run(method, network, steps, tmp_path):
    run = source.finished(run_folder(tmp_path / "run", method, network))
    folder = written(tmp_path / "out", run)
    wanted = sampled(run, 5, steps)
    for pipe in (
        FlowleapPipeline.from_pretrained(folder),
        diffusers.DiffusionPipeline.from_pretrained(folder, trust_remote_code=True),
    ):
        made = quietly(pipe)(5, steps, seed=3, output_type="latent").images
        assert (made - wanted).abs().max() <= 1e-5 * max(1, float(wanted.abs().max()))
    assert wanted.std(0).min() > 0


WITHOUT = """
    import sys, json, torch, numpy

    class Nothing:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "flowleap":
                raise ImportError("flowleap is not here")

    sys.meta_path.insert(0, Nothing())
    try:
        import flowleap
    except ImportError:
        pass
    else:
        raise SystemExit("flowleap is there")
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained({folder!r}, trust_remote_code=True)
    images = pipe(class_labels=["dog", 2, "cat"], seed=3).images
    latents = pipe(5, 2, seed=3, output_type="latent").images
    pipe.save_pretrained({again!r})
    other = DiffusionPipeline.from_pretrained({again!r}, trust_remote_code=True)
    assert torch.equal(other(5, 2, seed=3, output_type="latent").images, latents)
    numpy.savez({result!r}, latents=latents, images=numpy.stack([numpy.asarray(image) for image in images]))
    assert "flowleap" not in sys.modules
"""


def test_it_loads_offline_without_flowleap(tmp_path):
    """In a process that cannot import flowleap; what it saves is the same, to the byte."""
    place = run_folder(tmp_path / "run")
    done = CliRunner().invoke(app, ["export", "diffusers", str(place), str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    names = {name: str(tmp_path / name) for name in ("again", "result.npz")}
    script = WITHOUT.format(folder=str(tmp_path / "out"), again=names["again"], result=names["result.npz"])
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    run, made = source.finished(place), np.load(tmp_path / "result.npz")
    assert torch.allclose(torch.from_numpy(made["latents"]), sampled(run, 5, 2), atol=1e-5)
    noise = samplers.noise(3, range(3), run.shape)
    wanted = run.objective.sample(run.flow, noise, 1, label=torch.tensor([1, 2, 0])).clamp(-1, 1)
    assert np.array_equal(made["images"], ((wanted[:, 0] + 1) * 127.5).round().numpy().astype("uint8"))
    for name in ("pipeline.py", "network/modeling_flowleap.py", "network/diffusion_pytorch_model.safetensors",
                 "model_index.json", "scheduler/scheduler_config.json"):  # fmt: skip
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), name


def without_docstrings(node: ast.AST) -> str:
    copy = ast.parse(ast.unparse(node))
    for inner in ast.walk(copy):
        if isinstance(inner, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(inner) is not None:
            inner.body = inner.body[1:] or [ast.Pass()]
    return ast.dump(copy)


def functions(text: str) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef))


EVERY = {"NETWORKS": modeling.NETWORKS, "PATHS": modeling.PATHS, "MEANINGS": modeling.MEANINGS}
LEAST = {"NETWORKS": ["DiT"], "PATHS": ["LinearPath"], "MEANINGS": ["AverageVelocity"]}


@pytest.mark.parametrize("used", [EVERY, LEAST], ids=["all", "one"])
def test_the_written_code_is_ours_word_for_word(used, tmp_path):
    ours = {without_docstrings(node) for path in SOURCE.rglob("*.py") for node in functions(path.read_text())}
    first = standalone(pipeline.__name__)
    for text in (first, standalone(modeling.__name__, used, first)):
        text = text.replace("Network_adapters", "Network")  # two modules have a type of this name
        made = list(functions(text))
        assert len(made) > 20
        assert [node.name for node in made if without_docstrings(node) not in ours] == []
        assert "import flowleap" not in text and "from flowleap" not in text.split('"""', 2)[2]
        (tmp_path / "code.py").write_text(text)
        checks = [
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--isolated",
            "--select",
            "F",
            str(tmp_path / "code.py"),
        ]
        found = subprocess.run(checks, capture_output=True, text=True)
        assert found.returncode == 0, found.stdout


def test_the_code_of_one_network_leaves_the_others_out():
    text = standalone(modeling.__name__, LEAST, standalone(pipeline.__name__))
    assert "class DiT(" in text
    assert [
        name for name in ("UNet", "VEPath", "EDM", "def singularity", "_post_init_") if name in text
    ] == []
    assert len(text.splitlines()) < 800


def test_the_scheduler_is_that_of_diffusers_and_a_shift_reaches_the_network(tmp_path):
    run = source.finished(run_folder(tmp_path / "run"))
    pipe = quietly(FlowleapPipeline.from_pretrained(written(tmp_path / "out", run)))
    assert type(pipe.scheduler) is diffusers.FlowMapEulerDiscreteScheduler
    pipe.scheduler = diffusers.FlowMapEulerDiscreteScheduler(shift=3.0)
    made = pipe(2, 2, seed=3, output_type="latent").images
    noise, label = samplers.noise(3, range(2), run.shape), torch.tensor([0, 1])
    wanted = run.objective.sample(run.flow, noise, times=(1, 0.75, 0), label=label)
    assert torch.allclose(made, wanted, atol=1e-5)
    pipe.scheduler = diffusers.FlowMapEulerDiscreteScheduler()
    assert torch.allclose(pipe(2, times=(1, 0.75, 0), seed=3, output_type="latent").images, wanted, atol=1e-5)


@pytest.mark.parametrize("scale", [None, 1.0, 3.0])
def test_guidance_as_an_input_costs_nothing(scale, tmp_path):
    place = run_folder(tmp_path / "run", guidance="GuidanceInput")
    run = source.finished(place)
    pipe = quietly(FlowleapPipeline.from_pretrained(written(tmp_path / "out", run)))
    calls: list[int] = []
    pipe.network.network.register_forward_hook(lambda module, given, made: calls.append(len(made)))
    made = pipe(4, 2, scale, seed=3, output_type="latent").images
    assert calls == [4, 4]
    assert torch.allclose(made, sampled(run, 4, 2, guidance=scale), atol=1e-5)
    with pytest.raises(ValueError, match="scales from 1 to 8"):
        pipe(4, 2, 9.0)
    within = pipe(4, 2, 3.0, seed=3, guidance_interval=(0.2, 0.8), output_type="latent").images
    assert torch.allclose(within, sampled(run, 4, 2, guidance=3.0, interval=(0.2, 0.8)), atol=1e-5)


def test_guidance_by_two_evaluations(tmp_path):
    run = source.finished(run_folder(tmp_path / "run", "imm", label_dropout=0.1))
    pipe = quietly(FlowleapPipeline.from_pretrained(written(tmp_path / "out", run)))
    calls: list[int] = []
    pipe.network.network.register_forward_hook(lambda module, given, made: calls.append(len(made)))
    made = pipe(4, 2, 2.5, seed=3, output_type="latent").images
    assert calls == [8, 8]
    assert torch.allclose(made, sampled(run, 4, 2, guidance=2.5), atol=1e-5)


def test_shortcut_models_are_guided_in_their_finest_steps(tmp_path):
    run = source.finished(run_folder(tmp_path / "run", "shortcut", label_dropout=0.1))
    pipe = quietly(pipeline_of(run))
    with pytest.raises(ValueError, match="guided in 128 steps or more"):
        pipe(2, 8, 2.0)
    made = pipe(2, 128, 2.0, seed=3, output_type="latent").images
    assert torch.allclose(made, sampled(run, 2, 128, guidance=2.0), atol=1e-4)


@pytest.mark.parametrize(
    ("method", "names", "options", "reason"),
    [
        ("meanflow", ("a", "b"), {"label_dropout": 0.0}, "null label was never trained"),
        (
            "best",
            ("a", "b"),
            {"guidance": "Guidance", "guidance.kappa": 0.5, "label_dropout": 0.1},
            "part of the trained weights",
        ),
        ("meanflow", (), {}, "trained without classes"),
    ],
)
def test_guidance_that_a_model_does_not_have_is_refused(method, names, options, reason, tmp_path):
    run = source.finished(run_folder(tmp_path / "run", method, dataset=images(names), **options))
    pipe = quietly(pipeline_of(run))
    with pytest.raises(ValueError, match=reason):
        pipe(2, guidance_scale=2.0)
    with pytest.raises(ValueError, match="guidance_interval"):
        pipe(2, guidance_interval=(0.2, 0.8))
    assert len(pipe(2, guidance_scale=1.0).images) == 2


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return quietly(
        pipeline_of(source.finished(run_folder(tmp_path_factory.mktemp("run") / "run", dataset=images(ODD))))
    )


def test_labels_by_name_or_number(pipe):
    noise = samplers.noise(0, range(2), (1, 8, 8))
    wanted = pipe(2, latents=noise, class_labels=[3, 1], output_type="pt").images
    for labels in (["ö_*", "<b>bold|</b>"], (3, "<b>bold|</b>"), torch.tensor([3, 1])):
        assert torch.equal(pipe(latents=noise, class_labels=labels, output_type="pt").images, wanted)
    one = pipe(2, latents=noise, class_labels="ö_*", output_type="pt").images
    assert torch.equal(one[0], wanted[0]) and not torch.equal(one[1], wanted[1])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"class_labels": 4}, r"label 4 is out of range.*classes 0 to 3"),
        ({"class_labels": [-1]}, "label -1 is out of range"),
        ({"class_labels": "owl"}, "there is no class 'owl'"),
        ({"class_labels": [0, 1], "batch_size": 3}, "3 of batch_size, 2 of class_labels"),
        ({"batch_size": 0}, "of 1 or more"),
        ({"latents": torch.zeros(1, 1, 4, 4)}, r"noise of shape \(1, 1, 8, 8\)"),
        ({"seed": 1, "generator": torch.Generator()}, "generator and seed"),
        ({"generator": [torch.Generator()], "batch_size": 2}, "1 generators for 2"),
        ({"output_type": "jpg"}, "expected"),
        ({"num_inference_steps": 0}, "at least one step"),
        ({"times": (1, 0.5)}, "falling times"),
    ],
)
def test_what_does_not_fit_is_refused(pipe, options, reason):
    with pytest.raises(ValueError, match=reason):
        pipe(**options)


def test_types_of_output(pipe):
    raw = pipe(2, seed=3, output_type="latent").images.clamp(-1, 1)
    unit = pipe(2, seed=3, output_type="pt").images
    assert torch.allclose(unit * 2 - 1, raw, atol=1e-6)
    array = pipe(2, seed=3, output_type="np", return_dict=False)[0]
    assert array.shape == (2, 8, 8, 1) and np.array_equal(array[..., 0], unit[:, 0].numpy())
    assert [picture.mode for picture in pipe(2, seed=3).images] == ["L", "L"]
    own = [torch.Generator().manual_seed(7), torch.Generator().manual_seed(8)]
    each = pipe(2, generator=own, class_labels=0, output_type="pt").images
    alone = pipe(1, generator=torch.Generator().manual_seed(8), class_labels=0, output_type="pt").images
    assert torch.allclose(each[1:], alone, atol=1e-6)


def test_other_types_of_weights(tmp_path):
    run = source.finished(run_folder(tmp_path / "run"))
    folder = written(tmp_path / "out", run)
    wanted = sampled(run, 4, 1)
    for pipe in (
        FlowleapPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16),
        pipeline_of(run).to(torch.bfloat16),
    ):
        assert pipe.dtype == torch.bfloat16
        made = quietly(pipe)(4, seed=3, output_type="latent").images
        assert made.dtype == torch.float32
        assert 1e-6 < (made - wanted).abs().max() < 0.1


def test_steps_that_a_method_is_not_trained_for_are_said(tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(pipeline.logger, "warning", said.append)
    run = source.finished(run_folder(tmp_path / "run", "flow_matching"))
    quietly(pipeline_of(run))(1, 2)
    assert len(said) == 1 and "needs many steps" in said[0]
    assert steps_of(run.objective) > 8


def refused(*words: object) -> str:
    done = CliRunner().invoke(app, ["export", "diffusers", *map(str, words)])
    assert done.exit_code == 2, done.output
    return " ".join(done.stderr.split())


def test_the_command_writes_a_model_card(tmp_path):
    place = run_folder(tmp_path / "run", "flow_matching", dataset=images(ODD))
    command = [
        "export",
        "diffusers",
        str(place),
        str(tmp_path / "out"),
        "--license",
        "mit",
        "--data-license",
        "<CC0>",
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    steps = steps_of(source.finished(place).objective)
    assert f"num_inference_steps={steps}" in done.stdout and "up to" in done.stdout
    text = (tmp_path / "out" / "README.md").read_text()
    assert text.startswith("---\nlicense: mit\n")
    assert "<b>" not in text.replace(json.dumps(ODD[0]), "") and "&lt;b&gt;bold\\|&lt;/b&gt;" in text
    assert "&lt;CC0&gt;" in text and "num\\_inference\\_steps" not in text and "lipman2022flow" in text
    assert (tmp_path / "out" / "samples.png").is_file()
    assert "exists already" in refused(place, tmp_path / "out")
    index = json.loads((tmp_path / "out" / "model_index.json").read_text())
    assert tuple(index["id2label"].values()) == ODD


def test_the_table_of_other_weights_is_not_in_the_card(tmp_path):
    run = source.finished(run_folder(tmp_path / "run"))
    (run.folder / "table.md").write_text("| FD |")
    for weights, there in ((run.weights, True), ("raw@7", False)):
        (run.folder / "table.json").write_text(json.dumps([{"protocol": f"v2;weights={weights};seed=0"}]))
        assert (card.quality(run) == "| FD |") is there


def test_runs_that_are_no_pipelines_are_refused(tmp_path):
    assert "still in training" in refused(run_folder(tmp_path / "begun", step=3), tmp_path / "out")
    points = run_folder(tmp_path / "points", network="mlp", dataset=images((), (2,), kind="points"))
    assert "its samples are points" in refused(points, tmp_path / "out")
    assert "learned solver" in refused(run_folder(tmp_path / "amed", "amed"), tmp_path / "out")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("")
    place = run_folder(tmp_path / "run")
    assert "something else" in refused(place, tmp_path / "taken", "--overwrite")
    assert "--push-to-hub" in refused(place, tmp_path / "out", "--private")
    assert not (tmp_path / "out").exists()


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    place = run_folder(tmp_path / "run")
    monkeypatch.delitem(sys.modules, "flowleap.export.diffusers")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert "pip install 'flowleap[diffusers]'" in refused(place, tmp_path / "out")


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("vae")
    blocks: Any = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    made = diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        block_out_channels=[4, 8],
        norm_num_groups=2,
        latent_channels=4,
        **blocks,
    )
    made.save_pretrained(place)
    return place


def test_latents_are_decoded(tmp_path, vae):
    from flowleap import autoencoders

    codec = autoencoders.load(vae).codec(scaling=0.3, shift=0.1)
    latents = images((), (4, 8, 8), kind="latents", codec=codec)
    place = run_folder(tmp_path / "run", dataset=latents)
    done = CliRunner().invoke(app, ["export", "diffusers", str(place), str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    run = source.finished(place)
    wanted = run.decoder()(sampled(run, 2, 1))
    for pipe in (
        FlowleapPipeline.from_pretrained(tmp_path / "out"),
        diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out", trust_remote_code=True),
    ):
        made = quietly(pipe)(2, seed=3, output_type="pt").images
        assert made.shape == (2, 3, 16, 16)
        assert torch.allclose(made * 2 - 1, wanted, atol=1e-5)
    bare = CliRunner().invoke(app, ["export", "diffusers", str(place), str(tmp_path / "bare"), "--latents"])
    assert bare.exit_code == 0, bare.output
    pipe = quietly(FlowleapPipeline.from_pretrained(tmp_path / "bare"))
    with pytest.raises(ValueError, match='ask for output_type="latent"'):
        pipe(2, seed=3)
    assert torch.allclose(pipe(2, seed=3, output_type="latent").images, sampled(run, 2, 1), atol=1e-5)


def test_only_a_pipeline_of_flowleap_is_replaced(tmp_path):
    (tmp_path / "file.txt").write_text("kept")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model_index.json").write_text("{}")
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "flowleap.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    for name in ("file.txt", "other"):
        with pytest.raises(ValueError, match="something else than a pipeline of flowleap"):
            source.replaceable(tmp_path / name, "flowleap.json", "a pipeline of flowleap")
    for name in ("ours", "empty", "new"):
        source.replaceable(tmp_path / name, "flowleap.json", "a pipeline of flowleap")
