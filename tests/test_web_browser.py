"""The page that generates, in a real browser, from a plain server of static files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from flowleap import evaluation, runs, samplers
from flowleap.cli import app
from flowleap.export import runtime
from flowleap.runs import Run
from served import SKIPPED, Visit, axe, opened, or_skip, served

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason=f"{package} is not installed")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    SKIPPED,
]
HOSTILE = [
    "</script><img src=x onerror='window.broken = 1'>",
    "\"quotes\" & 'more' <!--",
    "$`\\ ünï 数",
    *"3456789",
]


@dataclass(frozen=True)
class Site:
    """A page that was exported, where it is served, and the run that it is of."""

    address: str
    folder: Path
    run: Run

    def images(self, noise: Tensor, label: list[int], steps: int, guidance: float | None = None) -> Tensor:
        """Return what torch makes of the same noise."""
        rows = noise.reshape(-1, *self.run.shape)
        with torch.no_grad():
            made = self.run.objective.sample(
                self.run.flow, rows, steps, label=torch.tensor(label), guidance=guidance
            )
        return made.clamp(*evaluation.BOUNDS["image"])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    """A run of a small DiT whose classes have names of all kinds."""
    or_skip(runtime.found)
    place = tmp_path_factory.mktemp("web")
    settings = [
        ("network.width", "32"),
        ("network.depth", "1"),
        ("network.heads", "2"),
        ("guidance", "GuidanceInput"),
    ]
    config = runs.configure(
        "esc", "digits", settings=settings, steps=30, batch=32, eval_num=0, sample_every=0, checkpoint_every=0,
        device="cpu",
    )  # fmt: skip
    folder = runs.train(config, place / "a <run> & 'more'").folder
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    written["dataset"]["class_names"] = HOSTILE
    (folder / "config.json").write_text(json.dumps(written), encoding="utf-8")
    words = ["export", "web", str(folder), str(place / "page"), "--title", HOSTILE[0]]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (done.stderr, done.exception)
    assert "beside the runtime" in done.stdout
    with served(place / "page") as address:
        yield Site(address, place / "page", runs.load_run(folder))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened(playwright) as found:
        yield found


def shown(visit: Visit, canvas: str, shape: tuple[int, ...]) -> Tensor:
    """Return the gray levels of a canvas."""
    return torch.tensor(visit.pixels(canvas)).reshape(*shape, 4)[..., 0]


def levels(images: Tensor) -> Tensor:
    return ((images + 1) * 127.5).round()


def query(visit: Visit) -> dict[str, list[str]]:
    return parse_qs(urlsplit(visit.page.url).query)


def took(visit: Visit, where: str) -> float:
    number, unit = visit.page.locator(where).inner_text().split()
    assert unit == "ms"
    return float(number)


def test_images_are_those_of_torch(browser, site):
    """From the noise of the page, and from that of `flowleap sample`, in one step and in four."""
    with Visit(browser, site.address) as visit:
        visit.settled()
        for seed, label, steps in ((0, 0, 1), (7, 9, 4), (2**40, 10, 1)):
            noise = torch.tensor(visit.page.evaluate(f"Array.from(flowleap.noise({seed}, 2))"))
            torch.testing.assert_close(
                noise, samplers.noise(seed, [2], site.run.shape).flatten(), atol=2e-6, rtol=0
            )
            made = visit.page.evaluate(
                "([noise, label, steps]) => flowleap.generate(noise, label, steps)",
                [noise.tolist(), label, steps],
            )
            expected = site.images(noise, [label], steps).flatten()
            assert expected.std() > 0.1
            torch.testing.assert_close(torch.tensor(made), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_the_page_shows_images_and_times_and_fetches_its_folder_alone(browser, site, width, scheme):
    with Visit(browser, f"{site.address}?seed=5&class=3", width, scheme) as visit:
        visit.settled()
        assert visit.page.locator("#notice").is_hidden()
        noise = samplers.noise(5, [0], site.run.shape)
        for canvas, steps in (("short", 1), ("long", 4)):
            difference = shown(visit, canvas, (8, 8)) - levels(site.images(noise, [3], steps))[0, 0]
            assert difference.abs().max() <= 1
            assert took(visit, f"#{canvas}-took") > 0
        visit.page.locator("#many").scroll_into_view_if_needed()
        visit.page.locator("#many-total", has_text="64 images in").wait_for()
        visit.settled()
        grid = shown(visit, "grid", (71, 71)).unfold(0, 8, 9).unfold(1, 8, 9).reshape(64, 8, 8)
        label = [i % 10 for i in range(64)]
        images = site.images(samplers.noise(5, range(64), site.run.shape), label, 1)
        assert (grid - levels(images)[:, 0]).abs().max() <= 1
        assert took(visit, "#many-took") > 0
        assert visit.page.evaluate("document.documentElement.scrollWidth") == width
        if kept := os.environ.get("FLOWLEAP_SCREENSHOTS"):
            visit.page.screenshot(path=Path(kept, f"web-{width}-{scheme}.png"), full_page=True)
        names = {
            url.removeprefix(site.address).partition("?")[0] for url in visit.fetched if "data:" not in url
        }
        assert names == {"", "model.onnx", "onnxruntime.js", "onnxruntime.wasm"}
        assert visit.said == []


def test_text_of_users_is_shown_and_harmless(browser, site):
    with Visit(browser, site.address) as visit:
        visit.settled()
        assert visit.page.locator("h1").inner_text() == HOSTILE[0] == visit.page.title()
        for number in (1, 0, 2):
            name = HOSTILE[number]
            visit.page.get_by_text(name, exact=True).last.click()
            visit.settled()
            assert query(visit)["class"] == [name]
            noise = samplers.noise(0, [0], site.run.shape)
            difference = shown(visit, "short", (8, 8)) - levels(site.images(noise, [number], 1))[0, 0]
            assert difference.abs().max() <= 1
        visit.page.reload()
        visit.settled()
        assert visit.page.locator("input[name=class]:checked").get_attribute("value") == "2"
        visit.page.locator("#turns").uncheck()
        assert " --seed 0 --label '$`\\ ünï 数' " in visit.page.locator("#command").inner_text()
        assert visit.page.evaluate("window.broken === undefined") and visit.said == []


def test_guidance_that_is_an_input_is_chosen(browser, site):
    with Visit(browser, site.address) as visit:
        visit.settled()
        before = visit.pixels("short")
        visit.page.locator("#guidance").fill("4.5")
        visit.settled()
        assert query(visit)["guidance"] == ["4.5"] and visit.pixels("short") != before
        noise = samplers.noise(0, [0], site.run.shape)
        difference = shown(visit, "short", (8, 8)) - levels(site.images(noise, [0], 1, guidance=4.5))[0, 0]
        assert difference.abs().max() <= 1
        assert visit.page.locator("#command").inner_text().endswith("--label all --guidance 4.5")


def test_keys_and_the_back_button(browser, site):
    with Visit(browser, f"{site.address}?seed=1", reduced_motion="reduce") as visit:
        visit.settled()
        first = visit.pixels("short")
        visit.page.keyboard.press("n")
        visit.settled()
        assert query(visit)["seed"] != ["1"] and visit.pixels("short") != first
        visit.page.go_back()
        visit.settled()
        assert query(visit)["seed"] == ["1"] and visit.pixels("short") == first
        visit.page.locator("#seed").fill("2")
        visit.settled()
        assert query(visit)["seed"] == ["2"] and visit.pixels("short") != first
        visit.page.locator("#seed").press("n")  # a letter in a field is no command
        assert query(visit)["seed"] == ["2"]
        visit.page.locator("#across").press("End")
        visit.settled()
        assert query(visit)["at"] == ["1,0.5"]


def test_the_field_is_dragged(browser, site):
    """Its corners are the images of four seeds; what lies between is neither."""
    with Visit(browser, f"{site.address}?seed=11&class=4") as visit:
        visit.settled()
        visit.page.locator("#between").scroll_into_view_if_needed()
        box = visit.page.locator("#pad").bounding_box()
        mouse = visit.page.mouse
        mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.4 * box["height"])
        mouse.down()
        visit.settled()
        middle = visit.pixels("between-image")
        mouse.move(box["x"] + box["width"] - 1, box["y"] + box["height"] - 1)
        mouse.up()
        visit.settled()
        assert query(visit)["at"] == ["1,1"] and visit.pixels("between-image") != middle
        expected = levels(site.images(samplers.noise(14, [0], site.run.shape), [4], 1))[0, 0]
        assert (shown(visit, "between-image", (8, 8)) - expected).abs().max() <= 1
        whole = shown(visit, "map", (62, 62))
        assert (whole[-8:, -8:] - expected).abs().max() <= 1
        assert visit.page.locator("#corner-3").inner_text() == "seed 14"


def test_png_files(browser, site, tmp_path):
    with Visit(browser, f"{site.address}?seed=3&class=4", accept_downloads=True) as visit:
        visit.settled()
        for button, canvas in (("save-one", "short"), ("save-many", "grid")):
            visit.page.locator(f"#{button}").scroll_into_view_if_needed()
            visit.page.wait_for_timeout(200)
            visit.settled()
            with visit.page.expect_download() as waiting:
                visit.page.locator(f"#{button}").click()
            file = tmp_path / waiting.value.suggested_filename
            waiting.value.save_as(file)
            picture = Image.open(file).convert("RGBA")
            side = 8 if canvas == "short" else 71
            factor = picture.width // side
            assert picture.size == (side * factor, side * factor) and picture.width >= 512
            pixels = numpy.asarray(picture)[factor // 2 :: factor, factor // 2 :: factor].flatten().tolist()
            assert pixels == visit.pixels(canvas)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["seed-3-64.png", "seed-3-class-4.png"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_no_serious_fault(browser, site, scheme, width):
    script = or_skip(axe)
    with Visit(browser, site.address, width, scheme) as visit:
        visit.settled()
        visit.page.evaluate(script)
        found = visit.page.evaluate("axe.run()")
        assert len(found["passes"]) > 15
        faults = [(fault["id"], fault["nodes"][0]["html"]) for fault in found["violations"]]
        assert faults == []


def test_from_disk_it_says_what_to_do(browser, site):
    with Visit(browser, (site.folder / "index.html").as_uri()) as visit:
        assert visit.page.locator("#served").inner_text().startswith("This page has to be served")
        assert "python -m http.server" in visit.page.locator("#served pre").inner_text()
        assert visit.page.locator("#loading").is_hidden()
        assert visit.said == []


def test_a_folder_that_is_not_whole_is_said(browser, site, tmp_path):
    shutil.copytree(site.folder, tmp_path / "page")
    file = tmp_path / "page" / "model.onnx"
    file.write_bytes(file.read_bytes()[:-100])
    with served(tmp_path / "page") as address, Visit(browser, address) as visit:
        visit.page.locator("#failed").wait_for()
        assert "model.onnx has" in visit.page.locator("#reason").inner_text()
