"""A page in a headless Chromium, for tests marked `browser`; where there is no Chromium, they are deselected.

No page of ours may ask another machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, Request, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
)  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    without = [item for item in items if CHROMIUM is None and item.get_closest_marker("browser")]
    if without:
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in without]


@pytest.fixture
def page() -> Iterator[Page]:
    """Fails the test that asked another machine, or in whose page a script raised."""
    foreign: list[str] = []
    raised: list[str] = []

    def asked(request: Request) -> None:
        if request.url.startswith("http") and not request.url.startswith("http://127.0.0.1:"):
            foreign.append(request.url)

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS])
        page = chromium.new_page(viewport={"width": 1600, "height": 1200})
        page.on("request", asked)
        page.on("pageerror", lambda error: raised.append(str(error)))
        yield page
        chromium.close()
    assert foreign == []
    assert raised == []
