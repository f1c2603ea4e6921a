"""The table of a study: mean ± standard deviation over seeds, with notes on how the numbers were made."""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from flowleap.evaluation.protocol import MEASURED, same
from flowleap.evaluation.quality_table import closer
from flowleap.files import replace_file
from flowleap.formatting import BLANK, number, scaled
from flowleap.networks.options import core
from flowleap.reports.entry import finite
from flowleap.studies import ablation
from flowleap.studies.budget import parse
from flowleap.studies.outcome import Outcome
from flowleap.studies.plan import REFERENCE, Plan, Row
from flowleap.tables import Table


def aggregate(plan: Plan, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return one row for each method and number of steps, over the seeds that were evaluated.

    `seconds` and `forward_equivalents` are of training one run, of both phases, the mean over seeds; the standard
    deviation is that of a sample, None for a single seed. Rows of an ablation also hold the paired difference of their
    distance to that of the whole method, with its standard error.

    Raises: ValueError where numbers were measured by different protocols.
    """
    measured = [row for outcome in outcomes for row in outcome.rows]
    evaluator = same(measured) if measured else None
    found = []
    whole = [outcome for outcome in outcomes if outcome.method == plan.full]
    for row in plan.shown:
        own = [outcome for outcome in outcomes if outcome.method == row.method]
        for steps in plan.request.steps:
            made = _row(row, steps, own, evaluator)
            if plan.full is not None:
                held = row.method != plan.full and row is not plan.teacher
                mean, error = paired(own, whole, steps) if held else (None, None)
                made |= {"difference_mean": mean, "difference_error": error}
            found.append(made)
    return found


def paired(own: Sequence[Outcome], whole: Sequence[Outcome], steps: int) -> tuple[float | None, float | None]:
    """Return the difference in distance of a variant to the whole method: the mean over the seeds of both, and its
    standard error, None for a single seed."""
    first, second = (
        {o.seed: one["distance"] for o in side for one in o.rows if one["steps"] == steps}
        for side in (own, whole)
    )
    both = [
        seed for seed in first if finite(first[seed]) is not None and finite(second.get(seed)) is not None
    ]
    mean, deviation = spread(first[seed] - second[seed] for seed in both)
    return mean, None if deviation is None else deviation / math.sqrt(len(both))


def _row(row: Row, steps: int, outcomes: Sequence[Outcome], evaluator: str | None) -> dict[str, Any]:
    pairs = [(o, one) for o in outcomes for one in o.rows if one["steps"] == steps]
    measured = [one for _, one in pairs]
    first: Mapping[str, Any] = measured[0] if measured else {}
    seeds = [o.seed for o, one in pairs if finite(one["distance"]) is not None]
    reasons = [o.reason for o in outcomes if o.reason is not None]
    lost = [o.seed for o, one in pairs if finite(one["distance"]) is None]
    reasons += [f"samples of seed {seed} at {steps} steps are not finite" for seed in lost]
    mean, deviation = spread(one["distance"] for one in measured)
    accuracy, scatter = spread(one["agreement"] for one in measured)
    kernel, wide = spread(one["kernel_distance"] for one in measured)
    return {
        "method": row.method,
        "nfe": first.get("nfe", steps),
        "features": first.get("features"),
        "distance_mean": mean,
        "distance_std": deviation,
        "agreement_mean": accuracy,
        "seconds": spread(o.seconds for o in outcomes)[0],
        "forward_equivalents": spread(o.forward_equivalents for o in outcomes)[0],
        "intended": first.get("intended"),
        "steps": steps,
        "agreement_std": scatter,
        "kernel_distance_mean": kernel,
        "kernel_distance_std": wide,
        "nearest_ratio_mean": spread(one["nearest_ratio"] for one in measured)[0],
        "sampling_seconds": spread(one["seconds"] for one in measured)[0],
        "training_steps": row.steps,
        "phases": row.phases,
        "images": row.images,
        "variant": row.variant,
        "seeds": seeds,
        "failed": sorted({*(o.seed for o in outcomes if o.failed), *lost}),
        "reason": "; ".join(dict.fromkeys(reasons)) or None,
        "metric": first.get("metric"),
        "floor": first.get("floor"),
        "judge": first.get("judge"),
        "protocol": evaluator,
    }


def spread(values: Iterable[Any]) -> tuple[float | None, float | None]:
    """Return mean and standard deviation of the finite values; None where there are none, or one.

    >>> spread([1.0, None, 3.0]), spread([2.0]), spread([])
    ((2.0, 1.4142135623730951), (2.0, None), (None, None))
    """
    known = [one for value in values if (one := finite(value)) is not None]
    if not known:
        return None, None
    return fmean(known), stdev(known) if len(known) > 1 else None


# ---------------------------------------------------------------- text


def cell(row: Mapping[str, Any], name: str = "distance") -> str:
    """Return mean ± standard deviation of a row, in parentheses where the method is not meant for its steps."""
    mean, deviation = row[f"{name}_mean"], row.get(f"{name}_std")
    if mean is None:
        return BLANK
    text = number(mean) if deviation is None else f"{number(mean)} ± {number(deviation, 2)}"
    return text if row["intended"] else f"({text})"


def difference(row: Mapping[str, Any]) -> str:
    """Return the signed difference to the whole method ± its standard error, with one place more than the distance.

    >>> difference({"distance_mean": 0.316, "difference_mean": 0.05123, "difference_error": 0.0123})
    '+0.0512 ± 0.0123'
    """
    mean, error = row["difference_mean"], row["difference_error"]
    if mean is None:
        return BLANK
    places = len(number(row["distance_mean"]).partition(".")[2]) + 1
    text = number(mean, places=places, sign="+")
    return text if error is None else f"{text} ± {number(error, places=places)}"


def distances(plan: Plan, rows: Sequence[Mapping[str, Any]], method: str) -> list[str]:
    """Return the cells of the distances of a method; in an ablation each is followed by its difference."""
    own = [row for row in rows if row["method"] == method]
    shown = (cell,) if plan.full is None else (cell, difference)
    return [text(row) for row in own for text in shown]


def headings(plan: Plan, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the titles of `distances`."""
    metric = next((row["metric"] for row in rows if row["metric"]), "distance")
    delta = [] if plan.full is None else ["Δ"]
    return [text for steps in plan.request.steps for text in (f"{metric} at {steps}", *delta)]


def title(plan: Plan) -> str:
    """Return the title of a study."""
    request = plan.request
    if request.ablates:
        what = "its components" if request.drop else " × ".join(name for name, _ in request.over)
        return f"{request.names()[0]} on {request.data}, ablated: {what}"
    return f"{len(plan.rows)} training objectives on {request.data}"


def command(plan: Plan) -> str:
    """Return the command of a study, without its folder."""
    request = plan.request
    words = ["flowleap compare", f"--methods {','.join(request.methods)}"]
    if request.ablates:
        words = ["flowleap ablate", request.names()[0]]
        words += [f"--drop {','.join(request.drop)}"] if request.drop else []
        crossed = [f"{name}={','.join(texts)}" for name, texts in request.over]
        words += [f"--over {shlex.quote(text)}" for text in crossed]
    words.append(f"--data {request.data}")
    words += [f"--budget {request.budget}", f"--seeds {request.seeds}", f"--equal {plan.equal}"]
    words += [f"--show {','.join(map(str, request.steps))}", f"--num {request.num}"]
    words += [f"--teacher {shlex.quote(request.teacher)}"] if request.teacher else []
    words += [f"--network {request.network}"] if request.network else []
    words += [f"--batch {request.batch}"] if request.batch else []
    words += [f"--set {shlex.quote(f'{name}={value}')}" for name, value in request.settings]
    return " ".join(words)


def drawn(plan: Plan, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table with one line for each method."""
    labeled = any(row["agreement_mean"] is not None for row in rows)
    accuracies = [f"label accuracy at {steps}" for steps in plan.request.steps] if labeled else []
    titles = ["method", *headings(plan, rows), *accuracies, "steps", "forward-equivalents", "seconds"]
    made = Table(titles)
    for row in plan.shown:
        own = [one for one in rows if one["method"] == row.method]
        accuracy = [cell(one, "agreement") for one in own] if labeled else []
        split = f"{row.steps // 2} + {row.steps - row.steps // 2}" if row.phases == 2 else str(row.steps)
        spent = (scaled(own[0]["forward_equivalents"]), number(own[0]["seconds"]))
        made.add(row.method, *distances(plan, rows, row.method), *accuracy, split, *spent)
    return made


def markdown(plan: Plan, outcomes: Sequence[Outcome], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table and its notes as Markdown."""
    text = drawn(plan, rows).markdown(notes(plan, outcomes, rows))
    return f"# {title(plan)}, {plan.request.budget} a run\n\n{text}"


def notes(plan: Plan, outcomes: Sequence[Outcome], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return notes on the numbers, the budget and the network, and on failed runs."""
    seeds = plan.request.seeds
    config = plan.rows[0].configured(0)
    inner = core(config.network)
    network = {key: inner.get(key) for key in ("kind", "patch", "width", "depth", "heads")}
    batches = " or ".join(dict.fromkeys(str(row.config.data.batch) for row in plan.rows))
    decays = " or ".join(dict.fromkeys(str(row.config.optimizer.ema[0]) for row in plan.rows))
    shape = ", ".join(f"{key} {value}" for key, value in network.items() if value is not None)
    over = f"mean ± standard deviation over seeds 0 to {seeds - 1}" if seeds > 1 else "a single seed, 0"
    found = [
        f"{over}; in parentheses: not a step count this method is made for",
        f"equal {plan.equal}: {_terms(plan)}; the same initial weights and the same data order for all "
        f"methods{_exceptions(plan)}",
        f"network: {shape}; batches of {batches}; measured with averaged weights (EMA, decay {decays})",
    ]
    found += _teaching(plan)
    found.append(
        "forward-equivalents: forward passes of one image in the training of one run, a backward pass counted as two; "
        "seconds: of that training (and of making the pairs), on one machine"
    )
    if plan.full is None:
        found.append("variants: " + ", ".join(f"{row.method} {row.variant}" for row in plan.rows))
    found += _ablated(plan)
    if own := [(name, value) for name, value in plan.request.settings if ":" in name]:
        told = ", ".join(f"{name.replace(':', ' ')}={value}" for name, value in own)
        found.append(f"own settings: {told}")
    measured = [row for row in rows if row["protocol"]]
    if measured:
        first = measured[0]
        if first["floor"] is not None:
            accuracy = "" if first["judge"] is None else f"; classifier accuracy {number(first['judge'])}"
            found.append(f"real data: distance between its halves {number(first['floor'])}{accuracy}")
        found += closer(row["nearest_ratio_mean"] for row in measured)
        guided = dict.fromkeys(str(one["guidance"]) for o in outcomes for one in o.rows)
        found.append(f"guidance: {', '.join(guided)}; protocol: {first['protocol']}{MEASURED}ema")
    found += [f"FAILED: {o.method} seed {o.seed}: {o.reason}" for o in outcomes if o.failed]
    found += [
        f"NOT FINITE: {row['method']} at {row['steps']} steps: {row['reason']}"
        for row in rows
        if row["reason"]
        and "not finite" in row["reason"]
        and not all(o.failed for o in outcomes if o.method == row["method"])
    ]
    return [*found, f"made by: {command(plan)}"]


def _ablated(plan: Plan) -> list[str]:
    """Return notes on the components of an ablation and on Δ; none for a comparison."""
    if plan.full is None:
        return []
    row = plan.row(plan.full)
    error = " ± its standard error over seeds" if plan.request.seeds > 1 else ", of a single seed"
    found = [f"Δ: difference to plain {plan.full} ({row.variant}), per seed{error}; above zero is worse"]
    key, objective = row.config.method, row.config.objective
    if not plan.request.drop:
        return found
    for part in ablation.named(key, objective, plan.request.drop):
        kept, gone = (type(part.part).__name__, type(part.without).__name__)
        found.append(f"{part.name}: {part.field} is {kept}, without it {gone}")
    base = ablation.BUILT_ON[key].replace("_", "-")
    left = [f"{name} is {a}, not {b}" for name, a, b in ablation.remainder(key, objective)]
    but = f", but {'; '.join(left)}" if left else ""
    return [*found, f"without all of its components it is {base}{but}"]


def _teaching(plan: Plan) -> list[str]:
    """Return notes on teachers and what they cost."""
    found = []
    two = [row.method for row in plan.rows if row.phases == 2]
    if two:
        found.append(
            f"two phases, teacher and student, with half of the steps each: {', '.join(two)}; their cost and "
            "seconds are those of both"
        )
    if plan.teacher is not None:
        given = plan.teacher.config
        taught = ", ".join(row.method for row in plan.rows if row.config.teacher.path is not None)
        found.append(
            f"teacher: {plan.request.teacher}, {given.method.replace('_', '-')}, {given.schedule.steps} steps, "
            f"seed {given.seed}; it teaches {taught} in all seeds, and its cost is not included in theirs"
        )
    for row in (row for row in plan.rows if row.pairs):
        counted = "counted in its budget" if plan.equal == "flops" else "not counted in its budget"
        found.append(
            f"between its phases the teacher of {row.method} makes {row.pairs:,} pairs, {scaled(row.once)} "
            f"forward-equivalents, shown in its cost and {counted}"
        )
    return found


def _exceptions(plan: Plan) -> str:
    """Return which methods have another network or another kind of batches."""
    usual = plan.rows[0].config
    bodies = [{**row.config.network, "log_variance": None} for row in plan.rows]
    headed = [row.method for row in plan.rows if row.config.network.get("log_variance")]
    counted = [json.dumps(body, sort_keys=True) for body in bodies]
    most = max(counted, key=counted.count)
    other = [row.method for row, text in zip(plan.rows, counted, strict=True) if text != most]
    grouped = [r.method for r in plan.rows if r.config.objective.batching != usual.objective.batching]
    said = [f", but {', '.join(other)}, whose network is another"] if other else []
    if 0 < len(headed) < len(plan.rows):
        said += [f"; the network of {', '.join(headed)} has one more head, for the learned weight"]
    if grouped:
        said += [
            f"; batches of {', '.join(grouped)} are grouped in another way than those of {plan.rows[0].method}"
        ]
    return "".join(said)


def _terms(plan: Plan) -> str:
    reference = plan.full or REFERENCE
    budget = plan.request.budget
    if plan.equal == "steps":
        return f"{budget} for every run"
    unit = "forward-equivalents" if plan.equal == "flops" else "training time"
    if plan.equal == "time" and parse(budget).unit == "seconds":
        return f"{budget} of training for every run, turned into steps by measurement before the start"
    return f"every run gets the {unit} of {budget} of {reference}"


# ---------------------------------------------------------------- files


def write(
    out: Path, plan: Plan, outcomes: Sequence[Outcome], rows: Sequence[Mapping[str, Any]]
) -> list[Path]:
    """Write table.md, table.csv and table.json, and return where they are."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows(map(_flat, row.values()) for row in rows)
    made = {
        "table.md": markdown(plan, outcomes, rows),
        "table.csv": text.getvalue(),
        "table.json": json.dumps(rows, indent=2) + "\n",
    }
    for name, content in made.items():
        replace_file(out / name, content)
    return [out / name for name in made]


def _flat(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(str, value)) if isinstance(value, list) else value
