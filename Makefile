# make demo   the whole pipeline on real packaged data; ends with the path of the report
# make test   the tests
# make chaos  runs that are killed in every stage, a cluster that loses a node, and a service whose
#             processes are killed 200 times (an hour)
# make cluster-test  runs and the service on hosts of their own (network namespaces; needs root), some of
#             which are killed (half an hour)
# make evidence  what each selection method teaches, on pools with known truth (hours; goes on where it
#             was stopped); make evidence-small: the same in minutes, to see it work
# make check  formatting, lint and types
# make bench  the benchmarks, results under benchmarks/results/
# make lock   requirements.lock anew from pyproject.toml

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
export DS_BUILD_OPS := 0
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test chaos cluster-test evidence evidence-small check bench lock setup clean

demo: setup
	$(BIN)/selfilter-ray run configs/quickstart.yaml

# Two at a time: most of what takes long waits for Ray to start something.
test: setup
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

chaos: setup
	$(BIN)/python -m pytest tests/chaos_every_stage.py tests/chaos_elastic.py
	$(BIN)/selfilter-ray run configs/quickstart.yaml
	$(BIN)/python -m benchmarks.service_chaos runs/demo --kills 200

cluster-test: setup
	$(BIN)/python -m pytest -x tests/cluster/hosts_apart.py
	$(BIN)/python -m pytest -x tests/cluster/hosts_serve.py
	$(BIN)/python -m pytest -x tests/cluster/hosts_run.py

evidence: setup
	$(BIN)/python -m benchmarks.evidence

evidence-small: setup
	$(BIN)/python -m benchmarks.evidence --small

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks.help
	$(BIN)/python -m benchmarks.featurize
	$(BIN)/python -m benchmarks.end_to_end quickstart configs/quickstart.yaml
	$(BIN)/selfilter-ray run configs/quickstart.yaml
	$(BIN)/python -m benchmarks.online_load --run runs/demo
	$(BIN)/python -m benchmarks.online_load --run runs/demo --haproxy --store online_load_haproxy
	$(BIN)/python -m benchmarks.kafka_load runs/demo
	$(BIN)/python -m benchmarks.sizes --featurize 200 --train 5 --run runs/demo
	test -z "$(SELFILTER_COCO_MINI)" || $(BIN)/python -m benchmarks.end_to_end coco_mini configs/coco_mini.yaml

setup: $(VENV)/.ready

# The stamp is newer than what it was made from: setting up twice costs nothing.
# Compiled ahead: every process of Ray imports much, and some machines keep no bytecode.
$(VENV)/.ready: requirements.lock pyproject.toml
	@echo "setting up $(VENV) (6 GB the first time)"
	@test -x $(BIN)/python || $(shell command -v $(PYTHON) || command -v python3) -m venv $(VENV)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$$(sed -n 's/^uv==\([^ ;]*\).*/\1/p' requirements.lock)"
	@VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip sync --quiet --compile-bytecode requirements.lock
	@VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

lock:
	$(BIN)/uv pip compile pyproject.toml --quiet --no-header --no-emit-index-url --generate-hashes \
	  --python-version 3.11 --extra bundled --extra lora --extra faiss-cpu --extra judge \
	  --extra serve --extra postgresql --extra kafka --extra client --extra cluster --extra otel --extra dev \
	  --group smollm2 --output-file requirements.lock

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache .hypothesis
