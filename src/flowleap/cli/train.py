"""flowleap train: the main job, from names to a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowleap.cli import options, plan, recipes
from flowleap.cli.group import say
from flowleap.cli.launcher import on_all_processes, spread

if TYPE_CHECKING:
    from flowleap.training.config import TrainConfig

SIGNALED = 128
FAILED = 1


Method = Annotated[
    str | None,
    typer.Argument(metavar="[METHOD]", help="See `flowleap methods list`.", show_default="esc"),
]
Steps = Annotated[int | None, typer.Option(help="Optimizer steps of the run.", show_default="by the data")]
Seed = Annotated[
    int | None, typer.Option(help="Seed of all random draws and of the initial weights.", show_default="0")
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Where to write: the run folder.", show_default="runs/DATA-METHOD-seedN, -2, -3, … if taken"
    ),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Continue the run in --out (or the newest of that name), exactly."),
]
LogEvery = Annotated[int | None, typer.Option(help="Steps between metrics.", show_default="50")]
SampleEvery = Annotated[
    int | None, typer.Option(help="Steps between sample grids; 0: at the end only.", show_default="500")
]
CheckpointEvery = Annotated[
    int | None, typer.Option(help="Steps between checkpoints; 0: at the end only.", show_default="500")
]
Num = Annotated[
    int | None,
    typer.Option(help="How many samples are behind each number of the final table.", show_default="1000"),
]
Pairs = Annotated[
    int | None,
    typer.Option(
        "--pairs",
        help="Reflow: samples of the teacher to train on.",
        show_default="4 for each row of the data, at most all used",
    ),
]
PairSteps = Annotated[
    int | None, typer.Option(help="Reflow: steps of the teacher for each of them.", show_default="128")
]
PerDevice = Annotated[
    int | None,
    typer.Option(
        "--per-device",
        min=1,
        help="Rows that a process computes at a time; --batch stays that of all processes together.",
        show_default="its whole share",
    ),
]
Accumulate = Annotated[
    int | None,
    typer.Option(min=1, help="Parts that a process cuts its share of a batch into.", show_default="1"),
]
Shard = Annotated[
    bool | None,
    typer.Option(
        "--shard/--no-shard",
        help="Divide weights, averages and moments among the processes (FSDP2).",
        show_default=False,
    ),
]
Compiled = Annotated[
    bool | None,
    typer.Option("--compile/--no-compile", help="Compile the loss (torch.compile).", show_default=False),
]
Check = Annotated[
    bool,
    typer.Option("--check", help="Check gradient and du/dt before the first step, on one process too."),
]
NoEval = Annotated[bool, typer.Option("--no-eval", help="Leave out the final table.")]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print JSON on standard output, and nothing else: of --dry-run, the config and its estimate.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Measure a few steps, say what the run will take (memory, operations, hours), and leave.",
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Start from published or tested settings; list shows all.", show_default="none"
    ),
]
Init = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        help="Begin with the averaged weights of another run, of another method or other classes, too.",
        show_default="new weights",
    ),
]


@on_all_processes
def train(
    method: Method = None,
    data: options.Data = None,
    steps: Steps = None,
    seed: Seed = None,
    out: Out = None,
    batch: options.Batch = None,
    square: options.SquarePolicy = None,
    size: options.Size = None,
    flip: options.Flip = None,
    strict: options.Strict = None,
    workers: options.Workers = None,
    threads: options.TrainingThreads = None,
    lr: options.Lr = None,
    network: options.Network = None,
    device: options.TrainingDevice = None,
    teacher: options.Teacher = None,
    num_pairs: Pairs = None,
    pair_steps: PairSteps = None,
    resume: Resume = False,
    overwrite: options.Overwrite = False,
    settings: options.Settings = None,
    log_every: LogEvery = None,
    sample_every: SampleEvery = None,
    checkpoint_every: CheckpointEvery = None,
    num: Num = None,
    no_eval: NoEval = False,
    show: options.Show = None,
    precision: options.Precision = None,
    per_device: PerDevice = None,
    accumulate: Accumulate = None,
    shard: Shard = None,
    compiled: Compiled = None,
    check: Check = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    recipe: Recipe = None,
    init: Init = None,
    imports: options.Imports = None,
) -> None:
    """Train a generator from scratch; on digits with the default method this takes minutes on a laptop.

    Distillation (progressive-distillation, consistency-distillation, reflow, ctm, sid, amed, ect-tuned, tcm) learns
    from a finished run, --teacher RUN, and starts from its averaged weights; without one, the first half of --steps
    trains it.

    Ctrl-C finishes the step, saves and leaves; --resume continues as if nothing had happened. The run folder
    holds the weights, sample grids, curves, and a table of quality and time at 1, 2, 4 and 128 steps.

    Started by torchrun or accelerate launch, all processes train one run together: the batch is that of all.
    """
    options.import_all(imports)
    from flowleap import processes, runs

    if recipe == recipes.LIST:
        recipes.recipes()
        return
    plan.refuse_json(as_json, dry_run)
    given: dict[str, Any] = {
        "steps": steps,
        "seed": seed,
        "batch": batch,
        "lr": lr,
        "device": device,
        "log_every": log_every,
        "sample_every": sample_every,
        "checkpoint_every": checkpoint_every,
        "eval_num": 0 if no_eval else num,
        "show": None if show is None else options.numbers(show, "--show"),
        "teacher": teacher,
        "pairs": num_pairs,
        "pair_steps": pair_steps,
        "init": init,
        "square": square,
        "size": size,
        "flip": flip,
        "strict": strict,
        "workers": workers,
        "threads": threads,
        **spread(precision, per_device, accumulate, shard, compiled, check),
    }
    named = {"method": method, "data": data, "network": network}
    about = {**named, "settings": options.pairs(settings or []), **given}
    config, out = settled(about, out, recipe, resume=resume, dry_run=dry_run)
    if dry_run:
        plan.plan(config, as_json)
        return
    try:
        result = runs.train(config, out, resume=resume, overwrite=overwrite)
    except runs.Diverged as error:
        if processes.first():
            say(f"error: {error}")
        raise typer.Exit(FAILED) from None
    if result.signal is not None or result.failed:
        raise typer.Exit(FAILED if result.signal is None else SIGNALED + result.signal)


def settled(
    about: dict[str, Any], out: Path | None, recipe: str | None, *, resume: bool, dry_run: bool
) -> tuple[TrainConfig, Path | None]:
    """The config of a run, new or to be continued, by what was said about it, and its folder.

    Raises: typer.BadParameter for a recipe of a run that has its settings already.
    """
    from flowleap import runs

    known = {name: value for name, value in about.items() if value is not None}
    if not resume:
        return recipes.configured(recipe, known, dry_run) if recipe else runs.configure(**known), out
    if recipe:
        raise typer.BadParameter("a resumed run has its settings: leave it out", param_hint="--recipe")
    names = {name: known[name] for name in ("method", "data", "seed") if name in known}
    out = out or runs.resumed_folder(**names)
    return runs.reconfigure(runs.read_config(out), **about), out
