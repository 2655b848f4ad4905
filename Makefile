# make help tells what there is. Everything sets up what it needs first; a second time that takes no time.
SHELL := /bin/bash
PY := .venv/bin/python
# libvirt and the tests' network namespaces belong to root
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo --preserve-env=STATE,PORT,LEASEHOLD_CACHE,SEED,PEOPLE,SECONDS,HOSTS,DESKTOPS,MANAGERS,SETTLE,SHORT)
STATE ?= var/standalone
PORT ?= 8443
TESTS ?= tests
# four at a time, by files (tests/conftest.py): most of the time guests boot, browsers wait and processes start
PYTEST ?= -n 4 --dist loadfile --no-loadscope-reorder
QUICK := not lab and not ad and not e2e
export STATE PORT

HOSTS ?= 200
.PHONY: help setup setup-test run sim test check lint wheel lab-test stories bench chaos revision reference lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo; echo '  STATE=folder PORT=number make run   beside another one (default: STATE=var/standalone PORT=8443)'
	@echo '  TESTS=tests/pools make test         only these tests (PYTEST=-x: one after the other, until one fails)'

setup: ## install what running needs: Debian packages, .venv, front-end files
	@standalone/setup run

setup-test:
	@standalone/setup test

run: setup ## open a portal with real desktops on this machine; Ctrl-C stops all of it
	@exec $(SUDO) $(PY) -m standalone --state "$(STATE)" --port "$(PORT)"

sim: setup-test ## open a portal on HOSTS=200 simulated hosts full of VMs; Ctrl-C stops all of it
	@exec $(SUDO) $(PY) -m sim --hosts "$(HOSTS)" --port "$(PORT)"

test: setup-test lint ## install what the tests need, then run all of them: under 25 minutes
	@$(SUDO) env TESTS="$(TESTS)" tests/run $(PYTEST)

check: setup-test lint wheel ## lint, floors, types, wheel and the quick tests
	@$(PY) -m mypy
	@$(PY) -m pytest -m "$(QUICK)" $(TESTS)

lint:
	@.venv/bin/ruff check .
	@.venv/bin/lint-imports --no-logo

wheel: setup-test ## build the wheel, install it elsewhere and import it from another folder
	@$(PY) -m pytest -q tests/standalone/test_wheel.py

lab-test: setup-test ## real hosts, in the long form: power off, network cut, agent, libvirtd and manager killed
	@$(SUDO) env LAB_LONG=1 $(PY) -m pytest -s -m lab tests/lab

stories: setup-test ## play every story of tests/scenarios; make test plays each third
	@$(SUDO) env STORIES=all $(PY) -m pytest $(PYTEST) tests/test_scenarios.py

bench: setup-test ## measure against floors taken in the same run; prints a table of ratios
	@$(SUDO) $(PY) -m bench

chaos: setup-test ## ten minutes of people at work while every process is killed in turn, then a check of everything
	@$(SUDO) $(PY) -m tests.chaos

revision: setup-test ## M="words": write the migration that leads from the last one to the models
	@$(SUDO) $(PY) -m standalone.new_revision "$(M)"

reference: ## print docs/states.md, events.md and host-api.md anew from the code
	@$(PY) -m standalone.reference

lock: setup-test ## write requirements.lock anew from pyproject.toml, with the newest versions
	@env -u PIP_FIND_LINKS PIP_CONFIG_FILE=/dev/null CUSTOM_COMPILE_COMMAND="make lock" $(PY) -m piptools compile -q --upgrade \
		--generate-hashes --strip-extras --allow-unsafe --all-extras \
		--no-emit-index-url --no-emit-trusted-host --no-emit-find-links -o requirements.lock pyproject.toml

clean: ## remove what set-up and runs made here: .venv, node_modules, static/vendor, the state folder
	@[ ! -e "$(STATE)/lock" ] || flock -n "$(STATE)/lock" true || { echo "Leasehold runs in $(STATE): stop it first."; exit 1; }
	rm -rf .venv node_modules static/vendor dist build .*_cache
	$(SUDO) rm -rf "$(STATE)"
