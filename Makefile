# Two commands matter: `make demo` and `make test`. Both need only Linux, Python >= 3.11, make and the package registries.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: venv check test test-ray demo bench bench-archives bench-growth bench-lookups bench-transfer bench-clean-machine test-deps clean fuzz soak soak-faults soak-builds

venv: $(VENV)/.made

$(VENV)/.made: pyproject.toml
	@test -n "$(PYTHON)" || { echo "lamina needs Python 3.11 or newer; name it: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m compileall -q src
	@touch $@

check: venv
	$(BIN)/ruff check src tests bench demo docs
	$(BIN)/ruff format --check src tests bench demo docs
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/pytest -n auto --dist loadgroup -m "not slow and not docker and not rootless" tests/unit tests/property tests/golden tests/conformance

test: venv
	$(BIN)/ruff check src tests bench demo docs
	$(BIN)/ruff format --check src tests bench demo docs
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/pytest -n 2 --dist loadgroup

test-deps:
	@if [ "$$(id -u)" != 0 ]; then echo "test-deps installs Debian packages and needs root; tests that need them skip without"; exit 0; fi; \
	if command -v apt-get >/dev/null; then apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	  busybox-static docker.io buildah podman skopeo docker-registry uidmap runc crun proot fuse-overlayfs git zstd xz-utils bzip2 openssh-client chromium iproute2 openssl >/dev/null; fi; \
	.ci/buildx || echo "docker-buildx cannot be had: its tests skip"; \
	.ci/dockerode/install || echo "dockerode cannot be had: its test skips"

# Pipelines on a real ray cluster: 300 MB of packages, in a venv of their own. Needs root.
test-ray:
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev,ray]'
	.venv-ray/bin/pytest -p no:cacheprovider tests/e2e/test_pipeline_clusters.py tests/e2e/test_pipeline_on_clusters.py -k ray

demo: venv
	@bash demo/run.sh $(BIN)/lamina

# lamina is measured as users have it: installed, without what development needs beside it.
bench: venv
	$(BIN)/python -m venv --clear .venv/plain
	.venv/plain/bin/python -m pip install --quiet --disable-pip-version-check .
	$(BIN)/python bench/run.py --program .venv/plain/bin/lamina

# What each of them measures: bench/README.md.
bench-lookups: venv
	$(BIN)/python bench/lookups.py

bench-archives: venv
	$(BIN)/python bench/archives.py

bench-growth: venv
	$(BIN)/python bench/growth.py --svg docs/reference/growth.svg

bench-transfer: venv
	$(BIN)/python bench/transfer.py

bench-clean-machine: venv
	$(BIN)/python bench/clean_machine.py

# One engine through storms of requests for so long; descriptors, processes, threads and memory are counted at the beginning and the end.
SECONDS ?= 600
soak: venv
	$(BIN)/python -m lamina.testing.soak --seconds $(SECONDS)

# Coverage-guided, SECONDS_EACH for each target (18 of them). Needs the extra `fuzz` (CPython 3.11 to 3.13 on x86-64).
SECONDS_EACH ?= 60
fuzz: venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[fuzz]'
	@for target in dockerfile lowering inherited ignore tar layer manifest config reference sidefiles pipelines sharedcache registry http containers buildkit fsutil http2frames; do $(BIN)/python tests/fuzz/fuzz.py $$target $(SECONDS_EACH) || exit 1; done

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache dist

# Whole builds under 200 failing calls of the disk and 50 kills: some ten minutes on a quiet machine. Needs root.
soak-faults: venv
	LAMINA_FAULTS=200 LAMINA_KILLS=50 $(BIN)/pytest -q -s -p no:cacheprovider tests/fault/test_whole_builds.py

# Ten builds at once on one root, ROUNDS times, collections and checks beside every other: some twenty minutes.
ROUNDS ?= 100
soak-builds: venv
	LAMINA_ROUNDS=$(ROUNDS) $(BIN)/pytest -q -s -p no:cacheprovider tests/fault/test_builds_at_once.py
