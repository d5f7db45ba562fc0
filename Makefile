# The contributor's menu. `make sweep` and `make test` install what they need first.
SHELL := /bin/bash
# if this is set, each worker of pytest compiles all tests again at every run: 15 s of a core
unexport PYTHONDONTWRITEBYTECODE
PY := .venv/bin/python
# the CPU option of uv: `make install TORCH=cpu` takes torch's small CPU build and leaves the CUDA packages out
TORCH ?=
PYTEST := $(PY) -m pytest
# a folder with others' code for `make bench`: `make bench PEERS=path/to/peers`
PEERS ?=
# tests that run at the same time: one more than two cores, because many of them wait (`make test JOBS=8`)
JOBS ?= 3
SHARED := -n $(JOBS) --dist loadgroup --no-loadscope-reorder

.PHONY: no-python help install sweep notebooks test test-wandb test-slurm test-all check bench format lock clean
help:
	@echo "make install     .venv with the exact versions of requirements.lock; fetches a Python if none fits"
	@echo "                 (TORCH=cpu: torch without CUDA; PYTHON=/path/to/python3.12: with that one)"
	@echo "make sweep       a small version of the main sweep: 3 values of beta on rendered faces, then a report"
	@echo "make notebooks   executes notebooks/*.py on the runs in runs/ and writes the .ipynb beside them"
	@echo "make test        all tests that a change must pass"
	@echo "make test-wandb  only the tests with the real W&B client: sweeps, agents, faults, upload, report"
	@echo "make test-slurm  only the tests on a real SLURM of two nodes on this machine, soak tests included"
	@echo "make test-all    all tests and the soak tests, which take long: kill -9 storms, the full faces"
	@echo "make check       ruff and the quick unit tests"
	@echo "make bench       each family's speed compared with its peer's, in one table; takes half an hour"
	@echo "                 (PEERS=folder with others' checkouts; see docs/benchmarks.md)"
	@echo "make format      ruff format"
	@echo "make lock        resolve requirements.lock again (environment.yml reads it)"

install: .venv/installed
# once for each lock; again if the Python that .venv points to has been removed from this machine
.venv/installed: requirements.lock $(shell test -x $(PY) || echo no-python)
	@launch/install.sh "$(TORCH)"
	@touch $@

# bf16 takes half of the time if the processor multiplies bfloat16 itself; else it would take many times as long
PRECISION := $(shell grep -qsE 'avx512_bf16|amx_bf16' /proc/cpuinfo && echo bf16 || echo fp32)
sweep: install
	@echo "== beta-VAE on rendered faces: beta 0, 4, 20, 350 steps in $(PRECISION), on this machine"
	$(PY) launch/local.py sweeps/bvae.yaml --name=bvae-quick \
	  --set precision=$(PRECISION) --set steps=350 --set 'seed=[0]'

notebooks: install
	@echo "== all notebooks, from the runs in $${NOTEBOOK_RUNS:-runs}; a notebook without its runs says how to make them"
	$(PY) notebooks/execute.py

test: install
	@echo "== all tests except the soak tests"
	$(PYTEST) $(SHARED) -m "not soak"

test-wandb: install
	@echo "== the real W&B client against a loopback server: sweeps, agents, faults, upload, report"
	$(PYTEST) $(SHARED) -m "not soak" tests/test_wandb_sweeps.py tests/test_wandb_faults.py \
	  tests/test_upload.py tests/test_wandb_report.py

test-slurm: install
	@echo "== sweeps on a SLURM of two nodes: calm, in a storm of faults, online, edited; the launcher's own tests"
	$(PYTEST) tests/test_slurm_sweeps.py tests/test_slurm.py tests/test_slurm_cluster.py

test-all: install
	@echo "== all tests, soak tests included"
	$(PYTEST) $(SHARED)
	$(PY) tests/soak_kills.py

check: install
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	$(PYTEST) $(SHARED) -m "not soak" tests/test_flags.py tests/test_queue.py tests/test_metrics.py tests/test_sweeps.py

bench: install
	@echo "== each family's benchmark at its peer's own setting; the table goes to benchmarks/results/"
	$(PY) benchmarks/bench.py $(if $(PEERS),--peers="$(PEERS)")

format: install
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

lock:
	uv pip compile --universal --group dev --extra publish pyproject.toml -o requirements.lock --python-version 3.11

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis
