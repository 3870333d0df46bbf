# The commands of this repository. `make help` lists them.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
MATRIX := 3.11 3.12 3.13
PIP := $(BIN)/python -m pip --disable-pip-version-check
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-annotate $(if $(UPGRADE),--upgrade)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo up test test-long unit lint bench bench-llm lock clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## Start everything, run an example workflow, serve until Ctrl-C (ONCE=1: end after the example)
	@$(BIN)/python -m stack demo $(if $(filter-out 0,$(ONCE)),--once)

up: $(INSTALLED) ## Start everything and serve until Ctrl-C
	@$(BIN)/python -m stack up

test: $(INSTALLED_DEV) ## Run the tests, with coverage (ARGS="..." is handed to pytest)
	$(BIN)/python -m pytest -m "not long" --cov --cov-report=term-missing:skip-covered --cov-fail-under=95 $(ARGS)

test-long: $(INSTALLED_DEV) ## Run the tests that take long, and unit tests on each Python from 3.11 to 3.13
	@$(BIN)/python -m pytest -m long $(ARGS); status=$$?; \
	if [ $$status -eq 5 ]; then echo "There are no long tests."; else exit $$status; fi
	@set -e; for version in $(MATRIX); do \
		found=; \
		for python in python$$version "$$HOME"/.pyenv/versions/$$version.*/bin/python; do \
			if [ "$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>&1)" = $$version ]; \
			then found=$$python; break; fi; \
		done; \
		if [ -z "$$found" ]; then echo "Python $$version: not on this machine, left out."; continue; fi; \
		echo "Python $$version: $$found"; \
		$(MAKE) --no-print-directory unit VENV=.venv-$$version PYTHON=$$found; \
	done

unit: $(INSTALLED_DEV) ## Run the unit tests that need no Airflow process
	$(BIN)/python -m pytest -q tests/definitions tests/compiler tests/llm $(ARGS)

lint: $(INSTALLED_DEV) ## Check style, types and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED) ## Measure publishing, a fan-out and a chain (ARGS="--database postgresql://..." for PostgreSQL)
	@$(BIN)/python -m benchmarks.way_of_a_request $(ARGS)

bench-llm: $(INSTALLED) ## Compare the LLM router with others (ARGS="--write docs/benchmarks.md" to keep the result)
	@$(BIN)/python -m benchmarks.llm $(ARGS)

lock: $(INSTALLED_DEV) ## Write the lock files anew from pyproject.toml (UPGRADE=1: with the newest versions)
	$(COMPILE) --all-extras --group stack --output-file requirements.lock pyproject.toml
	$(COMPILE) --group test --group lint --constraints requirements.lock --output-file requirements-dev.lock

clean: ## Remove the virtual environments, caches and builds
	rm -rf .venv .venv-* build dist *.egg-info .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache \
		.import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
		echo "Python 3.11, 3.12 or 3.13 is needed, and $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
			"Name another one, such as: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "Making $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# uv installs in seconds what takes pip most of a minute. It comes as a wheel, pinned in the lock file; where it
# can't be had, or does not know the package index that pip was told of, pip installs.
define install
@echo "Installing $(1)"
@$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --no-deps --require-hashes -r $(1) \
	|| { echo "uv can't install here; pip will, which takes longer"; \
		$(PIP) install --quiet --no-deps --require-hashes -r $(1); }
endef

# The build backend is in the lock file, so the project itself is installed without a build environment, for
# which pip would download setuptools once more, in any version.
$(INSTALLED): requirements.lock pyproject.toml setup.cfg | $(BIN)/python
	@awk '/^[^ ]/ {keep = /^uv==/} keep' requirements-dev.lock > $(VENV)/uv.lock
	@$(PIP) install --quiet --no-deps --require-hashes --only-binary :all: -r $(VENV)/uv.lock || true
	$(call install,requirements.lock)
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(INSTALLED_DEV): $(INSTALLED) requirements-dev.lock
	$(call install,requirements-dev.lock)
	@touch $@
