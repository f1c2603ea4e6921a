"""The samples of a report: strips of images from the same noise, scatter plots, nearest neighbors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from flowleap import pictures
from flowleap.formatting import number, plural
from flowleap.reports import images
from flowleap.reports.entry import Entry, Group


@dataclass(frozen=True, eq=False)
class Row:
    """The images of one run: its group (None for real data), its strip and its alternative text."""

    group: Group | None
    label: str
    strip: images.Strip
    words: str


@dataclass(frozen=True, eq=False)
class Block:
    """The samples of all runs from the same noise at one NFE; `head` names the columns."""

    title: str
    head: Sequence[str]
    rows: Sequence[Row]


def pictured(entry: Entry) -> bool:
    """Whether the samples of an entry are gray or RGB images."""
    return any(samples.ndim == 4 and samples.shape[1] in (1, 3) for samples in entry.samples.values())


def blocks(found: Sequence[Group]) -> list[Block]:
    """Return a block for each NFE with a row for each run, and real images below."""
    drawn = [(group, entry) for group in found for entry in group.entries[:1] if pictured(entry)]
    made = []
    for nfe in sorted({nfe for _, entry in drawn for nfe in entry.samples}):
        rows = [
            Row(group, shown_as(group, entry), images.strip(entry.samples[nfe]), _depicted(entry, nfe))
            for group, entry in drawn
            if nfe in entry.samples
        ]
        made.append(Block(f"NFE {nfe}", _head(drawn[0][1]), rows))
    real = next((entry for _, entry in drawn if entry.real is not None), None)
    if made and real is not None and real.real is not None:
        words = f"{plural(len(real.real), 'real image')} of the training data{_classes(real)}"
        made.append(
            Block(
                "Real data, for comparison",
                _head(real),
                [Row(None, "real data", images.strip(real.real), words)],
            )
        )
    return made


def shown_as(group: Group, entry: Entry) -> str:
    """Return the label of the run that represents a group."""
    return group.label if len(group.entries) == 1 else f"{group.label} ({entry.label})"


def _head(entry: Entry) -> list[str]:
    count = len(next(iter(entry.samples.values())))
    if entry.classes is None:
        return [str(i) for i in range(count)]
    return [pictures.printable(entry.names[c]) if entry.names else str(c) for c in entry.classes.tolist()]


def _depicted(entry: Entry, nfe: int) -> str:
    count = plural(len(entry.samples[nfe]), "sample")
    return f"{count} of {entry.label} at NFE {nfe}{_classes(entry)}"


def _classes(entry: Entry) -> str:
    return "" if entry.classes is None else f", of the classes {', '.join(_head(entry))}"


@dataclass(frozen=True, eq=False)
class Cloud:
    """A scatter plot of one run at one NFE: SVG paths of its points and of the real ones."""

    group: Group
    label: str
    title: str
    path: str
    real: str
    words: str


def clouds(found: Sequence[Group]) -> list[Cloud]:
    """Return a scatter plot for each run and NFE, on the axes of the real data where there is any."""
    drawn = [(g, e) for g in found for e in g.entries[:1] if e.samples and not pictured(e)]
    made = []
    for group, entry in drawn:
        known = entry.real if entry.real is not None and entry.real.ndim == 2 else None
        for nfe, points in sorted(entry.samples.items()):
            if points.ndim != 2 or points.shape[1] != 2:
                continue
            view = images.frame(points if known is None else known)
            words = f"{plural(len(points), 'point')} of {entry.label} at NFE {nfe}"
            behind = "" if known is None else images.dots(known, view)
            words += "" if known is None else ", before the real data"
            title = f"NFE {nfe}"
            made.append(Cloud(group, shown_as(group, entry), title, images.dots(points, view), behind, words))
    return made


@dataclass(frozen=True, eq=False)
class Pairs:
    """Samples of one run above their nearest training images, with the distances between them."""

    group: Group
    label: str
    title: str
    samples: images.Strip
    nearest: images.Strip
    distances: Sequence[str]
    closest: int
    typical: str
    words: tuple[str, str]


def pairs(found: Sequence[Group]) -> list[Pairs]:
    """Return samples and their nearest neighbors, for the first run of each group."""
    made = []
    for group in found:
        for entry in group.entries[:1]:
            if (known := entry.neighbors) is None:
                continue
            words = (
                f"{plural(len(known.samples), 'sample')} of {entry.label} at NFE {known.nfe}",
                f"the training images nearest to these samples, at distances {_list(known.distance)}",
            )
            made.append(
                Pairs(
                    group, shown_as(group, entry), f"NFE {known.nfe}",
                    images.strip(known.samples), images.strip(known.nearest),
                    [number(float(d), 2) for d in known.distance], int(known.distance.argmin()),
                    number(known.typical, 2), words,
                )
            )  # fmt: skip
    return made


def _list(distances: Tensor) -> str:
    return ", ".join(number(float(d), 2) for d in distances)
