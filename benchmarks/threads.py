"""Training beside other work: images per second alone, two runs at once, beside a busy core, when another run starts.

    uv run python benchmarks/threads.py              # on an otherwise idle machine, 10 minutes on two cores
    uv run python benchmarks/threads.py --rounds 1   # half of it; the same command again goes on where it stopped

Every measurement starts `flowleap train` on digits in processes of its own, waits for their first steps, and reads from
their metrics how many images they train on in a few seconds. A run that chooses its threads itself may change them
while it trains: it is measured 10 s after other work began, and alone for long enough to hold one of its trials.
Settings and situations alternate; medians over rounds. Measurements are kept in benchmarks/threads.json as they are
made, and the page is written from them; those of another machine, version, window or spin count are made anew.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from kept import machine

import flowleap
from flowleap.runs import read_config
from flowleap.threads import SPINS, cores

ALL = str(cores())
SETTINGS: dict[str, tuple[dict[str, str], list[str]]] = {
    "flowleap": ({}, []),
    "libgomp's own spinning, all cores": ({"GOMP_SPINCOUNT": "300000"}, ["--threads", ALL]),
    "OMP_WAIT_POLICY=passive, all cores": ({"OMP_WAIT_POLICY": "passive"}, ["--threads", ALL]),
    "--threads 1": ({}, ["--threads", "1"]),
}
"""The environment and the options of a run, by name; the first is how it comes."""
OURS, FORMER = list(SETTINGS)[:2]
SITUATIONS = {
    "alone": "one run",
    "two": "two runs, started together; the slower one",
    "busy": "a loop that keeps one core busy, started first",
    "later": "the loop starts after the run",
    "second": "a second run starts after the run; the first one",
}
BEFORE, AFTER, LONG = 3.0, 10.0, 25.0
"""Seconds of a run that may change its threads before other work starts, and from then to its measurement; of one that
is measured alone, so that a trial of other threads lies in them."""
PLACE = Path(__file__).with_suffix(".json")
FRESH = ("OMP_", "GOMP_", "KMP_", "MKL_")


class Training:
    """A `flowleap train` in a process of its own, until the context ends; its output is in `folder`/log."""

    def __init__(self, folder: Path, setting: str) -> None:
        self.folder, self.setting = folder, setting

    def __enter__(self) -> Training:
        variables, options = SETTINGS[self.setting]
        plain = {name: value for name, value in os.environ.items() if not name.startswith(FRESH)}
        words = "train --steps 100000 --log-every 5 --sample-every 0 --checkpoint-every 0 --no-eval"
        words = [
            *words.split(),
            "--set",
            "evaluation.online_share=0",
            "--out",
            str(self.folder / "run"),
            *options,
        ]
        self.folder.mkdir()
        self.log = (self.folder / "log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flowleap", *words],
            env=plain | variables,
            stdout=self.log,
            stderr=self.log,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()

    def reached(self) -> tuple[int, float]:
        """Return the last step that is logged and the seconds of training up to it; waits for the first."""
        path = self.folder / "run" / "metrics.jsonl"
        while not path.exists() or not path.read_text():
            if self.process.poll() is not None:
                raise SystemExit((self.folder / "log").read_text())
            time.sleep(0.05)
        row = json.loads(path.read_text().splitlines()[-1])
        return row["step"], row["seconds"]

    @property
    def threads(self) -> int:
        """The number of threads that the run took."""
        found = json.loads((self.folder / "run" / "environment.json").read_text())
        return int(found["sittings"][-1]["threads"])


class Busy:
    """A loop that keeps one core busy until the context ends."""

    def __enter__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", "while True: pass"])

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def measure(setting: str, situation: str, window: float) -> dict[str, Any]:
    """Return the images per second of a run in a situation, the slowest of those that started together."""
    chooses = "--threads" not in SETTINGS[setting][1]
    with tempfile.TemporaryDirectory() as place, ExitStack() as held:

        def train(name: str) -> Training:
            return held.enter_context(Training(Path(place) / name, setting))

        if situation == "busy":
            held.enter_context(Busy())
        runs = [train(f"run-{number}") for number in range(2 if situation == "two" else 1)]
        for run in runs:
            run.reached()
        adapts = chooses and situation in ("later", "second")
        time.sleep(BEFORE if adapts else 0.0)
        if situation == "later":
            held.enter_context(Busy())
        if situation == "second":
            train("other").reached()
        time.sleep(AFTER if adapts else 0.0)
        before = [run.reached() for run in runs]
        time.sleep(max(window, LONG) if chooses and situation == "alone" else window)
        after = [run.reached() for run in runs]
        batch = read_config(runs[0].folder / "run").data.batch
        rates = [
            batch * (last[0] - first[0]) / max(1e-9, last[1] - first[1])
            for first, last in zip(before, after, strict=True)
        ]
        return {
            "setting": setting,
            "situation": situation,
            "images": min(rates),
            "threads": [run.threads for run in runs],
        }


def page(about: str, rows: list[dict[str, Any]]) -> list[str]:
    """Return the page as lines of Markdown."""
    rates = {
        (setting, situation): [
            row["images"] for row in rows if (row["setting"], row["situation"]) == (setting, situation)
        ]
        for setting in SETTINGS
        for situation in SITUATIONS
    }
    medians = {key: statistics.median(found) for key, found in rates.items() if found}
    lines = [*HEADER, about, "", f"| | {' | '.join(SITUATIONS)} |", "|---|" + "---:|" * len(SITUATIONS)]
    for setting in SETTINGS:
        cells = [f"{medians[setting, s]:,.0f}" if (setting, s) in medians else "" for s in SITUATIONS]
        lines.append(f"| {setting} | {' | '.join(cells)} |")
    lines += ["", *(f"- {name}: {text}" for name, text in SITUATIONS.items())]
    taken = {
        situation: sorted(
            count
            for row in rows
            if (row["setting"], row["situation"]) == (OURS, situation)
            for count in row["threads"]
        )
        for situation in SITUATIONS
    }
    lines += [
        f"- threads that flowleap had at the end: {', '.join(f'{s} {counts}' for s, counts in taken.items())}"
    ]
    if {(OURS, "alone"), (FORMER, "alone"), (OURS, "two")} <= medians.keys():
        alone = medians[FORMER, "alone"]
        loss, slower = 1 - medians[OURS, "alone"] / alone, alone / medians[OURS, "two"]
        lines += [
            "",
            "| goal | reached | number |",
            "|---|---|---:|",
            f"| alone, at most 5 % slower than with {FORMER} | {yes(loss <= 0.05)} | {loss:.1%} |",
            f"| two at once, each at most 2.2 × slower than that alone | {yes(slower <= 2.2)} | {slower:.2f} × |",
        ]
    return lines


def yes(reached: bool) -> str:
    return "yes" if reached else "**no**"


HEADER = (
    "# Training beside other work",
    "",
    "Made by `uv run python benchmarks/threads.py`. Images per second of one run of the default command on digits; "
    "medians of interleaved rounds. A run that chooses its threads itself is measured from "
    f"{AFTER:g} s after other work began, and alone for {LONG:g} s, so that a trial of other threads lies in them.",
    "",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--window", type=float, default=6.0, help="seconds of each measurement")
    parser.add_argument("--spins", default="", help="also these spin counts, as in 20000,300000")
    parser.add_argument(
        "--situations", default=",".join(SITUATIONS), help="those of the table, as in alone,two"
    )
    parser.add_argument("--fresh", action="store_true", help="forget the measurements that are there")
    args = parser.parse_args()
    for spins in filter(None, args.spins.split(",")):
        SETTINGS[f"GOMP_SPINCOUNT={spins}"] = {"GOMP_SPINCOUNT": spins}, []
    about = f"{machine()}; {args.window:g} s each; spin count {SPINS}; torch {torch.__version__}, "
    about += f"flowleap {flowleap.__version__}"
    kept = {} if args.fresh or not PLACE.exists() else json.loads(PLACE.read_text())
    rows = kept["rows"] if kept.get("about") == about else []
    done = {(row["round"], row["setting"], row["situation"]) for row in rows}
    for number in range(args.rounds):
        for situation in args.situations.split(","):
            for setting in SETTINGS:
                if (number, setting, situation) in done:
                    continue
                found = measure(setting, situation, args.window)
                rows.append({"round": number, **found})
                print(
                    f"{situation:8}{found['images']:8,.0f} images/s  {found['threads']}  {setting}",
                    flush=True,
                )
                PLACE.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    text = page(about, rows)
    print(*text, sep="\n")
    PLACE.with_suffix(".md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
