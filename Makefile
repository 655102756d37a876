# `make demo` and `make test` set up everything they need from Python 3.11 or newer and make alone.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench chaos clean

demo: $(VENV)/.runtime
	$(BIN)/leeway demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# All claims with their floors: make bench. A short run: make bench BENCH_FLAGS=--quick
bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks $(BENCH_FLAGS)

# Faults for longer than CI has time for.
chaos: $(VENV)/.dev
	LEEWAY_KILLS=500 LEEWAY_FLIPS=100000 $(BIN)/python -m pytest -s tests/chaos \
	    tests/integration/test_store_kills.py tests/integration/test_store_bit_flips.py

$(VENV)/.python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=/path/to/it")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	touch $@

$(VENV)/.runtime: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
