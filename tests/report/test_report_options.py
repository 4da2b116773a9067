"""Which options distinguish runs: found by themselves, each said once."""

from __future__ import annotations

from reports import METHODS, TFIDF, finished, gathered


def names(folder):
    [group] = gathered(folder)
    return group.names


def test_what_is_the_same_everywhere_is_no_column(tmp_path):
    finished(tmp_path / "a")
    finished(tmp_path / "b", method="magnitude")
    assert names(tmp_path) == ["method"]  # and neither its _target_ nor its scope, which follow from it


def test_an_option_given_by_itself_is_a_column(tmp_path):
    finished(tmp_path / "a")
    own = {"method": METHODS["wanda"] | {"scope": "layer"}}
    finished(tmp_path / "b", words=["method.scope=layer"], config=own)
    assert names(tmp_path) == ["method.scope"]


def test_copies_of_an_option_are_one_column(tmp_path):
    for seed, sparsity in ((0, 0.5), (1, 0.6)):
        finished(tmp_path / str(seed), seed=seed, sparsity=sparsity, method="hybrid")
    [group] = gathered(tmp_path)
    assert group.names == ["pattern.sparsity", "calibration.seed"]
    assert group.labels == ["sparsity 0.5 · seed 0", "sparsity 0.6 · seed 1"]


def test_equal_values_of_options_with_other_names_are_no_copies(tmp_path):
    for i in (1, 2):
        finished(
            tmp_path / str(i), config={"scope": {"last_blocks": i}, "calibration": {"seed": 0, "num_sequences": i}}
        )
    assert names(tmp_path) == ["calibration.num_sequences", "scope.last_blocks"]


def test_a_pattern_that_reads_no_sparsity_has_none(tmp_path):
    finished(tmp_path / "a", sparsity=0.5)
    of = {"pattern": {"_target_": "sparsity.patterns.NofM", "n": 2, "m": 4}}
    choices = {"method": "wanda", "corrector": "none", "pattern": "2of4"}
    finished(tmp_path / "b", sparsity=0.7, config=of, choices=choices, words=["pattern=2of4"])
    [group] = gathered(tmp_path)
    assert group.options[1].get("pattern.sparsity") is None
    assert "0.7" not in group.labels[1]


def test_a_group_that_the_method_does_not_read_says_nothing(tmp_path):
    topic = TFIDF | {"num_topics": 64}
    finished(tmp_path / "a", words=["tfidf=doc"])
    finished(tmp_path / "b", words=["tfidf=topic"], config={"tfidf": topic})
    assert names(tmp_path) == []
    finished(tmp_path / "c", method="hybrid", words=["tfidf=doc"])
    read = METHODS["hybrid"] | {"routes": {"mlp": {"_target_": "x.NeuronRank", "tfidf": topic}}}
    finished(tmp_path / "d", method="hybrid", words=["tfidf=topic"], config={"tfidf": topic, "method": read})
    [group] = gathered(tmp_path)
    assert group.names == ["method", "tfidf"]
    assert [composition.label for composition in group.compositions] == ["wanda", "hybrid · doc", "hybrid · topic"]


def test_where_files_lie_and_who_watches_is_no_option(tmp_path):
    finished(tmp_path / "a")
    finished(tmp_path / "b", config={"name": "x", "save": True, "tracker": {"_target_": "t"}, "device": "cpu"})
    assert names(tmp_path) == []


def test_a_route_that_its_method_brings_along_is_not_said_but_another_is(tmp_path):
    finished(tmp_path / "a")
    finished(tmp_path / "b", method="hybrid")
    nested = {"method@method.routes.mlp": "neuronrank_old"}
    changed = {"method": "hybrid", "corrector": "none", "pattern": "unstructured", **nested}
    finished(tmp_path / "c", method="hybrid", words=["method@method.routes.mlp=neuronrank_old"], choices=changed)
    [group] = gathered(tmp_path)
    assert group.labels == ["wanda", "hybrid", "hybrid · mlp neuronrank_old"]


def test_usual_values_are_said_once(tmp_path):
    for i, value in enumerate(["pruned", "pruned", "dense"]):
        finished(tmp_path / str(i), config={"calibration": {"propagate": value, "seed": i}}, seed=i)
    [group] = gathered(tmp_path)
    assert group.usual == {"calibration.propagate": "pruned"}
    assert group.labels == ["seed 0", "seed 1", "propagate dense · seed 2"]


def test_runs_that_differ_in_nothing_still_have_names_of_their_own(tmp_path):
    for folder in "ab":
        finished(tmp_path / folder)
    [group] = gathered(tmp_path)
    assert len(set(group.labels)) == 2
    [composition] = group.compositions
    assert composition.repeats == 1
    assert list(composition.seeds) == ["0"]


def test_without_a_configuration_the_command_line_speaks(tmp_path):
    for method in ("wanda", "magnitude"):
        (finished(tmp_path / method, method=method) / "config.yaml").unlink()
    assert names(tmp_path) == ["method"]
