"""Latents: encoded once, sampled anew in each step, decoded wherever one looks at them."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor
from typer.testing import CliRunner

from flowleap import autoencoders, data, evaluation, networks, runs
from flowleap.autoencoders import encoding, model
from flowleap.cli import app
from flowleap.data import latents
from flowleap.data.codec import Codec
from flowleap.data.latent_cache import Cache, Contents, is_cache
from flowleap.data.shards import ShardError
from flowleap.lock import locked
from flowleap.progress import shown_by
from flowleap.randomness import RowGenerator
from flowleap.runs import PRESETS
from forked import forked, needs_processes

diffusers = pytest.importorskip("diffusers")

ROWS, HELD, SIDE, CLASSES = 45, 20, 8, 3
TINY = [("network.width", "16"), ("network.depth", "1"), ("network.heads", "2")]
FEW: dict[str, Any] = {"batch": 12, "eval_num": 0, "sample_every": 0, "online_share": 0.0, "device": "cpu"}


def call(*words: object) -> tuple[int, str, str]:
    result = CliRunner(env={"COLUMNS": None}).invoke(app, [str(word) for word in words])
    return result.exit_code, result.stdout, result.stderr


def ok(*words: object) -> str:
    code, out, err = call(*words)
    assert code == 0, err
    return out


def refused(*words: object) -> str:
    code, out, err = call(*words)
    assert (code, out) == (2, ""), (code, out, err)
    return [line for line in err.splitlines() if line.startswith("error: ")][-1]


def kl(channels: int = 3, **config: Any) -> Any:
    """A small autoencoder with a posterior, of random weights."""
    return diffusers.AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        **config,
    )


@pytest.fixture(scope="module")
def vaes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of autoencoders: with a posterior, without one, and with other weights."""
    place, made = tmp_path_factory.mktemp("vaes"), {}
    for seed, (name, build) in enumerate(
        {
            "kl": lambda: kl(shift_factor=0.25),
            "tiny": lambda: diffusers.AutoencoderTiny(
                encoder_block_out_channels=(8, 8),
                decoder_block_out_channels=(8, 8),
                num_encoder_blocks=(1, 1),
                num_decoder_blocks=(1, 1),
            ),
            "other": lambda: kl(shift_factor=0.25),
        }.items()
    ):
        torch.manual_seed(seed)
        build().save_pretrained(place / name)
        made[name] = place / name
    return made


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz of colored images in two parts, with labels."""
    path, g = tmp_path_factory.mktemp("images") / "colors.npz", numpy.random.default_rng(0)
    parts = {
        f"{part}_x": g.integers(0, 256, (n, SIDE, SIDE, 3), dtype=numpy.uint8)
        for part, n in (("train", ROWS), ("test", HELD))
    }
    parts |= {f"{part}_y": numpy.arange(n) % CLASSES for part, n in (("train", ROWS), ("test", HELD))}
    numpy.savez(path, **parts)
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, vaes: dict[str, Path], images: Path) -> Path:
    """A whole cache of these, made by the command line."""
    out = tmp_path_factory.mktemp("caches") / "colors"
    told = ok(
        "data", "encode", images, "--vae", vaes["kl"], "--out", out, "--per-file", 16, "--per-device", 5
    )
    assert f"{out}: 5 of 5 files are whole, 65 images" in told and f"flowleap train --data {out}" in told
    return out


def parts(images: Path) -> dict[str, data.Dataset]:
    return {part: data.open_images(images, part) for part in ("train", "test")}


def begun(place: Path, vae: Path, images: Path, **options: Any) -> tuple[Cache, dict[str, Any]]:
    """A cache that is begun, and what `encode` takes to fill it."""
    found = autoencoders.load(vae)
    sums = {part: data.load(images, split=part).checksum for part in ("train", "test")}
    options = {"shard": 16, "images": sums, **options}
    made = autoencoders.planned(parts(images), found, source=str(images), **options)
    return Cache.begin(place, made), {"sources": parts(images), "autoencoder": found, "batch": 5}


def bytes_of(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(place.iterdir())}


def pixels(images: Path, part: str = "train") -> Tensor:
    return torch.cat(list(data.open_images(images, part).batches(100)))


# ---------------------------------------------------------------- what is kept


def own_moments(vae: Path, x: Tensor) -> Tensor:
    module = diffusers.AutoencoderKL.from_pretrained(vae).eval()
    with torch.no_grad():
        posterior = module.encode(x).latent_dist
    return torch.cat([posterior.mean, posterior.std.square().log()], dim=1)


@pytest.mark.slow
def test_moments_are_those_of_the_autoencoder(cache, vaes, images):
    """Of plain and mirrored images, for every row of both parts, to rounding."""
    for part in ("train", "test"):
        dataset, x = latents.load(cache, part), pixels(images, part)
        every = torch.arange(len(x))
        for mirrored in (False, True):
            found = dataset.draws.stored(every, torch.full((len(x),), mirrored))
            torch.testing.assert_close(
                found, own_moments(vaes["kl"], x.flip(-1) if mirrored else x), rtol=1e-4, atol=1e-5
            )


@pytest.mark.slow
def test_an_autoencoder_without_a_posterior_keeps_its_latents(tmp_path, vaes, images):
    out = tmp_path / "cache"
    code, _, err = call("data", "encode", images, "--vae", vaes["tiny"], "--out", out, "--no-flip")
    assert code == 0 and "this autoencoder has no posterior" in err
    dataset, x = data.load(out), pixels(images)
    module = diffusers.AutoencoderTiny.from_pretrained(vaes["tiny"]).eval()
    with torch.no_grad():
        torch.testing.assert_close(dataset.x[:], module.encode(x).latents, rtol=1e-4, atol=1e-5)
    rows = torch.tensor([3, 3, 40])
    assert torch.equal(dataset.take(rows, 0, 0), dataset.x[rows])
    assert set(json.loads((out / "latents.json").read_text())["arrays"]) == {"latents", "label"}


@pytest.mark.slow
def test_the_index_says_how_latents_were_made(cache, vaes, images):
    content = json.loads((cache / "latents.json").read_text())
    made = content["contents"]
    assert made["codec"] == {
        "vae": str(vaes["kl"]),
        "kind": "AutoencoderKL",
        "checksum": autoencoders.load(vaes["kl"]).checksum,
        "scaling": 0.18215,
        "shift": 0.25,
        "channels": None,
    }
    assert (made["source"], made["parts"]) == (str(images), {"train": ROWS, "test": HELD})
    assert (made["image"], made["shape"]) == ([3, SIDE, SIDE], [4, SIDE // 2, SIDE // 2])
    assert made["classes"] == ["0", "1", "2"] and made["posterior"] and made["flipped"]
    assert set(content["arrays"]) == {"moments", "flipped_moments", "label"}
    assert "mean and log-variance" in content["arrays"]["moments"]
    assert len(content["checksums"]) == 5


def test_the_checksum_is_of_the_weights_not_of_their_file(tmp_path, vaes):
    module = diffusers.AutoencoderKL.from_pretrained(vaes["kl"])
    module.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    sums = {name: autoencoders.load(path).checksum for name, path in vaes.items()}
    assert autoencoders.load(tmp_path / "pickled").checksum == sums["kl"]
    assert len(set(sums.values())) == 3


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 1e-3), ("bfloat16", 8e-3)])
def test_numbers_may_be_kept_in_half_the_bytes(tmp_path, cache, vaes, images, dtype, tolerance):
    made, options = begun(tmp_path / "half", vaes["kl"], images, dtype=dtype)
    assert autoencoders.encode(made, **options)
    exact, rows = latents.load(cache), torch.arange(ROWS)
    half = latents.load(tmp_path / "half").draws.stored(rows)
    whole = exact.draws.stored(rows)
    assert 0 < float((half - whole).abs().max()) < tolerance * float(whole.abs().max())


# ---------------------------------------------------------------- resuming, processes


def test_a_resumed_cache_is_that_of_an_uninterrupted_encode(tmp_path, cache, vaes, images):
    """Bit by bit; whole shards are neither computed nor written again."""
    made, options = begun(tmp_path / "cache", vaes["kl"], images)
    left = iter([False] * 8)
    with pytest.raises(encoding.Stopped):
        autoencoders.encode(made, **options, interrupted=lambda: next(left, True))
    there = {path: path.stat().st_mtime_ns for path in made.folder.glob("*.safetensors")}
    assert len(there) == 2 and not made.whole and not list(made.folder.glob(".*"))
    with pytest.raises(ShardError, match=r"is not whole: 2 of 5 shards .* Finish it with"):
        data.load(made.folder)

    seen = []

    @contextmanager
    def shown(text, total):
        seen.append(total)
        yield seen.append

    with shown_by(shown):
        assert autoencoders.encode(Cache.read(made.folder), **options)
    assert seen[0] == sum(seen[1:]) == ROWS + HELD - 32
    assert all(path.stat().st_mtime_ns == before for path, before in there.items())
    assert bytes_of(made.folder) == bytes_of(cache)


def test_processes_that_know_nothing_of_one_another_fill_one_cache(tmp_path, cache, vaes, images):
    made, options = begun(tmp_path / "cache", vaes["kl"], images)
    assert not autoencoders.encode(made, **options, process=1, processes=2)
    assert len(made.missing()) == 3
    assert autoencoders.encode(made, **options, process=0, processes=2)
    assert bytes_of(made.folder) == bytes_of(cache)


@needs_processes
def test_two_processes_give_the_cache_of_one(tmp_path, cache, vaes, images, capfd):
    """With gloo; a third process would find every third file to do."""
    out = tmp_path / "cache"
    command = [
        "data",
        "encode",
        images,
        "--vae",
        vaes["kl"],
        "--out",
        out,
        "--per-file",
        16,
        "--per-device",
        5,
    ]
    forked(app, [*map(str, command), "--device", "cpu"])
    assert capfd.readouterr().out.count("5 of 5 files are whole") >= 1
    assert bytes_of(out) == bytes_of(cache)


@pytest.mark.slow
def test_the_same_command_again_looks_through_what_is_there(tmp_path, cache, vaes, images):
    place = shutil.copytree(cache, tmp_path / "cache")
    command = (
        "data",
        "encode",
        images,
        "--vae",
        vaes["kl"],
        "--out",
        place,
        "--per-file",
        16,
        "--per-device",
        5,
    )
    assert "5 of 5 files are whole, 65 images" in (told := ok(*command)) and "nothing was missing" in told
    spoilt = place / "train-00001.safetensors"
    content = bytearray(spoilt.read_bytes())
    content[-1] ^= 1
    spoilt.write_bytes(bytes(content))
    assert "train-00001.safetensors has changed" in refused(*command)
    spoilt.unlink()
    ok(*command)
    assert bytes_of(place) == bytes_of(cache)


# ---------------------------------------------------------------- what is refused


@pytest.mark.slow
def test_another_autoencoder_or_scaling_is_not_mixed_in(tmp_path, cache, vaes, images):
    place = shutil.copytree(cache, tmp_path / "cache")
    command = ["data", "encode", images, "--out", place, "--per-file", 16, "--per-device", 5, "--vae"]
    error = refused(*command, vaes["other"])
    assert "holds other latents" in error and "checksum is" in error and "--overwrite" in error
    error = refused(*command, vaes["kl"], "--scaling", 0.18125)
    assert "scaling is 0.18215, not 0.18125" in error
    before = data.load(place)
    with locked(place):  # by another encode
        for others in (
            (vaes["kl"],),
            (vaes["kl"], "--scaling", 0.18125, "--overwrite"),
            (vaes["other"], "--overwrite"),
        ):
            assert "cache is being written by process" in refused(*command, *others)
    assert not list(tmp_path.glob("*.old-*"))
    ok(*command, vaes["kl"], "--scaling", 0.18125, "--overwrite")  # only noted: every shard stays
    after = data.load(place)
    ratio = 0.18125 / 0.18215
    torch.testing.assert_close(after.x[:], before.x[:] * ratio)
    assert after.checksum != before.checksum and after.codec.scaling == 0.18125
    assert (place / "train-00000.safetensors").read_bytes() == (
        cache / "train-00000.safetensors"
    ).read_bytes()
    ok(*command, vaes["other"], "--overwrite")  # moved aside, never lost
    assert is_cache(place.with_name("cache.old-1"))
    assert data.load(place).codec.checksum != before.codec.checksum


def pictures(place: Path, seed: int) -> Path:
    """A folder of twelve colored images."""
    place.mkdir()
    g = numpy.random.default_rng(seed)
    for index in range(12):
        pixels = g.integers(0, 256, (SIDE, SIDE, 3), dtype=numpy.uint8)
        Image.fromarray(pixels).save(place / f"{index:02d}.png")
    return place


@pytest.mark.slow
def test_latents_of_other_images_are_not_mixed_in(tmp_path, vaes):
    first, second = pictures(tmp_path / "first", 0), pictures(tmp_path / "second", 1)
    out = tmp_path / "cache"
    command = ["--vae", vaes["kl"], "--out", out, "--per-file", 4, "--per-device", 4]
    ok("data", "encode", first, *command)
    before = data.load(out).draws.stored(torch.arange(12))
    assert "images is" in refused("data", "encode", second, *command)
    (out / "all-00002.safetensors").unlink()
    (first / "00.png").rename(first / "zz.png")
    assert "images is" in refused("data", "encode", first, *command)  # rows have other numbers now
    ok("data", "encode", second, *command, "--overwrite")
    after = data.load(out).draws.stored(torch.arange(12))
    assert is_cache(tmp_path / "cache.old-1")
    assert bool(((after - before).flatten(1).abs().max(1).values > 1e-3).all())


def test_a_damaged_image_stops_a_strict_encode(tmp_path, vaes):
    place = pictures(tmp_path / "images", 0)
    whole = bytearray((place / "03.png").read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 9] = b"\0" * 9
    (place / "03.png").write_bytes(whole)
    command = ["data", "encode", place, "--vae", vaes["kl"], "--out"]
    assert "03.png" in refused(*command, tmp_path / "strict", "--strict")
    code, _, said = call(*command, tmp_path / "lenient")
    assert code == 0 and "another image takes its place" in said


def test_mirrored_latents_are_a_choice(tmp_path, cache, vaes, images):
    found, rows = data.load(cache), torch.arange(ROWS)
    never, usual = found.turned(False), found.turned(None)
    assert usual.mirrors and found.turned(True).mirrors and not never.mirrors
    plain = never.draws.cache.contents.codec.scaled
    noise = RowGenerator(7, "latents/posterior", 3, total=ROWS).normal(*found.shape)
    torch.testing.assert_close(never.take(rows, 3, 7), plain(latents.drawn(found.draws.stored(rows), noise)))
    assert not torch.equal(usual.take(rows, 3, 7), never.take(rows, 3, 7))
    ok("data", "encode", images, "--vae", vaes["tiny"], "--out", tmp_path / "plain", "--no-flip")
    with pytest.raises(ValueError, match="encode it again without --no-flip"):
        data.load(tmp_path / "plain").turned(True)
    assert not data.load(tmp_path / "plain").mirrors


def test_a_folder_of_something_else_is_left_alone(tmp_path, vaes, images):
    (tmp_path / "notes.txt").write_text("mine")
    error = refused("data", "encode", images, "--vae", vaes["kl"], "--out", tmp_path, "--overwrite")
    assert "holds no latents: name a new or an empty folder" in error
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_cache_that_is_cut_short_is_refused(tmp_path, cache):
    for name, spoil, reason in (
        ("train-00002.safetensors", lambda path: path.unlink(), "is missing"),
        ("train-00001.safetensors", lambda path: path.write_bytes(path.read_bytes()[:900]), "truncated"),
        (
            "train-00001.safetensors",
            lambda path: shutil.copy(path.with_name("train-00000.safetensors"), path),
            "holds other latents",
        ),
        ("latents.json", lambda path: path.write_text(path.read_text()[:200]), "truncated"),
    ):
        place = shutil.copytree(cache, tmp_path / "cache")
        spoil(place / name)
        with pytest.raises(ShardError, match=reason):
            data.load(place)
        shutil.rmtree(place)


@pytest.mark.parametrize(
    ("values", "reason"),
    [(float("nan"), r"image 18 of train are not finite: compute"), (7e4, "keep them as float32")],
)
def test_numbers_that_are_not_finite_are_refused(tmp_path, values, reason):
    made = Cache.begin(tmp_path / "cache", contents(20, dtype="float16"))
    shard = made.contents.shards()[1]
    arrays = {"moments": torch.zeros(len(shard.rows), 8, 2, 2)}
    arrays["moments"][2, 0] = values
    with pytest.raises(ShardError, match=reason):
        made.write(shard, arrays, None)
    assert not made.path(shard).exists()


@pytest.mark.slow
def test_images_that_do_not_fit_the_autoencoder(tmp_path, vaes):
    odd, grey = tmp_path / "odd.npz", tmp_path / "grey.npz"
    numpy.savez(odd, images=numpy.zeros((4, 9, 9, 3), dtype=numpy.uint8))
    numpy.savez(grey, images=numpy.zeros((4, 8, 8, 3), dtype=numpy.uint8))
    error = refused("data", "encode", odd, "--vae", vaes["kl"], "--out", tmp_path / "cache")
    assert "images of 9 × 9 do not fit" in error and "multiples of 2; resize them, as to 8 × 8" in error
    torch.manual_seed(0)
    kl(channels=1).save_pretrained(tmp_path / "one")
    error = refused("data", "encode", grey, "--vae", tmp_path / "one", "--out", tmp_path / "cache")
    assert "takes images of 1 channel, and these are of shape 3 × 8 × 8" in error
    error = refused("data", "encode", "two-moons", "--vae", vaes["kl"], "--out", tmp_path / "cache")
    assert "holds points" in error
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_what_is_no_autoencoder(tmp_path, monkeypatch, vaes):
    for text, reason in (
        (tmp_path, "holds no autoencoder"),
        (tmp_path / "nowhere", "there is no such folder"),
        ("a/b/c/d", "no id of the Hugging Face hub"),
    ):
        with pytest.raises(ValueError, match=reason):
            autoencoders.load(text)
    diffusers.UNet2DModel(
        block_out_channels=(8, 8), down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
    ).save_pretrained(tmp_path / "unet")  # fmt: skip
    with pytest.raises(ValueError, match="is a UNet2DModel of diffusers, and AutoencoderKL or"):
        autoencoders.load(tmp_path / "unet")
    shutil.copytree(vaes["kl"], tmp_path / "pipeline" / "vae")
    assert autoencoders.load(tmp_path / "pipeline").checksum == autoencoders.load(vaes["kl"]).checksum
    (tmp_path / "pipeline" / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"{}")
    with pytest.raises(OSError, match="its autoencoder cannot be read"):
        autoencoders.load(tmp_path / "pipeline")

    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to the hub")

    monkeypatch.setattr(diffusers.AutoencoderKL, "load_config", offline)
    with pytest.raises(OSError, match=r"the Hugging Face hub did not provide it \(no route to the hub\)"):
        autoencoders.load("stabilityai/sd-vae-ft-ema")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match=r"pip install 'flowleap\[latents\]'"):
        autoencoders.load("stabilityai/sd-vae-ft-ema")


def test_the_place_of_an_id_of_the_hub():
    assert model._place("stabilityai/sd-vae-ft-ema") == ("stabilityai/sd-vae-ft-ema", {})
    assert model._place("runwayml/stable:vae") == ("runwayml/stable", {"subfolder": "vae"})


# ---------------------------------------------------------------- training on it


def contents(rows: int, **changes: Any) -> Contents:
    made: dict[str, Any] = {
        "codec": Codec("none", "AutoencoderKL", "0" * 64, scaling=0.5, shift=1.0),
        "name": "made up",
        "source": "nowhere",
        "parts": {"train": rows},
        "image": (3, 4, 4),
        "shape": (4, 2, 2),
        "classes": None,
        "labels": {},
        "posterior": True,
        "flipped": False,
        "shard": 16,
    }
    return Contents(**(made | changes))


def made_up(place: Path, contents: Contents, seed: int = 0) -> latents.Latents:
    """A cache of random moments."""
    g, made = torch.Generator().manual_seed(seed), Cache.begin(place, contents)
    for shard in contents.shards():
        shape = (len(shard.rows), *contents.stored)
        made.write(shard, {name: torch.randn(shape, generator=g) for name in contents.arrays}, None)
    assert made.finish()
    return latents.load(place)


@pytest.mark.slow
def test_each_step_samples_the_posterior_anew(tmp_path):
    """Over many steps, mean and variance of every value of a row are those of its posterior, scaled and shifted."""
    dataset = made_up(tmp_path / "cache", contents(20))
    rows, steps = torch.tensor([3, 17]), 4000
    seen = torch.stack([dataset.take(rows, step, 0) for step in range(steps)]).double()
    mean, log_variance = dataset.draws.stored(rows).double().chunk(2, dim=1)
    variance = log_variance.exp()
    expected = (mean - 1.0) * 0.5
    error = (variance / steps).sqrt() * 0.5
    assert float(((seen.mean(0) - expected) / error).abs().max()) < 4.5
    ratio = seen.var(0) / (0.25 * variance)
    assert float((ratio - 1).abs().max()) < 4.5 * (2 / steps) ** 0.5
    again = dataset.take(rows, 7, 0)
    assert torch.equal(again, dataset.take(rows, 7, 0))
    assert not torch.equal(again, dataset.take(rows, 8, 0)) and not torch.equal(
        again, dataset.take(rows, 7, 1)
    )


def test_half_of_the_looks_are_mirrored(tmp_path):
    narrow = contents(20, flipped=True, posterior=False)
    dataset = made_up(tmp_path / "cache", narrow)
    rows = torch.arange(20)
    plain, mirrored = (
        dataset.codec.scaled(dataset.draws.stored(rows, torch.full((20,), side))) for side in (False, True)
    )
    looks = torch.stack([dataset.take(rows, step, 0) for step in range(400)])
    is_plain, is_mirrored = ((looks == side).flatten(2).all(-1).float() for side in (plain, mirrored))
    assert bool((is_plain + is_mirrored == 1).all())
    assert float((is_mirrored.mean(0) - 0.5).abs().max()) < 4.5 * 0.5 / 400**0.5
    assert abs(float(is_mirrored.mean()) - 0.5) < 4.5 * 0.5 / 8000**0.5
    assert torch.equal(replace(dataset, mirrored=False).take(rows, 3, 0), plain)


def test_neither_processes_nor_the_split_of_a_batch_change_anything(cache):
    dataset = data.load(cache)
    rows = torch.tensor([44, 0, 17, 17, 31, 5, 16, 15])
    whole = dataset.take(rows, 3, 5)
    for pieces in (2, 4, 8):
        here = torch.arange(8).view(pieces, -1)
        assert torch.equal(torch.cat([dataset.take(rows, 3, 5, part) for part in here]), whole)
    backwards = torch.arange(7, -1, -1)
    assert torch.equal(dataset.take(rows, 3, 5, backwards), whole[backwards])
    assert not torch.equal(whole[2], whole[3])  # a row that is there twice is drawn twice


def test_rows_are_indexed_like_a_tensor(cache):
    dataset = data.load(cache)
    x, every = dataset.x, dataset.x[:]
    assert not isinstance(x, Tensor) and isinstance(every, Tensor)
    assert (len(x), x.shape, x.dtype) == (ROWS, (ROWS, 4, 4, 4), torch.float32)
    rows = torch.tensor([40, 3, 3])
    for index in (rows, slice(5, 30, 2), slice(-4, None), rows.tolist(), torch.arange(ROWS) % 2 == 0, 7, -1):
        assert torch.equal(x[index], every[index]), index
    assert torch.equal(torch.cat(list(x.split(7))), every)
    mean, log_variance = dataset.draws.stored(torch.arange(ROWS)).chunk(2, dim=1)
    normal = (dataset.codec.unscaled(every) - mean) / (0.5 * log_variance).exp()
    assert abs(float(normal.mean())) < 0.1 and abs(float(normal.std()) - 1) < 0.1


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_cache_takes_the_memory_of_a_batch(tmp_path):
    """Going through 32 MB, batch after batch, adds less than 6 MB of memory of its own."""

    def held() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))

    dataset = made_up(tmp_path / "cache", contents(4000, shape=(4, 16, 16), shard=500))
    size = sum(path.stat().st_size for path in (tmp_path / "cache").iterdir())
    dataset.take(torch.arange(32), 0, 0)
    before, most = held(), 0.0
    for step, rows in enumerate(torch.randperm(4000).split(32)):
        dataset.take(rows, step, 0)
        most = max(most, held() - before)
    assert size > 32e6 and most < 6, (size, most)


def test_labels_classes_and_parts(cache, images):
    dataset = data.load(cache)
    assert (dataset.name, dataset.kind, dataset.split, dataset.held_out) == (
        "colors",
        "latents",
        "train",
        "test",
    )
    assert dataset.num_classes == CLASSES and torch.equal(dataset.label, torch.arange(ROWS) % CLASSES)
    assert dataset.shape == (4, 4, 4) and dataset.source == str(images)
    apart = data.held_out(dataset)
    assert apart is not None and (len(apart), apart.split, apart.held_out, apart.num_classes) == (
        HELD,
        "test",
        None,
        CLASSES,
    )
    assert apart.checksum != dataset.checksum
    with pytest.raises(ValueError, match="has no split 'val': choose train or test"):
        data.load(cache, split="val")
    with pytest.raises(ValueError, match="have changed"):
        data.load(cache, checksum="0" * 12)


def test_a_transformer_of_latents_has_patches_of_two(tmp_path):
    dataset = made_up(tmp_path / "cache", contents(4, shape=(4, 32, 32), image=(3, 256, 256)))
    config = runs.configure("meanflow", dataset, settings=[("network.width", "96"), ("network.depth", "1")])
    assert (config.network["image"], config.network["patch"]) == ([4, 32, 32], 2)
    assert config.data.batch == PRESETS["latents"]["batch"] and config.optimizer.lr == 1e-4
    assert config.network["heads"] == 6  # dit-small


def train(place: Path, cache: Path, **changes: Any) -> Path:
    config = runs.configure("meanflow", str(cache), settings=TINY, **{**FEW, "steps": 6, **changes})
    return runs.train(config, place, console=Console(quiet=True)).folder


@pytest.mark.slow
def test_a_run_on_latents_resumes_exactly(tmp_path, cache):
    """Three steps, and three more, are six; the config knows the autoencoder; a cache scaled otherwise is refused."""
    place = shutil.copytree(cache, tmp_path / "cache")
    whole = train(tmp_path / "whole", place)
    parted = train(tmp_path / "parted", place, checkpoint_every=3)
    for name in ("network.safetensors", "ema.safetensors"):
        assert (whole / name).read_bytes() == (parted / name).read_bytes()
        (parted / name).unlink()
    shutil.rmtree(parted / "checkpoints" / "step-00000006")
    (parted / "checkpoints" / "latest").write_text("step-00000003\n")
    runs.train(None, parted, resume=True, console=Console(quiet=True))
    for name in ("network.safetensors", "ema.safetensors"):
        assert (whole / name).read_bytes() == (parted / name).read_bytes()

    known = json.loads((whole / "config.json").read_text())["dataset"]
    assert (known["kind"], known["shape"], known["rows"]) == ("latents", [4, 4, 4], ROWS)
    assert Codec(**known["codec"]) == data.load(place).codec == runs.load_run(whole).codec
    index = json.loads((place / "latents.json").read_text())
    index["contents"]["codec"]["scaling"] = 0.3
    (place / "latents.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="have changed: their checksum"):
        runs.train(None, parted, resume=True, console=Console(quiet=True))


# ---------------------------------------------------------------- decoding


def test_the_decoder_inverts_scale_and_shift(vaes):
    codec = Codec(str(vaes["kl"]), scaling=0.5, shift=2.0)
    z = 3 * torch.randn(5, 4, 4, 4)
    z[3, 0, 0, 0] = torch.inf
    decode = replace(autoencoders.decoder(codec), batch=2)
    made = decode(z)
    module = diffusers.AutoencoderKL.from_pretrained(vaes["kl"]).eval()
    with torch.no_grad():
        own = module.decode(z / 0.5 + 2.0).sample
    fine = torch.tensor([0, 1, 2, 4])
    torch.testing.assert_close(made[fine], own[fine].clamp(-1, 1), rtol=1e-4, atol=1e-5)
    assert bool(made[3].isnan().all()) and made.shape == (5, *decode.shape((4, 4, 4))) == (5, 3, 8, 8)
    grey = autoencoders.decoder(replace(codec, channels=1))
    torch.testing.assert_close(
        grey(z[fine]), own[fine].mean(1, keepdim=True).clamp(-1, 1), rtol=1e-4, atol=1e-5
    )
    assert grey.shape((4, 4, 4)) == (1, 8, 8)


def test_an_autoencoder_with_other_weights_decodes_only_where_it_is_named(tmp_path, vaes):
    place = shutil.copytree(vaes["kl"], tmp_path / "vae")
    codec = autoencoders.load(place).codec()
    assert autoencoders.decoder_or_none(codec) is not None
    moved = replace(codec, vae=str(vaes["other"]))
    with pytest.raises(ValueError, match=r"are not those that the latents were made by.*--vae"):
        autoencoders.decoder(moved)
    with pytest.warns(UserWarning, match="latents are not decoded: the weights of"):
        assert autoencoders.decoder_or_none(moved) is None
    with pytest.warns(UserWarning, match="are not those that the latents were made by"):
        assert autoencoders.decoder(codec, vaes["other"]).autoencoder.name == str(vaes["other"])
    assert autoencoders.decoder_or_none(Codec("owner/name", scaling=0.2)) is None  # known by name only


@pytest.mark.slow
def test_from_images_to_images_through_the_command_line(tmp_path, images, cache, vaes, with_pictures):
    """Encode, train 20 steps, sample, decode, measure, report."""
    run = tmp_path / "run"
    small = [word for name, value in TINY for word in ("--set", f"{name}={value}")]
    few = ["--steps", 20, "--batch", 12, "--log-every", 10, "--sample-every", 10, "--num", 120]
    out = ok("train", "meanflow", "--data", cache, "--out", run, *few, *small, "--device", "cpu")
    assert "FD-latent" in out and (run / "samples" / "step-000010.png").exists()
    assert (run / "grid.png").exists()

    told = ok("sample", run, "--num", 9, "--out", tmp_path / "images.npz")
    assert "9 samples" in told and f"decoded by {vaes['kl']} from latents / 0.18215 + 0.25" in told
    told = ok("sample", run, "--num", 9, "--latents")
    assert "9 latents" in told and (run / "samples.npz").exists()
    with numpy.load(run / "samples.npz") as file, numpy.load(tmp_path / "images.npz") as decoded:
        made = autoencoders.decoder(runs.load_run(run).codec)(torch.from_numpy(file["latents"]))
        assert decoded["images"].shape == (9, 3, SIDE, SIDE)
        numpy.testing.assert_allclose(decoded["images"], made.numpy(), atol=1e-5)
    ok("sample", run, "--num", 9)
    assert (run / "samples.png").exists()

    ask = ("evaluate", run, "--num", 250, "--steps", "1", "--json")
    [row] = json.loads(ok(*ask, "--features", "latent2"))
    assert (
        row["metric"] == "FD-latent2"
        and "colors/test:20" in row["protocol"]
        and "vae=" not in row["protocol"]
    )
    ok("report", run)
    page = (run / "report.html").read_text()
    assert "no pictures" not in page and "no samples" not in page


@pytest.mark.slow
def test_decoded_samples_are_measured_beside_the_images(tmp_path, vaes):
    """By default those that the latents were made from; where they are gone, the latents themselves."""
    out, run, path = tmp_path / "cache", tmp_path / "run", tmp_path / "grey.npz"
    levels = numpy.random.default_rng(1).integers(0, 256, (90, 4, 4), dtype=numpy.uint8)
    numpy.savez(path, images=levels, label=numpy.arange(90) % 2)
    ok("data", "encode", path, "--vae", vaes["kl"], "--out", out, "--scaling", 0.18125)
    train(run, out, steps=2)
    ask = ("evaluate", run, "--num", 70, "--steps", "1", "--json")
    [row] = json.loads(ok(*ask))
    assert row["metric"] == "FD-pixel" and row["reference_seen"] is True
    made = runs.load_run(run)
    assert f";vae=kl@{made.codec.checksum[:12]}" in row["protocol"]
    samples = evaluation.generate(
        made.flow, made.objective, made.shape, 70, label=evaluation.cycle(70, 2), steps=1,
        decode=autoencoders.decoder(made.codec),
    )  # fmt: skip
    assert samples.shape == (70, 1, 4, 4)  # grey again
    expected = evaluation.measure(samples, None, evaluation.evaluator_for(data.load(path)))
    assert row["distance"] == pytest.approx(expected["distance"], rel=1e-6)
    [named] = json.loads(ok(*ask, "--reference", path))
    assert named["distance"] == row["distance"]

    path.rename(tmp_path / "elsewhere.npz")
    code, told, err = call(*ask)
    assert code == 0 and "latents are measured as they are" in err
    assert json.loads(told)[0]["metric"] == "FD-latent"
    assert "cannot be read" in refused(*ask, "--features", "pixel")


@pytest.mark.slow
def test_imported_latents_are_decoded_by_a_named_autoencoder(tmp_path, vaes):
    torch.manual_seed(0)
    network = networks.DiT((4, 4, 4), classes=2, width=32, depth=1, heads=2)
    torch.save({"ema": network.state_dict(), "steps": 5}, tmp_path / "esc.pt")
    run = tmp_path / "run"
    ok("import", tmp_path / "esc.pt", "--out", run, "--heads", 2, "--layout", "esc")
    told = ok("sample", run, "--num", 4)
    assert "4 latents" in told and "sd-vae-ft-ema decodes from them / 0.18125" in told
    told = ok("sample", run, "--num", 4, "--vae", vaes["kl"], "--out", tmp_path / "made.npz")
    assert f"decoded by {vaes['kl']} from latents / 0.18125" in told
    with numpy.load(run / "samples.npz") as kept, numpy.load(tmp_path / "made.npz") as decoded:
        module = diffusers.AutoencoderKL.from_pretrained(vaes["kl"]).eval()
        with torch.no_grad():
            own = module.decode(torch.from_numpy(kept["latents"]) / 0.18125).sample.clamp(-1, 1)
        numpy.testing.assert_allclose(decoded["images"], own.numpy(), atol=1e-5)
    assert "no latents to be decoded" in refused(
        "sample", pixel_run(tmp_path), "--vae", vaes["kl"], "--out", tmp_path / "b.npz"
    )


def pixel_run(place: Path) -> Path:
    config = runs.configure("meanflow", "digits", settings=TINY, **{**FEW, "steps": 1})
    return runs.train(config, place / "pixels", console=Console(quiet=True)).folder


def test_latents_that_version_0_1_encoded_are_read(tmp_path):
    """`shards_of_0_1` was written by that version; what it would write now is the same to the last byte."""
    old = Path(__file__).parent / "shards_of_0_1" / "latents"
    dataset = data.load(old)
    assert (len(dataset), dataset.shape, dataset.held_out, dataset.classes) == (
        5,
        (2, 1, 1),
        "test",
        ("a", "b"),
    )
    assert dataset.label.tolist() == [0, 1, 0, 1, 0] and dataset.checksum == "6c25c8fcb59a"
    place, g = tmp_path / "again", torch.Generator().manual_seed(0)
    made = Cache.begin(place, Cache.read(old).contents)
    for shard in made.contents.shards():
        shape = (len(shard.rows), *made.contents.stored)
        arrays = {name: torch.randn(shape, generator=g) for name in made.contents.arrays}
        made.write(shard, arrays, torch.arange(shard.rows.start, shard.rows.stop) % 2)
    assert made.finish() and bytes_of(place) == bytes_of(old)
    shutil.copytree(old, tmp_path / "begun", ignore=lambda *_: ["train-00001.safetensors"])
    begun = Cache.read(tmp_path / "begun")
    assert [shard.name for shard in begun.missing()] == ["train-00001.safetensors"]
    begun.verify(begun.contents.shards()[0])
