"""The store of pairs: exact counts, whole or resumable, and nothing foreign, spoiled or cut short is believed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowleap import files
from flowleap.data import Dataset
from flowleap.data.pairs import Origin, PairStore
from flowleap.data.shards import ShardError, checksum

OLD = Path(__file__).parent / "shards_of_0_1"
ORIGIN = Origin(
    count=25,
    shape=(2,),
    classes=3,
    teacher="ema-0.9@7",
    checksum="ab",
    steps=4,
    guidance=None,
    seed=5,
    shard=10,
)


def pairs(rows: range, labels: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
    number = torch.arange(rows.start, rows.stop)
    noise = torch.stack([number, -number], dim=1).float()
    return noise, noise * 2, number % 3 if labels else None


def fill(store: PairStore, stop: int | None = None) -> PairStore:
    for index in list(store.missing())[:stop]:
        store.add(*pairs(store.origin.shards[index].rows), seconds=1.5)
    return store


def test_a_store_holds_exactly_the_pairs_that_were_asked_for(tmp_path: Path) -> None:
    store = fill(PairStore(tmp_path / "pairs", ORIGIN))
    assert store.whole and store.done == 25 and list(store.missing()) == []
    noise, x, label = PairStore(tmp_path / "pairs", ORIGIN).load()
    wanted = pairs(range(25))
    assert torch.equal(noise, wanted[0]) and torch.equal(x, wanted[1]) and torch.equal(label, wanted[2])
    index = json.loads((tmp_path / "pairs" / "index.json").read_text())
    assert (index["count"], index["teacher"], index["seed"], index["steps"]) == (25, "ema-0.9@7", 5, 4)
    assert index["checksums"] == [checksum(store.path(number)) for number in range(3)]
    assert index["seconds"] == 4.5
    assert [len(load_file(store.path(number))["x"]) for number in range(3)] == [10, 10, 5]


@pytest.mark.parametrize("count", [1, 10, 20])
def test_shards_end_where_the_pairs_end(tmp_path: Path, count: int) -> None:
    store = fill(PairStore(tmp_path / "pairs", replace(ORIGIN, count=count)))
    assert len(store.load()[0]) == count == store.done


def test_an_interrupted_store_goes_on_and_is_the_same_to_the_last_byte(tmp_path: Path) -> None:
    whole = fill(PairStore(tmp_path / "whole", ORIGIN))
    fill(PairStore(tmp_path / "parts", ORIGIN), stop=2)
    store = PairStore(tmp_path / "parts", ORIGIN)
    assert (store.done, list(store.missing()), store.whole) == (20, [2], False)
    with pytest.raises(ShardError, match=r"truncated.*holds 20 of 25 pairs"):
        store.load()
    fill(store)
    for number in range(3):
        assert store.path(number).read_bytes() == whole.path(number).read_bytes()
    assert (store.folder / "index.json").read_bytes() == (whole.folder / "index.json").read_bytes()


def test_a_shard_that_the_index_does_not_name_is_made_again(tmp_path: Path, monkeypatch) -> None:
    store = fill(PairStore(tmp_path / "pairs", ORIGIN), stop=1)
    original = files.replace_file

    def failing(path: Path, content: object) -> None:
        if path.name == "index.json":
            raise KeyboardInterrupt
        original(path, content)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("flowleap.data.shards.replace_file", failing)
        fill(store)
    assert store.path(1).exists()
    again = PairStore(tmp_path / "pairs", ORIGIN)
    assert again.done == 10
    assert torch.equal(fill(again).load()[0], pairs(range(25))[0])
    assert [path for path in again.folder.iterdir() if path.name.startswith(".")] == []


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: shorten(folder / "pairs-00001.safetensors"), "pairs-00001.safetensors is truncated"),
        (lambda folder: (folder / "pairs-00000.safetensors").unlink(), "pairs-00000.safetensors is missing"),
        (lambda folder: shorten(folder / "index.json"), "index.json is truncated"),
        (lambda folder: (folder / "index.json").write_text("[]"), "index.json is truncated or not that of"),
    ],
)
def test_a_store_cut_short_is_refused(tmp_path: Path, spoil, message: str) -> None:
    fill(PairStore(tmp_path / "pairs", ORIGIN))
    spoil(tmp_path / "pairs")
    with pytest.raises(ShardError, match=f"{message}.*Remove the folder"):
        PairStore(tmp_path / "pairs", ORIGIN)


def test_a_shard_of_another_shape_is_refused_even_with_a_fitting_checksum(tmp_path: Path) -> None:
    store = fill(PairStore(tmp_path / "pairs", ORIGIN))
    save_file({"noise": torch.zeros(10, 3), "x": torch.zeros(10, 3)}, store.path(1))
    index = json.loads((store.folder / "index.json").read_text())
    index["checksums"][1] = checksum(store.path(1))
    (store.folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(
        ShardError, match=r"pairs-00001\.safetensors holds noise \(10, 3\).*expected label \(10,\)"
    ):
        PairStore(store.folder, ORIGIN)


@pytest.mark.parametrize(
    "change",
    [{"count": 26}, {"shape": (3,)}, {"checksum": "cd"}, {"steps": 8}, {"seed": 6}, {"guidance": 2.0}],
)
def test_other_pairs_are_refused_and_what_differs_is_named(tmp_path: Path, change: dict) -> None:
    fill(PairStore(tmp_path / "pairs", ORIGIN))
    with pytest.raises(ShardError, match=f"holds other pairs: {next(iter(change))} is"):
        PairStore(tmp_path / "pairs", replace(ORIGIN, **change))


def test_what_does_not_fit_is_not_stored(tmp_path: Path) -> None:
    store = PairStore(tmp_path / "pairs", ORIGIN)
    noise, x, label = pairs(range(10))
    for wrong in ((noise, x, None), (noise[:9], x[:9], label[:9]), (noise, x.double(), label)):
        with pytest.raises(ShardError, match=r"pairs-00000\.safetensors holds"):
            store.add(*wrong)
    with pytest.raises(ShardError, match="1 of 10 samples of the teacher are not finite"):
        store.add(noise, x.clone().index_fill_(0, torch.tensor([3]), float("nan")), label)
    assert not (tmp_path / "pairs").exists()


def test_noise_of_another_shape_than_its_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="each row brings its own noise"):
        Dataset("cloud", torch.zeros(4, 2), noise=torch.zeros(3, 2), kind="points")


def test_pairs_that_version_0_1_began_are_read_and_gone_on_with(tmp_path: Path) -> None:
    """`shards_of_0_1` was written by that version: two shards of three."""
    place = shutil.copytree(OLD / "pairs", tmp_path / "pairs")
    before = {path.name: path.read_bytes() for path in place.glob("*.safetensors")}
    store = PairStore(place, replace(ORIGIN, count=5, shard=2))
    assert (store.done, list(store.missing()), store.seconds) == (4, [2], 3.0)
    noise, x, label = fill(store).load()
    wanted = pairs(range(5))
    assert torch.equal(noise, wanted[0]) and torch.equal(x, wanted[1]) and torch.equal(label, wanted[2])
    assert all((place / name).read_bytes() == content for name, content in before.items())
