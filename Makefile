# `make run` and `make test` set up what is missing and need nothing else. MAX_TEST_S: a run that hangs is ended.
MAX_TEST_S ?= 1500
BIN := .venv/bin
PYTEST := timeout --signal=INT --kill-after=60 $(MAX_TEST_S) $(BIN)/pytest

.PHONY: run test lint unit chaos recovery-table bench bench-micro down clean setup setup-dev

run: setup
	@$(BIN)/chat up

test: setup-dev lint
	$(PYTEST) -m "not chaos or short" -q --durations=10

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check chat tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

# Without servers: quick.
unit: setup-dev
	$(PYTEST) -q tests/unit tests/property

# Every part killed, frozen, starved: 40 minutes that want the machine for themselves. CHAT_SEED=… makes a run's choices again,
# CHAT_PATIENCE=3 multiplies what may take how long. What it measured is put into docs/failures.md by recovery-table.
chaos: setup-dev
	$(BIN)/pytest -m chaos -v

recovery-table: setup-dev
	$(BIN)/python -m tests.harness.table .chat-chaos/recovery.json docs/failures.md

# Clusters of its own, every row of docs/performance.md: an hour that wants the machine for itself. BENCH="light storm"
BENCH ?=
bench: setup
	@$(BIN)/chat bench $(BENCH)

# µs a message of the hot paths, without servers.
bench-micro: setup-dev
	@$(BIN)/python -m benchmarks

down:
	@$(BIN)/chat down

# The cluster's data too.
clean:
	@[ ! -x $(BIN)/chat ] || $(BIN)/chat down
	@[ ! -d .chat-bench ] || $(BIN)/chat down --state .chat-bench
	@[ ! -d .chat-bench-store ] || $(BIN)/chat down --state .chat-bench-store
	rm -rf .chat .chat-bench .chat-bench-store .chat-chaos .venv kafka/jars kafka/classes.jsa .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

setup:
	@scripts/setup.sh

setup-dev:
	@scripts/setup.sh --dev
