"""Folders of images as they come: several sizes and modes, damaged files, more than fits into memory."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin, TiffImagePlugin, TiffTags
from typer.testing import CliRunner

from flowleap import Batch, data, methods, runs
from flowleap.cli import app
from flowleap.data import Preprocessing, ahead, inspection, opening, prepare
from flowleap.data.pixels import Faulty, decode, read_header
from flowleap.data.preprocessing import ResizeCrop, default_size
from flowleap.data.rows import Rows, scaled
from flowleap.data.store import files_below
from flowleap.data.workers import in_order
from flowleap.training.loop import Plan, Reads, draw_batch

ON_DISK = Preprocessing(memory=0.0)


def draw(rng: np.random.Generator, width: int, height: int, mode: str = "RGB") -> Image.Image:
    small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def folder(
    root: Path, count: int = 24, size: tuple[int, int] | None = None, classes: int = 2, seed: int = 0
) -> Path:
    """Images of several sizes (or one), in a folder for each class."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        width, height = size or tuple(int(n) for n in rng.integers(20, 50, 2))
        place = root / f"class{index % classes}" if classes else root
        place.mkdir(parents=True, exist_ok=True)
        draw(rng, width, height).save(place / f"{index:03d}.png")
    return root


def by_hand(path: Path, size: int, square: str = "crop") -> np.ndarray:
    """What Pillow makes of a file, in the plainest words."""
    image = Image.open(path).convert("RGB")
    if square == "crop":
        side = min(image.size)
        left, upper = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, upper, left + side, upper + side))
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS)).transpose(2, 0, 1)


# ---------------------------------------------------------------- squares


@pytest.mark.parametrize("square", ["crop", "resize"])
def test_images_of_several_sizes_become_squares(tmp_path, square):
    dataset = data.load(folder(tmp_path), preprocessing=Preprocessing(square=square, size=16))
    files = sorted(tmp_path.rglob("*.png"))
    levels = (127.5 * (dataset.x + 1)).round()
    assert dataset.shape == (3, 16, 16) and dataset.num_classes == 2
    assert dataset.label.tolist() == [int(file.parent.name[-1]) for file in files]
    for row, file in enumerate(files):
        assert np.array_equal(levels[row].numpy(), by_hand(file, 16, square))


def test_what_lies_outside_of_the_square_in_the_middle_is_cut_off(tmp_path):
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255
    Image.fromarray(wide).save(tmp_path / "a.png")
    cut = data.load(tmp_path, preprocessing=Preprocessing(square="crop", size=20)).x
    squeezed = data.load(tmp_path, preprocessing=Preprocessing(square="resize", size=20)).x
    assert bool((cut == 1).all()) and not bool((squeezed == 1).all())


def test_shrinking_does_not_alias(tmp_path):
    """Lines of one pixel become grey; picking pixels would give black or white."""
    lines = np.zeros((128, 128, 3), np.uint8)
    lines[:, ::2] = 255
    Image.fromarray(lines).save(tmp_path / "a.png")
    x = data.load(tmp_path, preprocessing=Preprocessing(size=16)).x
    assert float(x.abs().max()) < 0.1


@pytest.mark.parametrize(
    ("sides", "side"), [([40] * 20, 32), ([28] * 99 + [8], 16), ([500] * 9, 64), ([9, 200], 8), ([5], 8)]
)
def test_the_size_that_is_taken_where_none_is_named(sides, side):
    assert default_size(np.array(sides)) == side


def test_images_of_one_size_stay_as_they_are_and_the_exception_is_made_like_them(tmp_path):
    folder(tmp_path, 60, (28, 28))
    alike = data.load(tmp_path)
    assert alike.shape == (3, 28, 28) and alike.preprocessing.size is None
    draw(np.random.default_rng(3), 40, 33).save(tmp_path / "class0" / "odd.png")
    draw(np.random.default_rng(3), 20, 33).save(tmp_path / "class0" / "small.png")
    found = data.load(tmp_path)
    assert found.shape == (3, 28, 28) and len(found) == 61 and found.preprocessing.size == 28
    assert any("1 is too small" in note for note in found.notes)
    assert torch.equal(found.x[:30], alike.x[:30])


def test_large_images_of_one_size_are_shrunk_and_that_is_said(tmp_path):
    found = data.load(folder(tmp_path, 3, (300, 400), classes=0))
    assert found.shape == (3, 64, 64) and found.label is None
    assert any("300 × 400" in note and "64 × 64 (Lanczos" in note for note in found.notes)


def test_a_photo_is_turned_as_its_camera_noted(tmp_path):
    image = draw(np.random.default_rng(0), 30, 20)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert read_header(str(tmp_path / "a.jpg"), "a")[:2] == (20, 30)
    turned = np.asarray(image.transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert np.abs(decode(str(tmp_path / "a.jpg"), "a").astype(int) - turned).mean() < 6


def test_large_jpeg_files_are_decoded_in_part_without_a_visible_difference(tmp_path):
    draw(np.random.default_rng(0), 1600, 1200).save(tmp_path / "a.jpg", quality=95)
    found = decode(str(tmp_path / "a.jpg"), "a", ResizeCrop("crop", 64)).transpose(2, 0, 1).astype(int)
    assert np.abs(found - by_hand(tmp_path / "a.jpg", 64)).max() <= 4


def test_arrays_are_resized_as_files_are(tmp_path):
    root = folder(tmp_path / "x", 6, (30, 30), classes=0)
    images = np.stack([np.asarray(Image.open(file)) for file in sorted(root.glob("*.png"))])
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(6))
    small = data.load(tmp_path / "a.npz", preprocessing=Preprocessing(size=16))
    assert (
        torch.equal(small.x, data.load(root, preprocessing=Preprocessing(size=16)).x)
        and small.num_classes == 6
    )
    np.savez(tmp_path / "b.npz", images=np.zeros((3, 3, 30, 30), np.float32))
    with pytest.raises(ValueError, match="only images of 8 bits are resized"):
        data.load(tmp_path / "b.npz", preprocessing=Preprocessing(size=16))


def test_looks_that_mean_nothing_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected crop or resize"):
        Preprocessing(square="round")
    for size in ("x", 0):
        with pytest.raises(ValueError, match="size"):
            Preprocessing(size=size)
    with pytest.raises(ValueError, match="has a fixed size"):
        data.load("digits", preprocessing=Preprocessing(size=16))
    with pytest.raises(ValueError, match=r"are too small.*smaller --size"):
        data.load(folder(tmp_path, 3, (30, 30)), preprocessing=Preprocessing(size=64))


# ---------------------------------------------------------------- orientation, frames


def noted(image: Image.Image, file: Path, value: object, how: str = "exif") -> Path:
    """Save an image with an orientation, where a format keeps it or another program may have left it."""
    exif = Image.Exif()
    exif[0x0112] = value
    if file.suffix == ".tif":
        entries = TiffImagePlugin.ImageFileDirectory_v2()
        entries.tagtype[0x0112] = TiffTags.ASCII if isinstance(value, str) else TiffTags.SHORT
        entries[0x0112] = value
        image.save(file, tiffinfo=entries)
    elif how == "text":
        coded, text = exif.tobytes(), PngImagePlugin.PngInfo()
        text.add_text("Raw profile type exif", f"\nexif\n{len(coded):8}\n{coded.hex()}\n", zip=True)
        image.save(file, pnginfo=text)
    elif how == "xmp":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", f'<x:xmpmeta tiff:Orientation="{value}"/>')
        image.save(file, pnginfo=text)
    elif how == "late":  # EXIF behind the pixels
        image.save(file)
        whole, chunk = file.read_bytes(), b"eXIf" + exif.tobytes()[6:]
        late = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        file.write_bytes(whole[:-12] + late + whole[-12:])
    else:
        image.save(file, exif=exif, lossless=True)
    return file


KEPT = [("a.tif", ""), ("a.webp", "exif"), ("a.png", "exif"), ("a.png", "text"), ("a.png", "late")]
VALUES = [*range(10), 65535]


@pytest.mark.parametrize(
    ("name", "how", "value"),
    [
        *((*kept, value) for kept in KEPT for value in VALUES),
        *(("a.png", "xmp", value) for value in range(1, 10)),
        ("a.tif", "", "6"),
    ],
)
def test_images_of_all_formats_are_turned_by_orientations_2_to_8_and_by_nothing_else(
    tmp_path, name, how, value
):
    image = draw(np.random.default_rng(0), 12, 8)
    file = str(noted(image, tmp_path / name, value, how))
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # of Image.Transpose
    turned = image if value not in turns else image.transpose(Image.Transpose(turns[value]))
    assert read_header(file, "a")[:2] == turned.size
    assert np.array_equal(decode(file, "a"), np.asarray(turned))
    assert np.array_equal(decode(Path(file).read_bytes(), "a"), np.asarray(turned))


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01", b"MM", b""])
@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.png"])
def test_exif_that_cannot_be_read_turns_nothing(tmp_path, name, exif):
    draw(np.random.default_rng(0), 30, 20).save(tmp_path / name, exif=exif)
    assert read_header(str(tmp_path / name), "a")[:2] == (30, 20)
    assert decode(str(tmp_path / name), "a").shape == (20, 30, 3)


def test_only_the_first_frame_is_taken_and_that_is_said(tmp_path):
    frames = [draw(np.random.default_rng(seed), 16, 16) for seed in range(3)]
    for name in ("a.gif", "b.png", "c.webp", "d.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
    frames[1].save(tmp_path / "e.tif")
    found = data.load(tmp_path)
    assert len(found) == 5 and found.shape == (3, 16, 16)
    said = f"4 images have several frames or pages ({tmp_path / 'a.gif'}): only the first is taken"
    assert said in found.notes and torch.equal(found.x[1], found.x[3])
    assert said in inspection.examine(opening.store_of(tmp_path), workers=0).notes


# ---------------------------------------------------------------- what cannot be used


def spoiled(root: Path) -> Path:
    """Twenty good images, and one of each kind that is not; files named z… are good."""
    folder(root, 20, (32, 32), classes=0)
    rng = np.random.default_rng(9)
    whole = (root / "003.png").read_bytes()
    (root / "003.png").write_bytes(whole[: len(whole) // 2])
    draw(rng, 60, 60).save(root / "cut.jpg")
    (root / "cut.jpg").write_bytes((root / "cut.jpg").read_bytes()[:-200])
    (root / "empty.png").write_bytes(b"")
    (root / "text.png").write_text("not an image")
    Image.fromarray(rng.integers(0, 65535, (32, 32), dtype=np.uint16)).save(root / "sixteen.png")
    Image.new("RGBA", (32, 32), (9, 9, 9, 9)).save(root / "clear.png")
    Image.new("RGBA", (32, 32), (9, 9, 9, 255)).save(root / "zopaque.png")
    draw(rng, 32, 32, "P").save(root / "zpalette.png")
    draw(rng, 32, 32, "CMYK").save(root / "zcmyk.jpg")
    draw(rng, 32, 32, "L").save(root / "zgrey.png")
    return root


def test_what_cannot_be_used_is_left_out_and_named(tmp_path):
    found = data.load(spoiled(tmp_path))
    assert len(found) == 23 and found.shape == (3, 32, 32)
    said = next(note for note in found.notes if "left out" in note)
    assert said.startswith("6 of 29 images are left out")
    for part in (
        "4 cannot be read",
        "003.png",
        "1 has other pixels",
        "sixteen.png",
        "1 is transparent",
        "clear.png",
    ):
        assert part in said


def test_strict_data_stop_and_nothing_is_written(tmp_path):
    path = spoiled(tmp_path / "x")
    with pytest.raises(ValueError, match=r"6 of 29 images of .* cannot be used.*--strict"):
        data.load(path, preprocessing=Preprocessing(strict=True))
    out = tmp_path / "run"
    done = CliRunner().invoke(app, ["train", "--data", str(path), "--strict", "--out", str(out)])
    assert done.exit_code != 0 and not out.exists()
    assert "003.png" in " ".join(done.output.split())


def test_a_folder_without_one_good_image(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("no")
    with pytest.raises(ValueError, match=r"2 of 2 images are left out: 2 cannot be read .*a\.png"):
        data.load(tmp_path)


def test_a_class_that_loses_all_its_images_is_no_class(tmp_path):
    folder(tmp_path, 6, (16, 16), classes=3)
    for file in (tmp_path / "class1").iterdir():
        file.write_text("no")
    found = data.load(tmp_path)
    assert (
        found.classes == ("class0", "class2")
        and found.num_classes == 2
        and found.label.tolist() == [0, 0, 1, 1]
    )


def test_damage_that_only_decoding_shows_is_left_out_in_memory(tmp_path, monkeypatch):
    folder(tmp_path, 10, (16, 16), classes=0)
    monkeypatch.setattr(prepare, "read_header", lambda file, name: prepare_header(file))
    (tmp_path / "004.png").write_bytes((tmp_path / "004.png").read_bytes()[:90])
    found = data.load(tmp_path)
    assert len(found) == 9 and any("1 of 10 images is left out" in note for note in found.notes)
    with pytest.raises(ValueError, match=f"1 of 10 images of {tmp_path} cannot be used"):
        data.load(tmp_path, preprocessing=Preprocessing(strict=True))


def prepare_header(file):
    with Image.open(file) as image:
        from flowleap.data.pixels import Header

        return Header(*image.size, True, False)


def test_held_out_classes_are_matched_by_name(tmp_path):
    folder(tmp_path / "train", 6, (16, 16), classes=3)
    folder(tmp_path / "test", 4, (16, 16), classes=1)
    (tmp_path / "test" / "class0").rename(tmp_path / "test" / "class2")
    part = data.held_out(data.load(tmp_path))
    assert part.label.tolist() == [2] * 4 and part.num_classes == 3
    (tmp_path / "test" / "class2").rename(tmp_path / "test" / "other")
    with pytest.raises(ValueError, match="class 'other'"):
        data.held_out(data.load(tmp_path))


def test_a_held_out_part_that_does_not_fit_is_refused_before_training(tmp_path):
    folder(tmp_path / "images" / "train", 40, (16, 16), classes=2)
    folder(tmp_path / "images" / "test", 6, (16, 16), classes=2)
    (tmp_path / "images" / "test" / "class0").rename(tmp_path / "images" / "test" / "other")
    out = tmp_path / "run"
    done = CliRunner().invoke(
        app, ["train", "--data", str(tmp_path / "images"), "--steps", "2", "--out", str(out)]
    )
    assert done.exit_code != 0 and not out.exists()
    assert "has the class 'other', which 'train' does not have" in " ".join(done.output.split())


def test_the_held_out_part_is_seen_as_the_training_part(tmp_path):
    folder(tmp_path / "train", 8)
    folder(tmp_path / "test", 4, seed=1)
    part = data.held_out(data.load(tmp_path, preprocessing=Preprocessing(square="resize", size=8)))
    assert part.shape == (3, 8, 8) and part.preprocessing.square == "resize"


def test_links_to_folders_above_end_and_names_keep_their_order(tmp_path):
    folder(tmp_path, 6, (8, 8))
    (tmp_path / "class0" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "class0-b").mkdir()
    draw(np.random.default_rng(0), 8, 8).save(tmp_path / "class0-b" / "ü.png")
    files = files_below(tmp_path)
    assert [files.name(i) for i in range(len(files))] == [str(f) for f in sorted(tmp_path.glob("*/*.png"))]
    assert files.classes == ("class0", "class0-b", "class1")


# ---------------------------------------------------------------- more than fits into memory


@pytest.fixture
def three(tmp_path):
    """The same images as floats, as 8 bits in memory, and on the disk."""
    folder(tmp_path, 30)
    preprocessing = Preprocessing(size=16)
    whole = data.load(tmp_path, preprocessing=preprocessing)
    size = whole.x.numel() / 2**30
    held = data.load(tmp_path, preprocessing=replace(preprocessing, memory=2 * size))
    disk = data.load(tmp_path, preprocessing=replace(preprocessing, memory=0.5 * size))
    return whole, held, disk


def test_where_images_are_kept_changes_no_value(three):
    whole, held, disk = three
    assert isinstance(whole.x, torch.Tensor) and isinstance(held.x, Rows) and isinstance(disk.x, Rows)
    assert not held.x.on_disk and disk.x.on_disk
    rows = torch.tensor([7, 0, 29, 7])
    for other in (held, disk):
        assert other.x.shape == whole.x.shape and len(other) == 30 and other.shape == (3, 16, 16)
        assert torch.equal(other.x[rows], whole.x[rows]) and torch.equal(other.x[3], whole.x[3])
        assert torch.equal(other.x[4:9], whole.x[4:9]) and torch.equal(other.x[[1, 2]], whole.x[[1, 2]])
        assert torch.equal(other.x[torch.tensor(5)], whole.x[5]) and torch.equal(other.x[-1:], whole.x[-1:])
        assert torch.equal(torch.cat(list(other.x.split(7))), whole.x)
        assert torch.equal(other.label, whole.label)
        with pytest.raises(IndexError):
            other.x[torch.tensor([30])]


def test_the_checksum_of_8_bits_is_that_of_floats_and_of_the_disk_says_that_it_is_of_a_part(three):
    whole, held, disk = three
    assert held.checksum == whole.checksum
    assert disk.checksum.startswith("part-") and len(disk.checksum) == 17


def test_changed_files_are_noticed_on_the_disk_too(tmp_path):
    folder(tmp_path, 12, (16, 16), classes=0)
    first = data.load(tmp_path, preprocessing=ON_DISK)
    assert data.load(tmp_path, preprocessing=ON_DISK, checksum=first.checksum).checksum == first.checksum
    (tmp_path / "002.png").write_bytes((tmp_path / "003.png").read_bytes())
    os.utime(tmp_path / "002.png", (1, 10**10))
    assert data.load(tmp_path, preprocessing=ON_DISK).x.stamp != first.x.stamp
    with pytest.raises(ValueError, match="have changed"):
        data.load(tmp_path, preprocessing=ON_DISK, checksum=first.checksum)


@pytest.mark.slow
@pytest.mark.parametrize("memory", [1.0, 0.0])
def test_a_run_goes_on_where_its_data_have_moved(tmp_path, memory: float):
    """The same images elsewhere are the same data; others, or none, are not."""
    folder(tmp_path / "here", 24, (16, 16))
    out, more = (
        tmp_path / "run",
        ["--no-eval", "--device", "cpu", "--batch", "8", "--out", str(tmp_path / "run")],
    )
    first = [
        "train",
        "flow-matching",
        "--data",
        str(tmp_path / "here"),
        "--steps",
        "3",
        "--set",
        f"memory={memory}",
    ]
    done = CliRunner().invoke(app, [*first, *more])
    assert done.exit_code == 0, done.output
    (tmp_path / "here").rename(tmp_path / "there")
    resume = ["train", "--resume", "--out", str(out), "--steps", "5"]
    gone = CliRunner().invoke(app, resume)
    assert gone.exit_code != 0 and "nothing is there" in gone.output and "--data PATH" in gone.output
    folder(tmp_path / "others", 24, (16, 16), seed=5)
    with pytest.raises(ValueError, match="have changed"):
        config = runs.reconfigure(runs.read_config(out), data=str(tmp_path / "others"))
        runs.train(config, out, resume=True)
    with pytest.raises(ValueError, match="have changed"):
        runs.train(runs.reconfigure(runs.read_config(out), data="digits"), out, resume=True)
    other = data.load(tmp_path / "others")
    with pytest.raises(ValueError, match="have changed"):
        runs.train(runs.read_config(out).replace(data=other.address), out, resume=True, dataset=other)
    done = CliRunner().invoke(app, [*resume, "--data", str(tmp_path / "there")])
    assert done.exit_code == 0, done.output
    assert runs.load_run(out).step == 5 and runs.read_config(out).data.name == str(tmp_path / "there")
    assert len(runs.load_run(out).dataset()) == 24


def test_a_part_is_fixed_and_reads_nothing(three):
    whole, _, disk = three
    read: list[int] = []
    watched = replace(
        disk, x=replace(disk.x, fetch=lambda rows: (read.append(len(rows)), disk.x.fetch(rows))[1])
    )
    part = watched.part(10)
    before = sum(read)
    assert torch.equal(part.x[:], whole.part(10).x) and torch.equal(part.label, whole.part(10).label)
    assert sum(read) - before == 10 and part.split == "all[10]" and part.part_of == disk.checksum
    assert watched.part(30) is watched


def test_an_image_that_is_damaged_meanwhile_is_replaced_by_one_of_its_class_with_a_word(tmp_path):
    folder(tmp_path, 12, (16, 16), classes=2)
    found = data.load(tmp_path, preprocessing=ON_DISK)
    before = found.x[:]
    (tmp_path / "class0" / "004.png").write_bytes(b"gone")
    with pytest.warns(UserWarning, match=r"004\.png cannot be read.*another image takes its place"):
        after = found.x[:]
    assert torch.equal(after[2], before[3]) and found.label[2] == found.label[3]
    strict = replace(found.x, fetch=replace(found.x.fetch, strict=True))
    with pytest.raises(Faulty, match=r"004\.png cannot be read"):
        strict[:]
    for file in (tmp_path / "class1").iterdir():
        file.write_bytes(b"gone")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="in a row cannot be read"):
        found.x[[8]]


@pytest.mark.slow
def test_other_processes_give_the_same_in_order_and_raise_here():
    assert list(in_order(_square, range(20), workers=2)) == [n * n for n in range(20)]
    with pytest.warns(UserWarning, match="three"), pytest.raises(Faulty, match="four is broken"):
        list(in_order(_spoilt, range(9), workers=2))
    state = torch.random.get_rng_state()
    list(in_order(_square, range(3), workers=1))
    assert torch.equal(state, torch.random.get_rng_state())


def _square(n: int) -> int:
    return n * n


def _spoilt(n: int) -> int:
    if n == 3:
        import warnings

        warnings.warn("three", UserWarning, stacklevel=2)
    if n == 4:
        raise Faulty("unreadable", "four is broken")
    return n


# ---------------------------------------------------------------- batches


@pytest.mark.slow
@pytest.mark.parametrize("name", ["meanflow", "esc"])
@pytest.mark.parametrize(("own", "parts"), [(range(1), 1), (range(1, 2), 2), (range(2, 4), 4)])
def test_batches_read_ahead_are_the_batches(three, name, own, parts):
    """Also the parts of a batch that one of several processes computes, which are others in each step."""
    whole, _, disk = three
    objective, plan, cpu = methods.get(name).for_run(9), Plan(9, 8, 3, 1e-3), torch.device("cpu")
    reads, seen = Reads(disk.label, len(disk), objective, 8, 3, own, parts), []

    def drawn(dataset: data.Dataset, step: int, part: int) -> Batch:
        return draw_batch(dataset, objective, plan, step, cpu, part, parts)

    with data.reading_ahead(disk, reads, last=9, workers=2) as reading:
        for step in range(4, 9):  # a run goes on at step 4
            for part in own:
                found, wanted = drawn(reading, step, part), drawn(whole, step, part)
                assert torch.equal(found.x, wanted.x) and torch.equal(found.label, wanted.label)
                for mine, theirs in ((found.row, wanted.row), (found.context, wanted.context)):
                    assert theirs is None if mine is None else torch.equal(mine, theirs)
                seen.append(found.row)
        assert reading.ahead._starts == 1
        assert torch.equal(drawn(reading, 8, own[0]).x, drawn(whole, 8, own[0]).x)  # the last step once more
    assert reading.ahead._results is None
    assert parts == 1 or name == "esc" or not all(torch.equal(row, seen[0]) for row in seen)


def batches(dataset: data.Dataset, batch: int) -> Reads:
    """Whole shuffled batches."""
    return Reads(dataset.label, len(dataset), methods.get("flow_matching"), batch, 0)


def test_rows_of_another_law_are_read_directly(three):
    whole, _, disk = three
    with data.reading_ahead(disk, batches(disk, 8), last=20, workers=1) as reading:
        for step in range(6):
            rows = torch.arange(8) + step
            assert torch.equal(reading.take(rows, step, 0), whole.x[rows])
        assert reading.ahead._starts == ahead.MOST_STARTS


def test_data_in_memory_need_no_reading_ahead(three):
    for dataset in three[:2]:
        with data.reading_ahead(dataset, batches(dataset, 8), last=9) as reading:
            assert reading is dataset


def test_flips_belong_to_the_rows_of_the_global_batch(three):
    whole, held, disk = three
    rows, here = torch.arange(30), torch.tensor([3, 4, 17])
    seen = [replace(dataset, flip=True).take(rows, 5, 1) for dataset in three]
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])
    flipped = (seen[0] == whole.x.flip(-1)).flatten(1).all(1)
    assert bool((flipped | (seen[0] == whole.x).flatten(1).all(1)).all()) and 5 <= int(flipped.sum()) <= 25
    part = replace(disk, flip=True).take(rows, 5, 1, here)
    assert torch.equal(part, seen[0][here])
    other = replace(held, flip=True).take(rows, 6, 1)
    assert not torch.equal(other, seen[0]) and torch.equal(other, replace(held, flip=True).take(rows, 6, 1))


# ---------------------------------------------------------------- everything else that looks at rows


@pytest.mark.slow
def test_evaluators_judges_and_pictures_see_the_same_in_all_three_places(three, monkeypatch):
    from flowleap import evaluation
    from flowleap.evaluation import classifier, label_accuracy
    from flowleap.reports import folders
    from flowleap.runs import samples as run_samples

    whole, _, disk = three
    samples = whole.x[:20] + 0.05 * torch.randn(20, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    evaluators = [evaluation.evaluator_for(dataset) for dataset in three]
    numbers = [
        evaluation.numbers.measure(samples.clamp(-1, 1), whole.label[:20], evaluator)
        for evaluator in evaluators
    ]
    assert numbers[0] == numbers[1] == numbers[2] and numbers[0]["distance"] is not None
    assert len({label_accuracy.fit(dataset).score for dataset in three}) == 1
    monkeypatch.setattr(classifier, "MORE", 1)
    fits = [
        replace(classifier.fit(dataset), made="").packed() for dataset in three
    ]  # made: by another checksum
    assert fits[0] == fits[1] == fits[2]
    monkeypatch.setattr(folders, "READ", 7)
    near = [folders.neighbors({1: samples.clamp(-1, 1)}, dataset) for dataset in three]
    assert torch.equal(near[0].distance, near[2].distance) and near[0].typical == near[2].typical
    assert torch.equal(near[0].nearest, near[2].nearest) and torch.equal(near[0].nearest, whole.x[:12])
    assert torch.equal(run_samples.real(whole, 3), run_samples.real(disk, 3))
    stream = [torch.cat(list(dataset.batches(7))) for dataset in three]
    assert torch.equal(stream[0], whole.x) and torch.equal(stream[2], whole.x)


def test_the_evaluator_of_much_data_on_the_disk_is_a_part_that_says_so(three, monkeypatch):
    from flowleap import evaluation
    from flowleap.evaluation import quality

    _, held, disk = three
    monkeypatch.setattr("flowleap.evaluation.evaluator.PART", 20)
    evaluator = evaluation.evaluator_for(disk)
    assert evaluator.split == "all[20]" and evaluator.size == 20 and "/all[20]:20@" in evaluator.described
    assert quality.same_rows(evaluator, disk) and not quality.same_rows(evaluator, held)
    assert evaluation.evaluator_for(held).size == 30


# ---------------------------------------------------------------- runs


SMALL = {"steps": 6, "batch": 8, "eval_num": 0, "online_share": 0.0, "sample_every": 0, "log_every": 1}
TINY = [("network.width", "16"), ("network.depth", "1"), ("network.heads", "2"), ("network.patch", "4")]


def losses(place: Path) -> list[float]:
    return [json.loads(line)["raw_error"] for line in (place / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_from_the_disk_is_the_run_from_memory_and_goes_on_bit_by_bit(tmp_path):
    folder(tmp_path / "x")
    weights = []
    for name, memory, workers in (("memory", 1.0, None), ("disk", 0.0, 2), ("alone", 0.0, 0)):
        config = runs.configure(
            "flow-matching",
            str(tmp_path / "x"),
            settings=TINY,
            **SMALL,
            size=16,
            flip=True,
            memory=memory,
            workers=workers,
        )
        assert (config.data.size, config.data.square, config.data.flip, config.data.memory) == (
            16,
            "crop",
            True,
            memory,
        )
        result = runs.train(config, tmp_path / name)
        weights.append((result.folder / "network.safetensors").read_bytes())
    assert weights[0] == weights[1] == weights[2]
    assert losses(tmp_path / "memory") == losses(tmp_path / "disk")
    short = runs.configure(
        "flow-matching",
        str(tmp_path / "x"),
        settings=TINY,
        **{**SMALL, "checkpoint_every": 3},
        size=16,
        flip=True,
        memory=0.0,
    )
    stopped = _stopped_after(short, tmp_path / "cut", 3)
    assert stopped.step == 3
    runs.train(out=tmp_path / "cut", resume=True)
    assert (tmp_path / "cut" / "network.safetensors").read_bytes() == weights[0]


def _stopped_after(config, place, steps):
    """Train as far as a signal in some step lets it."""
    import signal
    import threading

    from flowleap.training import log

    advance = log.Reporter.advance

    def stop(self, step):
        advance(self, step)
        if step == steps - 1:
            os.kill(os.getpid(), signal.SIGINT)

    assert threading.current_thread() is threading.main_thread()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log.Reporter, "advance", stop)
        return runs.train(config, place)


@pytest.fixture
def reads(monkeypatch):
    """How often each file is decoded, and how often its header is looked at."""
    seen = {"read_header": Counter(), "decode": Counter()}

    def watched(name, work):
        def counting(file, *given):
            seen[name][file] += 1
            return work(file, *given)

        monkeypatch.setattr(prepare, name, counting)

    watched("read_header", prepare.read_header)
    watched("decode", prepare.decode)
    return seen


@pytest.mark.slow
def test_a_run_from_the_command_line_reads_its_data_once(tmp_path, reads):
    """Also where a teacher is trained first, and samples are measured against a held-out part."""
    files = [folder(tmp_path / "x" / part, 24, (16, 16), seed=len(part)) for part in ("train", "test")]
    command = [
        "train",
        "progressive-distillation",
        "--data",
        str(tmp_path / "x"),
        "--steps",
        "14",
        "--batch",
        "4",
    ]
    command += ["--num", "20", "--show", "1", "--device", "cpu", "--out", str(tmp_path / "run")]
    for name, value in [*TINY, ("online_num", "20")]:
        command += ["--set", f"{name}={value}"]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    for count in reads.values():
        assert count == dict.fromkeys((str(file) for place in files for file in place.rglob("*.png")), 1)


@pytest.mark.slow
def test_a_run_of_a_config_reads_its_data_once(tmp_path, reads):
    folder(tmp_path / "x", 24, (16, 16))
    config = runs.configure("flow-matching", str(tmp_path / "x"), settings=TINY, **SMALL)
    for count in reads.values():
        count.clear()
    runs.train(config, tmp_path / "run")
    for count in reads.values():
        assert len(count) == 24 and set(count.values()) == {1}
    runs.train(None, tmp_path / "run", resume=True)
    assert set(reads["decode"].values()) == {2}


@pytest.mark.slow
def test_training_on_a_folder_from_the_command_line(tmp_path):
    spoiled(tmp_path / "faces")
    out = tmp_path / "run"
    command = [
        "train",
        "flow-matching",
        "--data",
        str(tmp_path / "faces"),
        "--size",
        "16",
        "--square",
        "resize",
        "--flip",
    ]
    command += ["--steps", "3", "--batch", "4", "--no-eval", "--out", str(out)]
    for name, value in [*TINY, ("online_share", "0")]:
        command += ["--set", f"{name}={value}"]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0 and (out / "ema.safetensors").exists()
    said = " ".join(done.output.split())
    assert "6 of 29 images are left out" in said and "squeezed into squares and resized to 16 × 16" in said
    assert "images are mirrored" in said and "only 23 images" in said
    config = json.loads((out / "config.json").read_text())["config"]["data"]
    assert (config["size"], config["square"], config["flip"]) == (16, "resize", True)
    run = runs.load_run(out)
    assert run.dataset().shape == (3, 16, 16) and run.dataset().preprocessing.square == "resize"
    again = CliRunner().invoke(app, ["train", "--resume", "--out", str(out), "--size", "8"])
    assert again.exit_code != 0 and "data.size is 16, not 8" in " ".join(again.output.split())


def test_points_are_not_mirrored(tmp_path):
    config = runs.configure("flow-matching", "two-moons", flip=True, steps=2)
    with pytest.raises(ValueError, match=r"mirrors images.*two-moons holds points"):
        runs.train(config, tmp_path / "run")


def test_comparisons_see_the_images_as_their_settings_say(tmp_path):
    from flowleap.studies import Request

    folder(tmp_path)
    request = Request(
        ("flow-matching",), str(tmp_path), settings=(("size", "16"), ("square", "resize"), ("lr", "1e-3"))
    )
    assert request.dataset().shape == (3, 16, 16) and request.dataset().preprocessing.square == "resize"
    config = runs.configure("flow-matching", request.dataset(), settings=request.settings, steps=5)
    assert (config.data.size, config.data.square) == (16, "resize")


def test_statistics_and_references_of_a_folder_of_several_sizes(tmp_path):
    from flowleap.evaluation import statistics_file
    from flowleap.evaluation.evaluator import preprocessing_like

    folder(tmp_path / "x", 60)
    out = tmp_path / "s.npz"
    command = ["data", "stats", str(tmp_path / "x"), "--size", "4", "--out", str(out)]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0 and "resized to 4 × 4" in " ".join(done.output.split())
    made = statistics_file.read(out)
    x = data.load(tmp_path / "x", preprocessing=Preprocessing(size=4)).x.flatten(1).double()
    assert torch.allclose(made.statistics.mean, x.mean(0)) and made.about["shape"] == [3, 4, 4]
    preprocessing = preprocessing_like((3, 8, 8), str(tmp_path / "x"), "resize")
    assert (
        preprocessing == Preprocessing(square="resize", size=8)
        and preprocessing_like((3, 8, 8), "digits", None) is None
    )


def test_rows_of_8_bits_look_like_a_tensor():
    levels = torch.arange(24, dtype=torch.uint8).view(6, 1, 2, 2)
    rows = Rows(levels.__getitem__, 6, (1, 2, 2))
    assert torch.equal(rows[:], scaled(levels)) and torch.equal(
        rows.only(torch.tensor([4, 1]))[:], scaled(levels[[4, 1]])
    )
    mask = torch.tensor([True, False, False, True, False, False])
    assert torch.equal(rows[mask], scaled(levels[mask]))


READING = """
import json, sys
from pathlib import Path
from flowleap import data
from flowleap.data import Preprocessing
from flowleap import methods
from flowleap.training.loop import Reads
dataset = data.load(sys.argv[1], preprocessing=Preprocessing(memory=0.0))
dataset.checksum
reads = Reads(None, len(dataset), methods.get("flow_matching"), 50, 0)
with data.reading_ahead(dataset, reads, 12, 1) as reading:
    for step in range(10):
        reading.take(reads.rows(step), step, 0)
peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]  # in KiB
print(json.dumps([len(dataset), int(peak) / 1024]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_memory_does_not_grow_with_the_number_of_files(tmp_path):
    """2,600 files (links to a few, which the reader cannot know) against 600; as 8 bits the rest takes 98 MB."""
    peaks = {}
    for count in (600, 2_600):
        root = folder(tmp_path / str(count), 100, (128, 128), classes=0)
        for index in range(100, count):
            os.link(root / f"{index % 100:03d}.png", root / f"more{index:06d}.png")
        done = subprocess.run(
            [sys.executable, "-c", READING, str(root)],
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        found, peaks[count] = json.loads(done.stdout.splitlines()[-1])
        assert found == count
    assert peaks[2_600] - peaks[600] < 30
