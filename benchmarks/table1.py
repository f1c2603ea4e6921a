"""The comparison of training objectives of Frans et al. 2024 (arXiv 2410.12557, table 1), made anew at small scale.

    uv run python benchmarks/table1.py digits --jobs 2                  # eight rows, three seeds, 3,000 steps each
    uv run python benchmarks/table1.py students --jobs 2                # after digits: students of one teacher
    uv run python benchmarks/table1.py fashion --data FILE --jobs 2     # the eight rows on 28×28 images
    uv run python benchmarks/table1.py digits --redo METHOD             # one row of a part again

Each part is one `flowleap compare`, printed before it starts; interrupted, the same command goes on. What it leaves is
copied to benchmarks/table1/PART/, and benchmarks/table1.md is written anew from all parts that are there.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from kept import Cells, Goal, Part, keep, renew, run, section, write

HERE = Path(__file__).with_suffix("")
TEACHER = "runs/flow-matching-seed0"
KEEPING_UP = ("progressive-distillation:ema=0.99", "consistency-distillation:frozen.decay=0.95")
"""Averages that are short beside a stage, and beside the run: those of the published table span hundreds of thousands
of steps. See docs/log.md."""
FEWER_PAIRS = ("reflow:pairs=30000", "reflow:pair_steps=32")
"""On 60,000 images the usual pairs, each of 128 steps, would cost sixteen times all training of a run."""
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
PARTS = {
    "digits": Part("Eight objectives on 8×8 digits", ("--methods", "all"), ORDER),
    "students": Part(
        "Students of one teacher on digits",
        ("--methods", "progressive-distillation,consistency-distillation,reflow,ctm,sid,amed"),
        STUDENTS,
    ),
    "fashion": Part("Eight objectives on Fashion-MNIST 28×28", ("--methods", "all"), ORDER),
}


def command(name: str, args: argparse.Namespace) -> list[str]:
    """Return the words of the `flowleap compare` of a part."""
    place, chosen = place_of(name, args), PARTS[name].words if args.redo is None else ("--methods", args.redo)
    words = ["compare", *chosen, "--data", args.data or "digits"]
    if name == "students":
        words += ["--teacher", str(args.out / "digits" / TEACHER)]
    settings = {"students": KEEPING_UP, "fashion": FEWER_PAIRS}.get(name, ())
    settings = [one for one in settings if args.redo is None or one.startswith(f"{args.redo}:")]
    words += [word for setting in settings for word in ("--set", setting)]
    words += ["--budget", args.budget, "--seeds", str(args.seeds)]
    return [*words, "--jobs", str(args.jobs), "--out", str(place)]


def place_of(name: str, args: argparse.Namespace) -> Path:
    """Return the folder of the runs of a part, or of one method of it."""
    return Path(args.out / (name if args.redo is None else f"{name}-{args.redo}"))


def solvers(place: Path) -> dict[str, float]:
    """Return the distance of the teacher's samples by solvers with few evaluations, as the table measures it."""
    from flowleap import evaluation, runs, samplers
    from flowleap.samplers import Sampling

    plan = json.loads((place / "plan.json").read_text())
    run = runs.load_run(plan["request"]["teacher"])
    features = runs.from_dict(plan["rows"][0]["config"]).evaluation.features

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
                evaluator=evaluation.held_out(run.dataset(), features),
            )  # fmt: skip
        found[name] = rows[0]["distance"]
    return found


def shown(name: str) -> list[str]:
    """Return the section of a part; that of the students tells of other solvers of their teacher as well."""
    solved = json.loads((HERE / name / "about.json").read_text()).get("solvers", {})
    cells: Cells = {(solver.split()[0], int(solver.split()[1])): value for solver, value in solved.items()}
    listed = "; ".join(f"{solver} {distance:.3f}" for solver, distance in solved.items())
    told = (f"The teacher by other solvers, with so many evaluations: {listed}.",) if solved else ()
    return section(HERE / name, PARTS[name], cells, told)


HEAD = [
    "# The comparison table, at small scale",
    "",
    "Made by [table1.py](table1.py). Why orders differ from the published ones: [docs/log.md](../docs/log.md). "
    "Distances on different data or with different features are not comparable.",
    "",
    "Between steps, maps of consistency distillation are chained, as in the code of the published table; a chain of "
    "exact maps to the data has another distribution, so it is made for one step (docs/choosing.md).",
    "",
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS, help="which table")
    parser.add_argument("--data", help="the file of Fashion-MNIST, see docs/data.md")
    parser.add_argument("--budget", default="3000steps", help="of each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--redo", metavar="METHOD", help="make this row anew, beside what is kept of the others"
    )
    parser.add_argument("--remark", help="what a reader must know of how it was made")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--out", type=Path, default=Path("runs/table1"), help="where the runs are kept")
    args = parser.parse_args()
    if (args.part == "fashion") != (args.data is not None):
        parser.error("--data FILE belongs to fashion, and only to it")
    asked, place = run(command(args.part, args)), place_of(args.part, args)
    if args.redo is not None:
        renew(place, HERE / args.part, args.redo, asked, args.remark)
    else:
        more = {"solvers": solvers(place)} if args.part == "students" else {}
        keep(place, HERE / args.part, asked, args.remark, **more)
    write(
        HERE.with_suffix(".md"),
        HEAD,
        [shown(name) for name in PARTS if (HERE / name / "about.json").exists()],
    )


if __name__ == "__main__":
    main()
