# `make` lists the targets. The first one that needs .venv installs it.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.done
NOTEBOOKS := training.ipynb inference.ipynb

.DEFAULT_GOAL := help
.PHONY: help setup run test fuzz tables report lint notebooks clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

setup: $(READY)  ## install everything into .venv

run: $(READY)  ## train and evaluate: execute both notebooks into build/
	@for notebook in $(NOTEBOOKS); do \
		echo "Executing $$notebook."; \
		$(BIN)/python -m digitsum.notebooks $$notebook build/$$notebook || exit 1; \
	done
	@$(BIN)/jupyter nbconvert --log-level WARN --to html --template classic $(addprefix build/,$(NOTEBOOKS))
	@echo "Done. The weights are in models/, the records of the runs in results/. Open in a browser:"
	@echo "file://$(CURDIR)/build/training.html"
	@echo "file://$(CURDIR)/build/inference.html"

test: $(READY)  ## run the tests, without the slow ones
	$(BIN)/pytest --durations=10

fuzz: $(READY)  ## mutate every kind of file: 1,500 of each
	$(BIN)/python tests/fuzz.py --count 1500

tables: $(READY)  ## write the tables of README.md and docs/ from results/
	$(BIN)/python -m research tables

report: $(READY)  ## build report.pdf from results/ and research/paper/
	$(BIN)/python -m research report

lint: $(READY)  ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: $(READY)  ## execute both notebooks in place, for the committed outputs
	@for notebook in $(NOTEBOOKS); do $(BIN)/python -m digitsum.notebooks $$notebook $$notebook || exit 1; done

clean:  ## remove caches and build/, but no weights, records or data
	rm -rf build .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find src research tests -name __pycache__ -type d -exec rm -rf {} +

# Creating an environment ends with pip. Without pip it was interrupted, so it is created again.
$(READY): requirements.txt pyproject.toml
	@test -x $(BIN)/pip || \
		$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "digitsum needs Python 3.11, 3.12 or 3.13. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; \
		exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	@echo "Installing requirements.txt into .venv. The GPU build of PyTorch makes it 6 GB; docs/install.md has a smaller one."
	@$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	@touch $@
