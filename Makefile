# `make` lists the targets. Each sets up .venv by itself, once, and can be run any number of times.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.done
NOTEBOOKS := training.ipynb inference.ipynb

# Level 40 keeps the kernel's notice about local, unencrypted TCP, which helps nobody here, off the screen.
EXECUTE := $(BIN)/jupyter nbconvert --log-level WARN --to notebook --execute \
	--ExecutePreprocessor.extra_arguments=--log-level=40
# Committed notebooks keep their outputs and tags, and nothing about the machine or the hour.
NEUTRAL := --ExecutePreprocessor.record_timing=False --ClearMetadataPreprocessor.enabled=True \
	--ClearMetadataPreprocessor.preserve_cell_metadata_mask=tags \
	--ClearMetadataPreprocessor.preserve_nb_metadata_mask=kernelspec

.DEFAULT_GOAL := help
.PHONY: help setup run test tables report lint notebooks clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

setup: $(READY)  ## install everything into .venv

run: $(READY)  ## train and evaluate: execute both notebooks into build/
	@mkdir -p build
	@echo "Executing training.ipynb: 7 to 16 minutes on two CPU cores. Nothing is shown here until it ends;"
	@echo "the weights appear one by one under models/."
	@$(EXECUTE) training.ipynb --output-dir build
	@echo "Executing inference.ipynb: up to 4 minutes."
	@$(EXECUTE) inference.ipynb --output-dir build
	@$(BIN)/jupyter nbconvert --log-level WARN --to html $(addprefix build/,$(NOTEBOOKS))
	@echo "Done. Look at build/training.html and build/inference.html in a browser (or build/*.ipynb in Jupyter);"
	@echo "the weights are in models/, one record of every run is in results/."

test: $(READY)  ## run all tests, with coverage
	$(BIN)/pytest --cov

tables: $(READY)  ## renew the tables of README.md and docs/ from results/
	$(BIN)/python -m digitsum tables

report: $(READY)  ## build report.pdf from results/ and report/
	$(BIN)/python -m digitsum report

lint: $(READY)  ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: $(READY)  ## execute both notebooks in place, for the committed outputs
	@for notebook in $(NOTEBOOKS); do \
		echo "Executing $$notebook in place: up to 16 minutes on two CPU cores"; \
		$(EXECUTE) $(NEUTRAL) --inplace $$notebook || exit 1; \
	done

clean:  ## remove what tests and `make run` leave behind, but no weights, records or data
	rm -rf build .coverage .coverage.* .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find src tests -name __pycache__ -type d -exec rm -rf {} +

# pip comes last into a new environment, so one without it was cut short and is made anew.
$(READY): requirements.txt pyproject.toml
	@test -x $(BIN)/pip || \
		$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "digitsum needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is not one: run make PYTHON=python3.12 $(MAKECMDGOALS)"; \
		exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	@echo "Installing requirements.txt into .venv: about 2 minutes and 6 GB, most of it PyTorch with its GPU libraries"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@
