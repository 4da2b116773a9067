# Needs make, pip and Python >= 3.11; the first target that needs .venv makes it.
#   make setup PYTHON=python3.12                     with another Python
#   make setup PIP_ARGS="--find-links DIR"           more words for pip: on Linux the public index gives torch's CUDA build;
#                                                    for the small CPU build, name a folder or an extra index that has it
#   make test WORKERS=0                              tests in one process
PYTHON   ?= python3
PIP_ARGS ?=
WORKERS  ?= 2
ARGS     ?= experiment=first_run
RUNS     ?= outputs

bin    := .venv/bin
# One thread in each worker: two workers of two threads each are slower than this on two cores.
pytest := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(bin)/python -m pytest

define new_enough
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
echo "Python >= 3.11 is needed; $(PYTHON) is $$($(PYTHON) -V 2>&1). Name another: make setup PYTHON=python3.11"; exit 1; }
endef

.PHONY: help setup run report test check lint types mutants verify bench bench-sweep bench-peers bench-memory bench-start profile dashboard test-cuda test-faults test-options test-launchers lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: .venv/.stamp  ## make .venv with the pinned packages; again only when pyproject.toml or constraints.txt changes

run: .venv/.stamp  ## python run.py experiment=first_run, or what ARGS="..." says
	@$(bin)/python run.py $(ARGS)

report: .venv/.stamp  ## compare finished runs on one page; RUNS="outputs/a outputs/b" names folders
	@$(bin)/python -m sparsity.report $(RUNS)

test: lint types  ## everything that must be green: lint, types, all tests
	$(pytest) -n $(WORKERS)

check: lint types  ## the same without the slow tests
	$(pytest) -n $(WORKERS) -m "not slow and not cuda and not faults and not launchers and not options"

lint: .venv/.stamp  ## ruff: rules and format
	$(bin)/python -m ruff check .
	$(bin)/python -m ruff format --check .

types: .venv/.stamp  ## mypy, strict
	$(bin)/python -m mypy

mutants: .venv/.stamp  ## break the code line by line; every break must turn a test red
	$(bin)/python tests/mutants/run.py

verify: .venv/.stamp  ## on a real model: Wanda is Wanda, bit for bit, however one arrives there
	@$(bin)/python -m experiments.verify $(VERIFY)

bench: .venv/.stamp  ## what each corrector and method costs, in matrix products; needs an idle machine
	@$(bin)/python -m experiments.bench.correctors
	@$(bin)/python -m experiments.bench.methods

bench-sweep: .venv/.stamp  ## what a grid costs when its points share a calibration; needs an idle machine
	@$(bin)/python -m experiments.bench.sweep

bench-peers: .venv/.stamp build/peers/.stamp  ## the same work by llm-compressor, in turn: time, memory, masks, perplexity; needs an idle machine
	@$(bin)/python -m experiments.bench.peers --python build/peers/bin/python $(BENCH)

bench-memory: .venv/.stamp  ## peak memory by depth, block by block and whole; MEMORY="--llama-7b" or "--llama-70b" for others
	@$(bin)/python -m experiments.bench.memory $(MEMORY)

bench-start: .venv/.stamp  ## CPU seconds until --help, a TAB, a finished run and a plan show something, beside `import torch`
	@$(bin)/python -m experiments.bench.starting $(BENCH)

profile: .venv/.stamp  ## where a run's time goes, and how near the walk is to its forward passes; needs an idle machine
	@$(bin)/python -m experiments.bench.profiling $(BENCH)

dashboard: .venv/.stamp  ## all tracked runs in the browser, on 127.0.0.1; Ctrl-C ends it; TRACKIO_DIR=DIR names their folder
	@$(bin)/python -m sparsity dashboard

test-cuda: .venv/.stamp  ## the tests that need a CUDA device
	$(pytest) -m cuda

test-faults: .venv/.stamp  ## runs killed at any moment, full disks, damaged files: nothing wrong, nothing lost
	$(pytest) -m faults

test-options: .venv/.stamp  ## every option of every yaml through values that nobody means: a message, or a sound run
	$(pytest) -n $(WORKERS) -m options

test-launchers: build/launchers/.stamp  ## one grid by every launcher, a study by Optuna; in an environment of its own
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 build/launchers/bin/python -m pytest -m launchers

build/launchers/.stamp: pyproject.toml constraints.txt  # not .venv: Ray's launcher wants an older cloudpickle, and that an older joblib
	@rm -rf build/launchers && $(PYTHON) -m venv build/launchers
	@grep -vE '^(cloudpickle|joblib)==' constraints.txt > build/launchers/constraints.txt
	@build/launchers/bin/python -m pip install -qq --disable-pip-version-check $(PIP_ARGS) \
	   -c build/launchers/constraints.txt -e ".[dev,sweep,optuna,ray]"
	@touch $@

build/peers/.stamp: constraints.txt  # not .venv: llm-compressor wants an older transformers
	@rm -rf build/peers && $(PYTHON) -m venv build/peers
	@build/peers/bin/python -m pip install -qq --disable-pip-version-check $(PIP_ARGS) \
	   "$$(grep '^torch==' constraints.txt)" llmcompressor==0.14.0.1
	@touch $@

lock:  ## resolve the newest allowed packages in a fresh environment and pin them in constraints.txt
	@$(new_enough)
	@rm -rf build/lock && $(PYTHON) -m venv build/lock
	@build/lock/bin/python -m pip install -qq --disable-pip-version-check $(PIP_ARGS) -e ".[dev]"
	@{ sed '/^[^#]/,$$d' constraints.txt; \
	   build/lock/bin/python -m pip freeze --all --exclude-editable --exclude pip \
	   | sed -E -e '/^(nvidia|cuda|triton)/d' -e '/^torch==/s/\+.*//'; } > build/lock.txt
	@! grep -n '@ ' build/lock.txt  # a file or an address instead of a version is of no use elsewhere
	@mv build/lock.txt constraints.txt && rm -rf build/lock
	@echo "constraints.txt pins $$(grep -c == constraints.txt) packages"

clean:  ## remove caches and build leftovers; .venv and outputs/ stay
	@rm -rf build dist multirun .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	@find sparsity tests experiments -name __pycache__ -prune -exec rm -rf {} +

.venv/.stamp: pyproject.toml setup.py constraints.txt
	@$(new_enough)
	@echo "setting up .venv (several minutes the first time: torch is large)"
	@$(PYTHON) -m venv .venv
	@$(bin)/python -m pip install -qq --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e ".[dev]"
	@touch $@
