"""The command line as a user meets it, on a run of a few steps."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from flowleap import data, design, evaluation, memory, methods, objectives, runs, samplers, serialize, streams
from flowleap.cli import app, group, options
from flowleap.evaluation import classifier, generation
from flowleap.formatting import number
from flowleap.runs import sample_files, samples

SMALL = {"steps": 4, "batch": 20, "eval_num": 0, "sample_every": 0, "checkpoint_every": 0, "device": "cpu"}


def call(*words: object):
    return CliRunner(env={"COLUMNS": None}).invoke(app, [str(word) for word in words])


def ok(*words: object) -> str:
    result = call(*words)
    assert result.exit_code == 0, result.stderr or result.exception
    return result.stdout


def refused(*words: object) -> str:
    """The one line a wrong command leaves on standard error, and nothing on standard output."""
    result = call(*words)
    assert result.exit_code == 2, (result.exit_code, result.output)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("error: "), result.stderr
    return result.stderr


def make(folder, method="esc", dataset="digits", **changes):
    settings = [("network.width", "32"), ("network.depth", "1"), *changes.pop("settings", ())]
    config = runs.configure(method, dataset, network="mlp", settings=settings, **SMALL)
    return runs.train(config, folder).folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return make(tmp_path_factory.mktemp("runs") / "digits")


@pytest.fixture(scope="module")
def moons(tmp_path_factory):
    return make(tmp_path_factory.mktemp("runs") / "moons", "meanflow", "two-moons")


@pytest.fixture(scope="module")
def unlabeled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "unlabeled"
    return make(folder, "meanflow", settings=[("network.classes", "none")])


@pytest.fixture(scope="module")
def flow_matching(tmp_path_factory):
    return make(tmp_path_factory.mktemp("runs") / "fm", "flow_matching")


def arrays(run, out, *words):
    ok("sample", run, "--out", out, *words)
    with numpy.load(out) as file:
        return dict(file)


# Sampling


@pytest.mark.slow
def test_an_npz_holds_images_and_cycling_labels(digits, tmp_path):
    found = arrays(digits, tmp_path / "a.npz", "--num", 23)
    assert found["images"].shape == (23, 1, 8, 8) and found["images"].dtype == numpy.float32
    assert abs(found["images"]).max() <= 1.0
    assert found["labels"].dtype == numpy.int64
    assert found["labels"].tolist() == [i % 10 for i in range(23)]
    assert found["classes"].tolist() == [str(i) for i in range(10)]


def test_sample_i_is_that_of_the_library_from_noise_of_seed_and_i(digits, tmp_path):
    found = arrays(digits, tmp_path / "a.npz", "--num", 5, "--seed", 7, "--steps", 3, "--label", 4)
    run = runs.load_run(digits)
    noise = samplers.noise(7, [0, 1, 2, 3, 4], (1, 8, 8))
    with torch.no_grad():
        expected = run.objective.sample(run.flow, noise, steps=3, label=torch.full((5,), 4)).clamp(-1, 1)
    numpy.testing.assert_allclose(found["images"], expected.numpy(), atol=1e-6)
    assert found["labels"].tolist() == [4] * 5


def test_samples_do_not_depend_on_number_or_batch(digits, tmp_path):
    many = arrays(digits, tmp_path / "many.npz", "--num", 30, "--per-device", 30)
    few = arrays(digits, tmp_path / "few.npz", "--num", 11, "--per-device", 4)
    numpy.testing.assert_allclose(many["images"][:11], few["images"], atol=1e-5)
    again = arrays(digits, tmp_path / "again.npz", "--num", 30, "--per-device", 30)
    assert numpy.array_equal(many["images"], again["images"])


@pytest.mark.slow
def test_weights_steps_and_times_matter(digits, tmp_path):
    words = [(), ("--weights", "raw"), ("--steps", 2), ("--times", "1,0.6,0"), ("--seed", 1)]
    found = [
        arrays(digits, tmp_path / f"{i}.npz", "--num", 2, *extra)["images"] for i, extra in enumerate(words)
    ]
    assert all(not numpy.array_equal(a, b) for i, a in enumerate(found) for b in found[:i])
    half = arrays(digits, tmp_path / "half.npz", "--num", 2, "--times", "1,0.5,0")["images"]
    numpy.testing.assert_allclose(half, found[2], atol=1e-6)


def test_a_png_has_a_row_with_its_name_for_each_class(digits, tmp_path):
    text = ok("sample", digits, "--num", 30, "--out", tmp_path / "a.png")
    assert "30 samples, 1 network evaluation each" in text and "ema-0.999@4" in text
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.height == 10 * 54 + 6 and 3 * 54 + 6 < picture.width < 4 * 54


def test_a_folder_holds_the_images_in_their_own_size(digits, tmp_path):
    folder = tmp_path / "images"
    ok("sample", digits, "--num", 12, "--out", folder)
    assert len(list(folder.glob("*.png"))) == 12
    with Image.open(folder / "000011.png") as picture:
        assert picture.size == (8, 8) and picture.mode == "L"
    assert (folder / "labels.csv").read_text(encoding="utf-8").splitlines()[-1] == "000011.png,1,1"
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    assert "exists already" in refused("sample", digits, "--out", folder)
    ok("sample", digits, "--num", 2, "--out", folder, "--overwrite")
    assert sorted(file.name for file in folder.iterdir()) == [
        "000000.png",
        "000001.png",
        "labels.csv",
        "notes.txt",
    ]


@pytest.mark.slow
def test_many_samples_are_foretold_and_refused_where_they_do_not_fit(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free", lambda device: 1e9)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=2e9))
    for name, size, room in (
        ("many.png", "2.6 GB in memory", "1 GB that are free in memory"),
        ("many.npz", "5.1 GB in the disk", "2 GB that are free in the disk"),
    ):
        called = call("sample", digits, "--num", 10_000_000, "--out", tmp_path / name)
        assert called.exit_code == 2 and f"10,000,000 samples: at most {size}, about" in called.stderr
        assert f"do not fit into the {room}" in called.stderr and not list(tmp_path.iterdir())


def contents(place):
    """The files of a folder, or the arrays of a .npz, by name."""
    if place.is_dir():
        return {path.name: path.read_bytes() for path in place.iterdir()}
    with numpy.load(place) as file:
        return {name: file[name].tobytes() for name in file.files}


@pytest.mark.parametrize("name", ["images", "images.npz"])
def test_the_same_command_continues_after_an_interruption(digits, tmp_path, monkeypatch, name):
    """In the third of five batches; the result is bitwise that of a call without interruption."""
    words = ("sample", digits, "--num", 23, "--per-device", 5, "--out")
    ok(*words, tmp_path / f"whole-{name}")
    add, calls = files_of(name).add, []

    def stopping(self, start, samples):
        calls.append(start)
        if start == 10:
            os.kill(os.getpid(), signal.SIGINT)
        add(self, start, samples)

    monkeypatch.setattr(files_of(name), "add", stopping)
    stopped = call(*words, tmp_path / name)
    assert stopped.exit_code == 130 and "continue with the same command" in stopped.stderr
    written = calls[-1] + 5
    assert 15 <= written < 23 and f"{written} of 23 samples are written" in stopped.stderr
    assert "seed 0 instead of 1" in refused(*words, tmp_path / name, "--seed", 1)
    calls.clear()
    again = call(*words, tmp_path / name)
    assert again.exit_code == 0 and f"{written} of 23 samples are there" in again.stderr
    assert calls == list(range(written, 23, 5))
    assert contents(tmp_path / name) == contents(tmp_path / f"whole-{name}")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, f"whole-{name}"])


def files_of(name):
    return sample_files.kind_of(Path(name))


@pytest.mark.parametrize(
    ("name", "all_at_once"), [("images", False), ("images.npz", False), ("images.png", True)]
)
def test_samples_in_memory_are_few_whatever_their_number(digits, tmp_path, monkeypatch, name, all_at_once):
    """At most four batches are alive at a time, of three batches as of twelve; a picture needs all of them."""
    run, alive, most = runs.load_run(digits), weakref.WeakSet(), []
    finished = generation.Request.finished

    def counted(self, made):
        found = finished(self, made)
        alive.add(found)
        most.append(len(alive))
        return found

    monkeypatch.setattr(generation.Request, "finished", counted)
    for batches in (3, 12):
        most.clear()
        label = evaluation.cycle(5 * batches, 10)
        request = generation.Request(run.flow, run.objective, run.shape, label=label, bounds=(-1.0, 1.0))
        files = sample_files.place(run, tmp_path / f"{batches}-{name}", label)
        assert files.begin({}, overwrite=False) == 0
        assert samples.write(request, files, 5 * batches, batch=5) == 5 * batches
        assert len(most) == batches and (max(most) == batches if all_at_once else max(most) <= 4)
        del files


def test_an_output_is_replaced_only_when_asked(digits, tmp_path):
    path = tmp_path / "a.png"
    path.write_text("precious", encoding="utf-8")
    assert "--overwrite" in refused("sample", digits, "--out", path)
    assert path.read_text(encoding="utf-8") == "precious"
    ok("sample", digits, "--num", 1, "--out", path, "--overwrite")
    assert Image.open(path).size[0] > 8


def test_the_default_output_is_in_the_run_folder(digits):
    ok("sample", digits, "--num", 1)
    assert (digits / "samples.png").is_file()


@pytest.mark.slow
def test_points_are_drawn_beside_the_data_or_written_as_arrays(moons, tmp_path):
    found = arrays(moons, tmp_path / "a.npz", "--num", 9)
    assert found["points"].shape == (9, 2) and found["labels"].tolist() == [-1] * 9
    ok("sample", moons, "--out", tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 1.5 * picture.height
    assert "scatter plot or a .npz" in refused("sample", moons, "--out", tmp_path / "folder")


@pytest.mark.slow
def test_runs_without_labels_take_none(unlabeled, tmp_path):
    assert arrays(unlabeled, tmp_path / "a.npz", "--num", 3)["labels"].tolist() == [-1] * 3
    assert "trained without labels" in refused("sample", unlabeled, "--label", 3, "--out", tmp_path / "b.npz")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--label", "10"),
            "there is no class '10'; did you mean 1 or 0? Known: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9",
        ),
        (("--label", "-1"), "there is no class '-1'"),
        (("--label", "three"), "there is no class 'three'; known: 0, 1, 2"),
        (("--steps", "0"), "--steps"),
        (("--steps", "2", "--times", "1,0"), "not both"),
        (("--times", "0,1"), "times 0, 1: falling times from 1 (noise) to 0 (data) are expected"),
        (("--times", "0.5,0"), "times 0.5, 0: falling times from 1 (noise)"),
        (("--times", "1,0.5"), "times 1, 0.5: falling times from 1 (noise) to 0 (data)"),
        (("--times", "1"), "times 1: falling times"),
        (("--times", "a,0"), "expected times separated by commas"),
        (("--out", "x.jpg"), "a .png, a .npz or a folder, not '.jpg'"),
        (("--device", "toaster"), "--device"),
        (("--weights", "best"), "--weights"),
        (("--nmu", "3"), "--nmu"),
    ],
)
def test_wrong_sampling_is_one_line(digits, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    extra = () if "--out" in words else ("--out", tmp_path / "a.png")
    assert message in refused("sample", digits, *words, *extra)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_run_is_named(tmp_path):
    assert "nothing" in refused("sample", tmp_path / "nothing")
    assert "nothing" in refused("evaluate", tmp_path / "nothing")


@pytest.mark.slow
def test_budgets_that_were_not_trained_warn_once_on_standard_error(flow_matching, tmp_path):
    result = call("sample", flow_matching, "--num", 30, "--per-device", 10, "--out", tmp_path / "a.png")
    assert result.exit_code == 0
    assert result.stderr.count("warning: ") == 1 and "many steps" in result.stderr


# Evaluation


@pytest.mark.slow
def test_json_is_all_of_standard_output(flow_matching):
    result = call("evaluate", flow_matching, "--steps", "1,3", "--num", 70, "--json")
    rows = json.loads(result.stdout)
    assert [row["nfe"] for row in rows] == [1, 3]
    keys = {
        "nfe",
        "features",
        "protocol",
        "distance",
        "agreement",
        "seconds",
        "nearest_ratio",
        "num",
        "floor",
    }
    assert all(keys <= row.keys() for row in rows)
    assert "weights=ema-0.999@4;" in rows[0]["protocol"]
    assert "warning: " in result.stderr


@pytest.mark.slow
def test_the_same_command_twice_gives_the_same_numbers(digits):
    first, second = (
        json.loads(ok("evaluate", digits, "--steps", "1,2", "--num", 70, "--json")) for _ in range(2)
    )
    for row in (*first, *second):
        assert row.pop("seconds") > 0
    assert first == second


@pytest.mark.slow
def test_guidance_counts_twice_and_is_stated(digits):
    (row,) = json.loads(ok("evaluate", digits, "--steps", 2, "--num", 70, "--guidance", 2, "--json"))
    assert row["nfe"] == 4 and "guidance=2 sampled" in row["protocol"]


@pytest.mark.slow
def test_fresh_noise_between_steps_is_stated_and_costs_nothing(digits, flow_matching, tmp_path):
    words = ("evaluate", digits, "--steps", "1,3", "--num", 70, "--json")
    plain, fresh = json.loads(ok(*words)), json.loads(ok(*words, "--renoise", 1))
    assert [row["sampler"] for row in plain] == ["chain", "chain"] and "renoise" not in plain[0]["protocol"]
    assert [row["sampler"] for row in fresh] == ["chain", "gamma 1"]
    assert fresh[1]["nfe"] == 3 and fresh[1]["protocol"].endswith(";renoise=1")
    assert fresh[0]["distance"] == plain[0]["distance"] and fresh[1]["distance"] != plain[1]["distance"]
    text = ok("sample", digits, "--steps", 3, "--num", 5, "--renoise", 0.5, "--out", tmp_path / "a.png")
    assert "3 network evaluations each with fresh noise between them (γ = 0.5)" in text
    assert "is sampled with its velocity" in refused("sample", flow_matching, "--renoise", 1, "--num", 5)
    assert "--renoise" in refused("sample", digits, "--renoise", 2)


@pytest.mark.slow
def test_samples_with_fresh_noise_do_not_depend_on_the_batch(digits, tmp_path):
    words = ("--num", 7, "--steps", 2, "--renoise", 1)
    whole, parts = (
        arrays(digits, tmp_path / f"{n}.npz", *words, "--per-device", n)["images"] for n in (7, 3)
    )
    numpy.testing.assert_allclose(whole, parts, atol=1e-5)
    assert not numpy.allclose(whole, arrays(digits, tmp_path / "c.npz", *words[:4])["images"], atol=1e-3)


@pytest.mark.slow
def test_times_make_one_row(digits):
    (row,) = json.loads(ok("evaluate", digits, "--times", "1,0.7,0.2,0", "--num", 70, "--json"))
    assert row["nfe"] == 3 and row["times"] == [1.0, 0.7, 0.2, 0.0]


@pytest.mark.slow
def test_times_start_where_the_method_is_sampled_from(tmp_path):
    """Two published steps of IMM, which starts at 0.994; other starts are refused alike by every way in."""
    run = make(tmp_path / "run", "imm")
    published = ("--times", "0.994,0.5833,0", "--num", 70)
    assert arrays(run, tmp_path / "a.npz", *published)["images"].shape == (70, 1, 8, 8)
    (row,) = json.loads(ok("evaluate", run, *published, "--json"))
    assert row["steps"] == 2 and row["times"] == [0.994, 0.5833, 0.0]
    said = refused("sample", run, "--times", "1,0.5,0", "--out", tmp_path / "b.npz").removeprefix("error: ")
    assert said.strip() == (
        "times 1, 0.5, 0: falling times from 0.994 (noise) to 0 (data) are expected, such as 0.994,0.497,0; "
        "this method samples from 0.994, not from 1"
    )
    assert refused("evaluate", run, "--times", "1,0.5,0").removeprefix("error: ") == said
    loaded = runs.load_run(run)
    flow, objective, times = loaded.flow, loaded.objective, (1.0, 0.5, 0.0)
    for way in (
        lambda: objective.sample(flow, torch.zeros(1, 1, 8, 8), times=times),
        lambda: evaluation.generate(flow, objective, (1, 8, 8), 1, times=times),
        lambda: evaluation.evaluate(flow, objective, loaded.dataset(), num=70, times=times),
    ):
        with pytest.raises(ValueError) as caught:
            way()
        assert str(caught.value) == said.strip()


@pytest.mark.slow
def test_the_table_shows_the_numbers_and_what_real_data_scores(digits, moons):
    (row,) = json.loads(ok("evaluate", digits, "--steps", 1, "--num", 70, "--json"))
    text = ok("evaluate", digits, "--steps", 1, "--num", 70)
    assert "FD-pixel" in text and number(row["distance"]) in text
    assert number(row["floor"]) in text and row["protocol"] in text
    assert "FD-point" in ok("evaluate", moons, "--steps", 1, "--num", 70)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--num", "10"), "num=10 samples are too few"),
        (("--steps", "1,zero"), "as in 1,2,4,128"),
        (("--steps", "0"), "whole numbers from 1 up"),
        (("--times", "1"), "times 1: falling times from 1 (noise)"),
    ],
)
def test_wrong_evaluation_is_one_line(digits, words, message):
    assert message in refused("evaluate", digits, *words)


def test_memorizing_is_pointed_out():
    row = {"nearest_ratio": 0.4, "protocol": "p", "floor": None}
    from flowleap.evaluation.quality_table import notes

    assert any("below 0.8" in line for line in notes([row]))
    assert not any("below 0.8" in line for line in notes([row | {"nearest_ratio": 1.1}]))


# Images that are there already, protocols, statistics, classifiers


@pytest.fixture(scope="module")
def made(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "made.npz"
    ok("sample", digits, "--num", 90, "--label", "data", "--out", path)
    return path


@pytest.mark.slow
def test_images_are_measured_as_the_run_that_made_them(digits, made):
    """90 samples of a run through a file, or straight: the same numbers."""
    (ours,) = json.loads(ok("evaluate", digits, "--steps", 1, "--num", 90, "--json"))
    (filed,) = json.loads(ok("evaluate", made, "--reference", "digits", "--json"))
    for name in ("distance", "interval", "kernel_distance", "agreement", "nearest_ratio"):
        assert filed[name] == pytest.approx(ours[name], rel=1e-6), name
    assert (filed["nfe"], filed["weights"], filed["labels"]) == (None, "made.npz", "data")
    assert filed["protocol"].partition(";weights=")[0] == ours["protocol"].partition(";weights=")[0]
    assert "made.npz" in ok("evaluate", made, "--reference", "digits")


@pytest.mark.slow
def test_stored_statistics_serve_as_reference(made, tmp_path):
    """Of the same features: the distance is that to the data, and nothing that needs rows is claimed."""
    stored = tmp_path / "digits.npz"
    ok("data", "stats", "digits", "--features", "digits", "--out", stored)
    (to_file,) = json.loads(ok("evaluate", made, "--reference", stored, "--json"))
    (to_data,) = json.loads(ok("evaluate", made, "--reference", "digits", "--features", "digits", "--json"))
    assert to_file["distance"] == pytest.approx(to_data["distance"], rel=1e-9)
    assert to_file["metric"] == "FD-digits" and to_file["features_checksum"] == to_data["features_checksum"]
    assert to_file["kernel_distance"] is to_file["agreement"] is to_file["reference_seen"] is None
    assert to_file["floor"] == pytest.approx(to_data["floor"], rel=1e-6)
    assert evaluation.same([to_file, to_data]), "the same rows, stored or not, are the same evaluator"
    assert "choose --features digits" in refused(
        "evaluate", made, "--reference", stored, "--features", "pixel"
    )


@pytest.mark.slow
def test_a_new_table_keeps_the_old_one(digits, tmp_path):
    import shutil

    place = tmp_path / "run"
    shutil.copytree(digits, place)
    ok("evaluate", place, "--steps", 1, "--num", 70, "--save")
    first = json.loads((place / "table.json").read_text())
    ok("evaluate", place, "--steps", 1, "--num", 80, "--features", "digits", "--save")
    assert json.loads((place / "table.json").read_text())[0]["metric"] == "FD-digits"
    old = sorted(path.name for path in place.glob("table.old-*.json"))
    assert json.loads((place / old[-1]).read_text()) == first


@pytest.mark.slow
def test_a_classifier_is_fitted_from_the_command_line(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "MORE", 5)  # epochs; how good a fit is, test_features.py asks
    out = tmp_path / "mine.npz"
    said = ok("data", "classifier", "digits", "--out", out)
    assert "56 features of digits" in said and "right on held-out images" in said
    (row,) = json.loads(ok("evaluate", digits, "--steps", 1, "--num", 70, "--features", out, "--json"))
    assert row["metric"] == "FD-digits" and row["features_checksum"]
    assert "--overwrite" in refused("data", "classifier", "digits", "--out", out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--protocol", "adm"), "unknown protocol 'adm'"),
        (("--protocol", "adm-in256"), "give that file with --reference FILE.npz"),
        (("--protocol", "clean", "--features", "pixel"), "protocol clean/v1 is defined with inception:clean"),
        (("--features", "pixels"), "did you mean pixel"),
        (("--features", "mnist", "--num", "300"), "do not fit mnist features"),
        (("--reference", "digit"), "did you mean digits"),
        (("--reference", "two-moons"), "samples of 1 × 8 × 8 cannot be compared with two-moons, whose are 2"),
    ],
)
def test_an_evaluator_that_does_not_fit_is_refused(digits, words, message):
    assert message in refused("evaluate", digits, *words)


@pytest.mark.slow
def test_images_need_a_reference_and_are_not_sampled(made, tmp_path):
    assert "say what to compare them with" in refused("evaluate", made)
    assert "only measured" in refused("evaluate", made, "--reference", "digits", "--steps", "2")
    assert "--seed: samples" in refused("evaluate", made, "--reference", "digits", "--seed", "5")
    assert "--renoise: samples" in refused("evaluate", made, "--reference", "digits", "--renoise", "1")
    assert "does not exist" in refused("evaluate", tmp_path / "nope", "--reference", "digits")
    assert "holds 90 images, and 91" in refused("evaluate", made, "--reference", "digits", "--num", 91)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "error:" in refused("evaluate", empty, "--reference", "digits")


# Methods and citations


def test_every_method_is_listed_with_its_papers():
    rows = json.loads(ok("methods", "list", "--json"))
    assert [row["name"] for row in rows] == [name.replace("_", "-") for name in methods.names()]
    assert all(row["summary"] and row["references"] for row in rows)
    text = ok("methods", "list")
    assert all(name.replace("_", "-") in text for name in methods.names())


def test_show_is_read_off_the_values():
    assert json.loads(ok("methods", "show", "esc", "--json")) == {"esc": serialize.to_dict(methods.esc())}
    text = ok("methods", "show", "esc", "flow-matching")
    for part in ("LinearPath", "AverageVelocity", "PlugIn", "Conditional", "LearnedVariance", "ClassGroups"):
        assert part in text
    wide = ok("methods", "show", "meanflow", "esc", "shortcut", "flow_matching")
    assert "probability=0.5" in wide and "decay=0.999" in wide


def test_every_field_has_a_row_and_every_number_is_shown():
    objective = replace(methods.esc(), label_dropout=0.237)
    shown = design.components({"esc": serialize.to_dict(objective)})
    rows = {row[0]: list(row[1:]) for row in shown.rows}
    assert rows["label dropout"] == ["0.237"]
    assert rows["flow path"] == ["LinearPath(noise_scale=1, sigma_min=0)"]
    assert rows["time law"][0].splitlines() == [
        "Gradual(horizon=0.03333)",
        "  pair: SortedPair(diagonal=0.75, fixed=True)",
        "    law: LogitNormal(mean=-0.4, std=1)",
    ]
    fields = [label for label in rows if not label.startswith(" ")]  # what the target tells is indented
    assert len(fields) == len(serialize.to_dict(objective)) - len(design.HEADINGS)


def test_targets_tell_their_steps():
    @dataclass(frozen=True)
    class Target(objectives.Eulerian):
        """One jump."""

        template: ClassVar[dict[str, str]] = {"first": "along the {velocity} velocity", "second": "{output}"}

    told = design.in_words(replace(methods.esc(), target=Target()))
    assert told == {
        "in words": "One jump.",
        "first": "along the plug in velocity",
        "second": "average velocity",
    }


def test_a_method_without_a_function_borrows_its_summary():
    assert design.summary("shortcut_repo") == f"{design.summary('shortcut')} Variant repo."
    assert design.summary("unheard_of") == "unheard_of"


def test_diff_shows_only_what_differs():
    rows = json.loads(ok("methods", "diff", "meanflow", "esc", "--json"))
    assert [row["field"] for row in rows] == ["times", "velocity", "loss", "batching"]
    assert rows[1]["meanflow"] == {"type": "Conditional"} and rows[1]["esc"]["probability"] == 0.5
    rows = json.loads(ok("methods", "diff", "shortcut", "shortcut-repo", "--json"))
    assert {"field": "path.sigma_min", "shortcut": 0.0, "shortcut-repo": 1e-05} in rows
    assert "PlugIn" in ok("methods", "diff", "meanflow", "esc")
    assert "the same" in ok("methods", "diff", "esc", "esc")
    assert json.loads(ok("methods", "diff", "esc", "esc", "--json")) == []


def test_cite_prints_exactly_the_papers_of_the_parts():
    text = ok("cite", "shortcut")
    assert [line for line in text.splitlines() if line.startswith("@")] == [
        f"@misc{{{paper.key}," for paper in methods.citations("shortcut")
    ]
    assert "2410.12557" in text and "2512.11831" not in text
    both = ok("cite", "shortcut", "esc")
    assert both.count("lipman2022flow") == 1 and "2512.11831" in both


@pytest.mark.parametrize("words", [("methods", "show"), ("cite",), ("methods", "diff", "esc")])
def test_unknown_methods_name_their_neighbors(words):
    assert "meanflow" in refused(*words, "mean-flw")


# The command line itself


# Printing


@pytest.fixture
def encoded(monkeypatch):
    """Call the command line with standard streams of an encoding; return the exit code and what was written."""

    def call(encoding, *words):
        written = io.BytesIO(), io.BytesIO()
        streams = [io.TextIOWrapper(one, encoding, "strict", write_through=True) for one in written]
        monkeypatch.setattr("sys.stdout", streams[0])
        monkeypatch.setattr("sys.stderr", streams[1])
        with pytest.raises(SystemExit) as left:
            app([os.fsdecode(word) for word in words])
        monkeypatch.undo()
        return left.value.code, *(one.getvalue().decode(encoding) for one in written)

    return call


@pytest.fixture(scope="module")
def unspeakable(tmp_path_factory):
    """A folder whose name is not UTF-8, of classes and images whose names are not, either."""
    folder = tmp_path_factory.mktemp("names") / os.fsdecode(b"donn\xe9es")
    try:
        for name in (b"\xe9t\xe9", "→".encode()):
            (folder / os.fsdecode(name)).mkdir(parents=True)
            for row in range(8):
                file = folder / os.fsdecode(name) / os.fsdecode(b"\xff%d.png" % row)
                Image.fromarray(numpy.full((8, 8), 16 * row, dtype="uint8")).save(file)
    except OSError:
        pytest.skip("this file system takes no name that is not UTF-8")
    return folder


ENCODINGS = pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])


@pytest.mark.slow
@ENCODINGS
def test_what_a_stream_cannot_encode_is_escaped(encoded, encoding):
    code, out, _ = encoded(encoding, "methods", "table", "esc")
    assert code == 0 and ("→" in out if encoding == "utf-8" else "\\u2192" in out)
    code, out, _ = encoded(encoding, "methods", "table", "esc", "--json")
    assert code == 0 and json.loads(out) == json.loads(ok("methods", "table", "esc", "--json"))
    code, _, err = encoded(encoding, "train", "m→\udcff😀")
    assert code == 2 and "\\udcff" in err and "Traceback" not in err
    assert encoded(encoding, "train", "--help")[0] == 0
    assert encoded(encoding, "nothing\udcff")[0] == 2


@pytest.mark.slow
def test_names_that_are_not_utf8_are_trained_sampled_and_shown(encoded, unspeakable):
    encoding = "ascii"
    run = unspeakable.parent / os.fsdecode(b"run\xfe-" + encoding.encode())
    sizes = [
        "--set",
        "network.width=16",
        "--set",
        "network.depth=1",
        "--set",
        "evaluation.online_share=0",
        "--no-eval",
    ]
    every = ["--steps", "1", "--batch", "8", "--sample-every", "0", "--device", "cpu"]
    train = ["train", "--data", unspeakable, "--network", "mlp", "--out", run, *sizes, *every]
    for words in (
        train,
        ["train", "--resume", "--out", run, "--steps", "2"],
        ["sample", run, "--num", "2", "--overwrite"],
        ["report", run, "--num", "2", "--steps", "1", "--overwrite"],
    ):
        code, out, err = encoded(encoding, *words)
        assert code == 0, (words, err)
    assert "\\udcfe" in out + err
    code, out, _ = encoded(encoding, "data", "check", unspeakable, "--json")
    assert code == 0 and json.loads(out)["source"] == str(unspeakable)


def test_streams_that_replace_already_stay_as_they_are(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), "cp1252", "replace")
    monkeypatch.setattr("sys.stdout", stream)
    streams.keep_printing()
    assert stream.errors == "replace"


@pytest.mark.slow
def test_version_and_help():
    assert ok("--version").startswith("flowleap 0.")
    for words in ((), ("train",), ("sample",), ("evaluate",), ("methods",), ("methods", "show"), ("cite",)):
        assert "Usage: flowleap" in ok(*words, "--help").replace("Usage: root", "Usage: flowleap")
    assert "evaluate" in call().output


def test_unknown_commands_and_missing_arguments_are_one_line():
    assert "'sample'" in refused("sampel")
    assert "RUN" in refused("sample")
    assert "sample --help" in refused("sample")


def test_tracebacks_only_when_asked(monkeypatch, tmp_path):
    monkeypatch.setenv("FLOWLEAP_TRACEBACK", "1")
    assert isinstance(call("sample", tmp_path).exception, FileNotFoundError)
    monkeypatch.setenv("FLOWLEAP_TRACEBACK", "0")
    assert "holds no run" in refused("sample", tmp_path)


def test_errors_of_ours_are_not_hidden():
    def broken():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        group.exit_code(broken)


def test_system_errors_name_the_file_and_interrupts_are_told(capsys):
    def full():
        raise OSError(28, "No space left on device", "a.png")

    def stopped():
        raise typer.Abort

    assert group.exit_code(full) == 2 and group.exit_code(stopped) == 130
    assert capsys.readouterr().err == "error: a.png: No space left on device\ninterrupted\n"


def test_numbers_and_times_are_read():
    def instants(text):
        return options.Sampling(times=text).grid(None)

    assert options.numbers("1,2, 128", "--steps") == (1, 2, 128)
    assert instants("1, .6 ,0") == (1.0, 0.6, 0.0) and instants(None) is None
    for text in ("", "0", "1,,2", "1.5", "-1", "1;2"):
        with pytest.raises(typer.BadParameter):
            options.numbers(text, "--steps")
    for text in ("", "a,b", "1,,0", "1;0"):
        with pytest.raises(typer.BadParameter):
            instants(text)


def test_labels_are_read():
    shoes, numbers = ("bag", "sneaker"), ("0", "1", "10", "2")
    assert evaluation.labels.wanted("all", 4, shoes, ())[0].tolist() == [0, 1, 0, 1]
    assert evaluation.labels.wanted("all", 4, (), ()) == (None, "")
    assert evaluation.labels.wanted("all", 3, ("all", "data"), (1, 2))[0].tolist() == [0, 1, 0]
    for text, names, index, words in (
        ("sneaker", shoes, 1, " of class sneaker (number 1)"),
        ("1", shoes, 1, " of class sneaker (number 1)"),
        ("2", numbers, 3, " of class 2 (number 3)"),
        ("1", numbers, 1, " of class 1"),
        ("0", ("all", "data"), 0, " of class all (number 0)"),
        ("1", ("all", "data"), 1, " of class data (number 1)"),
    ):
        found, said = evaluation.labels.wanted(text, 2, names, ())
        assert found.tolist() == [index, index] and said == words
    assert evaluation.labels.wanted("data", 4, shoes, (30, 10))[0].tolist() == [0, 0, 1, 0]
    for text, message in (
        ("sneakers", "did you mean sneaker"),
        ("2", "no class '2'"),
        ("data", "does not say how many"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluation.labels.wanted(text, 2, shoes, ())
    with pytest.raises(ValueError, match="no class '3'"):
        evaluation.labels.wanted("3", 2, numbers, ())


@pytest.mark.slow
def test_data_given_by_hand_is_drawn_without_the_real_points(moons, tmp_path):
    run = runs.load_run(moons)
    foreign = replace(run, config=run.config.replace(data="my-points"))
    assert foreign.config.data.name not in data.names
    files = sample_files.place(foreign, tmp_path / "a.png", None)
    files.add(0, torch.randn(50, 2))
    files.close()
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width < 1.5 * picture.height
