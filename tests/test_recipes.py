"""Recipes: every one can be planned without data, changed in words, and trained on data of its kind."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console

from flowleap import methods, runs
from flowleap.data import Dataset, prepare
from flowleap.guidance import FinestLevel, Guidance
from flowleap.runs import published, recipes
from flowleap.velocities import PlugIn

IMAGENET = 1_281_167
ROOT = Path(__file__).resolve().parent.parent


def by_recipe(
    name: str, data: Dataset | str | None = None, **options: Any
) -> tuple[runs.TrainConfig, list[str]]:
    """The config of a recipe, changed by options, and what they change."""
    found = runs.resolve(recipe=name, data=data, **options)
    return found.config, list(found.changes)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if i % 4 == 0 else pytest.mark.slow)
        for i, name in enumerate(recipes.names())
    ],
)
def test_it_can_be_planned_without_data(name: str) -> None:
    recipe = recipes.get(name)
    config, changed = by_recipe(name)
    assert changed == [] and config.recipe == name and config.data.name == (recipe.dataset or "")
    assert (config.schedule.steps, config.data.batch, config.optimizer.lr, config.optimizer.ema) == (
        recipe.steps,
        recipe.batch,
        recipe.lr,
        recipe.ema,
    )
    objective = config.objective
    assert objective.name == methods.get(config.method).name
    with torch.device("meta"):
        network = runs.build_network(config)
    assert network.num_classes == recipe.classes
    assert runs.from_dict(runs.to_dict(config)) == config
    assert recipe.source and recipe.data
    run = re.search(r"benchmarks/\w+\.md", recipe.measured)
    assert recipe.measured == "not yet run here" or (run and (ROOT / run.group()).exists())
    assert all(number.source for number in recipe.numbers)


def test_what_the_papers_name_is_there() -> None:
    known = set(recipes.names())
    assert {
        "esc-b2",
        "esc-xl2",
        "meanflow-b4",
        "meanflow-b2",
        "meanflow-xl2",
        "shortcut-xl2",
        "cifar10",
    } <= known
    assert {"ct-b2", "shortcut-esc-b2", "imm-b2", "sct-b2"} <= known
    for prefix in ("imagenet256", "celebahq256"):
        assert len([name for name in known if name.startswith(prefix)]) == 8
    assert {"digits", "fashion-mnist", "fashion-mnist-gpu", "folder-64", "folder-64-gpu"} <= known


def test_a_run_is_by_the_recipe_of_the_digits_only_where_nothing_is_named() -> None:
    """Whoever names a method or data gets the settings that all methods share."""
    recipe, plain = recipes.get("digits"), runs.resolve(steps=5, seed=3)
    assert (plain.config.recipe, plain.config.data.name) == ("digits", "digits")
    assert plain.config.optimizer.lr == recipe.lr and plain.config.seed == 3
    assert plain.changes[0] == f"recipe digits: schedule.steps is 5 instead of {recipe.steps}"
    usual = runs.configure("esc")
    for named in (
        {"method": "esc"},
        {"data": "digits"},
        {"network": "dit-nano"},
        {"objective": usual.objective},
    ):
        assert runs.configure(**named) == usual, named


def test_guidance_trains_the_null_label_in_a_recipe_without_it() -> None:
    guided = [("guidance", "Guidance"), ("guidance.omega", "1.0")]
    assert runs.configure(settings=guided).objective.label_dropout == 0.1
    kept = runs.configure(settings=[*guided, ("label_dropout", "0.2")])
    assert kept.objective.label_dropout == 0.2 and runs.configure().objective.label_dropout == 0


@pytest.mark.parametrize(
    ("name", "epochs"),
    [("esc-b2", 240), ("esc-xl2", 240), ("meanflow-b4", 80), ("meanflow-b2", 240), ("imm-b2", 960)],
)
def test_steps_and_batches_are_the_published_epochs(name: str, epochs: int) -> None:
    recipe = recipes.get(name)
    assert recipe.steps * recipe.batch / IMAGENET == pytest.approx(epochs, rel=0.002)


@pytest.mark.slow
def test_published_settings_of_esc() -> None:
    small, large = (by_recipe(name)[0].objective for name in ("esc-b2", "esc-xl2"))
    assert small.guidance == Guidance(1.0, 0.5) and small.guidance.scale == pytest.approx(2.0)
    assert large.guidance == Guidance(0.2, 0.92, (0.0, 0.75)) and large.guidance.scale == pytest.approx(2.5)
    assert (small.velocity, large.velocity) == (PlugIn(0.5), PlugIn(0.2))
    for objective, steps in ((small, 600_000), (large, 1_200_000)):
        assert Fraction(objective.times.horizon).limit_denominator(1000) * steps == 20_000
    config = by_recipe("esc-xl2")[0]
    assert (
        config.optimizer.betas == (0.9, 0.95)
        and config.optimizer.weight_decay == 0
        and config.optimizer.clip == 1.0
    )
    assert config.network["patch"] == 2 and config.network["log_variance"] and config.network["depth"] == 28


def test_published_settings_of_meanflow() -> None:
    """The configs/default.py of its code: the mse autoencoder, 0.18215, no half precision, no warm-up."""
    for name in ("meanflow-b4", "meanflow-b2", "meanflow-xl2"):
        recipe = recipes.get(name)
        assert "sd-vae-ft-mse" in recipe.data and "0.18215" in recipe.data
        assert recipe.precision == "fp32" and recipe.betas == (0.9, 0.95) and recipe.batch == 256
    assert "sd-vae-ft-ema" in recipes.get("esc-b2").data and "0.18125" in recipes.get("esc-b2").data


@pytest.mark.slow
def test_baselines_of_esc_say_where_the_published_losses_differ() -> None:
    """What was run there: the learned weight of t alone, the batch of IMM, and losses that are others."""
    for name in ("esc-b2", "esc-xl2", "sct-linear-b2"):
        assert by_recipe(name)[0].objective.loss.of == "t", name
    imm = recipes.get("imm-b2")
    assert (imm.batch, imm.steps, imm.objective.group, imm.objective.times.halvings) == (2048, 600_000, 4, 12)
    assert imm.numbers[0].value == 91.96
    assert any("widths of all groups" in note for note in imm.notes) and any(
        "fp16" in note for note in imm.notes
    )
    sct = " ".join(recipes.get("sct-b2").notes)
    assert recipes.get("sct-b2").objective.path.noise_scale == 0.5 and "theirs is 1" not in sct
    assert "no such weight" in sct and "units of the velocity" in sct


@pytest.mark.slow
def test_rows_of_the_table_of_shortcut_models() -> None:
    """One-step numbers, as published; parentheses are not ours to keep."""
    ones = {name: recipes.get(f"imagenet256-{name}").numbers[2].value for name in published.NUMBERS}
    assert ones == {
        "progressive-distillation": 35.6, "consistency-distillation": 136.5, "reflow": 44.8, "diffusion": 467.2,
        "flow-matching": 324.8, "consistency-training": 69.7, "live-reflow": 58.1, "shortcut": 40.3,
    }  # fmt: skip
    faces, objects = (by_recipe(f"{name}-shortcut")[0] for name in ("celebahq256", "imagenet256"))
    assert [(c.data.batch, c.schedule.steps) for c in (faces, objects)] == [(64, 400_000), (256, 800_000)]
    assert faces.objective.guidance is None
    assert objects.objective.guidance == FinestLevel(1.5)
    assert faces.network["kind"] == "StepToken" and faces.network["network"]["classes"] is None
    optimizer = faces.optimizer
    assert (optimizer.weight_decay, optimizer.betas, optimizer.clip) == (0.1, (0.9, 0.999), None)
    assert optimizer.ema == (0.999,)
    for name in ("progressive-distillation", "reflow"):
        config = by_recipe(f"imagenet256-{name}")[0]
        assert runs.own_teacher(config) and runs.length(config) == 800_000


@pytest.mark.slow
def test_what_is_changed_is_said() -> None:
    config, changed = by_recipe(
        "esc-b2", batch=64, settings=[("velocity", "Conditional"), ("network.depth", "2"), ("lr", "3e-4")]
    )
    assert config.data.batch == 64 and config.optimizer.lr == 3e-4 and config.network["depth"] == 2
    assert sorted(changed) == [
        "recipe esc-b2: data.batch is 64 instead of 512",
        "recipe esc-b2: optimizer.lr is 0.0003 instead of 0.0001",
        "recipe esc-b2: the network is another, depth 2 (there 12)",
        "recipe esc-b2: velocity is Conditional instead of PlugIn",
    ]
    _, changed = by_recipe("esc-xl2", steps=2_400_000, network="dit-base-4")
    assert any("scale with --steps" in line for line in changed)
    assert any("patch 4 (there 2)" in line for line in changed)
    assert by_recipe("esc-b2", seed=3, eval_num=50_000)[1] == []


@pytest.mark.slow
def test_data_of_another_shape_or_other_classes_are_said() -> None:
    x = torch.zeros(20, 4, 16, 16)
    own = Dataset("mine", x, torch.arange(20) % 5, 5, kind="latents")
    config, changed = by_recipe("esc-b2", own)
    assert config.network["image"] == [4, 16, 16] and config.network["classes"] == 5
    assert changed == [
        "recipe esc-b2: made for latents of shape (4, 32, 32), here (4, 16, 16)",
        "recipe esc-b2: made for 1000 classes, here 5",
    ]
    unlabeled, changed = by_recipe("folder-64", Dataset("mine", torch.zeros(20, 3, 64, 64)))
    assert changed == [] and unlabeled.objective.label_dropout == 0
    assert unlabeled.network["classes"] is None


@pytest.mark.parametrize("name", ["esc-b2", "imagenet256-shortcut", "imagenet256-reflow"])
def test_guided_recipes_train_without_labels_unguided(name: str) -> None:
    own = Dataset("mine", torch.zeros(20, 4, 16, 16), kind="latents")
    config, changed = by_recipe(name, own)
    objective = config.objective
    assert (
        objective.guidance is None and objective.label_dropout == 0 and config.teacher.pair_guidance is None
    )
    assert any("without guidance, which needs labels, and mine has none" in line for line in changed)
    assert not any("without guidance" in line for line in by_recipe("celebahq256-shortcut", own)[1])


def pictures(place: Path, side: int) -> str:
    place.mkdir()
    for number in range(6):
        Image.new("RGB", (side + number, side + 30), (40 * number, 0, 90)).save(place / f"{number}.png")
    return str(place)


@pytest.mark.slow
def test_larger_images_of_a_folder_are_shrunk_to_those_of_a_recipe(tmp_path) -> None:
    """Unless another size is asked for: a recipe is sized for one. Smaller ones are taken, and said."""
    large = pictures(tmp_path / "large", 300)
    config, changed = by_recipe("cifar10", large, flip=True)
    assert config.network["image"] == [3, 32, 32] and (config.data.size, config.data.square) == (32, "crop")
    assert changed == [] and config.data.flip
    config, changed = by_recipe("folder-64", large, size=32, square="resize")
    assert config.network["image"] == [3, 32, 32] and (config.data.size, config.data.square) == (32, "resize")
    assert changed[0] == "recipe folder-64: made for image of shape (3, 64, 64), here (3, 32, 32)"
    assert len(config.data.load()) == 6
    small, changed = by_recipe("folder-64", pictures(tmp_path / "small", 40))
    assert small.network["image"] == [3, 32, 32] and "made for image of shape" in changed[0]
    with pytest.raises(ValueError, match="smaller --size"):
        by_recipe("folder-64", large, size=400)


def test_images_that_a_recipe_shrinks_are_decoded_once(tmp_path, monkeypatch) -> None:
    decoded, decode = Counter(), prepare.decode
    monkeypatch.setattr(
        prepare, "decode", lambda file, *given: decoded.update([file]) or decode(file, *given)
    )
    assert runs.resolve(recipe="cifar10", data=pictures(tmp_path / "large", 300)).dataset.shape == (3, 32, 32)
    assert len(decoded) == 6 and set(decoded.values()) == {1}


def test_images_are_refused_for_latents_before_they_are_looked_at(tmp_path, monkeypatch) -> None:
    folder = pictures(tmp_path / "images", 64)
    monkeypatch.setattr(recipes.data_sets, "load", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(ValueError, match=r"esc-b2 is for latents, and .*images holds images: .* --size 256"):
        by_recipe("esc-b2", folder)


def test_mistakes_name_their_neighbors() -> None:
    with pytest.raises(ValueError, match="unknown recipe 'esc-b4'; did you mean esc-b2"):
        recipes.get("esc-b4")
    with pytest.raises(ValueError, match="trains esc, not meanflow"):
        by_recipe("esc-b2", method="meanflow")
    with pytest.raises(ValueError, match=r"is for latents, and two-moons holds points$"):
        by_recipe("esc-b2", "two-moons")
    with pytest.raises(
        ValueError, match=r"is for latents, and digits holds images: .* data encode PATH .* --size 256"
    ):
        by_recipe("esc-b2", "digits")
    with pytest.raises(ValueError, match="is for images, and mine holds latents: another recipe"):
        by_recipe("folder-64", Dataset("mine", torch.zeros(20, 4, 8, 8), kind="latents"))
    with pytest.raises(ValueError, match="unknown field 'learning_rate'"):
        by_recipe("esc-b2", settings=[("learning_rate", "1")])


@pytest.mark.slow
def test_a_recipe_is_trained(tmp_path) -> None:
    """On images of its shape, with a network made small: every step of the story runs."""
    source = torch.Generator().manual_seed(0)
    own = Dataset("mine", torch.rand(800, 1, 28, 28, generator=source) * 2 - 1, torch.arange(800) % 10, 10)
    settings = [("network.width", "24"), ("network.depth", "1"), ("network.heads", "2")]
    config, _ = by_recipe("fashion-mnist", own, settings=settings, steps=4, batch=16, eval_num=0)
    config = config.replace(online_share=0.0, sample_every=0)
    result = runs.train(config, tmp_path / "run", dataset=own, console=Console(file=io.StringIO()))
    assert result.step == 4
    assert json.loads((result.folder / "config.json").read_text())["config"]["recipe"] == "fashion-mnist"
