"""A headless Chromium for the tests of pages, which carry the marker `browser`: the fixture `page`.

No page of ours may ask another machine. Where no Chromium is found these tests are left out, and one line says so.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Route, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
FLAGS = (
    "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
OURS = ("file:", "data:", "blob:", "http://127.0.0.1:")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    without = [item for item in items if CHROMIUM is None and item.get_closest_marker("browser")]
    if without:  # deselected, not skipped: nothing was attempted
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in without]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if CHROMIUM is None:
        terminalreporter.write_line(f"none of {', '.join(NAMES)} is on PATH: the browser tests were left out")


# Of a module, not of the session: while the driver lives, nothing else in this process may start an event loop.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    rooted = (
        ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    )  # the sandbox does not run as root
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *rooted])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """Fails the test that asked another machine, or in whose page a script raised."""
    foreign: list[str] = []
    raised: list[str] = []

    def route(asked: Route) -> None:
        if asked.request.url.startswith(OURS):
            asked.continue_()
        else:
            foreign.append(asked.request.url)
            asked.abort()

    context = chromium.new_context(viewport={"width": 1600, "height": 1200}, color_scheme="light", locale="en-GB")
    context.set_default_timeout(30_000)
    context.route("**/*", route)
    page = context.new_page()
    page.on("pageerror", lambda error: raised.append(str(error)))
    yield page
    context.close()
    assert foreign == []
    assert raised == []
