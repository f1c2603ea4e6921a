"""One step on Fashion-MNIST, on a laptop: the recipe `fashion-mnist`, and flow matching with all its settings.

    uv run python benchmarks/fashion_mnist.py --data FILE     # trains what is missing, then writes fashion_mnist.md

FILE is Fashion-MNIST as `flowleap train --data` takes it: its IDX files, or an .npz of them. Each run is one
`flowleap train`, printed before it starts, on all cores; interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from itertools import groupby
from pathlib import Path
from typing import Any

from kept import machine

from flowleap.runs import recipes

HERE = Path(__file__).with_suffix("")
RECIPE, BASE = "fashion-mnist", "flow-matching"
RUNS = (RECIPE, BASE)
SHARED = ("steps", "batch", "lr", "warmup", "decay", "clip", "eval_num")
SHOWN = "1,2,4,128"
KEPT = ("grid.png", "table.json", "table.md", "quality.jsonl")
MINUTES, AGREEMENT, PART = 45, 0.80, 1 / 3


def command(name: str, data: str, place: Path) -> list[str]:
    """Return the words that begin a run: the recipe, or the other method with its settings."""
    if name == RECIPE:
        return ["train", "--recipe", RECIPE, "--data", data, "--show", SHOWN, "--out", str(place)]
    recipe = recipes.get(RECIPE)
    given = {field: getattr(recipe, field) for field in SHARED} | {
        "label_dropout": recipe.objective.label_dropout
    }
    given |= {"ema": ",".join(map(str, recipe.ema))} | {f"network.{k}": v for k, v in recipe.options.items()}
    settings = [word for field, value in given.items() for word in ("--set", f"{field}={value}")]
    return [
        "train",
        name,
        "--data",
        data,
        "--network",
        recipe.network,
        *settings,
        "--show",
        SHOWN,
        "--out",
        str(place),
    ]


def train(name: str, data: str, place: Path) -> None:
    """Train a run unless it is finished, and note the seconds of all its sittings."""
    words = command(name, data, place)
    if not same(place.with_suffix(".command"), shlex.join(words)):
        raise SystemExit(f"{place} is a run of other settings than those of now: give another --out")
    if (place / "table.json").exists():
        return
    if (place / "config.json").exists():
        words = ["train", "--resume", "--out", str(place)]
    print("flowleap " + shlex.join(words), flush=True)
    begin, clock = time.monotonic(), place.with_suffix(".seconds")
    done = subprocess.run([sys.executable, "-m", "flowleap", *words], check=False)
    before = float(clock.read_text()) if clock.exists() else 0.0
    clock.write_text(f"{before + time.monotonic() - begin:.0f}\n")
    if done.returncode:
        raise SystemExit(done.returncode)


def same(file: Path, text: str) -> bool:
    """Note a text in a file that is not there yet; otherwise say whether it is the one in it."""
    if not file.exists():
        file.write_text(text + "\n")
    return file.read_text().strip() == text


def guide(place: Path) -> None:
    """Measure the other method guided when it is sampled, by the scale that the recipe has learned; once."""
    file, recipe = place / "guided.json", recipes.get(RECIPE)
    if file.exists():
        return
    words = ["evaluate", str(place), "--guidance", f"{recipe.objective.guidance.scale:g}", "--json"]
    print("flowleap " + shlex.join(words), flush=True)
    told = subprocess.run(
        [sys.executable, "-m", "flowleap", *words, "--num", str(recipe.eval_num)],
        check=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    file.write_bytes(told.stdout)


def keep(name: str, place: Path, asked: str, remark: str | None = None) -> None:
    """Copy what a run left."""
    kept = HERE / name
    kept.mkdir(parents=True, exist_ok=True)
    for file in (*KEPT, "guided.json"):
        if (place / file).exists():
            shutil.copy(place / file, kept / file)
    about = {
        "command": asked,
        "machine": machine(),
        "seconds": float(place.with_suffix(".seconds").read_text()),
    } | ({} if remark is None or name == RECIPE else {"remark": remark})
    (kept / "about.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def read(name: str) -> tuple[dict[int, dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """Return the final rows of a run by steps, what was measured on the way, and about.json."""
    kept = HERE / name
    rows = {row["steps"]: row for row in json.loads((kept / "table.json").read_text())}
    lines = (kept / "quality.jsonl").read_text(encoding="utf-8").splitlines()
    return rows, [json.loads(line) for line in lines], json.loads((kept / "about.json").read_text())


def curve(measured: dict[str, list[dict[str, Any]]]) -> None:
    """Draw the distance of one and four steps over the minutes of training."""
    from flowleap import pictures

    series = {}
    for name, lines in measured.items():
        for steps in (1, 4):
            rows = [row for row in lines if row["steps"] == steps and row["distance"] is not None]
            at, values = [row["seconds"] / 60 for row in rows], [row["distance"] for row in rows]
            series[f"{name}, {steps} step{'s' * (steps > 1)}"] = (at, values)
    pictures.curves(
        series,
        HERE / "curve.png",
        xlabel="minutes",
        ylabel="FD-fashion-mnist",
        title="Distance to the training images while training",
        log=True,
        window=1,
    )


def page() -> list[str]:
    """Return the page of what is kept."""
    found = {name: read(name) for name in RUNS}
    about, scale = found[RECIPE][2], recipes.get(RECIPE).objective.guidance.scale
    curve({name: lines for name, (_, lines, _) in found.items()})
    tables = {name: rows for name, (rows, _, _) in found.items()}
    guided = json.loads((HERE / BASE / "guided.json").read_text())
    tables[f"{BASE}, guided by {scale:g}"] = {row["steps"]: row for row in guided}
    one = tables[RECIPE][1]
    lines = [
        "# Fashion-MNIST in one step, on a laptop",
        "",
        "Made by [fashion_mnist.py](fashion_mnist.py): the same network, batch, steps and optimizer for both, on all "
        f"of {about['machine']}. The recipe learns to be guided (its scale, {scale:g}, is part of the weights, and "
        "costs nothing afterwards); flow matching is shown without guidance, and with that scale, which doubles its "
        "evaluations.",
        "",
        *(
            f"- {name}: `{detail['command']}`, {detail['seconds'] / 60:.1f} min{detail.get('remark', '')}"
            for name, (*_, detail) in found.items()
        ),
        "",
        *numbers(tables),
        "",
        *goals(one, tables[BASE][1], about["seconds"] / 60),
        "",
        f"Distance: {one['metric']} of the classifier that ships with flowleap (its checksum is in the protocol), "
        f"samples against the held-out test images; two halves of these are {one['floor']:.2f} apart. Label accuracy: "
        "the share of samples that this classifier calls what they were asked to be; it is right on "
        f"{one['judge']:.1%} of the real ones. Protocol: `{one['protocol']}`.",
        "",
        "![Distance over minutes](fashion_mnist/curve.png)",
        "",
    ]
    for name in RUNS:
        picture = f"![Samples]({HERE.name}/{name}/grid.png)"
        lines += [f"{name}, in 1, 2, 4 and 128 steps from the same noise:", "", picture, ""]
    return lines + _over_time({name: lines_ for name, (_, lines_, _) in found.items()})


def numbers(tables: dict[str, dict[int, dict[str, Any]]]) -> list[str]:
    """Return the table of all runs and numbers of steps."""
    lines = [
        "| run | steps | evaluations | distance | interval | label accuracy | memorization ratio | precision "
        "| recall |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, rows in tables.items():
        for steps, row in sorted(rows.items()):
            low, high = row["interval"] or (float("nan"), float("nan"))
            lines.append(
                f"| {name} | {steps} | {row['nfe']} | {row['distance']:.1f} | {low:.1f} to {high:.1f} | "
                f"{row['agreement']:.3f} | {row['nearest_ratio']:.2f} | {row['precision']:.2f} | {row['recall']:.2f} |"
            )
    return lines


def goals(one: dict[str, Any], other: dict[str, Any], minutes: float) -> list[str]:
    """Return the table of what was wanted of one step, and whether it was reached."""
    wanted = (
        (f"within {MINUTES} minutes, table and pictures included", minutes <= MINUTES, f"{minutes:.1f} min"),
        (f"one-step label accuracy ≥ {AGREEMENT:.2f}", one["agreement"] >= AGREEMENT, f"{one['agreement']:.3f}"),
        ("one-step distance ≤ ⅓ of flow matching's", one["distance"] <= PART * other["distance"],
         f"{one['distance']:.1f} to {other['distance']:.1f}"),
    )  # fmt: skip
    lines = ["| wanted | reached | found |", "|---|---|---|"]
    return [*lines, *(f"| {text} | {'yes' if met else '**no**'} | {shown} |" for text, met, shown in wanted)]


def _over_time(measured: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return what was measured on the way as a table, at most a dozen lines of each run."""
    lines = ["| run | minutes | step | 1 step | 2 steps | 4 steps |", "|---|---:|---:|---:|---:|---:|"]
    for name, rows in measured.items():
        groups = [list(group) for _, group in groupby(rows, key=lambda row: row["step"])]
        for group in groups[:: max(1, len(groups) // 12)]:
            cells = {
                row["steps"]: "–" if row["distance"] is None else f"{row['distance']:.1f}" for row in group
            }
            lines.append(
                f"| {name} | {group[0]['seconds'] / 60:.1f} | {group[0]['step']} | "
                + " | ".join(cells.get(steps, "–") for steps in (1, 2, 4))
                + " |"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="Fashion-MNIST: its IDX files, or an .npz of them")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/fashion-mnist"), help="where the runs are kept"
    )
    parser.add_argument("--remark", help="what a reader must know of how the other method was trained")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in RUNS:
        place = args.out / name
        train(name, args.data, place)
        if name == BASE:
            guide(place)
        shown = ["flowleap", *command(name, Path(args.data).name, Path("runs") / name)]
        keep(name, place, shlex.join(shown), args.remark)
    HERE.with_suffix(".md").write_text("\n".join(page()) + "\n", encoding="utf-8")
    print(HERE.with_suffix(".md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
