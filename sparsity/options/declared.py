"""The declarations of a class, read from its source without importing it: the types and ranges of its options, and its docstring.

Help therefore needs neither torch nor the user's own code to run. A file that is missing, or a name that is computed, is left out.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.machinery import PathFinder
from pathlib import Path

TYPES = {
    "int": "whole number", "float": "number", "str": "text", "bool": "true or false", "Path": "path", "Any": "anything",
    "PositiveInt": "whole number, > 0", "NonNegativeInt": "whole number, >= 0",
    "PositiveFloat": "number, > 0", "NonNegativeFloat": "number, >= 0",
}  # fmt: skip
LISTS = ("list", "List", "tuple", "Tuple", "set", "frozenset", "Sequence", "Collection", "Iterable")
MAPPINGS = ("dict", "Dict", "Mapping")
BOUNDS = {
    "ge": "ge", "gt": "gt", "le": "le", "lt": "lt",  # names in pydantic and annotated-types
    "least": "ge", "above": "gt", "most": "le", "below": "lt",  # names in sparsity.ranges
}  # fmt: skip
OTHERS = {
    "multiple_of": "a multiple of",
    "multiple": "a multiple of",
    "pattern": "of the pattern",
    "min_length": "of length >=",
}


@dataclass(frozen=True)
class Module:
    """A source file and its dotted name."""

    name: str
    file: Path

    @cached_property
    def tree(self) -> ast.Module:
        try:
            return ast.parse(self.file.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError):  # a file of the user: its error appears when it is run
            return ast.Module([], [])

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.tree) or ""

    def find(self, name: str) -> tuple[Module, ast.AST] | None:
        """The module that defines `name`, and its class or value there. Imports are followed. None if it is not found."""
        for node in ast.walk(self.tree):
            match node:
                case ast.ClassDef() if node.name == name:
                    return self, node
                case ast.Assign(targets=[ast.Name(id=target)], value=value) if target == name:
                    return self, value
                case ast.ImportFrom(names=aliases):
                    for alias in aliases:
                        if (alias.asname or alias.name) == name:
                            return _member(self._origin(node), alias.name)
        return None

    def _origin(self, node: ast.ImportFrom) -> str:
        """The absolute name of the module in `from ... import`."""
        if not node.level:
            return node.module or ""
        package = self.name.split(".") if self.file.name == "__init__.py" else self.name.split(".")[:-1]
        above = package[: len(package) - node.level + 1]
        return ".".join([*above, *([node.module] if node.module else [])])


@dataclass(frozen=True)
class Declared:
    """A class with its parameters, their annotations, and its docstrings."""

    module: Module
    node: ast.ClassDef

    @property
    def texts(self) -> tuple[str, ...]:
        """The docstrings of the class and of its file, in this order."""
        return tuple(filter(None, (ast.get_docstring(self.node), self.module.docstring)))

    @cached_property
    def parameters(self) -> Mapping[str, tuple[Module, ast.expr | None]]:
        """The constructor's parameters, in its order: the fields of a dataclass or a model, or the arguments of `__init__`."""
        found: dict[str, tuple[Module, ast.expr | None]] = {}
        for base in reversed(self.node.bases):
            if (parent := _class(self.module, base)) is not None:
                found |= parent.parameters
        for node in self.node.body:
            match node:
                case ast.FunctionDef(name="__init__", args=args):
                    every = [*args.posonlyargs, *args.args, *args.kwonlyargs]
                    return {arg.arg: (self.module, arg.annotation) for arg in every[1:]}
                case ast.AnnAssign(target=ast.Name(id=name), annotation=kind) if not _is(kind, "ClassVar"):
                    found[name] = (self.module, kind)
        return found

    def says(self, parameter: str) -> str:
        """The type and the range of a parameter in words: "number, in (0, 1]". Empty if they are unknown."""
        module, kind = self.parameters.get(parameter, (self.module, None))
        return ", ".join(_type(module, kind)) if kind is not None else ""

    def inside(self, parameter: str) -> Declared | None:
        """The class in a parameter's annotation; None if the annotation is no class."""
        module, kind = self.parameters.get(parameter, (self.module, None))
        return _class(module, kind) if kind is not None else None


def declared(target: str) -> Declared | None:
    """The class with this dotted name. None if its source is not found."""
    module, _, name = target.rpartition(".")
    match _member(module, name):
        case (Module() as at, ast.ClassDef() as node):
            return Declared(at, node)
    return None


@cache
def _module(name: str) -> Module | None:
    """The source of a module; None if there is none. Only the first part of its name is searched: nothing is imported."""
    top, *rest = name.split(".")
    spec = PathFinder.find_spec(top) if top else None
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin)
    for part in rest:
        package, alone = file.parent / part / "__init__.py", file.parent / f"{part}.py"
        file = package if package.is_file() else alone
    return Module(name, file) if file.suffix == ".py" and file.is_file() else None


def _member(module: str, name: str) -> tuple[Module, ast.AST] | None:
    at = _module(module)
    return at.find(name) if at is not None else None


def _class(module: Module, kind: ast.expr) -> Declared | None:
    match _named(module, kind):
        case (Module() as at, ast.ClassDef() as node):
            return Declared(at, node)
    return None


def _named(module: Module, kind: ast.expr) -> tuple[Module, ast.AST] | None:
    """The definition of a name in an annotation: of `Share`, or of `ranges.Share` in an imported module."""
    match kind:
        case ast.Name(id=name):
            return module.find(name)
        case ast.Attribute(value=ast.Name(id=name), attr=member):
            for node in ast.walk(module.tree):
                if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names):
                    return _member(f"{module._origin(node)}.{name}", member)
    return None


def _is(kind: ast.expr, name: str) -> bool:
    """True if the annotation is `name`, `name[...]`, `x.name` or `x.name[...]`."""
    return ast.unparse(kind).partition("[")[0].rpartition(".")[2] == name


def _type(module: Module, kind: ast.expr) -> Iterator[str]:
    """Yield the type in words, then its ranges."""
    match kind:
        case ast.Constant(value=None):
            yield "null"
        case ast.Constant(value=str(text)):  # an annotation in quotes
            try:
                yield from _type(module, ast.parse(text, mode="eval").body)
            except SyntaxError:
                yield text
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            sides = [", ".join(_type(module, side)) for side in (left, right)]
            yield (", or " if "," in sides[0] else " or ").join(sides)
        case ast.Subscript(value=generic, slice=inside):
            parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
            yield from _generic(module, ast.unparse(generic).rpartition(".")[2], parts, kind)
        case ast.Name() | ast.Attribute():
            name = ast.unparse(kind).rpartition(".")[2]
            match _named(module, kind):
                case _ if name in TYPES:
                    yield TYPES[name]
                case (Module() as at, ast.expr() as alias):
                    yield from _type(at, alias)
                case _:
                    yield name
        case _:
            yield ast.unparse(kind)


def _generic(module: Module, name: str, parts: list[ast.expr], kind: ast.expr) -> Iterator[str]:
    types = (", ".join(_type(module, part)) for part in parts)
    match name:
        case "Literal":
            yield " | ".join(_plain(part) for part in parts)
        case "Annotated":
            yield from _type(module, parts[0])
            yield from _ranges(module, parts[1:])
        case "Optional":
            yield f"{next(types)} or null"
        case "Union":
            yield " or ".join(types)
        case _ if name in LISTS:
            yield f"list of {next(types)}"
        case _ if name in MAPPINGS:
            yield f"{[*types][-1]} by name"
        case _:
            yield ast.unparse(kind)


def _ranges(module: Module, constraints: list[ast.expr]) -> Iterator[str]:
    """Yield the constraints of an `Annotated` in words: the bounds as an interval, then texts unchanged."""
    bounds: dict[str, str] = {}
    others: list[str] = []
    for constraint in constraints:
        match constraint:
            case ast.Constant(value=str(text)):
                others.append(text)
            case ast.Call(func=function, args=args, keywords=keywords):
                name = ast.unparse(function).rpartition(".")[2].lower()
                said = {str(word.arg): word.value for word in keywords}
                if name in BOUNDS and args:  # Ge(0)
                    said[name] = args[0]
                elif args and isinstance(sentence := args[-1], ast.Constant) and isinstance(sentence.value, str):
                    others.append(sentence.value)
                bounds |= {BOUNDS[key]: _plain(end) for key, end in said.items() if key in BOUNDS and _is_number(end)}
                others += [f"{OTHERS[key]} {_plain(value)}" for key, value in said.items() if key in OTHERS]
            case ast.Name() | ast.Attribute():
                match _named(module, constraint):
                    case (Module() as at, ast.expr() as alias):
                        others += _ranges(at, [alias])
    if interval := _interval(**bounds):
        yield interval
    yield from others


def _is_number(value: ast.expr) -> bool:
    """True if it is written as a number. Computed bounds such as -(2**63) are not shown."""
    match value:
        case ast.Constant(value=int() | float()):
            return True
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _is_number(operand)
    return False


def _plain(value: ast.expr) -> str:
    """A value as it is typed on the command line."""
    match value:
        case ast.Constant(value=bool(flag)):
            return str(flag).lower()
        case ast.Constant(value=str(text)):
            return text
    return ast.unparse(value)


def _interval(ge: str = "", gt: str = "", le: str = "", lt: str = "") -> str:
    if (ge or gt) and (le or lt):
        return f"in {'[' if ge else '('}{ge or gt}, {le or lt}{']' if le else ')'}"
    return f">= {ge}" if ge else f"> {gt}" if gt else f"<= {le}" if le else f"< {lt}" if lt else ""
