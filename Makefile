# One virtual environment, .venv, shared by every target; a step runs again only when what it was made from has changed.
# Without make:  python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e ".[dev]" && .venv/bin/python -m pytest
# Tests are dealt out to two processes, by whole files: a file builds its fixtures once.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# pip would compile 15 000 files to byte code one after the other; some are templates or of another Python, and never imported.
INSTALL = $(BIN)/python -m pip install --no-compile -c constraints.txt
COMPILE = -$(BIN)/python -W ignore -m compileall -qq -j 0 $(VENV)/lib
BUILT_FROM := pyproject.toml setup.py constraints.txt $(shell find csrc -type f)

# The build's own environment obeys the constraints too: pip before 25.3 reads the first name, later ones the second.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt

.PHONY: demo test lint types docs evidence clean
.NOTPARALLEL:

demo: $(VENV)/demo.done  ## pip install -c constraints.txt -e ".[demo]" && fastsolve demo
	$(BIN)/fastsolve demo

test: $(VENV)/dev.done  ## pip install -c constraints.txt -e ".[dev]" && python -m pytest -n 2 --dist loadfile
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/dev.done
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/dev.done
	$(BIN)/mypy --strict

docs: $(VENV)/dev.done  ## the site, in site/
	$(BIN)/mkdocs build --strict

evidence: $(VENV)/dev.done  ## all of results/quality and results/search, and the pages made of them: an hour and a half on two idle cores
	$(BIN)/python -m benchmarks.quality
	$(BIN)/python -m benchmarks.claims
	$(BIN)/python -m benchmarks.search
	$(BIN)/python -m benchmarks.advice

clean:
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache fastsolve/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.done: $(BUILT_FROM) | $(BIN)/python
	$(INSTALL) -e ".[demo]"
	$(COMPILE)
	touch $@

$(VENV)/dev.done: $(BUILT_FROM) | $(BIN)/python
	$(INSTALL) -e ".[dev]"
	$(COMPILE)
	touch $@ $(VENV)/demo.done  # dev holds all that demo needs
