# Two commands do all the set-up: `make run` and `make test`. Each makes .venv if there is none.
PYTHON ?= python3
BIN := .venv/bin
PYTEST_ARGS ?= -n 2 --dist loadfile

.PHONY: run test check bench clean
.DEFAULT_GOAL := run

.venv/ready: constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "securefl needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,check]'
	touch $@

run: .venv/ready
	$(BIN)/securefl run

test: .venv/ready
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m pytest benchmarks/kernels.py --benchmark-columns=median,iqr,rounds
	$(BIN)/python benchmarks/targets.py

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .hypothesis .import_linter_cache
