# Two commands do everything on a machine with Python 3.11 or newer and make:
#   make quickstart   makes the environment if it is missing, then shows the whole of it on data made here
#   make test         makes the environment if it is missing, then runs the whole suite

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart test lint format environment

quickstart: environment
	$(BIN)/densenet-suite quickstart

test: environment
	$(BIN)/pytest -n auto --dist worksteal

lint: environment
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: environment
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

environment: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	touch $@
