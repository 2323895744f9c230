# The two commands: `make demo` and `make test`. Everything else serves them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup demo demo-down test test-long lint pin audit unit app-test molecule bench faults

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install the controller's tools into .venv
	@scripts/setup

demo: setup ## Install Docker on this machine and deploy the reference stack to it
	@ansible-playbook deploy.yml

demo-down: setup ## Remove the stack of `make demo` (asks before it deletes volumes)
	@ansible-playbook playbooks/down.yml

test: ## Run everything: lint, unit tests, the app's tests, every molecule scenario
	@scripts/test

lint: setup ## Run ansible-lint (production), yamllint, ruff, mypy
	@scripts/test lint

pin: setup ## Pin the Python packages to their newest versions, by hash
	@$(BIN)/python scripts/pin

audit: setup ## Check the pinned Python packages against an advisory database
	@scripts/test audit

unit: setup ## Run the unit tests of modules, filters and templates
	@scripts/test unit

app-test: setup ## Run the reference application's own tests
	@scripts/test app

molecule: setup ## Run every molecule scenario
	@scripts/test molecule

test-long: setup ## Run the longer tests: other people's applications, and the matrix of faults
	@scripts/test long
	@$(MAKE) faults

bench: setup ## Run the benchmarks: ratios measured in one run
	@command -v redis-server >/dev/null || { echo "bench: redis-server is missing: apt-get install redis-server" >&2; exit 1; }
	@for bench in tests/bench/bench_*.py; do python $$bench || exit 1; done

faults: setup ## Run the whole matrix of faults (an hour), and write it into docs/RELIABILITY.md
	@command -v hey >/dev/null || { echo "faults: hey is missing: apt-get install hey" >&2; exit 1; }
	@molecule converge -s faults
	@PYTHONPATH=tests python -m faults --server crisper-mol-faults-trixie --group faults \
	  --output $(or $(FAULTS_OUTPUT),/dev/null) --publish docs/RELIABILITY.md; \
	  code=$$?; molecule destroy -s faults && exit $$code
