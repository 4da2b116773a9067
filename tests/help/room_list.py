"""The list of rooms in docs/extending.md, made of the rooms' order and docstrings. `python tests/help/room_list.py` writes it."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/extending.md"
BETWEEN = re.compile(r"(?<=<!-- rooms -->\n).*?(?=<!-- end of rooms -->)", re.DOTALL)


def sentence(source: str) -> str:
    """The first sentence of a module's docstring."""
    text = " ".join((ast.get_docstring(ast.parse(source)) or "").partition("\n\n")[0].split())
    return re.split(r"(?<=[.])\s", text, maxsplit=1)[0].rstrip(".") + "."


def listed(rooms: Mapping[str, int]) -> str:
    """A table with a row for each room: a room may import from the rows with a smaller floor. `rooms`: name -> floor."""
    rows = ["| floor | room | what it is |", "|---|---|---|"]
    for name, floor in sorted(rooms.items(), key=lambda room: (room[1], room[0])):
        folder = (ROOT / "sparsity" / name).is_dir()
        file = f"sparsity/{name}/__init__.py" if folder else f"sparsity/{name}.py"
        if not name.startswith("__"):
            told = sentence((ROOT / file).read_text()).replace("|", "\\|")
            rows.append(f"| {floor} | `sparsity/{name}{'/' if folder else '.py'}` | {told} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests/house"))
    from test_house import ROOMS

    table = listed(ROOMS)
    PAGE.write_text(BETWEEN.sub(lambda _: table, PAGE.read_text()))
