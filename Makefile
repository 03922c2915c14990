# make demo: from nothing to a picture.  make test: the same set-up, lint and the test suite.
# Both may be run again and do only what is left. PIP_FLAGS goes to pip, e.g. for torch without CUDA on Linux:
#   make demo PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
PIP_FLAGS ?=
PROMPT ?= fluent emoji of red apple
export PROMPT PYTHON

BUNDLE := build/emoji-host
PICTURE := build/picture.png
BIN := $(VENV)/bin
TABLES := README.md edgefusion/zoo/emoji/README.md edgefusion/zoo/styles/README.md profiles/README.md
SOURCES := pyproject.toml constraints.txt
PIP = $(BIN)/python -m pip install --disable-pip-version-check -q $(PIP_FLAGS) -c constraints.txt

# $(call timed,title,shell variable or command without commas)
define timed
	@echo "== $(1)"; start=$$(date +%s); $(2); echo "== $(1): $$(($$(date +%s) - start)) s"
endef

.PHONY: help demo test lint tables clean

help:
	@echo "make demo   a picture from a prompt in two steps (PROMPT=\"…\")"
	@echo "make test   lint and the test suite"
	@echo "make lint   ruff and mypy"
	@echo "make tables the tables of README.md and its like, anew from profiles/"
	@echo "make clean  remove build/ (the virtual environment stays)"

demo: $(VENV)/.demo
	$(call timed,export,$(BIN)/python -m edgefusion.export --target host --out $(BUNDLE))
	$(call timed,picture,$(BIN)/python -m edgefusion.runtime $(BUNDLE) "$$PROMPT" --seed 0 --steps 2 -o $(PICTURE))
	@echo "Prompt:  $$PROMPT"; echo "Picture: $(CURDIR)/$(PICTURE)"; echo "Bundle:  $(CURDIR)/$(BUNDLE)"

test: lint
	$(call timed,tests,OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --max-worker-restart 0 --dist loadfile)

lint: $(VENV)/.test
	$(call timed,ruff,$(BIN)/ruff check .; $(BIN)/ruff format --check .)
	$(call timed,mypy,$(BIN)/mypy)

tables: $(VENV)/.demo
	$(BIN)/python -m edgefusion.report $(TABLES)

$(VENV)/.demo: $(SOURCES) | $(BIN)/python
	$(call timed,install,$(PIP) hatchling editables; $(PIP) --no-build-isolation -e '.[export$(COMMA)onnxruntime]')
	@touch $@

# executorch brings a package without a wheel: setuptools and wheel build it.
$(VENV)/.test: $(SOURCES) | $(BIN)/python
	$(call timed,install,$(PIP) hatchling editables setuptools wheel; $(PIP) --no-build-isolation -e '.[distill$(COMMA)onnxruntime$(COMMA)openvino$(COMMA)optimum$(COMMA)executorch$(COMMA)qnn$(COMMA)tensorrt$(COMMA)report$(COMMA)dev]')
	@touch $@ $(VENV)/.demo

COMMA := ,

# The first Python of 3.11 or later that can make a virtual environment; PYTHON=… names one.
$(BIN)/python:
	@for python in $${PYTHON:-python3.11 python3.12 python3.13 python3}; do \
		if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "== virtual environment: $(VENV) with $$("$$python" --version)"; \
			exec "$$python" -m venv $(VENV); \
		fi; \
	done; \
	echo "error: no Python 3.11 or later that can make virtual environments. Install one (Debian and Ubuntu:" \
		"apt install python3.11 python3.11-venv), or name it: make demo PYTHON=/path/to/python3.11" >&2; exit 4

clean:
	rm -rf build
