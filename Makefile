# Everything a newcomer needs: `make demo` and `make test` set up .venv by themselves.
PYTHON ?= python3
BIN := .venv/bin
export TOKENIZERS_PARALLELISM := false

.PHONY: help demo test test-vllm test-inspect test-long lint types format controls controls-scenarios bench bench-gpu organism clean
help: ## what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# torch first and pinned: an open range would fetch another build of it, gigabytes large
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "selfsteer needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev,nnsight]'
	touch .venv/ready

demo: .venv/ready ## a model steers itself; ends with a report to open
	$(BIN)/selfsteer demo

test: .venv/ready ## the tests (under ten minutes on two cores)
	$(BIN)/python -m pytest -m 'not long' -n 2 --dist worksteal

# vLLM wants other versions than the rest, so it has a venv of its own; all that is in it is pinned
.venv-vllm/ready: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check -c constraints-vllm.txt torch
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check --no-deps --ignore-requires-python -r constraints-vllm.txt
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check --no-deps -e .
	touch .venv-vllm/ready

test-vllm: .venv-vllm/ready ## the vLLM engine and its servers, for real, on a CPU
	.venv-vllm/bin/python -m pytest tests/engines/test_vllm.py tests/engines/test_vllm_[msw]*.py tests/engines/test_contract.py -k vllm

# Inspect AI wants other versions than constraints.txt; nothing here needs torch
.venv-inspect/ready: pyproject.toml
	$(PYTHON) -m venv .venv-inspect
	.venv-inspect/bin/pip install --quiet --disable-pip-version-check 'inspect-ai>=0.3.200' numpy pandas pyarrow pyyaml pydantic pytest hypothesis
	.venv-inspect/bin/pip install --quiet --disable-pip-version-check --no-deps -e .
	touch .venv-inspect/ready

test-inspect: .venv-inspect/ready ## models behind Inspect AI, without a provider
	.venv-inspect/bin/python -m pytest --confcutdir=tests/engines --noconftest tests/engines/test_inspected.py

test-long: .venv/ready ## the tests that take minutes
	$(BIN)/python -m pytest -m long

lint: .venv/ready ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready ## types, strict on toolkit/
	$(BIN)/mypy

format: .venv/ready ## put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

controls: .venv/ready ## every number that the organism must reach, measured
	$(BIN)/selfsteer controls

controls-scenarios: .venv/ready ## what is planted is found, what is not there is not
	$(BIN)/selfsteer controls --scenarios --strict

bench: .venv/ready ## speed and memory against what people would use instead
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps steering-vectors==0.12.2 repeng==0.4.0
	$(BIN)/python -m benchmarks.run --large
	$(BIN)/python -m benchmarks.libraries
	$(BIN)/python -m benchmarks.memory
	$(if $(wildcard .venv-vllm/ready),.venv-vllm/bin/python -m benchmarks.vllm_row)
	$(BIN)/python -m benchmarks.importing
	$(BIN)/python -m benchmarks.inspect_logs $(if $(wildcard .venv-inspect/ready),--peer .venv-inspect/bin/python)

bench-gpu: .venv/ready ## decoding on a GPU against its memory's bandwidth, for the shapes of two 8B models
	for shape in llama-3.1-8b qwen3-8b; do $(BIN)/python -m benchmarks.gpu --shape $$shape || exit 1; done

organism: .venv/ready ## train an organism from nothing, in under an hour
	$(BIN)/python -m toolkit.organism.build --out build/organism --minutes 45

clean: ## forget the set-up
	rm -rf .venv .venv-vllm .venv-inspect build
