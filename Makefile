# `make demo` and `make test` need nothing but Python 3.11+ and make: they set up .venv on first use.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONDONTWRITEBYTECODE := # many short processes: each would compile all that it imports

.PHONY: setup demo test check bench ui clean

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("lhcnet needs Python 3.11 or newer: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: setup data/raw/faces.zip ## the whole pipeline on drawn faces, through Kubeflow's local runner
	$(BIN)/python -m pipeline local --profile demo
	@echo
	@echo "Compare the runs in MLflow:  make ui"
	@echo "The registered model:        models:/lhcnet-demo@champion (MLFLOW_TRACKING_URI=sqlite:///$(CURDIR)/mlflow.db)"

data/raw/faces.zip: | setup
	$(BIN)/lhcnet faces $@

test: setup
	$(BIN)/python -m pytest -n auto --dist loadfile

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup ## on an idle machine: every figure of docs/performance.md, half an hour
	$(BIN)/python benchmarks

ui: setup ## MLflow on http://127.0.0.1:5000
	$(BIN)/mlflow ui --backend-store-uri $${MLFLOW_TRACKING_URI:-sqlite:///$(CURDIR)/mlflow.db} --port $${PORT:-5000}

clean: ## everything a run made, but not .venv and not data/
	rm -rf artifacts runs build mlflow.db mlflow.db.lock mlartifacts .lhcnet standalone/.lhcnet
