"""Python's own documentation as text: nothing left out, and nothing of the evaluation in the calibration."""

from __future__ import annotations

import re

from sparsity.datasets import PyDocs
from sparsity.datasets.pydocs import evaluates


def squeezed(text: str) -> str:
    return " ".join(text.split())


def test_no_paragraph_of_the_evaluation_is_in_the_calibration() -> None:
    calibration, evaluation = PyDocs().calibration_text(), PyDocs().evaluation_text()
    calibrated = {squeezed(p) for p in calibration.split("\n\n")}
    evaluated = [squeezed(p) for p in evaluation.split("\n\n")]
    assert not calibrated.intersection(evaluated)
    assert len(set(evaluated)) == len(evaluated)
    assert len(calibration) > 200_000
    assert len(evaluation) > 60_000


def test_the_parts_of_pydocs_share_almost_no_wording() -> None:
    width = 50
    texts = (PyDocs().calibration_text(), PyDocs().evaluation_text())
    calibration, evaluation = (
        squeezed(re.sub(r"[-=+|]{2,}", " ", text)) for text in texts
    )  # the rules of tables are no wording
    known = {calibration[i : i + width] for i in range(len(calibration) - width + 1)}
    grams = [evaluation[i : i + width] for i in range(len(evaluation) - width + 1)]
    assert sum(gram in known for gram in grams) < 0.005 * len(grams)


def test_pydocs_leaves_nothing_out() -> None:
    from pydoc_data.topics import topics

    def words(texts: list[str]) -> set[str]:
        return {word for text in texts for word in text.split()}

    calibration, evaluation = PyDocs().calibration_text(), PyDocs().evaluation_text()
    assert words([calibration, evaluation]) == words(list(topics.values()))
    assert words([calibration]) >= words([text for topic, text in topics.items() if not evaluates(topic)])
