# The targets that people, hooks and CI all call. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OVERRIDES ?=
WORKERS ?= 2

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: setup
setup: $(READY) ## Make the environment in .venv from the locked requirements

$(READY): requirements/dev.txt pyproject.toml tools/ensure-venv
	@bash tools/ensure-venv "$(PYTHON)" "$(VENV)"
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements/dev.txt
	rm -rf $(VENV)/lib/python*/site-packages/tests # smdebug-rulesconfig brings it, and it hides ours
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: horovod
horovod: $(READY) ## Build Horovod for the TensorFlow in .venv and install it; cached (ARGS=--no-cuda)
	@$(BIN)/python tools/build-horovod $(ARGS)

.PHONY: demo
demo: $(READY) ## Run the digits pipeline: pictures to an answering endpoint (OVERRIDES="train.epochs=5")
	$(BIN)/millrace run pipeline=digits $(OVERRIDES)

.PHONY: test
test: $(READY) ## Run all tests (ARGS="-k name" for some, WORKERS=4 for more at a time)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(ARGS)

.PHONY: fast
fast: $(READY) ## Run the tests that train nothing and start no browser
	$(BIN)/python -m pytest -m "not slow and not browser and not docker" $(ARGS)

.PHONY: coverage
coverage: $(READY) ## Run all tests and report line and branch coverage, workers' included
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered --cov-report=html $(ARGS)

.PHONY: bench
bench: $(READY) ## Measure beside what people use today, on a machine that does nothing else (ARGS="--quick" or --help)
	$(BIN)/python -m benchmarks $(ARGS)

.PHONY: lint
lint: $(READY) ## Check style, types and layering
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports

.PHONY: format
format: $(READY) ## Format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: docs
docs: $(READY) ## Build the documentation into site/
	$(BIN)/mkdocs build --strict

.PHONY: images
images: $(READY) ## Build the images and print their sizes (PUSH=registry.example.org/team/ pushes them)
	$(BIN)/millrace build $(if $(PUSH),push=$(PUSH))

.PHONY: prism
prism: $(READY) ## Install the server that holds tests of services against the API's contract
	@bash tools/ensure-prism $(VENV)

.PHONY: package
package: $(READY) ## Build the wheel and the source distribution into dist/
	rm -rf dist build
	$(BIN)/python -m build --no-isolation --outdir dist .

.PHONY: lock
lock: $(READY) ## Resolve the requirements again, with hashes
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --upgrade --extra local --extra horovod --extra kubeflow --extra rehearse --extra cluster --extra sagemaker-sdk --group dev --output-file requirements/dev.txt pyproject.toml
	bash tools/lock-images $(BIN)/uv --upgrade

.PHONY: clean
clean: ## Remove what was built (the cache of runs stays: rm -r .millrace)
	rm -rf build dist site htmlcov .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis \
	  .import_linter_cache *.egg-info
