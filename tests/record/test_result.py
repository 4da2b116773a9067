"""What a finished run says: typed, kept whole on the way to result.json and back, and older folders in the words of today."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import MEASURED, SMALL, UNMEASURED, command, run
from reports import finished, gathered

from sparsity.core import UserError
from sparsity.evaluation import Divergence
from sparsity.evaluator import Measured
from sparsity.measures import Measure, both, said
from sparsity.record.result import Result, evaluated, read
from sparsity.report.build import build
from sparsity.report.read import read as read_runs
from sparsity.stages.recording import Recorder

SECTIONS = {
    "run_key": "k",
    "choices": {"method": "wanda", "allocation": "owl"},
    "model": {"name": "tiny", "source": "here", "dtype": "float32"},
    "reference": None,
    "dataset": {"name": "text", "python": "3.11"},
    "perplexity": {"dense": 30.0, "pruned": 45.0},
    "evaluation": {"perplexity": {"dense": 30.0, "pruned": 45.0, "seqlen": 512, "windows": 24}},
    "sparsity": {"asked": 0.5, "found": 0.5, "weights": 8, "zeros": 4, "layers": 2},
    "layers": {"pruned": 2, "all": 3, "relative_error_mean": 0.25, "corrector_applied_mean": 0.5},
    "recovery": {"kl_before": 0.5, "kl": 0.25},
    "seconds": {"load": 1.0, "polish": 2.0, "evaluate": 3.0},
    "peak_memory_bytes": 2**30,
    "mask_sha256": "m",
    "polish": {"rounds": 3},
}


# --- the type ---------------------------------------------------------------------------------------------------------


def test_every_section_comes_back_as_it_was():
    """A section that a later stage adds too."""
    result = Result.of(SECTIONS, [Measure("polish.gain", 0.5, "", "larger")])
    content = json.loads(json.dumps(result.to_json()))
    assert {name: content[name] for name in SECTIONS} == SECTIONS
    assert {*content} == {*SECTIONS, "schema", "measures"}
    again = Result.from_json(content)
    assert again.to_json() == content
    assert again.measures == result.measures
    assert again.sparsity.found == 0.5
    assert again.layers.more["corrector_applied_mean"] == 0.5
    assert again.measure("polish.gain").better == "larger"


@pytest.mark.parametrize(
    "section,broken",
    [
        ("recovery", {"kl": float("nan")}),
        ("sparsity", {"found": "half"}),
        ("layers", [1]),
        ("seconds", {"load": None, 3: 1}),
    ],
)
def test_no_number_of_a_run_is_lost_in_silence(section, broken):
    with pytest.raises(ValueError, match=f"the result's {section} is"):
        Result.of(SECTIONS | {section: broken})


def test_what_is_measured_has_its_unit_and_its_direction():
    result = Result.of(SECTIONS)
    told = {measure.name: (measure.value, measure.unit, measure.better) for measure in result.all_measures}
    assert told["perplexity.pruned"] == (45.0, "", "smaller")
    assert told["sparsity.found"] == (0.5, "fraction", None)
    assert told["layers.relative_error_mean"] == (0.25, "", "smaller")
    assert told["recovery.kl"] == (0.25, "nats", "smaller")
    assert told["seconds.polish"] == (2.0, "s", "smaller")
    assert told["peak_memory_bytes"] == (2**30, "bytes", "smaller")
    assert told["rise"] == (0.5, "change", "smaller")
    assert told["seconds.total"] == (6.0, "s", "smaller")
    assert not any(name.startswith(("evaluation.perplexity", "sparsity.weights", "layers.all")) for name in told)


def test_an_evaluator_that_declares_nothing_is_shown_plainly():
    own = Measured({"colour": "red", "score": 0.25, "deep": {"er": 3}, "seqlen": 512}, "own", [])
    declared = Measured({"kl": 0.5}, "x", [], [Measure("kl", 0.5, "nats", "smaller")])
    perplexity = Measured(
        {"dense": 1.0, "pruned": 2.0}, "w", [], [Measure("pruned", 2.0, "", "smaller"), Measure("each", 1)]
    )
    found = evaluated({"own": own, "divergence": declared, "perplexity": perplexity})
    assert [(measure.name, measure.value, measure.unit, measure.better) for measure in found] == [
        ("evaluation.own.score", 0.25, "", None),
        ("evaluation.own.deep.er", 3, "", None),
        ("evaluation.divergence.kl", 0.5, "nats", "smaller"),
        ("perplexity.pruned", 2.0, "", "smaller"),
        ("evaluation.perplexity.each", 1, "", None),
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, True, "1"])
def test_a_measure_is_a_finite_number(value):
    with pytest.raises(ValueError, match="expected a finite number"):
        Measure("x", value)


def test_a_direction_is_smaller_or_larger():
    with pytest.raises(ValueError, match="expected 'smaller', 'larger' or None"):
        Measure("x", 1.0, better="higher")


@pytest.mark.parametrize(
    "value,unit,digits,words",
    [
        (0.25, "fraction", 2, "25.00%"), (0.5, "change", 1, "+50.0%"), (-0.5, "change", 1, "-50.0%"), (3, "bytes", 2, "3 B"),
        (1536, "bytes", 2, "1.50 KiB"), (1.5 * 2**30, "bytes", 2, "1.50 GiB"), (12.34, "s", 1, "12.3 s"), (90624, "", 0, "90,624"),
        (0.5, "nats", 4, "0.5000 nats"), (1023.9, "bytes", 2, "1024 B"),
    ],
)  # fmt: skip
def test_a_number_as_a_person_reads_it(value, unit, digits, words):
    assert said(value, unit, digits) == words


def test_a_rise_that_is_no_number_is_unknown():
    result = Result.from_json({"perplexity": {"dense": 1e-300, "pruned": 1e300}})
    assert result.measure("rise") is None
    assert result.measure("perplexity.pruned").value == 1e300


def test_one_number_of_both_models():
    dense, pruned = both("quiz.acc", 0.75, 0.5, "fraction", "larger", errors={"pruned": 0.01})
    assert (dense.name, dense.folded, dense.error) == ("dense.quiz.acc", True, None)
    assert (pruned.name, pruned.folded, pruned.told()) == ("pruned.quiz.acc", False, "50.00% ± 1.00%")
    assert [measure.name for measure in both("acc", None, 0.5)] == ["pruned.acc"]


# --- a run ------------------------------------------------------------------------------------------------------------


def test_every_measure_of_a_run_stands_where_its_name_says(saved):
    """What `objective` may name resolves to the same number."""
    result = saved.result
    assert len(result["measures"]) > 10
    for measure in result["measures"]:
        at = result
        for part in measure["name"].split("."):
            at = at[part]
        assert at == measure["value"]
        assert {"name", "value", "unit", "better"} <= {*measure}


@pytest.mark.usefixtures("work")
def test_all_evaluators_declare_what_they_measure():
    found = run(*MEASURED, "evaluation=[perplexity,divergence,cost,generation]", "evaluation.generation.prompts=[a model]",
                "evaluation.generation.max_new_tokens=2", "evaluation.cost.seqlen=8", "evaluation.cost.repeats=1",
                "method=magnitude")  # fmt: skip
    told = {measure["name"]: (measure["unit"], measure["better"]) for measure in found.result["measures"]}
    assert told["perplexity.pruned"] == ("", "smaller")
    assert told["evaluation.divergence.kl"] == ("nats", "smaller")
    assert told["evaluation.divergence.agreement"] == ("fraction", "larger")
    assert told["evaluation.generation.common_tokens"] == ("tokens", "larger")
    assert told["evaluation.cost.pruned.bytes_packed"] == ("bytes", "smaller")
    assert told["evaluation.cost.dense.tokens_per_second"] == ("tokens/s", "larger")
    assert told["evaluation.cost.pruned.parameters"] == ("", None)
    assert "evaluation.cost.seqlen" not in told


@pytest.mark.usefixtures("work")
def test_an_evaluation_that_was_finished_before_an_interruption_keeps_its_measures(monkeypatch):
    words = (*MEASURED, "evaluation=[perplexity,divergence]", "method=wanda")
    whole = run(*words, into="whole").result
    finish = Recorder.finish

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "finish", interrupted)
    assert command(*SMALL, *words, "rerun=true", "hydra.run.dir=run").status == 130
    monkeypatch.setattr(Recorder, "finish", finish)
    monkeypatch.setattr(Divergence, "compare", interrupted)  # it is not asked again
    Path("whole/result.json").unlink()
    again = run(*words).result

    def declared(result: dict) -> list[dict]:
        return [one for one in result["measures"] if one["name"].startswith(("perplexity", "evaluation"))]

    assert declared(again) == declared(whole)
    assert len(declared(again)) == 4


# --- older and newer folders ------------------------------------------------------------------------------------------


def test_a_newer_schema_is_refused_by_name_with_what_to_do(tmp_path):
    folder = finished(tmp_path / "new", schema=3)
    with pytest.raises(UserError, match=r"new/result\.json has schema 3.*up to 2.*Update sparsity-lab"):
        read(folder)
    finished(tmp_path / "old")
    runs, [problem] = read_runs([tmp_path])
    assert len(runs) == 1
    assert "has schema 3" in problem.what


@pytest.mark.usefixtures("work")
def test_a_newer_result_of_the_same_run_is_not_shown():
    folder = run(UNMEASURED).folder
    content = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(content | {"schema": 99}))
    ended = command(*SMALL, UNMEASURED, "hydra.run.dir=run")
    assert ended.status == 1
    assert "has schema 99" in ended.err


def test_an_older_folder_has_what_came_later_by_its_default(tmp_path):
    folder = finished(tmp_path / "old", choices={"method": "wanda"}, composition={"method": "Wanda(scope='row')"})
    result = read(folder)
    assert result.choices == {
        "method": "wanda", "reference": "none", "allocation": "uniform", "refine": "none", "recover": "none", "tfidf": "doc",
    }  # fmt: skip
    assert result.composition["recover"] == "NoRecovery()"
    assert result.version == 2
    assert result.measure("layers.relative_error_mean").value == 0.1
    said = read(finished(tmp_path / "other", words=["tfidf=topic"], choices={"refine": "block"}))
    assert said.choices["refine"] == "block"
    assert "tfidf" not in said.choices  # what was typed is read from there
    assert "tfidf" not in read(finished(tmp_path / "third", words=["experiment=x"])).choices


def test_old_and_new_seeds_of_the_same_options_are_one_composition(tmp_path):
    old = {"method": "wanda", "corrector": "none", "pattern": "unstructured"}
    new = old | {"allocation": "uniform", "refine": "none", "recover": "none", "reference": "none", "tfidf": "doc"}
    text = {"num_sequences": 16}
    later = {"calibration": text | {"held_out": 0, "written": 0, "prompt": 16, "seed": 1}, "journal": True,
             "scope": {"roles": ["mlp"], "lm_head": False}, "allocation": {"_target_": "x.Uniform"}}  # fmt: skip
    finished(tmp_path / "old", 70.0, seed=0, choices=old, config={"scope": {"roles": ["mlp"]}})
    finished(tmp_path / "new", 71.0, seed=1, choices=new, config=later, schema=2, measures=[
        Measure("perplexity.pruned", 71.0, "", "smaller").to_json()
    ])  # fmt: skip
    finished(tmp_path / "other", 50.0, seed=1, choices=new | {"recover": "distill"}, config=later, schema=2,
             measures=[])  # fmt: skip
    finished(tmp_path / "more", 60.0, seed=1, choices=new, schema=2, measures=[],
             config=later | {"calibration": later["calibration"] | {"held_out": 4}})  # fmt: skip
    [group] = gathered(tmp_path)
    assert {frozenset(one.seeds) for one in group.compositions} == {frozenset({"0", "1"}), frozenset({"1"})}
    assert len(group.compositions) == 3


@pytest.mark.parametrize(
    "name,unit,better,heading",
    [
        ("evaluation.lm_eval.pruned.quiz.acc", "fraction", "larger", "quiz acc"),
        ("evaluation.lm_eval.pruned.quiz.exact_match,strict", "fraction", "larger", "quiz exact match,strict"),
        ("evaluation.lm_eval.pruned.text.word_perplexity", "", "smaller", "text word perplexity"),
        ("evaluation.lm_eval.pruned.quiz.accidents", "", None, "quiz accidents"),
        ("evaluation.cost.pruned.bytes", "bytes", "smaller", "bytes"),
        ("evaluation.cost.pruned.tokens_per_second", "tokens/s", "larger", "tokens per second"),
        ("evaluation.divergence.kl", "nats", "smaller", "divergence kl"),
        ("evaluation.divergence.agreement", "fraction", "larger", "divergence agreement"),
        ("evaluation.generation.common_tokens", "tokens", "larger", "generation common tokens"),
        ("evaluation.mine.score", "", None, "mine score"),
    ],
)
def test_the_measures_of_an_older_folder(tmp_path, name, unit, better, heading):
    metrics = {
        "acc": 0.5,
        "acc_stderr": 0.1,
        "exact_match,strict": 0.5,
        "exact_match_stderr,strict": 0.2,
        "accidents": 3,
    }
    tasks = {"quiz": metrics, "text": {"word_perplexity": 9.0}}
    evaluation = {
        "lm_eval": {"dense": tasks, "pruned": tasks, "limit": 9, "tasks": {"quiz": {"version": 1.0}}},
        "cost": {"pruned": {"bytes": 1, "tokens_per_second": 3.0}, "seqlen": 8},
        "divergence": {"kl": 0.1, "agreement": 0.9, "windows": 24},
        "generation": {"prompts": 3, "common_tokens": 4.0},
        "mine": {"score": 7},
    }
    result = read(finished(tmp_path, evaluation=evaluation))
    measure = result.measure(name)
    assert (measure.unit, measure.better, measure.title) == (unit, better, heading)
    assert result.measure("evaluation.lm_eval.pruned.quiz.acc").error == 0.1
    assert result.measure("evaluation.lm_eval.pruned.quiz.exact_match,strict").error == 0.2
    assert not any("stderr" in one.name or "limit" in one.name or "tasks" in one.name for one in result.measures)


def test_a_result_that_is_none_says_so(tmp_path):
    folder = finished(tmp_path, schema=2, measures=[{"name": "x"}])
    with pytest.raises(UserError, match=r"result\.json is no result"):
        read(folder)
    _, [problem] = read_runs([tmp_path])
    assert "is no result" in problem.what


def test_a_report_loads_no_torch(tmp_path):
    finished(tmp_path)
    words = (
        f"import sys; from sparsity.report.build import main; main([{str(tmp_path)!r}]); print('torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "False"
    build([tmp_path], tmp_path)
    assert Path(tmp_path / "report.html").exists()
