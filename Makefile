# make train: set up and train eca_resnet_20 on the digits.  make test: set up and pass the quick tests.
# make storm: 20,000 cases of each kind of fault, 50 to 200 of those that train: an hour.
# make tutorial: run docs/tutorial.ipynb, and keep its outputs.  make docs: the pages, in site/.
# All work in .venv, which they make; PYTHON chooses what makes it.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test test-all storm lint types tutorial docs wheel clean

train: .venv/train-is-installed
	$(BIN)/cifarblocks train --model eca_resnet_20

test: .venv/dev-is-installed
	$(BIN)/python -m pytest -n auto

test-all: .venv/dev-is-installed
	$(BIN)/python -m pytest -n auto -m "slow or not slow"

storm: .venv/dev-is-installed
	$(BIN)/python -m pytest -n auto tests/storm -m "slow or not slow" --cases 20000

lint: .venv/dev-is-installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/cffconvert --validate
	$(BIN)/python docs/docstrings.py

types: .venv/dev-is-installed
	$(BIN)/mypy

tutorial: .venv/dev-is-installed
	$(BIN)/jupyter nbconvert --execute --inplace --ExecutePreprocessor.record_timing=False docs/tutorial.ipynb

docs: .venv/docs-is-installed
	$(BIN)/mkdocs build --strict

wheel: .venv/dev-is-installed
	rm -rf dist
	$(BIN)/python -m build --wheel --sdist

clean:
	rm -rf .venv dist site

.venv/%-is-installed: pyproject.toml | .venv/bin/python
	$(BIN)/pip install -e ".[$*]"
	touch $@

.venv/bin/python:
	$(PYTHON) -m venv .venv
