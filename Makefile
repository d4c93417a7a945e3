# Every target sets up what it needs: a .venv with Python >= 3.12 and pinned packages.
# Stamps in .venv remember which requirements files are installed, so a second run
# installs nothing and a changed file installs the difference.

.DEFAULT_GOAL := help
.PHONY: demo test lint format clean help FORCE
.NOTPARALLEL:
.DELETE_ON_ERROR:

# Which Python makes the .venv; by default the first of these that is new enough.
PYTHON ?=
PYTEST_ARGS ?=
WORKERS ?= 2

override candidates := $(if $(PYTHON),"$(PYTHON)",python3.12 python3 python)
override venv_python := .venv/bin/python
override is_new_enough := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 12))

# A .venv that does not start, or whose last installation was interrupted, is not
# trusted: its stamps count as old and `install` builds it anew.
override is_healthy := [ ! -e .venv/.installing ] \
  && $(venv_python) -c 'import pip, sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null
override unhealthy := $(shell $(is_healthy) || echo FORCE)

# $(call install,requirements file): into the .venv, which is created when needed.
define install
if ! { $(is_healthy); }; then \
  for candidate in $(candidates); do \
    if "$$candidate" -c '$(is_new_enough)' >/dev/null 2>&1; then chosen=$$candidate; break; fi; \
  done; \
  if [ -z "$${chosen:-}" ]; then \
    echo 'No usable Python >= 3.12 (with its venv module) among: $(subst ",,$(candidates)); install one, or name one with "make PYTHON=/path/to/python3.12".' >&2; \
    exit 1; \
  fi; \
  rm -rf .venv && mkdir .venv && touch .venv/.installing \
    && "$$chosen" -m venv .venv || exit 1; \
fi; \
echo 'Installing $(1) into .venv (a minute or two, once) ...' >&2; \
touch .venv/.installing \
  && $(venv_python) -m pip install -q --disable-pip-version-check -r $(1) >&2 \
  && rm .venv/.installing
endef

.venv/.demo-stamp: requirements.txt $(unhealthy)
	@$(call install,requirements.txt)
	@touch $@

# The development requirements contain the others, so both stamps are fresh after.
.venv/.test-stamp: requirements.txt requirements-dev.txt $(unhealthy)
	@$(call install,requirements-dev.txt)
	@touch .venv/.demo-stamp $@

FORCE:

demo: .venv/.demo-stamp ## train a toy on this machine; the last line is its report
	@$(venv_python) -m experiments.demo

test: lint ## lint, type check, and test; PYTEST_ARGS="-k name" narrows the tests
	@$(venv_python) -m pytest -n $(WORKERS) $(PYTEST_ARGS)

lint: .venv/.test-stamp ## ruff check, ruff format --check, basedpyright
	@$(venv_python) -m ruff check -q
	@$(venv_python) -m ruff format -q --check
	@$(venv_python) -m basedpyright

format: .venv/.test-stamp ## let ruff sort the imports and format the code
	@$(venv_python) -m ruff check -q --select I --fix
	@$(venv_python) -m ruff format -q

clean: ## remove the .venv, caches, and build output; runs/ and data/ stay
	@rm -rf .venv .pytest_cache .ruff_cache .hypothesis .cache build dist *.egg-info
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' $(firstword $(MAKEFILE_LIST))
