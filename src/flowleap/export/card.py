"""The model card of an exported run: how to use it, what it was trained on and how, its quality, licences, papers."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from torch import nn

from flowleap import methods, networks, provenance
from flowleap.pictures import printable
from flowleap.runs import Run

TEMPLATE = Path(__file__).with_name("card.md")
UNKNOWN = "not stated"
LISTED = 50
"""Classes that are named in the card; the others are in model_index.json."""
SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-!|~])")


def text(
    run: Run,
    network: nn.Module,
    place: str,
    steps: int,
    guidance: str,
    license: str | None,
    data_license: str | None,
) -> str:
    """Return the model card as Markdown with metadata, by the card helper of diffusers.

    Args:
        network: as it is written. place: the folder, or the id on the hub, in the example.
        steps: the fewest that the method is meant for. guidance: how it is asked for, "" for not at all.
        license, data_license: of the weights and of the training data, None where they are not known.
    """
    from diffusers.utils.hub_utils import populate_model_card
    from huggingface_hub import ModelCard, ModelCardData

    about = ModelCardData(license=license or "unknown", pipeline_tag="unconditional-image-generation")
    card = ModelCard.from_template(
        about,
        template_path=str(TEMPLATE),
        title=escaped(Path(place).name),
        network=escaped(networks.describe(network)),
        method=escaped(run.objective.name),
        data=escaped(run.config.data.name or "data that are not named"),
        steps=f"{run.step:,}",
        batch=run.config.data.batch,
        seed=run.config.seed,
        weights=escaped(run.weights),
        sampling_steps=steps,
        advice=f" (`num_inference_steps={steps}`)" if steps > 1 else "",
        place=place.replace('"', ""),
        call=call(run, steps),
        classes=listed(run.classes),
        guidance=guidance,
        quality=quality(run),
        settings=settings(run),
        version=provenance.version("flowleap"),
        license=escaped(license or UNKNOWN),
        data_license=escaped(data_license or UNKNOWN),
        citation="\n\n".join(paper.bibtex for paper in methods.citations(run.objective)),
    )
    return str(populate_model_card(card, ["flowleap", "image-generation"]))


def escaped(name: str) -> str:
    """Return a name so that Markdown and HTML show it as it is.

    >>> escaped("a_<b>|'c'")
    'a\\\\_&lt;b&gt;\\\\|&\\\\#x27;c&\\\\#x27;'
    """
    return SPECIAL.sub(r"\\\1", html.escape(printable(name, most=200)).replace("\n", " "))


def listed(names: tuple[str, ...]) -> str:
    """Return the names of classes, the first of many."""
    more = len(names) - LISTED
    return ", ".join(escaped(name) for name in names[:LISTED]) + (f" and {more:,} more" if more > 0 else "")


def call(run: Run, steps: int) -> str:
    """Return the arguments of an example: a class, if there are any, a seed, and the steps if one is not enough."""
    given = [f"class_labels=[{json.dumps(printable(run.classes[0], most=200))}]"] if run.classes else []
    return ", ".join([*given, *([f"num_inference_steps={steps}"] if steps > 1 else []), "seed=0"])


def quality(run: Run) -> str:
    """Return the table of the run with the protocol of its numbers, if it is of these weights."""
    table, rows = run.folder / "table.md", run.folder / "table.json"
    if table.is_file() and rows.is_file():
        measured: Any = json.loads(rows.read_text(encoding="utf-8"))
        if measured and all(
            f"weights={run.weights};" in str(row["protocol"]) for row in measured if "protocol" in row
        ):
            return table.read_text(encoding="utf-8").strip()
    return "Not measured for these weights: `flowleap evaluate RUN` measures it."


def settings(run: Run) -> list[tuple[str, str]]:
    """Return the settings of the training by their names."""
    config = run.config
    found = {
        "method": config.method,
        "data": config.data.name,
        "images seen": f"{run.step * config.data.batch:,}",
        "batch": config.data.batch,
        "learning rate": config.optimizer.lr,
        "EMA": ", ".join(map(str, config.optimizer.ema)),
        "precision": config.parallel.precision,
        "recipe": config.recipe or "none",
    }
    return [(name, escaped(str(value))) for name, value in found.items()]
