# make build   compile the library in place and install it, editable, into PYTHON's environment
# make demo    watch a model correct itself on Sudoku
# make test    the whole test suite
# make lint    ruff, mypy, clang-format
# make bench   the benchmarks
#
# PYTHON names the interpreter to use. Without it a virtual environment is made in .venv from BASE_PYTHON, with a torch if
# there is none; TORCH_INDEX_URL then chooses the package index torch comes from (pytorch.org lists one of CPU wheels).
BASE_PYTHON ?= python3
PYTHON ?= .venv/bin/python
TORCH ?= torch==2.13.0
PYTEST_ARGS ?=
BENCH_ARGS ?=

export OMP_WAIT_POLICY ?= passive

ensure = $(PYTHON) tools/ensure_requirements.py --torch "$(TORCH)" --extras
install = $(PYTHON) -m pip install --quiet --no-build-isolation --no-deps --editable .

.PHONY: build demo test lint bench clean

build: $(PYTHON)
	$(ensure) ""
	$(install)

demo: $(PYTHON)
	$(ensure) demo
	$(install)
	$(PYTHON) -m mdmcorrect demo

test: $(PYTHON)
	$(ensure) test
	$(install)
	$(PYTHON) -m pytest -q $(PYTEST_ARGS)

bench: $(PYTHON)
	$(ensure) bench
	$(install)
	$(PYTHON) -m mdmcorrect bench $(BENCH_ARGS)

lint: $(PYTHON)
	$(ensure) lint
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) tools/clang_format.py --check

clean:
	rm -rf build dist *.egg-info mdmcorrect/*.so

.venv/bin/python:
	$(BASE_PYTHON) -m venv .venv
