"""Data sets of Hugging Face `datasets`: made here, saved to folders, trained on."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from flowleap import data
from flowleap.cli import app
from flowleap.data import Preprocessing, huggingface
from flowleap.data.huggingface import Address, open_table
from test_folder_data import TINY, draw

datasets = pytest.importorskip("datasets", reason="the extra 'hub' is not installed")


@pytest.fixture(autouse=True)
def _quiet(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def table(count=12, size=(16, 16), columns=None, seed=0):
    rng = np.random.default_rng(seed)
    images = [draw(rng, *size) for _ in range(count)]
    kinds = {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["ant", "bee", "cat"])}
    content = {"picture": images, "kind": [i % 3 for i in range(count)]}
    for name, (values, kind) in (columns or {}).items():
        content[name], kinds[name] = values, kind
    return datasets.Dataset.from_dict(content, features=datasets.Features(kinds)), images


def pixels(images):
    return torch.stack(
        [torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1 for image in images]
    )


def test_what_save_to_disk_wrote_is_read_by_the_types_of_its_columns(tmp_path):
    rows, images = table()
    rows.save_to_disk(tmp_path / "d")
    found = data.load(f"hf:{tmp_path / 'd'}")
    assert torch.equal(found.x, pixels(images)) and found.label.tolist() == [0, 1, 2] * 4
    assert found.classes == ("ant", "bee", "cat") and found.name == "d" and data.short(found.path) == "d"
    disk = data.load(f"hf:{tmp_path / 'd'}", preprocessing=Preprocessing(memory=0.0))
    assert disk.x.on_disk and torch.equal(disk.x[:], found.x)


def test_splits_and_the_one_that_is_held_out(tmp_path):
    (train, _), (test, shown) = table(9), table(6, seed=1)
    datasets.DatasetDict(train=train, test=test).save_to_disk(tmp_path / "d")
    found = data.load(f"hf:{tmp_path / 'd'}")
    assert (found.split, len(found), found.held_out) == ("train", 9, "test")
    assert torch.equal(data.held_out(found).x, pixels(shown))
    with pytest.raises(ValueError, match="no split 'valid': choose train or test"):
        open_table(f"hf:{tmp_path / 'd'}", "valid")


def test_a_folder_of_parquet_files(tmp_path):
    rows, images = table()
    rows.to_parquet(tmp_path / "pq" / "train-00000-of-00001.parquet") if (
        tmp_path / "pq"
    ).mkdir() is None else None
    found = data.load(f"hf:{tmp_path / 'pq'}")
    assert torch.equal(found.x, pixels(images)) and found.num_classes == 3


def test_rows_that_were_chosen_and_shuffled_keep_their_labels(tmp_path):
    rows, images = table()
    rows.select([5, 2, 7]).save_to_disk(tmp_path / "d")
    found = data.load(f"hf:{tmp_path / 'd'}")
    assert torch.equal(found.x, pixels([images[5], images[2], images[7]])) and found.label.tolist() == [
        1,
        1,
        0,
    ]
    assert found.classes == ("bee", "cat")


def test_several_columns_that_fit_and_labels_that_are_hidden(tmp_path):
    extra = {
        "coarse": ([0] * 12, datasets.ClassLabel(names=["all"])),
        "label": ([1] * 12, datasets.ClassLabel(names=["x", "y"])),
    }
    rows, _ = table(columns=extra)
    rows.save_to_disk(tmp_path / "d")
    found = data.load(f"hf:{tmp_path / 'd'}")
    assert found.classes == ("y",) and any("label is taken" in note for note in found.notes)
    assert "classes without images are left out: x" in found.notes
    whole, _ = table()
    hidden = whole.remove_columns("kind").add_column("label", [-1] * 12)
    hidden.save_to_disk(tmp_path / "h")
    found = data.load(f"hf:{tmp_path / 'h'}")
    assert found.label is None and any("taken as unlabeled" in note for note in found.notes)


def test_whole_numbers_of_the_usual_name_are_labels(tmp_path):
    rows, _ = table()
    plain = rows.remove_columns("kind").add_column("label", [4, 0] * 6)
    plain.save_to_disk(tmp_path / "d")
    found = data.load(f"hf:{tmp_path / 'd'}")
    assert found.label.tolist() == [1, 0] * 6 and found.classes == ("0", "4")
    assert any("labels: 2 classes of 6 images: 0, 4" in note for note in found.notes)


def loaded(tmp_path, name, values, kind, count=12):
    rows, _ = table(count)
    rows.remove_columns("kind").add_column(name, values).cast_column(name, kind).save_to_disk(tmp_path / "d")
    return data.load(f"hf:{tmp_path / 'd'}")


@pytest.mark.parametrize(
    ("name", "kind", "values", "classes"),
    [
        ("label", "string", ["img10", "img2", "cat"] * 4, ("cat", "img2", "img10")),
        ("Target", "int32", [7, 0, 7] * 4, ("0", "7")),
        ("class", "bool", [True, False, True] * 4, ("False", "True")),
        ("category", "large_string", ["b", "a", "a"] * 4, ("a", "b")),
    ],
)
def test_texts_truth_values_and_numbers_of_a_usual_name_are_classes(tmp_path, name, kind, values, classes):
    found = loaded(tmp_path, name, values, datasets.Value(kind))
    assert found.classes == classes and [found.classes[row] for row in found.label.tolist()] == [
        str(v) for v in values
    ]
    assert name == "label" or f"labels are those of column {name} ({kind})" in found.notes


@pytest.mark.parametrize(
    ("name", "kind", "values", "said"),
    [
        ("label", "float32", [0.5] * 12, "column label holds float32, and classes are whole numbers"),
        ("caption", "string", ["a"] * 12, "called label, .*; passed over: caption (string)"),
        (
            "label",
            "string",
            [None, *["a"] * 11],
            "column label of .* has no value in 1 of 12 rows: taken as unlabeled",
        ),
        (
            "label",
            "int64",
            [None, *[1] * 11],
            "column label of .* has no value in 1 of 12 rows: taken as unlabeled",
        ),
    ],
)
def test_columns_that_hold_no_classes_are_named_with_the_reason(tmp_path, name, kind, values, said):
    found = loaded(tmp_path, name, values, datasets.Value(kind))
    assert found.label is None
    assert any(re.search(said.replace("(", r"\(").replace(")", r"\)"), line) for line in found.notes), (
        found.notes
    )


def test_a_text_of_its_own_for_each_image_is_no_class(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface, "FEW_TEXTS", 3)
    found = loaded(tmp_path, "label", [f"photo {n}" for n in range(12)], datasets.Value("string"))
    assert found.label is None and any("12 different texts in 12 rows" in line for line in found.notes)


def test_images_of_several_sizes_and_damaged_ones(tmp_path):
    rows, _ = table(6, (40, 30))
    broken = {"bytes": b"no image", "path": None}
    encoded = rows.cast_column("picture", datasets.Image(decode=False))
    content = {"picture": [*encoded["picture"], broken], "kind": [*rows["kind"], 1]}
    datasets.Dataset.from_dict(content, features=rows.features).save_to_disk(tmp_path / "d")
    found = data.load(f"hf:{tmp_path / 'd'}", preprocessing=Preprocessing(size=16))
    assert found.shape == (3, 16, 16) and len(found) == 6
    assert any("1 of 7 images is left out" in note and "image 6 of d" in note for note in found.notes)


def test_tables_without_images_and_folders_of_something_else(tmp_path):
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "d")
    with pytest.raises(ValueError, match=r"no column of images; its columns are text \(Value\)"):
        data.load(f"hf:{tmp_path / 'd'}")
    (tmp_path / "e").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "e" / "a.png")
    with pytest.raises(ValueError, match="given without hf:"):
        data.load(f"hf:{tmp_path / 'e'}")


@pytest.mark.parametrize("error", [ConnectionError("no route"), FileNotFoundError("not on the hub")])
def test_a_missing_data_set_says_what_to_do(monkeypatch, error):
    def load_dataset(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        ValueError,
        match=r"hf:you/faces:train is not in the cache .*save_to_disk\('faces'\); then give hf:faces",
    ):
        data.load("hf:you/faces:train")


def test_hub_names_are_passed_on(monkeypatch):
    asked = []

    def load_dataset(*given):
        asked.append(given)
        return datasets.DatasetDict(train=table()[0], test=table(3)[0])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(data.load("hf:you/faces:small")) == 12 and len(data.load("hf:you/faces:small:test")) == 3
    assert asked == [("you/faces", "small"), ("you/faces", "small")]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf:mnist", ("mnist", None, None)),
        ("hf:a/b:test", ("a/b", None, "test")),
        ("hf:a/b:c", ("a/b", "c", None)),
        ("hf:a:c:d", ("a", "c", "d")),
    ],
)
def test_addresses(text, parts):
    assert Address.of(text) == Address(*parts)
    for wrong in ("hf:", "hf:a:b:c:d"):
        with pytest.raises(ValueError, match="expected hf:NAME"):
            Address.of(wrong)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'flowleap\[hub\]'"):
        huggingface.open_table("hf:mnist")


@pytest.mark.slow
def test_training_from_the_command_line(tmp_path):
    rows, _ = table(24, (30, 24))
    rows.save_to_disk(tmp_path / "faces")
    out = tmp_path / "run"
    command = [
        "train",
        "flow-matching",
        "--data",
        f"hf:{tmp_path / 'faces'}",
        "--size",
        "16",
        "--steps",
        "2",
        "--batch",
        "4",
    ]
    command += ["--no-eval", "--out", str(out), "--set", "memory=0", "--workers", "1"]
    for name, value in [*TINY, ("online_share", "0")]:
        command += ["--set", f"{name}={value}"]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0 and (out / "ema.safetensors").exists()
    content = json.loads((out / "config.json").read_text())
    assert (
        content["config"]["data"]["name"] == f"hf:{tmp_path / 'faces'}" and content["dataset"]["classes"] == 3
    )
    assert content["dataset"]["checksum"].startswith("part-")
    checked = CliRunner().invoke(
        app, ["data", "check", f"hf:{tmp_path / 'faces'}", "--json", "--workers", "0"]
    )
    assert json.loads(checked.stdout)["classes"] == {"ant": 8, "bee": 8, "cat": 8}
