# make demo    install what sampling needs, make music for a few sentences
# make install install what training, own music and evaluation need
# make test    install everything, lint, type-check, test
# make fuzz    read thousands of broken files with every reader
# make serve   the web page and REST service with the shipped bundle, on http://127.0.0.1:8000
# make train   train the whole tiny system from scratch and measure it
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# One environment per interpreter, so that `make test PYTHON=python3.12` leaves the usual one alone.
VENV ?= .venv$(if $(findstring 3.11,$(shell $(PYTHON) --version)),,-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

DATA_DIR ?= data
MODEL_DIR ?= runs/tiny
# Large arrays stay with the process from step to step instead of going back to the system: docs/tiny.md.
export GLIBC_TUNABLES ?= glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=268435456
# Test processes beside one another; each wants 2 GiB.
WORKERS ?= 2

.PHONY: demo serve install test test-slow fuzz test-parity train lint clean

demo: $(VENV)/.base
	$(BIN)/melody generate --prompts bundles/demo.txt --bundle bundles/tiny --seconds 10 --seed 1 --out music --overwrite

# A server gives memory back, and starts warm. SERVE holds further arguments: make serve SERVE='--port 9000'
serve: export GLIBC_TUNABLES = glibc.malloc.arena_max=2
serve: export JAX_COMPILATION_CACHE_DIR ?= .cache/jax-serve
serve: $(VENV)/.serve
	$(BIN)/melody serve --bundle bundles/tiny $(SERVE)

install: $(VENV)/.data

# From clone to measured music: corpus, all stages, bundle, table. Interrupt it and start it again as you like.
train: $(VENV)/.data
	$(BIN)/melody data corpus --name corpus --data_dir $(DATA_DIR) --clips 2400 --seed 0 --validation 0.04 --test 0.13
	$(BIN)/melody train all --size tiny --data corpus --data_dir $(DATA_DIR) --model_dir $(MODEL_DIR)
	$(BIN)/melody export --size tiny --model_dir $(MODEL_DIR) --out $(MODEL_DIR)/bundle
	$(BIN)/melody evaluate --bundle $(MODEL_DIR)/bundle --model_dir $(MODEL_DIR) --data corpus --data_dir $(DATA_DIR) \
	    --out $(MODEL_DIR)/report

test: $(VENV)/.dev lint
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/.dev
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -m slow

# Readers of users' files under INPUTS broken ones each; prints what became of them.
INPUTS ?= 10000
fuzz: $(VENV)/.dev
	JAX_PLATFORMS=cpu MELODY_FUZZ_INPUTS=$(INPUTS) $(BIN)/python -m pytest -m slow -s -n 0 tests/fuzz

# The models against PyTorch's and Hugging Face's.
test-parity: $(VENV)/.parity
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -m parity tests/parity

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: setup.py constraints.txt packages-no-deps.txt | $(VENV)/bin/python
	$(PIP) --editable .
	$(PIP) --no-deps --requirement packages-no-deps.txt
	touch $@

$(VENV)/.serve: $(VENV)/.base
	$(PIP) --editable '.[serve]'
	touch $@

$(VENV)/.data: $(VENV)/.base packages-no-deps-data.txt
	$(PIP) --editable '.[data]'
	$(PIP) --no-deps --requirement packages-no-deps-data.txt
	touch $@

$(VENV)/.dev: $(VENV)/.data
	$(PIP) --editable '.[data,dev]'
	touch $@

$(VENV)/.parity: $(VENV)/.dev
	$(PIP) --editable '.[data,dev,parity]'
	touch $@

clean:
	rm -rf .venv* .cache .pytest_cache .ruff_cache build dist *.egg-info
