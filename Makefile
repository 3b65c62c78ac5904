# Wattring. Needs python3 >= 3.11 with venv; everything else is set up by the targets themselves.
#   PORT, WATTRING_DATA_DIR   where `make run` listens and keeps its data
#   MINUTES, SEED             how long `make soak` disturbs (and how long a night of `make chaos` is), and which plan it repeats
#   RUNS, UNITS               how many nights `make chaos` lives through, and of how many radio units
#   T                         what `make test` runs: make test T=tests/unit/alarm
#   PYTHON                    the interpreter to use

PYTHON ?= python3
UV_VERSION := 0.13.8
VENV := .venv
BIN := $(VENV)/bin
UV := .tools/bin/uv
DATA_DIR := $(if $(WATTRING_DATA_DIR),$(WATTRING_DATA_DIR),.data)
PROJECTS := pyproject.toml uv.lock $(wildcard libs/*/pyproject.toml services/*/pyproject.toml)
SOURCES := libs services tests
COMPOSE = $(shell for engine in "docker compose" "podman compose"; do $$engine version >/dev/null 2>&1 && echo "$$engine" && break; done)
# More than there are cores on a small machine, since tests with processes wait as much as they compute; the tests are
# handed out one by one, in their order.
JOBS ?= 3
SPREAD := -n $(JOBS) --maxschedchunk=1
# A test with real processes gets a second try on a busy machine; it is printed as RERUN and wants mending.
RERUNS ?= 1
# What failed all the same is tried once more with nothing beside it, after the others: a machine that is too busy for
# three suites at once is no fault of ours, and what is one fails alone too.
ALONE = { [ $$? -eq 1 ] && $(BIN)/pytest -n 0 --last-failed --last-failed-no-failures none $(T); }
T ?= tests
# Tests that have a long form.
LONG := tests/integration/control/test_control_chaos.py tests/e2e/test_api_as_described.py
MINUTES ?= 5
RUNS ?= 20
UNITS ?= 1000

export UV_PYTHON_DOWNLOADS := never
export UV_NO_PROGRESS ?= 1
# Tests start hundreds of processes: each would compile all of its sources again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup run peers test lint fmt types up down bench soak chaos fuzz image clean clean-data

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.synced ## fetch the pinned tools and libraries into .tools and .venv

run: setup ## start the whole suite with a simulated field; Ctrl-C stops it
	@$(BIN)/wattring up --demo

peers: setup ## set up real Kafka, PostgreSQL, a browser and the other peers of the tests
	@deploy/setup/backing-services
	@deploy/setup/test-peers
	@if [ -z "$$KAFKA_BOOTSTRAP_SERVERS" ] && command -v java mvn >/dev/null; then deploy/kafka/kafka.sh jars >/dev/null; fi

test: peers ## run every test, against real peers
	$(BIN)/pytest $(SPREAD) --reruns $(RERUNS) -r R $(T) || $(ALONE)
ifeq ($(T),tests)
	deploy/setup/with-system-postgres $(BIN)/pytest $(SPREAD) --reruns $(RERUNS) -r R -m "sql and not kafka and not spared" tests/contract tests/deploy tests/integration
endif

lint: setup ## check style, import rules and the lock file
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/lint-imports
	$(UV) lock --check

fmt: setup ## format the sources and mend what can be mended
	$(BIN)/ruff check --fix-only --quiet $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

types: setup ## check the types
	$(BIN)/mypy $(SOURCES)

up: setup ## start the distributed shape in containers (docker or podman)
	@$(call need_engine)
	deploy/setup/compose-secrets
	$(COMPOSE) -f deploy/compose.yaml up --detach --build --wait

down: ## stop the containers; their data stay
	@$(call need_engine)
	$(COMPOSE) -f deploy/compose.yaml down

bench: setup ## measure speed and memory, print them beside others' figures, write bench-results/
	$(BIN)/python -m libs.suite.bench

soak: setup ## let everything go wrong for MINUTES (SEED repeats a run), then compare what was sent with what is held
	@$(BIN)/python -m libs.suite.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

chaos: setup ## kill everything in RUNS nights, then see that every radio unit is awake or somebody was called (SEED repeats)
	@$(BIN)/python -m libs.suite.chaos --runs $(RUNS) --units $(UNITS) $(if $(findstring file,$(origin MINUTES)),,--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

fuzz: peers ## run the property tests with many more examples, and what has a long form in it
	$(BIN)/pytest $(SPREAD) -m hypothesis --hypothesis-profile=fuzz --timeout=3600 tests
	WATTRING_TEST_LONG=1 $(BIN)/pytest $(SPREAD) $(LONG)

image: ## build one service's image: make image SERVICE=ingest
	@$(call need_engine)
	$(firstword $(COMPOSE)) build --file deploy/Dockerfile --build-arg SERVICE=$(SERVICE) --tag wattring-$(SERVICE) .

clean: ## forget everything that was built or fetched here, but not the data
	rm -rf .venv .tools dist build bench-results soak-results .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

clean-data: ## stop the suite and forget its data
	@if [ -x $(BIN)/wattring ]; then $(BIN)/wattring down; fi
	rm -rf "$(DATA_DIR)"

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit("Wattring needs Python 3.11 or newer, and this is " + sys.version) if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv .tools || { echo "python3 lacks venv; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@.tools/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(VENV)/.synced: $(PROJECTS) | $(UV)
	@echo "fetching the pinned libraries into $(VENV) (some 300 MB, once)"
	@$(UV) sync --quiet --frozen --all-packages --python .tools/bin/python
	@touch $@

define need_engine
if [ -z "$(COMPOSE)" ]; then echo "needs docker or podman with compose; without one, \`make run\` starts everything"; exit 1; fi
endef
