"""A pipeline of diffusers for networks that flowleap trained: images in one step, or a few.

from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)
image = pipe(class_labels=["cat"], seed=0).images[0]
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path as FilePath
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline, FlowMapEulerDiscreteScheduler, ImagePipelineOutput, ModelMixin
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image as PillowImage
from torch import Tensor

from flowleap.data.classes import find
from flowleap.data.codec import Codec
from flowleap.pictures import pixels
from flowleap.samplers import Sampling, fresh, generators, grid, noise, renoising
from flowleap.tensors import guided_label

logger = logging.get_logger(__name__)
CODE = {"pipeline.py": "pipeline", "network/modeling_flowleap.py": "modeling_flowleap"}
"""The files of code in the folder of a pipeline, and what model_index.json calls them."""


class FlowleapPipeline(DiffusionPipeline):
    """Images from noise by a flow map: one evaluation of the network for each step.

    Args:
        network: a `FlowleapModel`.
        scheduler: steps with the average velocity of the network; it and the network are given times, not timesteps.
        vae: what decodes latents; None for a model of pixels.
        id2label: the names of the classes by their numbers, None for a model without classes.
        sampling: which numbers of steps the method is trained for, and how it steps, as `Sampling`.
        guidance: how classifier-free guidance is asked for, by "input" or "two evaluations"; else why it is not. With
            "input" also the usual scale, the largest of training, and whether intervals are known; with "two
            evaluations" the `least` steps that are guided.
        codec: how latents are scaled, as `Codec`.
    """

    model_cpu_offload_seq = "network->vae"
    _optional_components: ClassVar[list[str]] = ["vae"]
    text: ClassVar[str] = FilePath(__file__).read_text(encoding="utf-8")
    """The file of this class, which is saved beside the weights."""

    def __init__(
        self,
        network: ModelMixin,
        scheduler: FlowMapEulerDiscreteScheduler,
        vae: ModelMixin | None = None,
        id2label: dict[str, str] | None = None,
        sampling: dict[str, Any] | None = None,
        guidance: dict[str, Any] | None = None,
        codec: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(network=network, scheduler=scheduler, vae=vae)
        self.register_to_config(id2label=id2label, sampling=sampling, guidance=guidance, codec=codec)

    @property
    def classes(self) -> list[str]:
        """The names of the classes in the order of their numbers; empty without classes."""
        return [
            name for _, name in sorted((self.config.id2label or {}).items(), key=lambda item: int(item[0]))
        ]

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int | None = None,
        num_inference_steps: int = 1,
        guidance_scale: float | None = None,
        class_labels: int | str | Sequence[int | str] | Tensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        seed: int | None = None,
        latents: Tensor | None = None,
        times: Sequence[float] | None = None,
        guidance_interval: tuple[float, float] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Make images.

        Args:
            batch_size: how many; by default as many as labels or latents are given, else one.
            num_inference_steps: steps from noise to image.
            guidance_scale: of classifier-free guidance, 1 for none; None for what is usual for this model.
            class_labels: a class by its name or number, or one for each image; None for all classes in turn.
            generator: of the noise, one for all images or one for each.
            seed: in place of a generator: image i is then that of `flowleap sample --seed`, by seed and i only.
            latents: standard normal noise in place of either, (batch, channels, height, width).
            times: times to visit in place of equal steps, from noise to data, such as (1, 0.6, 0).
            guidance_interval: the first and the last time that are guided, for a model that is told them.
            output_type: "pil"; "np", (n, height, width, channels) in [0, 1]; "pt", (n, channels, height, width) in
                [0, 1]; or "latent", what the network made.
            return_dict: whether an `ImagePipelineOutput` is returned, or a tuple.

        Raises: ValueError for labels out of range, guidance that the model does not have, or noise that does not fit.
        """
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f'output_type={output_type!r}: expected "pil", "np", "pt" or "latent"')
        count = self._count(batch_size, class_labels, latents)
        device = self._execution_device
        start = self._noise(count, generator, seed, latents).to(device)
        labels = self._labels(class_labels, count)
        labels = None if labels is None else labels.to(device)
        told, scale = self._guided(labels, guidance_scale, guidance_interval)
        least = (self.config.guidance or {}).get("least", 1)
        count_of_steps = num_inference_steps if times is None else len(times) - 1
        if scale != 1 and count_of_steps < least:
            raise ValueError(f"guidance_scale={scale:g}: this model is guided in {least} steps or more")
        made = self._sampled(start, told, scale, num_inference_steps, times)
        images = self._finished(made, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _sampled(
        self, start: Tensor, labels: Tensor | None, scale: float, steps: int, times: Sequence[float] | None
    ) -> Tensor:
        """Return samples from standard normal noise, float32."""
        flow, sampling = self.network.flow, Sampling(**(self.config.sampling or {}))
        stops = grid(flow.path, steps, times, flow.start)
        steps = len(stops) - 1
        advice = sampling.advice(steps, uniform=times is None)
        if advice is not None:
            logger.warning(f"{steps} step{'s' * (steps > 1)}: {advice}")
        self.scheduler.set_timesteps(sigmas=stops[:-1], device=start.device)
        stops = [*self.scheduler.sigmas[:-1].tolist(), flow.path.t_min]  # a shift of the scheduler counts
        strength = sampling.renoised(steps)
        random = generators(start) if strength else []
        x = flow.prior(start).to(self.scheduler.sigmas.dtype)
        with self.progress_bar(total=steps) as bar:
            for t, r in pairwise(stops):
                fresh_noise = strength > 0 and r > flow.path.t_min
                below, factor, spread = renoising(flow.path, r, strength) if fresh_noise else (r, 1.0, 0.0)
                u = self._velocity(x, t, below, labels, scale, sampling.instantaneous(steps))
                x = self.scheduler.step(u, *self._timesteps(t, below, x), return_dict=False)[0] * factor
                if fresh_noise:
                    x = x + fresh(random, x) * spread
                bar.update()
        return x.float()

    def _timesteps(self, t: float, r: float, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the scheduler is given for a step from t to r: its timesteps of both, and x between them."""
        given = torch.tensor([t, r], dtype=self.scheduler.sigmas.dtype, device=x.device)
        now, then = (given * self.scheduler.config.num_train_timesteps).unbind()
        return now, x, then

    def _velocity(
        self, x: Tensor, t: float, r: float, labels: Tensor | None, scale: float, instantaneous: bool
    ) -> Tensor:
        """Return the velocity of a step, guided by two evaluations where the scale is not 1."""
        if scale == 1 or labels is None:
            return self.network(x, t, r, labels, instantaneous, return_dict=False)[0]
        both = torch.cat([labels, torch.full_like(labels, self.network.flow.num_classes)])
        u = self.network(torch.cat([x, x]), t, r, both, instantaneous, return_dict=False)[0]
        known, unknown = u.chunk(2)
        return unknown + scale * (known - unknown)

    def _count(self, batch_size: int | None, class_labels: Any, latents: Tensor | None) -> int:
        """Return how many images are asked for.

        Raises: ValueError where labels, latents and the number do not agree.
        """
        single = class_labels is None or isinstance(class_labels, int | str)
        found = {
            "batch_size": batch_size,
            "class_labels": None if single else len(class_labels),
            "latents": None if latents is None else len(latents),
        }
        given = {name: number for name, number in found.items() if number is not None}
        if len(set(given.values())) > 1 or min(given.values(), default=1) < 1:
            told = ", ".join(f"{number} of {name}" for name, number in given.items())
            raise ValueError(f"{told}: one number of images, of 1 or more, is expected")
        return next(iter(given.values()), 1)

    def _noise(self, count: int, generator: Any, seed: int | None, latents: Tensor | None) -> Tensor:
        """Return standard normal noise, float32."""
        shape = (count, *self.network.config.sample_shape)
        given = [
            name
            for name, x in (("generator", generator), ("seed", seed), ("latents", latents))
            if x is not None
        ]
        if len(given) > 1:
            raise ValueError(
                f"{' and '.join(given)} were given, and one of them makes the noise: leave the others out"
            )
        if isinstance(generator, list) and len(generator) != count:
            raise ValueError(f"{len(generator)} generators for {count} images: give one, or one for each")
        if latents is not None and tuple(latents.shape) != shape:
            raise ValueError(f"latents of shape {tuple(latents.shape)}: noise of shape {shape} is expected")
        if latents is not None:
            return latents.float()
        if seed is not None:
            return noise(seed, range(count), shape[1:])
        return randn_tensor(shape, generator=generator, device=self._execution_device, dtype=torch.float32)

    def _labels(self, class_labels: Any, count: int) -> Tensor | None:
        """Return the number of the class of each image, (count,) int64; None without classes.

        Raises: ValueError for a class that the model does not know.
        """
        classes, names = self.network.flow.num_classes, self.classes
        if classes is None:
            if class_labels is not None:
                raise ValueError("this model was trained without classes: leave class_labels out")
            return None
        if class_labels is None:
            return torch.arange(count) % classes
        given = class_labels.tolist() if isinstance(class_labels, Tensor) else class_labels
        each = [given] * count if isinstance(given, int | str) else given
        numbers = [find(label, names) if isinstance(label, str) else int(label) for label in each]
        wrong = [number for number in numbers if not 0 <= number < classes]
        if wrong:
            raise ValueError(
                f"class label {wrong[0]} is out of range: this model knows the classes 0 to {classes - 1}, "
                f"{names[0]!r} to {names[-1]!r}"
            )
        return torch.tensor(numbers)

    def _guided(
        self, labels: Tensor | None, scale: float | None, interval: tuple[float, float] | None
    ) -> tuple[Tensor | None, float]:
        """Return the labels that the network is given, and the scale of guidance by two evaluations, 1 for none.

        Raises: ValueError for guidance that this model does not have.
        """
        about = self.config.guidance or {"by": "it was trained without classes"}
        if interval is not None and not about.get("intervals"):
            raise ValueError(
                f"guidance_interval={interval}: this model was not trained with one: leave it out"
            )
        if about["by"] == "input" and labels is not None:
            scale = float(about["usual"] if scale is None else scale)
            if not 1 <= scale <= about["largest"]:
                raise ValueError(
                    f"guidance_scale={scale:g}: this model knows scales from 1 to {about['largest']:g}"
                )
            first, last = (0.0, 1.0) if interval is None else interval
            if not 0 <= first < last <= 1:
                raise ValueError(f"guidance_interval={interval}: two times 0 <= from < to <= 1 are expected")
            told = (1.0, 0.0, 1.0) if scale == 1 else (scale, first, last)
            return guided_label(
                labels, torch.tensor([told], device=labels.device).expand(len(labels), -1)
            ), 1.0
        if scale is None or scale == 1:
            return labels, 1.0
        if about["by"] != "two evaluations":
            raise ValueError(f"guidance_scale: {about['by']}. Leave guidance_scale out, or give 1")
        return labels, float(scale)

    def _finished(self, made: Tensor, output_type: str) -> Any:
        """Return samples of the network as images of a type."""
        if output_type == "latent":
            return made
        if self.vae is not None:
            codec = Codec(**self.config.codec)
            made = self.vae.decode(codec.unscaled(made).to(self.vae.dtype), return_dict=False)[0].float()
            made = made.mean(dim=1, keepdim=True) if codec.channels == 1 else made
        elif self.config.codec is not None:
            name = self.config.codec["vae"] or "an autoencoder"
            raise ValueError(
                f"output_type={output_type!r}: this model makes latents of {name} and has no vae here: ask for "
                'output_type="latent"'
            )
        made = made.clamp(-1, 1)
        if output_type == "pil":
            gray = made.shape[1] == 1
            return [PillowImage.fromarray(image[..., 0] if gray else image) for image in pixels(made)]
        unit = made / 2 + 0.5
        return unit.cpu().permute(0, 2, 3, 1).numpy() if output_type == "np" else unit

    def source_code(self) -> dict[str, str]:
        """Return the text of each file of `CODE`."""
        return dict(zip(CODE, (self.text, type(self.network).text), strict=True))

    def save_config(self, save_directory: Any, **options: Any) -> None:
        """Write model_index.json, and the code that it names."""
        super().save_config(save_directory, **options)
        place = FilePath(save_directory)
        index = json.loads((place / self.config_name).read_text(encoding="utf-8"))
        pipeline, model = CODE.values()
        index["_class_name"] = [pipeline, type(self).__name__]
        index.pop("_name_or_path", None)
        index["network"] = [model, type(self.network).__name__]
        (place / self.config_name).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        for name, text in self.source_code().items():
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_text(text, encoding="utf-8")
