# Every target works on a fresh machine that has make and Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Python compiles what it imports; pip would compile all of PyTorch, for most of a minute.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
# Written last, so an interrupted installation is taken up again by the next make.
INSTALLED := $(VENV)/installed
# Where it is set, every process would compile PyTorch and the tests anew, for ten seconds and more.
unexport PYTHONDONTWRITEBYTECODE

# PyTorch's build for CPUs, since the one of PyPI brings 5 GB of CUDA libraries: on Linux without an NVIDIA device, unless
# pip has been given an index of its own. `make TORCH_INDEX=URL mnist` takes it from elsewhere, `make TORCH_INDEX= mnist`
# leaves all to pip.
TORCH_INDEX ?= auto

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help mnist test check docs format bench clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

mnist: $(INSTALLED)  ## from MNIST's images to new digits and a report, in runs/mnist
	$(BIN)/scattergen fit mnist --out runs/mnist

test: $(INSTALLED)  ## run all tests and the examples in the docstrings
	$(BIN)/python -m pytest -n auto --dist worksteal

check: $(INSTALLED)  ## lint, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(INSTALLED)  ## build the documentation site in site/; a warning is an error
	$(BIN)/mkdocs build --strict

format: $(INSTALLED)  ## format the code and fix what the linter can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(INSTALLED)  ## run every benchmark
	@set -e; for benchmark in benchmarks/[!_]*.py; do \
		echo "== $$benchmark"; $(BIN)/python "$$benchmark"; done

clean:  ## remove caches and build results (.venv and runs/ stay)
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist site
	find src tests benchmarks examples -type d -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "scattergen needs Python 3.11 or newer, which '$(PYTHON)' is not: name another by make PYTHON=/path/to/python3.12" >&2; \
		exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@index="$(TORCH_INDEX)"; \
	if test "$$index" = auto; then \
		index=https://download.pytorch.org/whl/cpu; \
		if test "$$(uname -s)" != Linux || test -e /dev/nvidia0 || command -v nvidia-smi >/dev/null || \
			$(BIN)/python -m pip config list 2>/dev/null | grep -Eq 'index|find-links'; then index=; fi; \
	fi; \
	test -z "$$index" || \
		$(PIP_INSTALL) --retries 1 --no-deps --index-url "$$index" torch || \
		echo "PyTorch's build for CPUs is not to be had at $$index: taking the one that pip finds." >&2
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@
