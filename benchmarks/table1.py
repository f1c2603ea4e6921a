"""The comparison of training objectives of Frans et al. 2024 (arXiv 2410.12557, table 1), made anew at small scale.

    uv run python benchmarks/table1.py digits --jobs 2                  # eight rows, three seeds, 3,000 steps each
    uv run python benchmarks/table1.py students --jobs 2                # after digits: students of one teacher
    uv run python benchmarks/table1.py fashion --data FILE --jobs 2     # the eight rows on 28×28 images

Each part is one `flowleap compare`, printed before it starts; interrupted, the same command goes on. What it leaves is
copied to benchmarks/table1/PART/, and benchmarks/table1.md is written anew from all parts that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

HERE = Path(__file__).with_suffix("")
TITLES = {
    "digits": "Eight objectives on 8×8 digits",
    "students": "Students of one teacher on digits",
    "fashion": "Eight objectives on Fashion-MNIST 28×28",
}
KEPT = ("table.md", "table.csv", "table.json", "samples.png", "report.html")
TEACHER = "runs/flow-matching-seed0"
KEEPING_UP = ("progressive-distillation:ema=0.99", "consistency-distillation:frozen.decay=0.95")
"""Averages that are short beside a stage, and beside the run: those of the published table span hundreds of thousands
of steps. See docs/log.md."""
FEWER_PAIRS = ("reflow:pairs=30000", "reflow:pair_steps=32")
"""On 60,000 images the usual pairs, each of 128 steps, would cost sixteen times all training of a run."""
Cells = dict[tuple[str, int], float]


@dataclass(frozen=True)
class Goal:
    """The distance of one cell, (method, steps), should be at most a factor times that of another."""

    one: tuple[str, int]
    other: tuple[str, int]
    factor: float = 1.0

    def line(self, cells: Cells) -> str:
        """Return the goal, whether it is reached and by which numbers, as a line of a table."""
        (method, steps), (rival, budget) = self.one, self.other
        bound = "below" if self.factor == 1 else f"at most {self.factor:g} ×"
        text = f"{method} at {steps}: {bound} {rival} at {budget}"
        reached = cells[self.one] <= self.factor * cells[self.other]
        numbers = f"{cells[self.one]:.3f} to {cells[self.other]:.3f}"
        return f"| {text} | {'yes' if reached else '**no**'} | {numbers} |"


ORDER = (
    Goal(("shortcut", 1), ("live-reflow", 1)),
    Goal(("shortcut", 1), ("consistency-training", 1)),
    Goal(("shortcut", 1), ("flow-matching", 1), 1 / 2.5),
    Goal(("shortcut", 1), ("diffusion", 1), 1 / 2.5),
    Goal(("shortcut", 128), ("flow-matching", 128), 1.3),
)
STUDENTS = (
    Goal(("progressive-distillation", 1), ("teacher", 128), 3.0),
    Goal(("progressive-distillation", 1), ("teacher", 1), 0.5),
    Goal(("consistency-distillation", 1), ("teacher", 128), 3.0),
    Goal(("consistency-distillation", 1), ("teacher", 1), 0.5),
    Goal(("sid", 1), ("teacher", 128), 3.0),
    Goal(("sid", 1), ("teacher", 1), 0.5),
    Goal(("reflow", 1), ("teacher", 1)),
    Goal(("amed", 4), ("Euler", 4)),
    Goal(("amed", 4), ("Heun", 3)),
    Goal(("amed", 4), ("Heun", 4)),
)
GOALS = {"digits": ORDER, "students": STUDENTS, "fashion": ORDER}


def command(part: str, args: argparse.Namespace) -> list[str]:
    """Return the words of the `flowleap compare` of a part."""
    words = ["compare", "--methods", "all", "--data", args.data or "digits"]
    if part == "students":
        words[2] = "progressive-distillation,consistency-distillation,reflow,ctm,sid,amed"
        words += ["--teacher", str(args.out / "digits" / TEACHER)]
    settings = {"students": KEEPING_UP, "fashion": FEWER_PAIRS}.get(part, ())
    words += [word for setting in settings for word in ("--set", setting)]
    words += ["--budget", args.budget, "--seeds", str(args.seeds)]
    return [*words, "--jobs", str(args.jobs), "--out", str(args.out / part)]


def keep(part: str, place: Path, asked: str, remark: str | None) -> None:
    """Copy what a part left, with where and how long it was made."""
    kept = HERE / part
    kept.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copy(place / name, kept / name)
    seconds = sum(json.loads(path.read_text())["seconds"] for path in place.glob("runs/*/outcome.json"))
    about: dict[str, Any] = {"command": asked, "machine": machine(), "hours": seconds / 3600}
    about |= {} if remark is None else {"remark": remark}
    if part == "students":
        about["solvers"] = solvers(place)
    (kept / "about.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def machine() -> str:
    """Return what this machine is."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores of {model}, no GPU used"


def solvers(place: Path) -> dict[str, float]:
    """Return the distance of the teacher's samples by solvers with few evaluations, as the table measures it."""
    from flowleap import evaluation, runs, samplers
    from flowleap.samplers import Sampling

    plan = json.loads((place / "plan.json").read_text())
    run = runs.load_run(plan["request"]["teacher"])

    @dataclass(frozen=True)
    class Heun(Sampling):
        """Heun's method; `whole`: also in the last step, which then takes two evaluations like the others."""

        whole: bool = False

        def sample(self, flow, noise, steps=1, times=None, label=None, guidance=None):  # type: ignore[no-untyped-def]
            if not self.whole:
                return samplers.heun(flow, noise, steps, times, label)
            x, stops = flow.path.prior(noise), samplers.grid(flow.path, steps, times)
            for t, r in pairwise(stops):
                slope = flow.velocity(x, t, label=label)
                x = x + (r - t) * (slope + flow.velocity(x + (r - t) * slope, r, label=label)) / 2
            return x

    found = {}
    for name, sampling, steps in (
        ("Euler 4", run.objective.sampling, 4),
        ("Heun 3", Heun(), 2),
        ("Heun 4", Heun(whole=True), 2),
        ("Heun 5", Heun(), 3),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            objective = replace(run.objective, sampling=sampling)
            rows = evaluation.evaluate(
                run.flow, objective, run.dataset(), steps=(steps,), num=plan["request"]["num"],
                ruler=evaluation.held_out(run.dataset(), plan["rows"][0]["config"]["features"]),
            )  # fmt: skip
        found[name] = rows[0]["distance"]
    return found


def section(part: str) -> list[str]:
    """Return the section of a part as lines of Markdown."""
    kept, link = HERE / part, f"{HERE.name}/{part}"
    about: dict[str, Any] = json.loads((kept / "about.json").read_text())
    rows = json.loads((kept / "table.json").read_text())
    cells: Cells = {(row["method"], row["steps"]): row["distance_mean"] for row in rows}
    lines = [
        f"## {TITLES[part]}",
        "",
        f"`{about['command']}`: {about['hours']:.1f} hours of training in all, on {about['machine']}.",
        f"[Report]({link}/report.html), table as [CSV]({link}/table.csv) and [JSON]({link}/table.json).",
        *([about["remark"]] if "remark" in about else []),
        "",
        (kept / "table.md").read_text().split("\n", 1)[1].strip(),
        "",
        f"![Samples]({link}/samples.png)",
        "",
    ]
    for name, distance in about.get("solvers", {}).items():
        solver, evaluations = name.split()
        cells[solver, int(evaluations)] = distance
    if "solvers" in about:
        told = "; ".join(f"{name} {distance:.3f}" for name, distance in about["solvers"].items())
        lines += [f"The teacher by other solvers, with so many evaluations: {told}.", ""]
    lines += ["| wanted, distance | reached | numbers |", "| --- | --- | ---: |"]
    return [*lines, *(goal.line(cells) for goal in GOALS[part]), ""]


def write() -> None:
    """Write benchmarks/table1.md from the parts that are there."""
    head = ["# The comparison table, at small scale", "",
            "Made by [table1.py](table1.py). Why orders differ from the published ones: [docs/log.md](../docs/log.md). "
            "Distances of different data or different rulers are not comparable.", ""]  # fmt: skip
    parts = [line for part in TITLES if (HERE / part / "about.json").exists() for line in section(part)]
    HERE.with_suffix(".md").write_text("\n".join([*head, *parts]).rstrip() + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=TITLES, help="which table")
    parser.add_argument("--data", help="the file of Fashion-MNIST, see docs/data.md")
    parser.add_argument("--budget", default="3000steps", help="of each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--remark", help="what a reader must know of how it was made")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--out", type=Path, default=Path("runs/table1"), help="where the runs are kept")
    args = parser.parse_args()
    if (args.part == "fashion") != (args.data is not None):
        parser.error("--data FILE belongs to fashion, and only to it")
    words = command(args.part, args)
    asked = "flowleap " + shlex.join(words)
    print(asked, flush=True)
    done = subprocess.run([sys.executable, "-m", "flowleap", *words], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    keep(args.part, args.out / args.part, asked, args.remark)
    write()
    print(HERE.with_suffix(".md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
