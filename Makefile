# Every target sets up what it needs. `make demo` and `make test` work on a fresh Debian machine as root.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: setup demo test lint bench fuzz fixtures docs clean

setup: $(STAMP)

$(STAMP): requirements/dev.txt pyproject.toml packagers/pyproject.toml runtime/pyproject.toml
	@bash scripts/setup.sh $(PYTHON) $(VENV)
	@touch $@

demo: $(STAMP)
	@bash scripts/with-engine.sh bash scripts/demo.sh

test: $(STAMP)
	@bash scripts/with-engine.sh --browser $(BIN)/python scripts/run_tests.py $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(STAMP)
	@bash scripts/with-engine.sh --load $(BIN)/python -m benchmarks

# 100,000 mutated requests of every protocol; MPACK_TEST_SEED chooses others.
fuzz: $(STAMP)
	MPACK_TEST_REQUESTS=100000 $(BIN)/pytest -s tests/runtime/test_mutated.py

# Makes fixtures/models anew, in an environment of its own.
fixtures: $(STAMP)
	@bash scripts/fixtures.sh

# Writes the generated pages of docs/.
docs: $(STAMP)
	$(BIN)/python scripts/make_docs.py

clean:
	rm -rf $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
