# Two commands do all the set-up: `make run` and `make test`. Each makes .venv if there is none.
PYTHON ?= python3
BIN := .venv/bin
PYTEST_ARGS ?= -n 2 --dist loadfile

.PHONY: run test check audit advisories mutation bench clean
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
	$(BIN)/python tests/static_rules.py protocols securefl

# Every attack and every mechanism, quickly; what came of them is in audit.json, and a broken row is exit code 1.
audit: .venv/ready
	$(BIN)/securefl audit --all --quick --json > audit.json || { cat audit.json; exit 1; }

# pip-audit in an environment of its own, as it brings libraries of its own.
.venv-pip-audit/ready:
	$(PYTHON) -m venv .venv-pip-audit
	.venv-pip-audit/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	touch $@

advisories: .venv-pip-audit/ready
	$(PYTHON) tests/known_vulnerabilities.py .venv-pip-audit/bin/pip-audit constraints.txt

# Mutants of protocols/ in the background: `make mutation MODULES=protocols.agreement`. mutmut in an environment of its own.
.venv-mutation/ready:
	$(PYTHON) -m venv .venv-mutation
	.venv-mutation/bin/pip install --quiet --disable-pip-version-check mutmut==3.8.1
	touch $@

mutation: .venv/ready .venv-mutation/ready
	nice -n 10 $(BIN)/python tests/mutation.py $(MODULES)

bench: .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m pytest benchmarks/kernels.py --benchmark-columns=median,iqr,rounds
	$(BIN)/python benchmarks/targets.py

clean:
	rm -rf audit.json .venv .venv-pip-audit .venv-mutation build dist *.egg-info .mypy_cache .ruff_cache .hypothesis .import_linter_cache
