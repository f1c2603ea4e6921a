"""A run as a folder that diffusers loads without flowleap, and such folders read back.

export(source.finished(RUN), DIR)                            # what `flowleap export diffusers` does
pipe = FlowleapPipeline.from_pretrained(DIR)                 # with flowleap, whose code is run
pipe = DiffusionPipeline.from_pretrained(DIR, trust_remote_code=True)             # without, by the code in DIR

model_index.json  pipeline.py  README.md  samples.png        parts and classes, code, model card
flowleap.json                                                the settings of the run, see `export.origin`
network/config.json  network/*.safetensors  network/modeling_flowleap.py
scheduler/scheduler_config.json                              FlowMapEulerDiscreteScheduler
vae/                                                         the autoencoder of latents
"""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, AutoencoderTiny, FlowMapEulerDiscreteScheduler
from safetensors import SafetensorError

from flowleap import evaluation, pictures, samplers, serialize
from flowleap.autoencoders import Decoder
from flowleap.export import card, modeling, origin, pipeline
from flowleap.export.modeling import MEANINGS, NETWORKS, PATHS, FlowleapModel
from flowleap.export.source import guidance_of, replaceable, steps_of
from flowleap.export.standalone import standalone
from flowleap.files import new_folder
from flowleap.networks.options import core, with_core
from flowleap.objectives import Objective
from flowleap.runs import Run, samples

TRAINING_ONLY = {"velocity_head": 0, "log_variance": False, "checkpointing": False}
"""Options that leave out the parts of a network that are used in training only."""
SETTINGS = ("id2label", "sampling", "guidance", "codec")
"""What model_index.json says beside the parts."""


class FlowleapPipeline(pipeline.FlowleapPipeline):
    """The pipeline of an exported folder, by the code of this package."""

    @classmethod
    def from_pretrained(cls, place: Any, **options: Any) -> FlowleapPipeline:
        """Load the folder of a pipeline, or one of the Hugging Face hub by its id; no code in it is run.

        Args:
            options: of `from_pretrained` of the networks, such as torch_dtype.
        """
        folder = Path(place)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            folder = Path(snapshot_download(str(place)))
        index = json.loads((folder / cls.config_name).read_text(encoding="utf-8"))
        known: dict[str, Any] = {"network": FlowleapModel}
        autoencoder = {kind.__name__: kind for kind in (AutoencoderKL, AutoencoderTiny)}.get(index["vae"][1])
        known |= {} if autoencoder is None else {"vae": autoencoder}
        parts = {
            name: kind.from_pretrained(folder, subfolder=name, **options) for name, kind in known.items()
        }
        scheduler = FlowMapEulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
        return cls(scheduler=scheduler, **parts, **{name: index.get(name) for name in SETTINGS})

    def source_code(self) -> dict[str, str]:
        """Return the files of code of the folder, written from the code of this package."""
        config = self.network.config
        used = {
            "NETWORKS": kinds_in(config.architecture),
            "PATHS": kinds_in(config.path),
            "MEANINGS": kinds_in(config.parameterization),
        }
        text = standalone(pipeline.__name__)
        return dict(zip(pipeline.CODE, (text, standalone(modeling.__name__, used, text)), strict=True))


def kinds_in(config: Any) -> list[str]:
    """Return the names of the classes in the options of a part."""
    if not isinstance(config, dict):
        return []
    return [str(config.get("kind")), *(kind for value in config.values() for kind in kinds_in(value))]


def refusal(kind: str, objective: Objective, network: dict[str, Any]) -> str | None:
    """Return why a run of this kind of data, objective and network cannot be a pipeline, or None."""
    parts = described(objective)
    if kind == "points":
        return "its samples are points, and a pipeline makes images"
    if objective.sampling.evaluations > 1:
        return (
            f"{objective.name} steps with a learned solver, of two evaluations and its own times each, and the "
            "scheduler of diffusers takes one velocity for each step"
        )
    known = (
        ("network", NETWORKS, network),
        ("path", PATHS, parts[0]),
        ("parameterization", MEANINGS, parts[1]),
    )
    for what, kinds, config in known:
        other = [kind for kind in kinds_in(config) if kind not in kinds]
        if other:
            return f"its {what} is a {other[0]}, and those that are written are {', '.join(kinds)}"
    return None


def check(run: Run, place: Path) -> None:
    """Raise ValueError for a run that cannot be a pipeline, or a folder of something else."""
    reason = refusal(run.kind, run.objective, run.config.network)
    if reason is not None:
        raise ValueError(f"{run.folder} cannot be exported to diffusers: {reason}")
    replaceable(place, origin.NAME, "a pipeline of flowleap")


def described(objective: Objective) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return path and parameterization as {"kind": the name of the class, option: value, …}."""

    def named(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {"kind" if name == "type" else name: named(inner) for name, inner in value.items()}

    return named(serialize.to_dict(objective.path)), named(serialize.to_dict(objective.parameterization))


def model_of(run: Run) -> FlowleapModel:
    """Return the network of a run with its meaning, without the parts that are used in training only."""
    inner = core(run.config.network)
    leaner = {name: value for name, value in TRAINING_ONLY.items() if name in inner}
    path, parameterization = described(run.objective)
    model = FlowleapModel(
        with_core(run.config.network, inner | leaner),
        path,
        parameterization,
        run.flow.conditioning,
        run.flow.start,
        run.shape,
    )
    weights = run.network.state_dict()
    model.network.load_state_dict({name: weights[name] for name in model.network.state_dict()})
    return model.eval()


def pipeline_of(run: Run, decoder: Decoder | None = None) -> FlowleapPipeline:
    """Return the pipeline of a run, with the autoencoder of latents where there is one."""
    codec = run.codec if decoder is None else decoder.codec
    return FlowleapPipeline(
        network=model_of(run),
        scheduler=FlowMapEulerDiscreteScheduler(),
        vae=None if decoder is None else decoder.autoencoder.module,
        id2label=None if run.num_classes is None else {str(i): name for i, name in enumerate(run.classes)},
        sampling=asdict(replace(run.objective.sampling, trained=run.objective.trained)),
        guidance=guidance_of(run),
        codec=None if codec is None else asdict(codec),
    )


@dataclass(frozen=True)
class Written:
    """An exported folder: its pipeline, and how far its samples are from those of the run, at most."""

    folder: Path
    steps: int
    difference: float


def export(
    run: Run,
    place: Path,
    decoder: Decoder | None = None,
    *,
    name: str | None = None,
    license: str | None = None,
    data_license: str | None = None,
) -> Written:
    """Write a run as a folder that diffusers loads without flowleap; what is at `place` is replaced at the end.

    Args:
        decoder: of latents; None to write a pipeline that makes latents. name: the id on the hub that the card names.
        license, data_license: of the weights and the training data, for the model card.

    Raises: ValueError for a run that cannot be a pipeline, or a folder of something else.
    """
    check(run, place)
    made, steps = pipeline_of(run, decoder), steps_of(run.objective)
    with new_folder(place) as folder:
        try:
            made.save_pretrained(folder)
        except SafetensorError as error:  # as on a full disk
            raise OSError(f"{place} cannot be written: {error}") from error
        origin.write(run, dict(made.network.config.architecture), folder)
        guidance = "" if made.config.guidance is None else made.config.guidance["by"]
        how = {
            "input": "`guidance_scale`, one evaluation a step",
            "two evaluations": "`guidance_scale`, two evaluations a step",
        }
        card_text = card.text(
            run, made.network.network, name or place.name, steps, how.get(guidance, ""), license, data_license
        )
        (folder / "README.md").write_text(card_text, encoding="utf-8", errors="replace")
        if decoder is not None or run.kind == "image":
            shown = samples.first(run, min(40, 4 * (run.num_classes or 10)), steps, decoder)
            label = evaluation.cycle(len(shown), run.num_classes)
            pictures.save(pictures.grid(shown, label=label, names=run.classes), folder / "samples.png")
        difference = parity(run, FlowleapPipeline.from_pretrained(folder), steps)
    return Written(place, steps, difference)


def parity(run: Run, loaded: FlowleapPipeline, steps: int, num: int = 4) -> float:
    """Return the largest difference between samples of a pipeline and of its run, of the same seed."""
    loaded.set_progress_bar_config(disable=True)
    own = loaded(num, steps, seed=0, output_type="latent").images
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        label = evaluation.cycle(num, run.num_classes)
        made = run.objective.sample(run.flow, samplers.noise(0, range(num), run.shape), steps, label=label)
    return float((own - made).abs().max())
