# Everything runs in .venv, made from python3 when missing. PYTHON=... picks another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
CONSTRAINTS := .ci/constraints.txt

.PHONY: help install demo test test-newest bench soak docs check format clean

help:
	@echo "make demo    run extract-teacher, train-student and evaluate on the embedded demo world"
	@echo "make test    run the tests"
	@echo "make test-newest  the store's tests on the newest Python and zarr to be had, without torch"
	@echo "make soak    kill, damage and fault runs of many processes (some minutes; not in make test)"
	@echo "make bench   run the benchmarks and print their figures"
	@echo "make docs    count every teacher's parameters and GFLOPs, and write docs/teachers.md"
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

# A process per core, each with one thread. A file stays in one process: its fixtures cost seconds.
test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 \
		--dist loadfile --no-loadscope-reorder

# Not pinned, on purpose: what is newest today. Without a newer Python it says so and stops.
NEWEST := .venv-newest
STORE_PACKAGES := zarr obstore polars pyarrow numpy blake3 google-crc32c simplejpeg typer tqdm \
	pytest pytest-timeout hypothesis boto3 "moto[server]"
STORE_TESTS := tests/pipeline/files tests/pipeline/store tests/pipeline/sharing

test-newest: $(STAMP)
	@newest=""; for python in python3.15 python3.14 python3.13 python3.12 \
		$$(ls -rd $$HOME/.pyenv/versions/3.1[2-9].*/bin/python 2>/dev/null); do \
		if $$python -c "" 2>/dev/null; then newest=$$python; break; fi; done; \
	if [ -z "$$newest" ]; then echo "No Python newer than 3.11 here: nothing to test."; exit 0; fi; \
	set -ex; $$newest -m venv --clear $(NEWEST); \
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check $(STORE_PACKAGES); \
	export PYTHONPATH=$(CURDIR)/.alias; \
	$(NEWEST)/bin/python -m pytest $(STORE_TESTS); \
	rm -rf $(NEWEST)/exchange; \
	$(BIN)/python -m egoctl.tests.worlds.exchange write $(NEWEST)/exchange/old; \
	$(NEWEST)/bin/python -m egoctl.tests.worlds.exchange check $(NEWEST)/exchange/old; \
	$(NEWEST)/bin/python -m egoctl.tests.worlds.exchange write $(NEWEST)/exchange/new; \
	$(BIN)/python -m egoctl.tests.worlds.exchange check $(NEWEST)/exchange/new

docs: $(STAMP)
	$(BIN)/python -m egoctl.tests.repository.teachers_page

bench: $(STAMP)
	$(BIN)/python -m egoctl.tests.benchmarks

soak: $(STAMP)
	$(BIN)/python -m egoctl.tests.soak

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(NEWEST) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -not -path "./.git/*" -prune -exec rm -rf {} +
