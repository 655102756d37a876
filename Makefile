# `make demo` and `make test` set up everything they need from Python 3.11 or newer and make alone.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Several groups of tests (tests/conftest.py) beside each other, the longest first.
BESIDE := -n 4 --dist loadgroup --no-loadscope-reorder

.PHONY: demo test test-gunicorn test-apiserver faults coverage lint bench bench-against profile way soak chaos stubs lock docs-tables clean

demo: $(VENV)/.runtime
	$(BIN)/leeway demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(BESIDE)

# The server with the oldest gunicorn that pyproject.toml allows, or another one:
# make test-gunicorn GUNICORN=26.2.0
GUNICORN ?= 25.1.0
test-gunicorn: OTHER := build/gunicorn-$(GUNICORN)
test-gunicorn:
	$(PYTHON) -m venv $(OTHER)
	$(OTHER)/bin/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	$(OTHER)/bin/python -m pip install --quiet --disable-pip-version-check --editable . --group dev \
	    "gunicorn==$(GUNICORN)"
	$(OTHER)/bin/python -m pytest tests/unit/webhook/server/connection tests/deploy/test_gunicorn_conf.py \
	    tests/e2e/test_bad_http.py tests/e2e/test_sigterm.py tests/e2e/test_reload.py

# Against a real kube-apiserver and etcd: make test-apiserver KUBEBUILDER_ASSETS=DIR
test-apiserver: $(VENV)/.dev
	$(BIN)/python -m pytest tests/apiserver

# The tests of each fault of tests/faults.py, and the faults without one.
faults: $(VENV)/.dev
	$(BIN)/python -m pytest --collect-only -q -m fault

# All tests, slower, with branch coverage of the tests and of the servers that they start.
coverage: $(VENV)/.dev
	$(BIN)/python -m pytest $(BESIDE) --cov --cov-report=term:skip-covered

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# All claims with their floors: make bench. A short run: make bench BENCH_FLAGS=--quick
bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks $(BENCH_FLAGS)

# Whether this checkout is slower than another revision: make bench-against BASE=REVISION
bench-against: $(VENV)/.dev
	$(BIN)/python -m benchmarks.against $(BASE) $(BENCH_FLAGS)

# The files that a TokenReview passes through.
way: $(VENV)/.dev
	$(BIN)/python -m benchmarks.way

# Where the time of a TokenReview goes, part by part.
profile: $(VENV)/.dev
	$(BIN)/python -m benchmarks.profile $(PROFILE_FLAGS)

# An hour at half load: memory must stay what it is. A short run: make soak SOAK_FLAGS="--minutes 2"
soak: $(VENV)/.dev
	$(BIN)/python -m benchmarks.soak $(SOAK_FLAGS)

# Faults for longer than CI has time for, and the times that a busy machine cannot keep.
# To repeat a run: make chaos CHAOS_FLAGS="--seed N"
# Replicas on a real etcd, every answer judged: make chaos CHAOS_FLAGS="--store etcd"
chaos: export TEST_TIMES = judged
chaos: $(VENV)/.dev
	$(BIN)/python -m tests.chaos $(CHAOS_FLAGS)
	TEST_KILLS=500 TEST_FLIPS=100000 $(BIN)/python -m pytest -s tests/chaos/test_store_chaos.py \
	    tests/integration/test_store_kills.py tests/integration/test_store_bit_flips.py
	TEST_KILLS=200 $(BIN)/python -m pytest -s tests/integration/test_rotation_kills.py \
		tests/integration/test_store_rotation_kills.py
	TEST_RELOADS=100 $(BIN)/python -m pytest -s tests/e2e/test_reload.py -k replaced_under_load
	TEST_INTERRUPTED_STARTS=200 $(BIN)/python -m pytest -s tests/e2e/test_interrupted_start.py
	TEST_HTTP_FUZZ_COUNT=2000000 $(BIN)/python -m pytest -s tests/fuzz/test_http_fuzz.py
	TEST_ANONYMOUS=10000 $(BIN)/python -m pytest -s tests/e2e/test_limits.py
	TEST_SIGTERM_ROUNDS=50 $(BIN)/python -m pytest -s tests/e2e/test_sigterm.py
	$(BIN)/python -m pytest -s $$(grep -rl --include='test_*.py' assert_within tests)

# The generated modules for protocol buffers.
stubs: $(VENV)/.dev
	$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. $$(find webhook -name '*.proto')

# What the image installs, by hash, in the newest versions that pyproject.toml allows.
lock: $(VENV)/.dev
	$(BIN)/python deploy/lock.py

# The pages of docs/ that are made from the tests.
docs-tables: $(VENV)/.dev
	$(BIN)/python tests/bad_input_table.py

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
