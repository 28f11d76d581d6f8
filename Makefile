# make run    install into .venv, then train the whole chain on the text already on this disk
# make test   the tests, two files at a time          make check   ruff and mypy          make clean   remove .venv
#
# More arguments: make run ARGS="stages.ppo.stage.kl_coef=0.1"      make test ARGS="tests/backbone -x"
# Another Python: make run PYTHON=/usr/bin/python3.13         (it is used once, to make .venv)

SHELL := /bin/sh
BIN := .venv/bin
ARGS ?=

# The first Python that is new enough; looked for only when .venv has to be made.
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11 python; do \
  if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then command -v $$name; break; fi; done)

# On Linux pip may offer torch with 5 GB of CUDA packages. For the CPU build alone, name an index that holds it:
# make run TORCH_INDEX=URL (torch's own install page shows it). Only torch is looked for there.
TORCH_INDEX ?=
TORCH_OPTIONS = $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
TORCH_RANGE = $$($(BIN)/python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
  print(next(name for name in project['dependencies'] if name.startswith('torch>')))")

.PHONY: help run test check install clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | sed -n '1,5p'

run: $(BIN)/.installed
	$(BIN)/python scripts/pipeline.py $(ARGS)

test: $(BIN)/.installed-test
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

check: $(BIN)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/mypy

install: $(BIN)/.installed

# The stamps live in .venv and follow pyproject.toml: a second call installs nothing, a new dependency is installed.
$(BIN)/.installed: pyproject.toml | $(BIN)/python
	@echo "Installing into .venv: some minutes the first time, nothing the next."
	$(BIN)/python -m pip install --quiet --no-deps $(TORCH_OPTIONS) "$(TORCH_RANGE)"
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(BIN)/.installed-test: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	@touch $@

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
	  echo "error: no Python 3.11 or newer found; install one, or name it: make run PYTHON=/path/to/python3" >&2; exit 1; fi
	"$(PYTHON)" -m venv .venv || { rm -rf .venv; exit 1; }

clean:
	rm -rf .venv
