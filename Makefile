# The kit on this machine.  `make` alone says what there is.
#
# Every variable below can be set for one run, `make up PERLBAL_PORT=8090`, or
# in the environment.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

# Python 3.11 or newer, with venv (Debian: python3-venv).
PYTHON ?= python3
# Where the kit's own tools are installed.
VENV ?= .venv
# Which machines, and more words for ansible-playbook (--check --diff, -v, -e name=value).
INVENTORY ?= inventory/onebox
ANSIBLE_ARGS ?=
# Where one box keeps everything it writes.
VAR ?= $(CURDIR)/var
# Ports of one box; unset: those of the inventory.  PORT is short for PERLBAL_PORT.
PORT ?=
PERLBAL_PORT ?= $(PORT)
PERLBAL_CONSOLE_PORT ?=
PERLBAL_METRICS_PORT ?=
JOURNAL_PORT ?=
JOURNAL_METRICS_PORT ?=
MEMCACHED_PORT ?=
MEMCACHED_METRICS_PORT ?=
GEARMAND_PORT ?=
GEARMAND_METRICS_PORT ?=
GEARMAN_WORKER_GOFER_METRICS_PORT ?=
MYSQL_PORT ?=
MOVER_PORT ?=
MOVER_METRICS_PORT ?=
MOVER_WORKER_METRICS_PORT ?=
# `make logs`: how many lines, and whether to go on (FOLLOW=0: no).
LINES ?= 20
FOLLOW ?= 1
# More words for pytest, and how many of its processes run at once: one more than there are
# processors, since tests wait for disks and for other programs.
PYTEST_ARGS ?=
PYTEST_JOBS ?= $(shell echo $$(($$(nproc) + 1)))
# How many linters run at once.
LINT_JOBS ?= 2
# Which lab: a folder of molecule/.
SCENARIO ?= ha_pair
# Words for the benchmarks: names of modules, --quick.
BENCH_ARGS ?=

BIN := $(VENV)/bin
CURRENT := $(VAR)/runtime/current/bin
SUPERVISORCTL := $(CURRENT)/supervisorctl -c $(VAR)/etc/supervisord.conf
# What begins as a shell script does; not templates, which are none before they are filled in.
SHELL_SCRIPTS = $(shell find . -name '.?*' ! -path ./.ci -prune -o -path ./var -prune -o -path './$(VENV)' -prune \
  -o -type f ! -name '*.j2' -exec awk 'FNR == 1 && /^.! *[^ ]*[\/ ](env +)?(ba|da)?sh( |$$)/ { print FILENAME } { nextfile }' {} +)

# Downloads and scratch files stay in the checkout, as everything else does.
export PIP_CACHE_DIR ?= $(VAR)/cache/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONUNBUFFERED := 1
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
# Ansible and what the linters start are found here, not elsewhere on PATH.
export PATH := $(abspath $(BIN)):$(PATH)

EXTRA_VARS := $(strip \
  $(if $(filter-out $(CURDIR)/var,$(VAR)),-e lj_root=$(abspath $(VAR)) -e lj_control_dir=$(abspath $(VAR))) \
  $(if $(PERLBAL_PORT),-e perlbal_port=$(PERLBAL_PORT)) \
  $(if $(PERLBAL_CONSOLE_PORT),-e perlbal_console_port=$(PERLBAL_CONSOLE_PORT)) \
  $(if $(PERLBAL_METRICS_PORT),-e perlbal_metrics_port=$(PERLBAL_METRICS_PORT)) \
  $(if $(JOURNAL_PORT),-e journal_port=$(JOURNAL_PORT)) \
  $(if $(JOURNAL_METRICS_PORT),-e journal_metrics_port=$(JOURNAL_METRICS_PORT)) \
  $(if $(MEMCACHED_PORT),-e memcached_port=$(MEMCACHED_PORT)) \
  $(if $(MEMCACHED_METRICS_PORT),-e memcached_metrics_port=$(MEMCACHED_METRICS_PORT)) \
  $(if $(GEARMAND_PORT),-e gearmand_port=$(GEARMAND_PORT)) \
  $(if $(GEARMAND_METRICS_PORT),-e gearmand_metrics_port=$(GEARMAND_METRICS_PORT)) \
  $(if $(GEARMAN_WORKER_GOFER_METRICS_PORT),-e gearman_worker_gofer_metrics_port=$(GEARMAN_WORKER_GOFER_METRICS_PORT)) \
  $(if $(MYSQL_PORT),-e mysql_port=$(MYSQL_PORT)) \
  $(if $(MOVER_PORT),-e mover_port=$(MOVER_PORT)) \
  $(if $(MOVER_METRICS_PORT),-e mover_metrics_port=$(MOVER_METRICS_PORT)) \
  $(if $(MOVER_WORKER_METRICS_PORT),-e mover_worker_metrics_port=$(MOVER_WORKER_METRICS_PORT)))
# Ansible's modules unpack themselves in TMPDIR.
PLAYBOOK = mkdir -p $(VAR)/tmp && TMPDIR=$(VAR)/tmp $(BIN)/ansible-playbook -i $(INVENTORY) $(EXTRA_VARS) $(ANSIBLE_ARGS)

.PHONY: help
help: ## This list
	@echo "The LiveJournal backend as a kit."
	@echo
	@sed -n 's/^\([a-z][a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18
	@echo
	@echo "Variables (make up PERLBAL_PORT=8090): see the top of the Makefile."

# --- One box ------------------------------------------------------------------

.PHONY: up
up: venv ## Provision this machine, prove that the site works, say where it is
	@$(PLAYBOOK) playbooks/site.yml
	@$(BIN)/lj --site $(VAR)/etc/site.toml smoke
	@tools/hello.sh $(VAR)/etc/site.toml

.PHONY: down
down: venv ## Stop the services; data stays, `make up` starts them again
	@$(PLAYBOOK) playbooks/down.yml

.PHONY: status
status: ## What runs
	@test -x $(CURRENT)/supervisorctl || { echo "Nothing is installed yet: make up"; exit 1; }
	@test -S $(VAR)/run/supervisor.sock || { echo "Nothing runs: make up"; exit 1; }
	@$(SUPERVISORCTL) status || { echo "Not everything runs: make up, or make logs"; exit 1; }

.PHONY: logs
logs: ## The services' logs, and what comes next in them (LINES=20 FOLLOW=1)
	@ls $(VAR)/log/*.log >/dev/null 2>&1 || { echo "No logs yet: make up"; exit 1; }
	@tail -n $(LINES) $(if $(filter-out 0,$(FOLLOW)),-F) $(VAR)/log/*.log

.PHONY: clean
clean: ## Remove what tests and tools left; the site and its data stay, and running labs
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache \
	  .ansible .cache test-artifacts '$(VAR)/ansible' '$(VAR)/tmp'
	@# Hosts of a lab that runs could not be switched on again without their image.
	$(PYTHON) -m tools.lab.image '$(VAR)/cache/lab'
	if [ -d '$(VAR)/cache' ]; then find '$(VAR)/cache' -mindepth 1 -maxdepth 1 ! -name lab -exec rm -rf {} +; fi
	find . -name __pycache__ -not -path './$(VENV)/*' -not -path './var/*' -prune -exec rm -rf {} +

# --- Tools --------------------------------------------------------------------

# A stamp says for which dependencies the environment was made.
.PHONY: venv
venv: $(VENV)/.control ## The tools that `make up` needs, in .venv

$(VENV)/.control: pyproject.toml constraints.txt
	@PYTHON=$(PYTHON) TMPDIR=$(VAR)/tmp tools/venv.sh $(VENV) control
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt packages.txt
	@tools/packages.sh packages.txt
	@PYTHON=$(PYTHON) TMPDIR=$(VAR)/tmp tools/venv.sh $(VENV) control,lab,test
	@touch $(VENV)/.control $@

# --- Labs of virtual machines (root; docs/ha.md) ----------------------------------------

.PHONY: lab-up
lab-up: $(VENV)/.test ## Virtual machines with the roles of SCENARIO on them (root)
	@# What molecule remembers of a lab that ended in another way than by lab-down is not true.
	@$(BIN)/python -m tools.lab --state $${LJ_LAB_STATE:-var/lab/$(SCENARIO)} status >/dev/null 2>&1 \
	  || $(BIN)/molecule reset --scenario-name $(SCENARIO) >/dev/null
	$(BIN)/molecule converge --scenario-name $(SCENARIO)

.PHONY: lab-again
lab-again: $(VENV)/.test ## Run the roles on the lab of SCENARIO anew, which must change nothing, and with --check
	$(BIN)/molecule idempotence --scenario-name $(SCENARIO)
	@# Not `molecule check`, which is content with whatever would change.
	$(BIN)/molecule idempotence --scenario-name $(SCENARIO) -- --check

.PHONY: lab-test
lab-test: $(VENV)/.test ## Do to the lab of SCENARIO what befalls hosts, after `lab-up`
	$(BIN)/pytest -s $(PYTEST_ARGS) molecule/$(SCENARIO)/tests

.PHONY: lab-ha
lab-ha: $(VENV)/.test ## Hand over and pull power in the lab of `lab-up`, and count commits (LAB_HA_ROUNDS=20)
	$(BIN)/pytest -s $(PYTEST_ARGS) molecule/ha_pair/tests

.PHONY: lab-down
lab-down: $(VENV)/.test ## End the virtual machines of SCENARIO
	$(BIN)/molecule destroy --scenario-name $(SCENARIO)

# --- Quality ------------------------------------------------------------------

# Where unit tests keep their files: in memory if there is 1 GB of it, as each fsync costs a disk's time.
QUICK_TMPDIR = $(shell [ -w /dev/shm ] && [ "$$(df -k --output=avail /dev/shm | tail -n 1)" -gt 1048576 ] \
  && echo /dev/shm || echo "$${TMPDIR:-/tmp}")

.PHONY: check
check: $(VENV)/.test lint ## The fast part of `make test`: under a minute
	TMPDIR=$(QUICK_TMPDIR) $(BIN)/pytest tests/unit -m unit --hypothesis-profile=quick -n $(PYTEST_JOBS) -q $(PYTEST_ARGS)

.PHONY: lint
lint: $(VENV)/.test
	@$(MAKE) --no-print-directory --keep-going --jobs=$(LINT_JOBS) --output-sync=target $(LINTERS)

# All at once, the slowest first; what each of them says stays together.
LINTERS := lint-types lint-yaml lint-python lint-imports lint-shell
.PHONY: $(LINTERS)
$(LINTERS): $(VENV)/.test

lint-types:
	$(BIN)/mypy

lint-yaml:
	$(BIN)/yamllint --strict .

lint-python:
	$(BIN)/ruff check
	$(BIN)/ruff format --check

lint-imports:
	$(BIN)/lint-imports

lint-shell:
	shellcheck $(SHELL_SCRIPTS)

.PHONY: lint-roles
lint-roles: $(VENV)/.test
	$(BIN)/ansible-lint --offline --strict

.PHONY: test
test: $(VENV)/.test lint lint-roles ## Everything that CI runs
	$(BIN)/pytest -n $(PYTEST_JOBS) --dist loadgroup --durations=15 --durations-min=20 $(PYTEST_ARGS)

# The ledger of moves is long here; `make test` has a short form of it.
LONG_LEDGER = MOVER_LEDGER_MOVES=$${MOVER_LEDGER_MOVES:-500} MOVER_LEDGER_USERS=$${MOVER_LEDGER_USERS:-200}

.PHONY: faults
faults: $(VENV)/.test ## Only the tests that kill, cut, fill and lie
	$(LONG_LEDGER) $(BIN)/pytest -m faults $(PYTEST_ARGS)

# How many of each kind of disk, and how many kinds at once.
CYCLES ?= 100
CYCLE_JOBS ?= $(shell nproc)

.PHONY: disk-cycles
disk-cycles: $(VENV)/.test ## Cut each kind of disk CYCLES=100 times under the disk checker, and count its verdicts (root)
	$(BIN)/python -m tests.support.disk_cycles --cycles $(CYCLES) --jobs $(CYCLE_JOBS)

.PHONY: search
search: $(VENV)/.test ## Look for new examples that break a property; `make test` has the same ones each time
	$(BIN)/pytest tests/unit -m unit --hypothesis-profile=search -n $(PYTEST_JOBS) $(PYTEST_ARGS)

.PHONY: bench
bench: $(VENV)/.test ## Ours beside the real peers; writes docs/benchmarks.md
	$(BIN)/python -m bench $(BENCH_ARGS)
