# `make run` and `make test` set up what is missing and need nothing else. MAX_TEST_S bounds the tests.
MAX_TEST_S ?= 900
BIN := .venv/bin
PYTEST := timeout --signal=INT --kill-after=60 $(MAX_TEST_S) $(BIN)/pytest

.PHONY: run test lint unit chaos bench down clean setup setup-dev

run: setup
	@$(BIN)/chat up

test: setup-dev lint
	$(PYTEST) -m "not chaos or short" -q --durations=10

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check chat tests
	$(BIN)/mypy
	$(BIN)/lint-imports

# Without servers: quick.
unit: setup-dev
	$(PYTEST) -q tests/unit tests/property

chaos: setup-dev
	$(BIN)/pytest -m chaos -v

# Against the cluster of `make run`. BENCH="direct --connections 100 --rate 200 --duration 30"
BENCH ?= direct --connections 100 --rate 200 --duration 20
bench: run
	@$(BIN)/chat load $(BENCH)

down:
	@$(BIN)/chat down

# The cluster's data too.
clean:
	@[ ! -x $(BIN)/chat ] || $(BIN)/chat down
	rm -rf .chat .venv kafka/jars .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

setup:
	@scripts/setup.sh

setup-dev:
	@scripts/setup.sh --dev
