# Everything a newcomer or CI needs. `make demo` and `make test` are the two commands of the README.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup setup-dev demo test test-all test-postgres test-long test-conformance test-faults test-projects faults mutants bench check fmt lock wire buf clean

setup: $(VENV)/.run

setup-dev: $(VENV)/.dev

$(VENV)/.run: requirements/run.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Pilothouse needs Python 3.11 or newer: make PYTHON=python3.11 …" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/run.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@$(BIN)/python -m compileall -q src/pilothouse
	@touch $@

$(VENV)/.dev: requirements/dev.lock $(VENV)/.run
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/dev.lock
	@touch $@

demo: setup
	@sh tools/demo.sh

# Whole files go to one worker, in the order given here: first those that wait, last the many that are short.
PYTEST := $(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder
# Says how long a part took, and stops it at its limit (in minutes) with its name.
TIMED := @bash tools/timed.sh --limit

# What every change must pass: everything on SQLite, a few minutes.
QUICK := tests/e2e tests/integration tests/contract tests/unit
# Tests that start a server, for their second run on PostgreSQL.
ON_POSTGRES := tests/e2e tests/integration/test_identity_*.py tests/integration/test_on_postgres.py \
	tests/integration/test_up.py tests/integration/test_agent_tokens.py tests/integration/test_cli_access.py \
	tests/integration/test_cli_logs.py tests/integration/test_cli_artifacts.py tests/integration/test_cli_pipelines.py tests/integration/test_gates_on_an_agent.py \
	tests/integration/test_proxies.py tests/integration/test_edge_*.py tests/integration/test_login_limits.py \
	tests/integration/test_quotas.py tests/integration/test_list_bounds.py

test: setup-dev
	@sh tools/test_needs.sh
	$(TIMED) 24 "tests" $(PYTEST) $(or $(ARGS),-m "not postgres" $(QUICK))

test-all: test test-postgres test-long

test-postgres: setup-dev
	@sh tools/test_needs.sh
	$(TIMED) 6 "contract suites on PostgreSQL" $(PYTEST) -m postgres $(QUICK)
	$(TIMED) 12 "servers on PostgreSQL" env PILOT_TEST_DATABASE=postgresql $(PYTEST) $(ON_POSTGRES)

# Browsers and other clients, kills and bad networks, projects that are not ours.
test-long: test-conformance test-faults test-projects

test-conformance: setup-dev
	@sh tools/test_needs.sh
	$(TIMED) 9 "browsers and other clients" $(PYTEST) tests/conformance

test-faults: setup-dev
	@sh tools/test_needs.sh
	$(TIMED) 15 "faults" $(PYTEST) tests/faults

test-projects: setup-dev
	@sh tools/test_needs.sh
	$(TIMED) 8 "third-party projects" $(PYTEST) tests/projects

# The long version of tests/faults: kills and bad networks, so many times over.
faults: setup-dev
	@sh tools/test_needs.sh
	PILOT_FAULT_ROUNDS=$(or $(ROUNDS),20) $(BIN)/python -m pytest -s tests/faults $(ARGS)

# Which changes of the code no test notices; docs/decisions/0017-mutants.md. At most 30 minutes.
mutants: $(VENV)/mutants/.done
	nice -n 15 $(BIN)/python tools/mutants.py $(MODULE)

# mutmut runs our tests in its own environment, with the packages of ours.
$(VENV)/mutants/.done: requirements/mutants.lock $(VENV)/.dev
	$(BIN)/python -m venv $(VENV)/mutants
	$(VENV)/mutants/bin/python -m pip install --quiet --require-hashes -r requirements/mutants.lock
	path='import sysconfig; print(sysconfig.get_path("purelib"))'; \
	$(BIN)/python -c "$$path" >"$$($(VENV)/mutants/bin/python -c "$$path")/ours.pth"
	@touch $@

# Every measure against its peer; writes docs/performance.md.
bench: setup-dev
	$(BIN)/python -m bench $(ARGS)

check: setup-dev
	$(BIN)/ruff format --check src tests tools
	$(BIN)/ruff check src tests tools
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/generate_wire.py --check
	@sh tools/buf.sh --check
	$(BIN)/python tools/refresh_docs_assets.py --check
	$(BIN)/python tools/generate_commands.py --check
	$(BIN)/python tools/generate_types.py --check
	$(BIN)/python tools/check_api.py
	$(BIN)/python tools/check_lock.py

fmt: setup-dev
	$(BIN)/ruff format src tests tools
	$(BIN)/ruff check --fix src tests tools

# The lock files hold hashes and no address of any registry.
lock:
	$(PYTHON) -m venv $(VENV)/lock && $(VENV)/lock/bin/pip install --quiet uv
	$(VENV)/lock/bin/uv pip compile pyproject.toml --group build $(LOCK_OPTIONS) -o requirements/run.lock
	$(VENV)/lock/bin/uv pip compile pyproject.toml --group dev $(LOCK_OPTIONS) -o requirements/dev.lock
	echo mutmut==3.8.1 | $(VENV)/lock/bin/uv pip compile - -c requirements/dev.lock $(LOCK_OPTIONS) -o requirements/mutants.lock
	echo openapi-python-client==0.29.1 | $(VENV)/lock/bin/uv pip compile - $(LOCK_OPTIONS) -o requirements/conformance.lock
	cd tests/conformance/typescript && npm install --package-lock-only

LOCK_OPTIONS := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	--no-annotate --no-header --quiet

wire: setup-dev
	$(BIN)/python tools/generate_wire.py

# Lints the protos, compares them with the last release's, and generates clients into build/clients.
buf: setup-dev
	@sh tools/buf.sh

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
