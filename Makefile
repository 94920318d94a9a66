# Everything works on a fresh machine with Python 3.11 or newer: each target installs what it needs first.
# `make start ARGS="--port 8189"` passes options on.

PYTHON ?= python3
VENV := .venv
# On Windows (Git Bash, MSYS) a virtual environment has Scripts in place of bin.
BIN := $(if $(filter Windows_NT,$(OS)),$(VENV)/Scripts,$(VENV)/bin)
ROOMS := kernel plugins/core_nodes plugins/http plugins/storage plugins/frontend
EDITABLE := $(foreach room,$(ROOMS) .,-e $(room))
PROJECTS := pyproject.toml $(addsuffix /pyproject.toml,$(ROOMS))
DEV := pytest pytest-asyncio hypothesis schemathesis transformers diffusers playwright ruff pyright import-linter piexif "psycopg[binary]"

.PHONY: install install-dev start test check format bench clean

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(VENV)/.installed: $(PROJECTS) constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(EDITABLE)
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(DEV)
	touch $@

start: install
	$(BIN)/comfyk start $(ARGS)

test: install-dev
	$(BIN)/python -m pytest $(ARGS)

check: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: install-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install-dev
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV)
