# The two commands are `make book` and `make test`. Both make .venv first when it is missing or out of date.
PYTHON ?= python3
PROFILE ?= smoke
SEED ?= 0
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One thread is faster than many for models this small; the number also keeps runs alike from machine to machine.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help book test lint unit notebooks sync preview clean
.DEFAULT_GOAL := help

help: ## say what each target does
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /  make \1|/' | column -t -s '|' 2>/dev/null \
	  || grep -hE '^[a-z]+:.*## ' Makefile

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
	  || { echo "avgeo needs Python 3.11 or 3.12, and $(PYTHON) is $$($(PYTHON) -V 2>&1): run make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

book: $(STAMP) ## execute what is stale, write _build/html (PROFILE=smoke, colab or full; SEED=0)
	$(BIN)/avgeo book --profile $(PROFILE) --seed $(SEED)

test: lint unit notebooks ## lint, unit tests, every notebook, and a build in which a warning is an error
	$(BIN)/avgeo book --profile smoke
	@# The house beside the browser: where Chromium is missing, a last run that only skips would read as no test at all.
	$(BIN)/python -m pytest tests/test_house.py tests/test_browser.py

lint: $(STAMP) ## ruff and basedpyright
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright

unit: $(STAMP) ## the unit tests alone
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --ignore=tests/test_house.py --ignore=tests/test_browser.py

notebooks: $(STAMP) ## every notebook as it stands, by nbmake
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=1800 notebooks/*.ipynb

sync: $(STAMP) ## regenerate the .ipynb twins from the .md sources
	$(BIN)/avgeo book --sync

preview: $(STAMP) ## pages from the sources, nothing executed: _build/preview/_build/html
	$(BIN)/jupyter-book build . --toc book/_toc.yml --path-output _build/preview

clean: ## remove what was built, keeping .venv
	rm -rf _build .pytest_cache .ruff_cache .hypothesis .benchmarks
