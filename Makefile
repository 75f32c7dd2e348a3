# One place for what a newcomer and CI run. `make` alone lists the targets.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
LOCK ?= requirements/dev.txt
Q ?= Why do services need a fallback?
# As it was typed: make would take `$H` of `$HOME` for a variable of its own, and the shell quotes.
export QUESTION := $(value Q)
unexport Q

.DEFAULT_GOAL := help
.PHONY: help ask test test-lowest test-newest lock bench soak picture reference man clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

ask: $(VENV)/.installed ## install, pull a small local model, and ask it: make ask Q="why?"
	@$(BIN)/tieredllm models path smollm2-135m >/dev/null 2>&1 || $(BIN)/tieredllm models pull smollm2-135m
	@$(BIN)/tieredllm ask -- "$$QUESTION"; code=$$?; \
	echo; echo "To have tieredllm on your PATH:  export PATH=\"$(abspath $(BIN)):\$$PATH\""; exit $$code

test: $(VENV)/.installed-dev ## install what the tests need, and run every check
	@VENV=$(VENV) scripts/check

test-lowest: ## every check on the lowest versions allowed: before a release
	@$(MAKE) test VENV=.venv-lowest LOCK=requirements/lowest.txt

test-newest: ## every check on the newest versions there are: before a release
	@rm -f .venv-newest/.installed-dev
	@$(MAKE) test VENV=.venv-newest LOCK=

lock: $(VENV)/.installed-dev ## write requirements/*.txt after a change of pyproject.toml; UPGRADE=1 takes the newest
	@VENV=$(VENV) scripts/lock $(if $(UPGRADE),--upgrade)

bench: $(VENV)/.installed-dev ## measure it beside the least that could do the same
	@$(BIN)/python -m benchmarks $(ROWS)

soak: $(VENV)/.installed-dev ## overload and attack it, and count: make soak MINUTES=600 PARTS="gateway"
	@$(BIN)/python scripts/soak.py --minutes $(or $(MINUTES),2) $(PARTS)
	@$(if $(PARTS),,$(BIN)/python -m benchmarks.soak)

reference: $(VENV)/.installed-dev ## make the tables of the references anew
	@$(BIN)/python scripts/reference.py

man: $(VENV)/.installed-dev ## write a man page for each command, in man/
	@$(BIN)/python scripts/manpages.py

picture: $(VENV)/.installed-dev ## draw the README's pictures anew
	@$(BIN)/python scripts/picture.py
	@$(BIN)/python scripts/startup.py

clean: ## remove the virtual environments and caches
	rm -rf .venv .venv-lowest .venv-newest .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV)

# llama.cpp is compiled on the way, some minutes the first time; then pip has it in its cache.
$(VENV)/.installed: $(VENV)/bin/python requirements/runtime.txt requirements/build.txt pyproject.toml
	@$(BIN)/python scripts/install.py requirements/runtime.txt
	@touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python $(LOCK) requirements/build.txt pyproject.toml
	@$(BIN)/python scripts/install.py $(LOCK)
	@touch $(VENV)/.installed $@
