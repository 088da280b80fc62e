# Everything runs in .venv, made from python3 when missing. PYTHON=... picks another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
CONSTRAINTS := .ci/constraints.txt

.PHONY: help install demo test bench check format clean

help:
	@echo "make demo    run extract-teacher, train-student and evaluate on the embedded demo world"
	@echo "make test    run the tests"
	@echo "make bench   run the benchmarks and print their figures"
	@echo "make check   ruff format and lint, mypy strict"
	@echo "make clean   remove .venv, caches and build outputs (not runs/)"

install: $(STAMP)

$(STAMP): pyproject.toml $(CONSTRAINTS)
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing (torch and friends: about 5 GB, some minutes) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint $(CONSTRAINTS) --editable ".[gopro,demo,tensorboard,dev]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/egoctl demo run --out runs/demo

test: $(STAMP)
	$(BIN)/python -m pytest

bench: $(STAMP)
	$(BIN)/python -m egoctl.tests.benchmarks

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -not -path "./.git/*" -prune -exec rm -rf {} +
