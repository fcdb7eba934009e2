# make run and make test set up .venv first; ARGS= goes to the command: make run ARGS="mixer=conv seed=1".
PYTHON ?= python3
BIN := .venv/bin
EXTRAS := bolts,bench,coco,launchers,export,hub,notebooks,docs,dev
ARGS ?=

PARTS := tests layers networks scaling methods loop input reproduction
PART ?= $(PARTS)

MINUTES ?= 10

.PHONY: setup run test test-lowest test-cluster fuzz gpu lint types docs deviations notebooks tensorboard lock clean

setup: .venv/.ready

.venv/.ready: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: $(PYTHON) is not there or older than Python 3.10; name another one, as PYTHON=python3.12"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
		{ rm -rf .venv; echo "error: $(PYTHON) can't make a virtual environment (Debian and Ubuntu: apt install python3-venv)"; exit 2; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.8"
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --compile-bytecode --constraint requirements.lock --editable ".[$(EXTRAS)]"
	@touch $@

run: setup
	$(BIN)/python run.py $(ARGS)

test: setup
	$(BIN)/python -m pytest $(ARGS)

# The tests with the lowest versions that pyproject.toml allows, in .venv-lowest.
LOWEST_PYTHON ?= python3.10
LOWEST_EXTRAS := bolts,bench,coco,launchers,export,hub,notebooks,dev
test-lowest: setup
	@$(LOWEST_PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 10))' || \
		{ echo "error: $(LOWEST_PYTHON) is missing or older than Python 3.10; name another one with LOWEST_PYTHON=python3.11"; exit 2; }
	test -x .venv-lowest/bin/python || $(LOWEST_PYTHON) -m venv .venv-lowest
	VIRTUAL_ENV=.venv-lowest $(BIN)/uv pip install --quiet --resolution lowest-direct --editable ".[$(LOWEST_EXTRAS)]"
	.venv-lowest/bin/python -m pytest --ignore=tests/test_docs.py $(ARGS)

# Tests on SLURM, a Ray cluster and torchrun's nodes, which it starts on this machine, with files and ports of their own,
# and stops; some 20 minutes. Debian and Ubuntu: apt install slurmctld slurmd slurm-client munge
test-cluster: setup
	@$(BIN)/python -m tests.cluster.slurm check
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --constraint requirements.lock --editable ".[ray]"
	$(BIN)/python -m pytest tests/cluster -o addopts= -rs -s $(ARGS)

# The properties in tests/fuzz on new random cases, for that many minutes.
fuzz: setup
	$(BIN)/python -m tests.fuzz $(MINUTES) $(ARGS)

# Tests and measurements on a GPU, in results/gpu: all parts, or one, as PART=layers; each takes at most eight minutes.
# It sets nothing up: without .venv, the packages are those of $(PYTHON).
GPU_PYTHON = PYTHONPATH=src$(if $(PYTHONPATH),:$(PYTHONPATH)) $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
NEEDED := torch torchvision pytorch_lightning torchmetrics hydra safetensors scipy sklearn matplotlib tensorboard rich filelock pytest \
	timm lambda_networks
gpu:
	@$(GPU_PYTHON) -c 'import sys; from importlib.util import find_spec; missing = [m for m in sys.argv[1:] if not find_spec(m)]; \
		sys.exit(f"error: {sys.executable} lacks {missing}: install them, or name another one, as PYTHON=python3.12" if missing else 0)' $(NEEDED)
	@for part in $(PART); do $(GPU_PYTHON) run.py job=gpu job.part=$$part $(ARGS) || exit 2; done

lint: setup
	$(BIN)/ruff check $(ARGS) .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup
	$(BIN)/mypy $(ARGS)

# The documentation's pages in build/site; a broken link is an error.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict $(ARGS)

# docs/deviations.md, from docs/deviations.yaml.
deviations: setup
	$(BIN)/python docs/deviations.py

# Runs the notebooks, from the .py files, and keeps their outputs beside them.
notebooks: setup
	for file in notebooks/*.py; do $(BIN)/jupytext --quiet --to ipynb --execute $$file || exit 1; done

tensorboard: setup
	$(BIN)/tensorboard --logdir . $(ARGS)

# Versions for every extra and Python, without the host that they came from.
lock: setup
	$(BIN)/uv pip compile --universal --python-version 3.10 --all-extras --no-annotate --no-header \
		--no-emit-index-url --no-emit-find-links --output-file requirements.lock pyproject.toml

clean:
	rm -rf build .venv .venv-lowest .pytest_cache .mypy_cache .ruff_cache src/*.egg-info
