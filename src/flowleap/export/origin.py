"""The run that an exported folder came from, in flowleap.json beside its weights, and read back.

The file holds what config.json of the run holds, without the places of data and of other runs on this machine.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from flowleap import data as data_sets
from flowleap.export import source
from flowleap.runs import Run, device_of
from flowleap.runs.reading import assembled, config_of
from flowleap.training import folder
from flowleap.training.config import to_dict

NAME, INDEX = "flowleap.json", "model_index.json"


def written(place: Path) -> bool:
    """Return whether a folder is an exported pipeline."""
    return (place / INDEX).is_file()


def write(run: Run, network: dict[str, Any], place: Path) -> None:
    """Write flowleap.json into a folder that holds a network of these options with the weights of a run."""
    content = folder.read(run.folder)
    name = run.config.data.name
    public = {"data.name": name if data_sets.is_name(name) else "", "teacher.path": None, "init.path": None}
    config = replace(run.config.replace(**public), network=network)
    dataset = {key: value for key, value in content["dataset"].items() if key != "place"}
    about = {
        **content,
        "config": to_dict(config),
        "dataset": dataset,
        "weights": run.weights,
        "step": run.step,
    }
    (place / NAME).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def read(place: Path, device: str | torch.device = "cpu") -> Run:
    """Return the run of an exported folder, with its weights; no code in the folder is run.

    Raises: FileNotFoundError for a folder that does not say which run it came from; ValueError without diffusers.
    """
    path = place / NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{place} is a pipeline that says nothing of its run ({NAME} is missing): export the run again, or load it "
            "with diffusers"
        )
    modeling = source.needed("flowleap.export.modeling", "diffusers 0.42 or newer", "diffusers")
    content = json.loads(path.read_text(encoding="utf-8"))
    config = config_of(content["config"], place)
    network = modeling.FlowleapModel.from_pretrained(place, subfolder="network").network
    run = assembled(
        place, config, content, network.to(device_of(device)), content["weights"], content["step"]
    )
    if run.codec is None or not (place / "vae").is_dir():
        return run
    return replace(run, codec=replace(run.codec, vae=str(place / "vae")))
