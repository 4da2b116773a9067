"""Foreign code is refused before it is imported: a `_target_` names a class of ours, or of a package that was allowed."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import pytest
from composing import compose
from omegaconf import OmegaConf

from sparsity.core import UserError
from sparsity.options.components import check_targets, components


@pytest.fixture
def foreign(tmp_path, monkeypatch) -> Callable[[], bool]:
    """Packages `foreign` and `sparsity_foreign`, each with a class Thing. Returns whether anything of them was ever run."""
    traces = tmp_path / "imported"
    for package in ("foreign", "sparsity_foreign"):
        folder = tmp_path / package / "deep"
        folder.mkdir(parents=True)
        trace = f"import pathlib\npathlib.Path({str(traces)!r}).touch()\n"
        (tmp_path / package / "__init__.py").write_text(trace)
        (folder / "__init__.py").write_text("class Thing:\n    def __init__(self, method=None): self.method = method\n")
        for module in (package, f"{package}.deep"):
            monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return traces.exists


THING = {"_target_": "foreign.deep.Thing"}
OURS = {"_target_": "sparsity.methods.Wanda", "scope": "row"}
SMUGGLED = {
    "method": THING,
    "method.routes.mlp": {"routes": {"attention": OURS, "mlp": THING}},
    "evaluation.1": [OURS, THING],
    "evaluation.a.0.0": {"a": [[THING]]},
    "pattern.plain": {"plain": THING},
}


@pytest.mark.parametrize("path", SMUGGLED)
def test_a_foreign_class_is_refused_wherever_it_stands_before_it_is_imported(path, foreign):
    with pytest.raises(UserError, match=r"foreign\.deep\.Thing is refused: expected a class of sparsity") as refused:
        check_targets({path.partition(".")[0]: SMUGGLED[path]}, [])
    assert str(refused.value).startswith(f"{path}._target_=")
    assert "allow=[foreign]" in str(refused.value)
    assert not foreign()
    assert "foreign" not in sys.modules


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "torch.nn.Linear",
        "sparsity_foreign.deep.Thing",
        "foreign.sparsity.Thing",
        "Sparsity.methods.Wanda",
        "",
    ],
)
@pytest.mark.parametrize("allow", [[], ["other", "sparsity_for", "foreig"]])
def test_what_is_not_ours_is_refused(target, allow, foreign):
    with pytest.raises(UserError, match=re.escape(f"method._target_={target} is refused")):
        check_targets({"method": {"_target_": target}}, allow)
    assert not foreign()


@pytest.mark.parametrize("target", ["sparsity.stream.nn.Linear", "sparsity.record.environment.subprocess.Popen"])
def test_ours_is_no_way_round_to_another_package(target):
    """A module of ours holds the names that it imported."""
    with pytest.raises(UserError, match=re.escape(f"method._target_={target}")):
        check_targets({"method": {"_target_": target}}, [])


@pytest.mark.parametrize("name", ["runs.store.Path", "linalg.Tensor", "runs.key.Settings.model_fields"])
def test_a_name_that_we_imported_is_no_class_of_ours(name):
    with pytest.raises(UserError, match=re.escape(f"method._target_=sparsity.{name}")):
        check_targets({"method": {"_target_": f"sparsity.{name}"}}, [])


@pytest.mark.parametrize("switch", [{"_partial_": True}, {"_args_": ["row"]}, {"_recursive_": False}])
def test_a_target_is_called_with_its_options_and_nothing_else(switch):
    with pytest.raises(UserError, match=rf"method\.{next(iter(switch))} is refused"):
        check_targets({"method": OURS | switch}, [])


def test_an_allowed_package_may_be_named(foreign):
    parts = {"method": THING | {"method": OURS}}
    assert [cls.__name__ for cls in check_targets(parts, ["foreign"])] == ["Thing", "Wanda"]
    assert foreign()  # so the trace of an import does show


def test_what_is_ours_but_does_not_exist_is_named():
    for target in ("sparsity.methods.Wonder", "sparsity.nowhere.Wanda", "sparsity.methods"):
        with pytest.raises(UserError, match=re.escape(f"method._target_={target} cannot be imported")):
            check_targets({"method": {"_target_": target}}, [])


def test_the_guard_reads_what_interpolations_say(monkeypatch, foreign):
    monkeypatch.setenv("A_TARGET", "foreign.deep.Thing")
    config = OmegaConf.merge(compose(), {"method": {"_target_": "${oc.env:A_TARGET}"}})
    with pytest.raises(UserError, match=r"foreign\.deep\.Thing is refused"):
        check_targets(components(config), [])
    assert not foreign()
