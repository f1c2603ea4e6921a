"""Features: the shipped classifiers, Inception and its four resizes, adapters, names, and stored statistics."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import urllib.error
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from typer.testing import CliRunner

from flowleap import data
from flowleap.cli.data import app
from flowleap.data import Dataset, open_images
from flowleap.evaluation import adapters, classifier, distances, inception, library, statistics_file
from flowleap.evaluation.features import PIXEL, PIXEL16, POINT, Features

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
LEVELS = torch.arange(256, dtype=torch.uint8)


def images(n: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# The classifiers


def published(path: Path, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """FD-Net layer by layer, from uint8 images: z-scored features and logits."""
    z = {key: torch.from_numpy(value).float() for key, value in np.load(path).items()}

    def layer(x: torch.Tensor, name: str) -> torch.Tensor:
        x = functional.conv2d(x, z[f"{name}.0.weight"], padding=1)
        mean, var, weight, bias = (
            z[f"{name}.1.{k}"] for k in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, var, weight, bias, eps=1e-5).relu()

    x = x.float() / 127.5 - 1
    a = functional.max_pool2d(layer(layer(x, "prep"), "l1"), 2)
    a = a + layer(layer(a, "r1.0"), "r1.1")
    b = functional.max_pool2d(layer(a, "l2"), 2)
    c = functional.max_pool2d(layer(b, "l3"), 2)
    c = c + layer(layer(c, "r3.0"), "r3.1")
    found = torch.cat([part.mean((2, 3)) for part in (a, b, c)], 1)
    return (found - z["feat_mean"]) / z["feat_std"], c.mean((2, 3)) @ z["head.weight"].T + z["head.bias"]


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10-jpeg75"])
def test_the_ready_made_classifiers_are_those_that_were_published(name):
    shipped = classifier.SHIPPED[name]
    pixels = torch.randint(256, (5, *shipped.shape), generator=torch.Generator().manual_seed(1))
    rows, logits = published(classifier.WEIGHTS / shipped.file, pixels)
    features = classifier.load(name)
    assert (features.name, features.frechet, features.fid) == (name, f"FD-{name}", False)
    assert (features.shape, features.dims, features.checksum) == (shipped.shape, 224, shipped.checksum[:12])
    found = list(features.stream(pixels / 127.5 - 1))
    assert torch.allclose(found[0][0], rows, atol=1e-4, rtol=1e-4)
    assert found[0][1] is not None and torch.allclose(found[0][1], logits, atol=1e-4, rtol=1e-4)
    near = (pixels + 0.4 * images(5, *shipped.shape)).clamp(0, 255)  # rounds to the same 8 bits
    unrounded = features(near / 127.5 - 1)
    assert torch.allclose(unrounded, rows, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "mnist.npz.xz").exists(), reason="the MNIST images are not here")
def test_real_held_out_images_are_as_far_from_the_reference_as_published():
    source, features = open_images(SHARED / "mnist.npz.xz", "test"), classifier.load("mnist")
    made = [part for batch in source.batches(1000) for part in features.stream(batch)]
    rows, verdicts = (
        torch.cat([rows for rows, _ in made]),
        torch.cat([logits.argmax(1) for _, logits in made]),
    )
    reference = statistics_file.read(classifier.WEIGHTS / "fdnet_mnist.npz", features)
    assert distances.frechet(reference.statistics, distances.statistics(rows)) == pytest.approx(
        0.321, abs=5e-4
    )
    assert float((verdicts == source.label).double().mean()) == pytest.approx(0.996, abs=5e-4)


@pytest.fixture(scope="module")
def refitted() -> classifier.Classifier:
    return classifier.fit(data.load("digits"))


@pytest.mark.slow
def test_the_digits_classifier_is_what_fitting_makes(refitted):
    """To rounding on a machine like ours; training amplifies other rounding, so elsewhere by its accuracy."""
    digits = data.load("digits")
    shipped = classifier.read(classifier.WEIGHTS / "digits.npz")
    rows, again = classifier.load("digits")(digits.x), refitted.features()(digits.x)
    alike = torch.allclose(rows, again, atol=1e-4)
    assert shipped.accuracy is not None and shipped.accuracy > 0.985
    assert alike or abs(refitted.accuracy - shipped.accuracy) <= 0.005
    assert (classifier.WEIGHTS / "digits.npz").stat().st_size < 150_000
    assert not refitted.eight_bit  # digits have 17 levels of their own


def test_the_stored_statistics_are_those_of_the_real_features():
    digits = data.load("digits")
    features = classifier.load("digits")
    rows = torch.cat([rows for rows, _ in features.stream(digits.x)]).double()
    verdicts = torch.cat([logits.argmax(1) for _, logits in features.stream(digits.x)])
    assert float(rows.mean(0).abs().max()) < 1e-4 and float((rows.std(0) - 1).abs().max()) < 1e-4
    stored = statistics_file.read(classifier.WEIGHTS / "digits.npz", features)
    assert torch.allclose(stored.statistics.covariance, torch.cov(rows.T), atol=1e-4)
    assert stored.statistics.count == 0
    assert float((verdicts == digits.label).double().mean()) > 0.985


@pytest.mark.slow
def test_saving_and_loading_changes_nothing(refitted, tmp_path):
    digits = data.load("digits")
    refitted.save(tmp_path / "own.npz")
    loaded, kept = classifier.load(tmp_path / "own.npz"), refitted.features()
    assert torch.equal(loaded(digits.x[:50]), kept(digits.x[:50]))
    assert loaded.checksum == kept.checksum
    assert loaded.shape == (1, 8, 8)
    read = classifier.read(tmp_path / "own.npz")
    assert (read.accuracy, read.eight_bit) == (refitted.accuracy, False)


@pytest.mark.parametrize(("seed", "name"), [(0, "digits"), (1, "mine")])
def test_a_classifier_fitted_as_the_shipped_one_has_its_name_whatever_its_bits(tmp_path, seed, name):
    """As on a processor that rounds differently: other weights, so another checksum, but the same data and seed."""
    shipped = classifier.read(classifier.WEIGHTS / "digits.npz")
    made = classifier.how(data.load("digits").checksum, seed)
    replace(shipped, mean=shipped.mean * 1.001, made=made).save(tmp_path / "mine.npz")
    features = classifier.load(tmp_path / "mine.npz")
    assert features.name == name and features.checksum != classifier.SHIPPED["digits"].checksum[:12]
    replace(shipped, made=made).save(tmp_path / "same.npz")
    assert classifier.load(tmp_path / "same.npz").checksum == classifier.SHIPPED["digits"].checksum[:12]


def part_of_digits(n: int) -> Dataset:
    whole = data.load("digits")
    return Dataset("part", whole.x[:n], whole.label[:n], 10)


@pytest.mark.slow
def test_fitting_is_deterministic_and_leaves_no_trace(monkeypatch):
    monkeypatch.setattr(classifier, "MORE", 2)
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    first = classifier.fit(part_of_digits(200), seed=1)
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads
    torch.manual_seed(6)
    assert classifier.fit(part_of_digits(200), seed=1).packed() == first.packed()
    assert classifier.fit(part_of_digits(200), seed=2).packed() != first.packed()


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 8, 8), (1, 5, 4)])
def test_images_of_other_sizes_are_fitted_too(monkeypatch, tmp_path, shape):
    monkeypatch.setattr(classifier, "MORE", 1)
    x = (127.5 * (images(40, *shape) + 1)).round() / 127.5 - 1
    made = classifier.fit(Dataset("own", x, torch.arange(40) % 4, 4))
    assert made.eight_bit and made.shape == shape
    made.save(tmp_path / "own.npz")
    features = classifier.load(tmp_path / "own.npz")
    rows, logits = next(features.stream(x))
    assert rows.shape == (40, features.dims) and logits is not None and logits.shape == (40, 4)
    assert features.dims == 14 * (16 if min(shape[1:]) >= 16 else 4)


def test_shifts_move_images_and_mirror_colored_ones_only():
    x = torch.arange(3 * 16.0).view(1, 1, 6, 8).repeat(400, 1, 1, 1)
    moved = classifier.shifted(x, torch.Generator().manual_seed(0))
    known = {
        functional.pad(x[:1], (1, 1, 1, 1), mode="replicate")[..., i : i + 6, j : j + 8].numpy().tobytes()
        for i in range(3)
        for j in range(3)
    }
    assert {image.numpy().tobytes() for image in moved.unsqueeze(1)} == known
    colored = classifier.shifted(x.repeat(1, 3, 1, 1), torch.Generator().manual_seed(0))
    falling = colored[:, 0, 0, 1] > colored[:, 0, 0, 6]
    assert 0.4 < float(falling.double().mean()) < 0.6
    assert torch.equal(colored[:, 0], colored[:, 2])


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        (Dataset("a", torch.zeros(9, 1, 8, 8)), "has no labels"),
        (Dataset("a", torch.zeros(9, 2), torch.zeros(9).long(), 1, "points"), "images of 4 × 4"),
        (Dataset("a", torch.zeros(9, 1, 3, 8), torch.zeros(9).long(), 1), "images of 4 × 4"),
    ],
)
def test_what_cannot_be_fitted_is_refused(dataset, said):
    with pytest.raises(ValueError, match=said):
        classifier.fit(dataset)


def test_other_and_damaged_classifier_files_are_refused(monkeypatch, tmp_path):
    whole = (classifier.WEIGHTS / "digits.npz").read_bytes()
    path = tmp_path / "digits.npz"
    path.write_bytes(whole[:50_000])
    with pytest.raises(ValueError, match="cut off"):
        classifier.load(path)
    np.savez(path, x=np.zeros(3))
    with pytest.raises(ValueError, match=r"no classifier of flowleap: 'prep\.0\.weight' and 44 more"):
        classifier.load(path)
    arrays = dict(np.load(io.BytesIO(whole)))
    for change, said in (
        ({"head.weight": np.zeros((10, 7), np.float16)}, "head.weight"),
        ({"feat_std": np.zeros(56, np.float32)}, "feat_std is not finite or not positive"),
        ({"feat_mean": np.zeros(5, np.float32)}, "feat_mean has shape"),
        ({"l2.0.weight": np.full_like(arrays["l2.0.weight"], np.nan)}, "weights are not finite"),
    ):
        np.savez(path, **(arrays | change))
        with pytest.raises(ValueError, match=said):
            classifier.load(path)
    monkeypatch.setattr(classifier, "WEIGHTS", tmp_path)
    with pytest.raises(
        ValueError, match=r"has the SHA-256 .*the digits classifier is 194cb316b21f…: install"
    ):
        classifier.load("digits")
    with pytest.raises(FileNotFoundError):
        classifier.load(tmp_path / "nothing.npz")


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(
        ValueError, match="1 × 8 × 8 do not fit mnist features, which are made for 1 × 28 × 28"
    ):
        classifier.load("mnist")(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match="rescale"):
        classifier.load("digits")(torch.full((2, 1, 8, 8), 16.0))


# Inception


class Untrained(FeatureExtractorInceptionV3):
    """torch-fidelity's network with the weights it starts from, larger ones than usual so that features are."""

    def load_state_dict(self, *_, **__):
        g = torch.Generator().manual_seed(0)
        for value in self.state_dict().values():
            if value.ndim == 4:
                value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=g)
            elif value.is_floating_point():
                value.uniform_(0.5, 1.5, generator=g)


@pytest.fixture(scope="module")
def theirs() -> FeatureExtractorInceptionV3:
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    return Untrained("x", ["2048", "logits_unbiased"], feature_extractor_weights_path=nothing)


@pytest.fixture(scope="module")
def weights(theirs, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(theirs.state_dict(), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("resize", ["adm", "edm"])
def test_inception_is_torch_fidelitys_to_the_last_bit(theirs, weights, resize):
    pixels = torch.randint(256, (2, 3, 40, 33), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    rows, logits = next(inception.load(resize, weights, unverified=True).stream(pixels.float() / 127.5 - 1))
    their_rows, their_logits = theirs(pixels)
    assert float(rows.std()) > 1e-3
    assert torch.equal(rows, their_rows)
    assert logits is not None and torch.allclose(logits, their_logits, rtol=1e-6, atol=0)


@pytest.mark.slow
def test_grey_images_are_colored_ones_with_equal_channels(weights):
    features = inception.load("pytorch-fid", weights, unverified=True)
    x = images(1, 1, 20, 20)
    assert torch.equal(features(x), features(x.repeat(1, 3, 1, 1)))
    with pytest.raises(ValueError, match="2 channels"):
        features(images(1, 2, 20, 20))
    with pytest.raises(ValueError, match="rescale"):
        features(255 * x.abs())


def test_every_rounding_gives_8_bit_images_back():
    x = LEVELS.float() / 127.5 - 1
    for quantized in (inception.truncated, inception.rounded, inception.shifted):
        assert torch.equal(quantized(x), LEVELS)
        assert quantized(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]
    between = (LEVELS[:-1].float() + 0.7) / 127.5 - 1  # seven tenths of the way to the next level
    assert torch.equal(inception.truncated(between), LEVELS[:-1])
    assert torch.equal(inception.rounded(between), LEVELS[1:])
    assert torch.equal(inception.shifted(between), LEVELS[1:])


def test_the_resizes_differ_by_where_they_look_and_how_they_count():
    """On a ramp of 2 levels a pixel: corners differ from pixel centers by half a pixel, 255 from 256 by a scale."""
    ramp = (40.0 + 2 * torch.arange(64)).expand(1, 3, 64, 64)
    x, inner = ramp / 127.5 - 1, slice(30, 269)
    at_corner = 40 + 2 * torch.arange(299) * 64 / 299
    at_center = 40 + 2 * ((torch.arange(299) + 0.5) * 64 / 299 - 0.5)
    wanted = {
        "adm": (at_corner - 128) / 128,
        "edm": (at_corner - 128) / 128,
        "pytorch-fid": 2 * at_center / 255 - 1,
        "clean": (at_center - 128) / 128,
    }
    for name, line in wanted.items():
        made = inception.RESIZES[name](x)
        assert made.shape == (1, 3, 299, 299) and made.dtype == torch.float32
        assert torch.allclose(made[0, 0, 150, inner], line[inner], atol=2e-5), name


def test_adm_and_edm_differ_in_rounding_only():
    x = images(2, 3, 30, 30)
    rest = (127.5 * (x + 1)).frac()
    clear = (rest > 0.01) & ((rest - 0.5).abs() > 0.01) & (rest < 0.99)
    higher = inception.shifted(x).int() - inception.truncated(x).int()
    assert torch.equal(higher[clear], (rest >= 0.5).int()[clear]) and clear.double().mean() > 0.9


@pytest.mark.parametrize("side", [32, 299, 512])
def test_resizes_against_independent_ones(side):
    pixels = torch.randint(
        256, (2, 3, side, side), generator=torch.Generator().manual_seed(2), dtype=torch.uint8
    )
    x = pixels.float() / 127.5 - 1
    bilinear = functional.interpolate(pixels.double(), (299, 299), mode="bilinear", align_corners=False)
    assert torch.allclose(inception.pytorch_fid(x).double(), 2 * bilinear / 255 - 1, atol=5e-4)
    bicubic = functional.interpolate(pixels.double(), (299, 299), mode="bicubic", antialias=True).clamp(
        0, 255
    )
    assert torch.allclose(inception.clean(x).double() * 128 + 128, bicubic, atol=1e-3)


@pytest.mark.slow
def test_only_the_published_weights_are_called_fid(weights, monkeypatch):
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=rf"SHA-256 {found[:8]}…, and the FID weights have 6726825d…"):
        inception.load("adm", weights)
    other = inception.load("adm", weights, unverified=True)
    assert (other.name, other.frechet, other.kernel) == (
        f"inception@{found[:8]}",
        f"FD-inception@{found[:8]}",
        f"KD-inception@{found[:8]}",
    )
    monkeypatch.setattr(inception, "CHECKSUM", found)
    monkeypatch.setattr(inception, "network", lambda path: (nn.Identity(), torch.zeros(3, 2)))
    for resize in inception.RESIZES:
        published = inception.load(resize, weights)
        assert (published.frechet, published.kernel) == ("FID", "KID")
        assert (
            published.checksum == f"{found[:12]}-{resize}"
        )  # so that numbers of two resizes are never mixed


@pytest.mark.slow
def test_weights_are_found_by_variable_and_in_the_cache(weights, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("FLOWLEAP_INCEPTION", str(weights))
    assert inception.find() == weights
    monkeypatch.setenv("FLOWLEAP_INCEPTION", str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match=r"FLOWLEAP_INCEPTION names .*nothing, which is no file"):
        inception.find()
    monkeypatch.delenv("FLOWLEAP_INCEPTION")
    cached = tmp_path / "hub" / "checkpoints" / "pt_inception-2015-12-05-6726825d.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"")
    assert inception.find() == cached


class Answer(io.BytesIO):
    url = "https://example.org/weights"


def test_weights_are_fetched_once_and_only_the_right_ones_stay(monkeypatch, tmp_path):
    monkeypatch.delenv("FLOWLEAP_INCEPTION", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    asked = []

    def answers(url, timeout):
        asked.append(url)
        return Answer(b"the weights")

    monkeypatch.setattr("urllib.request.urlopen", answers)
    with pytest.warns(UserWarning, match="fetching"), pytest.raises(ValueError, match="sent something else"):
        inception.find()
    assert asked == list(inception.URLS) and not list(tmp_path.rglob("*.pth*"))
    monkeypatch.setattr(inception, "CHECKSUM", hashlib.sha256(b"the weights").hexdigest())
    with pytest.warns(UserWarning, match="fetching"):
        path = inception.find()
    assert path.read_bytes() == b"the weights"
    assert inception.find() == path and len(asked) == 3


def test_no_weights_and_no_network_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.delenv("FLOWLEAP_INCEPTION", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def fails(url, timeout):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("urllib.request.urlopen", fails)
    with pytest.raises(ValueError) as error:
        library.named("inception")
    for part in (inception.URLS[0], str(tmp_path), "FLOWLEAP_INCEPTION", "--features pixel", "no route"):
        assert part in str(error.value)


class Trap:
    def __reduce__(self):
        return (Path("trapped").touch, ())


@pytest.mark.slow
def test_nothing_in_a_file_of_weights_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for held in ({"a": Trap()}, [1, 2], {"a": 1}):
        torch.save(held, "bad.pth")
        with pytest.raises(ValueError, match=r"bad\.pth: (not a|no) file of weights"):
            inception.load("adm", "bad.pth", unverified=True)
    torch.save({"a": torch.zeros(2)}, "bad.pth")
    with pytest.raises(ValueError, match="other weights than torch-fidelity's"):
        inception.load("adm", "bad.pth", unverified=True)
    Path("bad.pth").write_bytes(b"text")
    with pytest.raises(ValueError, match="not a file of weights"):
        inception.load("adm", "bad.pth", unverified=True)
    assert not Path("trapped").exists()


def test_without_torch_fidelity_the_extra_is_named(weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ValueError, match=r"pip install 'flowleap\[fid\]'"):
        inception.load("adm", weights, unverified=True)


# Adapters


def test_a_module_sees_normalized_images_of_its_size():
    x, mean, std = images(3, 3, 20, 20), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    features = adapters.of_module(nn.Flatten(), "own", size=10, mean=mean, std=std, filter="bilinear")
    small = functional.interpolate((x + 1) / 2, (10, 10), mode="bilinear", antialias=True)
    wanted = (small - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.allclose(features(x), wanted.flatten(1), atol=1e-6)
    assert (features.name, features.frechet, features.fid) == ("own", "FD-own", False)
    plain = adapters.of_module(nn.Identity(), "own", channels=None)
    assert torch.allclose(
        plain(x[:, :2]), (x[:, :2].mean((2, 3)) + 1) / 2
    )  # maps are averaged over positions
    assert torch.equal(features(x[:, :1]), features(x[:, :1].expand(-1, 3, -1, -1)))
    with pytest.raises(ValueError, match="take 3 channels, these images have 2"):
        features(x[:, :2])


def test_the_checksum_tells_weights_and_settings_apart_and_the_module_is_left_alone():
    module = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Dropout(0.5)).train()
    first = adapters.of_module(module, "own")
    again = adapters.of_module(module, "other name")
    assert first.checksum == again.checksum and len(first.checksum or "") == 12
    assert adapters.of_module(module, "own", mean=(0.5,)).checksum != first.checksum
    rows = first(images(2, 3, 9, 9))
    with torch.no_grad():
        module[0].bias += 1
    assert adapters.of_module(module, "own").checksum != first.checksum
    assert torch.equal(first(images(2, 3, 9, 9)), rows)  # a copy, so training on does not move the evaluator
    assert module.training and module[0].weight.requires_grad


@pytest.mark.parametrize(
    ("made", "said"), [(lambda x: (x, x), "tuple"), (lambda x: x.mean((1, 2, 3)), r"\(2,\)")]
)
def test_modules_that_give_no_rows_are_refused(made, said):
    class Own(nn.Module):
        def forward(self, x):
            return made(x)

    with pytest.raises(ValueError, match=f"own features returns .*{said}.*wrap it"):
        adapters.of_module(Own(), "own")(images(2, 3, 9, 9))


@pytest.fixture(scope="module")
def tiny() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit.r160_in1k", pretrained=False).eval()


@pytest.mark.parametrize("end", ["safetensors", "pth"])
def test_a_timm_model_from_a_file(tiny, tmp_path, end):
    path = tmp_path / f"tiny.{end}"
    save_file(tiny.state_dict(), path) if end == "safetensors" else torch.save(tiny.state_dict(), path)
    features = adapters.timm_features("test_vit.r160_in1k", weights=path)
    x = images(2, 3, 160, 160)
    settings = timm.data.resolve_model_data_config(tiny)
    mean, std = (torch.tensor(settings[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        wanted = tiny.forward_head(tiny.forward_features(((x + 1) / 2 - mean) / std), pre_logits=True)
    assert torch.allclose(features(x), wanted, atol=1e-5)
    assert features.name == "test_vit.r160_in1k"
    assert features(images(2, 1, 28, 28)).shape == wanted.shape


def test_timm_models_without_weights_say_so(tiny, tmp_path):
    assert (
        adapters.timm_features("test_vit.r160_in1k", pretrained=False).name == "test_vit.r160_in1k-untrained"
    )
    assert adapters.named("vit_small_patch14_dinov2.lvd142m") == "dinov2-vit_small_patch14"
    with pytest.raises(ValueError, match="timm has no model 'test_vitt'; did you mean"):
        library.named("timm:test_vitt")
    path = tmp_path / "bad.safetensors"
    with pytest.raises(FileNotFoundError):
        adapters.timm_features("test_vit.r160_in1k", weights=path)
    path.write_bytes(b"text")
    with pytest.raises(ValueError, match="not a file of weights"):
        adapters.timm_features("test_vit.r160_in1k", weights=path)
    state = tiny.state_dict()
    save_file({name: value for name, value in state.items() if name != "pos_embed"}, path)
    with pytest.raises(ValueError, match="1 weights are missing, 0 unknown, such as 'pos_embed'"):
        adapters.timm_features("test_vit.r160_in1k", weights=path)
    save_file({**state, "pos_embed": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="does not fit the model"):
        adapters.timm_features("test_vit.r160_in1k", weights=path)


def test_weights_that_cannot_be_fetched_say_what_to_do(monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no route\nlong dump")

    monkeypatch.setattr(timm, "create_model", fails)
    with pytest.raises(ValueError, match=r"could not be fetched \(no route\).*--features pixel"):
        library.named("timm:test_vit")


# Names


@pytest.mark.slow
def test_features_by_their_names(refitted, tmp_path):
    assert (
        library.named("pixel") is PIXEL
        and library.named("point") is POINT
        and library.named("PIXEL16") is PIXEL16
    )
    assert library.named("auto", data.load("digits")) is PIXEL
    assert library.named("auto", data.load("two-moons")) is POINT
    assert library.named("Fashion_MNIST").name == "fashion-mnist"
    refitted.save(tmp_path / "own.npz")
    assert library.named(str(tmp_path / "own.npz")).dims == 56
    with pytest.raises(
        ValueError, match=r"unknown features 'digit'; did you mean digits\? Known: auto, pixel"
    ):
        library.named("digit")
    with pytest.raises(ValueError, match="unknown features 'inception:bilinear'"):
        library.named("inception:bilinear")
    with pytest.raises(ValueError, match="follow from a data set"):
        library.named("auto")


# Statistics in files

OWN = Features("own", lambda x: x.flatten(1), checksum="0123456789ab", dims=4)


def measured(d: int = 4, n: int = 50) -> distances.Statistics:
    return distances.statistics(
        torch.randn(n, d, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    )


def test_statistics_come_back_to_the_last_bit(tmp_path):
    path, made = tmp_path / "a.npz", measured()
    statistics_file.write(path, made, {**statistics_file.about_features(OWN), "source": "Bücher"})
    stored = statistics_file.read(path, OWN)
    assert torch.equal(stored.statistics.mean, made.mean)
    assert torch.equal(stored.statistics.covariance, made.covariance)
    assert stored.statistics.count == 50 and stored.about["source"] == "Bücher"
    held = made.mean.numpy().tobytes() + made.covariance.numpy().tobytes()
    assert stored.checksum == hashlib.sha256(held).hexdigest()[:12]
    assert statistics_file.is_statistics(path) and not statistics_file.is_statistics(tmp_path / "b.npz")
    with np.load(path) as theirs:  # as ADM, EDM and pytorch-fid read them
        assert theirs["mu"].dtype == theirs["sigma"].dtype == np.float64
        assert np.array_equal(theirs["mu"], made.mean.numpy())


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_files_as_adm_writes_them_are_read(tmp_path, kind):
    made = measured()
    extra = {"mu_s": np.zeros(9), "sigma_s": np.eye(9), "arr_0": np.zeros((3, 8, 8, 3), np.uint8)}
    mu, sigma = made.mean.numpy().astype(kind), made.covariance.numpy().astype(kind)
    np.savez(tmp_path / "adm.npz", mu=mu, sigma=sigma, **extra)
    stored = statistics_file.read(tmp_path / "adm.npz", OWN)
    assert torch.equal(stored.statistics.covariance, torch.from_numpy(sigma.astype(np.float64)))
    assert (stored.statistics.count, dict(stored.about)) == (0, {})


GOOD = {"mu": np.zeros(4), "sigma": np.eye(4)}


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"mu": np.zeros(4)}, "sigma missing among mu"),
        ({"x": np.zeros(4)}, "mu and sigma missing"),
        (GOOD | {"sigma": np.eye(5)}, r"covariance of shape \(5, 5\)"),
        (GOOD | {"mu": np.zeros((1, 4))}, r"mean of shape \(1, 4\)"),
        (GOOD | {"mu": np.zeros(4, int)}, "mu is int64"),
        (GOOD | {"sigma": np.eye(4) + np.triu(np.ones((4, 4)), 1)}, "no covariance"),
        (GOOD | {"sigma": -np.eye(4)}, "none may be below 0"),
        (GOOD | {"sigma": np.eye(4) + 5 * np.fliplr(np.eye(4))}, "eigenvalues from -4"),
        (GOOD | {"sigma": np.eye(4) * np.nan}, "16 of the covariance are not finite"),
        (GOOD | {"mu": np.full(4, np.inf)}, "4 numbers of the mean"),
        (GOOD | {"mu": np.array([{}] * 4)}, "Python objects|cannot be read"),
        (GOOD | {"about": np.array("no json")}, "no JSON object"),
        (GOOD | {"about": np.array("[1]")}, "no JSON object"),
        ({"mu": np.zeros(5), "sigma": np.eye(5)}, "statistics of 5 features, and there are 4 own features"),
        (
            GOOD | {"about": np.array(json.dumps({"features": "pixel"}))},
            "made with pixel features.*--features pixel",
        ),
        (
            GOOD | {"about": np.array(json.dumps({"features": "own", "features_checksum": "ff"}))},
            "checksum ff, and these have 0123456789ab",
        ),
    ],
)
def test_other_files_are_refused(tmp_path, arrays, said):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=said):
        statistics_file.read(tmp_path / "a.npz", OWN)


def test_files_that_are_cut_off_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    statistics_file.write(path, measured(), {})
    whole = path.read_bytes()
    path.write_bytes(whole[:-200])
    with pytest.raises(ValueError, match="cut off"):
        statistics_file.read(path)
    assert not statistics_file.is_statistics(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mu.npy", whole[:20])
        archive.writestr("sigma.npy", b"")
    with pytest.raises(ValueError, match=r"array 'mu' of .* cannot be read"):
        statistics_file.read(path)
    with pytest.raises(FileNotFoundError):
        statistics_file.read(tmp_path / "nothing.npz")


# The command


def call(*arguments: str):
    return CliRunner().invoke(app, ["stats", *map(str, arguments)])


@pytest.mark.slow
def test_the_command_writes_the_statistics_of_a_data_set(tmp_path):
    out = tmp_path / "digits.npz"
    done = call("digits", "--features", "digits", "--out", out)
    assert done.exit_code == 0, done.output
    assert "56 digits features over 1,797 images of digits (all of them)" in done.stdout
    stored = statistics_file.read(out, classifier.load("digits"))
    rows = classifier.load("digits")(data.load("digits").x)
    wanted = distances.statistics(rows)
    assert stored.statistics.count == 1797
    assert torch.allclose(stored.statistics.mean, wanted.mean, atol=1e-12)
    assert torch.allclose(stored.statistics.covariance, wanted.covariance, atol=1e-12)
    before = out.read_bytes()
    assert "--overwrite" in str(call("digits", "--out", out).exception)
    assert out.read_bytes() == before
    assert call("digits", "--features", "digits", "--out", out, "--overwrite").exit_code == 0
    assert out.read_bytes() == before  # the same command twice writes the same file


def test_the_command_reads_images_and_takes_a_part(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", train_x=pixels[:20], test_x=pixels[20:])
    out = tmp_path / "out.npz"
    done = call(tmp_path / "own.npz", "--split", "test", "--num", "30", "--out", out)
    assert "16 pixel features over 30 images of own, split test (a fixed random part of 40)" in done.stdout
    chosen = open_images(tmp_path / "own.npz", "test").chosen(30)
    rows = torch.from_numpy(pixels[20:])[chosen].flatten(1).double() / 127.5 - 1
    stored = statistics_file.read(out, PIXEL)
    assert torch.allclose(stored.statistics.covariance, distances.statistics(rows).covariance, atol=1e-6)
    assert {**stored.about, "flowleap": 0, "data_checksum": 0} == {
        "features": "pixel",
        "features_checksum": None,
        "source": "own",
        "split": "test[30]",
        "floor": None,  # half of 30 images are fewer than 17
        "classes": {},
        "shape": [1, 4, 4],
        "of": 40,
        "count": 30,
        "flowleap": 0,
        "data_checksum": 0,
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("digits", "--features", "digits", "--num", "56"), "needs more than 56 images, and there are 56"),
        (("digits", "--num", "60"), "needs more than 64 samples"),
        (("digits", "--features", "mnist"), "do not fit mnist features"),
        (("digits", "--split", "test"), "no split 'test'"),
        (("digit",), "did you mean digits"),
    ],
)
def test_the_command_says_what_is_wrong_and_writes_nothing(tmp_path, arguments, said):
    done = call(*arguments, "--out", tmp_path / "out.npz")
    assert done.exit_code != 0 and said in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_the_command_wants_an_npz_in_a_folder_that_is_there(tmp_path):
    assert call("digits", "--out", tmp_path / "out.txt").exit_code == 2
    assert call("digits", "--out", tmp_path / "nothing" / "out.npz").exit_code == 2
