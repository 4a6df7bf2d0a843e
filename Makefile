# make demo       the whole pipeline on real pixels, on a CPU, in minutes
# make test       the tests: CPU, no network beyond the package registry
# make test-all   also the slow ones: kill campaigns, learning
# make check      lint, format, types, tests
# make bench      the speeds that the readme tells, measured here
# make clean      delete what the demo made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export NO_ALBUMENTATIONS_UPDATE := 1
# A process for each core, each with whole files. Slow tests, which kill at chosen moments, run one by one.
PARALLEL := --numprocesses logical --maxprocesses 8 --dist loadfile

.PHONY: demo test test-all check bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	@PYTHON=$(BIN)/python bash runs/demo.sh

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PARALLEL)

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "slow or not slow" $(PYTEST_OPTIONS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(PARALLEL) $(PYTEST_OPTIONS)

bench: $(VENV)/.installed-dev
	@for file in benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

clean:
	rm -rf demo

# uv installs in seconds what pip takes minutes for; where there is none, the environment gets its own.
$(BIN)/python:
	@command -v $(PYTHON) >/dev/null && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is not Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@if command -v uv >/dev/null; then uv venv --quiet --python $(PYTHON) $(VENV); \
		else $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet uv; fi

$(VENV)/.installed: requirements.txt | $(BIN)/python
	$$(command -v uv || echo $(BIN)/uv) pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements-cluster.txt $(VENV)/.installed
	$$(command -v uv || echo $(BIN)/uv) pip install --quiet --python $(BIN)/python -r requirements-dev.txt
	@touch $@
