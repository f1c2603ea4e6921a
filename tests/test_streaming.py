"""Images that come in one pass and are kept nowhere: the same latents as from the disk, and nothing left out unsaid."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from flowleap import data, evaluation
from flowleap.data import Preprocessing, streaming
from flowleap.data.preprocessing import ResizeCrop
from flowleap.data.streaming import open_streams
from test_folder_data import draw
from test_latents import call, kl, ok

datasets = pytest.importorskip("datasets", reason="the extra 'hub' is not installed")
pytest.importorskip("diffusers", reason="the extra 'latents' is not installed")

COUNT, SIDE = 23, 16


@pytest.fixture(autouse=True)
def _quiet(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def parquet(place, count=COUNT, split="train", files=3, labels=True, seed=0, spoil=None):
    """Parquet files of images of several sizes, grey ones among them; returns the images."""
    rng = np.random.default_rng(seed)
    images = [
        draw(rng, *rng.integers(20, 40, 2).tolist(), "L" if i % 5 == 0 else "RGB") for i in range(count)
    ]
    kinds = {"image": datasets.Image()}
    content = {"image": images}
    if labels:
        kinds["label"], content["label"] = (
            datasets.ClassLabel(names=["ant", "bee"]),
            [i % 2 for i in range(count)],
        )
    rows = datasets.Dataset.from_dict(content, features=datasets.Features(kinds))
    if spoil is not None:
        bare = rows.cast_column("image", datasets.Image(decode=False))

        def spoiled(row, index):
            return {"image": {"bytes": b"no image", "path": None}} if index == spoil else row

        rows = bare.map(spoiled, with_indices=True).cast_column("image", datasets.Image())
    place.mkdir(exist_ok=True)
    for number in range(files):
        shard = rows.shard(files, number, contiguous=True)
        shard.to_parquet(place / f"{split}-{number:05d}-of-{files:05d}.parquet")
    return images


@pytest.fixture
def vae(tmp_path):
    torch.manual_seed(0)
    kl().save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def everything(source, n=4):
    return torch.cat(list(source.x.blocks(torch.arange(len(source)), n)))


@pytest.mark.slow
def test_a_stream_gives_what_the_disk_gives(tmp_path):
    place = tmp_path / "p"
    parquet(place)
    parquet(place, 7, split="test", files=1, seed=1)
    sources, identities, notes = open_streams(f"hf:{place}", ResizeCrop("crop", SIDE))
    assert (
        notes[0] == "labels: 2 classes of 11 to 12 images: ant, bee"
        and list(sources) == ["train", "test"]
        and [len(s) for s in sources.values()] == [COUNT, 7]
    )
    assert len(set(identities.values())) == 2
    for split, source in sources.items():
        there = data.load(f"hf:{place}", split=split, preprocessing=Preprocessing("crop", SIDE))
        assert source.classes == there.classes and torch.equal(source.label, there.label)
        assert torch.equal(everything(source), there.x) and source.shape == (3, SIDE, SIDE)
    some = torch.tensor([2, 3, 11, 22])
    train = data.load(f"hf:{place}", preprocessing=Preprocessing("crop", SIDE))
    assert torch.equal(torch.cat(list(sources["train"].x.blocks(some, 3))), train.x[some])
    assert list(open_streams(f"hf:{place}", ResizeCrop("crop", SIDE), "test")[0]) == ["test"]


def test_without_labels_the_images_are_counted(tmp_path):
    place = tmp_path / "p"
    parquet(place, labels=False)
    sources, _, _ = open_streams(f"hf:{place}", ResizeCrop("crop", SIDE))
    assert (
        len(sources["train"]) == COUNT and sources["train"].label is None and sources["train"].classes == ()
    )


@pytest.mark.slow
def test_labels_that_are_hidden_or_missing_are_none_and_said(tmp_path):
    """As of the test split of ImageNet: the part that is held out is the one whose labels are shown."""
    place = tmp_path / "p"
    place.mkdir()
    for split, labels in (("train", [0, 1, 1]), ("validation", [1, 0, 1]), ("test", [-1, -1, -1])):
        content = {"image": [Image.new("RGB", (20, 20))] * 3, "label": labels}
        rows = datasets.Dataset.from_dict(content).cast_column("image", datasets.Image())
        rows.to_parquet(place / f"{split}-00000-of-00001.parquet")
    sources, _, notes = open_streams(f"hf:{place}", ResizeCrop("crop", SIDE))
    assert list(sources) == ["train", "validation"]
    assert notes == ["labels: 2 classes of 1 to 2 images: 0, 1"]
    sources, _, notes = open_streams(f"hf:{place}", ResizeCrop("crop", SIDE), "test")
    assert sources["test"].label is None and "below 0: taken as unlabeled" in notes[0]
    bare = tmp_path / "q"
    bare.mkdir()
    content = {"image": [Image.new("RGB", (20, 20))] * 2, "label": [1, None]}
    datasets.Dataset.from_dict(content).cast_column("image", datasets.Image()).to_parquet(
        bare / "train.parquet"
    )
    (source,) = open_streams(f"hf:{bare}", ResizeCrop("crop", SIDE))[0].values()
    assert source.label is None


def test_small_images_are_enlarged_and_the_view_is_called_as_before(tmp_path):
    place = tmp_path / "p"
    images = parquet(place, 4, files=1)
    (source,) = open_streams(f"hf:{place}", ResizeCrop("resize", 64))[0].values()
    wide = images[1].resize((64, 64), Image.Resampling.LANCZOS)
    assert torch.equal(
        everything(source)[1], torch.from_numpy(np.array(wide)).permute(2, 0, 1).float() / 127.5 - 1
    )
    for view in (ResizeCrop("crop", 8), ResizeCrop("crop", 8, enlarge=True)):
        assert view.stamp == "View(square='crop', size=8)"  # part of the checksums of runs of version 0.1


@pytest.mark.slow
def test_encoding_a_stream_is_encoding_the_disk(tmp_path, vae):
    """Interrupted by a missing file it goes on; another stream under the same name is not mixed in."""
    place, words = tmp_path / "p", ("--vae", vae, "--size", SIDE, "--per-file", 8, "--per-device", 3)
    parquet(place)
    ok("data", "encode", f"hf:{place}", *words, "--out", tmp_path / "disk")
    told = ok("data", "encode", f"hf:{place}", *words, "--out", tmp_path / "stream", "--stream")
    assert "train with" in told
    shards = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "stream").glob("*.safetensors")}
    assert len(shards) == 3
    (tmp_path / "stream" / "train-00001.safetensors").unlink()
    ok("data", "encode", f"hf:{place}", *words, "--out", tmp_path / "stream", "--stream")
    again = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "stream").glob("*.safetensors")}
    assert again.pop("train-00001.safetensors") > shards.pop("train-00001.safetensors") and again == shards
    disk, stream = data.load(tmp_path / "disk"), data.load(tmp_path / "stream")
    assert torch.equal(disk.x[:], stream.x[:]) and torch.equal(disk.label, stream.label)
    assert json.loads((tmp_path / "stream" / "latents.json").read_text())["contents"]["images"][
        "train"
    ].startswith("stream-")
    assert len(evaluation.originals(disk)) == COUNT
    with pytest.raises(ValueError, match="kept nowhere: name images to compare with"):
        evaluation.originals(stream)
    parquet(place, seed=3)
    code, _, err = call("data", "encode", f"hf:{place}", *words, "--out", tmp_path / "stream", "--stream")
    assert code == 2 and "images is" in err


@pytest.mark.slow
def test_what_cannot_be_streamed_is_refused(tmp_path, vae):
    place = tmp_path / "p"
    parquet(place, spoil=5)
    sources, _, _ = open_streams(f"hf:{place}", ResizeCrop("crop", SIDE))
    with pytest.raises(ValueError, match=r"image 5 of p \(train\) .* without --stream"):
        everything(sources["train"])
    with pytest.raises(ValueError, match="only hf:NAME can be streamed"):
        open_streams(str(place), ResizeCrop("crop", SIDE))
    with pytest.raises(ValueError, match="no split 'val': choose train"):
        open_streams(f"hf:{place}", ResizeCrop("crop", SIDE), "val")
    datasets.Dataset.from_dict({"a": [1]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="on the disk"):
        open_streams(f"hf:{tmp_path / 'saved'}", ResizeCrop("crop", SIDE))
    code, _, err = call("data", "encode", "digits", "--vae", vae, "--out", tmp_path / "o", "--stream")
    assert code == 2 and "only hf:NAME can be streamed" in err and not (tmp_path / "o").exists()


def test_a_stream_that_breaks_off_says_where(tmp_path, monkeypatch):
    place = tmp_path / "p"
    parquet(place)
    (source,) = open_streams(f"hf:{place}", ResizeCrop("crop", SIDE))[0].values()
    with pytest.raises(ValueError, match=r"p \(train\) ends after 23 images: more were announced"):
        list(source.x.blocks(torch.arange(COUNT + 1), 5))

    class Broken:
        def skip(self, first):
            def rows():
                raise ConnectionError("the network is gone")
                yield

            return rows()

    broken = streaming.Stream(Broken(), "image", "p (train)", ResizeCrop("crop", SIDE))
    with pytest.raises(
        ValueError, match=r"broke off at image 4 \(ConnectionError: .*give the same command again"
    ):
        list(broken.read(torch.arange(4, 6), 2))
