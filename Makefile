# setup: install what is missing. demo: the whole job on this machine. test: all tests. bench: the figures.
.PHONY: setup demo test test-teardown kubernetes test-kubernetes bench lock
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/setup.stamp

demo: $(STAMP)
	$(BIN)/hybrid run local

test: $(STAMP)
	tools/test-tools.sh
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# Stops an `up` after each of its calls to AWS and GCS, one at a time; the suite does so for some.
test-teardown: $(STAMP)
	HYBRID_EVERY_CUT=1 $(BIN)/python -m pytest -n 0 tests/journeys/test_teardown.py tests/journeys/test_teardown_private.py

# Builds a real Kubernetes API once; test-kubernetes applies to it all that layer `platform` declares.
kubernetes: $(STAMP)
	$(BIN)/python tools/kubernetes.py

test-kubernetes: kubernetes
	$(BIN)/python -m pytest -n 0 tests/kubernetes

bench: $(STAMP)
	$(BIN)/python -m benchmarks

setup: $(STAMP)

$(STAMP): requirements.txt pyproject.toml tools/setup.sh tools/engine.py tools/compile_stacks.py tools/pulumi/go.mod tools/language-python/go.mod
	PYTHON=$(PYTHON) tools/setup.sh
	touch $@

# Run after a change of pyproject.toml; the result holds names, versions and hashes, no addresses.
lock:
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --extra test \
	    --custom-compile-command "make lock" pyproject.toml --output-file requirements.txt
