"""flowleap train: train a method on a data set, into a run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from flowleap.cli import options, recipes
from flowleap.cli.group import echo, print_json, say, show, waiting, warn
from flowleap.cli.launcher import on_all_processes

if TYPE_CHECKING:
    from flowleap.data import Dataset
    from flowleap.training.config import TrainConfig

SIGNALED = 128
FAILED = 1


Method = Annotated[
    str | None,
    Argument(
        metavar="[METHOD]",
        help="See `flowleap methods list`.",
        show_default="esc; best where data and network are not named either",
    ),
]
Out = Annotated[
    Path | None,
    Option(help="Where to write: the run folder.", show_default="runs/DATA-METHOD-seedN, -2, -3, … if taken"),
]
Resume = Annotated[
    bool,
    Option("--resume", help="Continue the run in --out (default: the newest of its name), exactly."),
]
Num = Annotated[
    int | None,
    Option(help="How many samples are behind each number of the final table.", show_default="1000"),
]
NoEval = Annotated[bool, Option("--no-eval", help="Leave out the final table.")]
AsJson = Annotated[
    bool,
    Option(
        "--json",
        help="Print JSON on standard output, and nothing else: with --dry-run, the config and the estimate.",
    ),
]
DryRun = Annotated[
    bool,
    Option(
        "--dry-run",
        help="Measure a few steps, print the memory, operations and hours that the run will take, and exit.",
    ),
]
Recipe = Annotated[
    str | None,
    Option(
        metavar="NAME",
        help="Use published or tested settings; list: show all recipes.",
        show_default="digits where no method, data or network is named",
    ),
]
Minutes = Annotated[
    float | None,
    Option(
        metavar="N",
        help="How long the run takes with its pictures and its table: network, batch, steps and more follow from data "
        "and measured speed.",
        show_default="for images of your own 10 on a CPU, 60 on a GPU",
    ),
]
Hours = Annotated[float | None, Option(metavar="N", help="The same in hours.")]


@dataclass(frozen=True)
class Run(options.Training):
    """Options that are settings of a run."""

    steps: Annotated[
        int | None,
        Option(help="Optimizer steps of the run.", show_default="those of --minutes, or of the data"),
    ] = None
    seed: Annotated[
        int | None,
        Option(help="Seed of all random draws and of the initial weights.", show_default="0"),
    ] = None
    log_every: Annotated[int | None, Option(help="Steps between metrics.", show_default="50")] = None
    sample_every: Annotated[
        int | None,
        Option(help="Steps between sample grids; 0: at the end only.", show_default="500"),
    ] = None
    checkpoint_every: Annotated[
        int | None,
        Option(help="Steps between checkpoints; 0: at the end only.", show_default="500"),
    ] = None
    checkpoints_total_limit: Annotated[
        int | None,
        Option(min=0, help="How many checkpoints are kept, the last ones; 0: all.", show_default="2"),
    ] = None
    validation_labels: Annotated[
        str | None,
        Option(
            metavar="NAME,…",
            help="Classes of the sample grids that are drawn while training, by name or number.",
            show_default="all",
        ),
    ] = None
    track: Annotated[
        str | None,
        Option(
            metavar="NAME,…",
            help="Send metrics, sample grids, settings and table to tensorboard, wandb, trackio or mlflow.",
            show_default="none",
        ),
    ] = None
    show: options.Show = None
    pairs: Annotated[
        int | None,
        Option(
            help="Reflow: samples of the teacher to train on.",
            show_default="4 for each row of the data, at most as many as training uses",
        ),
    ] = None
    pair_steps: Annotated[
        int | None, Option(help="Reflow: steps of the teacher for each of them.", show_default="128")
    ] = None
    init: Annotated[
        Path | None,
        Option(
            metavar="RUN",
            help="Start from the averaged weights of another run; its method and classes may differ.",
            show_default="new weights",
        ),
    ] = None
    per_device: Annotated[
        int | None,
        Option(
            min=1,
            help="Rows that a process computes at a time; --batch is that of all processes together.",
            show_default="its whole share",
        ),
    ] = None
    accumulate: Annotated[
        int | None,
        Option(min=1, help="Gradient accumulation: parts of the batch of each process.", show_default="1"),
    ] = None
    shard: Annotated[
        bool | None,
        Option(
            "--shard/--no-shard",
            help="Shard weights, averages and Adam moments among the processes (FSDP2).",
            show_default=False,
        ),
    ] = None
    compiled: Annotated[
        bool | None,
        Option("--compile/--no-compile", help="Compile the loss (torch.compile).", show_default=False),
    ] = None
    check: Annotated[
        bool,
        Option(
            "--check", help="Check gradient and du/dt before the first step, as several processes always do."
        ),
    ] = False

    def given(self) -> dict[str, Any]:
        """Return the settings of the run, None for those not given."""
        from flowleap.runs import starting

        told = {name: value for name, value in vars(self).items() if name != "imports"}
        told["show"] = None if self.show is None else options.numbers(self.show, "--show")
        told |= {name: starting.words(told[name]) for name in starting.WORDS}
        return told | {"check": self.check or None}


@on_all_processes
@options.grouped
def train(
    method: Method = None,
    *,
    run: Run,
    out: Out = None,
    resume: Resume = False,
    overwrite: options.Overwrite = False,
    minutes: Minutes = None,
    hours: Hours = None,
    settings: options.Settings = None,
    num: Num = None,
    no_eval: NoEval = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    recipe: Recipe = None,
    push_to_hub: options.PushToHub = None,
    private: options.Private = False,
) -> None:
    """Train a generator from scratch; where nothing is named, by the recipe digits, in minutes on a laptop.

    Images of your own need no settings: --data photos/ --minutes 30 measures this machine, chooses network, batch and
    steps, and prints the plan. Every option and --set changes it; with --steps or --recipe nothing is planned.

    Distillation methods (progressive-distillation, consistency-distillation, reflow, ctm, sid, amed, ect-tuned, tcm)
    learn from a finished run, --teacher RUN, and start from its averaged weights. Without --teacher, the first half of
    --steps trains the teacher.

    Ctrl-C finishes the step, saves and exits; --resume continues with exactly the same result. The run folder holds the
    weights, sample grids, training curves, and a table of quality and time by the number of sampling steps.

    Started by torchrun or accelerate launch, all processes train one run together; --batch is the global batch.
    """
    from flowleap import processes, runs
    from flowleap.export import publishing
    from flowleap.runs import starting

    if recipe == recipes.LIST:
        recipes.recipes()
        return
    if as_json and not dry_run:
        raise typer.BadParameter("it belongs to --dry-run", param_hint="--json")
    asked = {**run.given(), "method": method, "eval_num": 0 if no_eval else num}
    asked["settings"] = options.renamed(settings)
    publication, length = publishing.Publication(push_to_hub, private), starting.Length.of(minutes, hours)
    ready = starting.prepare(
        asked,
        out,
        recipe,
        length,
        resume=resume,
        overwrite=overwrite,
        only_planned=dry_run,
        say=say,
        waiting=waiting,
    )
    if dry_run:
        foretell(ready.config, ready.dataset, as_json)
        return
    try:
        result = publishing.train(ready, publication, echo, resume=resume, overwrite=overwrite)
    except runs.Diverged as error:
        if processes.first():
            warn(f"error: {error}")
        raise typer.Exit(FAILED) from None
    if result.signal is not None or result.failed:
        raise typer.Exit(FAILED if result.signal is None else SIGNALED + result.signal)


def foretell(config: TrainConfig, dataset: Dataset | None, as_json: bool) -> None:
    """Print the memory, operations and time that a run will take; as JSON also its config."""
    from flowleap import runs
    from flowleap.runs import forecast

    with waiting("measuring a few steps …"):
        found = forecast.forecast(config, dataset)
    if as_json:
        print_json({"config": runs.to_dict(config), "estimate": found.to_dict()})
    else:
        show(forecast.table(config, found))
