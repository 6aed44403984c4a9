# Every target makes what it needs: on a bare machine with Python 3.11 and a C library, `make demo` is the first command.

PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: venv demo test check bench bench-peers clean

venv: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,elastic,federation,triton]'
	touch $(READY)

demo: $(READY)
	$(BIN)/quorate run recipes/first_run.toml

# Tests of real data sets run if QUORATE_DATA names their folder; ../shared/data is used if it is there.
test: $(READY)
	QUORATE_DATA="$${QUORATE_DATA:-$$(test -d ../shared/data && cd ../shared/data && pwd)}" \
	$(BIN)/pytest -n 2 --dist loadfile -m 'not slow'

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)
	for each in benchmarks/overlap.py benchmarks/simulator.py; do $(BIN)/python $$each --quick || exit 1; done

# Other systems that benchmarks compare with, in an environment of their own.
bench-peers: .bench-venv/.ready

.bench-venv/.ready: constraints.txt
	$(PYTHON) -m venv .bench-venv
	.bench-venv/bin/pip install --quiet --constraint constraints.txt torch numpy
	touch $@

clean:
	rm -rf $(VENV) .bench-venv build *.egg-info
