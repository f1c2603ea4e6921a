"""The library in two lines: `flowleap.load` and `flowleap.train` do what the commands do."""

from __future__ import annotations

import inspect
import typing
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from typer.testing import CliRunner

import flowleap
from flowleap import importers, runs
from flowleap.cli import app
from flowleap.training.config import FLAT
from test_import import filled, saved, torch_shapes

SMALL: dict[str, Any] = {"steps": 2, "batch": 20, "sample_every": 0, "device": "cpu", "threads": 1}
SETTINGS = {"network.width": 32, "network.depth": 1, "evaluation.online_share": 0}


def trained(folder: Path, *about: str, **options: Any) -> Path:
    settings = {**SETTINGS, **options.pop("settings", {})}
    result = flowleap.train(
        *about, out=folder, network="mlp", num=0, settings=settings, **{**SMALL, **options}
    )
    return result.folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "digits", "meanflow", "digits")


@pytest.fixture(scope="module")
def moons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "moons", "meanflow", "two-moons")


def command(*words: object) -> Any:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result


def test_samples_are_those_of_the_command(digits: Path, tmp_path: Path) -> None:
    words = (
        "--num",
        5,
        "--steps",
        2,
        "--label",
        3,
        "--seed",
        7,
        "--out",
        tmp_path / "a.npz",
        "--device",
        "cpu",
    )
    command("sample", digits, *words)
    with numpy.load(tmp_path / "a.npz") as file:
        expected = file["images"]
    model = flowleap.load(digits, device="cpu")
    found = model.sample(5, label=3, steps=2, seed=7)
    assert numpy.array_equal(found.numpy(), expected)
    assert torch.equal(model.sample(5, label="3", steps=2, seed=7), found)
    assert torch.equal(model.sample(5, label=[3] * 5, times=[1.0, 0.5, 0.0], seed=7), found)
    assert not torch.equal(model.sample(5, label=3, steps=2), found)


def test_a_model_has_its_parts(digits: Path) -> None:
    model = flowleap.load(digits, "raw", device="cpu")
    assert model.config == runs.read_config(digits)
    assert model.objective == model.run.objective and model.flow_map is model.run.flow
    assert model.classes == tuple("0123456789") and model.shape == (1, 8, 8)
    noise = flowleap.samplers.noise(0, range(4), model.shape)
    label = model.labels(4)
    assert label is not None and label.tolist() == [0, 1, 2, 3]
    made = model.objective.sample(model.flow_map, noise, 1, label=label).clamp(-1, 1)
    assert torch.equal(made, model.sample(4))
    assert repr(model) == f"Model(meanflow of {digits}, raw@2, samples of 1 × 8 × 8, 10 classes)"


def test_images_are_gray_or_in_color_in_their_own_size(digits: Path) -> None:
    images = flowleap.load(digits).images(3, label=[1, 2, 9])
    assert [(image.mode, image.size) for image in images] == [("L", (8, 8))] * 3
    values = flowleap.load(digits).sample(3, label=[1, 2, 9])
    found = torch.stack([torch.from_numpy(numpy.array(image)) for image in images])
    assert (found.float() - 127.5 * (values[:, 0] + 1)).abs().max() <= 0.5


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"label": 10}, "label 10: there are 10 classes, 0 to 9"),
        ({"label": -1}, "there are 10 classes, 0 to 9"),
        ({"label": "cat"}, "there is no class 'cat'"),
        ({"label": [1, 2]}, "expected one class, or one for each of 3"),
        ({"steps": 2, "times": [1.0, 0.0]}, "are both given"),
        ({"steps": 0}, "steps=0"),
        ({"times": [0.0, 1.0]}, "times"),
        ({"num": 0}, "num=0 samples"),
        ({"num": -1}, "num=-1: a whole number"),
        ({"num": 2.0}, "num=2.0: a whole number"),
        ({"seed": -1}, "seed=-1: a whole number"),
        ({"label": 3.7}, "is expected"),
        ({"label": [1.0, 2.0, 3.0]}, "by whole number"),
        ({"label": True}, "by whole number"),
        ({"label": None}, "label None"),
        ({"label": ["1", "cat", "2"]}, "there is no class 'cat'"),
    ],
)
def test_what_cannot_be_sampled_is_refused(digits: Path, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flowleap.load(digits).sample(**{"num": 3, **asked})


def test_classes_are_given_by_name_or_number(digits: Path) -> None:
    model = flowleap.load(digits)
    named = model.labels(3, ["1", "0", "9"])
    assert named is not None and named.tolist() == [1, 0, 9]
    assert torch.equal(model.sample(3, ["1", 0, "9"]), model.sample(3, torch.tensor([1, 0, 9])))
    pictures = model.images(2, 3, steps=1, noise=torch.zeros(2, *model.run.shape))
    assert numpy.array_equal(numpy.array(pictures[0]), numpy.array(pictures[1]))


def test_points_are_no_images_and_have_no_classes(moons: Path) -> None:
    model = flowleap.load(moons)
    assert model.sample(4).shape == (4, 2)
    with pytest.raises(ValueError, match="are points, not images"):
        model.images(4)
    with pytest.raises(ValueError, match="trained without labels"):
        model.sample(4, label=0)


def test_published_weights_are_loaded_without_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = saved(tmp_path / "weights.pt", filled(torch_shapes(second=False)))
    about: dict[str, Any] = {"layout": "sit", "heads": 4}
    imported = importers.import_weights(file, tmp_path / "run", **about)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = flowleap.load(file, device="cpu", published=about)
    with pytest.warns(UserWarning):
        expected = flowleap.load(imported.folder, device="cpu").sample(2, seed=3)
        assert torch.equal(model.sample(2, seed=3), expected)
    assert model.run.folder == file and model.config.method == "flow_matching"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "weights.pt"]
    with pytest.raises(ValueError, match="are latents: name what decodes them"):
        model.images(2)


def test_what_is_not_there_is_named(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="runs beside it: digits"):
        flowleap.load(digits.with_name("digit"))
    assert importers.hub.is_id("owner/name") and flowleap.model.remote("owner/name")


# flowleap.train


class Asked(Exception):
    """Raised instead of a training, with what would be trained."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def instead(config: Any, out: Any, **about: Any) -> None:
        raise Asked(runs.to_dict(config), out, about["resume"], about["overwrite"])

    monkeypatch.setattr(runs, "train", instead)


@pytest.mark.parametrize(
    ("words", "about"),
    [
        ((), {}),
        (("meanflow",), {"method": "meanflow"}),
        (
            ("esc", "--data", "two-moons", "--overwrite"),
            {"method": "esc", "data": "two-moons", "overwrite": True},
        ),
        (
            (
                "--lr",
                "0.01",
                "--steps",
                "7",
                "--show",
                "2,1",
                "--no-eval",
                "--check",
                "--compile",
                "--seed",
                "3",
            ),
            {"lr": 0.01, "steps": 7, "show": (2, 1), "num": 0, "check": True, "compiled": True, "seed": 3},
        ),
        (
            ("--recipe", "fashion-mnist", "--data", "digits", "--set", "network.patch=2", "--out", "here"),
            {"recipe": "fashion-mnist", "data": "digits", "settings": {"network.patch": 2}, "out": "here"},
        ),
        (
            ("--set", "times.share=0.5", "--set", "optimizer.ema=0.9,0.99", "--num", "50"),
            {"settings": [("times.share", 0.5), ("optimizer.ema", (0.9, 0.99))], "num": 50},
        ),
    ],
)
def test_train_resolves_what_the_command_resolves(asked: None, words: tuple[str, ...], about: dict) -> None:
    result = CliRunner().invoke(app, ["train", *words], standalone_mode=False)
    with pytest.raises(Asked) as mine:
        flowleap.train(**about)
    assert isinstance(result.exception, Asked), result.output
    assert result.exception.args == mine.value.args


def test_words_and_imports_are_given_as_text_or_as_a_sequence(asked: None) -> None:
    configs = []
    for track in ("tensorboard", ("tensorboard",)):
        with pytest.raises(Asked) as found:
            flowleap.train("meanflow", "two-moons", steps=1, track=track)
        configs.append(str(found.value.args))
    assert configs[0] == configs[1] and "tensorboard" in configs[0]
    with pytest.raises(FileNotFoundError, match=r"nothing\.py: no such file"):
        flowleap.train("meanflow", "two-moons", steps=1, imports="nothing.py")


def test_train_takes_every_option_of_the_command() -> None:
    hints = typing.get_type_hints(app_command("train"))
    own = inspect.signature(flowleap.train).parameters
    elsewhere = {"no_eval": "num=0", "dry_run": "see runs.forecast", "as_json": "belongs to --dry-run"}
    missing = [
        name
        for name in hints
        if name not in {*own, *FLAT, *elsewhere, "return", "seed", "init", "teacher", "network", "track"}
    ]
    assert missing == []
    assert {"seed", "init.path", "teacher.path", "network"} <= set(runs.configure().flat())


def app_command(name: str) -> Any:
    return next(one.callback for one in app.registered_commands if one.name == name)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"learning_rate": 1}, "unknown field 'learning_rate'"),
        ({"minutes": 1, "hours": 1}, "--minutes 1 and --hours 1 are the same setting"),
        ({"lr": 0.1, "settings": {"optimizer.lr": 0.2}}, "which is the same field"),
        ({"recipe": "esc-b2"}, "say where it is, --data PATH"),
        ({"recipe": "digits", "resume": True}, "a resumed run has its settings"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    about: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        flowleap.train(**about)
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_continued(tmp_path: Path) -> None:
    place = trained(tmp_path / "run", "meanflow", "two-moons", settings={"schedule.checkpoint_every": 1})
    with pytest.warns(UserWarning, match="2 steps become 3"):
        result = flowleap.train(out=place, resume=True, steps=3)
    assert result.step == 3 and flowleap.load(place).run.step == 3
