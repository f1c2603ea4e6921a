"""Studies that are kept: what a `flowleap compare` or `ablate` left, with its command, and what was wanted of it.

Used by table1.py and space.py; a folder for each part beside the page that shows them.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring import processor

KEPT = ("table.md", "table.csv", "table.json", "samples.png")
Cells = dict[tuple[str, int], float]


@dataclass(frozen=True)
class Goal:
    """The distance of one cell, (method, steps), should be at most a factor times that of another."""

    one: tuple[str, int]
    other: tuple[str, int]
    factor: float = 1.0

    def line(self, cells: Cells) -> str:
        """Return the goal, whether it is reached and by which numbers, as a line of a table."""
        (method, steps), (auxiliary, budget) = self.one, self.other
        bound = "below" if self.factor == 1 else f"at most {self.factor:g} ×"
        text = f"{method} at {steps}: {bound} {auxiliary} at {budget}"
        reached = cells[self.one] <= self.factor * cells[self.other]
        numbers = f"{cells[self.one]:.3f} to {cells[self.other]:.3f}"
        return f"| {text} | {'yes' if reached else '**no**'} | {numbers} |"


@dataclass(frozen=True)
class Part:
    """A study: its title, the words of its command, and what is wanted of its numbers."""

    title: str
    words: tuple[str, ...]
    goals: tuple[Goal, ...] = ()


def run(words: list[str]) -> str:
    """Run a command of flowleap, which continues where it stopped, and return it as text."""
    asked = "flowleap " + shlex.join(words)
    print(asked, flush=True)
    done = subprocess.run([sys.executable, "-m", "flowleap", *words], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return asked


def keep(place: Path, kept: Path, asked: str, remark: str | None, **more: Any) -> None:
    """Copy what a study left in a place, with where and how long it was made."""
    kept.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copy(place / name, kept / name)
    seconds = sum(json.loads(path.read_text())["seconds"] for path in place.glob("runs/*/outcome.json"))
    about: dict[str, Any] = {"command": asked, "machine": machine(), "hours": seconds / 3600}
    about |= {} if remark is None else {"remark": remark}
    (kept / "about.json").write_text(json.dumps(about | more, indent=2) + "\n", encoding="utf-8")


def renew(place: Path, kept: Path, method: str, asked: str, remark: str | None) -> None:
    """Replace one method in what is kept of a study by a study of that method alone: its rows, and its row of samples.

    Raises: ValueError where the two were measured by different protocols or in other numbers of steps.
    """
    rows, new = (json.loads((folder / "table.json").read_text()) for folder in (kept, place))
    old = [row for row in rows if row["method"] == method]
    terms = [[(row["steps"], row["protocol"]) for row in some] for some in (old, new)]
    if terms[0] != terms[1]:
        raise ValueError(
            f"{place} was measured by {terms[1]}, {kept} by {terms[0]}: make the whole part anew"
        )
    first = rows.index(old[0])
    rows[first : first + len(old)] = new
    (kept / "table.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    for name, start in (("table.csv", f"{method},"), ("table.md", f"| {method} |")):
        lines, theirs = ((folder / name).read_text(encoding="utf-8").split("\n") for folder in (kept, place))
        found = iter([line for line in theirs if line.startswith(start)])
        lines = [next(found) if line.startswith(start) else line for line in lines]
        (kept / name).write_text("\n".join(lines), encoding="utf-8")
    paste(place / "samples.png", kept / "samples.png", first // len(old), len(old))
    about: dict[str, Any] = json.loads((kept / "about.json").read_text())
    made = {"command": asked, "machine": machine(), "seeds": new[0]["seeds"]}
    made |= {} if remark is None else {"remark": remark}
    about["renewed"] = about.get("renewed", {}) | {method: made}
    (kept / "about.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def paste(one: Path, several: Path, index: int, budgets: int) -> None:
    """Copy the only row of a picture of samples over a row of a picture of several methods."""
    from PIL import Image

    from flowleap.studies.picture import CELL, SPACE

    head, wide = SPACE + 20, budgets * (5 * (CELL + 3) + 3 + SPACE)
    with Image.open(one) as source, Image.open(several) as picture:
        high = (source.height - head - SPACE) // 2  # the only method, and real data
        row = source.crop((source.width - wide, head, source.width, head + high))
        picture.paste(row, (picture.width - wide, head + index * high))
        picture.save(several, optimize=True)


def machine() -> str:
    """Return what this machine is."""
    return f"{processor()}, no GPU used"


def section(kept: Path, part: Part, extra: Cells | None = None, told: tuple[str, ...] = ()) -> list[str]:
    """Return what is kept of a part as lines of Markdown; `extra` cells and sentences come from elsewhere."""
    link = f"{kept.parent.name}/{kept.name}"
    about: dict[str, Any] = json.loads((kept / "about.json").read_text())
    rows = json.loads((kept / "table.json").read_text())
    cells: Cells = {(row["method"], row["steps"]): row["distance_mean"] for row in rows} | (extra or {})
    lines = [
        f"## {part.title}",
        "",
        f"`{about['command']}`: {about['hours']:.1f} hours of training in all, on {about['machine']}.",
        f"Table as [CSV]({link}/table.csv) and [JSON]({link}/table.json).",
        *([about["remark"]] if "remark" in about else []),
        *(renewal(method, made) for method, made in about.get("renewed", {}).items()),
        "",
        (kept / "table.md").read_text().split("\n", 1)[1].strip(),
        "",
        f"![Samples]({link}/samples.png)",
        "",
        *(line for sentence in told for line in (sentence, "")),
    ]
    if part.goals:
        lines += ["| wanted, distance | reached | numbers |", "| --- | --- | ---: |"]
        lines += [*(goal.line(cells) for goal in part.goals), ""]
    return lines


def renewal(method: str, made: dict[str, Any]) -> str:
    """Return how the rows of a method were made that are newer than those around them."""
    one, *more = made["seeds"]
    seeds = f"seeds {', '.join(map(str, made['seeds']))}" if more else f"seed {one} only"
    made_by = f"`{method}` was made anew, {seeds}, by `{made['command']}` on {made['machine']}."
    return " ".join([made_by, *([made["remark"]] if "remark" in made else [])])


def write(page: Path, head: list[str], sections: list[list[str]]) -> None:
    """Write a page anew from the sections of its parts."""
    body = [line for one in sections for line in one]
    page.write_text("\n".join([*head, *body]).rstrip() + "\n", encoding="utf-8")
    print(page.read_text(encoding="utf-8"))
