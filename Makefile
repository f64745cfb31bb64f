# Everything below makes its own environment in .venv first: Python >= 3.10, a C++ compiler and make are all it needs.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
# One thread per test process; two processes side by side are faster than two threads in one.
TEST_ENV := OMP_NUM_THREADS=1
# Programs that tests start read torch's modules compiled, not as text, which takes 20 s each time.
unexport PYTHONDONTWRITEBYTECODE
# CUDA code takes over a minute: left out where no device can run it, unless MLIP_CUDA=1 (as in .ci/run).
export MLIP_CUDA ?= $(if $(wildcard /dev/nvidia[0-9]* /dev/dxg),1,0)

.PHONY: demo test lint types unit examples benchmarks clean

demo: $(INSTALLED)  ## relax silicon, its phonons and a short MD, with pictures in demo/
	$(BIN)/mlip demo -o demo

test: lint types unit  ## what a change must pass

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

unit: $(INSTALLED)
	$(TEST_ENV) $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow"

examples: $(INSTALLED)  ## run every example, as CI does
	@for example in examples/[0-9]*.py; do echo "== $$example"; $(BIN)/python $$example || exit 1; done

# PEER=.../bin/python is an environment with mace-torch; MLIP_DATA the folder of others' models (docs/performance.md).
benchmarks: $(INSTALLED)
	$(BIN)/pip install -q vesin
	$(BIN)/python -m benchmarks.run $(if $(PEER),--peer_python $(PEER))

$(INSTALLED): pyproject.toml constraints.txt CMakeLists.txt $(wildcard mlip/csrc/* mlip/csrc/kernels/*)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[test]'
	@touch $@

clean:
	rm -rf .venv build dist demo
