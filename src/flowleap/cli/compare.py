"""flowleap compare: train several methods with equal budgets, and compare them in one table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer import Option

from flowleap.cli import options
from flowleap.cli.group import say

SIGNALED = 128
FAILED = 1


Methods = Annotated[
    str,
    Option(
        metavar="all|NAME,NAME,…",
        help="Methods to compare, see `flowleap methods list`; all: the eight of the published table.",
    ),
]
Budget = Annotated[
    str,
    Option(
        help="Training budget of each run, including that of its teacher (half of the steps each): 400steps, 50kimg "
        "(thousand images), 90s, 3m or 1h. A time is converted to steps by measuring the step time of each method "
        "first."
    ),
]
Seeds = Annotated[
    int,
    Option(min=1, help="Runs of each method, with the seeds 0, 1, …. More can be added later."),
]
Alike = Annotated[
    Literal["steps", "flops", "time"] | None,
    Option(
        help="The quantity that is equal for all runs: steps, flops (counted network evaluations) or time. If the "
        "budget has another unit, it is the budget of flow matching, or of the complete method of an ablation.",
        show_default="time for a time, else steps",
    ),
]
Jobs = Annotated[
    int,
    Option(
        min=1, help="Runs at the same time, each on its share of the cores; measured times are less exact."
    ),
]
Out = Annotated[
    Path | None,
    Option(help="Where to write: the folder of the comparison.", show_default="runs/compare-DATA"),
]
Num = Annotated[int, Option(min=1, help="How many samples are behind each number.")]
Show = Annotated[
    str, Option(metavar="N,N,…", help="Numbers of sampling steps of the final pictures and table.")
]
Settings = Annotated[
    list[str] | None,
    Option(
        "--set",
        metavar="[METHOD:]FIELD=VALUE",
        help="Any other setting of all runs, or of those of one method, as in `flowleap train`; repeatable.",
    ),
]
SETTINGS = ("lr", "square", "size", "flip", "strict", "workers", "precision")
"""Options that are settings of all runs."""


@dataclass(frozen=True)
class Study(options.Training):
    """Options of `flowleap compare` and `flowleap ablate`."""

    budget: Budget = "3m"
    seeds: Seeds = 3
    equal: Alike = None
    show: Show = "128,4,1"
    num: Num = 1000
    jobs: Jobs = 1

    def carry_out(self, settings: list[str] | None, out: Path | None, **about: Any) -> None:
        """Run the study; raises typer.Exit with another exit code if it was interrupted or a run failed."""
        steps = options.numbers(self.show, "--show")
        chosen = options.as_settings(settings, **{name: getattr(self, name) for name in SETTINGS})

        from flowleap import data as data_sets
        from flowleap import studies

        request = studies.Request(
            **about,
            data=self.named_data(),
            budget=self.budget.strip(),
            equal=self.equal,
            seeds=self.seeds,
            steps=steps,
            num=self.num,
            network=self.network,
            batch=self.batch,
            device=self.device or "auto",
            settings=chosen,
            teacher=None if self.teacher is None else str(self.teacher),
        )
        kind = f"ablate-{request.names()[0]}" if request.ablates else "compare"
        out = out or Path("runs") / f"{kind}-{data_sets.short(request.data)}"
        try:
            done = studies.compare(request, out, jobs=self.jobs, count=self.threads)
        except studies.Stopped as stopped:
            say(str(stopped))
            raise typer.Exit(SIGNALED + stopped.signal) from None
        if done.failed:
            raise typer.Exit(FAILED)

    def named_data(self) -> str:
        """Return the data of a study: --data, else those of --teacher, else digits."""
        if self.data is not None or self.teacher is None:
            return self.data or "digits"
        from flowleap import runs

        return runs.read_config(self.teacher).data.name or "digits"


@options.grouped
def compare(*, methods: Methods = "all", study: Study, out: Out = None, settings: Settings = None) -> None:
    """Compare training objectives from the same initial weights, on the same data, with the same budget.

    Each method and seed is an ordinary run. Ctrl-C stops, and the same command continues. Writes table.md, table.csv,
    table.json, samples.png and report.html.
    """
    names = tuple(name.strip() for name in methods.split(",") if name.strip())
    study.carry_out(settings, out, methods=names)
