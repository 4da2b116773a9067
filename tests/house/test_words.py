"""Docstrings and comments are sentences that stand alone: they have a subject, and no public name is without one.

A rule is a function of a path and its text that yields what is wrong, as in test_house.py. PLANTED holds what each rule must catch.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rooms import rooms, sentence
from test_house import ROOMS

ROOT = Path(__file__).parents[2]
Rule = Callable[[str, str], Iterator[str]]  # (path from the root, source) -> violations

# Openings without a subject: the reader must guess what the sentence is about.
OPENINGS = (
    "Of", "The same", "Those", "That", "What", "As", "Likewise", "In the place of", "Whoever", "Who", "Whose", "Where", "To be",
    "How", "Whether", "Which", "Into", "Back", "Under", "None:", "In what", "With which", "So that",
)  # fmt: skip
# A comment behind a field may begin with "of": the field's name is the subject (`fraction: float  # of the channels`).
COMMENT_OPENINGS = ("The same", "Those", "That are", "What", "Likewise", "In the place of")

# Paraphrases that hide what is meant, and what to say instead.
RIDDLES = {
    "in the place of": "instead of",
    "the same of": "repeat the noun",
    "what of": "name it",
    "of which": "two sentences",
    "likewise": "repeat the sentence's subject",
    "to be asked for": "call it, pass it",
    "is gone on with": "is resumed",
    "all one likes": "unlimited",
    "to hear what": "to find which",
    "what it takes to": "what is needed to",
    "brought no less": "did not lower",
    "is told": "gets",
}


SENTENCE = r"[A-Z`].{20,}[.]"


def documented(source: str) -> Iterator[tuple[ast.Module | ast.ClassDef | ast.FunctionDef, str | None]]:
    """Every module, class and function with its docstring."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield node, ast.get_docstring(node)


def line_of(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> int:
    return 1 if isinstance(node, ast.Module) else node.lineno


def comments(source: str) -> Iterator[tuple[int, str]]:
    """The line and the words of every comment that is no instruction to a tool."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        words = token.string.lstrip("# ")
        if token.type == tokenize.COMMENT and not words.startswith(("noqa", "type:", "fmt:", "!")):
            yield token.start[0], words


def begins(words: str, openings: tuple[str, ...]) -> str | None:
    return next((opening for opening in openings if re.match(rf"{re.escape(opening)}(?!\w)", words)), None)


# --- the rules --------------------------------------------------------------------------------------------------------


def docstrings_have_a_subject(path: str, source: str) -> Iterator[str]:
    for node, text in documented(source):
        if text and (opening := begins(text, OPENINGS)):
            yield f'{path}:{line_of(node)}: a docstring begins "{opening} ...": begin with what it is, returns or does'


def comments_have_a_subject(path: str, source: str) -> Iterator[str]:
    for line, words in comments(source):
        if opening := begins(words[:1].upper() + words[1:], COMMENT_OPENINGS):
            yield f'{path}:{line}: a comment begins "{opening} ...": begin with its subject'


def there_are_no_riddles(path: str, source: str) -> Iterator[str]:
    texts = [(line_of(node), text) for node, text in documented(source) if text]
    for line, text in [*texts, *comments(source)]:
        plain = " ".join(text.lower().split())
        for riddle, instead in RIDDLES.items():
            if re.search(rf"(?<!\w){riddle}(?!\w)", plain):
                yield f'{path}:{line}: "{riddle}": say it plainly ({instead})'


def public_names_have_docstrings(path: str, source: str) -> Iterator[str]:
    tree = ast.parse(source)
    if source.strip() and not ast.get_docstring(tree):
        yield f"{path}: the module has no docstring"
    for node in tree.body:
        public = isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
        if public and not ast.get_docstring(node):
            yield f"{path}:{node.lineno}: {node.name} has no docstring"


def a_room_says_what_it_is(path: str, source: str) -> Iterator[str]:
    """A room is a folder or a file of sparsity/. The first line of its docstring is the sentence in every list of rooms."""
    a_room = re.fullmatch(r"sparsity/(\w+/__init__|(?!__)\w+)\.py", path)
    if a_room and not re.fullmatch(SENTENCE, sentence(source)):
        yield f"{path}: a room's docstring begins with one line, a sentence, that says what the room is"


# --- the repository keeps them ----------------------------------------------------------------------------------------

RULES: list[Rule] = [
    docstrings_have_a_subject,
    comments_have_a_subject,
    there_are_no_riddles,
    public_names_have_docstrings,
    a_room_says_what_it_is,
]


def code() -> Iterator[tuple[str, str]]:
    for folder in ("sparsity", "experiments"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield file.relative_to(ROOT).as_posix(), file.read_text()


@pytest.mark.parametrize("rule", RULES)
def test_the_code_keeps(rule: Rule) -> None:
    assert [violation for path, source in code() for violation in rule(path, source)] == []


def test_every_room_says_what_it_is() -> None:
    listed = rooms()
    assert {*listed} == {name for name in ROOMS if not name.startswith("__")}
    assert all(re.fullmatch(SENTENCE, text) for text in listed.values()), listed


# --- the rules can fail -----------------------------------------------------------------------------------------------

HERE = "sparsity/methods/new.py"
PLANTED: list[tuple[Rule, str, str]] = [
    (docstrings_have_a_subject, HERE, '"""Of each layer, what it needs."""'),
    (docstrings_have_a_subject, HERE, 'def f():\n    """The same of one block."""'),
    (docstrings_have_a_subject, HERE, 'class C:\n    def f(self):\n        """What becomes of it."""'),
    (docstrings_have_a_subject, HERE, 'class C:\n    """As it is stored."""'),
    (docstrings_have_a_subject, HERE, 'def f():\n    """Whether it fits."""'),
    (comments_have_a_subject, HERE, "x = 1  # the same, as the corrector left it"),
    (comments_have_a_subject, HERE, "# That are measured on\nx = 1"),
    (there_are_no_riddles, HERE, '"""A value in the place of another."""'),
    (there_are_no_riddles, HERE, 'def f():\n    """Text: all one\n    likes of it."""'),
    (there_are_no_riddles, HERE, "x = 1  # a tracker is told this"),
    (public_names_have_docstrings, HERE, "x = 1"),
    (public_names_have_docstrings, HERE, '"""A module."""\ndef f(): ...'),
    (public_names_have_docstrings, HERE, '"""A module."""\nclass C:\n    x = 1'),
    (a_room_says_what_it_is, "sparsity/attic/__init__.py", ""),
    (a_room_says_what_it_is, "sparsity/attic/__init__.py", '"""Old things"""'),
    (a_room_says_what_it_is, "sparsity/attic/__init__.py", '"""A sentence that goes on to the next\nline."""'),
]
INNOCENT: list[tuple[Rule, str, str]] = [
    (docstrings_have_a_subject, HERE, 'def f():\n    """Offsets (B,) of each window. Of two, the first."""'),
    (docstrings_have_a_subject, HERE, "def f(): ..."),
    (comments_have_a_subject, HERE, "fraction = 0.1  # of the channels\nlist.sort()  # noqa: that is meant"),
    (there_are_no_riddles, HERE, '"""The place of a value, which can be told from others."""'),
    (public_names_have_docstrings, HERE, '"""A module."""\ndef _f(): ...\nclass C:\n    """A class."""\n    def f(self): ...'),
    (a_room_says_what_it_is, "sparsity/attic/__init__.py", '"""The old methods, one per file.\n\nMore about them."""'),
    (a_room_says_what_it_is, "sparsity/attic.py", '"""The old methods in one file.\n\nMore about them."""'),
    (a_room_says_what_it_is, HERE, ""),
]  # fmt: skip


@pytest.mark.parametrize("rule,path,source", PLANTED)
def test_a_planted_violation_is_caught(rule: Rule, path: str, source: str) -> None:
    assert list(rule(path, source))


@pytest.mark.parametrize("rule,path,source", INNOCENT)
def test_an_innocent_line_passes(rule: Rule, path: str, source: str) -> None:
    assert list(rule(path, source)) == []


def test_every_rule_has_a_planted_violation_and_an_innocent_line() -> None:
    assert {rule for rule, _, _ in PLANTED} == {rule for rule, _, _ in INNOCENT} == {*RULES}
