"""The design space at small scale: ESC taken apart, and the orders of methods that its authors found.

    uv run python benchmarks/space.py ablation --jobs 2     # esc with and without each of its four components
    uv run python benchmarks/space.py orders --jobs 2       # ten methods: continuous or discrete, linear or cosine

Each part is one `flowleap ablate` or `compare`, printed before it starts; interrupted, the same command goes on, also
with more `--seeds`. What it leaves is copied to benchmarks/space/PART/, and benchmarks/space.md is written anew.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kept import Goal, Part, keep, run, section, write

HERE = Path(__file__).with_suffix("")
METHODS = (
    "esc",
    "meanflow",
    "shortcut",
    "shortcut-esc",
    "sct-linear",
    "sct",
    "consistency-training-esc-linear",
    "consistency-training-esc",
    "imm",
    "flow-matching",
)
ORDERS = (
    Goal(("esc", 1), ("meanflow", 1)),
    Goal(("meanflow", 1), ("shortcut", 1)),
    Goal(("meanflow", 1), ("shortcut-esc", 1)),
    Goal(("sct-linear", 1), ("consistency-training-esc-linear", 1)),
    Goal(("sct", 1), ("consistency-training-esc", 1)),
    Goal(("sct-linear", 1), ("sct", 1)),
    Goal(("consistency-training-esc-linear", 1), ("consistency-training-esc", 1)),
)
"""As Lin et al. (2025) found: ESC, MeanFlow, shortcut; continuous before discrete; linear before cosine."""
PARTS = {
    "ablation": Part("ESC taken apart", ("ablate", "esc", "--drop", "all")),
    "orders": Part(
        "Continuous or discrete, linear or cosine", ("compare", "--methods", ",".join(METHODS)), ORDERS
    ),
}
HEAD = [
    "# The design space, at small scale",
    "",
    "Made by [space.py](space.py). What was found, and what was tried where it was not expected: "
    "[docs/log.md](../docs/log.md).",
    "",
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS, help="which study")
    parser.add_argument("--budget", default="3000steps", help="of each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--remark", help="what a reader must know of how it was made")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--out", type=Path, default=Path("runs/space"), help="where the runs are kept")
    args = parser.parse_args()
    place = args.out / args.part
    words = [*PARTS[args.part].words, "--data", "digits", "--budget", args.budget, "--seeds", str(args.seeds)]
    asked = run([*words, "--jobs", str(args.jobs), "--out", str(place)])
    keep(place, HERE / args.part, asked, args.remark)
    there = [name for name in PARTS if (HERE / name / "about.json").exists()]
    write(HERE.with_suffix(".md"), HEAD, [section(HERE / name, PARTS[name]) for name in there])


if __name__ == "__main__":
    main()
