"""The app in a real browser: the main path, and that nothing but the loopback interface is asked."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import export_runs
import served
from flowleap import data
from flowleap.app.library import Library
from served import SKIPPED, opened
from test_app import HOSTILE, log

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("gradio", reason="gradio is not installed")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    SKIPPED,
]
WAIT = 120_000
"""Milliseconds that the page may take for anything; it takes about one second by itself."""


@pytest.fixture(scope="module")
def asked() -> Iterator[list[str]]:
    """The hosts that this process connects to or looks up, other than the loopback interface."""
    hosts: list[str] = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def connecting(own: socket.socket, address: Any) -> Any:
        hosts.append(str(address[0]) if isinstance(address, tuple) else "")
        return connect(own, address)

    def looking(host: Any, *more: Any, **about: Any) -> Any:
        hosts.append(str(host))
        return look_up(host, *more, **about)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connecting)
        patch.setattr(socket, "getaddrinfo", looking)
        yield hosts


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, asked: list[str]) -> Iterator[str]:
    """The address of an app with a run of digits, one of hostile names, and one without weights."""
    import uvicorn

    from flowleap.app import server

    home = tmp_path_factory.mktemp("home")
    begun = export_runs.run_folder(home / "begun", dataset=export_runs.images())
    for name in ("network", "ema"):
        (begun / f"{name}.safetensors").unlink()
    log(begun, 1, 2, 3)
    export_runs.run_folder(home / "<b>hostile", dataset=export_runs.images(HOSTILE))
    export_runs.run_folder(home / "digits", dataset=data.load("digits"))
    for age, name in enumerate(("digits", "<b>hostile", "begun")):
        os.utime(home / name / "config.json", (1e9 - age, 1e9 - age))
    with pytest.MonkeyPatch.context() as patch, server.bound("127.0.0.1", 0) as taken:
        for name, value in server.OFFLINE.items():
            patch.setenv(name, value)
        port = taken.getsockname()[1]
        app = server.application(Library([home], device="cpu"), "127.0.0.1", port)
        running = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [taken]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{port}/"
        running.should_exit = running.force_exit = True  # the page keeps its connection
        thread.join(30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened(playwright) as found:
        yield found


class Visit(served.Visit):
    """A page of the app, whose first samples are there."""

    def __init__(self, browser: Any, address: str, width: int = 1280, scheme: str = "light") -> None:
        super().__init__(browser, address, width, scheme)
        self.page.set_default_timeout(WAIT)
        self.page.wait_for_selector("#generated img")

    def choose(self, place: str, name: str) -> None:
        self.page.locator(place).locator("input").first.click()
        self.page.get_by_role("option", name=name, exact=True).click()

    def ask(self, tab: str, button: str, result: str) -> int:
        """Open a tab and press its button; return how many such elements the result has."""
        self.page.get_by_role("tab", name=tab, exact=True).click()
        self.page.get_by_role("button", name=button, exact=True).click()
        self.page.wait_for_selector(result)
        return int(self.page.locator(result).count())


def test_the_main_path(browser: Any, address: str, asked: list[str], tmp_path: Path) -> None:
    visit = Visit(browser, address)
    page = visit.page
    assert page.locator("#generated img").count() == 16
    first = page.locator("#generated img").first.get_attribute("src")
    page.locator("#seed input").fill("5")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.wait_for_selector("#generated :text('seed 5')")
    assert page.locator("#generated img").first.get_attribute("src") != first
    assert visit.ask("Interpolate", "Interpolate", "#interpolated img") == 32
    assert visit.ask("Two runs", "Compare runs", "#compared img") == 32
    assert page.locator("#compared h3").all_text_contents() == ["digits", "<b>hostile"]
    assert visit.ask("Nearest training images", "Find nearest", "#nearest img") == 24
    visit.choose("#run", "begun")
    page.wait_for_selector("#about .fl-error")
    assert "has no weights yet" in page.locator("#about").inner_text()
    page.get_by_role("tab", name="Training", exact=True).click()
    page.wait_for_selector("#log svg.chart")
    assert page.locator("#log svg.chart").count() == 3
    assert page.evaluate("window.broken === undefined")
    assert visit.said == []
    inside = (address, "data:", "blob:")
    assert [url for url in visit.fetched if not url.startswith(inside)] == []
    assert {host for host in asked if host not in ("", "127.0.0.1", "localhost", "::1")} == set()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_within_its_width(browser: Any, address: str, scheme: str) -> None:
    visit = Visit(browser, address, 360, scheme)
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 360
    ground = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")


def test_files_of_the_machine_are_not_served(browser: Any, address: str, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    request = browser.new_context().request
    for path in (
        f"gradio_api/file={tmp_path}/secret.png",
        f"file={tmp_path}/secret.png",
        "gradio_api/upload",
    ):
        assert request.get(address + path).status == 404
