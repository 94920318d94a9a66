# Everything works on a fresh machine with Python 3.11 or newer: each target installs what it needs first.
# `make start ARGS="--port 8189"` passes options on.

PYTHON ?= python3
VENV := .venv
# On Windows (Git Bash, MSYS) a virtual environment has Scripts in place of bin.
BIN := $(if $(filter Windows_NT,$(OS)),$(VENV)/Scripts,$(VENV)/bin)
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Which build of torch: cpu, cu130, rocm7.1, xpu and the like, as PyTorch's own index calls them. Left out, it is the
# one that is installed, or else PyPI's (on Linux for CUDA, on Windows for the CPU alone, on macOS with MPS).
TORCH ?=
TORCH_INDEX := https://download.pytorch.org/whl
ROOMS := $(patsubst %/pyproject.toml,%,$(wildcard */pyproject.toml plugins/*/pyproject.toml))
EDITABLE := $(foreach room,$(ROOMS) .,-e $(room))
PROJECTS := pyproject.toml $(addsuffix /pyproject.toml,$(ROOMS))

.PHONY: install install-dev start test check format bench dist constraints clean

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(VENV)/.installed: $(PROJECTS) constraints.txt kernel/comfyk/__init__.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing comfyk into $(VENV). The first time torch is downloaded, which takes a few minutes."
	$(PIP) install -c constraints.txt $(EDITABLE)
	touch $@

ifneq ($(TORCH),)
install: $(VENV)/.torch-$(TORCH)
# Before the rest, which would bring PyPI's. Pip takes a build for as good as another of the same version, so what is
# installed goes first.
$(VENV)/.installed: | $(VENV)/.torch-$(TORCH)

$(VENV)/.torch-$(TORCH):
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing torch for $(TORCH) into $(VENV). This downloads up to a few gigabytes."
	$(PIP) uninstall --yes torch
	$(PIP) install -c constraints.txt --extra-index-url $(TORCH_INDEX)/$(TORCH) torch
	rm -f $(VENV)/.torch-*
	touch $@
endif

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install -c constraints.txt pip  # the first, since an older one may know no --group
	$(PIP) install -c constraints.txt --group dev
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

# Builds what is released, and tries it out in empty environments.
dist: install-dev
	$(BIN)/python release/dist.py $(ARGS)

# Pins what pyproject.toml files ask for: see release/constraints.py.
constraints: install-dev
	$(BIN)/python release/constraints.py $(ARGS)

clean:
	rm -rf $(VENV) dist
