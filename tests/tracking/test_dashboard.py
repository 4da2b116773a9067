"""`make dashboard`, as a person sees it: the runs of a sweep by name, their perplexities, their configurations and tables."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from commands import MEASURED, ROOT, SMALL, Run, process, workplace

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with workplace(tmp_path_factory.mktemp("sweep")) as folder:
        grid = ("-m", "method=wanda,magnitude", "corrector=none,optimal", "seed=0,1", "hydra.sweep.dir=grid")
        ended = process(*SMALL, *MEASURED, "tracker=[trackio]", "layer_error=true", "name=study", *grid)
        assert ended.returncode == 0, ended.stderr
        yield folder


@pytest.fixture
def address(sweep: Path) -> Iterator[str]:
    """The output of the Makefile's command for `make dashboard`, in the folder of the sweep."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (sweep / ".venv").mkdir(exist_ok=True)
    (sweep / ".venv" / ".stamp").touch()  # nothing to set up
    for name in ("pyproject.toml", "setup.py", "constraints.txt"):
        (sweep / name).touch()
        os.utime(sweep / name, (0, 0))
    bin = Path(sys.executable).parent
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "PYTHONUNBUFFERED": "1", "BROWSER": "true"}
    # without the word of a `make test` around this one, which has it name its folder first
    line = ("make", "--no-print-directory", "-f", str(ROOT / "Makefile"), f"bin={bin}", "dashboard")
    # tests that a shell runs in the background are started deaf to Ctrl-C, and so would be what they start
    hears = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    server = subprocess.Popen(
        line, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True, preexec_fn=hears
    )
    assert server.stdout is not None
    try:
        (found,) = re.findall(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
        assert found == f"http://127.0.0.1:{port}"
        yield found
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.wait(30)


def test_a_sweep(sweep, address, page):
    page.goto(f"{address}/?project=study")
    names = [
        f"{method} · unstructured 0.5 · {corrector} · seed {seed}"
        for method in ("wanda", "magnitude")
        for corrector in ("none", "optimal")
        for seed in (0, 1)
    ]
    for name in names:
        page.get_by_text(name).first.wait_for(timeout=30_000)
    page.get_by_text("perplexity (2)").first.wait_for(timeout=30_000)
    headings = re.findall(r"^(\w+) \(\d+\)$", page.inner_text("body"), re.MULTILINE)
    assert headings[:3] == ["Runs", "charts", "perplexity"]
    page.get_by_placeholder("Select...").click()  # what runs can be grouped by
    for key in ("choices.method", "choices.corrector", "seed"):
        page.get_by_role("option", name=key).first.wait_for(timeout=5_000)

    page.goto(f"{address}/media?project=study")
    page.get_by_text("tables/layers").first.wait_for(timeout=30_000)
    shown = page.inner_text("body")
    for number in range(8):
        for row in Run(sweep / "grid" / str(number)).windows:
            assert row["nll_pruned"] in shown
