# Each target sets up what it needs: a virtual environment with an editable install.
#
#   make demo     quantize the model in tests/data/crepe_tiny and prove the result
#   make test     run the tests
#   make check    linter, formatter, type checker
#   make bench    measure against other quantizers and engines; ZOO=folder of models, BENCH=more options
#   make ablation what each technique gains; ZOO=folder of models, ABLATION=more options
#   make clean    remove everything that was built

PYTHON ?= python3
VENV ?= .venv
ZOO ?=
BENCH ?=
ABLATION ?=

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BENCH_INSTALLED := $(VENV)/.installed-bench
SOURCES := pyproject.toml $(wildcard tools/ptq_opt/* native/build.py native/ffi.py native/src/*.[ch] native/include/ptq/*.h)

.PHONY: demo test check bench ablation clean

demo: $(INSTALLED)
	$(BIN)/python -m ptq_opt.tools.demo

test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses=auto --dist=worksteal

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(BENCH_INSTALLED)
	$(BIN)/python -m ptq_opt.tools.bench $(if $(ZOO),--zoo "$(ZOO)") $(BENCH)

ablation: $(BENCH_INSTALLED)
	$(BIN)/python -m ptq_opt.tools.ablation --zoo "$(ZOO)" $(ABLATION)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find ir native passes tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
	find native -name '_kernels*.so' -delete

$(INSTALLED): $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

$(BENCH_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	touch $@
