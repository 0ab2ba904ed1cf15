# make demo   sets up and runs the main job on the example set (the package index is the only host; it also has the model)
# make test   sets up and runs all tests
# make check  ruff, pyright, tests          make bench  the whole job on the example visits, timed
# make bench BENCH="…"  with flags of bench/job.py, such as those of the peers' environments (bench/README.md)

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: setup demo test check bench clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@

demo: setup
	$(BIN)/python demo_fine_tuner.py

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest

bench: setup
	$(BIN)/python bench/job.py $(BENCH)

clean:
	rm -rf $(VENV) outputs build
