# Every target makes .venv by itself; a second run does not reinstall.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: venv demo demo-kafka test check services bench clean fmt
.DEFAULT_GOAL := venv

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet -c constraints.txt --group dev -e .
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/pelton demo

demo-kafka: $(STAMP)
	scripts/services install kafka
	$(BIN)/python -m tests.demo.kafka

test: $(STAMP)
	scripts/test

check: $(STAMP)
	scripts/check

services: $(STAMP)
	scripts/services

fmt: $(STAMP)
	scripts/fmt

bench: $(STAMP)
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
