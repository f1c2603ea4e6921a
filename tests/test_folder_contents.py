"""What else lies in folders of images: hidden names, parts, stray images, other files, and what flowleap made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from flowleap import data, pictures, runs
from flowleap.cli import app
from flowleap.data import Preprocessing, open_images, opening
from flowleap.data.parts import part_of, parts_of
from flowleap.data.store import files_below
from test_folder_data import TINY, draw


def put(root: Path, *names: str, seed: int = 0) -> Path:
    """Small images of these names below a folder."""
    rng = np.random.default_rng(seed)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        draw(rng, 8, 8).save(root / name, format="PNG")
    return root


def note(dataset: data.Dataset, begin: str) -> str:
    """The note of a data set that begins so; empty where there is none."""
    return next((line for line in dataset.notes if line.startswith(begin)), "")


# ---------------------------------------------------------------- hidden names


def test_hidden_folders_and_files_and_those_of_systems_are_no_classes_and_no_images(tmp_path):
    put(tmp_path, "cat/1.png", "cat/2.png", "dog/1.png")
    left = [
        ".ipynb_checkpoints/1.png",
        ".thumbnails/2.png",
        "__MACOSX/cat/1.png",
        "@eaDir/1.png",
        ".git/a.png",
    ]
    left += [
        "$RECYCLE.BIN/1.png",
        "System Volume Information/1.png",
        "cat/@eaDir/1.png",
        "cat/.hidden/a/1.png",
    ]
    put(tmp_path, *left, "cat/._1.png", ".cover.png")
    for name in ("Thumbs.db", "cat/.DS_Store", "desktop.ini"):
        (tmp_path / name).write_text("")
    found = data.load(tmp_path)
    assert found.classes == ("cat", "dog") and found.label.tolist() == [0, 0, 1]
    said = note(found, "skipped: 11 hidden or system names")
    for name in (".ipynb_checkpoints", ".thumbnails", "__MACOSX", "@eaDir", "._1.png", ".cover.png"):
        assert name in said
    assert "Thumbs.db" not in " ".join(found.notes) and ".DS_Store" not in " ".join(found.notes)
    assert not files_below(
        put(tmp_path / ".photos", "a.png")
    ).skipped.hidden  # named by the user, it is taken


def test_a_hidden_folder_beside_the_parts_leaves_them_parts(tmp_path):
    put(
        tmp_path,
        "train/cat/1.png",
        "train/dog/1.png",
        "val/cat/1.png",
        "val/dog/2.png",
        ".ipynb_checkpoints/a.png",
    )
    found = data.load(tmp_path)
    assert (found.split, found.held_out, found.classes, len(found)) == ("train", "val", ("cat", "dog"), 2)


# ---------------------------------------------------------------- parts


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("Training", "train"), ("TRAIN", "train"), ("train_images", "train"), ("train2017", "train"),
        ("images-train", "train"), ("TrainSet", "train"), ("Testing", "test"), ("test_set", "test"), ("tst", "test"),
        ("Val", "validation"), ("valid", "valid"), ("validation", "validation"), ("train_64x64", "train"),
        ("Validation Data", "validation"), ("hold-out", "test"),
        ("cats", None), ("train_station", None), ("2", None), ("extra", None), ("testimony", None), ("", None),
    ],
)  # fmt: skip
def test_parts_are_known_in_any_case_and_usual_form(name, part):
    assert part_of(name) == part


def test_parts_of_usual_forms_are_trained_on_and_held_out(tmp_path):
    put(
        tmp_path, "Training/cat/1.png", "Training/dog/1.png", "Testing/cat/1.png", "Testing/dog/2.png", seed=1
    )
    found = data.load(tmp_path)
    assert (found.split, found.held_out, found.classes) == ("train", "test", ("cat", "dog"))
    part = data.held_out(found)
    assert len(part) == 2 and part.split == "test"
    for split in ("Testing", "test"):
        assert data.load(tmp_path, split=split).split == "test"
    with pytest.raises(ValueError, match="no folder 'valid': choose test or train"):
        data.load(tmp_path, split="valid")


def test_parts_that_begin_with_the_name_of_the_set(tmp_path):
    found = data.load(put(tmp_path, "seg_train/a/1.png", "seg_train/b/1.png", "seg_test/a/1.png"))
    assert (found.split, found.held_out, found.classes) == ("train", "test", ("a", "b"))


@pytest.mark.parametrize(
    "names",
    [
        ("train/1.png", "val/1.png", "extra/1.png"),
        ("Training/1.png", "Testing/1.png", "labels/1.png"),
        ("train/cat/1.png", "extra/cat/1.png"),
        ("cat/1.png", "dog/1.png", "test/1.png"),
        ("train/1.png", "Training/1.png"),
    ],
)
def test_parts_beside_something_else_are_asked_about(tmp_path, names):
    first = names[0].partition("/")[0]
    with pytest.raises(
        ValueError, match=r"(seem to be parts|seem to be the same part).*Give the path of one folder"
    ):
        data.load(put(tmp_path, *names))
    assert len(data.load(tmp_path / first)) == 1
    found = CliRunner().invoke(app, ["data", "check", str(tmp_path), "--workers", "0"])
    assert found.exit_code == 0 and "seem to be" in " ".join(found.output.split())


@pytest.mark.parametrize("classes", [("bus", "car", "train"), ("invalid", "valid"), ("dev", "prod")])
def test_classes_that_are_called_as_a_part_may_be_are_classes(tmp_path, classes):
    found = data.load(put(tmp_path, *(f"{name}/1.png" for name in classes)))
    assert found.classes == classes and ", ".join(classes) in note(found, "labels: ")


def test_the_words_that_all_folders_begin_with_are_no_part_of_the_name():
    assert parts_of(["train_a", "train_b"]).folders == {}
    assert parts_of(["afhq_train", "afhq_val"]).folders == {"train": "afhq_train", "val": "afhq_val"}


def test_classes_one_folder_below_are_pointed_out(tmp_path):
    found = data.load(put(tmp_path, "PetImages/cat/1.png", "PetImages/dog/1.png"))
    said = note(found, "all images lie in ")
    assert str(tmp_path / "PetImages") in said and "cat, dog" in said


def test_parts_inside_the_classes_are_pointed_out(tmp_path):
    put(tmp_path, "cat/train/1.png", "cat/test/1.png", "dog/train/1.png", "dog/test/1.png")
    found = data.load(tmp_path)
    assert len(found) == 4 and found.class_names == ("cat", "dog")
    assert note(found, "the classes have sub-folders test, train, of which all images are used").endswith(
        "train/cat"
    )
    with pytest.raises(ValueError, match=r"of which all images are used.*leave out --strict"):
        data.load(tmp_path, preprocessing=Preprocessing(strict=True))
    clear = data.load(put(tmp_path / "b", "cat/left/1.png", "cat/train/1.png", "dog/left/1.png"))
    assert not any("sub-folders" in text for text in clear.notes)


# ---------------------------------------------------------------- stray images


def test_a_stray_image_beside_class_folders_is_left_out_and_named_and_the_labels_stay(tmp_path):
    put(tmp_path, "cat/1.png", "cat/2.png", "dog/1.png", "cover.png")
    found = data.load(tmp_path)
    assert found.label.tolist() == [0, 0, 1] and len(found) == 3
    assert note(found, "left out: 1 image beside the sub-folders (cover.png)")
    with pytest.raises(ValueError, match=r"left out: 1 image beside .*cover\.png.*leave out --strict"):
        data.load(tmp_path, preprocessing=Preprocessing(strict=True))


def test_many_images_beside_folders_have_no_labels_and_that_is_said(tmp_path):
    put(tmp_path, "1.png", "2.png", "3.png", "cat/1.png", "cat/2.png", "dog/1.png")
    found = data.load(tmp_path)
    assert found.label is None and len(found) == 6
    assert "3 images" in note(found, "no labels: ") and "cat, dog" in note(found, "no labels: ")
    with pytest.raises(ValueError, match=r"no labels: .*leave out --strict"):
        data.load(tmp_path, preprocessing=Preprocessing(strict=True))


def test_images_beside_parts_leave_them_parts(tmp_path):
    put(tmp_path, *(f"{n}.png" for n in range(5)), "train/cat/1.png", "train/dog/1.png", "test/cat/2.png")
    found = data.load(tmp_path)
    assert (found.split, found.held_out, len(found)) == ("train", "test", 2)
    assert note(found, "left out: 5 images beside the sub-folders (0.png, 1.png")


@pytest.mark.parametrize("memory", [1.0, 0.0])
def test_pictures_that_flowleap_drew_change_no_data(tmp_path, memory):
    preprocessing = Preprocessing(memory=memory)
    flat, classes = put(tmp_path / "flat", "a.png", "z.png"), put(tmp_path / "classes", "a/1.png", "b/1.png")
    before = [data.load(path, preprocessing=preprocessing) for path in (flat, classes)]
    for path in (flat, classes):
        pictures.save(pictures.grid(torch.zeros(4, 3, 8, 8)), path / "sheet.png")
        pictures.scatter({"2 samples": torch.zeros(2, 2)}, path / "scatter.png")
    for path, old in zip((flat, classes), before, strict=True):
        found = data.load(path, preprocessing=preprocessing, checksum=old.checksum)
        assert len(found) == 2 and found.classes == old.classes
        assert "sheet.png" in note(found, "skipped: pictures that flowleap drew")
    assert (
        CliRunner()
        .invoke(app, ["data", "check", str(flat), "--workers", "0", "--json"])
        .output.count("sheet")
        == 1
    )


# ---------------------------------------------------------------- other files


def test_what_pillow_reads_is_read_and_the_rest_is_counted_by_its_ending(tmp_path):
    image, kinds = (
        draw(np.random.default_rng(0), 8, 8),
        {"jfif": "JPEG", "jp2": "JPEG2000", "tga": "TGA", "AVIF": "AVIF"},
    )
    kinds |= {"jpe": "JPEG", "qoi": "QOI", "pbm": "PPM", "ico": "ICO"}
    kinds = {ending: kind for ending, kind in kinds.items() if kind in Image.SAVE}
    for ending, kind in kinds.items():
        image.save(tmp_path / f"a.{ending}", format=kind, **({"sizes": [(8, 8)]} if kind == "ICO" else {}))
    for name in ("a.heic", "b.HEIC", "labels.csv", "README", "a.pdf", "a.h5", "film.mpg"):
        (tmp_path / name).write_text("")
    found = data.load(tmp_path)
    assert len(found) == len(kinds) and found.shape == (3, 8, 8)
    said = note(found, "skipped: 7 files of kinds that are not read as images")
    assert "2 .heic" in said and "1 .csv" in said and "1 without ending" in said and "PNG or JPEG" in said


def test_a_folder_of_other_files_says_which(tmp_path):
    (tmp_path / "a.heic").write_text("")
    with pytest.raises(ValueError, match=r"holds no images that Pillow reads; .*1 \.heic"):
        data.load(tmp_path)
    with pytest.raises(ValueError, match=r"holds no images that Pillow reads; .*1 \.heic"):
        opening.store_of(tmp_path)


def test_folders_without_images_and_links_that_lead_nowhere_are_named(tmp_path):
    put(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "elk").mkdir()
    (tmp_path / "elk" / "a.heic").write_text("")
    (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "nothing.png")
    found = data.load(tmp_path)
    assert found.classes == ("cat", "dog") and note(found, "sub-folders without images: elk")
    assert "cat/gone.png" in note(found, "skipped: 1 name without a file")


def test_images_that_are_only_measured_say_the_same(tmp_path):
    put(tmp_path, "cat/1.png", "dog/1.png", "cover.png", ".git/a.png")
    source = open_images(tmp_path)
    assert len(source) == 2 and source.notes == data.load(tmp_path).notes[: len(source.notes)] != ()


# ---------------------------------------------------------------- what flowleap made


def made_by_flowleap(root: Path) -> None:
    """Folders as runs, comparisons and caches leave them, with images in each."""
    put(
        root,
        "runs/esc/samples/step-1.png",
        "runs/esc/grid.png",
        "study/runs/a/grid.png",
        "study/picture.png",
        "z/a.png",
    )
    about = {"format": 1, "config": {}, "dataset": {}}
    (root / "runs" / "esc" / "config.json").write_text(json.dumps(about))
    (root / "study" / "plan.json").write_text(json.dumps({"format": 1, "request": {}, "rows": []}))
    (root / "z" / "latents.json").write_text(json.dumps({"format": 1, "contents": {}, "checksums": {}}))


@pytest.mark.parametrize("names", [("a.png", "b.png"), ("cat/1.png", "dog/1.png")])
def test_what_flowleap_made_below_a_folder_is_no_part_of_its_images(tmp_path, names):
    before = data.load(put(tmp_path, *names), preprocessing=Preprocessing(memory=0.0))
    made_by_flowleap(tmp_path)
    found = data.load(tmp_path, preprocessing=Preprocessing(memory=0.0), checksum=before.checksum)
    assert len(found) == 2 and found.classes == before.classes
    assert note(
        found,
        "skipped: folders that flowleap made (runs/esc, a run, study, a comparison, z, a cache of latents)",
    )
    assert not note(found, "sub-folders without")


def test_other_folders_with_such_files_are_taken(tmp_path):
    put(tmp_path, "cat/1.png", "dog/1.png", "elk/1.png")
    (tmp_path / "cat" / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "dog" / "config.json").write_text("no json")
    (tmp_path / "elk" / "plan.json").write_text("[]")
    assert data.load(tmp_path).classes == ("cat", "dog", "elk")


def test_a_run_folder_is_no_data(tmp_path):
    made_by_flowleap(tmp_path)
    with pytest.raises(ValueError, match=r"is a run that flowleap made, no data set.*--resume"):
        data.load(tmp_path / "runs" / "esc")


# ---------------------------------------------------------------- runs on such folders


def trained(data_path: str, out: str, steps: int = 2) -> list[str]:
    """The command of a tiny run."""
    command = [
        "train",
        "flow-matching",
        "--data",
        data_path,
        "--out",
        out,
        "--steps",
        str(steps),
        "--batch",
        "4",
    ]
    command += ["--no-eval", "--device", "cpu"]
    for name, value in [*TINY, ("online_share", "0")]:
        command += ["--set", f"{name}={value}"]
    return command


def invoked(*command: str) -> str:
    done = CliRunner().invoke(app, list(command))
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


@pytest.mark.slow
def test_a_run_inside_of_its_data_goes_on_and_is_measured_from_any_folder(tmp_path, monkeypatch):
    photos = put(tmp_path / "photos", *(f"{name}/{n}.png" for name in ("cat", "dog") for n in range(100)))
    monkeypatch.chdir(photos)
    invoked(*trained(".", "runs/a"))
    invoked("sample", "runs/a", "--num", "4", "--out", "sheet.png")
    said = invoked("train", "--resume", "--out", "runs/a", "--steps", "3")
    assert (
        "runs/a, a run" in said and "pictures that flowleap drew (sheet.png)" in said and "cat, dog" in said
    )
    config = json.loads((photos / "runs" / "a" / "config.json").read_text())
    assert config["config"]["data"]["name"] == "." and config["dataset"]["place"] == str(photos)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (photos / "runs" / "a").rename(tmp_path / "runs" / "b")
    run = runs.load_run("runs/b")
    assert run.config.data.name == str(photos) and len(run.dataset()) == 200
    assert runs.configure("flow-matching", init="runs/b").data.name == str(photos)
    photos.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    assert runs.read_config("../runs/b").data.name == "." and len(runs.load_run("../runs/b").dataset()) == 200
    monkeypatch.chdir(tmp_path)
    evaluate = ["evaluate", "runs/b", "--steps", "1", "--num", "200", "--device", "cpu"]
    assert CliRunner().invoke(app, evaluate).exit_code != 0
    other = put(tmp_path / "other", *(f"{n}.png" for n in range(200)))
    said = invoked(*evaluate, "--reference", str(other))
    assert "no distance to training images is measured" in said


def test_the_place_of_data_is_found_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path)
    assert data.place("digits") == "digits" and data.place("hf:mnist:train") == "hf:mnist:train"
    assert data.place("a") == str(tmp_path / "a") and data.place("hf:a:train") == f"hf:{tmp_path / 'a'}:train"
