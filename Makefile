# The two commands: `make demo` and `make test`. Everything else serves them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup demo demo-down test test-long lint pin audit unit app-test molecule bench faults

help: ## What there is
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## The controller's tools in .venv
	@scripts/setup

demo: setup ## Install Docker on this machine and deploy the reference stack to it
	@ansible-playbook deploy.yml

demo-down: setup ## Remove what `make demo` made (asks before deleting volumes)
	@ansible-playbook playbooks/down.yml

test: ## Everything: lint, unit tests, the app's tests, every molecule scenario
	@scripts/test

lint: setup ## ansible-lint (production), yamllint, ruff, mypy
	@scripts/test lint

pin: setup ## Pin the Python packages to their newest versions, by hash
	@$(BIN)/python scripts/pin

audit: setup ## The pinned Python packages against an advisory database
	@scripts/test audit

unit: setup ## pytest of modules, filters and templates
	@scripts/test unit

app-test: setup ## The reference application's own tests
	@scripts/test app

molecule: setup ## Every molecule scenario
	@scripts/test molecule

test-long: setup ## What takes longer: other people's applications, and the matrix of faults
	@scripts/test long
	@$(MAKE) faults

bench: setup ## Benchmarks: ratios measured in one run
	@command -v redis-server >/dev/null || { echo "bench: redis-server is missing: apt-get install redis-server" >&2; exit 1; }
	@for bench in tests/bench/bench_*.py; do python $$bench || exit 1; done

faults: setup ## The whole matrix of faults (an hour), written into docs/RELIABILITY.md
	@command -v hey >/dev/null || { echo "faults: hey is missing: apt-get install hey" >&2; exit 1; }
	@molecule converge -s faults
	@PYTHONPATH=tests python -m faults --server crisper-mol-faults-trixie --group faults \
	  --output $(or $(FAULTS_OUTPUT),/dev/null) --publish docs/RELIABILITY.md; \
	  code=$$?; molecule destroy -s faults && exit $$code
