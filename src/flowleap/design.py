"""The design space as text: the components of methods, side by side, read from their values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from flowleap import methods, serialize
from flowleap.formatting import BLANK
from flowleap.interfaces import Loss
from flowleap.objectives import Objective
from flowleap.tables import Table

WORDS = {
    "path": "flow path",
    "parameterization": "network output",
    "times": "time law",
    "coupling": "noise coupling",
    "guidance": "guidance in training",
    "target": "target, r < t",
    "loss": "loss metric",
    "frozen": "target network",
    "batching": "batches",
    "label_dropout": "label dropout",
}
"""Titles of the fields of an objective."""
HEADINGS = ("name", "type", "steps")
"""Fields that are not part of the design of a method."""
DESIGN = (
    "model type",
    "flow path",
    "network output",
    "time law",
    "first step t → s",
    "second step s → r",
    "one-step prediction",
    "velocity",
    "loss metric",
    "weight",
    "target network",
    "noise coupling",
    "batches",
    "label dropout",
    "guidance in training",
    "sampler",
    "sampled from",
    "steps",
)
"""The rows of the design table."""
MOST_STEPS = 128
"""The largest number of sampling steps in the design table."""


# ---------------------------------------------------------------- names


def hyphens(name: str) -> str:
    """Return a method's name as the command line spells it."""
    return name.replace("_", "-")


def summary(name: str) -> str:
    """Return the first line of the docstring of a method; for a variant without a function, of its method."""
    method, variant = name, ""
    while method and not methods.about(method):
        method, _, last = method.rpartition("_")
        variant = f"{last} {variant}".strip()
    lines = methods.about(method).strip().splitlines() if method else []
    text = lines[0] if lines else name
    return f"{text} Variant {variant}." if variant and method else text


def plain(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return methods as plain data by their names; raises ValueError for an unknown one, with similar names."""
    return {hyphens(methods.key(name)): serialize.to_dict(methods.get(name)) for name in names}


# ---------------------------------------------------------------- the design table


def table(names: Sequence[str] | None = None) -> dict[str, dict[str, str]]:
    """Return the design of each method by its name, of all methods where none are named."""
    asked = dict.fromkeys(methods.key(name) for name in names or methods.names())
    return {hyphens(name): design(methods.get(name)) for name in asked}


def design(objective: Objective) -> dict[str, str]:
    """Return the rows of the design table of a method, as text."""
    told = in_words(objective) | loss_in_words(objective.loss)
    told |= {
        "flow path": brief(objective.path, usual=False),
        "network output": brief(objective.parameterization, usual=False),
        "time law": brief(objective.times),
        "velocity": brief(objective.velocity),
        "target network": brief(objective.frozen),
        "noise coupling": brief(objective.coupling),
        "batches": brief(objective.batching),
        "label dropout": f"{objective.label_dropout:g}",
        "guidance in training": BLANK if objective.guidance is None else brief(objective.guidance),
    }
    told |= sampling_in_words(objective)
    return {label: told.get(label, BLANK) for label in DESIGN}


def sampling_in_words(objective: Objective) -> dict[str, str]:
    """Return the sampler of a method, the time that sampling starts from, and the numbers of steps it is meant for."""
    start = objective.path.t_max if objective.start is None else objective.start
    counts = objective.trained or [n for n in range(1, MOST_STEPS + 1) if not objective.advice(n)]
    steps = ", ".join(map(str, counts))
    if objective.trained is None and MOST_STEPS in counts:
        steps = "any" if counts[0] == 1 else f"{counts[0]} or more"
    return {"sampler": objective.sampling.in_words(), "sampled from": f"t = {start:g}", "steps": steps}


def loss_in_words(loss: Loss) -> dict[str, str]:
    """Return the metric and the weight of a loss, by its `template` around those of the loss inside it."""
    distance = {"loss metric": spoken(loss), "weight": "1"}
    told = distance if loss.inner is None else loss_in_words(loss.inner)
    return told | {name: text.format(**vars(loss) | told) for name, text in loss.template.items()}


def in_words(objective: Objective) -> dict[str, str]:
    """Return the first line of the docstring of a target, and its steps where it has a `template`.

    A template maps names of steps to text, in which {velocity} and {output} are those of the objective.
    """
    doc = (type(objective.target).__doc__ or "").strip().splitlines()
    meaning = objective.parameterization.inner or objective.parameterization
    parts = {"velocity": spoken(objective.velocity), "output": spoken(meaning)}
    steps = {name: text.format(**parts) for name, text in objective.target.template.items()}
    return {"in words": doc[0] if doc else "–"} | steps


def brief(part: Any, usual: bool = True) -> str:
    """Return a part in one phrase: its type, its numbers (with defaults if `usual`), and the parts inside it.

    >>> from flowleap.times import LogitNormal, SortedPair
    >>> brief(SortedPair(LogitNormal(mean=-0.4, std=1.0), diagonal=0.75))
    'sorted pair (diagonal 0.75, fixed) of logit normal (mean -0.4, std 1)'
    """
    held = {f.name: getattr(part, f.name) for f in fields(part)}
    inner = [brief(value) for value in held.values() if is_dataclass(value)]
    shown = [f.name for f in fields(part) if usual or held[f.name] != f.default]
    knobs = [knob(name, held[name]) for name in shown if not is_dataclass(held[name])]
    said = ", ".join(text for text in knobs if text)
    return " of ".join([f"{spoken(part)} ({said})" if said else spoken(part), *inner])


def knob(name: str, value: Any) -> str:
    """Return a field and its value as short text; "" where it is off or not set."""
    if value is None or value is False:
        return ""
    words = name.replace("_", " ")
    return words if value is True else f"{words} {scalar(value)}"


def spoken(part: Any) -> str:
    """Return the type of a part as words: "average velocity" for AverageVelocity, "grid EMA" for GridEMA."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", type(part).__name__)
    return " ".join(word if word.isupper() else word.lower() for word in name.split())


# ---------------------------------------------------------------- side by side


def components(shown: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the components of plain methods side by side: their fields, and below these the steps of their targets."""
    made = Table.of_words("", *shown)
    objectives, tall = [methods.get(name) for name in shown], len(shown) > 2
    for field in next(iter(shown.values())):
        if field in HEADINGS:
            continue
        made.add(WORDS.get(field, field), *(written(whole[field], tall) for whole in shown.values()))
        below = {"target": in_words, "sampling": sampling_in_words}.get(field)
        told = [] if below is None else [below(objective) for objective in objectives]
        for label in dict.fromkeys(label for words in told for label in words):
            made.add(f"  {label}", *(words.get(label, BLANK) for words in told))
    return made


def written(value: Any, tall: bool = False) -> str:
    """Return a part as text: its type with its numbers, one a line if `tall`, and its inner parts."""
    return "\n".join(lines_of(value, tall))


def lines_of(value: Any, tall: bool) -> list[str]:
    """Return the lines of a part, those of inner parts indented, without fields that are None."""
    if not isinstance(value, dict):
        return [scalar(value)]
    inner = {key: item for key, item in value.items() if isinstance(item, dict)}
    knobs = [
        f"{key}={scalar(item)}"
        for key, item in value.items()
        if key != "type" and key not in inner and item is not None
    ]
    if tall or not knobs:
        lines = [value["type"], *(f"  {knob}" for knob in knobs)]
    else:
        lines = [f"{value['type']}({', '.join(knobs)})"]
    for key, item in inner.items():
        first, *rest = lines_of(item, tall)
        lines += [f"  {key}: {first}", *(f"  {line}" for line in rest)]
    return lines


def scalar(value: Any) -> str:
    """Return a plain value as short text."""
    if value is None:
        return "none"
    if isinstance(value, list):
        return "(" + ", ".join(scalar(item) for item in value) + ")"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
