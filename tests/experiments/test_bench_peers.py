"""`make bench-peers` without its peer: the arithmetic of its tables, and that both sides are asked for the same work."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from commands import MEASURED, SMALL
from safetensors.torch import load_file, save_file

from experiments.bench import peers, profiling, pruner
from experiments.bench.peers import Pair, Run

WORDS = [*SMALL, *MEASURED]


def cells(table: str, *starts: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {' | '.join(starts)} |")]
    return [cell.strip() for cell in line.split("|")[1 + len(starts) : -1]]


def test_a_table_has_medians_of_what_was_measured_and_of_ratios_within_a_repeat():
    def runs(side: str, propagate: str, *seconds: float) -> list[Run]:
        return [Run(side, "wanda", propagate, 0.5, s, 2 * s, 300, 600 + s) for s in seconds]

    mine = [*runs("ours", "pruned", 10, 40, 20), *runs("ours", "dense", 8), *runs("streamed", "dense", 4)]
    theirs = [*runs("llm-compressor", "pruned", 41, 39, 40), *runs("llm-compressor", "dense", 16)]
    table = peers.table([*mine, *theirs])
    whole, by_block, peer, *ratios = cells(table, "wanda", "pruned", "wall, s")
    assert (whole, by_block, peer) == ("20.0 (10.0 to 40.0)", "", "40.0 (39.0 to 41.0)")
    assert ratios == ["0.50 (0.24 to 1.03)", "0.50 (0.24 to 1.03)", ""]
    whole, by_block, peer, *ratios = cells(table, "wanda", "dense", "wall, s")
    assert (whole, by_block, peer) == ("8.0 (8.0 to 8.0)", "4.0 (4.0 to 4.0)", "16.0 (16.0 to 16.0)")
    # of the first repeat, the only one that both have run
    assert [ratio.split()[0] for ratio in ratios] == ["0.50", "0.20", "0.10"]
    assert cells(table, "wanda", "dense", "peak, MiB")[3].split()[0] == f"{608 / 616:.2f}"
    assert cells(peers.table(mine), "wanda", "pruned", "wall, s")[2:] == ["", "", "", ""]


def test_a_slow_machine_is_in_both_sides_of_a_ratio():
    slow = (1, 3, 1)
    runs = [
        Run(side, "wanda", "pruned", s, x * m, 1, 1, 1)
        for m in slow
        for s in (0.5, 0.6)
        for side, x in (("ours", 2), ("llm-compressor", 4))
    ]
    assert cells(peers.table(runs), "wanda", "pruned", "wall, s")[3] == "0.50 (0.50 to 0.50)"


def test_agreement_is_the_share_of_equal_mask_entries():
    ours = {"a": torch.tensor([1.0, 0, 2, 0]), "b": torch.tensor([0.0, 5])}
    theirs = {"a": torch.tensor([3.0, 0, 0, -0.0]), "b": torch.tensor([0.0, 5])}
    assert peers.agreement(ours, theirs) == {"a": 0.75, "b": 1}
    with pytest.raises(ValueError, match=r"\['b'\] were pruned by one side only"):
        peers.agreement(ours, {"a": theirs["a"]})


def test_what_was_kept_is_read_again(tmp_path):
    run, pair = Run("ours", "wanda", "dense", 0.5, 1, 2, 3, 4), Pair("wanda", "dense", 0.5, 1, 1, [0.5, 0.5], [9, 9])
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row._asdict()) + "\n" for row in (run, pair, run)))
    assert peers.kept(file) == ([run, run], [pair])
    assert peers.kept(None) == peers.kept(tmp_path / "none") == ([], [])


@pytest.mark.usefixtures("work")
def test_a_peer_that_is_ours_does_the_same_work(monkeypatch, capsys, tmp_path):
    """The whole bench, with this project on both sides, in this process."""
    order = []

    def here(python: str, asked: pruner.Asked) -> pruner.Taken:
        order.append((python, asked["side"], asked["method"]))
        ready = pruner.ours(asked, load_file(asked["ids"])["ids"], stream=asked["side"] == "streamed")
        ready.work()
        save_file(ready.weights(), asked["weights"])
        return {"seconds": 1.0, "cpu": 1.0, "loaded": 1, "peak": 2, "threads": torch.get_num_threads()}

    monkeypatch.setattr(peers, "pruned", here)
    options = ("--python", "other", "--sparsities", "0.5", "--propagate", "dense", "--repeats", "2")
    monkeypatch.setattr(sys, "argv", ["peers", *WORDS, *options])
    peers.main()
    sides = [(sys.executable, "ours"), (sys.executable, "streamed"), ("other", "llm-compressor")]
    assert order[:3] == [(*side, "wanda") for side in sides]
    assert order[6:9] == order[2::-1]  # the second time in the other order
    said = capsys.readouterr().out
    for method in ("wanda", "sparsegpt"):
        assert cells(said, method, "dense", "wall, s")[3:] == ["1.00 (1.00 to 1.00)", "", ""]
        agreeing, found, perplexity = cells(said, method, "dense", "50%")
        assert agreeing == "100.0000% (100.0000%)"
        assert all(len(set(both.split(" / "))) == 1 for both in (found, perplexity))


def test_weights_that_streaming_changed_are_no_figure():
    whole = {"a": torch.tensor([1.0, 0]), "b": torch.ones(2)}
    peers.check_equal(whole, {name: weight.clone() for name, weight in whole.items()})
    with pytest.raises(ValueError, match="streaming changed 1 layers: a"):
        peers.check_equal(whole, whole | {"a": torch.tensor([1.0, 1e-9])})


@pytest.mark.slow
@pytest.mark.usefixtures("work")
def test_a_process_says_what_it_took(tmp_path):
    given = peers.protocol(WORDS)
    bench = peers.Bench(given, tmp_path, "none")
    for side in ("ours", "streamed"):
        run = bench.run(side, "wanda", "pruned", 0.5)
        assert 0 < run.seconds < 60
        assert 0 < run.loaded <= run.peak
    left, streamed = (load_file(tmp_path / f"{side}.safetensors") for side in ("ours", "streamed"))
    assert all(torch.equal(weight, streamed[name]) for name, weight in left.items())
    assert left.keys() == {site.name for site in bench.decoder.sites}
    assert {round((weight == 0).double().mean().item(), 2) for weight in left.values()} == {0.5}


@pytest.mark.usefixtures("work")
def test_a_profile_has_a_line_for_each(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["profile", *WORDS, "--repeats", "1", "--profiled", "1"])
    profiling.main()
    said = capsys.readouterr().out
    assert said.count("efficiency") == said.count("observing") == len(profiling.METHODS) * len(profiling.WALKS)
    assert "aten::mm" in said


def test_the_grams_of_a_block_are_counted_once():
    from sparsity.core import Folded, Site, Stats, Tap
    from sparsity.statistics import Gram, GramState

    shared = Folded(GramState(torch.empty(3, 3), 10))
    sites = [Site(0, name, "mlp") for name in "ab"]
    assert profiling.gram_operations({site: Stats(site, {Tap(Gram()): shared}) for site in sites}) == 2 * 10 * 9


def test_efficiency_is_of_bare_passes_and_grams():
    assert profiling.Walk(walked=12, bare=8, operations=200).efficiency(rate=100) == 1.2
