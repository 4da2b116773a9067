"""The house rules, checked on the source itself: a rule is a function of a path and its text that yields what is wrong.

Every rule is itself tested: PLANTED holds violations that it must catch, and INNOCENT what it must let pass.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
Rule = Callable[[str, str], Iterator[str]]  # (path from the root, source) -> violations

# A file imports only from smaller numbers or from its own room. "__init__" is the package's face.
ROOMS = {
    "processes": 0, "notes": 0, "user_error": 0, "measures": 0, "code": 0,
    "comparison": 1, "core": 1, "evaluator": 1, "ranges": 1, "linalg": 1, "variables": 1,
    "quadratic": 2, "tuning": 2, "statistics": 2, "patterns": 2, "groupings": 2, "predictions": 2, "record": 2,
    "methods": 3, "correctors": 3, "tracking": 3, "report": 3,
    "models": 4, "datasets": 4,
    "stream": 5,
    "refine": 6, "recover": 6, "allocation": 6, "evaluation": 6, "cache": 6,
    "engine": 7,
    "options": 8,
    "stages": 9,
    "runs": 10, "__init__": 10,
    "__main__": 11,
}  # fmt: skip


def room(path: str) -> str:
    return PurePosixPath(path).parts[1].removesuffix(".py")


def in_package(path: str) -> bool:
    return path.startswith("sparsity/")


def has_doors_open(path: str) -> bool:
    """Where a run is put together: the only places that know configuration, trackers and devices."""
    return path == "run.py" or (in_package(path) and room(path) in ("record", "tracking", "options", "stages", "runs"))


def imported(path: str, source: str) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of everything imported, relative imports resolved; `from a import b` gives a.b."""
    package = PurePosixPath(path).parts[:-1]  # of a module and of an __init__.py alike
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = [*above, *([node.module] if node.module else [])]
            yield from ((node.lineno, ".".join([*module, alias.name])) for alias in node.names)


def bound(source: str) -> Iterator[tuple[int, str]]:
    """(line, name) of every name that the source defines; a call's keywords and an unrenamed import are others'."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield node.lineno, name
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                yield from ((node.lineno, alias.asname) for alias in names if alias.asname)


def calls(source: str) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


# --- the rules --------------------------------------------------------------------------------------------------------


def imports_point_one_way(path: str, source: str) -> Iterator[str]:
    if not in_package(path):
        return
    here = room(path)
    if here not in ROOMS:
        yield f"{path}: the room sparsity/{here} has no number: give it one in ROOMS (tests/house/test_house.py)"
        return
    for line, name in imported(path, source):
        top, *rest = name.split(".")
        if top != "sparsity":
            continue
        there = rest[0] if rest and rest[0] in ROOMS else "__init__"
        if there != here and ROOMS[there] >= ROOMS[here]:
            yield f"{path}:{line}: {here} ({ROOMS[here]}) imports {name} ({ROOMS[there]}): only smaller numbers may be"


def only_runs_know_the_configuration(path: str, source: str) -> Iterator[str]:
    if has_doors_open(path):
        return
    for line, name in imported(path, source):
        if name.split(".")[0] in {"hydra", "omegaconf", "trackio", "wandb"}:
            yield f"{path}:{line}: imports {name}: only the rooms of a run and run.py may"


def files_are_short(path: str, source: str) -> Iterator[str]:
    if not path.endswith(".py"):
        return
    limit = 39 if path == "run.py" else 120 if path.startswith("sparsity/methods/") else 400
    if (lines := len(source.splitlines())) > limit:
        yield f"{path}: {lines} lines, at most {limit}: a file is one idea"


def tensor_parameters_carry_their_shape(path: str, source: str) -> Iterator[str]:
    tensor = re.compile(r"(Optional\[)?(torch\.)?Tensor\]?( \| None)?|None \| (torch\.)?Tensor")
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.arg) or node.annotation is None:
            continue
        annotation = ast.unparse(node.annotation).strip("'\"")
        named = re.search(r"_[A-Z]+$|^(state|a|b)$", node.arg)  # a statistic's state may be a tensor
        if tensor.fullmatch(annotation) and not named:
            yield f"{path}:{node.lineno}: parameter {node.arg}: {annotation} needs its shape: {node.arg}_BTI, say"


def nothing_is_called_mask(path: str, source: str) -> Iterator[str]:
    if in_package(path):
        for line, name in bound(source):
            if "mask" in name.lower():
                yield f"{path}:{line}: {name}: polarity is in the name: keep_* is True where the weight survives"


def no_text_becomes_code(path: str, source: str) -> Iterator[str]:
    for line, name in imported(path, source):
        if name.split(".")[0] in {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}:
            yield f"{path}:{line}: imports {name}: files are JSON, CSV, YAML or safetensors"
    for call, name in calls(source):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name in {"eval", "exec"}:
            yield f"{path}:{call.lineno}: {name}() runs text"
        if name == "torch.load" and keywords.get("weights_only") != "True":
            yield f"{path}:{call.lineno}: torch.load needs weights_only=True"
        if keywords.get("allow_pickle") == "True":
            yield f"{path}:{call.lineno}: allow_pickle=True"


def remote_code_is_never_trusted(path: str, source: str) -> Iterator[str]:
    # On the text, for the sake of the configuration. A message may well say `model.trust_remote_code=true`.
    true = {".py": "True", ".yaml": "(?i:true|yes|on)"}.get(PurePosixPath(path).suffix)
    if true is None or path.startswith("tests/"):
        return
    for line, text in enumerate(source.splitlines(), 1):
        if re.search(rf"trust_remote_code['\"]?\]?\s*(:\s*bool\s*)?[:=]\s*{true}\b", text):
            yield f"{path}:{line}: trust_remote_code is the user's to grant, at the command line"


def no_device_is_chosen(path: str, source: str) -> Iterator[str]:
    if not in_package(path):
        return
    for call, name in calls(source):
        if name.endswith(".cuda"):
            yield f"{path}:{call.lineno}: {name}(): the device comes from the inputs"
    if has_doors_open(path):  # `device: auto` is decided there
        return
    nodes = list(ast.walk(ast.parse(source)))
    # `x.device.type == "mps"` asks what a device can do and chooses none.
    asked = {id(leaf) for node in nodes if isinstance(node, ast.Compare) for leaf in ast.walk(node)}
    for node in nodes:
        if not isinstance(node, ast.Constant) or id(node) in asked:
            continue
        if re.fullmatch(r"(cuda|mps)(:\d+)?", str(node.value)):
            yield f"{path}:{node.lineno}: device {node.value!r}: the device comes from the inputs"


def no_machine_is_named(path: str, source: str) -> Iterator[str]:
    # The dots are escaped and the slash stands apart, so that this file does not hold what it looks for.
    hosts = r"(pypi|pythonhosted|download\.pytorch|debian)\.org|(npmjs|anaconda)\.(com|org)"
    for line, text in enumerate(source.splitlines(), 1):
        if found := re.search(rf"{hosts}|(?<![\w.~}})-])/(root|work)(?![\w-])", text):
            yield f"{path}:{line}: {found[0]!r} is a package registry or a path of one machine"


def instantiations(path: str, source: str) -> Iterator[str]:
    """Not a violation by itself: the repository holds exactly one."""
    names = {"instantiate", "hydra.utils.instantiate", "hydra.utils.call"}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hydra"):
            names |= {alias.asname or alias.name for alias in node.names if alias.name in {"instantiate", "call"}}
    for call, name in calls(source):
        if name in names or name.endswith(".instantiate"):
            yield f"{path}:{call.lineno}"


# --- the repository keeps them ----------------------------------------------------------------------------------------

PYTHON_RULES: list[Rule] = [
    imports_point_one_way,
    only_runs_know_the_configuration,
    tensor_parameters_carry_their_shape,
    nothing_is_called_mask,
    no_text_becomes_code,
    no_device_is_chosen,
]
TEXT_RULES: list[Rule] = [files_are_short, remote_code_is_never_trusted, no_machine_is_named]


def code() -> Iterator[tuple[str, str]]:
    """The package and run.py."""
    for file in sorted([*(ROOT / "sparsity").rglob("*.py"), *ROOT.glob("run.py")]):
        yield file.relative_to(ROOT).as_posix(), file.read_text()


def texts() -> Iterator[tuple[str, str]]:
    """Every file that is kept in version control: the files at the root and what these folders hold."""
    folders = ("sparsity", "conf", "experiments", "tests", ".ci", ".github", "docs", "outputs")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*") if "__pycache__" not in file.parts]
    for file in sorted([*files, *ROOT.iterdir()]):
        path = file.relative_to(ROOT).as_posix()
        a_run = path.startswith("outputs/") and path != "outputs/README.md"  # a run may well say where it ran
        if file.is_file() and not a_run and path != ".git":  # in a linked worktree, a file that names a folder
            yield path, file.read_text(errors="replace")


@pytest.mark.parametrize("rule", PYTHON_RULES)
def test_the_code_keeps(rule: Rule) -> None:
    assert [violation for path, source in code() for violation in rule(path, source)] == []


@pytest.mark.parametrize("rule", TEXT_RULES)
def test_every_file_keeps(rule: Rule) -> None:
    assert [violation for path, text in texts() for violation in rule(path, text)] == []


def test_the_configuration_is_instantiated_in_one_place() -> None:
    places = [place for path, source in code() for place in instantiations(path, source)]
    assert len(places) == 1, places


# --- the rules can fail -----------------------------------------------------------------------------------------------

METHOD = "sparsity/methods/new.py"
PLANTED: list[tuple[Rule, str, str]] = [
    (imports_point_one_way, METHOD, "from sparsity.engine import prune"),
    (imports_point_one_way, METHOD, "from sparsity import stream"),
    (imports_point_one_way, METHOD, "from .. import stream"),
    (imports_point_one_way, METHOD, "from ..correctors.greedy import Greedy"),
    (imports_point_one_way, METHOD, "def late():\n    import sparsity.runs.launch"),
    (imports_point_one_way, METHOD, "from sparsity import prune"),
    (imports_point_one_way, "sparsity/methods/__init__.py", "from ..models import load"),
    (imports_point_one_way, "sparsity/stream.py", "from .engine import prune"),
    (imports_point_one_way, "sparsity/core.py", "from sparsity import linalg"),
    (imports_point_one_way, "sparsity/__init__.py", "from .runs import pipeline"),
    (imports_point_one_way, "sparsity/attic/old.py", ""),
    (only_runs_know_the_configuration, METHOD, "from omegaconf import DictConfig"),
    (only_runs_know_the_configuration, "sparsity/engine.py", "def log():\n    import wandb"),
    (only_runs_know_the_configuration, "sparsity/evaluation/x.py", "import hydra.utils as h"),
    (files_are_short, METHOD, "x = 1\n" * 121),
    (files_are_short, "sparsity/engine.py", "x = 1\n" * 401),
    (files_are_short, "run.py", "x = 1\n" * 40),
    (tensor_parameters_carry_their_shape, METHOD, "def f(weight: Tensor): ..."),
    (tensor_parameters_carry_their_shape, METHOD, "def f(*, weight: torch.Tensor | None = None): ..."),
    (tensor_parameters_carry_their_shape, METHOD, "def f(weight: 'Tensor'): ..."),
    (tensor_parameters_carry_their_shape, METHOD, "def f(*weights: Tensor): ..."),
    (nothing_is_called_mask, METHOD, "def apply_mask(): ..."),
    (nothing_is_called_mask, METHOD, "class Masked: ..."),
    (nothing_is_called_mask, METHOD, "def f(mask_OI): ..."),
    (nothing_is_called_mask, METHOD, "for mask in keeps: ..."),
    (nothing_is_called_mask, METHOD, "self.W_mask = 1"),
    (nothing_is_called_mask, METHOD, "import keep as mask"),
    (no_text_becomes_code, METHOD, "import pickle"),
    (no_text_becomes_code, METHOD, "torch.load(path)"),
    (no_text_becomes_code, METHOD, "torch.load(path, weights_only=False)"),
    (no_text_becomes_code, METHOD, "numpy.load(path, allow_pickle=True)"),
    (no_text_becomes_code, METHOD, "eval('1')"),
    (no_text_becomes_code, "run.py", "exec(text)"),
    (remote_code_is_never_trusted, METHOD, "AutoModel.from_pretrained(name, trust_remote_code=True)"),
    (remote_code_is_never_trusted, METHOD, "options = {'trust_remote_code': True}"),
    (remote_code_is_never_trusted, METHOD, "options['trust_remote_code'] = True"),
    (remote_code_is_never_trusted, METHOD, "def load(name, trust_remote_code: bool = True): ..."),
    (remote_code_is_never_trusted, METHOD, "def load(name, *, trust_remote_code=True): ..."),
    (remote_code_is_never_trusted, METHOD, "class Hub:\n    trust_remote_code: bool = True"),
    (remote_code_is_never_trusted, "conf/model/new.yaml", "trust_remote_code: true"),
    (no_device_is_chosen, METHOD, "weight_OI.cuda()"),
    (no_device_is_chosen, "sparsity/runs/pipeline.py", "model.cuda()"),
    (no_device_is_chosen, METHOD, "torch.zeros(2, device='cuda')"),
    (no_device_is_chosen, METHOD, "torch.device('cuda:1')"),
    (no_machine_is_named, "Makefile", "pip install -i https://pypi" + ".org/simple torch"),
    (no_machine_is_named, "conf/model/new.yaml", "path: /" + "work/models/tiny"),
    (no_machine_is_named, "README.md", "found in `/" + "root`"),
    (instantiations, "run.py", "hydra.utils.instantiate(cfg)"),
    (instantiations, "run.py", "from hydra.utils import instantiate as make\nmake(cfg)"),
]
INNOCENT: list[tuple[Rule, str, str]] = [
    (imports_point_one_way, METHOD, "from ..core import Layer\nfrom sparsity import linalg\nfrom .x import X"),
    (imports_point_one_way, "sparsity/__init__.py", "from .engine import prune"),
    (imports_point_one_way, "sparsity/runs/launch.py", "from sparsity.engine import prune\nimport torch"),
    (only_runs_know_the_configuration, "sparsity/runs/pipeline.py", "import wandb"),
    (files_are_short, METHOD, "x = 1\n" * 120),
    (tensor_parameters_carry_their_shape, METHOD, "def f(weight_OI: Tensor, state: Tensor, xs: list[Tensor]): ..."),
    (nothing_is_called_mask, METHOD, "from transformers import masking_utils\nmodel(ids, attention_mask=keep)['mask']"),
    (no_text_becomes_code, METHOD, "model.eval()\ntorch.load(path, weights_only=True)"),
    (remote_code_is_never_trusted, METHOD, "load(name, trust_remote_code=self.trust, say='trust_remote_code=true')"),
    (remote_code_is_never_trusted, METHOD, "class Hub:\n    trust_remote_code: bool\n    def f(a, b=1, *, c): ..."),
    (remote_code_is_never_trusted, "conf/model/new.yaml", "trust_remote_code: false"),
    (no_device_is_chosen, METHOD, "'''Runs on cuda as well.'''\ntorch.zeros(2, device=x_BTI.device)"),
    (no_device_is_chosen, METHOD, "wide = x_BTI.device.type != 'mps'"),
    (no_device_is_chosen, "sparsity/runs/pipeline.py", "device = 'cuda' if torch.cuda.is_available() else 'cpu'"),
    (no_machine_is_named, "README.md", "framework/work in https://example.org/work-in-progress, ./work, /workshop"),
    (instantiations, "run.py", "from hydra.utils import instantiate"),
]  # fmt: skip


@pytest.mark.parametrize("rule,path,source", PLANTED)
def test_a_planted_violation_is_caught(rule: Rule, path: str, source: str) -> None:
    assert list(rule(path, source))


@pytest.mark.parametrize("rule,path,source", INNOCENT)
def test_an_innocent_line_passes(rule: Rule, path: str, source: str) -> None:
    assert list(rule(path, source)) == []


def test_every_rule_has_a_planted_violation_and_an_innocent_line() -> None:
    rules = {*PYTHON_RULES, *TEXT_RULES, instantiations}
    assert {rule for rule, _, _ in PLANTED} == {rule for rule, _, _ in INNOCENT} == rules
