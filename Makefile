# What people and CI do with a checkout, from nothing but Python (3.11 to 3.13) and make. `make` lists it.

VENV := .venv
BIN := $(VENV)/bin
PYTHON = $(firstword $(foreach p,python3.11 python3,$(shell $(p) -c 'import sys; assert sys.version_info >= (3, 11); print("$(p)")' 2>/dev/null)))
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
PROTOS = $(wildcard protos/ffnsearch/*/*.proto)
# What the contract imports lies among the installed packages, there under a name of its own.
SITE = $(shell $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
OPERATIONS = google/longrunning/operations.proto=$(SITE)/google/longrunning/operations_proto.proto
PROTOC = $(BIN)/python -m grpc_tools.protoc --proto_path=protos --proto_path=$(SITE) --proto_path=$(OPERATIONS)
# A process for each core; each builds the small snapshots that its tests share.
PYTEST := $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist worksteal
# What failed beside other tests, which may be for want of time, again and alone; what fails then has failed. Only after
# status 1, tests that failed: where pytest itself broke off, tests are left that never ran.
RERUN := $(BIN)/pytest --last-failed --last-failed-no-failures none
PROTO_IMAGE := build/protos.binpb
CACHES := .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist .demo

# A stamp is newer than the files that decide what is installed, so an install runs only when they change.
TO_RUN := $(VENV)/.stamp-run
TO_DEVELOP := $(VENV)/.stamp-develop

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo test check format protos clean

help: ## List the targets.
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1	/' | expand -t 10

venv: $(TO_DEVELOP) ## Install ffnsearch and all that its development needs into .venv.

demo: $(TO_RUN) ## Install what is needed, then show ffnsearch at work from end to end.
	$(BIN)/ffnsearch demo

test: $(TO_DEVELOP) ## Run the tests.
	$(PYTEST)

check: $(TO_DEVELOP) ## Do all that CI does: format, lint, types, import order, wire contract, then the tests.
	$(BIN)/ruff format --quiet --diff .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	@mkdir -p $(dir $(PROTO_IMAGE))
	$(PROTOC) --include_imports --include_source_info --descriptor_set_out=$(PROTO_IMAGE) $(PROTOS)
	$(BIN)/buf lint $(PROTO_IMAGE) --path ffnsearch --config protos/buf.yaml
	$(PYTEST) || { test $$? -eq 1 && $(RERUN); }

format: $(TO_DEVELOP) ## Format the code and mend what the linter can mend by itself.
	$(BIN)/ruff check --quiet --fix-only .
	$(BIN)/ruff format --quiet .

protos: $(TO_DEVELOP) ## Write the generated modules beside the .proto files (a test compares them).
	$(PROTOC) --python_out=protos --pyi_out=protos --grpc_python_out=protos $(PROTOS)

clean: ## Remove caches, build results and the demo's files; .venv stays.
	rm -rf $(CACHES)
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(BIN)/python:
	$(if $(PYTHON),,$(error ffnsearch needs Python 3.11 or later; none was found as python3.11 or python3))
	$(PYTHON) -m venv $(VENV)

$(TO_RUN): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV); the first time takes some minutes."
	$(PIP_INSTALL) '.[shakespeare]'
	@touch $@

$(TO_DEVELOP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV); the first time takes some minutes."
	$(PIP_INSTALL) '.[dev,shakespeare]'
	@touch $(TO_RUN) $@
