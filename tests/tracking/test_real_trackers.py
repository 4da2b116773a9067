"""W&B offline and trackio, for real: what they kept, read back by their own tools, is what the run's files say."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import wandb
from commands import MEASURED, ROOT, SMALL, UNMEASURED, Run, command, process, workplace
from trackers import SPY, TOLD, Study, own, sessions, wandb_history, wandb_run

from sparsity.evaluation import Perplexity

SECRETS = ("WANDB_API_KEY", "HF_TOKEN")


def home(folder: Path) -> dict[str, str]:
    """A home of nobody: no key, and nothing may be left there."""
    folder.mkdir()
    return {"HOME": str(folder), **dict.fromkeys(SECRETS, "")}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two seeds, watched by both trackers in one process of its own."""
    with workplace(tmp_path_factory.mktemp("sweep")) as folder:
        options = ("tracker=[trackio,wandb]", "tracker.trackio.checkpoint=true", "tracker.wandb.checkpoint=true")
        words = (
            *SMALL, *MEASURED, "method=wanda", *options, "save=true", "name=study", "-m", "seed=0,1", "hydra.sweep.dir=grid",
        )  # fmt: skip
        ended = process(*words, **home(folder / "home"))
        assert ended.returncode == 0, ended.stderr
        (folder / "said.txt").write_text(ended.stdout + ended.stderr)
        yield folder


@pytest.fixture
def points(sweep):
    return [Run(sweep / "grid" / number) for number in "01"]


@pytest.fixture
def study(sweep):
    return Study(sweep / "outputs" / "trackio", "study")


@pytest.fixture
def fresh(work, monkeypatch):
    """W&B as a new process finds it, for somebody who is not logged in."""
    for name, value in home(work / "home").items():
        monkeypatch.setenv(name, value)
    for name in SECRETS:
        monkeypatch.delenv(name)
    wandb.teardown()
    yield work
    wandb.teardown()


# --- both -------------------------------------------------------------------------------------------------------------


def test_both_keep_the_numbers_of_the_files(points, study):
    for point in points:
        (session,) = sessions(point.folder)
        kept = wandb_run(session)
        (run,) = [run for run, config in study.configs().items() if config["folder"] == str(point.folder)]
        assert kept["run_id"] == run
        *layers, last = study.history(run)
        summary = own(last)
        assert summary == own(kept["summary"])
        assert {name: summary[name] for name in ("perplexity/pruned", "sparsity/found", "seconds/prune")} == {
            "perplexity/pruned": point.result["perplexity"]["pruned"],
            "sparsity/found": point.result["sparsity"]["found"],
            "seconds/prune": point.result["seconds"]["prune"],
        }
        history = [own(item) for item in wandb_history(session)]
        assert history[:14] == layers
        assert [str(row["layer/sparsity_found"]) for row in layers] == [row["sparsity_found"] for row in point.layers]


def test_both_know_the_configuration_and_the_sweep(points, study):
    for seed, point in enumerate(points):
        (session,) = sessions(point.folder)
        kept = wandb_run(session)
        config = study.configs()[kept["run_id"]]
        assert kept["name"] == f"wanda · unstructured 0.5 · none · seed {seed}"
        assert study.rows("select run_name from configs where run_id = ?", kept["run_id"]) == [(kept["name"],)]
        assert {*config} - {*kept["config"]} == {"job_type", "_Username", "_Created", "_Group"} | {
            f"choices.{group}" for group in config["choices"]
        }
        assert kept["config"].items() <= config.items()
        assert (config["seed"], config["choices.method"]) == (seed, "wanda")
        assert (config["_Group"], config["job_type"]) == ("grid", "sweep")
        assert (kept["project"], kept["state"], kept["exit_code"]) == ("study", "finished", 0)
        record = (session / f"run-{kept['run_id']}.wandb").read_bytes()
        assert b"grid" in record
        assert b"sweep" in record


def test_both_keep_the_tables(points, study):
    for point in points:
        (session,) = sessions(point.folder)
        last = study.history(wandb_run(session)["run_id"])[-1]
        for name in ("layers", "windows"):
            (file,) = (session / "files/media/table/tables").glob(f"{name}_*.json")
            table = json.loads(file.read_text())
            rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
            assert rows == last[f"tables/{name}"]["_value"]
            cells = [{column: "" if value is None else str(value) for column, value in row.items()} for row in rows]
            assert cells == point.table(name)


def test_both_keep_the_checkpoint(points, study):
    size = (points[0].checkpoint / "model.safetensors").stat().st_size
    kept = study.rows(
        "select name, type, size_bytes from artifacts join artifact_versions on artifact_id = artifacts.id"
    )
    assert len(kept) == 2
    for point in points:
        (session,) = sessions(point.folder)
        run = wandb_run(session)["run_id"]
        assert any(name == f"model-{run}" and kind == "model" and bytes > size for name, kind, bytes in kept)
        assert f"model-{run}".encode() in (session / f"run-{run}.wandb").read_bytes()


def test_nothing_is_left_elsewhere_and_little_is_said(sweep):
    assert [*(sweep / "home").rglob("*")] == []
    assert {path.name for path in (sweep / "outputs").iterdir()} == {"trackio"}
    said = [line for line in (sweep / "said.txt").read_text().splitlines() if "[HYDRA]" not in line]
    watching = [line for line in said if "rackio" in line or "wandb" in line]
    assert len(watching) == 2, watching  # once a run, that it is kept offline
    assert all("not logged in: offline" in line and "wandb sync" in line for line in watching)


# --- trackio ----------------------------------------------------------------------------------------------------------


def trackio(*words: str, folder: Path) -> dict:
    line = (sys.executable, "-m", "trackio.cli", *words, "--json")
    ended = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "TRACKIO_DIR": str(folder)})
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_trackio_itself_finds_the_runs(points, study):
    listed = trackio("list", "runs", "--project", "study", folder=study.folder)
    assert sorted(listed["runs"]) == [f"wanda · unstructured 0.5 · none · seed {seed}" for seed in (0, 1)]
    words = ("get", "metric", "--project", "study", "--run", listed["runs"][0], "--metric", "perplexity/pruned")
    (found,) = trackio(*words, folder=study.folder)["values"]
    assert found["value"] in [point.result["perplexity"]["pruned"] for point in points]


SEVERAL = """
import sys
from pathlib import Path
from sparsity.tracking import About, Outcome, Trackio, Watch

for number in range(3):
    about = About(Path("x"), "study", f"{sys.argv[1]}.{number}", f"{sys.argv[1]}{number}", None, "run", {"a": sys.argv[1]})
    with Watch({"trackio": Trackio(None, "kept", False)}) as watch:
        watch.start(about)
        for block in range(50):
            watch.layer({"block": block})
        watch.finish(lambda: Outcome({"b": number}))
"""


@pytest.mark.slow
def test_several_processes_at_once(work):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = (sys.executable, "-c", SEVERAL)
    started = [
        subprocess.Popen((*line, name), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for name in "abcd"
    ]
    assert [process.communicate()[0] for process in started] == [b""] * 4
    kept = Study(work / "kept", "study")
    assert len(kept.configs()) == 12
    for run, config in kept.configs().items():
        assert kept.history(run) == [*({"layer/block": block} for block in range(50)), {"b": int(run[1])}]
        assert config["a"] == run[0]


REPEATED = """
import socket
import sys
from pathlib import Path
from huggingface_hub import constants
from sparsity.tracking import About, Outcome, Trackio, Watch

def connect(*_):
    print("the network was asked")
    raise ConnectionRefusedError

constants.HF_HUB_OFFLINE = False  # as for a user who is logged in to the hub
socket.socket.connect = socket.create_connection = connect
about = About(Path("x"), "study", "name", "id", None, "run", {})
for ends in ("broken", "broken", "whole"):
    try:
        with Watch({"trackio": Trackio("project", "kept", False)}) as watch:
            watch.start(about)
            watch.layer({"block": 0})
            if ends == "broken":
                raise RuntimeError("no memory")
            watch.finish(lambda: Outcome({"b": 2}))
    except RuntimeError:
        import sqlite3
        print(sqlite3.connect("kept/project.db").execute("select text, level from alerts").fetchall())
with Watch({"trackio": Trackio(None, "elsewhere", False)}) as watch:
    watch.start(about)
"""


def test_trackio_replaces_a_run_that_is_started_again_and_asks_no_network(work):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_TOKEN": "hf_" + "x" * 34}
    environment.pop("HF_HUB_OFFLINE")
    ended = subprocess.run((sys.executable, "-c", REPEATED), env=environment, capture_output=True, text=True)
    *alerts, refused = ended.stdout.splitlines()
    assert alerts == ["[('RuntimeError: no memory', 'error')]"] * 2, ended.stderr
    assert refused.startswith("tracker=trackio failed (RuntimeError: this process already stores its runs in ")
    assert ended.stderr == ""
    assert Study(work / "kept", "project").history("id") == [{"layer/block": 0}, {"b": 2}]


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_costs_no_run(work):
    (work / "file").touch()
    ended = process(*SMALL, UNMEASURED, "tracker=[trackio]", "hydra.run.dir=run", TRACKIO_DIR="file")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("tracker=trackio failed") == 1
    assert Run(Path("run")).result["sparsity"]["found"] == 0.5


# --- Weights & Biases -------------------------------------------------------------------------------------------------


def test_a_run_that_fails_is_failed_at_w_and_b(fresh, monkeypatch):
    def broken(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Perplexity, "compare", broken)
    with pytest.raises(RuntimeError):
        command(*SMALL, *MEASURED, "tracker=wandb", "hydra.run.dir=run")
    (session,) = sessions(fresh / "run")
    kept = wandb_run(session)
    assert (kept["state"], kept["exit_code"]) == ("failed", 1)
    assert own(kept["summary"]) == {"error": "RuntimeError: out of memory"}
    assert len(wandb_history(session)) == 14


def test_the_users_own_variables_and_a_run_that_is_started_again(fresh, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_NOTES", "why")
    words = (*SMALL, UNMEASURED, "tracker=wandb", "tracker.wandb.tags=[draft]", "hydra.run.dir=run")
    for _ in range(2):
        ended = command(*words, "rerun=true")
        assert ended.status == 0
        assert "tracker" not in ended.out  # offline as asked: nothing to say
    first, again = sessions(fresh / "run")
    assert wandb_run(first)["run_id"] == wandb_run(again)["run_id"]
    kept = wandb_run(again)
    assert (kept["project"], kept["notes"], kept["tags"], kept["state"]) == ("ours", "why", ["draft"], "finished")


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def silent_server():
    """Accepts a connection, and says nothing for ever."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["auto", "online"])
def test_a_key_without_a_network(fresh, monkeypatch, mode):
    with silent_server() as listener:
        port = closed_port() if mode == "auto" else listener.getsockname()[1]
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        words = ("tracker=wandb", f"tracker.wandb.mode={mode}", "tracker.wandb.init_timeout=3", "hydra.run.dir=run")
        ended = command(*SMALL, UNMEASURED, *words, *SPY)
    assert ended.status == 0, ended.err
    assert ended.err == ""
    (line,) = [line for line in ended.out.splitlines() if "tracker" in line]
    assert f"no answer from http://127.0.0.1:{port}" in line
    (session,) = sessions(fresh / "run")
    assert str(session) in line
    kept = wandb_run(session)
    assert kept["state"] == "finished"
    assert own(kept["summary"]) == TOLD[-1].ends[0].summary


def test_a_key_that_is_none(fresh, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "short")
    ended = command(*SMALL, UNMEASURED, "tracker=wandb", "hydra.run.dir=run")
    assert ended.status == 0
    (line,) = [line for line in ended.out.splitlines() if "tracker" in line]
    assert "WANDB_API_KEY" in line
    assert len(sessions(fresh / "run")) == 1
