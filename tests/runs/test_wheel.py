"""What `pip install .` gives: the command `sparsity-lab`, complete and usable from any folder, in an environment of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import pytest
from commands import MEASURED, ROOT, SMALL, workplace

pytestmark = pytest.mark.slow
SOURCES = ("sparsity", "conf", "run.py", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
RUN = (*SMALL, *MEASURED, "method=wanda", "name=study")


@dataclass(frozen=True)
class Installed:
    wheel: Path
    bin: Path
    folder: Path  # to work in

    def __call__(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """A command line of the environment, in the folder, where nothing points to this checkout."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", **variables}
        return subprocess.run(words, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=600)

    def said(self, *words: str, **variables: str) -> str:
        ended = self(*words, **variables)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """The wheel of an sdist of this checkout; the other packages are those of the tests, seen through a .pth file."""
    base = tmp_path_factory.mktemp("wheel")
    sources, dist, home = base / "sources", base / "dist", base / "environment"
    sources.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, sources)
    build = f"from setuptools.build_meta import build_sdist; build_sdist({str(dist)!r})"
    subprocess.run((sys.executable, "-c", build), cwd=sources, check=True, capture_output=True)
    (sdist,) = dist.glob("*.tar.gz")
    alone = ("--no-index", "--no-deps")
    subprocess.run((*PIP, "wheel", "-q", *alone, "--no-build-isolation", "-w", str(dist), str(sdist)), check=True)
    (wheel,) = dist.glob("*.whl")
    subprocess.run((sys.executable, "-m", "venv", "--without-pip", str(home)), check=True)
    bin = home / "bin"
    # Not from the checkout: pip would take the metadata of its editable installation for an installed package.
    install = (*PIP, "--python", str(bin / "python"), "install", "-q", *alone, str(wheel))
    elsewhere = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(install, cwd=base, env=elsewhere, check=True)
    (site,) = home.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(
        sysconfig.get_path("purelib") + "\n"
    )  # whose own .pth files, of a checkout, do not count
    with workplace(tmp_path_factory.mktemp("work")) as folder:
        yield Installed(wheel, bin, folder)


def test_the_wheel_holds_the_configuration_and_no_tests(installed):
    names = ZipFile(installed.wheel).namelist()
    conf = {path.relative_to(ROOT).as_posix() for path in (ROOT / "conf").rglob("*.yaml")}
    assert {name.removeprefix("sparsity/") for name in names if name.startswith("sparsity/conf/")} == conf
    assert {name.partition("/")[0] for name in names} == {"sparsity", "sparsity_lab-0.1.0.dist-info"}
    assets = [path.name for path in (ROOT / "sparsity" / "report" / "assets").iterdir()]
    assert {f"sparsity/report/assets/{name}" for name in assets} <= {*names}


def test_a_run_and_its_record_run_from_any_folder(installed):
    where = installed.said("python", "-c", "import sparsity; print(sparsity.__file__)")
    assert str(installed.bin.parent) in where
    assert "1 of 1" in installed.said("sparsity-lab", "-m", *RUN, "seed=1")
    said = installed.said("sparsity-lab", *RUN)
    (folder,) = [path.parent for path in installed.folder.glob("outputs/study/*/result.json")]
    assert str(folder) in said
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["command"].startswith("sparsity-lab model=tiny ")
    assert environment["commit"] is None
    again = installed.said("bash", "-c", environment["command"])
    assert "finished earlier" in again
    by_path = installed.said(str(installed.bin / "sparsity-lab"), *RUN, "seed=2", PATH=os.environ["PATH"])
    assert "finished earlier" not in by_path
    commands = [
        json.loads(file.read_text())["command"] for file in installed.folder.glob("outputs/study/*/result.json")
    ]
    assert any(
        command.startswith(f"{installed.bin / 'sparsity-lab'} ") for command in commands
    )  # it is not on that PATH

    assert "page: outputs/report.html" in installed.said("sparsity-lab", "report", "outputs")
    assert "GiB" in installed.said("sparsity-lab", "cache", "list")


def test_what_it_says_of_itself(installed):
    said = installed.said("sparsity-lab", "--help")
    assert "sparsity-lab -m method=magnitude,wanda,sparsegpt" in said
    assert "tfidf: doc, topic" in said
    assert installed.said("sparsity-lab", "--version") == "sparsity-lab 0.1.0\n"
    for name in ("report", "cache", "tasks", "dashboard"):
        assert installed.said("sparsity-lab", name, "--help").startswith(f"usage: sparsity-lab {name} ")
    mistake = installed("sparsity-lab", "reprot")
    assert (mistake.returncode, "Did you mean report?" in mistake.stderr) == (1, True)
    mistake = installed("sparsity-lab", "sparsty=0.5")
    assert (mistake.returncode, "Did you mean: sparsity" in mistake.stderr) == (1, True)
    assert "sparsity: 0.75" in installed.said("sparsity-lab", "--cfg", "job", "sparsity=0.75")


def test_a_tab_completes(installed):
    typed = "sparsity-lab method=wan"
    complete = f"""eval "$(sparsity-lab -sc install=bash)"
        COMP_LINE='{typed}' COMP_POINT={len(typed)} COMP_CWORD=1 COMP_WORDS=({typed})
        export COMP_LINE; hydra_bash_completion; echo "${{COMPREPLY[@]}}" """
    assert installed.said("bash", "-c", complete).split() == ["method=wanda"]


def test_torchrun_starts_it_as_a_module(installed):
    torchrun = ("python", "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "sparsity")
    installed.said(*torchrun, *RUN, "seed=3", "calibration.batch_size=1", "hydra.run.dir=two", "device=cpu")
    command = json.loads((installed.folder / "two" / "environment.json").read_text())["command"]
    assert command.startswith("torchrun --nproc-per-node=2 -m sparsity model=tiny ")


def test_the_dashboard_serves_a_page(installed):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    line = (str(installed.bin / "sparsity-lab"), "dashboard", "--folder", "nowhere")
    silent = {"BROWSER": "true", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        line,
        cwd=installed.folder,
        env=environment | silent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            assert "nowhere is not there yet" in server.stdout.readline()
            (address,) = re.findall(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
            with urllib.request.urlopen(address, timeout=30) as answer:
                assert answer.status == 200
        finally:
            server.terminate()
