# One virtual environment, one command per task. `make demo` and `make test` are all a newcomer needs.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: demo test test-all lint docs audit bench clean install

install: .venv/.installed

# Installed exactly as locked, without resolving: --no-deps. torch comes last and by itself, so that a CUDA build
# brings the libraries of its own platform. The mark is newer than both files as long as nothing changed.
.venv/.installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock torch==2.13.0 torchvision==0.28.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: install
	$(BIN)/lensdata demo

test: install
	$(BIN)/python -m pytest -m "not faults and not slow and not browser"

test-all: install
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/bandit --quiet --recursive --severity-level medium --configfile pyproject.toml infra lensdata ray_train spark_jobs

docs: install
	$(BIN)/python -m mkdocs build --strict --quiet

# Known vulnerabilities of the locked packages; asks the index for its advisories, so it needs a network.
audit: install
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet --disable-pip-version-check "pip-audit>=2.9"
	build/audit/bin/pip-audit --strict --no-deps --disable-pip -r requirements.lock

bench: install
	$(BIN)/python benchmarks/catalogue.py

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache runs
