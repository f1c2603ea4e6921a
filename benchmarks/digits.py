"""Four methods on the real 8×8 digits with the default settings and three seeds: quality against evaluations.

    uv run python benchmarks/digits.py                  # trains what is missing, then writes benchmarks/digits.md
    uv run python benchmarks/digits.py --jobs 2         # two runs at a time, one thread each
    uv run python benchmarks/digits.py --recipe         # `flowleap train` alone, seeds 10 to 12, and its section alone

Every run is `flowleap train METHOD --seed S` with everything else at its default, so data, network, batch, learning
rate, steps and guidance (none) are equal. Finished runs are kept in --out and not repeated; interrupted ones resume.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

METHODS = ("flow-matching", "shortcut", "meanflow", "esc")
GOALS = {
    "ESC: one-step label accuracy ≥ 0.97": lambda m: min(m["esc", 1, "agreement"]) >= 0.97,
    "ESC: one-step distance ≤ 1.0": lambda m: max(m["esc", 1, "distance"]) <= 1.0,
    "ESC: memorization ratio ≥ 0.8": lambda m: min(m["esc", 1, "nearest_ratio"]) >= 0.8,
    "ESC at least 6 × better than flow matching at one step": lambda m: gain(m, "esc") >= 6,
    "MeanFlow at least 4 ×": lambda m: gain(m, "meanflow") >= 4,
    "Shortcut at least 2.5 ×": lambda m: gain(m, "shortcut") >= 2.5,
    "Shortcut within 1.5 × of flow matching at 128 steps": lambda m: (
        mean(m["shortcut", 128, "distance"]) <= 1.5 * mean(m["flow-matching", 128, "distance"])
    ),
}
RECIPE = "## The recipe of `flowleap train`"
SEEDS = (10, 11, 12)
"""Of the runs by the recipe, which was chosen on others."""
SHOWN = {
    "distance": "FD-pixel",
    "agreement": "label accuracy",
    "precision": "precision",
    "recall": "recall",
    "coverage": "coverage",
    "nearest_ratio": "memorization ratio",
}
"""The numbers of its table."""
FORMER = ("esc", "--seed", "0", "--set", "target.derivative=TwoPass", "--show", "1,2,4,128")
"""What `flowleap train` alone did before it had a recipe."""
Measured = dict[tuple[str, int, str], list[float]]


def mean(values: list[float]) -> float:
    return statistics.fmean(values)


def gain(m: Measured, method: str) -> float:
    """How many times smaller the one-step distance is than that of flow matching, means over seeds."""
    return mean(m["flow-matching", 1, "distance"]) / mean(m[method, 1, "distance"])


def folder(out: Path, method: str, seed: int) -> Path:
    return out / f"{method}-seed{seed}"


def train(out: Path, method: str, seed: int, threads: int) -> None:
    """Train one run unless it is finished, resuming it where it was interrupted."""
    place = folder(out, method, seed)
    if (place / "table.json").exists():
        return
    command = [sys.executable, "-m", "flowleap", "train", method, "--seed", str(seed), "--out", str(place)]
    command += ["--show", "1,2,4,128"]
    if (place / "config.json").exists():
        command = [sys.executable, "-m", "flowleap", "train", "--resume", "--out", str(place)]
    print(f"{method}, seed {seed}", flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")


def whole_command(place: Path, *words: str) -> float:
    """Run `flowleap train` with some words on one thread unless that is done; return its processor seconds."""
    kept = place / "processor.json"
    if not kept.exists():
        command = [sys.executable, "-m", "flowleap", "train", *words, "--out", str(place), "--overwrite"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        kept.write_text(json.dumps(round(seconds, 1)) + "\n", encoding="utf-8")
    return float(json.loads(kept.read_text(encoding="utf-8")))


def recipe_report(out: Path) -> str:
    """Return the section on the runs by the recipe as Markdown."""
    places = [out / f"recipe-seed{seed}" for seed in SEEDS]
    spent = [whole_command(place, "--seed", str(seed)) for seed, place in zip(SEEDS, places, strict=True)]
    former = whole_command(out / "former-seed0", *FORMER)
    tables = [json.loads((place / "table.json").read_text()) for place in places]
    lines = [
        RECIPE,
        "",
        f"Made by `uv run python benchmarks/digits.py --recipe`: seeds {', '.join(map(str, SEEDS))}, on which it was "
        f"not chosen. Processor time of the whole command on one thread: {spread(spent, 0)} s; with the settings of "
        f"the tables above and a measurement at 128 steps (`flowleap train {' '.join(FORMER)}`) {former:.0f} s. "
        "Processor time depends on what else runs on the machine.",
        "",
        "| NFE | " + " | ".join(SHOWN.values()) + " |",
        "|---:|" + "---:|" * len(SHOWN),
    ]
    for rows in zip(*tables, strict=True):
        cells = [spread([row[name] for row in rows], 3 if name == "agreement" else 2) for name in SHOWN]
        lines.append(f"| {rows[0]['nfe']} | " + " | ".join(cells) + " |")
    by_seed = ", ".join(f"{table[0]['distance']:.3f}" for table in tables)
    lines += ["", f"One-step distance, seed by seed: {by_seed}."]
    return "\n".join(lines) + "\n"


def collect(out: Path, seeds: list[int]) -> tuple[Measured, dict[str, Any]]:
    """Return every number by (method, NFE, name), one per seed, and what all runs share."""
    from flowleap.runs import read_config

    measured: Measured = {}
    shared: dict[str, Any] = {}
    for method in METHODS:
        for seed in seeds:
            place = folder(out, method, seed)
            shared = read_config(place).flat() | {"method": "", "seed": seeds}
            for row in json.loads((place / "table.json").read_text()):
                shared["row"] = row
                for name in ("distance", "agreement", "nearest_ratio", "seconds"):
                    measured.setdefault((method, row["nfe"], name), []).append(row[name])
    return measured, shared


def spread(values: list[float], digits: int) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{mean(values):.{digits}f} ± {deviation:.{digits}f}"


def report(measured: Measured, shared: dict[str, Any], seeds: list[int], jobs: int) -> str:
    """Return the report as Markdown."""
    budgets = sorted({nfe for _, nfe, _ in measured})
    network = {
        k: v for k, v in shared["network"].items() if k in ("kind", "patch", "width", "depth", "heads")
    }
    row = shared["row"]
    lines = [
        "# Digits: quality against the number of network evaluations",
        "",
        f"Made by `uv run python benchmarks/digits.py --jobs {jobs}`; each run is `flowleap train METHOD --seed S` "
        "at its defaults.",
        "",
        f"- data: the 1,797 real 8×8 digits of scikit-learn; network {network}; {shared['schedule.steps']} steps of "
        f"{shared['data.batch']}, Adam, learning rate {shared['optimizer.lr']:g} (cosine decay over the "
        f"last {shared['schedule.decay']:g}), "
        f"EMA {shared['optimizer.ema'][0]}; no guidance anywhere",
        f"- seeds {', '.join(map(str, seeds))}; mean ± standard deviation over seeds",
        f"- distance: Fréchet distance in pixel space, images in [−1, 1], {row['num']} samples against all real "
        f"images; two halves of the real set differ by {row['floor']:.2f}",
        f"- label accuracy: share of samples that an RBF-SVM fitted on 1,000 real images assigns to their label; it "
        f"scores {row['judge']:.3f} on the other real images",
        "- memorization ratio: mean distance to the nearest training image over the real images' own; below 0.8 "
        "suggests memorizing",
        f"- protocol of the last row: `{row['protocol']}`",
    ]
    for title, name, digits in (
        ("Fréchet distance (FD-pixel)", "distance", 2),
        ("Label accuracy", "agreement", 3),
        ("Memorization ratio", "nearest_ratio", 2),
    ):
        lines += ["", f"## {title}", "", "| method | " + " | ".join(f"{n} NFE" for n in budgets) + " |"]
        lines += ["|---|" + "---:|" * len(budgets)]
        for method in METHODS:
            cells = [spread(measured[method, n, name], digits) for n in budgets]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "## One-step distance, seed by seed",
        "",
        "| method | " + " | ".join(map(str, seeds)) + " | gain |",
    ]
    lines += ["|---|" + "---:|" * (len(seeds) + 1)]
    for method in METHODS:
        cells = [f"{value:.3f}" for value in measured[method, 1, "distance"]]
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {gain(measured, method):.1f} × |")
    lines += ["", "The gain is over flow matching, whose one step gives the class means.", "", "## Goals", ""]
    lines += [f"- {'holds' if holds(measured) else 'DOES NOT HOLD'}: {goal}" for goal, holds in GOALS.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-digits"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--recipe", action="store_true", help="renew the section on `flowleap train` alone")
    args = parser.parse_args()
    report_file = Path(__file__).with_suffix(".md")
    kept, _, section = report_file.read_text(encoding="utf-8").partition(RECIPE)
    if args.recipe:
        text = f"{kept.rstrip()}\n\n{recipe_report(args.out)}"
        report_file.write_text(text, encoding="utf-8")
        print(text)
        return
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = [(method, seed) for seed in args.seeds for method in reversed(METHODS)]
        list(pool.map(lambda job: train(args.out, *job, threads), jobs))
    text = report(*collect(args.out, args.seeds), args.seeds, args.jobs)
    text += f"\n{RECIPE}{section}" if section else ""
    report_file.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
