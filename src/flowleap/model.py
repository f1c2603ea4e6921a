"""Train a generator in one call; load it, sample from it, use its parts.

    result = train("meanflow", "two-moons", steps=500)      # into runs/two-moons-meanflow-seed0
    result = train(data="photos/", minutes=30)              # network, batch and steps follow from a measurement
    model = load("runs/digits-esc-seed0")           # a run folder; or published weights, load("0600000.pt")
    images = model.sample(16, label=3, seed=1)      # (16, 1, 8, 8) in [-1, 1]
    pictures = model.images(4)                      # Pillow images, classes in turn

Sample i is that of `flowleap sample` with the same seed, label and number of steps.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flowleap import evaluation, extensions, importers, pictures, processes, threads
from flowleap.autoencoders import Decoder
from flowleap.data import Dataset, classes
from flowleap.evaluation.generation import gathered
from flowleap.export import origin, publishing
from flowleap.flow_map import FlowMap
from flowleap.importers import hub
from flowleap.objectives import Objective
from flowleap.runs import RunResult
from flowleap.runs.reading import Run, load_run
from flowleap.runs.samples import requested
from flowleap.runs.starting import WORDS, Length, prepare, words
from flowleap.training.config import TrainConfig
from flowleap.training.log import Reporter

if TYPE_CHECKING:
    from PIL import Image
    from rich.console import Console

Label = str | int | Sequence[int | str] | Tensor


@dataclass(frozen=True)
class Model:
    """A trained generator.

    Args:
        run: the run that was read, see `runs.Run`.
        vae: the autoencoder that decodes latents, None for the one they were made with.
    """

    run: Run
    vae: str | None = None

    @property
    def flow_map(self) -> FlowMap:
        """X_{t→r}(x) of the weights that were read."""
        return self.run.flow

    @property
    def objective(self) -> Objective:
        """What it was trained for, and how it is sampled."""
        return self.run.objective

    @property
    def network(self) -> nn.Module:
        """The network, in evaluation mode, without gradients."""
        return self.run.network

    @property
    def config(self) -> TrainConfig:
        """All settings of its training."""
        return self.run.config

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes, empty without."""
        return self.run.classes

    @cached_property
    def decoder(self) -> Decoder | None:
        """What makes images of its latents; None for images and points, and where the autoencoder is not at hand."""
        return self.run.decoder(self.vae)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a sample: an image, a point, or a latent that is not decoded."""
        return self.run.shape if self.decoder is None else self.decoder.shape(self.run.shape)

    def sample(
        self,
        num: int = 100,
        label: Label = "all",
        steps: int | None = None,
        seed: int = 0,
        *,
        times: Sequence[float] | None = None,
        guidance: float | None = None,
        interval: tuple[float, float] | None = None,
        noise: Tensor | None = None,
        batch: int = 250,
    ) -> Tensor:
        """Return `num` samples as a tensor; sample i depends on the seed, its label and i only.

        Args:
            label: the class of all samples, by name or by number; "all" for classes in turn; "data" for shares as in
                the training data; or the class of each sample, by name or by number.
            steps: from noise to data, 1 by default. times: those to visit instead, as [1, 0.6, 0].
            guidance: the scale of classifier-free guidance. interval: the times that are guided.
            noise: standard normal noise to start from in place of that of the seed, (num, *run.shape).
            batch: samples that are computed at a time.

        Shapes: (num, *shape), float32 on the CPU; images are in [−1, 1]. Of latents, the decoded images.
        Raises: ValueError for a class that is not known, times that do not suit the method, both steps and times, and
            noise of another shape; NotFinite where samples hold NaN or infinity.
        """
        for name, number in (("num", num), ("seed", seed)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise ValueError(f"{name}={number!r}: a whole number from 0 up is expected")
        if steps is not None and times is not None:
            raise ValueError(f"steps={steps} and times={list(times)} are both given: leave one out")
        if noise is not None and noise.shape != (num, *self.run.shape):
            raise ValueError(f"noise of shape {tuple(noise.shape)}: expected {(num, *self.run.shape)}")
        request = requested(
            self.run,
            self.labels(num, label),
            steps=steps,
            times=times,
            decoder=self.decoder,
            seed=seed,
            guidance=guidance,
            interval=interval,
            noise=noise,
        )
        return gathered(request, num, batch)

    def images(self, num: int = 100, label: Label = "all", **asked: Any) -> list[Image.Image]:
        """Return the samples of `sample` as Pillow images; it takes what `sample` takes.

        Raises: ValueError for a model of points, and of latents whose autoencoder is not at hand; as `sample`.
        """
        if len(self.shape) != 3:
            raise ValueError(f"the samples of {self.run.folder} are points, not images: use sample()")
        if self.run.kind == "latents" and self.decoder is None:
            raise ValueError(
                f"the samples of {self.run.folder} are latents: name what decodes them, load(…, vae=…), or use sample()"
            )
        return pictures.images(self.sample(num, label, **asked))

    def labels(self, num: int, label: Label = "all") -> Tensor | None:
        """Return the labels of `num` samples, see `sample`; None without classes. Shapes: (num,), int64.

        Raises: ValueError for a class that is not known, or another number of labels.
        """
        if isinstance(label, str):
            return evaluation.labels.wanted(label, num, self.classes, self.run.class_counts)[0]
        found = torch.as_tensor(_numbers(label, self.classes))
        if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
            raise ValueError(f"label {label}: classes by name or by whole number are expected")
        found = found.long().expand(num) if found.ndim == 0 else found.long()
        if found.shape != (num,):
            raise ValueError(
                f"label of shape {tuple(found.shape)}: expected one class, or one for each of {num}"
            )
        if num and not 0 <= int(found.min()) <= int(found.max()) < len(self.classes):
            count = len(self.classes)
            known = (
                f"there are {count} classes, 0 to {count - 1}" if count else "it was trained without labels"
            )
            raise ValueError(f"label {label}: {known}")
        return found

    def __repr__(self) -> str:
        size = " × ".join(map(str, self.shape))
        classes = f", {len(self.classes)} classes" if self.classes else ""
        return f"Model({self.config.method} of {self.run.folder}, {self.run.weights}, samples of {size}{classes})"


def _numbers(label: int | Sequence[int | str] | Tensor, known: tuple[str, ...]) -> Any:
    """Return classes with the number of each that is given by its name.

    Raises: ValueError for a name that is not known, and for what is no class.
    """
    if isinstance(label, int | Tensor):
        return label
    try:
        return [classes.find(one, known) if isinstance(one, str) else one for one in label]
    except TypeError:
        raise ValueError(f'label {label!r}: a class, one for each sample, or "all" is expected') from None


def train(
    method: str | None = None,
    data: str | Path | Dataset | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    recipe: str | None = None,
    minutes: float | None = None,
    hours: float | None = None,
    num: int | None = None,
    settings: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
    imports: str | Iterable[str] = (),
    push_to_hub: str | None = None,
    private: bool = False,
    console: Console | None = None,
    **options: Any,
) -> RunResult:
    """Train a generator, as `flowleap train` does with the same options, into a run folder of its own.

    Where nothing is named it is the recipe digits. Options that are not given have the defaults of the command.

    Args:
        data: a data set, its name, or a path. out: the run folder, by default runs/DATA-METHOD-seedN.
        minutes, hours: the time that the run takes; network, batch and steps then follow from data and speed.
        num: samples behind each number of the final table, 0 for no table.
        settings: those of --set, as {"times.diagonal": 0.5}. imports: files and modules, as --import takes them.
        push_to_hub, private: the id of the model on the Hugging Face hub that the finished run becomes.
        console: where progress is printed, None for standard output.
        options: every other option of the command by its name with underscores: steps, batch, lr, network, seed,
            teacher, init, flip, size, …; compiled for --compile.

    Raises: ValueError for an unknown option, and for settings that do not fit one another, before anything is written;
        FileExistsError for a folder that holds a run; Diverged where too many steps in a row were not finite.
    """
    for source in [imports] if isinstance(imports, str) else imports:
        extensions.imported(source)
    own = dict(settings).items() if isinstance(settings, Mapping) else settings
    options |= {name: words(options[name]) for name in WORDS & options.keys()}
    named = data if data is None or isinstance(data, Dataset) else str(data)
    asked = {**options, "method": method, "data": named, "eval_num": num, "settings": list(own)}
    length, reporter = Length.of(minutes, hours), Reporter(console)
    with (
        processes.together(str(options.get("device") or "auto")),
        threads.limited(options.get("threads") or threads.most()),
    ):
        place = None if out is None else Path(out)
        ready = prepare(asked, place, recipe, length, resume=resume, overwrite=overwrite, say=reporter.say)
        publication = publishing.Publication(push_to_hub, private)
        return publishing.train(
            ready, publication, reporter.say, resume=resume, overwrite=overwrite, console=console
        )


def load(
    source: str | Path,
    weights: str = "ema",
    device: str | torch.device = "auto",
    *,
    vae: str | None = None,
    imports: str | Iterable[str] = (),
    published: Mapping[str, Any] | None = None,
) -> Model:
    """Load a trained generator from a run folder, an exported folder of diffusers, or published weights.

    Args:
        source: a run folder, also of a run that is still in training; a folder that `flowleap export diffusers` wrote;
            or a file of weights, or OWNER/NAME[:FILE] of the Hugging Face hub, as `flowleap import` takes them.
        weights: "ema", "raw", "best" or "width-W", as `runs.load_run`.
        device: "cpu", "cuda", …; "auto" is a GPU where there is one.
        vae: the autoencoder that decodes latents. imports: files and modules that define its parts.
        published: what `importers.import_weights` takes for published weights, as {"layout": "sit", "heads": 12}.

    Raises: FileNotFoundError where there is nothing to load; ValueError and CheckpointError as `runs.load_run` and
        `importers.import_weights`.
    """
    for one in [imports] if isinstance(imports, str) else imports:
        extensions.imported(one)
    place = Path(source)
    if origin.written(place):
        if weights != "ema":
            raise ValueError(
                f"weights={weights!r}: {place} is exported, with one set of weights: leave it out"
            )
        return Model(origin.read(place, device), vae)
    if place.is_file() or remote(str(source)):
        return Model(imported(place, weights, device, published or {}), vae)
    return Model(load_run(place, weights, device), vae)


def remote(source: str) -> bool:
    """Return whether a text names a model of the Hugging Face hub: nothing of that name, nor its folder, is here."""
    return hub.is_id(source) and not Path(source).exists() and not Path(source).parent.exists()


def imported(source: Path, weights: str, device: str | torch.device, about: Mapping[str, Any]) -> Run:
    """Return the run that published weights are imported as; nothing of it is left on the disk."""
    with tempfile.TemporaryDirectory() as home:
        place = importers.import_weights(source, Path(home) / "run", weights=weights, **about).folder
        return replace(load_run(place, weights, device), folder=source)
