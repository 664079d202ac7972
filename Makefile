# Each target prepares the virtual environment that it needs; nothing outside this folder is touched.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
JOBS ?= 2

.PHONY: demo test test-slow test-gpu lint format bench bench-gpu clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# What the demo needs.
$(VENV)/.installed-demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[vision,report]"
	touch $@

# What tests and checks need besides.
$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@ $(VENV)/.installed-demo

demo: $(VENV)/.installed-demo
	$(BIN)/orthostream compare demo --vary connection=linear,orthogonal --seeds 3 --jobs $(JOBS) --out demo

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

test-slow: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow" --timeout 1800

# Prints each test that ran, and why others did not.
test-gpu: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m gpu -v -rs

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# All suites for the device at hand.
bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.run all

bench-gpu: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.run all --device cuda

clean:
	rm -rf demo runs dist build .pytest_cache .mypy_cache .ruff_cache
