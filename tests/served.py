"""A folder behind a plain server of static files, the browser that visits it, and files of npm, for tests of pages."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flowleap.export.npm import Package, files_of

AXE = Package(
    "axe-core",
    "4.14.1",
    "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
)
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-sync",
]


SKIPPED = pytest.mark.skipif(BROWSER is None, reason=f"none of the browsers {', '.join(NAMES)} is installed")


@contextmanager
def opened(playwright: Any) -> Iterator[Any]:
    """Yield the browser, by the module `playwright.sync_api`."""
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


def or_skip(bring: Callable[[], Any]) -> Any:
    """Return what comes from npm; skip the test where it cannot be had."""
    try:
        return bring()
    except OSError as error:
        pytest.skip(str(error))


def axe() -> str:
    """Return the script of axe-core, which checks pages for accessibility."""
    return files_of(AXE.packed(), {"axe.min.js": "axe"})["axe"].decode()


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, without a log."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Yield the address of a folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


class Visit:
    """A page, and all that it fetched or complained of."""

    def __init__(
        self, browser: Any, address: str, width: int = 1280, scheme: str = "light", **options: Any
    ) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, **options
        )
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.fetched: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.fetched.append(request.url))
        self.page.goto(address, wait_until="load")

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def background(self) -> str:
        """Return the color of the page."""
        return str(self.page.evaluate("getComputedStyle(document.body).backgroundColor"))

    def settled(self) -> None:
        """Wait until the model is loaded and the page has no more to compute."""
        self.page.evaluate("flowleap.ready")
        self.page.locator("body[aria-busy=false]").wait_for(timeout=120_000)

    def pixels(self, canvas: str) -> list[int]:
        """Return what a canvas shows, red, green, blue, alpha of each pixel."""
        return self.page.evaluate(
            """(id) => {
                const shown = document.getElementById(id), copy = new OffscreenCanvas(shown.width, shown.height);
                const brush = copy.getContext("2d", { willReadFrequently: true });
                brush.drawImage(shown, 0, 0);
                return [...brush.getImageData(0, 0, copy.width, copy.height).data];
            }""",
            canvas,
        )
