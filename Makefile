# make quickstart: the main job, end to end.   make test: the tests.   make check: lint, format, types.
# make bench-data: how fast ingest and annotate are, against limits and peers (which it installs apart).
# make bench-tag: how fast tag asks its engine against plain vLLM and ray.data.llm, and how well it schedules.
# make bench-evaluate: how fast predictions are scored on one core, and that memory does not grow with them.
# make bench-train: how fast training goes through conversations against the released way.
# Each sets .venv up first if need be.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test bench-data bench-tag bench-evaluate bench-train check format setup clean

quickstart: setup
	$(BIN)/python -m jobs.quickstart

# Two processes, for much of a test's time goes by while Ray or vLLM starts.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

bench-data: setup
	$(BIN)/python -m benchmarks.data

bench-tag: setup
	$(BIN)/python -m benchmarks.tag
	$(BIN)/python -m benchmarks.scheduling

bench-evaluate: setup
	$(BIN)/python -m benchmarks.scoring

bench-train: setup
	$(BIN)/python -m benchmarks.train

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy uniner jobs

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: .venv/.ready

# torch first: its CPU build is not in the default registry, so it is taken from where pip is configured
# to find it, else from PyTorch's own index. --no-deps: the list is complete, and what the resolver would
# add (torchvision's CUDA build, through vllm) breaks `import transformers`.
TORCH = $(shell grep '^torch==' requirements/cpu.txt)
.venv/.ready: requirements/cpu.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-deps $(TORCH) \
	  || $(BIN)/pip install --quiet --no-deps --index-url https://download.pytorch.org/whl/cpu $(TORCH)
	$(BIN)/pip install --quiet --no-deps -r requirements/cpu.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

clean:
	rm -rf .venv runs
