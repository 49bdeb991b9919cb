# Everything here sets up what it needs in .venv first, once, and again when pyproject.toml or the constraints change.
# A bare machine needs make and Python 3.11 or newer; nothing else is assumed and nothing is installed outside .venv.

ENV     ?= ALE/Pong-v5
RECIPE  ?=
ARGS    ?=
# Test processes side by side. Tests start processes of their own, so more than the cores only makes timing worse.
WORKERS ?= 2

VENV    := .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready
DOCS    := $(VENV)/.ready-docs
PIP     := $(BIN)/python -m pip --disable-pip-version-check

# Compute threads that spin would starve each other when tests share two cores.
QUIET   := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help setup train test lint check bench answers systems docs clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## .venv with redline and its development tools, nothing more

train: $(READY)  ## train an agent: ENV=ALE/Pong-v5 RECIPE=ppo ARGS="--seed 1"
	@$(BIN)/redline train $(ENV) $(if $(RECIPE),--recipe $(RECIPE)) $(ARGS)

test: $(READY)  ## every test (ARGS="-k replay" selects)
	@$(QUIET) $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

lint: $(READY)  ## format, lint and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

check: lint  ## the same and the quick tests, in under two minutes
	@$(QUIET) $(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not gpu" $(ARGS)

bench: $(READY)  ## the machine's ceilings and Redline beside them, a quarter of an hour (ARGS="links" is one of benchmarks/)
ifeq ($(strip $(ARGS)),)
	@$(BIN)/redline bench training --seconds 8 --repeats 2
	@$(BIN)/redline bench links
	@$(BIN)/redline bench inference
	@$(BIN)/redline bench environments
else
	@$(BIN)/redline bench $(ARGS)
endif

answers: $(READY)  ## CPU or GPU, and what to parallelise: asked of this machine; plots in docs/results
	@$(BIN)/redline study crossover --out docs/results
	@$(BIN)/redline study parallelise --out docs/results

systems: $(READY)  ## diagrams and tables of docs/systems, from the code
	@$(BIN)/python -m tests.architectures.pages

docs: $(DOCS)  ## the documentation, into site/; any warning is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html is the first page"

clean:  ## everything built or cached, .venv too; runs/ stays
	rm -rf $(VENV) site build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests benchmarks examples docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# 3.11 first: it is the version the tests run on. A name on PATH may be a stub that cannot run, so each is tried.
$(READY): pyproject.toml requirements/constraints.txt
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    for python in python3.11 python3.12 python3.13 python3; do \
	        if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	            found=$$python; break; \
	        fi; \
	    done; \
	    if [ -z "$$found" ]; then \
	        echo "Redline needs Python 3.11 or newer with venv, and found none as python3.11, 3.12, 3.13 or python3." >&2; \
	        echo "On Debian or Ubuntu: apt install python3 python3-venv" >&2; \
	        exit 1; \
	    fi; \
	    echo "Setting up $(VENV) with $$($$found --version); the first time takes a few minutes"; \
	    $$found -m venv --clear $(VENV) || exit 1; \
	else \
	    echo "Bringing $(VENV) up to date"; \
	fi
	@$(PIP) install -qq -c requirements/constraints.txt -e '.[dev]'
	@touch $@

$(DOCS): $(READY)
	@$(PIP) install -qq -c requirements/constraints.txt -e '.[docs]'
	@touch $@
