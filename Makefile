# The two commands of the README, and those of the people who work on it.
# Needs Python 3.11 (or PYTHON=python3.x, 3.10 to 3.13) and nothing else.

PYTHON ?= python3.11
VENV ?= .venv
UV_VERSION := 0.13.9
OLDEST_KSERVE := 0.15.2
BIN := $(VENV)/bin
# plugins that bring gigabytes with them are for `make test-all` only
HEAVY := plugins/oip-handler-alexnet
PLUGINS := $(filter-out $(HEAVY),$(wildcard plugins/*))
TORCH := 2.13.0
HELM := 0.1.32
DIST := dist
UPGRADE := --upgrade
CONTRACT := handler
SOURCES := pyproject.toml constraints.txt $(CONTRACT)/pyproject.toml $(wildcard plugins/*/pyproject.toml)

define newline


endef

# Without byte code every start compiles all of kserve anew.
export UV_COMPILE_BYTECODE := 1
export UV_PYTHON_DOWNLOADS := never
export UV_SYSTEM_CERTS := true
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# the tests of a file in one process, for many of them share a server
PARALLEL := -n auto --dist loadfile
INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt

.PHONY: serve test test-all lint test-oldest test-contract dist constraints proto docs pictures image clean bench bench-profile bench-start bench-scaling bench-thresholds

## serve: install what is needed and serve the embedded default on localhost
serve: $(VENV)/.serve
	$(BIN)/oip-host serve --bind=127.0.0.1 $(ARGS)

## test: install what is needed and run the whole suite
test: $(VENV)/.test
	$(BIN)/python -m pytest -q $(PARALLEL) $(ARGS)

## test-all: the suite, what takes too long for it, and the plugins with PyTorch
test-all: test $(VENV)/.all
	for plugin in $(HEAVY); do $(BIN)/mypy $$plugin/src $$plugin/tests || exit 1; done
	$(BIN)/python -m pytest -q $(HEAVY) $(ARGS)
	$(BIN)/python -m pytest -q -m slow $(ARGS)

## lint: ruff, import-linter and mypy; .pre-commit-config.yaml has the same commands
lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy src $(CONTRACT)/src $(CONTRACT)/tests tests bench
	$(foreach plugin,$(PLUGINS),$(BIN)/mypy $(plugin)/src $(plugin)/tests$(newline)	)

## test-oldest: the protocol and configuration tests on the oldest kserve that works
test-oldest:
	$(MAKE) $(VENV)-oldest/.oldest VENV=$(VENV)-oldest
	$(VENV)-oldest/bin/python -m pytest -q $(PARALLEL) tests $(ARGS)

## test-contract: the contract alone on each Python here, and with its oldest dependencies
test-contract: $(BIN)/uv
	UV=$(abspath $(BIN)/uv) VENVS=$(abspath $(VENV)-contract) $(CONTRACT)/test-pythons

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv==$(UV_VERSION)

$(VENV)/.serve: $(BIN)/uv $(SOURCES)
	$(INSTALL) -e ./$(CONTRACT) -e . $(PLUGINS:%=-e ./%)
	$(BIN)/python -m compileall -q src $(CONTRACT) plugins
	touch $@

$(VENV)/.test: $(BIN)/uv $(SOURCES)
	$(INSTALL) -e ./$(CONTRACT) -e '.[test,otel]' $(PLUGINS:%=-e ./%)
	$(BIN)/python -m compileall -q src $(CONTRACT) plugins
	touch $@ $(VENV)/.serve

# pip, which finds a build for this machine where uv takes the largest; and which takes
# Helm, a library that every Python can load, whatever its package says
$(VENV)/.all: $(VENV)/.test
	$(BIN)/python -m pip install --quiet torch==$(TORCH)
	$(BIN)/python -m pip install --quiet --no-deps --ignore-requires-python \
	  helm-sdkpy==$(HELM)
	$(INSTALL) $(HEAVY:%=-e ./%)
	$(BIN)/python -m compileall -q $(HEAVY)
	touch $@

$(VENV)/.oldest: $(BIN)/uv $(SOURCES)
	$(BIN)/uv pip install --quiet --python $(BIN)/python kserve==$(OLDEST_KSERVE) \
	  -e ./$(CONTRACT) -e '.[test]' $(PLUGINS:%=-e ./%)
	$(BIN)/python -m compileall -q src $(CONTRACT) plugins
	touch $@

## dist: sdists and wheels of the contract, the host and the plugins, checked by twine
dist: $(VENV)/.test
	rm -rf $(DIST)
	for project in $(CONTRACT) . $(PLUGINS) $(HEAVY); do \
	  $(BIN)/uv build --quiet --no-build-isolation --python $(BIN)/python \
	    --out-dir $(DIST) $$project || exit 1; done
	$(BIN)/twine check --strict $(DIST)/*.whl $(DIST)/*.tar.gz

## constraints: pin the newest versions that fit, for Python 3.10 to 3.13; with UPGRADE=
## keep the versions that still fit
constraints: $(BIN)/uv
	$(BIN)/uv pip compile --quiet --universal $(UPGRADE) --python-version 3.10 \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
	  --no-emit-package oip-host --no-emit-package oip-handler $(PLUGINS:plugins/%=--no-emit-package %) \
	  requirements-dev.in --output-file constraints.txt

## proto: compile the gRPC messages
proto: $(VENV)/.test
	$(BIN)/python -m grpc_tools.protoc -I src/oip_host/edge/grpc --include_imports \
	  --descriptor_set_out=src/oip_host/edge/grpc/oip.binpb oip.proto

## image: build the container image; docs/container.md tells its variables
image:
	deploy/build-image

## pictures: draw the pictures of docs/architecture.md
pictures: $(VENV)/.test
	$(BIN)/python tests/support/pictures.py

## docs: build the documentation
docs: $(VENV)/.test
	$(BIN)/zensical build --strict --clean

clean:
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-contract .bench dist site

$(VENV)/.bench: $(BIN)/uv $(SOURCES)
	$(INSTALL) -e ./$(CONTRACT) -e '.[bench]'
	$(BIN)/python -m compileall -q src
	touch $@

## bench: CPU a request, side by side with a floor and with peers; ARGS=--help tells more
bench: $(VENV)/.bench
	$(BIN)/python bench/run.py $(ARGS)

## bench-profile: where the time of the host's main paths goes
bench-profile: $(VENV)/.bench
	$(BIN)/python -m bench.profile

## bench-start: start-up time side by side with a bare KServe server
bench-start: $(VENV)/.serve $(VENV)/.bench
	$(BIN)/python -m bench.startup

## bench-thresholds: both ways of the codecs by size, around the constants that choose
bench-thresholds: $(VENV)/.bench
	$(BIN)/python -m bench.thresholds $(ARGS)

## bench-scaling: one model in one process, in batches, in workers and in replicas
bench-scaling: $(VENV)/.all
	$(BIN)/python -m bench.scaling $(ARGS)
