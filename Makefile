# Every target does what it needs first. `make` lists them.
.DEFAULT_GOAL := help
BIN := .venv/bin
INSTALLED := .venv/.installed
# The providers' SDKs that tests/conformance imports are installed for those tests only.
PYTEST := $(BIN)/python -m pytest --ignore=tests/conformance
# Four processes for two cores, for the tests wait as long as they compute; a file stays whole, for its tests share
# servers and run side by side already.
SHARED := -n 4 --dist loadfile --no-loadscope-reorder --durations=15

# Named, for to load all other files four times takes longer than some of these tests.
SYSTEM = $(shell grep -rlE "mark\.system" tests --include="test_*.py")

.PHONY: help install demo test test-full test-conformance test-system test-system-full chaos check format bench lock audit docs docs-check screenshots record-history up

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' Makefile

install: $(INSTALLED)-dev ## create .venv, by uv where it is there, else by pip
$(INSTALLED)-%: requirements/%.txt requirements/install pyproject.toml
	@requirements/install $*

demo: install ## run all three jobs on a real Temporal server: batches, a site, a gazette; no keys, no network
	@$(BIN)/nightmill demo

test: install ## run the tests: SQLite, PostgreSQL, Temporal, the sandbox
	$(PYTEST) $(SHARED) -m 'not slow and not system'

test-full: install ## run the long tests as well, and all of them in the workflow sandbox
	NIGHTMILL_WORKER__WORKFLOW_SANDBOX=true $(PYTEST) $(SHARED) -m 'not system'

test-system-full: install ## run the long ones of those that need system tools, chromium among them, too
	$(PYTEST) $(SHARED) -m system $(SYSTEM)

test-conformance: $(INSTALLED)-conformance ## drive the sandbox with the providers' own SDKs
	$(BIN)/python -m pytest tests/conformance

test-system: install ## run the tests that need system tools: strace, network namespaces, tesseract, files of others
	$(PYTEST) $(SHARED) -m 'system and not slow' $(SYSTEM)

chaos: install ## kill, cut off and terminate at random for some minutes, then balance the books; CHAOS="--seed 2"
	$(BIN)/python -m tests.chaos.run $(CHAOS)

check: install ## formatting, lint, strict types, import layers; the files that deploy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@[ ! -x $(BIN)/hadolint ] || $(BIN)/hadolint Dockerfile
	$(BIN)/compose-lint check --no-env --fail-on low --strict-config --skip-suppressed
	$(BIN)/yamllint --strict --config-file .yamllint.yml docker-compose.yml .compose-lint.yml .yamllint.yml deploy

format: install ## format and sort imports
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(INSTALLED)-bench ## measure, with other ways to do the same beside it in the same run
	@for file in bench/adr_*.py bench/[dop][0-9]*.py bench/[rs][0-9]*.py; do echo "$$file" && $(BIN)/python -m bench.$$(basename $$file .py) || exit; done

lock: ## write requirements/*.txt anew; needs uv
	requirements/lock

audit: install ## ask for known holes in what the image holds, and look for grave patterns in the code; needs the network
	$(BIN)/bandit --quiet --recursive -lll nightmill workflows activities worker.py
	$(BIN)/pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement requirements/base.txt

docs: install ## write the tables of settings and metrics in docs/ and README.md from the code
	$(BIN)/python -m docs.generate

docs-check: install ## run every command that README.md and docs/*.md show; PAGES="docs/recovery.md" for README and these
	$(BIN)/python -m docs.check $(PAGES)

screenshots: install ## take the pictures of Temporal's UI in docs/images; needs chromium and chromedriver
	$(BIN)/python -m docs.screenshots

record-history: install ## record histories of the workflows as they are now, for the replay tests
	$(BIN)/python tests/replay/record.py

up: ## start or upgrade everything in containers; the first time, with new passwords in .env
	@deploy/new-env
	docker compose build
	docker compose --profile events stop worker slicing-worker events
	docker compose up --wait
