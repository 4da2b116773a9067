"""Which files a piece of code consists of, and which edits change its digest. The packages here are planted and never imported."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from sparsity.code import code

NUMBER = itertools.count()  # of modules that no other test has looked for

TOOLS = {
    "__init__.py": "",
    "steel.py": "def melt(): ...",
    "tools/__init__.py": "from .hammer import Hammer\nfrom .saw import Saw as Blade\nfrom . import bench\n"
    "from .saw import Saw as Keen\nSHARP = Keen = 1",
    "tools/hammer.py": "from ..steel import melt\nclass Hammer: ...",
    "tools/saw.py": "class Saw: ...",
    "tools/bench.py": "def height(): ...",
    "circle.py": "from .start import x",
}
ALL = {"steel.py", "tools/__init__.py", "tools/hammer.py", "tools/saw.py", "tools/bench.py"}


def planted(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def found(home: Path, outside: tuple[str, ...] = ()) -> set[str]:
    """The files of sparsity/start.py below `home`, without itself and without the name of the package."""
    files = {name.removeprefix("sparsity/") for name in code(["sparsity.start"], outside, home).files}
    assert "start.py" in files
    return files - {"start.py"}


# --- which files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start, expected",
    [
        ("from .tools.saw import Saw", {"tools/saw.py"}),
        ("from .tools.hammer import Hammer", {"tools/hammer.py", "steel.py"}),
        ("from sparsity.tools.saw import Saw", {"tools/saw.py"}),
        ("import sparsity.tools.saw", {"tools/saw.py"}),
        ("from . import steel", {"steel.py"}),
        ("from sparsity import steel as iron", {"steel.py"}),
        # an `__init__` that imports a name passes it on, without its neighbours
        ("from .tools import Hammer", {"tools/hammer.py", "steel.py"}),
        ("from .tools import Blade", {"tools/saw.py"}),
        ("from .tools import bench", {"tools/bench.py"}),
        # and counts where it gives the name its value, or where nobody can tell which names are used
        ("from .tools import SHARP", ALL),
        ("from .tools import Keen", ALL),
        ("from .tools import *", ALL),
        ("from .tools import unheard_of", ALL),
        ("from . import tools", ALL),
        ("import sparsity.tools", ALL),
        # wherever an import stands
        ("def f():\n    from .steel import melt", {"steel.py"}),
        ("class A:\n    def f(self):\n        if True:\n            import sparsity.steel", {"steel.py"}),
        (
            "try:\n    from .steel import melt\nexcept ImportError:\n    from .tools.saw import Saw",
            {"steel.py", "tools/saw.py"},
        ),
        ("try:\n    pass\nfinally:\n    from .steel import melt", {"steel.py"}),
        ("match 1:\n    case 1:\n        from .steel import melt", {"steel.py"}),
        ("with x:\n    from .steel import melt", {"steel.py"}),
        # but where it never runs
        ("if TYPE_CHECKING:\n    from .steel import melt", set()),
        (
            "if typing.TYPE_CHECKING:\n    from .steel import melt\nelse:\n    from .tools.saw import Saw",
            {"tools/saw.py"},
        ),
        ("from .circle import x", {"circle.py"}),
        ("from .missing import x", set()),
        ("import torch.nn\nfrom numpy import linalg", set()),
    ],
)
def test_an_imported_name_counts_for_the_file_that_defines_it(tmp_path: Path, start: str, expected: set[str]) -> None:
    assert found(planted(tmp_path / "sparsity", {**TOOLS, "start.py": start}).parent) == expected


def test_what_is_outside_is_neither_counted_nor_followed(tmp_path: Path) -> None:
    home = planted(tmp_path / "sparsity", {**TOOLS, "start.py": "from .tools import Hammer, Blade"}).parent
    assert found(home, ("sparsity/tools/hammer.py",)) == {"tools/saw.py"}
    assert found(home, ("sparsity/tools/",)) == set()
    assert found(home, ("sparsity/tools/saw",)) == {"tools/hammer.py", "tools/saw.py", "steel.py"}  # no folder's name


def test_libraries_are_named_and_not_followed(tmp_path: Path) -> None:
    home = planted(
        tmp_path / "sparsity", {"__init__.py": "", "start.py": "import torch.nn\nfrom numpy import linalg"}
    ).parent
    assert code(["sparsity.start"], home=home).libraries == {"torch", "numpy"}


# --- a user's own -----------------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], tuple[str, set[str]]]:
    """Plants a user's module, `TOP` in the names and texts, beside others; returns its name and the files of its class Mine."""

    def plant(files: dict[str, str], where: str = "lab") -> tuple[str, set[str]]:
        top = f"my_module_{next(NUMBER)}"
        folder = planted(
            tmp_path / where, {name.replace("TOP", top): text.replace("TOP", top) for name, text in files.items()}
        )
        monkeypatch.syspath_prepend(str(folder))
        root = f"{top}.Mine" if f"{top}.py" in {path.name for path in folder.iterdir()} else f"{top}.mine.Mine"
        return top, {*code([root]).files}

    return plant


def test_a_users_class_counts_with_what_it_imports_of_its_own_package(own) -> None:
    top, files = own(
        {
            "TOP/__init__.py": "from .mine import Mine\nfrom .other import Other",
            "TOP/mine.py": "from sparsity.methods import Wanda\nfrom TOP.scores import score\nimport yaml\nclass Mine: ...",
            "TOP/scores.py": "",
            "TOP/other.py": "",
        }
    )
    assert {f"{top}/mine.py", f"{top}/scores.py", "sparsity/methods/wanda.py", "sparsity/core.py"} <= files
    assert not files & {f"{top}/__init__.py", f"{top}/other.py", "sparsity/methods/sparsegpt.py"}
    assert {name.partition("/")[0] for name in files} == {top, "sparsity"}


def test_a_users_package_may_have_no_init(own) -> None:
    top, files = own({"TOP/mine.py": "from .scores import score\nclass Mine: ...", "TOP/scores.py": ""})
    assert files == {f"{top}/mine.py", f"{top}/scores.py"}


def test_a_users_module_counts_with_the_modules_beside_it(own) -> None:
    top, files = own({"TOP.py": "from TOP_help import x\nimport numpy\nclass Mine: ...", "TOP_help.py": ""})
    assert files == {f"{top}.py", f"{top}_help.py"}


def test_what_is_installed_beside_a_users_module_does_not_count(own) -> None:
    top, files = own({"TOP.py": "from TOP_help import x\nclass Mine: ...", "TOP_help.py": ""}, "site-packages")
    assert files == {f"{top}.py"}


# --- which edits ------------------------------------------------------------------------------------------------------

BEFORE = '''"""What it is."""
import torch


@frozen
class Mine:
    """What it does."""

    damp: float = 0.01  # a fraction
    "of the mean"

    def score(self, x, scale=2):
        """What it returns."""
        if x > 0:
            raise UserError(f"got {x}")
        return x * scale + self.damp
'''
WORDS = {
    "a module's docstring": ('"""What it is."""', '"""What this is."""'),
    "a class's docstring": ("What it does.", "What this does."),
    "a function's docstring": ("What it returns.", "What this returns."),
    "no docstring": ('        """What it returns."""\n', ""),
    "a field's words": ('"of the mean"', '"of the mean diagonal"'),
    "a comment": ("# a fraction", "# a share"),
    "layout": ("x * scale + self.damp", "(\n            x * scale\n            + self.damp\n        )"),
    "a number's digits": ("0.01", "1e-2"),
    "what an error says": ('f"got {x}"', 'f"got {x}: expected another", 1'),
}
DEEDS = {
    "a constant": ("0.01", "0.02"),
    "an integer for a float": ("scale=2", "scale=2.0"),
    "a default": ("scale=2", "scale=3"),
    "no default": ("scale=2", "scale"),
    "an operator": ("x * scale", "x / scale"),
    "a sign": ("+ self.damp", "- self.damp"),
    "a comparison": ("x > 0", "x >= 0"),
    "a decorator": ("@frozen", "@frozen(order=True)"),
    "no decorator": ("@frozen\n", ""),
    "a type": ("damp: float", "damp: int"),
    "a base class": ("class Mine:", "class Mine(Base):"),
    "another error": ("raise UserError(", "raise Another("),
    "an error that does not stop": ("raise UserError(", "print("),
    "a string that is used": ("return x * scale", 'return "words" * scale'),
    "a library": ("import torch", "import numpy as torch"),
}


def digest(folder: Path, text: str, users: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    """The digest of a file, of this package or of a user's."""
    if users:
        name = f"my_module_{next(NUMBER)}"
        planted(folder, {f"{name}.py": text})
        monkeypatch.syspath_prepend(str(folder))
        return code([f"{name}.Mine"]).files[f"{name}.py"]
    home = folder / f"home_{next(NUMBER)}"
    planted(home / "sparsity", {"__init__.py": "", "start.py": text})
    return code(["sparsity.start.Mine"], home=home).files["sparsity/start.py"]


@pytest.mark.parametrize("users", [False, True], ids=["ours", "a user's"])
@pytest.mark.parametrize("edit", [*WORDS, *DEEDS])
def test_words_leave_the_digest_and_deeds_change_it(tmp_path: Path, monkeypatch, edit: str, users: bool) -> None:
    old, new = {**WORDS, **DEEDS}[edit]
    assert BEFORE.count(old) == 1
    digests = [digest(tmp_path, text, users, monkeypatch) for text in (BEFORE, BEFORE.replace(old, new))]
    assert (digests[0] == digests[1]) == (edit in WORDS)
