# Two commands for a machine that has never seen the project: `make simulate` and `make test`.
# Needed beforehand: git, make, Python 3.11 to 3.14 with venv. Everything else goes into .uv/ and .venv/, nothing outside this
# folder but uv's cache. What is up to date is not touched again, and needs no network.

UV := $(shell uv --version >/dev/null 2>&1 && command -v uv || echo .uv/bin/uv)
READY := .venv/.ready
BIN := .venv/bin

export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION := 1
export RAY_USAGE_STATS_ENABLED := 0
export FLWR_HOME := $(CURDIR)/.flwr
export UV_PYTHON_DOWNLOADS := never
# Behind an institution's proxy only the system's own certificates will do. (Two names: uv changed it.)
CERTIFICATES := /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/ca-bundle.pem /etc/ssl/cert.pem
export UV_SYSTEM_CERTS := $(if $(wildcard $(CERTIFICATES)),1,0)
export UV_NATIVE_TLS := $(UV_SYSTEM_CERTS)

# The first Python on this machine that is new enough and can make environments.
FIND_PYTHON = for python in python3.11 python3.12 python3.13 python3.14 python3 python; do \
    if $$python -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; \
    then break; fi; python=; done; \
  if [ -z "$$python" ]; then \
    echo 'make: Python 3.11 to 3.14 with venv is needed (Debian, Ubuntu: apt install python3-venv)' >&2; exit 1; fi

# Without the network first: after a change of branch all of it is here already.
SYNC = $(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes --build-constraint requirements.lock requirements.lock

.PHONY: simulate test slow check environment lock clean help

simulate: $(READY) ## a private federation of four hospitals on this machine; more in ARGS="seed=1 privacy.epsilon=4"
	@$(BIN)/fedmosaic simulate $(ARGS)

test: $(READY) ## the fast tests
	@$(BIN)/python -m pytest -m 'not slow' -n auto --maxprocesses 4 --dist loadscope $(ARGS)

slow: $(READY) ## the slow tests
	@$(BIN)/python -m pytest -m slow -n auto --maxprocesses 4 --dist loadscope $(ARGS)

check: $(READY) ## style, types, import direction
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

environment: $(READY) ## make .venv, and stop there

$(READY): requirements.lock pyproject.toml | $(UV)
	@set -e; $(FIND_PYTHON); \
	if ! $(BIN)/python -c '' 2>/dev/null; then \
	  rm -rf .venv; $(UV) venv --quiet --python "$$($$python -c 'import sys; print(sys.executable)')" .venv; fi
	@$(SYNC) --offline 2>/dev/null || { \
	  echo 'make: installing what requirements.lock lists (once; PyTorch alone is about two gigabytes)' >&2; $(SYNC); }
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --offline --editable .
	@touch $@

# uv's version and hashes are those of requirements.lock, so there is one place to change them.
.uv/bin/uv:
	@set -e; $(FIND_PYTHON); rm -rf .uv; $$python -m venv .uv; \
	awk '/^uv==/ {on = 1; print; next} on && /^ +--hash/ {print; next} {on = 0}' requirements.lock > .uv/uv.txt; \
	.uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .uv/uv.txt

lock: | $(UV) ## resolve pyproject.toml anew into requirements.lock
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	  --prerelease disallow --custom-compile-command 'make lock' --all-extras --group dev \
	  --output-file requirements.lock pyproject.toml

clean: ## remove the environment and the caches; runs/ stays
	rm -rf .venv .uv .flwr .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile
