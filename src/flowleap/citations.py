"""The papers that parts of methods come from, by BibTeX key; their entries are in `citations.bib`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Citation:
    """A paper; `bibtex` is its whole entry, and `eprint` its number on arXiv, "" where it has none."""

    key: str
    title: str
    authors: str
    year: int
    eprint: str
    bibtex: str


class Cited:
    """A part of a method, which names the papers that it is from."""

    @property
    def cites(self) -> tuple[str, ...]:
        """Their keys in `CITATIONS`."""
        return ()


def _read(entry: str) -> Citation:
    key = entry.partition("{")[2].partition(",")[0]
    field = dict(re.findall(r"^  (\w+) = \{(.+)\},?$", entry, re.MULTILINE))
    return Citation(key, field["title"], field["author"], int(field["year"]), field.get("eprint", ""), entry)


_ENTRIES = Path(__file__).with_suffix(".bib").read_text(encoding="utf-8").strip().split("\n\n")

CITATIONS: dict[str, Citation] = {paper.key: paper for paper in map(_read, _ENTRIES)}
"""Every paper by its BibTeX key."""
