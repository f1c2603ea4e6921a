"""The plan of a study: the config and the number of steps of every run, resolved once and kept in plan.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from flowleap import clock, evaluation, methods, runs, threads
from flowleap import data as data_sets
from flowleap.data import Dataset
from flowleap.design import hyphens
from flowleap.files import replace_file
from flowleap.lock import vacant
from flowleap.provenance import NewerFormat, format_of, version
from flowleap.runs import teachers
from flowleap.runs.pace import StepCost, step_cost
from flowleap.studies import ablation
from flowleap.studies.budget import Budget, parse
from flowleap.suggest import suggest
from flowleap.training.config import present

TABLE = (
    "progressive-distillation",
    "consistency-distillation",
    "reflow",
    "diffusion",
    "flow-matching",
    "consistency-training",
    "live-reflow",
    "shortcut",
)
"""The methods compared in Frans et al. 2024 (arXiv 2410.12557), in the order of its table."""
VARIANTS = {
    "consistency_training": "table1",
    "consistency_distillation": "table1",
    "progressive_distillation": "table1",
    "live_reflow": "table1",
    "diffusion": "ours",
    "reflow": "ours",
    "shortcut": "paper",
}
"""The definition of a method where its name does not say it: "table1" is the baseline of that table as its code has it,
"ours" what neither article nor code defines."""
REFERENCE = "flow-matching"
GIVEN = "teacher"
"""The label of the row of a given teacher."""
EQUAL = ("steps", "flops", "time")
LEAST = 7
"""The fewest steps of a phase: level schedules have seven stages."""
MOST_FOR_PAIRS = 1 / 3
"""The largest share of the forward-equivalents of a run that making pairs may take."""
FORMAT = 2
"""Of plan.json. The configs of format 1 have no groups."""
PLAN = "plan.json"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """The arguments of a study; the same request continues it, another one is refused.

    Args:
        methods: names of methods, "all" for `TABLE`.
        data: the name of the data set.
        budget: of training each run, see `budget.parse`; for both phases of a method with a teacher.
        equal: what all rows have the same of: "steps", "flops" (forward-equivalents) or "time"; None for time where the
            budget is a time, else steps. A budget in another unit is converted by the cost of flow matching, or in an
            ablation by that of the whole method.
        seeds: the number of runs of each method, with seeds 0, 1, ….
        steps: the numbers of sampling steps to evaluate.
        num: samples of each evaluation.
        network, batch, device, settings: as in `runs.configure`, the same for all rows; a setting "METHOD:FIELD" is for
            one method.
        teacher: the folder of a finished run, the teacher of all methods that need one, which then spend the whole
            budget on themselves; it is evaluated too. None: each trains a teacher of its own.
        drop: components of the one method to leave out one by one and to keep one by one; "all" for all it has.
        over: fields of the one method with their values as text, tried in every combination.

    Raises: ValueError for values out of range or arguments that exclude one another.
    """

    methods: tuple[str, ...]
    data: str = "digits"
    budget: str = "3m"
    equal: str | None = None
    seeds: int = 3
    steps: tuple[int, ...] = (128, 4, 1)
    num: int = 1000
    network: str | None = None
    batch: int | None = None
    device: str = "auto"
    settings: tuple[tuple[str, str], ...] = ()
    teacher: str | None = None
    drop: tuple[str, ...] = ()
    over: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def __post_init__(self) -> None:
        parse(self.budget)
        if self.equal is not None and self.equal not in EQUAL:
            raise ValueError(f"equal={self.equal!r}{suggest(self.equal, EQUAL)}")
        if self.seeds < 1:
            raise ValueError(f"seeds={self.seeds}: at least one run of each method is needed")
        if not self.steps or min(self.steps) < 1 or len(set(self.steps)) < len(self.steps):
            raise ValueError(
                f"steps to evaluate {self.steps}: different whole numbers from 1 up are expected"
            )
        if self.num < 1:
            raise ValueError(f"num={self.num}: at least one sample is needed")
        if self.drop and self.over:
            raise ValueError(
                "components are left out (--drop) or fields are varied (--over), not both in one study: make two"
            )
        if self.ablates and (len(self.methods) != 1 or self.methods == ("all",)):
            raise ValueError(f"an ablation is of one method, not of {', '.join(self.methods) or 'none'}")

    @property
    def ablates(self) -> bool:
        """Whether this is an ablation of one method, not a comparison of several."""
        return bool(self.drop or self.over)

    def names(self) -> tuple[str, ...]:
        """Return the methods, with hyphens.

        Raises: ValueError for none, an unknown name, with similar ones, or a repeated one.
        """
        asked = TABLE if tuple(self.methods) == ("all",) else self.methods
        names = [hyphens(methods.key(name)) for name in asked]
        known = [*map(hyphens, methods.names())]
        for name in names:
            if name not in (*known, *map(hyphens, methods.aliases())):
                raise ValueError(f"unknown method {name!r}{suggest(name, [*known, 'all'])}")
        twice = {name for name in names if names.count(name) > 1}
        if twice or not names:
            what = f"{', '.join(sorted(twice))} twice" if twice else "no method"
            raise ValueError(f"{what} in a comparison: name each method once, or all")
        return tuple(names)

    def dataset(self) -> Dataset:
        """Load the data of all runs."""
        return data_sets.load(self.data, preprocessing=runs.preprocessing_of(self.settings))

    def components(self) -> tuple[str, ...]:
        """Return the names of the components that are left out; raises as `ablation.named`."""
        if not self.drop:
            return ()
        key = methods.key(self.methods[0])
        return tuple(one.name for one in ablation.named(key, methods.get(key), self.drop))

    def settings_of(self, method: str) -> list[tuple[str, str]]:
        """Return the settings of all methods, then those of this one.

        Raises: ValueError for a setting of a method that is not compared.
        """
        found: dict[bool, list[tuple[str, str]]] = {False: [], True: []}
        for name, value in self.settings:
            owner, own, field = name.rpartition(":")
            owner = hyphens(methods.key(owner))
            if own and owner not in self.names():
                raise ValueError(
                    f"--set {name}: no method {owner!r} in this comparison{suggest(owner, self.names())}"
                )
            if owner in ("", method):
                found[bool(own)].append((field, value))
        return found[False] + found[True]


@dataclass(frozen=True)
class Row:
    """One method of a comparison, or one variant of an ablation.

    Args:
        method: its label: the name of a method, with hyphens, or of a variant of it.
        variant: the definition of the method, see `variant`.
        config: of its run with seed 0, as plain data.
        steps: of a run, of all phases together.
        phases: 2 where the method trains its own teacher first, with half of the steps, else 1.
        images: of a run: steps × batch.
        forward_equivalents: of one step per image of the batch, the mean over the phases.
        seconds_per_step: measured before the study, None where that was not needed.
        pairs: pairs of noise and sample that the teacher makes between the phases.
        once: the forward-equivalents of making them.
    """

    method: str
    variant: str
    config: runs.TrainConfig
    steps: int
    phases: int
    images: int
    forward_equivalents: float
    seconds_per_step: float | None = None
    pairs: int = 0
    once: float = 0.0

    def configured(self, seed: int) -> runs.TrainConfig:
        """Return the config of the run with a seed."""
        return replace(self.config, seed=seed)

    @property
    def total(self) -> float:
        """Forward-equivalents of a whole run."""
        return self.forward_equivalents * self.images + self.once


@dataclass(frozen=True)
class Plan:
    """A study with all that follows from its request.

    Args:
        equal: what all rows have the same of, see `Request`.
        rows: the methods, or the variants of one.
        teacher: the row of a given teacher.
        full: the label of the unchanged method that variants are compared with; None in a comparison.
        threads: CPU threads of every run, None in a plan of an earlier version.
    """

    request: Request
    equal: str
    rows: tuple[Row, ...]
    teacher: Row | None = None
    full: str | None = None
    threads: int | None = None

    @property
    def shown(self) -> tuple[Row, ...]:
        """The rows of the table: those of the methods, below that of a given teacher."""
        return self.rows if self.teacher is None else (self.teacher, *self.rows)

    def row(self, method: str) -> Row:
        """Return the row of a label."""
        return next(row for row in self.shown if row.method == method)

    def runs(self) -> list[tuple[Row, int]]:
        """Return all runs in their order: seed by seed, so that there is a table early."""
        return [(row, seed) for seed in range(self.request.seeds) for row in self.rows]


# ---------------------------------------------------------------- making a plan


def resolve(
    request: Request,
    dataset: Dataset,
    say: Say = lambda text: None,
    jobs: int = 1,
    given: int | None = None,
) -> Plan:
    """Return the plan of a request; measures the cost of its steps, and writes no file.

    Args:
        jobs: runs at a time. given: CPU threads of each, None for the fastest number.

    Raises: ValueError for what does not fit the data, or a budget that is too small.
    """
    budget = parse(request.budget)
    equal = request.equal or ("time" if budget.unit == "seconds" else "steps")
    configs, full = variants(request, dataset)
    distinct(configs)
    teacher = None if request.teacher is None else taught(Path(request.teacher), configs, dataset)
    first = next(iter(configs.values()))
    evaluation.enough(request.num, evaluation.held_out(dataset, first.evaluation.features))
    timed = equal == "time" or budget.unit == "seconds"
    timing = configs
    if full is None or any(runs.own_teacher(config) for config in configs.values()):
        teachers = (taught_by(config) for config in configs.values() if runs.own_teacher(config))
        named = dict.fromkeys([REFERENCE, *teachers])
        timing = {**{name: configured(request, name, dataset) for name in named}, **configs}
    count = thread_count(first, dataset, jobs, given)
    costs: dict[str, StepCost] = {}
    with threads.limited(count, jobs):
        for name, config in timing.items():
            say(f"{'timing' if timed else 'counting'} the steps of {name}")
            costs[name] = step_cost(config, dataset, timed=timed)
    load = max(cost.load for cost in costs.values())
    if load > clock.BUSY:
        say(
            f"warning: this machine is busy: steps took {load:.1f} times as long as the processor worked on them. Runs "
            "have the steps that fit the budget on an idle machine, and take longer beside this load"
        )
    reference = full or REFERENCE
    allowed = spend(budget, equal, costs[reference], timing[reference].data.batch)
    size = len(dataset)
    rows = [row_of(request, equal, allowed, name, config, costs, size) for name, config in configs.items()]
    return Plan(request, equal, tuple(rows), teacher, full, count)


def thread_count(config: runs.TrainConfig, dataset: Dataset, jobs: int, given: int | None) -> int:
    """Return the CPU threads of every run: the number given, or that with which a step is fastest."""
    limit = threads.most(jobs)
    return threads.known(given, limit) or runs.Setup(config, dataset).fastest_threads(limit)


def variants(request: Request, dataset: Dataset) -> tuple[dict[str, runs.TrainConfig], str | None]:
    """Return the config of every row by its label, and the label of the whole method; None in a comparison.

    Raises: ValueError for an unknown component or field, with similar ones, or a value that does not fit.
    """
    if not request.ablates:
        return {name: configured(request, name, dataset) for name in request.names()}, None
    (name,) = request.names()
    whole = configured(request, name, dataset)
    key, objective = methods.key(name), whole.objective
    asked = (
        ablation.dropped(key, objective, request.drop)
        if request.drop
        else ablation.crossed(key, objective, request.over)
    )
    configs = {label: configured(request, name, dataset, settings) for label, settings in asked.items()}
    full = next((label for label, config in configs.items() if config == whole), None)
    return (configs, full) if full is not None else ({name: whole, **configs}, name)


def configured(
    request: Request, name: str, dataset: Dataset, settings: Sequence[tuple[str, str]] = ()
) -> runs.TrainConfig:
    """Return the config of a method but for its steps; the study evaluates, so its runs do not.

    Args:
        settings: of a variant, applied after those of the request.
    """

    def with_teacher(teacher: str | None) -> runs.TrainConfig:
        return runs.configure(
            name,
            dataset,
            teacher=teacher,
            network=request.network,
            settings=[*request.settings_of(name), *settings],
            batch=request.batch,
            device=request.device,
            eval_num=0,
            show=tuple(sorted(request.steps)),
            sample_every=0,
            online_share=0.0,
        )

    alone = with_teacher(None)
    return with_teacher(request.teacher) if request.teacher and runs.own_teacher(alone) else alone


def taught_by(config: runs.TrainConfig) -> str:
    """Return the method of the teacher that a run trains itself."""
    return hyphens(config.objective.taught_by)


def taught(place: Path, configs: Mapping[str, runs.TrainConfig], dataset: Dataset) -> Row:
    """Return the row of a given teacher.

    Raises: ValueError where no method has a teacher, or it does not fit one; FileNotFoundError where it is no run.
    """
    students = [config for config in configs.values() if config.teacher.path is not None]
    if not students:
        raise ValueError(
            f"the teacher {place} was given, but none of {', '.join(configs)} has one: leave out --teacher, or name "
            "methods such as consistency-distillation"
        )
    for config in students:
        teachers.find(config, dataset)
    return billed(GIVEN, runs.read_config(place), len(dataset), None)


def distinct(configs: Mapping[str, runs.TrainConfig]) -> None:
    """Raise ValueError for two labels of one method, or of one variant."""
    seen: dict[str, str] = {}
    for name, config in configs.items():
        text = json.dumps(runs.to_dict(replace(config, method="")), sort_keys=True)
        if text in seen:
            raise ValueError(f"{seen[text]} and {name} are the same method: leave one of them out")
        seen[text] = name


def spend(budget: Budget, equal: str, reference: StepCost, batch: int) -> float:
    """Return the budget of each run in the unit that is equal: steps, forward-equivalents or seconds."""
    if budget.unit == "seconds" and equal == "time":
        return budget.amount
    if budget.unit == "seconds":
        assert reference.seconds is not None
        steps = budget.amount / reference.seconds
    else:
        steps = budget.steps(batch)
    if equal == "steps":
        return steps
    if equal == "flops":
        return steps * batch * reference.forward_equivalents
    assert reference.seconds is not None
    return steps * reference.seconds


def row_of(
    request: Request,
    equal: str,
    allowed: float,
    name: str,
    config: runs.TrainConfig,
    costs: Mapping[str, StepCost],
    rows: int,
) -> Row:
    """Return the row of a method, with as many steps as the budget allows; raises ValueError where these are too few.

    Pairs that a teacher makes between the phases count only where forward-equivalents are equal.
    """
    own = runs.own_teacher(config)
    parts = [costs[taught_by(config)], costs[name]] if own else [costs[name]]
    timed = [cost.seconds for cost in parts if cost.seconds is not None]
    seconds = sum(timed) / len(parts) if timed else None
    counted = sum(cost.forward_equivalents for cost in parts) / len(parts) * config.data.batch
    price = {"steps": 1.0, "flops": counted, "time": seconds or 0.0}[equal]
    config = config.replace(steps=whole(allowed / price, len(parts)))
    bills = runs.bill(config, rows) if equal == "flops" else []
    pairs = next((bill for bill in bills if bill.phase == runs.PAIRS), None)
    if pairs is not None:
        most = max(1, int(min(pairs.forward_equivalents, allowed * MOST_FOR_PAIRS) / pairs.per_image))
        steps = whole((allowed - most * pairs.per_image) / price, len(parts))
        config = config.replace(
            steps=steps, pairs=min(most, runs.length(config.replace(steps=steps)) * config.data.batch)
        )
    if config.schedule.steps < LEAST * len(parts) or allowed < price * LEAST * len(parts):
        phases = f" in {len(parts)} phases" if own else ""
        raise ValueError(
            f"a budget of {request.budget} is {int(allowed / price + 1e-9)} steps of {name}{phases}, too few to "
            f"evaluate: at least {LEAST * len(parts)} are needed, give a larger --budget"
        )
    every = max(1, min(config.schedule.checkpoint_every, -(-config.schedule.steps // 8)))
    config = config.replace(checkpoint_every=every, log_every=min(config.schedule.log_every, every))
    return billed(name, config, rows, seconds)


def whole(steps: float, phases: int) -> int:
    """Return a whole number of steps, the same for all phases and at least one for each."""
    return max(1, int(steps + 1e-9) // phases) * phases


def billed(name: str, config: runs.TrainConfig, rows: int, seconds: float | None) -> Row:
    """Return the row of a method with the cost of its phases."""
    bills = runs.bill(config, rows)
    training = [bill for bill in bills if bill.phase != runs.PAIRS]
    pairs = [bill for bill in bills if bill.phase == runs.PAIRS]
    images = sum(bill.images for bill in training)
    return Row(
        method=name,
        variant=variant(config.method),
        config=config,
        steps=config.schedule.steps,
        phases=len(training),
        images=images,
        forward_equivalents=sum(bill.forward_equivalents for bill in training) / images,
        seconds_per_step=seconds,
        pairs=sum(bill.images for bill in pairs),
        once=sum(bill.forward_equivalents for bill in pairs),
    )


def variant(key: str) -> str:
    """Return which definition of a method a name stands for: "paper", "repo", "table1", "ours"."""
    last = key.rpartition("_")[2]
    return last if last in ("paper", "repo", "table1") else VARIANTS.get(key, "paper")


# ---------------------------------------------------------------- keeping it


def prepare(
    request: Request,
    out: Path,
    dataset: Dataset | None = None,
    say: Say = lambda text: None,
    jobs: int = 1,
    given: int | None = None,
) -> Plan:
    """Return the plan of the study in a folder: the one there, or a new one, which is written.

    Raises: ValueError for a folder that holds something else or another study, and as `resolve`.
    """
    if (out / PLAN).is_file():
        plan = read(out)
        compatible(plan.request, request, out)
        if request.seeds > plan.request.seeds:
            say(f"{plan.request.seeds} seeds become {request.seeds}")
            plan = replace(plan, request=replace(plan.request, seeds=request.seeds))
            write(out, plan)
        return plan
    check_place(out)
    plan = resolve(request, dataset or request.dataset(), say, jobs, given)
    out.mkdir(parents=True, exist_ok=True)
    write(out, plan)
    return plan


def write(out: Path, plan: Plan) -> None:
    """Write plan.json."""

    def row(one: Row) -> dict[str, Any]:
        return {**vars(one), "config": runs.to_dict(one.config)}

    content = {
        "format": FORMAT,
        "version": version("flowleap"),
        **vars(plan),
        "request": asdict(plan.request),
    }
    content |= {"rows": [row(one) for one in plan.rows], "teacher": plan.teacher and row(plan.teacher)}
    replace_file(out / PLAN, json.dumps(content, indent=2) + "\n")


def check_place(out: Path) -> None:
    """Raise ValueError for a path with anything but a study."""
    if (out / PLAN).is_file() or not out.exists():
        return
    if not out.is_dir() or not vacant(out):
        raise ValueError(
            f"{out} is there but holds no comparison (no {PLAN}): name a new or an empty folder with --out"
        )


def read(out: Path) -> Plan:
    """Return the plan in a folder; raises ValueError where it cannot be read."""
    path = out / PLAN
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        format_of(path, content, FORMAT)
        request = Request(**{name: _frozen(value) for name, value in content["request"].items()})
        given = [content.get("teacher"), *content["rows"]]
        teacher, *rows = (row and Row(**{**row, "config": runs.from_dict(row["config"])}) for row in given)
        return Plan(
            request, content["equal"], tuple(rows), teacher, content.get("full"), content.get("threads")
        )
    except NewerFormat:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: truncated, or not the plan of a comparison ({error})") from error


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def compatible(stored: Request, asked: Request, out: Path) -> None:
    """Raise ValueError, naming what differs, where a request does not continue a study; more seeds do."""

    def text(request: Request, name: str) -> str:
        value = getattr(request, name)
        return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

    names, parts = stored.names() == asked.names(), stored.components() == asked.components()
    changed = [f.name for f in fields(Request) if getattr(stored, f.name) != getattr(asked, f.name)]
    settings = [[(present(name), value) for name, value in one.settings] for one in (stored, asked)]
    alike = {"device": True, "methods": names, "drop": parts, "seeds": asked.seeds > stored.seeds}
    alike["settings"] = settings[0] == settings[1]
    changed = [name for name in changed if not alike.get(name)]
    if changed:
        told = "; ".join(f"{name} is {text(stored, name)}, not {text(asked, name)}" for name in changed)
        raise ValueError(f"{out} holds another comparison: {told}. Name another --out, or ask for the same")
