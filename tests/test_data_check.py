"""flowleap data check: what it finds in images, and what it leaves alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from flowleap.cli import app, check
from flowleap.data import inspection
from flowleap.data.inspection import examine, signature
from flowleap.data.opening import store_of
from test_folder_data import draw, folder, noted, spoiled


def textured(rng: np.random.Generator, side: int = 64) -> Image.Image:
    """Something like a photo: large and small structure."""
    made = np.zeros((side, side, 3))
    for grid, strength in ((4, 90), (9, 50), (20, 20)):
        small = Image.fromarray(rng.integers(0, 256, (grid, grid, 3), dtype=np.uint8))
        made += (
            strength / 128 * (np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), float) - 128)
        )
    return Image.fromarray((made + 128).clip(0, 255).astype(np.uint8))


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(1)
    for index in range(80):
        textured(rng).save(tmp_path / f"{index:03d}.png")
    return tmp_path


def names(found, groups):
    return [tuple(found.store.name(row).rpartition("/")[2] for row in group) for group in groups]


def test_clean_images_have_no_duplicates(photos):
    found = examine(store_of(photos), workers=0)
    assert (
        found.exact == found.near == ()
        and len(found.fine) == 80
        and not any(found.of_fault(k) for k in ("mode", "small"))
    )
    assert found.problems() == ["only 80 usable images: a generator may memorize them"]


def test_copies_are_found_whatever_file_they_are_in_and_near_ones_as_such(photos):
    first = Image.open(photos / "000.png")
    first.save(photos / "copy.bmp")
    first.save(photos / "twice.png", optimize=True)
    Image.open(photos / "001.png").save(photos / "again.jpg", quality=70)
    Image.open(photos / "002.png").resize((90, 90), Image.Resampling.BICUBIC).save(photos / "larger.png")
    Image.open(photos / "003.png").point(lambda v: min(255, int(1.06 * v))).save(photos / "lighter.png")
    found = examine(store_of(photos), workers=0)
    assert names(found, found.exact) == [("000.png", "copy.bmp", "twice.png")]
    assert names(found, found.near) == [
        ("001.png", "again.jpg"),
        ("002.png", "larger.png"),
        ("003.png", "lighter.png"),
    ]
    assert "2 exact duplicates of other images" in found.problems()
    assert "3 near duplicates of other images" in found.problems()


def test_turned_images_are_seen_as_training_sees_them(tmp_path):
    image = draw(np.random.default_rng(0), 30, 20)
    noted(image, tmp_path / "a.tif", 6)
    noted(image, tmp_path / "b.png", 6, "text")
    image.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "c.png")
    found = examine(store_of(tmp_path), workers=0)
    assert found.sizes == {(20, 30): 3} and names(found, found.exact) == [("a.tif", "b.png", "c.png")]
    assert {check.picture(found, row).size for row in range(3)} == {(20, 30)}


def test_mirrored_and_other_images_are_no_near_duplicates(photos):
    Image.open(photos / "000.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photos / "mirrored.png")
    Image.new("RGB", (64, 64), (3, 3, 3)).save(photos / "black.png")
    Image.new("RGB", (64, 64), (250, 250, 250)).save(photos / "white.png")
    assert examine(store_of(photos), workers=0).near == ()


def test_a_crowd_of_alike_hashes_is_compared_along_its_order(photos, monkeypatch):
    monkeypatch.setattr(inspection, "CROWD", 1)
    Image.open(photos / "002.png").resize((90, 90), Image.Resampling.BICUBIC).save(photos / "larger.png")
    found = examine(store_of(photos), workers=0)
    assert names(found, found.near) == [("002.png", "larger.png")]


def test_what_training_leaves_out_is_what_is_found(tmp_path):
    found = examine(store_of(spoiled(tmp_path)), workers=0)
    assert {kind: len(found.of_fault(kind)) for kind in ("unreadable", "mode", "transparent", "small")} == {
        "unreadable": 4, "mode": 1, "transparent": 1, "small": 0,
    }  # fmt: skip
    assert len(found.fine) == 23 and found.names_of_modes["RGB"] == 21
    assert {"P", "L", "CMYK", "RGBA"} <= set(found.names_of_modes)
    small = examine(store_of(tmp_path), size=64, workers=0)
    assert len(small.of_fault("small")) == 23 and len(small.fine) == 0


def test_classes_are_counted_and_uneven_ones_told(tmp_path):
    folder(tmp_path, 24, (16, 16), classes=2)
    for index, file in enumerate(sorted((tmp_path / "class1").iterdir())):
        if index:
            file.unlink()
    found = examine(store_of(tmp_path), workers=0)
    assert found.classes == {"class0": 12, "class1": 1}
    assert any("classes of 1 to 12 images" in problem for problem in found.problems())


@pytest.mark.slow
def test_processes_find_what_one_finds(photos):
    (photos / "004.png").write_bytes(b"no")
    one, many = (examine(store_of(photos), workers=workers) for workers in (0, 2))
    assert one.to_dict() == many.to_dict() and one.to_dict()["faults"]["unreadable"]


def test_arrays_are_checked_as_files_are(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 8), dtype=np.uint8)
    images[5] = images[2]
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(9) % 3)
    found = examine(store_of(tmp_path / "a.npz"), workers=0)
    assert (
        found.exact == ((2, 5),)
        and found.classes == {"0": 3, "1": 3, "2": 3}
        and found.names_of_modes == {"L": 9}
    )


@pytest.mark.slow
def test_the_command_tells_draws_and_says_by_its_status(photos):
    runner, sheet = CliRunner(), photos.parent / "sheet.png"
    Image.open(photos / "000.png").save(photos / "copy.png")
    Image.new("RGBA", (70, 50), (9, 200, 9, 40)).save(photos / "clear.png")
    (photos / "bad.png").write_bytes(b"no")
    told = runner.invoke(app, ["data", "check", str(photos), "--out", str(sheet), "--workers", "0"])
    said = " ".join(told.output.split())
    assert told.exit_code == 0 and "000.png = " in said and "1 exact duplicate of other images" in said
    picture = Image.open(sheet)
    assert picture.width > 800 and len(picture.getcolors(1 << 24)) > 1000
    assert (
        runner.invoke(app, ["data", "check", str(photos), "--out", str(sheet)]).exit_code != 0
    )  # not overwritten
    strict = runner.invoke(app, ["data", "check", str(photos), "--strict", "--json", "--workers", "0"])
    content = json.loads(strict.stdout)
    assert strict.exit_code == 1 and content["usable"] == 81 and len(content["exact_duplicates"]) == 1
    assert len(content["problems"]) == 4 and content["sizes"][0] == {"width": 64, "height": 64, "images": 81}


def test_nothing_wrong_is_said_and_strict_passes(tmp_path, monkeypatch):
    monkeypatch.setattr(inspection, "FEW_IMAGES", 10)
    rng = np.random.default_rng(0)
    for index in range(12):
        textured(rng).save(tmp_path / f"{index}.png")
    done = CliRunner().invoke(app, ["data", "check", str(tmp_path), "--strict", "--workers", "0"])
    assert done.exit_code == 0 and "nothing is wrong" in done.output


def test_the_hash_is_what_it_is_said_to_be():
    image = draw(np.random.default_rng(0), 40, 30)
    bits, thumb, contrast = signature(image)
    grey = np.asarray(image.convert("L").resize((17, 16), Image.Resampling.LANCZOS)).astype(int)
    assert np.array_equal(np.unpackbits(bits.view(np.uint8)).reshape(16, 16), grey[:, :-1] > grey[:, 1:])
    assert thumb.shape == (8, 8) and contrast == pytest.approx(grey.std())
