# Python 3.11 or newer and make are all that is needed: the first target that needs .venv sets it up.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONDONTWRITEBYTECODE := # empty: Python keeps the bytecode of its imports, which the many short processes need

PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command "make lock" pyproject.toml

DOCKER ?= docker
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' src/lhcnet/__init__.py)
IMAGE ?= lhcnet:$(VERSION)
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct)

.DEFAULT_GOAL := help
.PHONY: help setup demo test check docs bench ui image image-test server-test cluster-test image-sbom lock clean

help: ## this list
	@echo "make TARGET [PYTHON=python3.12]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/ready ## set up .venv; TORCH=cpu: torch without CUDA, for Linux without a GPU

.venv/ready: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("lhcnet needs Python 3.11 or newer: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
ifeq ($(TORCH),cpu)
	sed -e '/--hash=/d' -e 's/ \\$$//' requirements-dev.lock > .venv/constraints.txt
	$(PIP) install --quiet --no-compile --no-deps -c .venv/constraints.txt --index-url $(TORCH_CPU_INDEX) torch torchvision
	$(PIP) install --quiet --no-compile -c .venv/constraints.txt -e '.[dev]'
else
	$(PIP) install --quiet --no-compile --no-deps --require-hashes -r requirements-dev.lock
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
endif
	@touch $@

demo: setup data/raw/faces.zip ## the whole pipeline on drawn faces, through Kubeflow's local runner
	$(BIN)/python -m pipeline local --profile demo
	@echo
	@echo "Compare the runs in MLflow:  make ui"
	@echo "The registered model:        models:/lhcnet-demo@champion ($(if $(MLFLOW_TRACKING_URI),in the store of MLFLOW_TRACKING_URI,MLFLOW_TRACKING_URI=sqlite:///$(CURDIR)/mlflow.db))"

data/raw/faces.zip: | setup
	$(BIN)/lhcnet faces $@

# Tests wait for processes and servers a third of their time: half as many workers more than cores.
test: setup ## all tests but those that need a cluster or the image, or FER2013 where it is not set; ARGS="-k lhc" is passed to pytest
	$(BIN)/python -m pytest -n $$($(BIN)/python -c "import os; print(max(2, os.cpu_count() * 3 // 2))") --dist loadfile --no-loadscope-reorder -m "not cluster and not docker" $(ARGS)

check: setup ## formatting, lint, types, Dockerfiles, workflows, CITATION.cff, links of the docs; works without network access
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/[!c]*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec server/compose.yaml
	$(BIN)/hadolint Dockerfile server/Dockerfile
	$(BIN)/zizmor --offline --quiet --no-progress --strict-collection .
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site

docs: setup ## the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: setup ## all figures of docs/performance.md, on an idle machine, in half an hour
	$(BIN)/python benchmarks

ui: setup ## MLflow on http://127.0.0.1:5000, with links to the views of the runs; PORT=8080: another port
	$(BIN)/lhcnet runs ui --port $${PORT:-5000}

image: ## the image of all components; BUILD_ARGS="--build-arg NAME=VALUE": BASE or TORCH_INDEX, see Dockerfile
	$(DOCKER) build $(BUILD_ARGS) --build-arg VERSION=$(VERSION) \
		--build-arg COMMIT=$$(git describe --always --dirty --abbrev=40 --exclude '*') \
		--build-arg CREATED=$$($(PYTHON) -c 'import datetime as d; print(d.datetime.fromtimestamp($(SOURCE_DATE_EPOCH), d.UTC).isoformat())') \
		--build-arg SOURCE=$$(git config --get remote.origin.url | sed 's|//[^/@]*@|//|') \
		--tag $(IMAGE) .

image-test: setup ## tests of the image, and of a pipeline in it as a random user; ARGS="-k 'not pipeline'": without the pipeline
	LHCNET_IMAGE=$(IMAGE) $(BIN)/python -m pytest -m docker $(ARGS) tests/image

cluster-test: setup ## tests on a real Kubeflow back end: tests/cluster/README.md; ARGS="-k deleted": some of them
	$(BIN)/python -m pytest -m cluster $(ARGS) tests/cluster

server-test: setup ## the team's MLflow server of server/, in containers: users, move of an mlflow.db, gc, backup
	$(BIN)/python -m pytest -m docker $(ARGS) tests/server

image-sbom: setup ## list of the Python packages in the image with licences (CycloneDX), in build/sbom.json
	rm -rf build/sbom && $(PYTHON) -m venv --without-pip build/sbom
	$(DOCKER) run --rm --network none $(IMAGE) sh -c 'cd /opt/venv/lib/python3*/site-packages && tar -c *.dist-info' \
		| tar -x -C build/sbom/lib/python3*/site-packages
	SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) $(BIN)/cyclonedx-py environment --pyproject pyproject.toml --mc-type application \
		--output-reproducible --of JSON -o build/sbom.json build/sbom

lock: ## both lock files anew from pyproject.toml (needs uv); UPGRADE=--upgrade: newer versions
	$(LOCK) $(UPGRADE) --extra imagenet --output-file requirements.lock
	$(LOCK) $(UPGRADE) --extra dev --constraint requirements.lock --output-file requirements-dev.lock

clean: ## remove everything that a run or a build made, but not .venv and not data/
	rm -rf artifacts standalone/artifacts runs build site mlflow.db mlflow.db.lock mlartifacts .lhcnet
