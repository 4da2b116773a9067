"""README, docs/ and the studies say what is true: links lead somewhere, commands compose, options exist, figures have a source.

A rule is a function of a page's path and text that yields what is wrong. PLANTED holds mistakes that each rule must find, and
INNOCENT holds lines that it must let pass.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from composing import CONF, OPTIONS, chosen, compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sparsity.core import UserError
from sparsity.options.components import check_targets, components

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = sorted(
    path
    for name in ("README.md", "CHANGELOG.md", "outputs/README.md", "docs/**/*.md", "experiments/**/*.md")
    for path in ROOT.glob(name)
)
GROUPS = {**OPTIONS, "experiment": sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))}
LAUNCHERS = {"joblib", "ray", *(file.stem for file in (CONF / "hydra/launcher").glob("*.yaml"))}
SUBCOMMANDS = ("report", "cache", "tasks", "dashboard")  # of sparsity-lab, besides `help` and a run
Rule = Callable[[str, str], Iterator[str]]  # (path from the root, text) -> what is wrong


# --- what a page is made of -------------------------------------------------------------------------------------------

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")


def blocks(text: str, *languages: str) -> list[str]:
    """The fenced blocks of these languages."""
    return [content for language, content in FENCE.findall(text) if language in languages]


def prose(text: str) -> str:
    """The text without fenced blocks."""
    return FENCE.sub("", text)


def shell(text: str) -> list[str]:
    """What a reader may type: the lines of blocks without a language, continued lines joined, and code in sentences."""
    lines = "\n".join(blocks(text, "", "sh", "bash")).replace("\\\n", " ").splitlines()
    return [*lines, *SPAN.findall(prose(text))]


def slugs(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        found[slug] = found.get(slug, 0) + 1
    return {f"{slug}-{i}" if i else slug for slug, times in found.items() for i in range(times)}


# --- the rules --------------------------------------------------------------------------------------------------------


def links(path: str, text: str) -> Iterator[str]:
    """Every relative link leads to a file, and every anchor to a heading."""
    for target in re.findall(r"\]\(([^)\s]+)\)", SPAN.sub("", prose(text))):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (ROOT / path).parent / name if name else ROOT / path
        if not file.exists():
            yield f"{path}: {target} leads nowhere"
        elif anchor and anchor not in slugs(text if not name else file.read_text()):
            yield f"{path}: {target}: there is no such heading"


def files(path: str, text: str) -> Iterator[str]:
    """Every file of the repository that is named exists."""
    for span in SPAN.findall(text):
        if re.fullmatch(r"(sparsity|conf|tests|experiments|docs)/[\w./-]*", span) and not (ROOT / span).exists():
            yield f"{path}: {span} does not exist"


def commands(path: str, text: str) -> Iterator[str]:
    """Every command composes, or names a target, a module, an extra or a file that exists."""
    for module in re.findall(r"python -m ([\w.]+)", text):
        if not _module(module):
            yield f"{path}: python -m {module}: there is no such module"
    for line in shell(text):
        try:
            words = shlex.split(re.sub(r"\$\{?[A-Z]\w*\}?", "VALUE", line), comments=True)
        except ValueError:
            continue  # an apostrophe: no command
        while words and re.match(r"[A-Z]\w*=", words[0]):  # variables in front of a command
            words = words[1:]
        yield from (f"{path}: {line.strip()}: {wrong}" for wrong in _wrong(words, text + README.read_text()))


def _wrong(words: list[str], page: str) -> Iterator[str]:
    match words:
        case ["python", "run.py", *rest] | ["torchrun", _, "run.py", *rest]:
            yield from _run(rest, page)
        case ["sparsity-lab", *rest] if not rest or rest[0] not in SUBCOMMANDS:
            yield from _run(rest, page)
        case ["make", *rest]:
            makefile = (ROOT / "Makefile").read_text()
            for word in rest:
                name, given, _ = word.partition("=")
                known = rf"\$\({name}\)" if given else rf"^{re.escape(name)}:"
                if not re.search(known, makefile, re.MULTILINE):
                    yield f"the Makefile has no {name}"
        case ["pip", "install", *rest]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            for extra in re.findall(r"\[(.*?)\]", " ".join(rest)):
                yield from (f"there is no extra {name}" for name in extra.split(",") if name not in extras)
        case ["pytest", *rest]:
            yield from (f"{word} does not exist" for word in rest if "/" in word and not (ROOT / word).exists())


def _run(words: list[str], page: str) -> Iterator[str]:
    """What is wrong with the words after `python run.py`. `page`: where options of one's own may stand."""
    if words[:1] == ["help"]:
        for name, _, option in (word.partition("=") for word in words[1:]):
            if name not in {*GROUPS, *keys()} or (option and option not in GROUPS.get(name, ())):
                yield f"there is nothing called {name}={option} to explain"
        return
    flags = {"-m", "--multirun", "--help", "--cfg", "job", "--config-dir", "..."}
    own = words[words.index("--config-dir") + 1] if "--config-dir" in words else None
    yield from (f"{word} is no override" for word in words if not re.search("[=~]", word) and word not in {*flags, own})
    overrides = [word for word in words if re.search("[=~]", word) and not word.endswith("=...")]
    launched = [word for word in overrides if word.startswith(("hydra/launcher=", "hydra.launcher."))]
    for word in launched:  # its plugin may not be installed
        if word.startswith("hydra/") and word.partition("=")[2] not in LAUNCHERS:
            yield f"there is no launcher {word}"
    if any("tfidf_optuna" in word for word in overrides) and not _module("hydra_plugins.hydra_optuna_sweeper"):
        return
    if own:  # its options stand on the same page; their classes do not exist here
        overrides = [word for word in overrides if f"# {own}/{_file(word)}\n" not in page]
    try:
        _composed(tuple(word for word in overrides if word not in launched), "-m" in words)
    except (HydraException, OmegaConfBaseException, UserError) as error:
        yield " ".join(str(error).split())[:200]


def _file(override: str) -> str:
    """method=soft -> method/soft.yaml"""
    return override.replace("=", "/") + ".yaml"


@cache
def _composed(overrides: tuple[str, ...], sweep: bool) -> None:
    """Raises what a run would say before it reads any text."""
    if sweep:  # the first point
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        overrides = tuple(
            f"{o.get_key_element()}={next(iter(o.sweep_string_iterator()))}" if o.is_sweep_override() else o.input_line
            for o in parsed
        )
    config = compose(*overrides)
    check_targets(components(config), [*config.allow])


@cache
def _module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@cache
def keys() -> set[str]:
    """Every key of every option, and of conf/config.yaml: "method.damp", "evaluation.lm_eval.tasks"."""
    found: set[str] = set()

    def walk(node: Any, path: str) -> None:
        found.add(path)
        for name, value in node.items() if isinstance(node, dict) else ():
            walk(value, f"{path}.{name}")

    for name, node in OmegaConf.to_container(compose()).items():
        walk(node, str(name))
    for group, options in OPTIONS.items():
        for option in options:
            walk(OmegaConf.to_container(chosen(group, option)[group]), group)
    hydra = yaml.safe_load((CONF / "hydra/launcher/slurm.yaml").read_text())
    return found | {f"hydra.launcher.{name}" for name in [*hydra, "n_jobs"]} | {
        "hydra.run.dir", "hydra.sweep.dir", "hydra.verbose",
    }  # fmt: skip


OVERRIDE = re.compile(r"(?<![\w./@$-])([a-z_]\w*(?:@\w+)?(?:\.\w+)*)=(\[[^\]\s]*\]?|[^\s,;)]*(?:,\w+)*)")


def options(path: str, text: str) -> Iterator[str]:
    """Every `group=option` and every `key=` is in conf/. In a sentence a key may be short: `propagate=dense`."""
    short = {key.rpartition(".")[2] for key in keys()} | {"X", "key"}
    examples = text + README.read_text()  # where options of one's own may stand
    for code in shell(text):
        for key, value in OVERRIDE.findall(code.partition(" #")[0]):
            group = key.partition("@")[0]
            if group not in GROUPS and key not in (keys() if "." in key else short):
                yield f"{path}: there is no option {key}="
            for option in value.strip("[]").split(",") if group in GROUPS else ():
                known = option in GROUPS[group] or f"/{group}/{option}.yaml\n" in examples
                if re.fullmatch(r"\w+", option) and not known:
                    yield f"{path}: there is no {group}={option}"
        if re.fullmatch(r"(calibration|scope|cache)(\.[a-z_]+)+", code) and code not in keys():
            yield f"{path}: there is no option {code}"


FIGURE = re.compile(r"(?<![\w.])\d[\d,]*\.\d+(?![\w]|\.\d)")
TABLE = re.compile(r"(?:^<!-- figures: ([^>]*) -->\n)?((?:^\|[^\n]*\n)+|^```\n.*?^```$)", re.MULTILINE | re.DOTALL)


def figures(path: str, text: str) -> Iterator[str]:
    """Every figure of a table, in README and docs/, stands in the source that the comment in front of the table names."""
    if not re.fullmatch(r"README\.md|docs/.*", path):
        return
    for sources, table in TABLE.findall(text):
        shown = FIGURE.findall(SPAN.sub("", table)) if table.startswith("|") or sources else []
        known = {figure for source in sources.split() for figure in FIGURE.findall((ROOT / source).read_text())}
        if shown and not sources:
            yield f"{path}: a table with {shown[0]} names no source: <!-- figures: FILE -->"
        elif unknown := [figure for figure in shown if figure not in known]:
            yield f"{path}: {', '.join(unknown)} stand not in {sources}"


def each_figure_once(path: str, text: str) -> Iterator[str]:
    """README shows no figure of two decimals twice, and none in a sentence that no source of its tables has."""
    if path != "README.md":
        return
    named = re.findall(r"<!-- figures: ([^>]*) -->", text)
    known = {
        figure for names in named for name in names.split() for figure in FIGURE.findall((ROOT / name).read_text())
    }
    told = FENCE.sub(lambda block: "" if block[1] or "python " in block[2] else block[2], text)  # without what is typed
    told = re.sub(r"<!--.*?-->|[\d.]+%|Python [\d.]+", "", SPAN.sub("", told))
    found = [figure for figure in FIGURE.findall(told) if len(figure.partition(".")[2]) == 2]
    for figure in sorted({*found}):
        if found.count(figure) > 1:
            yield f"{path}: {figure} stands {found.count(figure)} times"
        if figure not in known:
            yield f"{path}: {figure} stands in no source: {', '.join(named)}"


def readme_is_short(path: str, text: str) -> Iterator[str]:
    if path == "README.md" and (lines := len(text.splitlines())) > 130:
        yield f"{path}: {lines} lines, at most 130"


RULES: list[Rule] = [links, files, commands, options, figures, each_figure_once, readme_is_short]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("page", [path.relative_to(ROOT).as_posix() for path in PAGES])
def test_a_page_keeps(page: str, rule: Rule) -> None:
    assert [*rule(page, (ROOT / page).read_text())] == []


# --- the rules can fail -----------------------------------------------------------------------------------------------

PLANTED: list[tuple[Rule, str, str]] = [
    (links, "README.md", "[a](docs/nowhere.md)"),
    (links, "docs/runs.md", "[a](README.md#nothing)"),
    (links, "README.md", "# One\n[a](#two)"),
    (files, "README.md", "`sparsity/nowhere.py`"),
    (commands, "README.md", "```\npython run.py method=nowhere\n```"),
    (commands, "README.md", "```\npython run.py method=wanda method.damp=0.1\n```"),
    (commands, "README.md", "```\npython run.py method=wanda,ria\n```"),
    (commands, "README.md", "```\npython run.py wanda\n```"),
    (commands, "README.md", "```\npython run.py -m \\\n  sparsitty=0.5,0.6\n```"),
    (commands, "README.md", "`X=1 torchrun --nproc-per-node=2 run.py method=nowhere`"),
    (commands, "README.md", "`sparsity-lab method=nowhere`"),
    (commands, "README.md", "`python run.py help method=nowhere`"),
    (commands, "README.md", "`python run.py -m hydra/launcher=nowhere`"),
    (commands, "README.md", "python -m sparsity.nowhere"),
    (commands, "README.md", "`make nowhere`"),
    (commands, "README.md", "`make run ARGUMENTS=x`"),
    (commands, "README.md", '`pip install "sparsity-lab[nowhere]"`'),
    (commands, "README.md", "`pytest tests/nowhere.py`"),
    (options, "README.md", "`method=nowhere`"),
    (options, "README.md", "`evaluation=[perplexity,nowhere]`"),
    (options, "README.md", "`method@method.base=nowhere`"),
    (options, "README.md", "`corrector.nowhere=1`"),
    (options, "README.md", "`nowhere=1`"),
    (options, "README.md", "`calibration.nowhere`"),
    (figures, "README.md", "| | a |\n|---|---|\n| b | 1.23 |\n"),
    (figures, "docs/x.md", "<!-- figures: experiments/solvers/README.md -->\n| | a |\n|---|---|\n| b | 1.23456 |\n"),
    (figures, "README.md", "<!-- figures: conf/experiment/first_run.yaml -->\n```\n18.63  35.88\n```\n"),
    (each_figure_once, "README.md", "<!-- figures: conf/experiment/first_run.yaml -->\n| 35.89 |\n```\n35.89\n```\n"),
    (each_figure_once, "README.md", "<!-- figures: conf/experiment/first_run.yaml -->\n35.88\n"),
    (readme_is_short, "README.md", "\n" * 131),
]
INNOCENT: list[tuple[Rule, str, str]] = [
    (links, "README.md", "[a](docs/runs.md#keys-when-are-two-runs-the-same) [b](https://example.org/x) `[c](d)` [e](#f)\n# F"),
    (files, "README.md", "`sparsity/core.py`, `conf/<group>/`, `experiments/*/README.md`, `sparsity-lab`"),
    (commands, "README.md", "```\nX=$Y python run.py -m method=wanda,ria hydra/launcher=ray method.scope=...  # don't\n```"),
    (commands, "README.md", "`make run ARGS=x`, `pip install .`, `sparsity-lab cache list`, `python run.py help method=wanda`"),
    (commands, "README.md", "```yaml\n# c/method/x.yaml\n```\n`python run.py --config-dir c method=x 'allow=[y]'`"),
    (options, "README.md", "`propagate=dense`, `+method@method.routes.q=wanda`, `--n=4`, `X=1`, `calibration.held_out`, `1 = 2`"),
    (figures, "README.md", "<!-- figures: experiments/solvers/README.md -->\n| a |\n|---|\n| 78.45 |\n```\n1.5\n```\n"),
    (figures, "README.md", "| `b=1.23` |\n"),
    (each_figure_once, "README.md", "<!-- figures: conf/experiment/first_run.yaml -->\n18.63, 35.89, 3.5, 3.5, `0.55`, 9.99%\n"),
    (each_figure_once, "README.md", "```\npython run.py sparsity=0.66\n```\n"),
    (readme_is_short, "README.md", "\n" * 130),
]  # fmt: skip


@pytest.mark.parametrize("rule,path,text", PLANTED)
def test_a_planted_mistake_is_found(rule: Rule, path: str, text: str) -> None:
    assert [*rule(path, text)] != []


@pytest.mark.parametrize("rule,path,text", INNOCENT)
def test_an_innocent_line_passes(rule: Rule, path: str, text: str) -> None:
    assert [*rule(path, text)] == []


def test_every_rule_has_a_planted_mistake_and_an_innocent_line() -> None:
    assert {rule for rule, _, _ in PLANTED} == {rule for rule, _, _ in INNOCENT} == {*RULES}
