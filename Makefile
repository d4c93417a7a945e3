# Every target sets up what it needs: a .venv with Python >= 3.12 and pinned packages,
# or for test-compile a .venv-compile with the compilers of chips that are not there.
# Stamps in them remember which requirements files are installed, so a second run
# installs nothing and a changed file installs the difference.

.DEFAULT_GOAL := help
.PHONY: demo test test-compile parity lint format clean help FORCE
.NOTPARALLEL:
.DELETE_ON_ERROR:

# Which Python makes an environment; by default the first of these that is new enough.
PYTHON ?=
PYTEST_ARGS ?=
WORKERS ?= 2

override candidates := $(if $(PYTHON),"$(PYTHON)",python3.12 python3 python)
override venv_python := .venv/bin/python
override is_new_enough := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 12))

# $(call is_healthy,folder), $(call unhealthy,folder): an environment that does not
# start, or whose last installation was interrupted, is not trusted: its stamps count as
# old and `install` builds it anew.
override is_healthy = [ ! -e $(1)/.installing ] \
  && $(1)/bin/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null
override unhealthy = $(shell $(is_healthy) || echo FORCE)

# $(call install,folder,requirements file): into the environment in that folder, which
# is created when needed.
define install
if ! { $(is_healthy); }; then \
  for candidate in $(candidates); do \
    if "$$candidate" -c '$(is_new_enough)' >/dev/null 2>&1; then chosen=$$candidate; break; fi; \
  done; \
  if [ -z "$${chosen:-}" ]; then \
    echo 'No usable Python >= 3.12 (with its venv module) among: $(subst ",,$(candidates)); install one, or name one with "make PYTHON=/path/to/python3.12".' >&2; \
    exit 1; \
  fi; \
  rm -rf $(1) && mkdir $(1) && touch $(1)/.installing \
    && "$$chosen" -m venv $(1) || exit 1; \
fi; \
echo 'Installing $(2) into $(1) (a minute or two, once) ...' >&2; \
touch $(1)/.installing \
  && $(1)/bin/python -m pip install -q --disable-pip-version-check -r $(2) >&2 \
  && rm $(1)/.installing
endef

.venv/.demo-stamp: requirements.txt $(call unhealthy,.venv)
	@$(call install,.venv,requirements.txt)
	@touch $@

# The development requirements contain the others, so both stamps are fresh after.
.venv/.test-stamp: requirements.txt requirements-dev.txt $(call unhealthy,.venv)
	@$(call install,.venv,requirements-dev.txt)
	@touch .venv/.demo-stamp $@

# The compilers come with everything else, for compile_check compiles whole models.
.venv-compile/.stamp: requirements.txt requirements-compile.txt $(call unhealthy,.venv-compile)
	@$(call install,.venv-compile,requirements-compile.txt)
	@touch $@

.venv-parity/.stamp: requirements.txt requirements-dev.txt requirements-parity.txt $(call unhealthy,.venv-parity)
	@$(call install,.venv-parity,requirements-parity.txt)
	@touch $@

# The published code that is no package; REFERENCES may name a folder that has it.
REFERENCES ?= .references
override repositories := showlab/Show-o facebookresearch/chameleon baaivision/Emu3

$(addprefix $(REFERENCES)/,$(notdir $(repositories))):
	@git clone -q --depth 1 https://github.com/$(filter %/$(notdir $@),$(repositories)) $@

FORCE:

demo: .venv/.demo-stamp ## train a toy on this machine; the last line is its report
	@$(venv_python) -m experiments.demo

test: lint ## lint, type check, and test; PYTEST_ARGS="-k name" narrows the tests
	@$(venv_python) -m pytest -n $(WORKERS) $(PYTEST_ARGS)

test-compile: .venv-compile/.stamp ## compile kernels and steps for TPUs and GPUs that are not there
	@.venv-compile/bin/python -m pytest -m compile -n $(WORKERS) tests/compile $(PYTEST_ARGS)

parity: .venv-parity/.stamp $(addprefix $(REFERENCES)/,$(notdir $(repositories))) ## make tests/golden anew with the reference models in PyTorch, and compare
	@.venv-parity/bin/python -m tests.golden.make_image_tokenizers \
	  --show-o $(REFERENCES)/Show-o --chameleon $(REFERENCES)/chameleon --emu3 $(REFERENCES)/Emu3
	@.venv-parity/bin/python -m tests.golden.make_language_models $(REFERENCES)/Show-o
	@PYTHONPATH=$(REFERENCES)/chameleon:$(REFERENCES)/Emu3 \
	  .venv-parity/bin/python -m tests.golden.make_pixels
	@# By themselves, for then pytest fails where all are skipped.
	@.venv-parity/bin/python -m pytest tests/golden
	@.venv-parity/bin/python -m pytest -n $(WORKERS) \
	  tests/convert tests/image_tokenizers tests/data/released $(PYTEST_ARGS)

lint: .venv/.test-stamp ## ruff check, ruff format --check, basedpyright
	@$(venv_python) -m ruff check -q
	@$(venv_python) -m ruff format -q --check
	@$(venv_python) -m basedpyright

format: .venv/.test-stamp ## let ruff sort the imports and format the code
	@$(venv_python) -m ruff check -q --select I --fix
	@$(venv_python) -m ruff format -q

clean: ## remove .venv, .venv-compile, .venv-parity, caches, and build output; runs/ and data/ stay
	@rm -rf .venv .venv-compile .venv-parity .pytest_cache .ruff_cache .hypothesis .cache build dist *.egg-info
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' $(firstword $(MAKEFILE_LIST)) \
	  | expand -t 20
