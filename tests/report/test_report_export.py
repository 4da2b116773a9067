"""Markdown and CSV: seeds of one composition make a row, columns that say nothing are left out; the CSV leaves nothing out."""

from __future__ import annotations

import csv
import io

from reports import METHODS, TFIDF, finished, gathered

from sparsity.report.export import markdown, table_csv
from sparsity.report.read import Problem


def cells(markdown: str, table: int = 0) -> list[list[str]]:
    tables = [part for part in markdown.split("\n\n") if part.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in tables[table].splitlines()]


def rows(csv_text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(csv_text)))


def test_the_seeds_of_a_composition_make_one_row(tmp_path):
    for seed, perplexity in ((2, 73.0), (0, 71.0), (1, 72.0)):
        finished(tmp_path / f"w{seed}", perplexity, seed=seed)
    finished(tmp_path / "m", 60.0, method="magnitude", seed=0)
    head, _, magnitude, wanda = cells(markdown(gathered(tmp_path), []))
    assert head[:3] == ["", "seeds", "perplexity"]
    assert wanda[:3] == ["`method=wanda`", "0, 1, 2", "72.00 ± 1.00 (71.00, 72.00, 73.00)"]
    assert magnitude[:3] == ["`method=magnitude`", "0", "60.00"]


def test_what_is_the_same_in_every_row_is_left_out(tmp_path):
    finished(tmp_path / "a", 70.0)
    folder = finished(tmp_path / "b", 60.0, method="magnitude")
    assert cells(markdown(gathered(tmp_path), []))[0] == ["", "perplexity"]
    finished(folder, 60.0, method="magnitude", layers={"error_before_mean": None, "relative_error_mean": None})
    assert cells(markdown(gathered(tmp_path), []))[0] == ["", "perplexity", "error before", "relative error"]


def test_an_option_that_the_method_does_not_read_makes_no_row(tmp_path):
    finished(tmp_path / "a", 70.0, words=["tfidf=doc"])
    for option, topics in (("doc", None), ("topic", 64)):
        tfidf = TFIDF | {"num_topics": topics}
        method = METHODS["hybrid"] | {"routes": {"mlp": {"_target_": "x.NeuronRank", "tfidf": tfidf}}}
        config = {"tfidf": tfidf, "method": method}
        finished(tmp_path / option, 80.0, method="hybrid", words=[f"tfidf={option}"], config=config)
    found = cells(markdown(gathered(tmp_path), []))[2:]
    assert [row[0] for row in found] == ["`method=wanda`", "`method=hybrid tfidf=doc`", "`method=hybrid tfidf=topic`"]


def test_the_layers_errors_by_their_last_name(tmp_path):
    for seed in (0, 1):
        folder = finished(tmp_path / str(seed), seed=seed)
        lines = [f"{b},m.{b}.{leaf},{b + seed + (leaf == 'up')}" for b in (0, 1) for leaf in ("up", "down")]
        (folder / "layers.csv").write_text("\n".join(["block,name,relative_error", *lines, "2,m.2.other,", ""]))
    other = finished(tmp_path / "other", method="magnitude")
    (other / "layers.csv").write_text("block,name,relative_error\n0,m.0.up,3\n")
    head, _, *found = cells(markdown(gathered(tmp_path), []), 1)
    assert head == ["", "up", "down"]
    assert sorted(found) == [["`method=magnitude`", "3.0000", ""], ["`method=wanda`", "2.0000", "1.0000"]]


def test_protocols_have_tables_of_their_own_and_what_could_not_be_read_is_said(tmp_path):
    finished(tmp_path / "a", 70.0)
    finished(tmp_path / "b", 60.0, evaluation={"perplexity": {"seqlen": 64, "windows": 24}})
    text = markdown(gathered(tmp_path), [Problem("x/3", "unfinished")])
    assert "**Protocol A** (window length 512 tokens)" in text
    assert "**Protocol B** (window length 64 tokens)" in text
    assert cells(text, 0)[2][1] == "70.00"
    assert "- x/3: unfinished" in text


def test_earlier_runs_of_a_seed_do_not_count_and_that_is_said(tmp_path):
    for folder in "ab":
        finished(tmp_path / folder, 70.0)
    text = markdown(gathered(tmp_path), [])
    assert "1 earlier run with the same seed and options is not counted" in text


def test_other_evaluations_have_columns(tmp_path):
    for method, acc in (("wanda", 0.5), ("magnitude", 0.25)):
        evaluation = {
            "perplexity": {"seqlen": 512, "windows": 24},
            "lm_eval": {
                "dense": {"quiz": {"acc": 0.75}},
                "pruned": {"quiz": {"acc": acc, "acc_stderr": 0.01}},
                "limit": 9,
            },
            "divergence": {"kl": acc / 10, "agreement": 0.9, "windows": 24},
        }
        finished(tmp_path / method, method=method, evaluation=evaluation)
    groups = gathered(tmp_path)
    head, _, *found = cells(markdown(groups, []))
    assert head[2:] == ["quiz acc", "divergence kl"]
    assert [row[2:] for row in found] == [["25.00%", "0.0250 nats"], ["50.00%", "0.0500 nats"]]
    names = [measure.name for measure in groups[0].measures]
    assert "evaluation.lm_eval.dense.quiz.acc" in names
    assert not any("limit" in name or "windows" in name for name in names)


def test_the_csv_has_every_run_and_every_number(tmp_path):
    finished(tmp_path / "a", 70.5)
    finished(tmp_path / "b", 60.0, method="magnitude", evaluation={"perplexity": {"seqlen": 64, "windows": 24}})
    first, second = rows(table_csv(gathered(tmp_path)))
    assert (first["method"], first["perplexity.pruned"], first["protocol"]) == ("wanda", "70.5", "A")
    assert (second["method"], second["window length"], second["protocol"]) == ("magnitude", "64 tokens", "B")
    assert first["seconds.calibrate"] == "30.4"
    assert first["command"].startswith("python run.py method=wanda")


def test_a_bar_in_a_name_does_not_break_the_table(tmp_path):
    for i, name in enumerate(("a|b", "c")):
        finished(tmp_path / str(i), words=[f"method.own={name}"], config={"method": METHODS["wanda"] | {"own": name}})
    assert "`method.own=a\\|b`" in markdown(gathered(tmp_path), [])
