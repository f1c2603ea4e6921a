"""Features trained without labels, and what a run refuses about features and few images before time is spent."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from flowleap import data, evaluation, runs
from flowleap.cli import app
from flowleap.data import Dataset
from flowleap.evaluation import classifier, contrastive, label_accuracy
from flowleap.networks import encoder
from flowleap.runs import planning, starting, suitable
from flowleap.training.config import TrainConfig


def checked(config: TrainConfig, dataset: Dataset) -> list[str]:
    return suitable.check(dataset, config.network, config.objective.loss.encoder)


def photos(rows: int = 32, classes: int = 2, name: str = "photos", seed: int = 0) -> Dataset:
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(256, (rows, 1, 8, 8), generator=g) / 127.5 - 1
    return Dataset(
        name, x, torch.arange(rows) % classes, classes=tuple("abcdefghijklmnopqrstuvwxyzABCDEFGHI"[:classes])
    )


def drifting(file: Path | str, dataset: Dataset) -> runs.TrainConfig:
    return runs.configure(
        "energy-distance", dataset, settings=[("loss.features", str(file))], steps=2, batch=16
    )


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The file of a classifier of `photos`, of random weights."""
    dataset = photos()
    network = classifier.Network(1, 2, 2)
    made = classifier.Classifier(
        "photos", network.eval(), torch.zeros(28), torch.ones(28), torch.eye(28), (1, 8, 8),
        made=classifier.how(dataset.checksum, 0), data=dataset.name, classes=dataset.class_names,
    )  # fmt: skip
    made.save(tmp_path / "photos.npz")
    return tmp_path / "photos.npz"


# --- an encoder


def test_views_are_crops_of_another_brightness_that_mirror_color_images_alone() -> None:
    ramp = torch.linspace(-0.5, 0.5, 16).expand(200, 1, 16, 16)
    seen = contrastive.view(ramp, torch.Generator().manual_seed(0))
    slope = seen[:, :, :, 12] - seen[:, :, :, 4]
    assert seen.shape == ramp.shape and float(seen.abs().max()) <= 1 and float(slope.min()) > 0
    assert 0.15 < float(seen.mean((1, 2, 3)).std()) < 0.25 and float(slope.std()) > 0.02
    colored = contrastive.view(ramp.expand(200, 3, 16, 16), torch.Generator().manual_seed(0))
    assert 0.3 < float((colored[:, 0, 0, 12] < colored[:, 0, 0, 4]).double().mean()) < 0.7


def test_the_right_answer_is_the_other_view_of_the_same_image() -> None:
    network = classifier.Network(1, 2, contrastive.OUTPUTS).eval()
    logits, answer = contrastive.paired(network, photos(rows=3).x, torch.zeros(3), torch.Generator())
    assert answer.tolist() == [3, 4, 5, 0, 1, 2] and logits.shape == (6, 6)
    assert bool((logits.diagonal() == -torch.inf).all()) and torch.equal(logits, logits.T)


def nearest_class(rows: Tensor, label: Tensor) -> float:
    """The share of the last half of rows whose nearest row of the first half has their label."""
    half = len(rows) // 2
    near = torch.cdist(rows[half:], rows[:half]).argmin(1)
    return float((label[:half][near] == label[half:]).double().mean())


@pytest.mark.slow
def test_an_encoder_of_digits_tells_classes_apart_that_it_was_never_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pooled features, against those of random weights: half of the errors of the nearest neighbor, or fewer."""
    monkeypatch.setattr(classifier, "MORE", 15)
    digits = data.load("digits")
    made = contrastive.fit(replace(digits, label=None, num_classes=None), seed=0)
    torch.manual_seed(0)
    random = classifier.Network(1, 4, 4).eval()
    found = [(rows - rows.mean(0)) / rows.std(0).clamp_min(1e-6) for rows in
             (network(digits.x)[0].detach() for network in (made.network, random))]  # fmt: skip
    ours, theirs = (nearest_class(rows, digits.label) for rows in found)
    assert 1 - ours < 0.5 * (1 - theirs), (ours, theirs)
    assert made.accuracy is not None and made.accuracy > 0.2


def test_the_command_writes_what_a_drift_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "MORE", 1)
    dataset, place = photos(rows=40), tmp_path / "photos"
    for index, image in enumerate(dataset.x):
        place.mkdir(exist_ok=True)
        levels = (127.5 * (image[0] + 1)).round().byte().numpy()
        Image.fromarray(levels).save(place / f"{index:02}.png")
    out = tmp_path / "features.npz"
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["data", "encoder", str(place), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "56 features of photos" in result.output and f"--set loss.features={out}" in result.output
    folder, found = data.load(str(place)), classifier.read(out)
    assert found.encodes and found.origin == classifier.Origin.of(folder)
    assert [part.shape[1] for part in encoder.features(str(out), folder.x[:3])] == [8, 128, 16, 64, 32, 128]
    rows, logits = next(found.features().stream(folder.x[:3]))
    assert rows.shape == (3, 56) and logits is None  # they are no classes
    assert checked(drifting(out, folder), folder) == []
    again = CliRunner().invoke(app, ["data", "encoder", str(place), "--out", str(out)])
    assert again.exit_code != 0 and "--overwrite" in again.output


def test_what_an_encoder_answers_is_never_taken_for_classes() -> None:
    dataset = photos(rows=200, classes=contrastive.OUTPUTS)
    made = contrastive.fit(replace(photos(rows=40), label=None))
    judge = evaluation.evaluator_for(dataset, made.features()).classifier
    assert isinstance(judge, label_accuracy.Fitted)


# --- before time is spent


def test_features_of_the_data_of_a_run_are_taken(kept: Path) -> None:
    assert checked(drifting(kept, photos()), photos()) == []
    assert classifier.read(kept).origin == classifier.Origin.of(photos())


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (photos(name="cats", seed=1), r"trained on photos \(2 classes \(a, b\), checksum .* on cats \(2 classes"),
        (photos(classes=3), r"trained on photos \(2 classes .*this run is on photos \(3 classes \(a, b, c\)"),
        (
            replace(photos(name="dogs", seed=1), label=None, num_classes=None, classes=()),
            r"this run is on dogs \(checksum \w+\): train features on this data, flowleap data encoder dogs --out",
        ),
    ],
)  # fmt: skip
def test_features_of_other_data_are_refused(
    kept: Path, tmp_path: Path, dataset: Dataset, message: str
) -> None:
    config = drifting(kept, dataset)
    with pytest.raises(ValueError, match=message):
        runs.train(config, tmp_path / "run", dataset=dataset)
    assert not (tmp_path / "run").exists()


def test_features_of_other_data_are_refused_before_a_run_is_planned(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "step_cost", lambda *given, **options: pytest.fail("steps were measured"))
    with pytest.raises(ValueError, match=r"trained on photos .*, and this run is on colors .*data encoder"):
        np.savez(tmp_path / "colors.npz", np.zeros((20, 8, 8, 1), np.uint8))
        planning.planned(
            600.0,
            data=str(tmp_path / "colors.npz"),
            method="energy-distance",
            settings=[("loss.features", str(kept))],
            device="cpu",
        )


def test_features_that_may_be_of_other_data_are_warned_of(kept: Path, tmp_path: Path) -> None:
    (more,) = checked(drifting(kept, photos(seed=1)), photos(seed=1))
    assert "trained on other images than those of this run" in more
    old = tmp_path / "old.npz"
    replace(classifier.read(kept), made="").save(old)
    (unknown,) = checked(drifting(old, photos()), photos())
    assert (
        "does not say which data it was trained on" in unknown
        and "flowleap data classifier photos" in unknown
    )
    digits, shipped = data.load("digits"), classifier.WEIGHTS / "digits.npz"
    assert checked(drifting(shipped, digits), digits) == []
    with pytest.raises(ValueError, match=r"trained on digits .*this run is on photos"):
        checked(drifting(shipped, photos()), photos())


def test_more_classes_than_images_are_refused() -> None:
    dataset = replace(photos(rows=4, classes=2), num_classes=9, classes=())
    config = runs.configure("meanflow", dataset, steps=2)
    with pytest.raises(ValueError, match=r"photos has 9 classes and 4 images.*network.classes=none"):
        checked(config, dataset)
    unlabeled = runs.configure("meanflow", dataset, steps=2, settings=[("network.classes", "none")])
    assert checked(unlabeled, dataset) == []


def test_a_folder_that_is_taken_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "resolved", lambda *given: pytest.fail("the run was planned"))
    (tmp_path / "run").mkdir()
    for name, message in (("notes.txt", "is there but is not a run"), ("config.json", "already holds a run")):
        (tmp_path / "run" / name).write_text("{}")
        result = CliRunner(env={"COLUMNS": "200"}).invoke(
            app, ["train", "--data", str(tmp_path), "--minutes", "30", "--out", str(tmp_path / "run")]
        )
        assert result.exit_code != 0 and re.search(message, result.output), result.output
