# A thin front for the `hf2bmodel` command: `make help` lists what it takes. Targets beside these are the recipes.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
RECIPES := $(basename $(notdir $(wildcard recipes/*.yaml)))
TARGETS := help setup demo doctor test test-fast test-zoo test-options lint clean
OPTIONS := $(shell $(PYTHON) scripts/front.py variables)
VARIABLES := $(OPTIONS) PYTHON

# A variable nobody reads is a slip of the pen: `make stories15m DEVICES=2` must not build for one device.
GIVEN := $(foreach v,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $v))),$v))
SLIPS := $(filter-out $(VARIABLES),$(GIVEN))
$(if $(SLIPS),$(error variable $(firstword $(SLIPS)) is unknown; use $(VARIABLES)))

quote = '$(subst ','\'',$1)'
option = $(if $($2),$1 $(call quote,$($2)))
WORDS = $(foreach v,$(OPTIONS),$(call quote,$v=$($v)))
CHECK = $(PYTHON) scripts/front.py check $(WORDS)
SETUP = $(PYTHON) scripts/setup.py $(call option,--toolchain,TOOLCHAIN)

.PHONY: $(TARGETS) $(RECIPES)

help:
	@echo 'make <recipe> [VARIABLE=value ...]   build a verified bmodel; what is missing is set up first'
	@echo
	@echo 'Recipes:' && printf '  %s\n' $(RECIPES) && echo
	@echo 'Variables:'
	@$(PYTHON) scripts/front.py help
	@echo
	@echo 'Other targets:'
	@echo '  setup       make both environments, or bring them up to date'
	@echo '  demo        stories15m from download to a story told by the bmodel'
	@echo '  doctor      what is here, what is missing, and what mends it'
	@echo '  test        lint and all tests        test-fast   those without the compiler'
	@echo '  test-zoo    every architecture in every mode, and a table of it'
	@echo '  test-options   every option, and a table of it'
	@echo '  lint        ruff and mypy             clean       remove caches; builds in out/ stay'

setup:
	@$(CHECK)
	@$(SETUP)

demo: setup
	@.venv/bin/hf2bmodel demo

doctor:
	@$(or $(wildcard .venv/bin/python),$(PYTHON)) -m cli.main doctor

$(RECIPES):
	@$(CHECK)
	@$(SETUP)
	@$(PYTHON) scripts/front.py build $@ $(WORDS)

lint:
	@$(SETUP) --dev --exporter-only
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# The compiler's environment is made while mypy runs. Two tests at once fill two cores: a build does not all the time.
# More would want more than 24 GB of memory.
test:
	@$(CHECK)
	@$(SETUP) --dev --exporter-only
	@$(MAKE) --no-print-directory -j 2 -Oline setup lint
	.venv/bin/pytest -n 2

test-fast:
	@$(SETUP) --dev --exporter-only
	.venv/bin/pytest -n auto -m 'not toolchain and not slow'

test-zoo: setup
	@$(SETUP) --dev
	.venv/bin/pytest -n 2 tests/end_to_end/test_zoo.py

test-options: setup
	@$(SETUP) --dev
	.venv/bin/pytest -n 2 tests/options

clean:
	rm -rf build .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

Makefile: ;
.DEFAULT:
	@$(PYTHON) scripts/front.py unknown $(call quote,$@) $(RECIPES) $(TARGETS)
