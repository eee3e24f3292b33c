# Everything a fresh clone needs is here: Python 3.11 or newer, make and gcc are enough to start.
#   make demo    detect cells on two small images, write demo-output/
#   make test    lint, types, import layers, then the whole test suite (starts its own X server)
#   make lint    ruff, mypy, import-linter, npe2 validate
#   make bench   every benchmark, both sides of each comparison in one process
#   make lock    resolve constraints.txt again
#   make clean   remove what the other targets made (`make distclean`: .venv too)

SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.celldetr-installed
LIBS_STAMP := $(VENV)/.celldetr-system-libs

# torch starts one thread a core in every process; more than four only fight in these tests.
OMP_NUM_THREADS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((n < 4 ? n : 4)))
export OMP_NUM_THREADS

PYTEST_ARGS ?=
XVFB = $(shell [ -n "$$DISPLAY" ] || [ "$$(uname -s)" != Linux ] || echo 'xvfb-run -a -s "-screen 0 1600x1000x24"')

.DEFAULT_GOAL := help
.PHONY: help install system-libs demo test lint types bench lock clean distclean

help:
	@sed -n 's/^#   //p' Makefile

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt .ci/setup
	@VENV=$(VENV) .ci/setup python
	@touch $@

system-libs: $(LIBS_STAMP)

$(LIBS_STAMP): .ci/setup | $(STAMP)
	@.ci/setup system-libs
	@touch $@

demo: $(STAMP)
	$(BIN)/celldetr demo --out demo-output

test: lint $(LIBS_STAMP)
ifeq ($(strip $(PYTEST_ARGS)),)
	@XVFB='$(XVFB)' PYTHON=$(BIN)/python .ci/tests
else
	$(XVFB) $(BIN)/python -m pytest $(PYTEST_ARGS)
endif

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/npe2 validate napari-celldetr --imports

bench: $(STAMP)
	@set -e; for script in benchmarks/[!_]*.py; do \
	  echo "== $$script"; $(BIN)/python "$$script"; done

lock: $(STAMP)
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
	  --no-emit-index-url --no-annotate --custom-compile-command "make lock" -o constraints.txt

clean:
	rm -rf demo-output build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
