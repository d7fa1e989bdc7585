# `make help` lists the targets. Every target sets up what it needs.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export DO_NOT_TRACK := 1
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup run test check bench bench-drift soak real rows test-containers lock clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## the environment: .venv with pinned, hash-checked dependencies

# uv installs many times faster than pip; compiling afterwards halves every import.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 13) else "dxflow needs Python 3.11 or 3.12; found " + sys.version.split()[0] + ". Name another: make PYTHON=python3.11")'
	@echo "installing into $(VENV) (once: about 8 GB, some minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.8,<1"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@$(BIN)/python -m compileall -q -j 0 -x '/(tests|moto|mypy|nltk|faker|pip)/' $(VENV)/lib >/dev/null 2>&1 || true
	@touch $(STAMP)

run: setup ## the main job: phantom, pipeline, KServe endpoint, drift report
	@$(BIN)/dxflow demo

# Two files at a time; each library's own threads would only take turns with them.
TEST_PROCESSES ?= 2

test: setup ## all tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(TEST_PROCESSES) --dist loadfile --durations 12 --durations-min 5 tests --ignore tests/benchmarks --ignore tests/soak

check: setup ## lint, types, import rules, lock and wheel
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python infra/check_repository.py

bench: setup ## benchmarks: writes docs/benchmarks.json and docs/benchmarks.md
	@$(BIN)/python -m tests.benchmarks

bench-drift: setup ## the drift monitor's figures: writes docs/drift.json and docs/drift.md
	@$(BIN)/python -m tests.benchmarks.drift

soak: setup ## the long tests: damaged files by the ten thousand, requests made up from the OpenAPI page
	@$(BIN)/python -m tests.soak

real: setup ## every row on real data (DXFLOW_DATA), with its references: writes docs/real.json and docs/real.md
	@$(BIN)/python -m tests.real

rows: setup ## runs every disease's own command: writes the table of the README
	@$(BIN)/python -m tests.real.rows

test-containers: setup ## the pipeline through kfp's DockerRunner in the step images
	@infra/images/test-containers.sh

lock: setup ## resolve the dependencies again
	@$(BIN)/uv pip compile pyproject.toml --extra all --group dev --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
		--python-version 3.11 -o requirements.lock --quiet

clean: ## remove the environment and everything dxflow keeps here
	@rm -rf $(VENV) .dxflow build dist .pytest_cache .ruff_cache
