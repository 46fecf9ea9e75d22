# Each target sets up what it needs: a virtual environment with an editable install.
#
#   make demo     quantize the model in tests/data/crepe_tiny and prove the result
#   make test     run the tests
#   make check    linter, formatter, type checker
#   make bench    measure against other quantizers and engines; ZOO=folder of models, BENCH=more options
#   make ablation what each technique gains; ZOO=folder of models, ABLATION=more options
#   make docs     the documentation as a site, in build/site
#   make integrations   run pages of docs/engines with OpenVINO, TVM, IREE, PyTorch, and install
#                 the example package; each in an environment of its own, some gigabytes
#   make clean    remove everything that was built

PYTHON ?= python3
VENV ?= .venv
ZOO ?=
BENCH ?=
ABLATION ?=

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BENCH_INSTALLED := $(VENV)/.installed-bench
DOCS_INSTALLED := $(VENV)/.installed-docs
SOURCES := pyproject.toml $(wildcard tools/ptq_opt/* native/build.py native/ffi.py native/src/*.[ch] native/include/ptq/*.h)

INTEGRATIONS := openvino tvm iree pytorch
NEEDS_openvino := openvino
NEEDS_tvm := apache-tvm
NEEDS_iree := iree-base-compiler iree-base-runtime
NEEDS_pytorch := torch==2.13.0 onnxscript

.PHONY: demo test check bench ablation docs integrations integrations-installed wheel clean
.PRECIOUS: build/integrations/%/.installed

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

docs: $(DOCS_INSTALLED)
	$(BIN)/mkdocs build --strict

integrations: $(INTEGRATIONS:%=integration-%) integration-plugin

integrations-installed: $(INTEGRATIONS:%=build/integrations/%/.installed)

build/integrations/%/.installed:
	$(PYTHON) -m venv build/integrations/$*
	build/integrations/$*/bin/python -m pip install --quiet $(NEEDS_$*) hypothesis pytest
	touch $@

integration-%: build/integrations/%/.installed wheel
	build/integrations/$*/bin/python -m pip install --quiet --upgrade build/wheels/*.whl
	build/integrations/$*/bin/python -m pip install --quiet --force-reinstall --no-deps build/wheels/*.whl
	REQUIRE=1 build/integrations/$*/bin/python -m pytest -q tests/test_docs.py -k 'examples_run and $*'

integration-plugin: wheel
	$(PYTHON) -m venv build/integrations/plugin
	build/integrations/plugin/bin/python -m pip install --quiet build/wheels/*.whl tests/plugin
	build/integrations/plugin/bin/ptq-opt --passes=hard-swish --print-pipeline
	build/integrations/plugin/bin/ptq-opt --list-targets | grep swish-chip

wheel:
	rm -rf build/wheels
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir build/wheels .

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

$(DOCS_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@
