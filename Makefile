# make build   compile the library in place and install it, editable, into PYTHON's environment
# make demo    watch a model correct itself on Sudoku
# make test    the whole test suite; CUTLASS's headers are what fragment layouts are compared with
# make lint    ruff, mypy, clang-format
# make bench   the benchmarks
# make gpu     ten minutes on a GPU: build for it, check, test and measure it, and write gpu-report/
# make properties    20,000 drawn cases, shared out among the instruction sets of this machine: a quarter of an hour
# make mutants       bugs put into the Python code: which of them do the tests notice? An hour or two
# make endurance     kills, signals and an hour of work: docs/reliability.md
# make constraints   the versions of everything, anew
#
# PYTHON names the interpreter to use. Without it a virtual environment is made in .venv from BASE_PYTHON, with a torch if
# there is none; TORCH_INDEX_URL then chooses the package index torch comes from (pytorch.org lists one of CPU wheels).
# What .venv gets has the versions of constraints.txt, or with LATEST=1 the newest that pyproject.toml allows; an
# interpreter that PYTHON names keeps what it has. make constraints writes that file anew. Only what is missing is
# fetched, so nothing where all is there.
BASE_PYTHON ?= python3
PYTHON ?= .venv/bin/python
TORCH ?= torch==2.13.0
# Files are shared out among at most four processes.
PYTEST_ARGS ?= --numprocesses auto --maxprocesses 4 --dist loadfile
BENCH_ARGS ?=
PROPERTIES_ARGS ?= --cases 20000
MUTANTS_ARGS ?= --sample 50
GPU_ARGS ?=

export OMP_WAIT_POLICY ?= passive

# Set to take the newest versions.
LATEST ?=
ifeq ($(origin PYTHON)$(LATEST),file)
constrained = --constraint constraints.txt
endif
pip = $(PYTHON) -m pip install --quiet $(constrained)
needs = $(PYTHON) tools/needs.py $(constrained)

.PHONY: build demo test bench gpu lint properties mutants endurance constraints clean

# $(call install,REQUIREMENTS): those that are missing, and the library, compiled in place against the torch that is there.
define install
	$(needs) --torch "$(TORCH)" $(if $(TORCH_INDEX_URL),--torch-index-url $(TORCH_INDEX_URL)) build $(1)
	$(pip) --no-build-isolation --no-deps --editable .
endef

build: $(PYTHON)
	$(call install)

demo: $(PYTHON)
	$(call install,[demo])
	$(PYTHON) -m mdmcorrect demo

test: $(PYTHON)
	$(call install,[test] pybind11)
	$(needs) --optional --no-deps nvidia-cutlass==4.2.0.0
	$(needs) --optional --no-deps --target build/nvrtc-13.0 nvidia-cuda-nvrtc==13.0.88
	$(PYTHON) -m pytest -q $(PYTEST_ARGS)

bench: $(PYTHON)
	$(call install,[bench])
	$(PYTHON) -m mdmcorrect bench $(BENCH_ARGS)

# Not $(MAKE) in the recipe itself, which --dry-run would run.
build_command = $(MAKE) build PYTHON=$(PYTHON)
gpu: export MDMCORRECT_CUDA_ARCHS := $(or $(MDMCORRECT_CUDA_ARCHS),native)
gpu: $(PYTHON)
	$(needs) --optional "pytest>=8"
	PYTHONPATH=tools $(PYTHON) -m gpu_report --build "$(build_command)" $(GPU_ARGS)

lint: $(PYTHON)
	$(call install,[lint])
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) tools/clang_format.py --check

properties: $(PYTHON)
	$(call install,[test])
	$(PYTHON) tools/properties.py $(PROPERTIES_ARGS)

mutants: $(PYTHON)
	$(call install,[mutants])
	$(PYTHON) tools/mutants map
	$(PYTHON) tools/mutants hand
	$(PYTHON) tools/mutants tool $(MUTANTS_ARGS)

endurance: $(PYTHON)
	$(call install,[test])
	$(PYTHON) tools/endurance kills
	$(PYTHON) tools/endurance signals
	$(PYTHON) tools/endurance soak

# For every Python we support at once; what torch brings is torch's to choose.
constraints: $(PYTHON)
	$(pip) uv
	$(PYTHON) -m uv pip compile --quiet --universal --python-version 3.10 --system-certs --no-annotate --no-header \
		--extra dev pyproject.toml --output-file constraints.tmp $(if $(LATEST),--upgrade)
	sed -i -E '/^(torch|triton|nvidia-.*-cu1[0-9]|cuda-(bindings|pathfinder|toolkit))\b/d' constraints.tmp
	(sed -n '/^#/p' constraints.txt; cat constraints.tmp) > constraints.new
	mv constraints.new constraints.txt; rm constraints.tmp

clean:
	rm -rf build dist *.egg-info mdmcorrect/*.so

.venv/bin/python:
	$(BASE_PYTHON) -m venv .venv
