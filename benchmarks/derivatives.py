"""Whether a central difference trains as well as forward-mode differentiation: equal steps, paired by seed.

    uv run python benchmarks/derivatives.py                         # trains what is missing, writes derivatives.md
    uv run python benchmarks/derivatives.py --fashion-mnist FILE    # and one pair of runs on Fashion-MNIST

FILE is Fashion-MNIST as `flowleap train --data` takes it. The two runs of a pair see the same weights at the start and
the same draws in every step. Finished runs are kept in --out and not repeated; interrupted ones resume.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from kept import machine

METHODS = ("meanflow", "esc", "sct", "sct-linear")
WAYS = ("TwoPass", "CentralDifference")
FASHION = (
    *("--network", "dit-nano", "--steps", "1000", "--batch", "128", "--lr", "2e-3"),
    *("--set", "network.width=64", "--set", "network.depth=4", "--set", "network.patch=4"),
    *("--set", "schedule.decay=0.5", "--set", "optimizer.ema=0.995"),
)


def flowleap(*words: str) -> str:
    """Run a command and return what it printed."""
    print("flowleap " + " ".join(words), flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "flowleap", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def distance(place: Path, num: int, *words: str) -> float:
    """Return the one-step Fréchet distance of a run, which is trained and measured where it is not yet."""
    found = place.with_suffix(".json")
    if not found.exists():
        begun = (place / "config.json").exists()
        resumed = ("train", "--resume", "--out", str(place))
        flowleap(*resumed) if begun else flowleap(*words, "--set", "evaluation.num=0", "--out", str(place))
        found.write_text(flowleap("evaluate", str(place), "--steps", "1", "--num", str(num), "--json"))
    return float(json.loads(found.read_text())[0]["distance"])


def line(name: str, pairs: list[list[float]]) -> str:
    """Return a row of the table: means of both, and of their difference with its standard error."""
    exact, difference = (statistics.fmean(column) for column in zip(*pairs, strict=True))
    gaps = [b - a for a, b in pairs]
    error = f"{statistics.stdev(gaps) / len(gaps) ** 0.5:.3f}" if len(gaps) > 1 else "–"
    each = ", ".join(f"{gap:+.3f}" for gap in gaps)
    return f"| {name} | {exact:.3f} | {difference:.3f} | {statistics.fmean(gaps):+.3f} | {error} | {each} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--fashion-mnist", help="its images, as --data takes them")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-derivatives"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for method in args.methods:
        pairs = []
        for seed in args.seeds:
            words = ("train", method, "--data", "digits", "--steps", "1200", "--seed", str(seed))
            places = {way: args.out / f"{method}-{way}-seed{seed}" for way in WAYS}
            pairs.append(
                [distance(places[way], 4000, *words, "--set", f"target.derivative={way}") for way in WAYS]
            )
        rows.append(line(f"{method}, digits", pairs))
    if args.fashion_mnist:
        words = ("train", "meanflow", "--data", args.fashion_mnist, *FASHION, "--seed", "0")
        places = {way: args.out / f"fashion-{way}" for way in WAYS}
        pair = [distance(places[way], 2000, *words, "--set", f"target.derivative={way}") for way in WAYS]
        rows.append(line("meanflow, Fashion-MNIST", [pair]))
    if args.methods == list(METHODS):
        text = "\n".join([*HEADER, f"{machine()}.", "", *TABLE, *rows]) + "\n"
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print("\n".join([*TABLE, *rows]))


HEADER = (
    "# Quality with a central difference against forward-mode differentiation",
    "",
    "Made by `uv run python benchmarks/derivatives.py --fashion-mnist FILE`. One-step Fréchet distance after equal "
    "steps: on digits 1,200 at the default settings (FD-pixel, 4,000 samples), on Fashion-MNIST 1,000 of 128 with a "
    "DiT 64 × 4 and patches of 4 (features of the shipped classifier, 2,000 samples). Both runs of a pair begin with "
    "the same weights and draw the same in every step; the standard error is that of the mean of the differences.",
    "",
)
TABLE = (
    "| method, data | TwoPass | CentralDifference | difference | its standard error | by seed |",
    "|---|---:|---:|---:|---:|---|",
)

if __name__ == "__main__":
    main()
