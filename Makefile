# Tombola. `make demo` and `make test` need only Python >= 3.11 and make; everything is installed into .venv.

VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN := $(VENV)/bin
# Extras that the tests are installed with, further options of pytest, and processes that share the tests out: as many
# as there are cores, but no more than four, which need 2 GB each.
EXTRAS ?= dev
TESTING ?=
WORKERS ?= -n logical --maxprocesses 4 --dist worksteal
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: help demo test check bench docs docs-figures clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo           install, then find, verify and show a ticket on real digits (about a minute)'
	@echo 'make test           run the tests'
	@echo 'make check          ruff and mypy --strict'
	@echo 'make bench          run benchmarks/'
	@echo 'make docs           build the site of the documentation in build/site/html'
	@echo 'make docs-figures   tables, numbers and figures of the documentation from docs/results'
	@echo 'make clean          remove .venv, caches and builds (runs/ stays)'

demo: $(VENV)/.installed
	$(BIN)/tombola demo

test: $(VENV)/.installed-$(EXTRAS)
	$(BIN)/python -m pytest -q $(WORKERS) $(TESTING)

check: $(VENV)/.installed-$(EXTRAS)
	$(BIN)/ruff check
	$(BIN)/ruff format --check --quiet
	$(BIN)/mypy

bench: $(VENV)/.installed
	@for file in $(filter-out benchmarks/record.py,$(wildcard benchmarks/*.py)); do echo "== $$file"; $(BIN)/python $$file || exit 1; done

docs: $(VENV)/.installed-$(EXTRAS)
	$(BIN)/python docs/make/website.py

docs-figures: $(VENV)/.installed
	$(BIN)/python docs/make

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make an installation happen once, and again when what is to be installed changes.
$(VENV)/pyvenv.cfg:
	@test -n "$(PYTHON)" || { echo 'Python 3.11 or newer is needed; name it: make PYTHON=/path/to/python3' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/pyvenv.cfg
	@echo 'installing Tombola and PyTorch into $(VENV) (some minutes, once)'
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-$(EXTRAS): pyproject.toml constraints.txt | $(VENV)/pyvenv.cfg
	@echo 'installing Tombola, PyTorch and the test tools into $(VENV) (some minutes, once)'
	$(PIP) -e '.[$(EXTRAS)]'
	@touch $@ $(VENV)/.installed
