"""What a newcomer types gets the next step: one message that says what to write instead, status 1, nothing left behind.

The other half holds as well: what is written rightly is not refused, whatever it looks like.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from commands import MEASURED, ROOT, SMALL, UNMEASURED, Ended, command, refuse, workplace
from composing import CONF

from sparsity.models import Tiny
from sparsity.options.meant import RULES, unknown_flag, wrong
from sparsity.options.mistakes import ELSEWHERE, EXTRAS, next_step, no_option
from sparsity.options.written import Written
from sparsity.runs.typed import arranged
from sparsity.user_error import UserError

WRITTEN = Written((CONF,))


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(Tiny, "load", refuse)
    monkeypatch.delenv("WIKITEXT2_RAW", raising=False)
    with workplace(tmp_path) as folder:
        (folder / "checkpoint").mkdir()
        yield folder


def assert_next_step(ended: Ended, *said: str) -> None:
    assert ended.status == 1
    assert ended.err.startswith("error: ")
    assert ended.err.count("error: ") == 1, ended.err
    assert "Traceback" not in ended.err + ended.out
    assert len(ended.err) < 600, "a message, not a wall of text"
    for words in said:
        assert words in ended.err, f"{words!r} is not in: {ended.err}"
    assert not list(Path("outputs").glob("*/*"))


NATURAL = {
    # models, texts
    "model=Qwen/Qwen3-0.6B": ["model=hub model.name=Qwen/Qwen3-0.6B"],
    "model=gpt2": ["model=hub model.name=gpt2"],
    "model=./nowhere": ["model=local model.path=./nowhere"],
    "model=checkpoint": ["model=local model.path=checkpoint"],
    "model=/a/b/c": ["model=local model.path=/a/b/c"],
    "model=tinny": ["Did you mean model=tiny?"],
    "reference=Qwen/Qwen3-0.6B": ["reference=hub reference.name=Qwen/Qwen3-0.6B"],
    "reference=checkpoint": ["reference=local reference.path=checkpoint"],
    "model.name=gpt2": ["no option model.name", "exists with model=hub"],
    "path=checkpoint": ["model.path with model=local"],
    "dataset=calibration.txt": ["dataset=text dataset.calibration=FILE"],
    "dataset=wikitext-2": ["Did you mean dataset=wikitext2?"],
    "calibration=notes.txt": ["dataset=text dataset.calibration=notes.txt"],
    "calibration=64": ["calibration.num_sequences=64"],
    "model=tiny dataset=wikitext2_raw": [
        "wiki.valid.raw for calibration", "wiki.test.raw for evaluation", "WIKITEXT2_RAW=FOLDER", "dataset=wikitext2 reads",
        "hub's cache", "dataset=text",
    ],
    "experiment=protocol model=tiny": ["wiki.valid.raw for calibration", "WIKITEXT2_RAW=FOLDER"],
    # numbers
    "sparsity=60": ["Did you mean sparsity=0.6?"],
    "sparsity=60%": ["Did you mean sparsity=0.6?"],
    "sparsity=62.5": ["Did you mean sparsity=0.625?"],
    "sparsity=0,5": ["a decimal number has a point: sparsity=0.5"],
    "sparsity=0.5,": ["Write sparsity=0.5"],
    # options of a group
    "method=Wanda": ["Did you mean method=wanda?"],
    "method=sparse_gpt": ["Did you mean method=sparsegpt?"],
    "method=wanda+optimal": ["Did you mean method=wanda corrector=optimal?"],
    "pattern=2:4": ["pattern=2of4"],
    "pattern=1:4": ["pattern=n_of_m pattern.n=1 pattern.m=4"],
    "corrector=null": ["corrector=none"],
    "++corrector=null": ["corrector=none"],
    "corrector=false": ["corrector=none"],
    "corrector=": ["no corrector=.", "corrector=none"],
    "~corrector": ["Write corrector=none"],
    "recover=true": ["no recover=true", "distill"],
    "method=": ["no method=.", "Choose one", "wanda", "help method"],
    "method=null": ["no method=null", "Choose one"],
    "~method": ["every run reads it", "wanda"],
    "~scope": ["every run reads it"],
    "~sparsity": ["every run reads it"],
    "experiment=null": ["experiment=[]"],
    "experiment=none": ["experiment=[]"],
    "experiment=[first_run,nope]": ["no experiment=nope"],
    "~experiment": ["Write experiment=[]"],
    "~evaluation": ["Write evaluation=[]"],
    "evaluation=none": ["evaluation=[]"],
    "tracker=null": ["tracker=[]"],
    "hydra/launcher=null": ["name of an option"],
    # an option inside another one
    "method=pursuit method.base=sparsegpt": ["Write method@method.base=sparsegpt"],
    "method.base=sparsegpt": ["method=admm has no base", "method=pursuit", "method@method.base=sparsegpt"],
    "method=hybrid method.routes.mlp=sparsegpt": ["Write method@method.routes.mlp=sparsegpt"],
    "method=hybrid method.routes.down_proj=sparsegpt": ["Write +method@method.routes.down_proj=sparsegpt"],
    "method=hybrid method@method.routes.down_proj=sparsegpt": ["Write +method@method.routes.down_proj=sparsegpt"],
    "method=wanda method@method.base=sparsegpt": ["method=wanda has no base", "method=swaps"],
    "method=pursuit method@method.base=sparsgpt": ["Did you mean method=sparsegpt?"],
    "scope=mlp": ["scope has values of its own", "scope.roles=[attention,mlp]"],
    # how a word is written
    "--sparsity 0.5": ["without dashes: sparsity=0.5"],
    "--sparsity=0.5": ["without dashes: sparsity=0.5"],
    "--method wanda": ["without dashes: method=wanda"],
    "--nsamples 128": ["without dashes: calibration.num_sequences=128"],
    "--save-model out": ["without dashes: save=true"],
    "--plan": ["without dashes: plan=true"],
    "--resume": ["resumes when the same command is started again"],
    "-s 0.5": ["without dashes, such as sparsity=0.5"],
    "--hepl": ["Did you mean --help?"],
    "--cfg": ["--cfg", "expected one argument"],
    "--cfg jobb": ["invalid choice: 'jobb'"],
    "-m --cfg job": ["expected one of them"],
    "seed=1 method = wanda": ["Write method=wanda"],
    "seed=1 method= wanda": ["Write method=wanda"],
    "seed=1 method =wanda": ["Write method=wanda"],
    "seed=1 'method =wanda'": ["Write method=wanda"],
    "seed=1 sparsity 0.5": ["Did you mean sparsity=0.5?"],
    "seed=1 sparsity:0.5": ["Did you mean sparsity=0.5?"],
    "seed=1 wanda": ["Did you mean method=wanda?"],
    "seed=1 plan": ["Did you mean plan=true?"],
    "seed=1 method": ["expected method=OPTION"],
    "seed=1 help": ["expected it as the first one"],
    "seed=1 nonsense": ["got nonsense: expected key=value"],
    "sparsity==0.5": ["Write sparsity=0.5"],
    "=wanda": ["expected a key in front of ="],
    "name=my study": ["put both in quotes"],
    "'sparsity=0.5 plan=true'": ["Take away the quotes"],
    "model=local model.path=~/mine": ["~ is not replaced", "Write model.path=$HOME/mine"],
    "'allow=[my_lab'": ["allow=[my_lab cannot be read", "every bracket and quote closed"],
    # several values
    "method=wanda,sparsegpt": ["add -m:", "run.py -m method=wanda,sparsegpt"],
    "'seed=range(3)'": ["add -m"],
    "evaluation=perplexity,divergence": ["add -m", "evaluation=[perplexity,divergence]"],
    "scope.skip=q_proj,k_proj": ["scope.skip=[q_proj,k_proj]"],
    "-m method=wanda,wnda": ["no method=wnda"],
    # names that are not here, or elsewhere
    "corector=optimal": ["no option corector", "Did you mean: corrector"],
    "method=wanda method.damp=0.1": ["no option method.damp", "exists with method=admm or", "method=sparsegpt"],
    "evaluation.lm_eval.limit=3": ["exists with evaluation=[perplexity,lm_eval]"],
    "lr=0.1": ["refine.lr with refine=block", "recover.lr with recover=distill"],
    "num_sequences=3": ["Did you mean: calibration.num_sequences"],
    "seqlen=64": ["calibration.seqlen"],
    "sparsity_ratio=0.5": ["Did you mean: sparsity?"],
    "prune_method=wanda": ["Did you mean: method?"],
    "output_dir=here": ["Did you mean: hydra.run.dir?"],
}  # fmt: skip


@pytest.mark.parametrize("typed", NATURAL)
def test_a_natural_mistake_gets_the_next_step(typed):
    words = shlex.split(typed)
    before = [] if "dataset" in typed or "protocol" in typed else [*SMALL, *MEASURED]
    # what belongs to the words in front of an option stands first
    ended = command(*words) if typed.startswith("-") else command(*before, *words)
    assert_next_step(ended, *NATURAL[typed])


def test_a_mistake_of_a_point_gets_the_next_step_too():
    ended = command("-m", *SMALL, UNMEASURED, "sparsity=50,60", "hydra.sweep.dir=sweep")
    assert ended.status == 1
    assert "#0 error: sparsity=50" in ended.err
    assert "Did you mean sparsity=0.5?" in ended.err
    assert "Did you mean sparsity=0.6?" in ended.err


def test_what_an_experiment_chooses_wrongly_is_said_with_its_file(work):
    (work / "own" / "experiment").mkdir(parents=True)
    (work / "own" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /method: wnda\n"
    )
    ended = command("--config-dir", str(work / "own"), *SMALL, UNMEASURED, "experiment=mine")
    assert_next_step(ended, "no method=wnda", "Did you mean method=wanda?")


# --- launchers and sweepers that are not installed --------------------------------------------------------------------


def installed(package: str) -> bool:
    try:
        return bool(distribution(package))
    except PackageNotFoundError:
        return False


ABSENT = {
    "hydra/launcher=joblib": ("hydra-joblib-launcher", "sweep"),
    "hydra/launcher=submitit_slurm": ("hydra-submitit-launcher", "sweep"),
    "hydra/launcher=slurm": ("hydra-submitit-launcher", "sweep"),
    "hydra/launcher=ray": ("hydra-ray-launcher", "ray"),
    "hydra/sweeper=optuna": ("hydra-optuna-sweeper", "optuna"),
    "experiment=tfidf_optuna": ("hydra-optuna-sweeper", "optuna"),
}


@pytest.mark.parametrize("typed", [typed for typed, (package, _) in ABSENT.items() if not installed(package)])
def test_a_launcher_that_is_not_installed_names_its_extra(typed):
    ended = command("-m", *SMALL, UNMEASURED, typed)
    assert_next_step(ended, f'pip install "sparsity-lab[{ABSENT[typed][1]}]"')


@pytest.mark.parametrize("kind,name", [(kind, name) for kind in ("launcher", "sweeper") for name in EXTRAS])
def test_the_extra_is_named_wherever_the_others_are_installed(kind, name):
    assert f'"sparsity-lab[{EXTRAS[name]}]"' in no_option(f"hydra/{kind}", name, ["basic"])


def test_an_extra_is_one_of_the_package_and_has_the_plugin():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    plugins = {name: re.findall(r"hydra-(\w+)-(?:launcher|sweeper)", " ".join(needs)) for name, needs in extras.items()}
    for name, extra in EXTRAS.items():
        assert name.split("_")[0] in plugins[extra], name
    assert {found for names in plugins.values() for found in names} == {name.split("_")[0] for name in EXTRAS}


# --- what is right is not refused -------------------------------------------------------------------------------------


def commands_of_the_files() -> list[str]:
    """The commands that README and the configuration's comments say, without placeholders."""
    texts = [ROOT / "README.md", *CONF.rglob("*.yaml"), *(ROOT / "docs").glob("*.md")]
    found = [
        match for text in texts for match in re.findall(r"python run\.py ((?:[^\n`\"|#]|'[^']*')+)", text.read_text())
    ]
    return sorted({re.split(r" {3,}|\\", line)[0].strip() for line in found if "..." not in line})


def test_the_commands_that_the_files_say_are_not_refused():
    said = [line for line in commands_of_the_files() if not line.startswith(("help", "--config-dir"))]
    assert len(said) > 15
    for line in said:
        flags, words = arranged(shlex.split(line), CONF)
        assert wrong(words, WRITTEN, "-m" in flags) is None, line


RIGHT = [
    "method=hybrid method@method.routes.mlp=neuronrank_old +method@method.routes.down_proj=sparsegpt",
    "experiment=best_quality method@method.base=sparsegpt",
    "evaluation=[perplexity,divergence] scope.skip=[q_proj,k_proj]",
    "evaluation=[] tracker=[] experiment=[]",
    "evaluation=perplexity",
    "'evaluation=[perplexity, divergence]'",
    "~recover.lr ~recover.held_out recover=none",
    "method={scope:row}",
    "seed=${oc.env:SEED}",
    "calibration=paper.yaml",
    "\"model.path='/a folder/with,commas'\"",
    '\'evaluation.generation.prompts=["first, text","second = text"]\'',
    "+method.own=1",
    "hydra.run.dir=out name=a-b.c",
    "hydra/launcher=joblib hydra.launcher.n_jobs=2",
    "model=local model.path=a/b",
]


@pytest.mark.parametrize("line", RIGHT)
def test_what_is_written_rightly_passes(line):
    assert wrong(shlex.split(line), WRITTEN, sweep=False) is None


@pytest.mark.parametrize(
    "line", ["method=wanda,sparsegpt sparsity=0.5,0.6", "seed=range(3)", "evaluation=[perplexity],[]"]
)
def test_a_sweep_may_have_several_values(line):
    assert wrong(line.split(), WRITTEN, sweep=True) is None


def test_flags_go_first_and_keep_their_values():
    typed = ["seed=1", "--cfg", "job", "sparsity=0.3", "-m", "--info", "--config-dir=x"]
    with pytest.raises(UserError, match="expected one of them"):
        arranged(typed, CONF)
    flags, words = arranged(["seed=1", "--config-dir", "x", "sparsity=0.3", "-m"], CONF)
    assert flags == ["--config-dir", "x", "-m"]
    assert words == ["seed=1", "sparsity=0.3"]


def test_a_flag_between_options_is_understood():
    """argparse alone calls the options behind it unrecognized."""
    ended = command("model=tiny", "--cfg", "job", "method=wanda")
    assert ended.status == 0
    assert "sparsity.methods.Wanda" in ended.out


def test_a_users_own_option_is_known_by_its_folder(work):
    (work / "own" / "method").mkdir(parents=True)
    (work / "own" / "method" / "mine.yaml").write_text(
        "# Mine.\n_target_: sparsity.methods.Wanda\nscope: row  # of rows\n"
    )
    ended = command("--config-dir", str(work / "own"), "--cfg", "job", "model=tiny", "method=mine")
    assert ended.status == 0
    assert "sparsity.methods.Wanda" in ended.out


# --- the tables -------------------------------------------------------------------------------------------------------


def test_the_names_that_others_use_lead_to_names_that_exist():
    known = {key.path for _, key in WRITTEN.every} | {*WRITTEN.groups}
    for name, key in ELSEWHERE.items():
        assert key.partition("=")[0] in known or key.startswith("hydra."), name
        assert name not in known


def test_a_message_that_needs_no_next_step_has_none():
    for message in (
        "sparsity=1 is not valid: expected less than 1",
        "sparsity=100 is not valid",
        "pattern.sparsity=60 is not",
    ):
        assert next_step(message) == ""


def test_every_rule_has_caught_something():
    """Each rule, alone, refuses one of the mistakes above."""
    from sparsity.options.meant import Command, Word

    for rule in RULES:
        caught = []
        for typed in NATURAL:
            words = [word for word in shlex.split(typed) if not word.startswith("-")]
            here = Command(words, WRITTEN, "-m" in typed.split(), ("help",))
            caught += [typed for place, word in enumerate(words) if rule(Word(word, place), here)]
        assert caught, rule.__name__


def test_an_unknown_flag_says_the_option_of_that_name():
    assert "sparsity=0.5" in unknown_flag("--sparsity", "0.5", ["--help"], WRITTEN)
    assert "sparsity=VALUE" in unknown_flag("--sparsity", "seed=1", ["--help"], WRITTEN)
