"""The source files that a class or a module depends on, each with a digest.

They are found by following imports in the text of the files: nothing is imported. An imported name counts for the file that defines
it. A package's `__init__` that imports the name itself is only passed through, so that its other names do not count. `import
package` and `from package import *` count the whole module. Imports inside functions count; those under `if TYPE_CHECKING` do not,
because they never run.

A digest depends on everything that can change what the code computes. Comments, layout, docstrings and the words of a `UserError`
do not change it. A file is read once per process, because the process runs the code that it has imported.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.machinery import all_suffixes
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

HOME = Path(__file__).parents[1]  # the folder that holds this package
OURS = Path(__file__).parent.name
INSTALLED = ("site-packages", "dist-packages")  # folders whose modules do not belong together
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

Import = tuple[str, str | None]  # a module, and the name that is taken from it; None: the module itself


class Code(NamedTuple):
    """The files that some code depends on, and the libraries that these import."""

    files: dict[str, str]  # "sparsity/linalg.py" -> digest
    libraries: set[str]  # the top-level modules of other packages that these files import: "torch"


@dataclass(frozen=True)
class Source:
    """A source file: its digest, its imports and its names."""

    digest: str
    imports: tuple[Import, ...]
    passed: Mapping[str, list[Import]]  # the names that imports give the module, and their origins
    defined: frozenset[str]  # the names that the module itself defines


def code(roots: Iterable[str], outside: Collection[str] = (), home: Path = HOME) -> Code:
    """The code that all `roots` depend on: dotted names of classes, functions or modules, such as "sparsity.methods.Wanda".

    It consists of this package's files and, for a root of another package, of the files of that package and of modules in the same
    folder. `outside`: files ("sparsity/record/console.py") or folders ("sparsity/tracking/") that neither count nor are followed.
    `home`: the folder that holds this package. A root whose file is not found, such as one in a zip archive, adds nothing.
    """
    todo: list[Import] = [(module, name) for module, _, name in (root.rpartition(".") for root in roots)]
    others = {module.partition(".")[0] for module, _ in todo} - {OURS}
    homes = {top: folder for top in others if (folder := _folder(top)) is not None}
    own = frozenset(folder for folder in homes.values() if folder.name not in INSTALLED)
    homes[OURS] = home
    files: dict[str, str] = {}
    libraries: set[str] = set()
    seen: set[Import] = set()
    while todo:
        module, name = wanted = todo.pop()
        if wanted in seen:
            continue
        seen.add(wanted)
        top = module.partition(".")[0]
        folder = homes.get(top) or _beside(top, own)
        if folder is None:
            libraries.add(top)
        elif further := _further(folder, module, name):
            todo += further
        elif (file := _file(folder, module)) is not None:
            relative = file.relative_to(folder).as_posix()
            if not any(relative == place or (place.endswith("/") and relative.startswith(place)) for place in outside):
                source = _read(file, module)
                files[relative] = source.digest
                todo += source.imports
    return Code(dict(sorted(files.items())), libraries)


def _further(folder: Path, module: str, name: str | None) -> list[Import]:
    """The import from which a package gets the name, or its module of this name; [] if the module itself counts."""
    file = _file(folder, module)
    if name is None or (file is not None and file.name != "__init__.py"):
        return []
    if file is not None:
        source = _read(file, module)
        if name in source.defined:
            return []
        if name in source.passed:
            return source.passed[name]
    inner = f"{module}.{name}"
    return [(inner, None)] if _file(folder, inner) is not None else []


def _folder(top: str) -> Path | None:
    """The folder that holds a top-level module; None if it is not found. The search imports nothing."""
    try:
        spec = find_spec(top)
    except ValueError:  # __main__
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).parent
    return Path(spec.origin).parent if spec.has_location and spec.origin else None


@cache
def _beside(top: str, folders: frozenset[Path]) -> Path | None:
    """The first of these folders that holds a top-level module; None if none does."""
    return next((folder for folder in sorted(folders) if _file(folder, top) is not None), None)


@cache
def _file(folder: Path, module: str) -> Path | None:
    """The file of a module; None for a folder without `__init__`, or if there is no such module."""
    path = folder.joinpath(*module.split("."))
    candidates = [path / "__init__.py", *(path.with_name(path.name + suffix) for suffix in all_suffixes())]
    return next((file for file in candidates if file.is_file()), None)


@cache
def _read(path: Path, module: str) -> Source:
    content = path.read_bytes()
    if path.suffix != ".py":  # compiled
        return Source(_digest(content), (), {}, frozenset())
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    imports: list[Import] = []
    passed: dict[str, list[Import]] = {}
    defined: set[str] = set()
    tree = ast.parse(content)
    for statement, inside in _effective(tree):
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for bound, found in _imported(statement, package):
                imports.append(found)
                if not inside and found != (
                    module,
                    bound,
                ):  # equal for `from . import name` in an `__init__`: the module `name`
                    passed.setdefault(bound, []).append(found)
        elif not inside:
            defined.update(_defined(statement))
    return Source(_digest(ast.dump(tree).encode()), tuple(imports), passed, frozenset(defined))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _effective(node: ast.AST, inside: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """Yield every statement below the node, and True if it is inside a function or class. Deletes texts from the tree."""
    for part in ("body", "orelse", "finalbody"):
        statements: list[ast.stmt] = getattr(node, part, [])
        statements[:] = [statement for statement in statements if not _is_text(statement)]
        for statement in statements:
            _hush(statement)
            yield statement, inside
            yield from _effective(statement, inside or isinstance(statement, (*FUNCTIONS, ast.ClassDef)))
    for branch in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
        yield from _effective(branch, inside)


def _is_text(statement: ast.stmt) -> bool:
    """True for a docstring or another statement that is only a string."""
    match statement:
        case ast.Expr(value=ast.Constant(value=str())):
            return True
    return False


def _hush(statement: ast.stmt) -> None:
    """Delete the message of a `UserError`, and code under TYPE_CHECKING."""
    match statement:
        case ast.Raise(exc=ast.Call(func=ast.Name(id="UserError")) as call):
            call.args, call.keywords = [], []
        case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
            statement.body = []


def _imported(statement: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, Import]]:
    """Yield each imported name with its origin. Relative imports start from `package`."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            yield alias.asname or alias.name.partition(".")[0], (alias.name, None)
        return
    above = package.split(".")[: package.count(".") + 2 - statement.level] if statement.level else []
    module = ".".join([*above, *([statement.module] if statement.module else [])])
    for alias in statement.names:
        yield alias.asname or alias.name, (module, None if alias.name == "*" else alias.name)


def _defined(statement: ast.stmt) -> Iterator[str]:
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            stored = (leaf for target in targets for leaf in ast.walk(target))
            yield from (leaf.id for leaf in stored if isinstance(leaf, ast.Name))
