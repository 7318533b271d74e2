# The project's commands. Everything runs in its own virtual environment, .venv.
#   make demo PIP_ARGS='...'   passes options to pip, for example an index of CPU builds of torch
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
EXTRAS := edge,coordinator,simulation,flower,export,dev
PIP_ARGS ?=
SOURCES := pyproject.toml constraints.txt

.PHONY: help setup demo test e2e soak fuzz lint format protos clean

help:               ## what there is
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(VENV)/.installed-dev

$(VENV)/.installed-demo: $(SOURCES)
	@$(PYTHON) tools/check_machine.py $(VENV)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[edge,coordinator,simulation]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-demo
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

demo: $(VENV)/.installed-demo   ## a fleet round on real handwriting, about three minutes; prints where the report is
	$(BIN)/prunefleet simulate

test: $(VENV)/.installed-dev    ## every test that needs pip only
	$(BIN)/python -m pytest -q

e2e: $(VENV)/.installed-demo    ## a fleet in containers, parts of it killed on the way; needs Docker, about ten minutes
	$(BIN)/python tests/e2e/fleet.py

soak: $(VENV)/.installed-dev    ## the kill tests in their long form, about a minute; writes benchmarks/results/kills.json
	$(BIN)/python benchmarks/kills.py

fuzz: $(VENV)/.installed-dev    ## look for input that does more than be refused, ten minutes (FUZZ_S=20: short)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[fuzz]'
	$(BIN)/python fuzz/fuzz_decoders.py --seconds $(or $(FUZZ_S),600)

lint: $(VENV)/.installed-dev    ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/generate_protos.py --check

format: $(VENV)/.installed-dev  ## put sources into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(VENV)/.installed-dev  ## regenerate what protoc makes
	$(BIN)/python tools/generate_protos.py

clean:              ## remove the environment and caches (never runs/)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
