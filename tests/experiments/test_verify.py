"""`make verify` on the small model: it passes, and it can fail."""

from __future__ import annotations

import pytest

from experiments import verify

TINY = ["model=tiny", "calibration.num_sequences=3", "calibration.seqlen=64"]


def test_wanda_is_wanda_however_one_arrives_there(capsys):
    assert verify.main(TINY) == 0
    assert "9 of 9 identical to wanda" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["pattern=2of4"], ["calibration.propagate=dense"], ["dtype=bfloat16"]])
def test_other_patterns_propagations_and_dtypes(words):
    assert verify.main([*TINY, *words]) == 0


def test_a_difference_is_found(monkeypatch, capsys):
    """One norm that is off by a factor of two at one input."""
    score = verify.WandaByGram.score

    def off(self, layer, stats):
        score_OI = score(self, layer, stats)
        score_OI[:, 0] *= 2
        return score_OI

    monkeypatch.setattr(verify.WandaByGram, "score", off)
    assert verify.main(TINY) == 1
    assert capsys.readouterr().out.count("DIFFERENT masks and weights") == 2
