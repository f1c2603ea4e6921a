"""Run folders as entries of a report: the content of their files, samples of their weights, and what is missing."""

from __future__ import annotations

import datetime
import json
import os
import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowleap import evaluation, methods, runs
from flowleap.autoencoders import Decoder
from flowleap.data import Dataset, Rows
from flowleap.files import replace_file
from flowleap.formatting import plural
from flowleap.randomness import generator
from flowleap.reports.document import GENERATOR, page, same_protocol
from flowleap.reports.entry import Entry, Neighbors, finite, unique
from flowleap.runs import samples
from flowleap.training.config import flattened
from flowleap.training.log import lines_of

STEPS = evaluation.STEPS
NUM = {"image": 20, "latents": 20, "points": 1500}
JUDGED = 12  # samples shown beside their nearest neighbors
SEARCHED = 50_000  # rows that are searched of data that stay on the disk, at most: a fixed random part
READ = 1000  # of them in memory at a time
TYPICAL = 256  # real samples behind the distance that is typical
Waiting = Callable[[str], AbstractContextManager[None]]


# ---------------------------------------------------------------- writing


def write(
    folders: Sequence[str | Path],
    out: str | Path | None = None,
    title: str | None = None,
    *,
    overwrite: bool = False,
    steps: Sequence[int] = STEPS,
    num: int | None = None,
    weights: str = "ema",
    device: str | torch.device = "cpu",
    vae: str | None = None,
    waiting: Waiting = lambda text: nullcontext(),
) -> Path:
    """Write the report of some run folders as one HTML file, and return its path.

    An existing file is replaced only with `overwrite`, or where it is an earlier report in the folder of the only run.

    Args:
        out: the file; None for `default_place`.
        title: by default it names the runs.
        steps: the numbers of sampling steps of the samples.
        num: samples of each grid or cloud, by default 20 images or 1,500 points; 0 for none.
        vae: the autoencoder that decodes latents, by default the one they were made with.
        waiting: returns a context manager that shows a text.

    Raises: ValueError for folders without a run, none at all, numbers of different protocols, or a name that
        is not one of an HTML file; FileExistsError for a file that is there.
    """
    places = [Path(place) for place in folders]
    if not places:
        raise ValueError("a report needs at least one run folder, got none")
    entries = [read(place, label) for place, label in zip(places, names_of(places), strict=True)]
    path = Path(out) if out is not None else default_place(places)
    check_place(path, overwrite=overwrite or (len(places) == 1 and is_own(path, places[0])))
    same_protocol(entries)
    for index, place in enumerate(places):
        with waiting(f"making samples of {entries[index].label}"):
            entries[index] = picture(entries[index], place, steps, num, weights, device, vae)
    with waiting("drawing the report"):
        text = page(
            title or title_of(entries),
            entries,
            subtitle=f"{plural(len(entries), 'run')} on {', '.join(data_of(entries))}",
            commands=[shlex.join(["flowleap", "report", *map(str, places), "--out", str(path)])],
            made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, text)
    return path


def default_place(folders: Sequence[str | Path]) -> Path:
    """Return report.html in the folder of a single run, else in the common parent folder."""
    places = [Path(place) for place in folders]
    if len(places) == 1:
        return places[0] / "report.html"
    shared = Path(os.path.commonpath([place.absolute() for place in places]))
    inside = shared in {place.absolute() for place in places}
    shared = shared.parent if inside else shared
    here = Path.cwd()
    return (shared.relative_to(here) if shared.is_relative_to(here) else shared) / "report.html"


def is_own(path: Path, place: Path) -> bool:
    """Whether a path is report.html in a run folder, and an earlier report."""
    if path.absolute() != (place / "report.html").absolute() or not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return f'<meta name="generator" content="{GENERATOR}' in file.read(2000)


def check_place(path: Path, *, overwrite: bool) -> None:
    """Raise ValueError for a path that is not one of an HTML file, FileExistsError for an existing one."""
    if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
        raise ValueError(f"{path}: a report is one .html file; name it with --out, as in --out report.html")
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{path} exists already: choose another --out, or replace it with --overwrite (overwrite=True)"
        )


def names_of(places: Sequence[Path]) -> list[str]:
    """Return labels of runs: the names of their folders, with those of their parents where they repeat."""
    whole = [place.absolute() for place in places]
    short = [place.name for place in whole]
    long = [f"{place.parent.name}/{place.name}" for place in whole]
    return unique(distinctive([b if short.count(a) > 1 else a for a, b in zip(short, long, strict=True)]))


def distinctive(names: Sequence[str]) -> list[str]:
    """Return names without the hyphenated words that all of them begin or end with.

    >>> distinctive(["digits-esc-seed0", "digits-flow-matching-seed0"])
    ['esc', 'flow-matching']
    >>> distinctive(["digits-esc-seed0"]), distinctive(["a-b", "b"])
    (['digits-esc-seed0'], ['a-b', 'b'])
    """
    words = [name.split("-") for name in names]
    for end in (0, -1):
        while len(words) > 1 and min(map(len, words)) > 1 and len({word[end] for word in words}) == 1:
            for word in words:
                word.pop(end)
    return ["-".join(word) for word in words]


def title_of(entries: Sequence[Entry]) -> str:
    """Return a title that names up to three runs."""
    labels = [entry.label for entry in entries]
    if len(labels) > 3:
        return f"{len(labels)} runs compared"
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"


def data_of(entries: Sequence[Entry]) -> list[str]:
    """Return the names of the data sets, each once."""
    return list(
        dict.fromkeys(str(flattened(entry.config).get("data.name", "unknown data")) for entry in entries)
    )


# ---------------------------------------------------------------- reading


def gather(
    folder: str | Path,
    label: str | None = None,
    *,
    steps: Sequence[int] = STEPS,
    num: int | None = None,
    weights: str = "ema",
    device: str | torch.device = "cpu",
) -> Entry:
    """Return a run folder as an entry, with samples; `Entry.missing` says what could not be had.

    Args: as `write`.
    Raises: ValueError for a folder without a run.
    """
    place = Path(folder)
    return picture(read(place, label or place.absolute().name), place, steps, num, weights, device)


def read(place: Path, label: str) -> Entry:
    """Return the content of the files of a run folder, without its weights.

    Raises: ValueError for a folder without a run, or with a config.json that cannot be read.
    """
    try:
        config = runs.read_config(place)
    except FileNotFoundError as error:
        raise ValueError(f"{error}; a report is made of folders that `flowleap train` wrote") from error
    found = Files(place, [])
    rows = found.json("table.json", list)
    if not rows and not (place / "table.json").is_file():
        off = " (it was trained without one)" if not config.evaluation.num else ""
        command = (
            f"flowleap evaluate {shlex.quote(str(place))}{'' if config.data.name else ' --reference DATA'}"
        )
        found.missing.append(f"no table of quality{off}; measure it with: {command}")
    origin = runs.origin(place)
    metrics = found.lines("metrics.jsonl", needed=origin is None)
    if origin is None:
        progress(config, metrics, found.missing)
    else:
        found.missing.append(origin)
    quality = found.lines("quality.jsonl", needed=False)
    environment = found.json("environment.json", dict)
    sittings = [one for one in environment.get("sittings", []) if isinstance(one, dict)]
    return Entry(
        label=label,
        note="; ".join(runs.changes(config)),
        config=runs.to_dict(config),
        rows=[row for row in rows if isinstance(row, dict) and finite(row.get("nfe")) is not None],
        metrics=metrics,
        quality=quality,
        diagnosis=found.json("diagnosis.json", dict, needed=False) or None,
        environment=environment,
        papers=methods.citations(config.objective),
        commands=[str(one["command"]) for one in sittings if one.get("command")],
        missing=found.missing,
    )


@dataclass(frozen=True)
class Files:
    """The files of a run folder; those that cannot be read are noted in `missing`."""

    place: Path
    missing: list[str]

    def json(self, name: str, kind: type, needed: bool = True) -> Any:
        """Return the content of a JSON file, an empty `kind` where it is missing or something else."""
        path = self.place / name
        if not path.is_file():
            if needed and name != "table.json":
                self.missing.append(f"no {name}")
            return kind()
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            self.missing.append(f"{name} cannot be read ({error})")
            return kind()
        if not isinstance(content, kind):
            self.missing.append(f"{name} holds something else than expected")
            return kind()
        return content

    def lines(self, name: str, needed: bool = True) -> list[dict[str, Any]]:
        """Return the lines of a log without broken ones, as a crash leaves them."""
        path = self.place / name
        if not path.is_file():
            if needed:
                self.missing.append(f"no {name}: nothing was logged yet")
            return []
        rows = lines_of(path)
        broken = len(path.read_text(encoding="utf-8", errors="replace").splitlines()) - len(rows)
        if broken:
            self.missing.append(f"{broken} of the lines of {name} cannot be read and are left out")
        return rows


def progress(config: runs.TrainConfig, metrics: Sequence[dict[str, Any]], missing: list[str]) -> None:
    """Note an unfinished run, and log intervals without finite numbers."""
    done = max((step for row in metrics if (step := finite(row.get("step"))) is not None), default=0)
    if done < (steps := runs.length(config)):
        missing.append(f"not finished: step {done:,.0f} of {steps:,}")
    for name, words in (("raw_error", "unweighted error"), ("grad_norm", "gradient norm")):
        lost = sum(finite(row.get(name)) is None for row in metrics)
        if lost:
            missing.append(f"{lost} of {len(metrics)} log intervals have no finite {words}")


# ---------------------------------------------------------------- samples


def picture(
    entry: Entry,
    place: Path,
    steps: Sequence[int],
    num: int | None,
    weights: str,
    device: str | torch.device,
    vae: str | None = None,
) -> Entry:
    """Return an entry with samples of the weights of the run, real samples and nearest neighbors where possible."""
    missing = list(entry.missing)
    try:
        run = runs.load_run(place, weights=weights, device=device)
    except (OSError, ValueError) as error:
        return replace(entry, missing=[*missing, f"no samples: {error}"])
    if run.step < run.length:
        missing.append(f"samples are from step {run.step:,}, its last checkpoint")
    entry = replace(entry, parameters=sum(p.numel() for p in run.network.parameters()))
    decoder = run.decoder(vae if run.kind == "latents" else None)
    if run.kind == "latents" and decoder is None:
        how = "what decodes them is not at hand; name an autoencoder with --vae"
        return replace(entry, missing=[*missing, f"no pictures: its samples are latents, and {how}"])
    count = NUM[run.kind] if num is None else num
    if not count:
        return replace(entry, missing=missing)
    made = sampled(run, steps, count, missing, decoder)
    data = data_of_run(run, missing)
    if data is not None and isinstance(data.x, Rows) and data.x.on_disk and len(data) > SEARCHED:
        missing.append(
            f"nearest neighbors are looked for among a fixed random {SEARCHED:,} of {len(data):,} training images"
        )
    classes = evaluation.cycle(count, run.num_classes)
    shape = run.shape if decoder is None else decoder.shape(run.shape)
    drawable = shape == (2,) if run.kind == "points" else len(shape) == 3 and shape[0] in (1, 3)
    if not drawable:
        missing.append(
            f"samples of shape {shape} are neither images of 1 or 3 channels nor points in the plane"
        )
    return replace(
        entry,
        samples=made if drawable else {},
        classes=None if run.kind == "points" else classes,
        names=run.classes,
        real=samples.real(data, count, decoder) if data is not None and drawable else None,
        neighbors=neighbors(made, data) if data is not None and drawable else None,
        missing=missing,
    )


def sampled(
    run: runs.Run, steps: Sequence[int], count: int, missing: list[str], decoder: Decoder | None = None
) -> dict[int, Tensor]:
    """Return samples at each number of steps by their NFE, all from the same noise."""
    found = {}
    for number in steps:
        try:
            found[run.objective.nfe(number)] = samples.first(run, count, number, decoder)
        except evaluation.NotFinite as error:
            missing.append(f"no samples at {number} steps: {error}")
    return found


def data_of_run(run: runs.Run, missing: list[str]) -> Dataset | None:
    """Return the training data; None, with a note, where it cannot be loaded by its name."""
    try:
        data = run.dataset()
    except (OSError, ValueError) as error:
        data = None
        if run.imported is not None:
            missing.append(f"no real data and no nearest neighbors: {error}")
            return None
    if data is None or data.shape != run.shape:
        missing.append(
            f"no real data and no nearest neighbors: the data {run.config.data.name!r} was given from Python, and has "
            "no name to load it by"
        )
        return None
    return data


def neighbors(made: dict[int, Tensor], data: Dataset) -> Neighbors | None:
    """Return the first samples at the least NFE and the training images nearest to them."""
    if not made or data.kind != "image" or len(data) < 2:
        return None
    nfe = min(made)
    shown = made[nfe][:JUDGED]
    data = data.part(SEARCHED) if isinstance(data.x, Rows) and data.x.on_disk else data
    rows = torch.randperm(len(data), generator=generator(0, "neighbors"))[:TYPICAL]
    asked = torch.cat([shown, data.x[rows]]).flatten(1).float()
    own = torch.cat([torch.full((len(shown),), -1), rows])
    distance, index = nearest(asked, data, own)
    typical = float(distance[len(shown) :].median())
    return Neighbors(nfe, shown, data.x[index[: len(shown)]], distance[: len(shown)], typical)


def nearest(asked: Tensor, data: Dataset, own: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distance and the index of the nearest row of the data other than own[i], reading block by block.

    Shapes: asked (n, d), own (n,) → (n,), (n,).
    """
    distance, index = torch.full((len(asked),), torch.inf), torch.zeros(len(asked), dtype=torch.int64)
    start = 0
    for part in data.x.split(READ):
        between = torch.cdist(asked, part.flatten(1).float())
        inside = ((own >= start) & (own < start + len(part))).nonzero().flatten()
        between[inside, own[inside] - start] = torch.inf
        least = between.min(dim=1)
        closer = least.values < distance
        distance = torch.where(closer, least.values, distance)
        index = torch.where(closer, least.indices + start, index)
        start += len(part)
    return distance, index
