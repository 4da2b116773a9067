"""One run, end to end, as a person starts it: `python run.py ...`, its folder, its figures and its checkpoint.

`command` is that in this process, without the seconds that importing torch takes. The figures are computed again here from the
saved checkpoint alone, in plain words.
"""

import contextlib
import csv
import hashlib
import io
import json
import logging
import math
import os
import random
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from sparsity.core import UserError
from sparsity.evaluation import Perplexity
from sparsity.models import Decoder, Tiny
from sparsity.stream import BlockStream

ROOT = Path(__file__).parent.parent
L = 32  # tokens in a window
SMALL = (
    "model=tiny", "dataset=text", "dataset.calibration=calibration.txt", "dataset.evaluation=evaluation.txt",
    "calibration.num_sequences=4", f"calibration.seqlen={L}",
)  # fmt: skip
MEASURED = (f"evaluation.perplexity.seqlen={L}", "evaluation.perplexity.windows=6")
UNMEASURED = "evaluation=[]"
WORDS = (
    "a",
    "model",
    "prunes",
    "weights",
    "of",
    "its",
    "layers",
    "with",
    "care",
    "and",
    "few",
    "are",
    "kept",
    "quickly",
)


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str


def command(*arguments: str) -> Ended:
    """`python run.py ARGUMENTS` in this process. A defect is raised as it is."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    logger = logging.getLogger()
    before, level = logger.handlers[:], logger.level  # Hydra puts its own in their place
    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["run.py", *arguments])
        patch.setenv("HYDRA_FULL_ERROR", "1")
        try:
            runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            GlobalHydra.instance().clear()
            logger.handlers[:] = before
            logger.setLevel(level)
    return Ended(status, out.getvalue(), err.getvalue())


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python run.py ARGUMENTS` in a process of its own."""
    line = (sys.executable, str(ROOT / "run.py"), *arguments)
    return subprocess.run(line, capture_output=True, text=True, env={**os.environ, **environment}, timeout=600)


@contextlib.contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """An empty folder to work in, with two texts and a cache of its own."""
    draw = random.Random(0)
    for name in ("calibration.txt", "evaluation.txt"):
        (folder / name).write_text(" ".join(draw.choices(WORDS, k=200)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SPARSITY_CACHE", str(folder / "cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield folder


@pytest.fixture(autouse=True)
def work(tmp_path: Path) -> Iterator[Path]:
    with workplace(tmp_path) as folder:
        yield folder


@dataclass(frozen=True)
class Run:
    folder: Path

    @property
    def result(self) -> dict:
        return json.loads((self.folder / "result.json").read_text())

    @property
    def layers(self) -> list[dict]:
        return self.table("layers")

    @property
    def windows(self) -> list[dict]:
        return self.table("windows")

    def table(self, name: str) -> list[dict]:
        with (self.folder / f"{name}.csv").open() as file:
            return list(csv.DictReader(file))

    @property
    def checkpoint(self) -> Path:
        return self.folder / "model"

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """What the checkpoint's file holds, by name."""
        with safe_open(self.checkpoint / "model.safetensors", framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)

    @property
    def pruned(self) -> dict[str, torch.Tensor]:
        """The weights of the pruned layers, in the order of layers.csv."""
        return {row["name"]: self.weights[f"{row['name']}.weight"] for row in self.layers}


def run(*arguments: str, into: str = "run") -> Run:
    ended = command(*SMALL, f"hydra.run.dir={into}", *arguments)
    assert ended.status == 0, ended.err
    return Run(Path(into).absolute())


def dense(**options) -> torch.nn.Module:
    """The model that `model=tiny` prunes."""
    return (
        Tiny(**{"seed": 0, "hidden_size": 64, "num_blocks": 2, "tie_word_embeddings": True, **options}).load(None).model
    )


def zeros(weights: dict[str, torch.Tensor]) -> float:
    """The fraction of zeros among all weights."""
    return sum(int((w == 0).sum()) for w in weights.values()) / sum(w.numel() for w in weights.values())


def hash_of(keeps) -> str:
    """result.json's mask_sha256: the bits of every keep mask, layer after layer."""
    digest = hashlib.sha256()
    for keep_OI in keeps:
        digest.update(np.packbits(keep_OI.numpy()).tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One whole run with a checkpoint, that many tests look at."""
    with workplace(tmp_path_factory.mktemp("saved")):
        return run(*MEASURED, "method=wanda", "save=true")


# --- the files --------------------------------------------------------------------------------------------------------


def test_the_folder_holds_the_runs_files_and_nothing_else(saved):
    assert {path.name for path in saved.folder.iterdir()} == {
        "config.yaml", "environment.json", "layers.csv", "windows.csv", "result.json", "model",
    }  # fmt: skip


def test_result_is_complete(saved):
    result = saved.result
    assert result["schema"] == 1
    assert len(result["run_key"]) == 16
    assert len(result["mask_sha256"]) == 64
    assert set(result["perplexity"]) == {"dense", "pruned"}
    assert {"asked", "found"} <= set(result["sparsity"])
    assert set(result["seconds"]) == {"load", "calibrate", "prune", "evaluate"}
    numbers = [*result["perplexity"].values(), *result["sparsity"].values(), *result["seconds"].values()]
    assert all(isinstance(n, int | float) and math.isfinite(n) and n >= 0 for n in numbers)
    assert result["seconds"]["calibrate"] > 0
    assert result["seconds"]["prune"] > 0
    assert 2**26 < result["peak_memory_bytes"] < 2**40  # importing torch alone takes more than 64 MiB


def test_configuration_is_the_record(saved):
    """Every option with its value, nothing left to look up: composing the same command gives exactly this."""
    text = (saved.folder / "config.yaml").read_text()
    assert "${" not in text.partition("\n")[2]
    written = yaml.safe_load(text)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("config", overrides=[*SMALL, *MEASURED, "method=wanda", "save=true"])
    assert written == OmegaConf.to_container(composed, resolve=True)
    assert written["pattern"]["sparsity"] == written["sparsity"] == 0.5
    assert "hydra.run.dir=run" in text.partition("\n")[0]


def test_environment_says_where(saved):
    environment = json.loads((saved.folder / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["hardware"]["device"] == "cpu"
    assert environment["hardware"]["memory_bytes"] > 0
    assert {"commit", "python", "platform", "time", "command"} <= set(environment)


def test_layer_table_has_a_row_for_every_layer(saved):
    columns = "block,name,role,method,rows,columns,sparsity_asked,sparsity_found,relative_error,seconds"
    rows = saved.layers
    assert ",".join(rows[0]).startswith(columns)
    sites = Decoder(dense()).sites
    assert [(int(r["block"]), r["name"], r["role"]) for r in rows] == [(s.block, s.name, s.role) for s in sites]
    for row in rows:
        assert (int(row["rows"]), int(row["columns"])) == tuple(saved.pruned[row["name"]].shape)
        assert float(row["sparsity_found"]) == zeros({"": saved.pruned[row["name"]]})
        assert float(row["sparsity_asked"]) == 0.5
        assert row["method"] == "wanda"
        assert float(row["seconds"]) > 0


def test_result_is_written_last(saved):
    written = {path: path.stat().st_mtime_ns for path in saved.folder.rglob("*") if path.is_file()}
    assert max(written.values()) == written[saved.folder / "result.json"]


def test_a_failing_checkpoint_leaves_no_checkpoint_and_no_result(monkeypatch):
    def full(self, path, **_):
        Path(path).mkdir()
        (Path(path) / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        run(UNMEASURED, "save=true")
    assert {path.name for path in Path("run").iterdir()} == {"config.yaml", "environment.json", "layers.csv"}


# --- the figures ------------------------------------------------------------------------------------------------------


def plain_nll(model: torch.nn.Module, ids: list[int]) -> list[float]:
    """Mean NLL of window i = ids[i L : (i+1) L], each of its tokens but the first predicted from those before it."""
    found = []
    for i in range(len(ids) // L):
        window = ids[i * L : (i + 1) * L]
        with torch.no_grad():
            log_p_TV = model(torch.tensor([window])).logits[0].double().log_softmax(-1)
        found.append(-sum(log_p_TV[t, window[t + 1]].item() for t in range(L - 1)) / (L - 1))
    return found


def test_perplexity_is_what_the_windows_and_the_checkpoint_say(saved):
    tokenizer = AutoTokenizer.from_pretrained(saved.checkpoint)
    ids = tokenizer((saved.folder.parent / "evaluation.txt").read_text())["input_ids"]
    models = {"dense": dense(), "pruned": AutoModelForCausalLM.from_pretrained(saved.checkpoint)}
    assert [int(row["window"]) for row in saved.windows] == list(range(6))
    assert {int(row["tokens"]) for row in saved.windows} == {L - 1}
    for which, model in models.items():
        nll, tokens = ([float(row[column]) for row in saved.windows] for column in (f"nll_{which}", "tokens"))
        assert nll == pytest.approx(plain_nll(model, ids)[:6], rel=1e-5)
        weighted = sum(n * t for n, t in zip(nll, tokens, strict=True)) / sum(tokens)
        assert saved.result["perplexity"][which] == pytest.approx(math.exp(weighted), rel=1e-12)
    assert saved.result["perplexity"]["pruned"] != saved.result["perplexity"]["dense"]


class Stub:
    """Next-token logits (B, T, V) by a rule, from the ids (B, T)."""

    def __init__(self, rule):
        self.logits = rule

    def culprit(self, ids_BT):
        return f"token {ids_BT[0, 0]}"


IDS = torch.randint(50, (10 * L + 7,), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_perplexity_in_its_limits(batch_size):
    """Uniform logits: the vocabulary's size. A model that knows the next token: 1. All whole windows are used."""

    def knows(ids_BT):
        return 1e4 * torch.nn.functional.one_hot(ids_BT.roll(-1, dims=1), 50).float()

    evaluator = Perplexity(seqlen=L, windows=None, batch_size=batch_size)
    uniform = Stub(lambda ids_BT: torch.zeros(*ids_BT.shape, 50))
    measured = evaluator.compare(Stub(knows), IDS, evaluator.reference(uniform, IDS))
    assert measured.summary["dense"] == pytest.approx(50, rel=1e-6)
    assert measured.summary["pruned"] == 1
    assert len(measured.rows) == measured.summary["windows"] == 10
    assert measured.summary["tokens"] == sum(row["tokens"] for row in measured.rows) == 10 * (L - 1)


def test_a_window_that_is_not_finite_is_named():
    def breaks(ids_BT):
        logits_BTV = torch.zeros(*ids_BT.shape, 50)
        logits_BTV[(ids_BT == IDS[4 * L : 5 * L]).all(1)] = torch.nan
        return logits_BTV

    with pytest.raises(
        UserError, match=rf"dense model's NLL on evaluation window 4 is nan.* out of token {IDS[4 * L]}\."
    ):
        Perplexity(seqlen=L, windows=None, batch_size=3).reference(Stub(breaks), IDS)


def test_found_and_hash_are_those_of_the_checkpoint(saved):
    assert saved.result["sparsity"]["found"] == zeros(saved.pruned) == 0.5
    assert saved.result["sparsity"]["asked"] == 0.5
    assert saved.result["mask_sha256"] == hash_of(w != 0 for w in saved.pruned.values())  # no weight was zero before


def local_with_zeros(folder: Path) -> float:
    """A checkpoint with zeros of its own in one layer; the fraction of its prunable weights that they are."""
    loaded = Tiny(seed=0, hidden_size=64, num_blocks=2, tie_word_embeddings=True).load(None)
    decoder = Decoder(loaded.model)
    decoder.layer(decoder.sites[3]).weight_OI[::2] = 0
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return zeros({site.name: decoder.layer(site).weight_OI for site in decoder.sites})


def test_dense_removes_nothing(work):
    share = local_with_zeros(work / "own")
    found = run(*MEASURED, "model=local", "model.path=own", "method=dense")
    perplexity = found.result["perplexity"]
    assert perplexity["pruned"] == perplexity["dense"]
    assert all(row["nll_dense"] == row["nll_pruned"] for row in found.windows)
    assert found.result["sparsity"]["asked"] == 0
    assert found.result["sparsity"]["found"] == share > 0.02
    assert {float(row["sparsity_found"]) for row in found.layers} == {0.0}


def without_seconds(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_the_same_command_twice_is_the_same_to_the_last_bit():
    common = (*MEASURED, "method=sparsegpt", "layer_error=true", "rerun=true")
    a, b, other = run(*common, into="a"), run(*common, into="b"), run(*common, "seed=1", into="c")
    assert a.result["mask_sha256"] == b.result["mask_sha256"]
    assert without_seconds(a.layers) == without_seconds(b.layers)
    assert a.windows == b.windows
    assert a.result["run_key"] == b.result["run_key"]
    assert other.result["mask_sha256"] != a.result["mask_sha256"]
    assert other.result["run_key"] != a.result["run_key"]


def test_nothing_is_measured_without_evaluators():
    found = run(UNMEASURED)
    assert found.result["perplexity"] == {"dense": None, "pruned": None}
    assert not (found.folder / "windows.csv").exists()
    assert found.result["sparsity"]["found"] == 0.5


SCOPES = {
    "roles": (["scope.roles=[mlp]"], lambda site: site.role == "mlp"),
    "last_blocks": (["scope.last_blocks=1"], lambda site: site.block == 1),
    "skip a kind": (["scope.skip=[down_proj]"], lambda site: site.leaf != "down_proj"),
    "skip one": (
        ["scope.skip=[model.layers.0.mlp.up_proj]"],
        lambda site: site.name != "model.layers.0.mlp.up_proj",
    ),
    "all three": (
        ["scope.roles=[attention]", "scope.last_blocks=1", "scope.skip=[q_proj]"],
        lambda site: site.role == "attention" and site.block == 1 and site.leaf != "q_proj",
    ),
}


@pytest.mark.parametrize("scope", SCOPES)
def test_scope_changes_exactly_the_layers_it_names(scope):
    options, chosen = SCOPES[scope]
    found = run(UNMEASURED, "save=true", *options)
    before = dense().state_dict()
    changed = {name for name, after in found.weights.items() if not torch.equal(after, before[name])}
    named = [site.name for site in Decoder(dense()).sites if chosen(site)]
    assert changed == {f"{name}.weight" for name in named}
    assert [row["name"] for row in found.layers] == named
    assert found.result["sparsity"]["layers"] == len(named)


# --- the checkpoint ---------------------------------------------------------------------------------------------------


def test_checkpoint_keeps_what_is_not_pruned(saved):
    """float32 and tied embeddings, tokenizer, chat template and generation settings."""
    before = Tiny(seed=0, hidden_size=64, num_blocks=2, tie_word_embeddings=True).load(None)
    model = AutoModelForCausalLM.from_pretrained(saved.checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(saved.checkpoint)
    assert "lm_head.weight" not in saved.weights
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, before.model.lm_head.weight)
    assert {w.dtype for w in saved.weights.values()} == {model.dtype} == {torch.float32}
    text = "naïve café <|im_end|> → 東京"
    assert tokenizer(text)["input_ids"] == before.tokenizer(text)["input_ids"]
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.chat_template == before.tokenizer.chat_template
    chat = [{"role": "user", "content": "hello"}]
    assert "hello" in tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert GenerationConfig.from_pretrained(saved.checkpoint) == before.model.generation_config


def test_checkpoint_keeps_bfloat16_and_untied_embeddings():
    found = run(UNMEASURED, "dtype=bfloat16", "model.tie_word_embeddings=false", "save=true")
    model = AutoModelForCausalLM.from_pretrained(found.checkpoint)
    before = dense(tie_word_embeddings=False)
    assert {w.dtype for w in found.weights.values()} == {model.dtype} == {torch.bfloat16}
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    assert torch.equal(model.lm_head.weight, before.lm_head.weight.bfloat16())
    assert zeros(found.pruned) == 0.5


def test_model_card_is_the_recipe(saved):
    card = (saved.checkpoint / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "transformers"
    assert "sparsity.methods.Wanda" in card
    assert saved.result["run_key"] in card
    assert saved.result["mask_sha256"] in card
    assert shlex.join(["run.py", *SMALL, "hydra.run.dir=run", *MEASURED, "method=wanda", "save=true"]) in card


@pytest.mark.parametrize(
    "n,m,method,options",
    [(2, 4, "wanda", ["pattern=2of4"]), (1, 4, "sparsegpt", ["pattern=n_of_m", "pattern.n=1", "pattern.m=4"])],
)
def test_every_group_of_the_checkpoint_keeps_n(n, m, method, options):
    found = run(UNMEASURED, f"method={method}", *options, "save=true")
    model = AutoModelForCausalLM.from_pretrained(found.checkpoint)
    for site in Decoder(model).sites:
        weight_OI = model.get_parameter(f"{site.name}.weight")
        assert (weight_OI.unflatten(1, (-1, m)) != 0).sum(-1).eq(n).all(), site.name
    assert found.result["sparsity"]["asked"] == found.result["sparsity"]["found"] == 1 - n / m


def test_groups_with_zeros_of_their_own_keep_at_most_n(work):
    local_with_zeros(work / "own")
    found = run(UNMEASURED, "model=local", "model.path=own", "method=magnitude", "pattern=2of4", "save=true")
    kept = torch.cat([(w.unflatten(1, (-1, 4)) != 0).sum(-1).flatten() for w in found.pruned.values()])
    assert kept.max() == 2
    assert kept.min() == 0


# --- finished, unfinished, repeated -----------------------------------------------------------------------------------


def folders() -> list[Path]:
    return sorted(Path("outputs/runs").iterdir())


def refuse(*_, **__):
    raise AssertionError("this was not to be called")


def test_a_finished_run_is_not_repeated(monkeypatch):
    first = command(*SMALL, *MEASURED)
    with monkeypatch.context() as patch:
        patch.setattr(Tiny, "load", refuse)  # no model, so no forward pass
        again = command(*SMALL, *MEASURED)
    assert again.status == 0, again.err
    assert "finished earlier" in again.out
    assert len(folders()) == 1
    assert folders()[0].name in again.out
    figure = f"{Run(folders()[0]).result['perplexity']['pruned']:.2f}"
    assert figure in first.out
    assert figure in again.out
    assert command(*SMALL, *MEASURED, "rerun=true").status == 0
    assert len(folders()) == 2


def test_what_changes_a_result_changes_the_key(work):
    """Another option, another text of the same name: other runs. Another name, place or unread sparsity: the same."""
    key = run(UNMEASURED, "pattern=2of4", into="a").result["run_key"]
    assert run(UNMEASURED, "pattern=2of4", "sparsity=0.7", "name=other", into="b").result["run_key"] == key
    assert run(UNMEASURED, "pattern=2of4", "calibration.batch_size=2", into="c").result["run_key"] != key
    (work / "calibration.txt").write_text((work / "calibration.txt").read_text() + " more")
    assert run(UNMEASURED, "pattern=2of4", into="d").result["run_key"] != key


def test_an_unfinished_folder_is_done_again():
    whole = run(*MEASURED)
    first = whole.result
    (whole.folder / "result.json").unlink()
    again = run(*MEASURED)
    assert again.result["mask_sha256"] == first["mask_sha256"]
    assert again.result["perplexity"] == first["perplexity"]


def test_a_run_that_broke_in_the_middle_is_done_again(monkeypatch):
    observe = BlockStream.observe

    def breaks(self, block, needs):
        if block.index == 1:
            raise RuntimeError("the power is gone")
        return observe(self, block, needs)

    with monkeypatch.context() as patch:
        patch.setattr(BlockStream, "observe", breaks)
        with pytest.raises(RuntimeError, match="the power is gone"):
            run(*MEASURED)
    broken = Run(Path("run").absolute())
    assert not (broken.folder / "result.json").exists()
    assert [row["block"] for row in broken.layers] == ["0"] * 7  # what was done is on record
    whole = run(*MEASURED)
    assert whole.result["mask_sha256"] == run(*MEASURED, into="elsewhere").result["mask_sha256"]
    assert len(whole.layers) == 14


def test_a_folder_with_another_finished_run_is_kept(monkeypatch):
    before = (run(UNMEASURED, "save=true").folder / "result.json").read_bytes()
    monkeypatch.setattr(Tiny, "load", refuse)
    ended = command(*SMALL, UNMEASURED, "hydra.run.dir=run", "sparsity=0.6")
    assert ended.status == 1
    assert "holds another finished run" in ended.err
    assert "rerun=true" in ended.err
    assert Path("run/result.json").read_bytes() == before


def test_a_replaced_run_leaves_nothing_of_itself():
    run(*MEASURED, "save=true")
    found = run(UNMEASURED, "sparsity=0.6", "rerun=true")
    assert {path.name for path in found.folder.iterdir()} == {
        "config.yaml", "environment.json", "layers.csv", "result.json",
    }  # fmt: skip


def test_a_folder_that_is_no_run_is_not_written_to(work):
    (work / "mine" / "model").mkdir(parents=True)
    (work / "mine" / "model" / "thesis.txt").write_text("years")
    ended = command(*SMALL, UNMEASURED, "save=true", "hydra.run.dir=mine")
    assert ended.status == 1
    assert "expected an empty folder" in ended.err
    assert [path.name for path in (work / "mine").rglob("*")] == ["model", "thesis.txt"]


# --- the dense evaluation is remembered -------------------------------------------------------------------------------


@pytest.fixture
def references(monkeypatch) -> list[str]:
    """Grows by one whenever the dense model is evaluated."""
    calls, reference = [], Perplexity.reference

    def counted(self, dense, ids_N):
        calls.append(repr(self))
        return reference(self, dense, ids_N)

    monkeypatch.setattr(Perplexity, "reference", counted)
    return calls


def test_the_dense_model_is_evaluated_once(references):
    a = run(*MEASURED, "method=wanda", into="a")
    b = run(*MEASURED, "method=magnitude", into="b")
    assert len(references) == 1
    assert a.result["perplexity"]["dense"] == b.result["perplexity"]["dense"]
    assert [row["nll_dense"] for row in a.windows] == [row["nll_dense"] for row in b.windows]


@pytest.mark.parametrize(
    "other", ["model.seed=1", "evaluation.perplexity.windows=5", "dtype=bfloat16", "dataset.evaluation=other.txt"]
)
def test_another_model_text_or_protocol_is_evaluated_anew(other, work, references):
    (work / "other.txt").write_text("quite another text to measure on, long enough for six windows. " * 9)
    run(*MEASURED, "method=magnitude", into="a")
    run(*MEASURED, "method=magnitude", other, into="b")
    assert len(references) == 2


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("harm", [cut, flip])
def test_a_damaged_memory_is_named_and_computed_again(harm, work, references):
    first = run(*MEASURED, into="a")
    (entry,) = (work / "cache" / "dense").iterdir()
    entry.write_bytes(harm(entry.read_bytes()))
    ended = command(*SMALL, *MEASURED, "hydra.run.dir=b")
    assert ended.status == 0, ended.err
    assert "is damaged" in ended.out
    assert len(references) == 2
    assert Run(Path("b")).result["perplexity"] == first.result["perplexity"]
    run(*MEASURED, into="c")
    assert len(references) == 2  # it was mended


# --- Hydra's folders, plans and experiments ---------------------------------------------------------------------------


def test_a_sweep_leaves_a_result_for_every_point():
    ended = command(*SMALL, UNMEASURED, "-m", "method=wanda,magnitude", "hydra.sweep.dir=sweep")
    assert ended.status == 0, ended.err
    points = [Run(Path("sweep") / number) for number in "01"]
    assert [point.result["choices"]["method"] for point in points] == ["wanda", "magnitude"]
    assert points[0].result["mask_sha256"] != points[1].result["mask_sha256"]
    again = command("-m", *SMALL, UNMEASURED, "method=magnitude,wanda", "hydra.sweep.dir=sweep")
    assert again.out.count("finished earlier") == 2


def test_runs_started_at_once_have_their_own_folders(monkeypatch):
    for seed in (0, 1):
        assert command(*SMALL, UNMEASURED, f"seed={seed}").status == 0
    assert len(folders()) == 2


def test_experiment_is_a_delta():
    ended = command("experiment=first_run", "--cfg", "job")
    assert ended.status == 0, ended.err
    config = yaml.safe_load(ended.out)
    assert config["name"] == "first_run"
    assert config["method"]["_target_"] == "sparsity.methods.Wanda"
    assert config["model"]["_target_"] == "sparsity.models.SmolLM2"
    assert config["calibration"]["num_sequences"] == 8
    assert config["evaluation"]["perplexity"]["windows"] == 16


def test_a_plan_is_only_said(monkeypatch):
    monkeypatch.setattr(BlockStream, "observe", refuse)
    monkeypatch.setattr(Decoder, "logits", refuse)
    ended = command(*SMALL, *MEASURED, "plan=true", "method=sparsegpt")
    assert ended.status == 0, ended.err
    for said in ("q_proj", "down_proj", "128 x 64", "Gram", "50.00%", "4", "calibration.txt", "memory"):
        assert said in ended.out, said
    assert folders() == []


def test_help_lists_the_options():
    ended = command("--help")
    assert ended.status == 0
    for said in ("method: dense, magnitude, sparsegpt, wanda", "sparsity: 0.5", "plan=true"):
        assert said in ended.out, said


# --- as a process of its own ------------------------------------------------------------------------------------------


def test_a_process_of_its_own():
    ended = process(*SMALL, *MEASURED, "hydra.run.dir=run")
    assert ended.returncode == 0, ended.stderr
    result = Run(Path("run")).result
    assert ended.stderr == ""
    for figure in result["perplexity"].values():
        assert f"{figure:.2f}" in ended.stdout
    assert "50.00%" in ended.stdout
    assert str(Path("run").absolute()) in ended.stdout


@pytest.mark.slow
def test_smollm2(monkeypatch):
    """The embedded default, as a newcomer meets it. The model lies in the user's own cache: it is fetched once."""
    monkeypatch.delenv("SPARSITY_CACHE")
    ended = process(
        "model=smollm2", "dataset=pydocs", "method=wanda", "calibration.num_sequences=2", "calibration.seqlen=128",
        "evaluation.perplexity.seqlen=128", "evaluation.perplexity.windows=4", "hydra.run.dir=run",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    found = Run(Path("run"))
    assert len(found.layers) == found.result["sparsity"]["layers"] == 210
    assert found.result["sparsity"]["asked"] == 0.5
    assert found.result["sparsity"]["found"] == pytest.approx(0.5, abs=1e-6)
    assert found.result["perplexity"]["pruned"] > found.result["perplexity"]["dense"] > 1
