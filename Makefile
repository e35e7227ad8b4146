# captioner, from a clone to a result. Everything is installed on first use into .venv, with uv if available, else with pip.
#
#   make caption IMAGE=photo.jpg         caption a photo (installs the light package: no torch)
#   make demo                            serve a page to try it on (installs Gradio)
#   make test                            run the tests (installs everything: torch and its CUDA libraries are 5 GB)
#   make test-all                        run the slow tests too
#   make lint                            formatting, lint and types
#   make check                           lint and test: what must pass before a change is merged
#   make format                          format the code and apply automatic fixes
#   make train CONFIG=configs/tiny.yaml  train a model
#   make docs                            build the documentation into site/; warnings are errors
#
# ARGS adds options: make test ARGS="-k beam". PYTHON says which Python to use: make PYTHON=python3.12 caption.

IMAGE = examples/photographer.jpg
CONFIG = configs/tiny.yaml
ARGS =
PYTHON =

VENV = .venv
BIN = $(VENV)/bin
LIGHT = $(VENV)/.installed-light
DEMO = $(VENV)/.installed-demo
FULL = $(VENV)/.installed-full
DOCS = $(VENV)/.installed-docs

MAKEFLAGS += --no-builtin-rules
.SUFFIXES:
.PHONY: help caption demo test test-all lint check format train docs
export IMAGE CONFIG  # so that the shell sees a path with spaces as one word
# Bytecode is kept, whatever the environment says: to compile torch takes ten seconds, and tests start many processes.
export PYTHONDONTWRITEBYTECODE =

help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile

caption: $(LIGHT)
	@$(BIN)/captioner caption $(ARGS) -- "$$IMAGE"

demo: $(DEMO)
	@$(BIN)/captioner demo $(ARGS)

test: $(FULL)
	$(BIN)/python -m pytest $(ARGS)

test-all: $(FULL)
	$(BIN)/python -m pytest -m '' $(ARGS)

lint: $(FULL)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

check: lint test

format: $(FULL)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

train: $(FULL)
	$(BIN)/python scripts/train.py --config "$$CONFIG" $(ARGS)

docs: $(DOCS)
	$(BIN)/mkdocs build --strict

# --- Installation: what it says goes to stderr, and a stamp is written only once all went well ---

# Bytecode is compiled on first import instead: most of what is installed is never imported.
install = if command -v uv >/dev/null; then uv pip install -q --python $(BIN)/python -e $(1); \
	else $(BIN)/python -m pip install -q --disable-pip-version-check --no-compile -e $(1); fi >&2

$(LIGHT): pyproject.toml | $(BIN)/pip
	@echo 'Installing captioner into $(VENV), once (less than half a minute) ...' >&2
	@$(call install,.)
	@touch $@

$(DEMO): pyproject.toml | $(BIN)/pip
	@echo 'Installing captioner with its demo into $(VENV), once (about a minute) ...' >&2
	@$(call install,'.[demo]')
	@touch $(LIGHT) $@

$(FULL): pyproject.toml | $(BIN)/pip
	@echo 'Installing captioner with torch and all tools into $(VENV), once (5 GB, some minutes) ...' >&2
	@$(call install,'.[test]')
	@touch $(LIGHT) $(DEMO) $@

$(DOCS): pyproject.toml | $(BIN)/pip
	@echo 'Installing what builds the documentation into $(VENV), once (less than a minute) ...' >&2
	@$(call install,'.[docs]')
	@touch $(LIGHT) $@

# pip is the last thing that comes into a new environment, so its presence says that the environment is complete. uv looks
# for a Python that pyproject.toml allows; without uv, or where PYTHON names one, it is checked here.
$(BIN)/pip:
	@if [ -z '$(PYTHON)' ] && command -v uv >/dev/null; then exec uv venv -q --seed --allow-existing $(VENV) >&2; fi; \
	fail() { echo "$$1" >&2; exit 1; }; \
	python='$(or $(PYTHON),python3)'; \
	version=$$("$$python" -c 'import platform; print(platform.python_version())') \
		|| fail "captioner needs Python 3.10 or newer, and '$$python' does not run."; \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| fail "captioner needs Python 3.10 or newer; $$python is $$version. Name a newer one: make PYTHON=python3.12 ..."; \
	"$$python" -c 'import venv, ensurepip' 2>/dev/null \
		|| fail "$$python lacks the venv module. On Debian and Ubuntu: sudo apt install python3-venv"; \
	"$$python" -m venv $(VENV) >&2
