"""What the README shows works as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from problems import problem

from sparsity.patterns import NofM

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_method_of_ones_own():
    own, _ = blocks("python")
    names: dict[str, object] = {"__name__": __name__}
    exec(own, names)
    p = problem()
    pruned = names["SoftWanda"]("row", 0.5).prune(p.layer, NofM(2, 4), p.stats())
    assert (pruned.keep_OI.view(-1, 4).sum(1) == 2).all()


def test_the_notebook(capsys):
    _, notebook = blocks("python")
    exec(notebook, {})
    found = capsys.readouterr().out.split()[1::2]
    assert found == ["0.5"] * 14


@pytest.mark.parametrize("command", re.findall(r"^python run\.py (.*?)(?:  +#.*)?$", README, re.MULTILINE))
def test_every_command_composes(command):
    overrides = [word for word in command.split() if "=" in word]
    if "-m" in command:
        overrides = [word.split(",")[0] for word in overrides]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert compose("config", overrides)


def test_every_option_of_every_group_is_in_the_table():
    table = dict(re.findall(r"^\| `(\w+)` \| .*? \| (.*) \|$", README, re.MULTILINE))
    for group in sorted(path for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name != "hydra"):
        for option in group.glob("*.yaml"):
            assert re.search(rf"`\[?{option.stem}\]?`", table[group.name]), f"{group.name}={option.stem}"
