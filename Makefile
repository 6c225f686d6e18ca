# make            the environment in .venv
# make score      score the example cohort, or ARGS="input=/path/to/dicom output=/path/to/results"
# make test       all tests, a process per core (ARGS are passed to pytest)
# make study      the study of Sartoretti et al. 2022 on digital patients, beside their numbers (PATIENTS=56; half an hour on
#                 two cores; run it again and it goes on where it stopped). WORKERS=2 make the scans; one scores them
# make check      style and types
# make train      train the default model (ARGS are passed to train.py)

PYTHON ?= python3
PATIENTS ?= 56
WORKERS ?= 2
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# the torch of constraints.txt; it is installed before the rest, see there
TORCH := $(shell grep '^torch==' constraints.txt)

.DEFAULT_GOAL := install
.PHONY: install score study train test check format clean distclean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { echo "error: $(PYTHON) not found; name a Python 3.11 or newer: make PYTHON=python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: cacsnet needs Python 3.11 or newer, but $(PYTHON) is $$("$(PYTHON)" -V 2>&1); try: make PYTHON=python3.11" >&2; exit 1; }
	@if [ -x $(BIN)/python ] && ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		echo "error: $(VENV) holds a Python older than 3.11; remove it with: make distclean" >&2; exit 1; fi
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

score: $(STAMP)
	$(BIN)/python infer.py $(ARGS)

# exit code 3 of infer.py: some scans failed; the study names them
STUDY := outputs/study-$(PATIENTS)
study: $(STAMP)
	$(BIN)/python -m cacsnet.phantom cohort=sartoretti2022 patients=$(PATIENTS) workers=$(WORKERS) format=nifti output=$(STUDY)/cohort
	$(BIN)/python infer.py input=$(STUDY)/cohort/manifest.csv reference=$(STUDY)/cohort/reference.csv output=$(STUDY)/results $(ARGS) \
		|| [ $$? -eq 3 ]
	$(BIN)/python -m cacsnet.agreement.replicate $(STUDY)/results/agreement/agreement.json output=$(STUDY)/beside_the_paper.md

train: $(STAMP)
	$(BIN)/python train.py experiment=phantom $(ARGS)

# a file's tests stay in one process: they share what is costly to make
test: $(STAMP)
	$(BIN)/python -m pytest -q -n auto --dist loadfile $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# caches and build products; results, runs and the environment stay
clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
