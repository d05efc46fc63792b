.DEFAULT_GOAL := help
.PHONY: help setup demo test nightly bench check format lock up lab lab-down
BIN := .venv/bin
# What runs in one process, and so in parallel.
ALONE := tests/ganeti tests/simulator tests/reconcile tests/scenes tests/world tests/inventory
# Of it on PostgreSQL too: whatever meets, dies or locks. The rest passes there, and takes minutes.
ON_BOTH := tests/scenes/test_scenes.py tests/scenes/test_promises.py tests/world tests/inventory
# Worker processes are run on PostgreSQL by the tests on the real Ganeti, and by these on SQLite.
ON_SQLITE := tests/chain/test_simulated.py tests/api/test_chain.py tests/cli tests/dashboard \
  tests/test_setup.py tests/test_environment.py
EXPLORED := tests/world
# What is the same on any version of Ganeti.
ON_REAL := tests/contract tests/chain/test_real_scenes.py

help: ## Show what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

setup: ## Install Debian's packages, .venv and the locked requirements
	@requirements/install

demo: setup ## Watch drift being mended on simulated clusters; Ctrl-C stops it (DEMO="--clusters 5")
	@VAR_DIR=var/demo DATABASE_URL=sqlite:///var/demo/db.sqlite3 LOOK_PERIOD=3 BEAT_PERIOD=1 \
	  REDIS_URL=redis://127.0.0.1:16380/0 $(BIN)/python manage.py demo $(DEMO)

test: setup ## Run every test, on SQLite and on PostgreSQL, real Redis and Ganeti included
	@trap 'deploy/lab/lab down --dir var/test-lab 2>/dev/null || true' EXIT INT TERM; \
	  export TEST_LAB=var/test-lab; \
	  $(BIN)/pytest -q -n 2 --dist worksteal --database=sqlite $(ALONE) && \
	  $(BIN)/pytest -q --database=sqlite -m "not ganeti" $(ALONE:%=--ignore=%) && \
	  $(BIN)/pytest -q -n 2 --dist worksteal --database=postgres $(ON_BOTH) && \
	  $(BIN)/pytest -q --database=postgres $(ALONE:%=--ignore=%) $(ON_SQLITE:%=--ignore=%)

bench: setup ## Measure all, as ratios, to bench/results.json and a table (BENCH="looks rest")
	@$(BIN)/python -m bench $(BENCH)

nightly: setup ## A second Ganeti; take out each guard; explore 5,000 histories and all pairs of turns
	TEST_GANETI=3.1 $(BIN)/pytest -q --database=postgres -m ganeti $(ON_REAL)
	$(BIN)/pytest -q -n 2 --dist worksteal --database=postgres tests/reconcile tests/scenes
	$(BIN)/python -m tests.guards
	HISTORIES=5000 PAIRS=1 $(BIN)/pytest -q --timeout=36000 --database=sqlite $(EXPLORED)
	HISTORIES=5000 PAIRS=1 $(BIN)/pytest -q --timeout=36000 --database=postgres $(EXPLORED)

check: setup ## Format, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: ## Pin the requirements anew
	for set in base dev; do $(BIN)/pip-compile -q --generate-hashes --no-emit-options \
	  --strip-extras --allow-unsafe --no-header \
	  -o requirements/$$set.txt requirements/$$set.in || exit 1; done

up: setup ## Run web, workers, beat and Flower against the clusters you added
	@$(BIN)/python manage.py preflight
	$(BIN)/python manage.py migrate -v 0
	$(BIN)/honcho start

lab: setup ## Start a real Ganeti on this machine (LAB="--instances 20")
	deploy/lab/lab up $(LAB)

lab-down: ## Remove it without a trace
	deploy/lab/lab down
