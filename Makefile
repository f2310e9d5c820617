# The verbs a person types. Each is a line over Snakemake (see README), so nobody needs make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
TORCH := $(shell cat envs/torch.txt)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Of a person's variables for pip those count that say where packages come from; the others are for other environments.
PIP_SOURCES := $(addprefix PIP_,INDEX_URL EXTRA_INDEX_URL FIND_LINKS NO_INDEX TRUSTED_HOST PROXY CERT CLIENT_CERT CACHE_DIR NO_CACHE_DIR \
	CONFIG_FILE DEFAULT_TIMEOUT TIMEOUT RETRIES KEYRING_PROVIDER DISABLE_PIP_VERSION_CHECK)
unexport $(filter-out $(PIP_SOURCES),$(filter PIP_%,$(.VARIABLES)))
export PIP_USER := 0
export PIP_REQUIRE_VIRTUALENV := 0

.PHONY: reproduce laptop test paper smoke report lint clean env lock schema

reproduce: env  ## regenerate the structural claims and the quick laptop runs; ends with a scorecard
	@$(BIN)/snakemake && $(BIN)/replica scorecard

laptop: env  ## every laptop experiment, not only the quick ones
	@$(BIN)/snakemake --config quick=false && $(BIN)/replica scorecard

paper: env  ## one paper: make paper PAPER=minilm; with CLAIMS=ID,ID what their verdicts need, and no more
	@$(BIN)/snakemake paper --config paper=$(PAPER) $(if $(CLAIMS),claims=$(CLAIMS)) && ls results/laptop/papers/$(PAPER)/tables

smoke: env  ## every paper's whole chain on generated data, minutes
	@$(BIN)/snakemake --config scale=smoke && $(BIN)/replica scorecard --ledger results/smoke/claims.json

report: env  ## tables, figures and site from what was measured
	@$(BIN)/snakemake --config measured=true --forcerun compare --allowed-rules all compare ledger tables figures bibliography report --rerun-triggers mtime params && $(BIN)/replica scorecard

test: env  ## every test tier that this machine allows
	@$(BIN)/pytest -n logical --maxprocesses 4 --no-loadscope-reorder

lint: env
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/snakefmt --check Snakefile workflow/rules && $(BIN)/snakemake --lint

clean:  ## delete results, data, records and resume state, after asking; what is under version control stays
	@read -r -p "Delete assets/, state/, logs/, the folders in benchmarks/ and all of results/ but results/pinned/? [y/N] " answer; \
	if [ "$$answer" = y ]; then rm -rf assets state logs .snakemake benchmarks/*/ && find results -mindepth 1 -maxdepth 1 ! -name pinned -exec rm -rf {} +; \
	else echo "nothing deleted"; fi

env: .venv/installed  ## the locked environment in .venv

.venv/installed: envs/cpu.lock envs/torch.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: python3.11 is needed (Debian: apt install python3.11 python3.11-venv)"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "error: $(PYTHON) is not Python 3.11; set PYTHON=/path/to/python3.11"; exit 2; }
	@echo "making the environment in .venv (about two minutes)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --no-deps --require-hashes -r envs/cpu.lock
	@$(BIN)/pip install --quiet $(TORCH_OPTIONS) $(TORCH)
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	@$(BIN)/pip check && $(BIN)/python -c 'import torch, sys; sys.exit(torch.__version__.split("+")[0] != "$(TORCH)".split("==")[1])'
	@touch $@

lock: env  ## resolve envs/requirements.in again (torch stays out: its builds have different hashes)
	@$(BIN)/pip install --quiet uv && $(BIN)/uv pip compile --quiet --generate-hashes --no-emit-package torch --no-emit-find-links --no-emit-index-url --python-version 3.11 --override envs/overrides.txt envs/requirements.in -o envs/cpu.lock

schema: env  ## write the JSON Schemas of the configuration files, the reference of the meters, and the defaults that runs' ids leave out
	@$(BIN)/python -m replica.config.json_schema config/schema && $(BIN)/python -m replica.report.meters_page docs/meters.md && $(BIN)/python -c "from replica.plan import defaults; defaults.write()"
