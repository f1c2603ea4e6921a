"""Reports in a real browser, opened from disk: nothing fetched, nothing complained of, readable on a phone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from flowleap import methods, reports, serialize
from served import SKIPPED, Visit, opened

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [pytest.mark.browser, SKIPPED]
LONG = "a-run-with-a-name-" + "that-never-ends" * 8
HOSTILE = "<script>window.broken = 1</script><img src=x onerror='window.broken = 1'>"


def made(label: str, index: int, points: bool = False, **more: Any) -> reports.Entry:
    """An entry with something in every section."""
    draw = torch.Generator().manual_seed(index)
    shape = (300, 2) if points else (20, 1, 8, 8)
    samples = {nfe: torch.rand(shape, generator=draw) * 2 - 1 for nfe in (1, 4)}
    rows = [
        {
            "nfe": nfe, "metric": "FD-pixel", "features": "pixel", "distance": (1 + index) / nfe, "seconds": 0.1 * nfe,
            "interval": [0.8 * (1 + index) / nfe, 1.2 * (1 + index) / nfe], "kernel_distance": 1e-3,
            "kernel_error": 2e-4, "precision": 0.8, "recall": 0.7, "density": 0.9, "coverage": 0.8, "num": 1000,
            "agreement": 0.97, "nearest_ratio": 1.1, "floor": 0.3, "judge": 0.99, "sliced_wasserstein": 0.1,
            "protocol": "flowleap/v2;FD-pixel;n=1000;ref=digits:1797;labels=cycle;weights=ema@9;seed=0;guidance=none",
        }
        for nfe in (1, 4)
    ]  # fmt: skip
    metrics = [
        {
            "step": step,
            "seconds": step,
            "raw_error": 1 / step,
            "grad_norm": math.exp(-step / 50),
            "images_per_second": 900,
        }
        for step in range(1, 100)
    ]
    curve = {"edges": [0.0, 0.5, 1.0], "value": [0.2, 0.4], "error": [0.01, 0.02]}
    images = samples[1][:6]
    return reports.Entry(
        label,
        note="changed from esc: label_dropout 0.1 → 0.0",
        config={"method": "esc", "steps": 99 + index, "objective": serialize.to_dict(methods.esc())},
        rows=rows,
        metrics=metrics,
        quality=[{"step": s, "nfe": 1, "distance": 9 / s, "metric": "FD-pixel"} for s in (30, 60, 90)],
        samples=samples,
        classes=None if points else torch.arange(20) % 10,
        real=samples[4],
        neighbors=None if points else reports.Neighbors(1, images, images.flip(0), torch.arange(1.0, 7.0), 2.0),
        diagnosis={"findings": [{"severity": "warning", "title": "Blow-up"}], "error": {"diagonal": curve}},
        environment={"sittings": [{"command": "flowleap train", "packages": {"torch": "2"}}]},
        parameters=1234,
        commands=["flowleap train esc " + "--set network.width=64 " * 9],
        papers=methods.citations("esc"),
        missing=["no table of quality; measure it with: flowleap evaluate " + LONG],
        **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    entries = [
        made("esc", 0),
        made(LONG, 1, points=True),
        made(HOSTILE, 2),
        *(made(f"seed {seed}", 3 + seed, group="three seeds") for seed in range(3)),
    ]
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(reports.page(HOSTILE, entries, subtitle=LONG, commands=[LONG]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened(playwright) as found:
        yield found


WIDER = """() => [...document.querySelectorAll("body *")]
    .filter((element) => !element.closest(".scroll, .teaser, nav ul, pre, svg, .skip"))
    .filter((element) => element.getBoundingClientRect().right > innerWidth + 1)
    .map((element) => element.outerHTML.slice(0, 120))"""


@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_is_quiet_complete_and_within_its_width(browser, report, width, scheme):
    with Visit(browser, report.as_uri(), width, scheme) as visit:
        visit.page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
        assert visit.said == []
        assert [url for url in visit.fetched if not url.startswith("data:")] == [report.as_uri()]
        assert visit.page.evaluate("document.documentElement.scrollWidth") == width
        assert visit.page.evaluate(WIDER) == []
        images = visit.page.evaluate("[...document.images].map((i) => i.complete && i.naturalWidth > 0)")
        assert len(images) > 15 and all(images)
        assert visit.page.evaluate("window.broken === undefined")
        assert visit.page.title() == HOSTILE


def test_charts_are_legible_on_a_phone(browser, report):
    with Visit(browser, report.as_uri(), 375) as visit:
        heights = visit.page.evaluate(
            "[...document.querySelectorAll('.chart text')].map((t) => t.getBoundingClientRect().height)"
        )
        assert len(heights) > 50 and min(heights) > 9
        widths = visit.page.evaluate(
            "[...document.querySelectorAll('.chart')].map((c) => c.getBoundingClientRect().width)"
        )
        assert min(widths) > 280


def test_colors_follow_the_system_and_the_button(browser, report):
    with (
        Visit(browser, report.as_uri(), 1280, "light") as visit,
        Visit(browser, report.as_uri(), 1280, "dark") as night,
    ):
        light, dark = visit.background(), night.background()
        assert light != dark
        button = visit.page.locator("#theme")
        assert button.is_visible() and button.get_attribute("aria-pressed") == "false"
        line = "getComputedStyle(document.querySelector('.chart path[style*=look-0]')).stroke"
        before = visit.page.evaluate(line)
        button.click()
        assert visit.background() == dark and button.get_attribute("aria-pressed") == "true"
        assert visit.page.evaluate(line) not in (before, "none", "")
        button.click()
        assert visit.background() == light
        night.page.locator("#theme").click()
        assert night.background() == light


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(browser, report, scheme):
    """The contrast of ordinary and of muted words, 4.5 to 1 or more (WCAG 2.1, 1.4.3)."""

    def luminance(color: str) -> float:
        parts = [int(part) / 255 for part in color.removeprefix("rgb(").removesuffix(")").split(", ")]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    with Visit(browser, report.as_uri(), 1280, scheme) as visit:
        grounds = [visit.background(), color(visit, ".card", "backgroundColor")]
        for where in (".lead", ".remark", ".eyebrow", ".papers a", ".missing h2", "caption"):
            word = luminance(color(visit, where, "color"))
            for ground in map(luminance, grounds):
                low, high = sorted((word, ground))
                assert (high + 0.05) / (low + 0.05) >= 4.5, where


def color(visit: Visit, where: str, what: str) -> str:
    return str(visit.page.evaluate(f"getComputedStyle(document.querySelector('{where}')).{what}"))


def test_the_report_is_whole_without_scripts(browser, report):
    with Visit(browser, report.as_uri(), 375, "dark", java_script_enabled=False) as visit:
        assert visit.page.locator("#theme").is_hidden()
        assert visit.page.locator("h1").is_visible() and visit.page.locator(".chart").first.is_visible()
        assert [url for url in visit.fetched if not url.startswith("data:")] == [report.as_uri()]


def test_sections_are_reached_by_links_and_keys(browser, report):
    with Visit(browser, report.as_uri(), 1280, reduced_motion="reduce") as visit:
        visit.page.locator("nav a", has_text="Training").click()
        assert visit.page.evaluate("location.hash") == "#training"
        assert visit.page.evaluate("document.querySelector('#training').getBoundingClientRect().top < 200")
        unreachable = "[...document.querySelectorAll('.scroll')].filter((e) => e.tabIndex !== 0).length"
        assert visit.page.evaluate(unreachable) == 0
