# Each target prepares the virtual environment that it needs; nothing outside this folder is touched.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
JOBS ?= 2

.PHONY: demo test test-slow test-common test-gpu lint format bench bench-gpu clean

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

# The common tests of transformers, which are in its source distribution alone.
test-common: $(VENV)/.installed-dev
	mkdir -p build
	version=$$($(BIN)/python -c "import transformers; print(transformers.__version__)"); \
	folder=$(CURDIR)/build/transformers-$$version; \
	test -f $$folder.tar.gz || $(BIN)/python -m pip download --quiet --no-deps --no-binary :all: -d build transformers==$$version; \
	test -d $$folder || tar -xzf $$folder.tar.gz -C build; \
	ORTHOSTREAM_TRANSFORMERS_SOURCE=$$folder HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 \
	$(BIN)/python -m pytest -m slow tests/hub/common

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
