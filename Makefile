# VENV is the environment of every target; one that has the package is used as it is.
VENV ?= .venv
PYTHON ?= python3
DEMO ?= .demo
STEPS ?= 200
BIN := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)
export MPLBACKEND := Agg
# Without bytecode the whole stack is recompiled at every start, which doubles the time of a command.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help environment samples demo dashboard compare published benchmark study docs lint test test-unit test-integration test-python clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

environment: ## the environment: the package with all extras, and what its tests need
	@$(BIN)/python -I -c "import anemoi_house" 2>/dev/null || { \
	  echo "Installing anemoi-house and the anemoi stack into $(VENV) (about 8 GB, mostly torch)"; \
	  $(PYTHON) -m venv $(VENV) && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv && \
	  $(BIN)/uv pip install --python $(BIN)/python -c constraints.txt -e ".[test,docs]"; }

samples: environment ## the real GRIB files that some tests read
	$(BIN)/python tests/noaa/fetch_samples.py .samples

demo: environment ## sample data, a small TNBD training, and its skill
	anemoi-house sample $(DEMO)/sample
	cd $(DEMO) && anemoi-training train --config-name=tnbd_sample
	anemoi-house skill $(DEMO)/outputs
	anemoi-house graph plot $(DEMO)/outputs/graphs/tnbd_sample.pt -o $(DEMO)/graph.png
	@echo "The graph: $(DEMO)/graph.png. The dashboard: make dashboard"

dashboard: environment ## the runs of the demo in a browser
	@echo "Open http://127.0.0.1:5000/#/experiments/1/runs; Stop with Ctrl-C."
	@$(BIN)/mlflow ui --backend-store-uri sqlite:///$(abspath $(DEMO))/outputs/logs/mlflow/mlflow.db

compare: environment ## short trainings of the four sample experiments, their forecasts, and the report
	anemoi-house sample $(DEMO)/sample
	rm -rf $(DEMO)/compare
	mkdir $(DEMO)/compare
	cd $(DEMO)/compare && for name in mmgt nbd tnbd tnbd_covering; do HOUSE_SAMPLE=$(abspath $(DEMO))/sample \
	  anemoi-training train --config-name=$${name}_sample training.max_steps=$(STEPS) || exit 1; done
	for run in $(DEMO)/compare/outputs/checkpoint/*; do \
	  anemoi-house forecast $$run --dates 2020-01-26T00/2020-01-28T12/12h --lead-time 48h || exit 1; done
	anemoi-house report $(DEMO)/compare/outputs -o $(DEMO)/compare/report
	@echo "The report: $(DEMO)/compare/report/index.html"

published: environment ## the published graphs and models, one JSON line each
	@$(BIN)/anemoi-house sample $(DEMO)/published --grid published --dates 4 >&2
	@$(BIN)/python -I benchmarks/published.py $(DEMO)/published

benchmark: environment ## cost of builders, datasets, trainings, tracking and reports: JSON in benchmarks/results
	for grid in tiny published production; do \
	  $(BIN)/python benchmarks/graphs.py --grid $$grid --json benchmarks/results/graphs-$$grid.json || exit 1; done
	$(BIN)/python benchmarks/datasets.py --json benchmarks/results/datasets.json
	$(BIN)/python benchmarks/training.py --json benchmarks/results/training.json
	$(BIN)/python benchmarks/tracking.py --json benchmarks/results/tracking.json
	$(BIN)/python benchmarks/report.py --json benchmarks/results/report.json
	$(BIN)/python benchmarks/boundary.py --json benchmarks/results/boundary.json

study: environment ## experiments trained alike from three seeds, and compared at the boundary (40 minutes on 2 cores)
	$(BIN)/python -m anemoi_house.study $(DEMO)/study --json benchmarks/results/study.json
	$(BIN)/python -m anemoi_house.study.figures benchmarks/results/study.json -o docs/images

docs: environment ## the documentation as HTML in docs/_build
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build

lint: environment ## style, types, and which rooms may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-unit: environment ## the fast tests
	$(BIN)/python -m pytest -n 2 tests/unit

test-integration: environment ## the tests on the stock commands
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not alone" \
	  --durations=15 tests/integration
	$(BIN)/python -m pytest -m alone --durations=25 tests/integration

# For another Python: make test-python PYTHON=python3.13 VENV=.venv-3.13
test-python: environment ## the unit tests and one training
	$(BIN)/python -m pytest tests/unit tests/integration/test_experiments.py \
	  -k "unit or (test_trains and tnbd_sample)"

test: lint docs test-unit test-integration ## everything

clean: ## delete the demo and what was built, but not the environment
	rm -rf $(DEMO) docs/_build dist
