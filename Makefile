# everloop: the few commands of this house. Each builds .venv by itself, once, and again when the pins change.
#
#   make demo    a live server, real streams, drift, retraining and swaps in your terminal
#   make test    lint, types, layers, and every test; of the npm package, too, where there is Node
#   make node    lint, types and tests of the npm package and its example alone
#   make schema  the types of the npm package again, after the server's operations have changed
#   make coverage  the same tests, and which lines they reach
#   make bench   every benchmark, a table of every bar, and the pictures of the README
#   make lint    ruff, mypy, import-linter
#   make docs    runs every code block of README.md and docs/
#   make clean   removes what the above wrote, the environment too

SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.built
# The first of these that is 3.11 or newer. Or say: make PYTHON=/path/to/python test
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	  "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)
BENCH ?=
# A run with an end; `make demo DEMO=` goes on until Ctrl-C.
DEMO ?= --once
PYTEST ?=
NODE ?= node
NPM ?= npm
NPM_PACKAGE := clients/typescript
# What is linted, built and tested with npm: the package first, then who uses it.
NPM_FOLDERS := $(NPM_PACKAGE) examples/fastify
# Test files at a time: many wait for disks and other processes, so one more than there are cores.
JOBS ?= 3
# In the order of tests/conftest.py, the longest first.
SPREAD := -n $(JOBS) --dist loadfile --no-loadscope-reorder

# What pip leaves uncompiled is compiled once, by whoever imports it first; most of it nobody ever imports.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help venv demo test node schema coverage lint bench docs format clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   \(make .*\)/\1/p' Makefile

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { \
	  echo "everloop needs Python 3.11 or newer; 'python3' here is: $$(python3 --version 2>&1)." >&2; \
	  echo "Install one, or say where it is: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; v = sys.version_info; sys.exit(f"everloop needs Python 3.11 or newer, $(PYTHON) is {v[0]}.{v[1]}" if v < (3, 11) else 0)'
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "Could not make a virtual environment. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Building $(VENV): some minutes the first time, seconds afterwards."
	$(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-compile -c constraints.txt --group dev -e '.[all]'
	@touch $@

demo: $(STAMP)
	$(BIN)/everloop demo $(DEMO)

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

test: lint node
	$(BIN)/pytest $(SPREAD) $(PYTEST)

# Its tests start servers of this environment. What cannot be tested is told; under CI=true it is an error.
node: $(STAMP)
	@v=$$($(NODE) --version 2>/dev/null || true); case "$$v" in \
	  v2[0-9].*|v[3-9][0-9].*) PATH="$$(dirname "$$(command -v $(NODE))"):$$PATH"; export PATH; for folder in $(NPM_FOLDERS); do (cd $$folder && \
	      { test node_modules/.package-lock.json -nt package-lock.json || $(NPM) ci --silent; } && $(NPM) run --silent check) || exit 1; done ;; \
	  *) echo "NOTHING OF THE NPM PACKAGE WAS TESTED: it takes Node 20.18 or newer, here is $${v:-none} (NODE=/path/to/node)" >&2; \
	    test "$$CI" != true ;; esac

schema: $(STAMP)
	$(BIN)/python -c 'import json; from everloop.api.http.openapi import document; print(json.dumps(document(), indent=1))' > $(NPM_PACKAGE)/openapi.json
	cd $(NPM_PACKAGE) && $(NPM) run --silent generate

# Half as long again: every line is watched, in the servers and fits that tests start, too.
# The data of this run only: stale files of children that were killed would count into it.
coverage: $(STAMP)
	@rm -f .coverage .coverage.*
	$(BIN)/pytest $(SPREAD) --cov --cov-report=term $(PYTEST)

bench: $(STAMP)
	$(BIN)/python benchmarks/run.py $(BENCH)

docs: $(STAMP)
	$(BIN)/pytest -q tests/house/test_docs.py

clean:
	rm -rf $(VENV) .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache benchmarks/results dist build \
	  $(foreach folder,$(NPM_FOLDERS),$(addprefix $(folder)/,node_modules dist dist-test dist-bench))
