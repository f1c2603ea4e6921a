"""The perceptual loss: LPIPS against a long-hand one, its files, where it is refused, and its gradient."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from flowleap import methods, networks, runs, serialize
from flowleap.design import loss_in_words
from flowleap.losses import LearnedVariance, Perceptual, Squared, Weighted
from flowleap.networks import perceptual
from flowleap.objectives import Consistency
from flowleap.point import Regression
from shared_data import SHARED, needs

BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
WIDTHS = (64, 128, 256, 512, 512)
SQUEEZE = SHARED / "squeezenet_v1_0_dc.npz"


def weights(seed: int = 0) -> dict[str, Tensor]:
    """Random weights under the names of torchvision, and w ≥ 0 under those of LPIPS."""
    random, made, before = torch.Generator().manual_seed(seed), {}, 3
    for i, (block, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True)):
        for number in block:
            scale = (2 / (9 * before)) ** 0.5
            made[f"features.{number}.weight"] = scale * torch.randn(width, before, 3, 3, generator=random)
            made[f"features.{number}.bias"] = 0.1 * torch.randn(width, generator=random)
            before = width
        made[f"lin{i}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=random)
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights in every form in which they are published."""
    folder, found = tmp_path_factory.mktemp("lpips"), weights()
    net = {name: tensor for name, tensor in found.items() if name.startswith("features")}
    linear = {name: tensor for name, tensor in found.items() if name.startswith("lin")}
    torch.save(found, folder / "all.pth")
    torch.save(net | {"classifier.0.weight": torch.zeros(2, 2)}, folder / "vgg16.pth")
    torch.save({"state_dict": linear}, folder / "linear.pth")
    save_file(found, folder / "all.safetensors")
    np.savez(folder / "all.npz", **{name: tensor.numpy() for name, tensor in found.items()})
    slices = {n: i for i, block in enumerate(BLOCKS, start=1) for n in block}
    as_lpips = {
        f"net.slice{slices[int(name.split('.')[1])]}.{name.split('.', 1)[1]}": t for name, t in net.items()
    }
    torch.save(as_lpips | linear | {"scaling_layer.shift": torch.zeros(1, 3, 1, 1)}, folder / "lpips.pth")
    return folder


def by_hand(found: dict[str, Tensor], a: Tensor, b: Tensor, size: int | None) -> Tensor:
    """Σ_l mean_hw Σ_c w_lc (â − b̂)² of VGG16, one image at a time."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    distances = []
    for one, other in zip(a, b, strict=True):
        total, pair = 0.0, []
        for image in (one, other):
            image = image.repeat(3, 1, 1) if len(image) == 1 else image
            if size is not None:
                image = functional.interpolate(image[None], size=(size, size), mode="bilinear")[0]
            pair.append(((image - shift[:, None, None]) / scale[:, None, None])[None])
        for i, block in enumerate(BLOCKS):
            pair = [functional.max_pool2d(x, 2) if i else x for x in pair]
            for number in block:
                w, bias = found[f"features.{number}.weight"], found[f"features.{number}.bias"]
                pair = [functional.conv2d(x, w, bias, padding=1).clamp_min(0) for x in pair]
            f, g = (x[0] / (x[0].square().sum(0).sqrt() + 1e-10) for x in pair)
            apart = (found[f"lin{i}.model.1.weight"][0] * (f - g) ** 2).sum(0)
            total = total + apart.mean()
        distances.append(total)
    return torch.stack(distances)


def images(channels: int = 1, side: int = 8, seed: int = 0, rows: int = 3) -> Tensor:
    return torch.rand(rows, channels, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def point_of(x: Tensor):
    objective = methods.consistency_training("original")
    t, r = torch.full((len(x),), 2.0), torch.full((len(x),), 0.002)
    return objective.point(x, torch.zeros_like(x), t, t / 2, r)


def compare(loss: Perceptual, a: Tensor, b: Tensor) -> Tensor:
    return loss(Regression(a, b, space="map"), point_of(b))


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [None, 32])
def test_it_is_lpips_written_out(files: Path, channels: int, size: int | None) -> None:
    a, b = images(channels, 16, 1), images(channels, 16, 2)
    found = compare(Perceptual(file=str(files / "all.pth"), size=size), a, b)
    torch.testing.assert_close(found, by_hand(weights(), a, b, size), rtol=1e-4, atol=1e-6)
    assert bool((found > 1e-3).all())
    assert compare(Perceptual(file=str(files / "all.pth"), size=size), a, a).abs().max() == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["all.safetensors", "all.npz", "lpips.pth"])
def test_every_form_of_the_file_is_the_same_network(files: Path, name: str) -> None:
    a, b = images(3, 16, 1), images(3, 16, 2)
    expected = compare(Perceptual(file=str(files / "all.pth"), size=None), a, b)
    assert torch.equal(compare(Perceptual(file=str(files / name), size=None), a, b), expected)
    two = Perceptual(file=str(files / "vgg16.pth"), linear=str(files / "linear.pth"), size=None)
    assert torch.equal(compare(two, a, b), expected)


@pytest.mark.slow
def test_a_gradient_reaches_the_prediction_and_stays_finite_where_images_agree(files: Path) -> None:
    loss = Perceptual(file=str(files / "all.pth"), size=32)
    a, b = images(1, 8, 1).requires_grad_(), images(1, 8, 2)
    (gradient,) = torch.autograd.grad(compare(loss, a, b).sum(), a)
    assert bool(gradient.isfinite().all()) and float(gradient.abs().max()) > 0
    same = b.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(compare(loss, same, b).sum(), same)
    assert bool(gradient.isfinite().all())
    dead = [torch.zeros(2, 4, 3, 3, requires_grad=True)]
    (gradient,) = torch.autograd.grad(perceptual.distance(dead, [torch.rand(2, 4, 3, 3)]).sum(), dead)
    assert bool(gradient.isfinite().all())


def test_any_module_may_give_the_features() -> None:
    def features(x: Tensor) -> list[Tensor]:
        return [x, functional.avg_pool2d(x, 2)]

    loss = Perceptual(None, features=features, size=None)
    a, b = images(3, 8, 1), images(3, 8, 2)
    expected = torch.zeros(3)
    for f, g in zip(features(a), features(b), strict=True):
        f, g = (x / x.square().sum(1, keepdim=True).sqrt() for x in (f, g))
        expected = expected + (f - g).square().sum(1).mean((1, 2))
    torch.testing.assert_close(compare(loss, a, b), expected)
    with pytest.raises(ValueError, match="cannot be written down"):
        serialize.to_dict(loss)


def test_the_value_is_plain_data_and_the_network_is_read_once(files: Path) -> None:
    loss = Perceptual(file=str(files / "all.pth"))
    assert serialize.from_dict(json.loads(json.dumps(serialize.to_dict(loss)))) == loss and hash(
        loss
    ) == hash(loss)
    device = torch.device("cpu")
    assert perceptual.load(loss.file, None, "vgg", device) is perceptual.load(loss.file, None, "vgg", device)
    network = perceptual.load(loss.file, None, "vgg", device)
    assert not any(p.requires_grad for p in network.parameters()) and not network.training
    assert loss_in_words(loss) == {"loss metric": "LPIPS, VGG", "weight": "1"}
    assert loss_in_words(Weighted(loss))["weight"] == "1/(t - s)"


# what is refused


@pytest.mark.slow
def test_wrong_files_are_refused_with_what_is_expected(files: Path, tmp_path: Path) -> None:
    a = images(3, 16)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth: no such file of weights"):
        compare(Perceptual(file="nowhere.pth"), a, a)
    with pytest.raises(ValueError, match=r"not the weights of LPIPS.*linear=.*equal"):
        compare(Perceptual(file=str(files / "vgg16.pth")), a, a)
    with pytest.raises(ValueError, match=r"lacks conv\.0\.weight.*features\.0\.weight.*lin4\.model"):
        compare(Perceptual(file=str(files / "linear.pth")), a, a)
    torch.save(weights() | {"features.0.weight": torch.zeros(64, 1, 3, 3)}, tmp_path / "gray.pth")
    with pytest.raises(ValueError, match=r"conv\.0\.weight is \(64, 1, 3, 3\), expected \(64, 3, 3, 3\)"):
        compare(Perceptual(file=str(tmp_path / "gray.pth")), a, a)
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match="not a file of weights"):
        compare(Perceptual(file=str(tmp_path / "text.pth")), a, a)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="a dictionary of tensors is expected"):
        compare(Perceptual(file=str(tmp_path / "list.pth")), a, a)


def test_a_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"features.0.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="not a file of weights"):
        compare(Perceptual(file=str(tmp_path / "evil.pth")), images(3), images(3))
    assert not (tmp_path / "ran").exists()


def test_combinations_that_mean_nothing_are_refused(files: Path) -> None:
    loss = Perceptual(file="x.pth")
    for objective in (methods.meanflow(), methods.flow_matching(), methods.consistency_training()):
        for wrapped in (loss, Weighted(loss, by="alpha/(kappa sigma)"), LearnedVariance(loss)):
            with pytest.raises(ValueError, match=r"Perceptual compares images, and .*space=.map"):
                replace(objective, loss=wrapped)
    original = methods.consistency_training("original")
    assert replace(original, loss=loss).loss == loss
    with pytest.raises(ValueError, match="Perceptual compares images"):
        replace(original, loss=loss, target=Consistency())
    whole = replace(original, loss=loss)
    flow, x = whole.flow_map(lambda x, t, r, label: x), images(rows=2)
    t = torch.tensor([2.0, 3.0])
    with pytest.raises(ValueError, match="rows that compare outputs"):
        whole.per_sample(whole.regress(flow, flow, point := whole.point(x, x, t, t, t)), point)
    with pytest.raises(ValueError, match=r"images of 1 or 3 channels, and the data has shape \(2,\)"):
        compare(loss, torch.zeros(3, 2), torch.zeros(3, 2))
    for wrong in (
        {"file": None},
        {"file": "x", "features": len},
        {"file": "x", "net": "alex"},
        {"file": "x", "size": 0},
    ):
        with pytest.raises(ValueError, match="Perceptual"):
            Perceptual(**wrong)


@pytest.mark.slow
def test_it_is_set_from_the_command_line_and_trains(files: Path, tmp_path: Path) -> None:
    setting = json.dumps({"type": "Perceptual", "file": str(files / "all.pth"), "size": 16})
    tiny = [("network.width", "16"), ("network.depth", "1"), ("network.heads", "2"), ("loss", setting)]
    config = runs.configure(
        "consistency_training_original", "digits", settings=tiny, steps=2, batch=8, eval_num=0, online_share=0
    )
    place = runs.train(config, tmp_path / "run").folder
    last = json.loads((place / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 2 and 0 < last["loss"] < 10
    with pytest.raises(FileNotFoundError, match="no such file of weights"):
        runs.train(
            runs.configure(
                "consistency_training_original",
                "digits",
                settings=[*tiny[:3], ("loss", '{"type": "Perceptual", "file": "nowhere.pth"}')],
                steps=2,
            ),
            tmp_path / "other",
        )
    assert not (tmp_path / "other").exists()


# SqueezeNet


def test_squeezenet_has_seven_maps() -> None:
    maps = perceptual.SqueezeFeatures()(torch.zeros(2, 3, 64, 64))
    assert tuple(m.shape[1] for m in maps) == perceptual.SqueezeFeatures.channels
    assert [m.shape[-1] for m in maps] == [29, 14, 7, 7, 7, 7, 3]
    assert sum(p.numel() for p in perceptual.SqueezeFeatures().parameters()) == 735_424


@needs("squeezenet_v1_0_dc.npz")
def test_squeezenet_with_its_weights_finds_noise_worse_than_a_shift() -> None:
    """A code and a book for each layer; an image that moved by a pixel looks more alike than noise."""
    loss = Perceptual(file=str(SQUEEZE), net="squeeze", linear="equal", size=64)
    x = functional.interpolate(images(1, 8, 3), size=32, mode="bicubic")
    moved, noisy = torch.roll(x, 1, dims=3), images(1, 32, 5)
    assert bool((compare(loss, moved, x) < compare(loss, noisy, x)).all())
    assert compare(loss, x, x).abs().max() == 0
    with pytest.raises(ValueError, match="equal"):
        compare(Perceptual(file=str(SQUEEZE), net="squeeze"), x, x)


def test_squared_stays_the_default() -> None:
    assert (
        methods.consistency_training("original").loss == Squared("mean") and networks.perceptual is perceptual
    )
