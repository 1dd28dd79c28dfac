# Everything a maintainer runs, by name. `make` alone lists it.

PYTHON ?= python3
OTHERS ?= 3.11 3.12 3.13
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
ON_SERVERS := etcd or zookeeper or consul or kubernetes
# What several jobs print comes job by job, where make can do that.
SORTED := $(if $(filter output-sync,$(.FEATURES)),-O)
CONFORMANCE := $(patsubst %,tests/test_suite_%.py,etcd zookeeper consul kubernetes)
# Most tests wait for something most of the time, so some of them share the time well: three on the two cores of
# a small machine, two where another Python does the same beside them. Each has servers of its own, and all the
# tests that need one of a kind run in the same, which starts it once. Those that are marked slow load the machine,
# or measure it, and run alone.
THREE := -n 3 --dist loadgroup
TWO := -n 2 --dist worksteal
# The tests start thousands of processes, and each would compile the library anew.
unexport PYTHONDONTWRITEBYTECODE
# One other Python is enough to show that the clients of the servers work on another than the first.
OURS = $(shell $(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
NEWEST = $(lastword $(filter-out $(OURS),$(OTHERS)))

.PHONY: help demo venv check servers test test-versions test-docker faults others explore simulate picture recording man bench clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo:  ## three processes, one lock: needs Python alone, no network and no installation
	@sh .ci/recent "$(PYTHON)"
	PYTHONPATH=.:backends $(PYTHON) examples/demo.py

venv: $(VENV)/.installed  ## an environment with the library (editable) and all that tests need

$(VENV)/.installed: pyproject.toml .ci/venv
	sh .ci/venv "$(PYTHON)" $(VENV) test
	@touch $@

check: venv  ## linter, formatter and both type checkers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	@$(MAKE) --no-print-directory -j 2 $(SORTED) mypy pyright

.PHONY: mypy pyright
mypy:
	$(BIN)/mypy

pyright:
	$(BIN)/pyright --warnings

servers: venv  ## get the servers of the tests: built once, some ten minutes on two cores
	@PYTHONPATH=tests $(BIN)/python -m servers.get
	@PYTHONPATH=tests $(BIN)/python -m servers.clientgo
	@PYTHONPATH=tests $(BIN)/python -m servers.browser
	@PYTHONPATH=tests $(BIN)/python -m shells

test: check servers  ## the checks, the whole suite, and its quick part on every other Python found here
	$(BIN)/python tests/again.py -m "not slow" $(THREE) $(PYTEST_ARGS)
	$(BIN)/python tests/again.py -m slow $(PYTEST_ARGS)
	@$(MAKE) --no-print-directory -j 2 $(SORTED) others

test-versions: venv  ## what asks for a server, against the oldest versions that we support
	@LEASES_VERSIONS=old PYTHONPATH=tests $(BIN)/python -m servers.get --insist
	LEASES_VERSIONS=old $(BIN)/python -m pytest -m "$(ON_SERVERS)" $(PYTEST_ARGS)

test-docker: venv  ## the same in containers: official images, or what is built here under their names; ours, deployed
	PYTHONPATH=tests $(BIN)/python -m servers.engine -- $(BIN)/python -m pytest -m "$(ON_SERVERS) or containers" $(PYTEST_ARGS)

faults: check servers  ## real servers cut off, frozen, killed and crowded for longer than `make test` does: three quarters of an hour
	LEASES_LONG=1 $(BIN)/python -m pytest -s tests/test_faults_*.py tests/test_round_trips.py tests/test_interrupts_several.py \
		tests/test_watchdog.py tests/test_simulation.py tests/test_cli_tree.py tests/test_sidecar_app.py tests/test_sidecar_replicas.py $(PYTEST_ARGS)

others: $(OTHERS:%=python-%)  ## the quick part of the suite on the other Pythons found here

# An interpreter counts as found when it runs: the shims of version managers exist for versions that do not.
# The one that the whole suite has just run on is left out.
python-%:
	@$(BIN)/python -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$*')" && exit 0; \
	python=$$(sh .ci/python $*) || { echo "python$*: not found on this machine, skipped"; exit 0; }; \
	$(MAKE) --no-print-directory quick VERSION=$* PYTHON="$$python"

.PHONY: quick
quick: $(VENV)-$(VERSION)/.installed
	LEASES_QUICK=1 $(VENV)-$(VERSION)/bin/python tests/again.py -m "not (slow or waits or logic or $(ON_SERVERS))" $(TWO) -p no:cacheprovider $(PYTEST_ARGS)
	$(if $(filter $(NEWEST),$(VERSION)),$(VENV)-$(VERSION)/bin/python tests/again.py $(CONFORMANCE) -n 2 --dist loadgroup -p no:cacheprovider $(PYTEST_ARGS))

$(VENV)-$(VERSION)/.installed: pyproject.toml .ci/venv
	sh .ci/venv "$(PYTHON)" $(VENV)-$(VERSION) suite
	@touch $@

explore: venv  ## search the model of the protocol deeper than the tests do
	$(BIN)/python -m leases.testing.explorer --deep

simulate: venv  ## run the protocol against a store and a network that misbehave
	$(BIN)/leases simulate

picture: venv  ## draw docs/timeline.svg, the picture in the README, anew
	$(BIN)/python examples/draw_a_scene.py docs/timeline.svg

recording: venv  ## make docs/recording.svg, what two shells showed, and the pictures of the status page anew
	$(BIN)/python docs/record.py docs/recording.svg
	PYTHONPATH=tests $(BIN)/python docs/photograph.py docs/status-light.png docs/status-dark.png

man: venv  ## make docs/leases.1, the manual page, from the parsers anew
	$(BIN)/python -m leases.cli.manual > docs/leases.1

bench: $(VENV)/.bench  ## what things cost on this machine
	@for file in benchmarks/*.py; do \
		case $$file in */_*) continue;; esac; \
		echo "== $$file"; $(BIN)/python $$file || exit 1; \
	done

$(VENV)/.bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@

clean:  ## remove what the other targets made
	rm -rf $(VENV) $(OTHERS:%=$(VENV)-%) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
