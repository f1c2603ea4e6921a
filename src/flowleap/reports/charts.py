"""Line charts as SVG with the colors of the page, light or dark.

matplotlib draws with placeholder colors, each of which becomes a CSS variable. Text of users never reaches
matplotlib, which reads "$" as mathematics: legends are HTML, and hover texts are added afterwards.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any
from xml.etree import ElementTree

LOOKS = 8
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "*")
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
INK, FAINT, RULE, PAPER = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
VARIABLES = {INK: "ink", FAINT: "muted", RULE: "rule", PAPER: "card"} | {
    f"#0a0c{look:02x}": f"look-{look}" for look in range(LOOKS)
}
SIZE = (360, 250)  # in pixels, about what a chart has on a phone, so that its words keep their size
MOST = 240
STEPS = [1, 2, 2.5, 5, 10]  # between the numbers on a linear axis


@dataclass(frozen=True)
class Line:
    """A series with the number `look` of its color and marker, hover texts `tips`, and bounds.

    A faint line is one of several repetitions. Without `tips` only some points have a marker.
    """

    look: int
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    tips: Sequence[str] = ()
    faint: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart: title, caption, lines. `words`: for screen readers. `level`: a dashed horizontal line and its name."""

    title: str
    words: str
    lines: Sequence[Line]
    xlabel: str = "step"
    caption: str = ""
    xlog: bool = False
    ylog: bool = False
    ticks: Sequence[float] = ()
    level: tuple[float, str] | None = None


def thin(x: Sequence[float], y: Sequence[float], most: int = MOST) -> tuple[list[float], list[float]]:
    """Return at most `most` points: means of the finite values of neighboring ones, NaN where there are none."""
    size = max(1, math.ceil(len(x) / most))
    steps, means = [], []
    for start in range(0, len(x), size):
        seen = [value for value in y[start : start + size] if math.isfinite(value)]
        steps.append(fmean(x[start : start + size]))
        means.append(fmean(seen) if seen else math.nan)
    return steps, means


def draw(chart: Chart, name: str) -> str:
    """Return the SVG element of a chart; its ids begin with `name`."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "flowleap", "font.size": 10}
    with matplotlib.rc_context(settings | {"axes.unicode_minus": True}):
        figure = Figure(figsize=(SIZE[0] / 72, SIZE[1] / 72), layout="constrained", facecolor="none")
        FigureCanvasSVG(figure)
        axis = figure.add_subplot()
        for line in chart.lines:
            _line(axis, line)
        _axis(axis, chart)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    tips = [tip for line in chart.lines for tip in _shown(line)]
    return _adapt(buffer.getvalue(), name, f"{chart.title}. {chart.words}", tips)


def _shown(line: Line) -> list[str]:
    return [tip for tip, y in zip(line.tips, line.y, strict=True) if math.isfinite(y)] if line.tips else []


def _line(axis: Any, line: Line) -> None:
    color, marker = f"#0a0c{line.look % LOOKS:02x}", MARKERS[line.look % len(MARKERS)]
    size = 7 if marker in "X*P" else 5.6
    style: Any = dict(color=color, markeredgecolor=PAPER, markeredgewidth=0.9, markersize=size)  # noqa: C408
    pattern: Any = (0, (3, 2)) if line.dashed else "-"
    width, alpha = (1.1, 0.6) if line.faint else (1.8, 1.0)
    for x, low, high in zip(line.x, line.low, line.high, strict=False):
        if low is not None and high is not None:
            axis.vlines(x, low, high, color=color, linewidth=3.2, alpha=0.4, zorder=2)
    every = None
    if not line.tips:
        gap = max(1, len(line.x) // 6)
        every = (min(len(line.x) - 1, line.look % gap), gap)
    axis.plot(
        line.x, line.y, linewidth=width, linestyle=pattern, alpha=alpha, marker=None if line.tips else marker,
        markevery=every, solid_capstyle="round", zorder=3, **style,
    )  # fmt: skip
    if line.tips:
        for x, y in zip(line.x, line.y, strict=True):
            if math.isfinite(y):
                axis.plot([x], [y], marker=marker, linestyle="none", zorder=4, gid="tip", **style)


def _axis(axis: Any, chart: Chart) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    if chart.level is not None:
        height, name = chart.level
        axis.axhline(height, color=FAINT, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
        axis.annotate(
            name, (1, height), xycoords=("axes fraction", "data"), xytext=(0, 4), textcoords="offset points",
            ha="right", va="bottom", color=FAINT, fontsize=9.5,
        )  # fmt: skip
    if chart.ylog:
        _logarithmic(axis.set_yscale, axis.yaxis, axis.get_ylim)
    else:
        axis.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    if chart.xlog:
        _logarithmic(axis.set_xscale, axis.xaxis, axis.get_xlim)
    else:
        axis.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS, integer=True))
    if chart.ticks:
        axis.xaxis.set_major_locator(FixedLocator(list(chart.ticks)))
        axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(_tick))
    axis.yaxis.set_major_formatter(FuncFormatter(_tick))
    axis.set_xlabel(chart.xlabel, color=FAINT)
    axis.set_facecolor("none")
    axis.grid(True, axis="y", color=RULE, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=FAINT, length=0, pad=5)
    for side, spine in axis.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(RULE)


def _tick(value: float, _: int) -> str:
    """A number on an axis: 0.02, 4, 1,000, 50k."""
    if abs(value) >= 10_000:
        return f"{value / 1000:,.4g}k"
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _logarithmic(set_scale: Any, axis: Any, limits: Any) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    set_scale("log")
    low, high = limits()
    decades = math.log10(high / low) if 0 < low < high else 1.0
    subs: tuple[float, ...] = (1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0) if decades <= 0.8 else (1.0, 2.0, 5.0)
    subs = (1.0,) if decades > 2.5 else subs
    axis.set_major_locator(LogLocator(subs=subs, numticks=20))
    axis.set_minor_locator(NullLocator())


def _adapt(svg: bytes, name: str, words: str, tips: Sequence[str]) -> str:
    """Adapt the SVG of matplotlib to a page: its colors, unique ids, hover texts, a label for screen readers."""
    root = ElementTree.fromstring(svg)
    parents = {child: parent for parent in root.iter() for child in parent}
    for tag in ("metadata", "style"):
        for element in list(root.iter(f"{{{SVG}}}{tag}")):
            parents[element].remove(element)
    used = set(_references(root))
    waiting = iter(tips)
    for element in root.iter():
        identity = element.attrib.pop("id", None)
        if identity == "tip" and (tip := next(waiting, None)) is not None:
            title = ElementTree.Element(f"{{{SVG}}}title")
            title.text = tip
            element.insert(0, title)
            element.set("class", "tip")
        elif identity in used:
            element.set("id", f"{name}-{identity}")
        target = element.attrib.pop(f"{{{XLINK}}}href", None)
        if target is not None:
            element.set("href", f"#{name}-{target[1:]}")
        for key, value in element.attrib.items():
            element.set(key, _themed(value.replace("url(#", f"url(#{name}-")))
        element.tail = None
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("class", "chart")
    root.set("role", "img")
    root.set("aria-label", words)
    ElementTree.register_namespace("", SVG)
    return ElementTree.tostring(root, encoding="unicode")


def _references(root: ElementTree.Element) -> Iterator[str]:
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == f"{{{XLINK}}}href":
                yield value[1:]
            yield from re.findall(r"url\(#([^)]+)\)", value)


def _themed(value: str) -> str:
    shorter = re.sub(r"(\d+\.\d\d)\d+", r"\1", value)
    return re.sub(r"#0a0[bc][0-9a-f]{2}", lambda found: f"var(--{VARIABLES.get(found[0], 'ink')})", shorter)
