"""The rooms of the package and the sentence with which each says what it is, for lists of them."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "sparsity"


def sentence(source: str) -> str:
    """The first line of a module's docstring; "" without one."""
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def rooms() -> dict[str, str]:
    """Every folder and every file of sparsity/ by its name, in alphabetical order, with its sentence."""
    files = [*PACKAGE.glob("*/__init__.py"), *(file for file in PACKAGE.glob("*.py") if not file.stem.startswith("__"))]
    names = {file.parent.name if file.stem == "__init__" else file.stem: file for file in files}
    return {name: sentence(names[name].read_text(encoding="utf-8")) for name in sorted(names)}
