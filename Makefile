# A thin front for the `hf2bmodel` command: `make help` lists what it takes. Targets beside these are the recipes.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
RECIPES := $(basename $(notdir $(wildcard recipes/*.yaml)))
TARGETS := help setup demo doctor test test-fast lint clean
VARIABLES := MODE DEV CHIP SEQ HEAD GROUP MODEL OUT JOBS VERIFY TOOLCHAIN TRUST_REMOTE_CODE PYTHON

# A variable nobody reads is a slip of the pen: `make stories15m DEVICES=2` must not build for one device.
GIVEN := $(foreach v,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $v))),$v))
SLIPS := $(filter-out $(VARIABLES),$(GIVEN))
$(if $(SLIPS),$(error variable $(firstword $(SLIPS)) is unknown; use $(VARIABLES)))

quote = '$(subst ','\'',$1)'
option = $(if $($2),$1 $(call quote,$($2)))
FLAGS = $(call option,--mode,MODE) $(call option,--devices,DEV) $(call option,--chip,CHIP) \
	$(call option,--seq-length,SEQ) $(call option,--head,HEAD) $(call option,--group-size,GROUP) \
	$(call option,--model,MODEL) $(call option,--out,OUT) $(call option,--jobs,JOBS) \
	$(call option,--verify,VERIFY) $(call option,--toolchain,TOOLCHAIN) \
	$(if $(filter 1,$(TRUST_REMOTE_CODE)),--trust-remote-code)
CHECKED := MODE DEV CHIP SEQ HEAD GROUP JOBS VERIFY TOOLCHAIN TRUST_REMOTE_CODE
CHECK = $(PYTHON) scripts/front.py check $(foreach v,$(CHECKED),$(call quote,$v=$($v)))
SETUP = $(PYTHON) scripts/setup.py $(call option,--toolchain,TOOLCHAIN)

.PHONY: $(TARGETS) $(RECIPES)

help:
	@echo 'make <recipe> [VARIABLE=value ...]   build a verified bmodel; what is missing is set up first'
	@echo
	@echo 'Recipes:' && printf '  %s\n' $(RECIPES) && echo
	@echo 'Variables:'
	@echo '  MODE=int4|int8|bf16|f16       weights of the blocks (default: the recipe)'
	@echo '  DEV=1|2|4|8                   chips to split the model over (default 1)'
	@echo '  CHIP=bm1684x|bm1688           (default bm1684x)'
	@echo '  SEQ=n                         positions of prompt and answer together (default: the recipe)'
	@echo '  HEAD=top1|logits              a token id, or logits for sampling (default: the recipe)'
	@echo '  GROUP=n                       input channels per scale in int4 (default: the recipe)'
	@echo '  MODEL=dir                     a Hugging Face checkpoint, or hub id, in place of the recipe'"'"'s source'
	@echo '  OUT=dir                       where the build folder goes (default out)'
	@echo '  JOBS=n                        steps at once (default: the cores)'
	@echo '  VERIFY=full|host|none         the whole ladder, the rungs without the simulator, or nothing (default full)'
	@echo '  TRUST_REMOTE_CODE=1           run the modeling code that comes with the checkpoint (default: refuse)'
	@echo '  TOOLCHAIN=auto|path|managed|docker   where tpu-mlir is (default auto)'
	@echo
	@echo 'Other targets:'
	@echo '  setup       make both environments, or bring them up to date'
	@echo '  demo        stories15m from download to a story told by the bmodel'
	@echo '  doctor      what is here, what is missing, and what mends it'
	@echo '  test        lint and all tests        test-fast   those without the compiler'
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
	@.venv/bin/hf2bmodel build $@ $(FLAGS)

lint:
	@$(SETUP) --dev --exporter-only
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

test: setup lint
	.venv/bin/pytest

test-fast:
	@$(SETUP) --dev --exporter-only
	.venv/bin/pytest -m 'not toolchain'

clean:
	rm -rf build .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

Makefile: ;
.DEFAULT:
	@$(PYTHON) scripts/front.py unknown $(call quote,$@) $(RECIPES) $(TARGETS)
