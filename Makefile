# Everything here happens in .venv; nothing is installed outside the checkout.
# Another Python: make demo PYTHON=python3.12      Some tests: make test ARGS="-k resume"

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
PROMPT := The for statement

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check lint docs clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.installed ## train a small GPT on the Python documentation and let it write (a minute or two)
	@mkdir -p demo
	cd demo && ../$(BIN)/gptcli train --profile quickstart
	cd demo && ../$(BIN)/gptcli sample --prompt "$(PROMPT)"
	@printf '%s\n' '' \
	  'A GPT trained on this machine wrote the text above. What to type next:' \
	  '  source $(BIN)/activate && cd demo' \
	  '  gptcli sample --prompt "A class" --temperature 0.7' \
	  '  gptcli fetch YOUR-TEXT.txt --name mine && gptcli train mine --budget 2m' \
	  '  gptcli --help'

test: $(VENV)/.installed-dev ## run the tests, with a process for each core
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal $(ARGS)

check: lint test ## what CI runs: lint, then test

lint: $(VENV)/.installed-dev ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(VENV)/.installed-dev ## write the pages that are made from the program, such as docs/cli.md
	$(BIN)/python docs/generate.py

clean: ## remove .venv, caches and builds; the texts and runs in demo/ stay
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find gptcli tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: pyproject.toml | $(BIN)/pip
	@echo "Installing gptcli into $(VENV) (torch is large: this takes minutes on a slow line) ..."
	@$(PIP) install --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/pip
	@echo "Installing gptcli and what its tests need into $(VENV) (torch is large) ..."
	@$(PIP) install --editable '.[dev]'
	@touch $(VENV)/.installed $@

# pip is the last thing venv puts there, so an interrupted venv is made again. 21.3 is its first for editable installs.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "gptcli needs Python 3.10 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1)." \
	    "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@$(PIP) install 'pip>=21.3'
