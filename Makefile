# One place for what a newcomer and CI run. `make` alone lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
Q ?= Why do services need a fallback?

.DEFAULT_GOAL := help
.PHONY: help ask test bench picture clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

ask: $(VENV)/.installed ## install, pull a small local model, and ask it: make ask Q="why?"
	@$(BIN)/tieredllm models path smollm2-135m >/dev/null 2>&1 || $(BIN)/tieredllm models pull smollm2-135m
	@$(BIN)/tieredllm ask "$(Q)"

test: $(VENV)/.installed-dev ## install what the tests need, and run every check
	@scripts/check

bench: $(VENV)/.installed-dev ## measure it beside the least that could do the same
	@$(BIN)/python -m benchmarks $(ROWS)

picture: $(VENV)/.installed-dev ## draw the README's pictures anew
	@$(BIN)/python scripts/picture.py
	@$(BIN)/python scripts/startup.py

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

# llama-cpp-python compiles llama.cpp here: some minutes the first time, then pip has it cached.
$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(VENV)/.installed $@
