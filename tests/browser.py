"""A headless Chromium for the tests of pages: the fixture `page`, without a network, and what its console said.

Tests that use it carry the marker `browser`. Where no Chromium is found they are left out, and conftest.py says so.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


# Of a module, not of the session: while the driver lives, nothing else in this process may start an event loop.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    rooted = (
        ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    )  # the sandbox does not run as root
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[*OPTIONS, *rooted])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A page of 1280 x 800 in light colours, without a network. Whatever it reports as an error fails the test when it ends."""
    complaints: list[str] = []
    context = chromium.new_context(
        offline=True, color_scheme="light", viewport={"width": 1280, "height": 800}, locale="en-GB"
    )
    context.set_default_timeout(10_000)
    page = context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    yield page
    context.close()
    assert complaints == []
