"""A small classifier of small images: its pooled layers are features, its logits predict the class.

The network is `networks.classifier`; features are the means of its three maps. They are z-scored over the real data, so
the distance of its own mean to 0 is 0, and every feature counts alike.
"""

from __future__ import annotations

import copy
import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from flowleap.data import Dataset, Samples
from flowleap.data.npz import Archive
from flowleap.data.rows import some
from flowleap.evaluation.features import Extracted, Features
from flowleap.files import replace_file
from flowleap.networks.classifier import LAYERS, from_tensors
from flowleap.networks.classifier import Classifier as Network
from flowleap.randomness import generator
from flowleap.threads import limited

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Shipped:
    """A classifier that comes with flowleap: the SHA-256 of its file, and the shape of its images.

    `made`: how `fit` made it, see `how`; None for one of another origin.
    """

    file: str
    checksum: str
    shape: tuple[int, int, int]
    made: str | None = None


def how(checksum: str, seed: int, task: str = "fit/1") -> str:
    """Return the version of `fit` or of another task, the checksum of the data and the seed as text."""
    return f"{task} data={checksum} seed={seed}"


@dataclass(frozen=True)
class Origin:
    """The data that a network was trained on; `name` and `classes` are None where its file does not say them."""

    checksum: str
    name: str | None = None
    classes: tuple[str, ...] | None = None

    @classmethod
    def of(cls, dataset: Dataset) -> Origin:
        """Return what is noted about a data set."""
        return cls(dataset.checksum, dataset.name, dataset.class_names)

    def __str__(self) -> str:
        count = len(self.classes or ())
        named = (
            f"{count} classes ({', '.join((self.classes or ())[:5])}{', …' * (count > 5)}), " if count else ""
        )
        return f"{self.name or 'data'} ({named}checksum {self.checksum})"


SHIPPED: dict[str, Shipped] = {
    "digits": Shipped(
        "digits.npz",
        "194cb316b21f86e108d8405f8d359f2abd5b4a6607e9968ac5b05014ffd2fe0c",
        (1, 8, 8),
        how("314b97e8b73b", 0),
    ),
    "mnist": Shipped(
        "fdnet_mnist.npz", "d064e4615c9a93e59cb36b2c7c3d1c409708caeb6f6fab8d5a630c2bb3d916e8", (1, 28, 28)
    ),
    "fashion-mnist": Shipped(
        "fdnet_fashion_mnist.npz",
        "7539009992ec19c9bdd84f9c078767793381ba65a739f2697d61ba0dc295f6e9",
        (1, 28, 28),
    ),
    "cifar10-jpeg75": Shipped(
        "fdnet_cifar10_jpeg75.npz",
        "33081f75a9f0d53765fad90844566060eba9bd9659d50ccc0bdad684bd397eaf",
        (3, 32, 32),
    ),
}

STATISTICS = ("feat_mean", "feat_std", "ref_cov")
NARROW, WIDE = 4, 16  # the width below and from 16 pixels of side
BATCH = 256
RATE = 0.4
DECAY = 5e-4
SMOOTHING = 0.1
FEW, EPOCHS, MORE = 10_000, 10, 60  # epochs: MORE for fewer rows than FEW, else EPOCHS
HELD_OUT = 5_000  # rows held out, one fifth of a smaller set


@dataclass(frozen=True, eq=False)
class Classifier:
    """A fitted network with the statistics of its features over the real data.

    `accuracy`: on held-out rows, None where it is not known. `eight_bit`: images are rounded to 256 levels, as those it
    was fitted on. `covariance`: of the z-scored features. `made`: `how` it was fitted, empty where it is not known.
    `data`, `classes`: name and classes of the data, None where they are not known. `encodes`: whether its logits are no
    classes of the data, as those of `contrastive`.

    Shapes: mean, std (d,); covariance (d, d); shape: of one image.
    """

    name: str
    network: Network
    mean: Tensor
    std: Tensor
    covariance: Tensor
    shape: tuple[int, int | None, int | None]
    eight_bit: bool = True
    accuracy: float | None = None
    made: str = ""
    data: str | None = None
    classes: tuple[str, ...] | None = None

    @property
    def encodes(self) -> bool:
        return bool(self.made) and not self.made.startswith("fit/")

    @property
    def origin(self) -> Origin | None:
        """What it was trained on; None where that is not known."""
        found = re.search(r"data=(\S+)", self.made)
        return None if found is None else Origin(found[1], self.data, self.classes)

    def features(self, checksum: str | None = None, device: torch.device | str | None = None) -> Features:
        """Return the features, with logits of classes; `checksum`: of their file, by default of what `save` writes."""
        network = copy.deepcopy(self.network).to(device or "cpu")
        network = network.to(memory_format=torch.channels_last)  # twice as fast on a CPU
        where = next(network.parameters()).device
        mean, std = self.mean.to(where), self.std.to(where)

        def extract(samples: Tensor) -> Extracted:
            found, logits = network(self.levels(samples.to(where, torch.float32)))
            rows = (found - mean) / std
            return rows if self.encodes else (rows, logits)

        fingerprint = checksum or hashlib.sha256(self.packed()).hexdigest()
        return Features(
            self.name, extract, fingerprint[:12], self.shape, (-1.0, 1.0), batch=100, dims=len(self.mean)
        )

    def levels(self, samples: Tensor) -> Tensor:
        """Round images to 256 levels where the network was fitted on those: x → round(127.5 (x + 1)) / 127.5 − 1."""
        if not self.eight_bit:
            return samples
        return (127.5 * (samples + 1)).round().clamp(0, 255) / 127.5 - 1

    def packed(self) -> bytes:
        """Return the file: an .npz of weights in float16, statistics in float32 and, unless shipped, their origin."""
        state = self.network.state_dict()
        arrays = {name: state[name].half().cpu().numpy() for name in LAYERS}
        for name, value in zip(STATISTICS, (self.mean, self.std, self.covariance), strict=True):
            arrays[name] = value.float().cpu().numpy()
        arrays["image_shape"] = np.array([length or 0 for length in self.shape], dtype=np.int32)
        arrays["eight_bit"] = np.array(self.eight_bit)
        if self.accuracy is not None:
            arrays["accuracy"] = np.array(self.accuracy)
        plain = _npz(arrays)
        shipped = hashlib.sha256(plain).hexdigest() in {kept.checksum for kept in SHIPPED.values()}
        if shipped or not self.made:
            return plain
        about = {"made": self.made, "data": self.data, "classes": self.classes}
        return _npz(
            arrays | {key: np.array(value, dtype=str) for key, value in about.items() if value is not None}
        )

    def save(self, path: Path | str) -> None:
        """Write the file that `load` reads."""
        content = self.packed()
        replace_file(Path(path), lambda temporary: (temporary.write_bytes(content), None)[1])


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    held = io.BytesIO()
    np.savez(held, **arrays)  # type: ignore[arg-type]
    return held.getvalue()


def load(path: Path | str, device: torch.device | str | None = None) -> Features:
    """Return the features of a shipped classifier by its name, or of a file.

    Raises: OSError without a file; ValueError for a damaged file, another one, or a shipped one of another checksum.
    """
    shipped = SHIPPED.get(str(path))
    file = WEIGHTS / shipped.file if shipped else Path(path)
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if shipped and found != shipped.checksum:
        raise ValueError(
            f"{file} has the SHA-256 {found[:12]}…, and that of the {path} classifier is {shipped.checksum[:12]}…: "
            "install flowleap again"
        )
    return read(file).features(found, device)


def read(path: Path | str) -> Classifier:
    """Read the file of a classifier; one that was fitted like a shipped one has its name.

    The bits of a fit depend on the processor, so that two such fits may differ in their checksum.

    Raises: OSError without a file; ValueError for a damaged or another file.
    """
    path = Path(path)
    known = {kept.checksum: (name, kept) for name, kept in SHIPPED.items()}
    name, shipped = known.get(hashlib.sha256(path.read_bytes()).hexdigest(), (path.stem, None))
    with Archive(path) as archive:
        lacking = [layer for layer in (*LAYERS, *STATISTICS) if layer not in archive]
        if lacking:
            raise ValueError(
                f"{path} holds no classifier of flowleap: {lacking[0]!r} and {len(lacking) - 1} more arrays are missing"
            )
        arrays = {layer: archive.read(layer) for layer in archive.names}
    try:
        return _assembled(name, arrays, shipped)
    except (RuntimeError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} holds no classifier of flowleap: {reason}") from None


def _assembled(name: str, arrays: dict[str, np.ndarray], shipped: Shipped | None) -> Classifier:
    weights = {layer: torch.from_numpy(arrays[layer]).float() for layer in LAYERS}
    network = from_tensors(weights)
    width, channels = weights["prep.0.weight"].shape[:2]
    mean, std, covariance = (torch.from_numpy(arrays[part]).float() for part in STATISTICS)
    dims = 14 * width
    for part, value in (("feat_mean", mean), ("feat_std", std), ("ref_cov", covariance)):
        if value.shape != ((dims, dims) if part == "ref_cov" else (dims,)):
            raise ValueError(f"{part} has shape {tuple(value.shape)} for {dims} features")
        if not value.isfinite().all() or (part == "feat_std" and value.min() <= 0):
            raise ValueError(f"{part} is not finite or not positive")
    if not all(weight.isfinite().all() for weight in weights.values()):
        raise ValueError("its weights are not finite")
    made = str(arrays.get("made", shipped.made or "" if shipped else ""))
    name = next((known for known, kept in SHIPPED.items() if made and kept.made == made), name)
    data = name if shipped else str(arrays["data"]) if "data" in arrays else None
    sides = arrays.get("image_shape", np.array(shipped.shape if shipped else (channels, 0, 0))).tolist()
    shape = (channels, sides[1] or None, sides[2] or None)
    return Classifier(
        name,
        network,
        mean,
        std,
        covariance.double(),
        shape,
        eight_bit=bool(arrays.get("eight_bit", True)),
        accuracy=float(arrays["accuracy"]) if "accuracy" in arrays else None,
        made=made,
        data=data,
        classes=tuple(arrays["classes"].tolist()) if "classes" in arrays else None,
    )


Tick = Callable[[int], None]


@dataclass(frozen=True)
class Task:
    """What a network learns about images.

    Args:
        name: with its version, for `how`. outputs: how many numbers its head makes of an image.
        ask: (network, images, label, random numbers) → for each image, or each view of one, logits of answers, and the
            number of the right one. Random numbers are None where the network is examined.
        rate: the learning rate for batches of `BATCH`. smoothing: of the answers. fewest: images of a batch.
    """

    name: str
    outputs: int
    ask: Callable[[Network, Tensor, Tensor, torch.Generator | None], tuple[Tensor, Tensor]]
    rate: float = RATE
    smoothing: float = SMOOTHING
    fewest: int = 1


def told(network: Network, x: Tensor, label: Tensor, g: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Ask for the class of images, which are shifted at random in training."""
    return network(x if g is None else shifted(x, g))[1], label


def fit(dataset: Dataset, seed: int = 0, tick: Tick = lambda passes: None) -> Classifier:
    """Fit a classifier to a labelled data set of images of 4 × 4 pixels or more, deterministically on one machine.

    Nesterov momentum with a one-cycle rate, label smoothing, crops shifted by up to an eighth of the side, mirrored
    color images. The accuracy is that of a held-out part of the rows; the statistics of the features are those of all
    rows. It runs in one thread, so that sums have one order; digits take seconds.

    Args:
        tick: called with 1 after each pass over the images, of `epochs` in all.

    Raises: ValueError without labels or images.
    """
    if dataset.label is None or dataset.num_classes is None:
        raise ValueError(f"data set {dataset.name!r} has no labels: a classifier cannot be fitted to it")
    return trained(dataset, dataset.label, Task("fit/1", dataset.num_classes, told), seed, tick)


def trained(dataset: Dataset, label: Tensor, task: Task, seed: int, tick: Tick) -> Classifier:
    """Train the network of a task on a data set, see `fit`.

    Raises: ValueError for other data than images of 4 × 4 pixels or more.
    """
    if dataset.kind != "image" or len(dataset.shape) != 3 or min(dataset.shape[1:]) < 4:
        raise ValueError(
            f"features need images of 4 × 4 pixels or more, {dataset.name!r} has {dataset.shape}"
        )
    channels, height, width = dataset.shape
    rows = torch.randperm(len(dataset), generator=generator(seed, "classifier/held out"))
    out = min(HELD_OUT, len(dataset) // 5)
    with limited(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator(seed, "classifier/start").initial_seed() % 2**63))
        network = Network(channels, NARROW if min(height, width) < 16 else WIDE, task.outputs)
        _train(network, some(dataset.x, rows[out:]), label[rows[out:]], task, seed, tick)
        network.half().float().eval().requires_grad_(False)  # as it is stored
        found, _ = _applied(network, dataset.x)
        right = [
            _right(network, task, dataset.x[part], label[part]) for part in rows[:out].split(BATCH) if out
        ]
    mean, std = found.mean(0), found.std(0).clamp(min=1e-6)
    return Classifier(
        dataset.name,
        network,
        mean.float(),
        std.float(),
        torch.cov(((found - mean) / std).T),
        (channels, height, width),
        eight_bit=all(_eight_bit(part) for part in dataset.x.split(500)),
        accuracy=float(torch.cat(right).double().mean()) if out else None,
        made=how(dataset.checksum, seed, task.name),
        data=dataset.name,
        classes=dataset.class_names,
    )


def epochs(rows: int) -> int:
    """Return how often `fit` passes over the training part of a data set of so many rows."""
    return MORE if rows - min(HELD_OUT, rows // 5) < FEW else EPOCHS


def _eight_bit(x: Tensor) -> bool:
    rough = 127.5 * (x + 1)
    return bool((rough - rough.round()).abs().max() < 1e-3)


def _train(network: Network, x: Samples, label: Tensor, task: Task, seed: int, tick: Tick) -> None:
    batch = min(BATCH, len(x), max(task.fewest, len(x) // 16))
    passes = MORE if len(x) < FEW else EPOCHS
    total = passes * (len(x) // batch)
    optimizer = torch.optim.SGD(
        network.parameters(), task.rate, momentum=0.9, nesterov=True, weight_decay=DECAY
    )
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, task.rate * (batch / BATCH), total_steps=total)
    network.train()
    for epoch in range(passes):
        g = generator(seed, "classifier/epoch", epoch)
        for rows in torch.randperm(len(x), generator=g)[: len(x) // batch * batch].split(batch):
            logits, answer = task.ask(network, x[rows], label[rows], g)
            loss = functional.cross_entropy(logits, answer, label_smoothing=task.smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
        tick(1)


@torch.no_grad()
def _right(network: Network, task: Task, x: Tensor, label: Tensor) -> Tensor:
    logits, answer = task.ask(network, x, label, None)
    return logits.argmax(1) == answer


def shifted(x: Tensor, g: torch.Generator) -> Tensor:
    """Shift images by up to an eighth of their side, edges repeated; mirror half of the color images.

    Shapes: (n, channels, height, width), kept.
    """
    n, channels, height, width = x.shape
    most = max(1, min(height, width) // 8)
    wide = functional.pad(x, (most,) * 4, mode="replicate")
    down, right = torch.randint(2 * most + 1, (2, n, 1), generator=g)
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    if channels == 3:
        mirrored = torch.rand(n, 1, generator=g) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    picked = wide[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def _applied(network: Network, x: Samples) -> tuple[Tensor, Tensor]:
    made = [network(part) for part in x.split(500)]
    return torch.cat([rows for rows, _ in made]).double(), torch.cat([logits for _, logits in made])
