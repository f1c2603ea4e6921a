"""What makes one step better, lever by lever: each beside `base`, with the same seeds and the same seconds of training.

    uv run python benchmarks/onestep.py laws --data fashion_mnist.npz.xz
    uv run python benchmarks/onestep.py weights --data digits --budget 100s --seeds 3

A part is a family of levers (onestep/levers.py). It is one `flowleap compare`, printed before it starts; interrupted,
the same command goes on, also with more `--seeds`. Time is converted to steps by the pace of each method, measured
first. Differences are taken seed by seed. Images are judged by the features of the data set (a shipped classifier where
there is one) and a second time by their pixels, averaged over 8 × 8 cells, which nothing is trained with; digits by
their pixels alone, which are as few. What a part leaves is kept in benchmarks/onestep/PART-DATA.json, and
benchmarks/onestep.md is written anew.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import measuring
from kept import machine
from kept import run as command

from flowleap import evaluation, extensions, runs

HERE = Path(__file__).with_suffix("")
LEVERS = HERE / "levers.py"
SECOND = "pixel8"
SHOWN = (1, 2, 4, 128)
PARTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "laws": (
        "Which rows jump, from where to where, and when",
        ("half-jump", "most-jump", "uniform-pairs", "full-jumps", "ends", "rising"),
    ),
    "weights": ("How rows are weighed", ("squared", "learned-weight", "half-power", "equilibrium")),
    "guidance": ("How guidance enters", ("unguided", "mixed", "window")),
    "pairs": ("How noise meets data, and which velocity drives", ("near-pairs", "plug-in")),
}
"""Each part: its title and its levers."""
Row = dict[str, Any]


def rows_of(place: Path, second: bool, num: int) -> Iterable[Row]:
    """Yield what was measured of every run of a study, with the distance by the second judge where it is asked for."""
    for path in sorted(place.glob("runs/*/outcome.json")):
        outcome = json.loads(path.read_text(encoding="utf-8"))
        for row in outcome["rows"]:
            kept = {
                name: row[name]
                for name in ("steps", "distance", "agreement", "precision", "recall", "metric")
            }
            kept |= {"lever": outcome["method"], "seed": outcome["seed"], "seconds": outcome["seconds"]}
            if second and row["steps"] == 1:
                kept["second"] = judged(path.parent, num)
            yield kept


def judged(folder: Path, num: int) -> float:
    """Return the distance of one-step samples of a run by the second judge; it is kept beside the run."""
    kept = folder / f"{SECOND}.json"
    if not kept.exists():
        run = runs.load_run(folder)
        evaluator = evaluation.held_out(run.dataset, SECOND)
        (row,) = evaluation.evaluate(run.flow, run.objective, run.dataset, [1], num=num, evaluator=evaluator)
        kept.write_text(json.dumps(row["distance"]), encoding="utf-8")
    return float(json.loads(kept.read_text(encoding="utf-8")))


def paired(rows: list[Row], lever: str, key: str, steps: int) -> tuple[float, float, float]:
    """Return the mean of a number over seeds, and its mean difference from `base` seed by seed with standard error."""

    def of(name: str) -> dict[int, float]:
        return {row["seed"]: row[key] for row in rows if row["lever"] == name and row["steps"] == steps}

    own, base = of(lever), of("base")
    both = sorted(own.keys() & base.keys())
    apart = [own[seed] - base[seed] for seed in both]
    spread = statistics.stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else math.nan
    return statistics.mean(own[seed] for seed in both), statistics.mean(apart), spread


def section(part: str, kept: Row) -> list[str]:
    """Return what was found of a part as lines of Markdown."""
    rows = kept["rows"]
    levers = list(dict.fromkeys(row["lever"] for row in rows))
    lines = []
    for lever in sorted(levers, key=lambda name: (name != "base", name)):
        cells = [lever]
        for key, steps in (
            ("distance", 1),
            ("second", 1),
            ("distance", 2),
            ("distance", 4),
            ("distance", 128),
        ):
            if not any(key in row and row["steps"] == steps for row in rows):
                cells.append("")
                continue
            mean, apart, error = paired(rows, lever, key, steps)
            cells.append(f"{mean:.3g}" if lever == "base" else f"{mean:.3g} ({apart:+.2g} ± {error:.1g})")
        cells += [f"{paired(rows, lever, key, 1)[0]:.2f}" for key in ("precision", "recall")]
        cells.append(f"{paired(rows, lever, 'seconds', 1)[0]:.0f}")
        lines.append(cells)
    metric = next(row["metric"] for row in rows)
    head = [
        "lever",
        f"{metric} at 1",
        f"FD-{SECOND} at 1",
        "at 2",
        "at 4",
        "at 128",
        "precision",
        "recall",
        "seconds",
    ]
    return [f"## {PARTS[part][0]}: {kept['data']}", "", f"`{kept['command']}`, on {kept['machine']}.", "",
            *measuring.table(head, lines), ""]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS, help="which family of levers")
    parser.add_argument("--data", default="digits", help="digits, or a file or folder of images")
    parser.add_argument("--budget", default="100s", help="of training each run, on one thread")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num", type=int, default=2000, help="samples behind each number")
    parser.add_argument("--out", type=Path, default=Path("runs/onestep"), help="where the runs are kept")
    args = parser.parse_args()
    _, levers = PARTS[args.part]
    data = Path(args.data).name.split(".")[0]
    place = args.out / f"{args.part}-{data}"
    words = [
        "compare",
        "--methods",
        ",".join(("base", *levers)),
        "--import",
        str(LEVERS),
        "--data",
        args.data,
    ]
    words += ["--budget", args.budget, "--seeds", str(args.seeds), "--num", str(args.num), "--threads", "1"]
    asked = command([*words, "--show", ",".join(map(str, SHOWN)), "--out", str(place)])
    extensions.imported(LEVERS)
    found = {"data": data, "command": asked.replace(args.data, data), "machine": machine()}
    found |= {"rows": list(rows_of(place, second=data != "digits", num=args.num))}
    (HERE / f"{args.part}-{data}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    write()


def write() -> None:
    """Write the page anew from what is kept of all parts."""
    head = ["# What makes one step better", "", "Made by [onestep.py](onestep.py), levers in "
            "[onestep/levers.py](onestep/levers.py). In parentheses the difference from `base`, seed by seed, with its "
            "standard error.", ""]  # fmt: skip
    kept = sorted(HERE.glob("*.json"), key=lambda path: list(PARTS).index(path.stem.rsplit("-", 1)[0]))
    body = [
        line for path in kept for line in section(path.stem.rsplit("-", 1)[0], json.loads(path.read_text()))
    ]
    page = HERE.with_suffix(".md")
    page.write_text("\n".join([*head, *body]).rstrip() + "\n", encoding="utf-8")
    print(page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
