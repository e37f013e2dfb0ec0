# `make demo` shows what chdebugd does, `make test` runs all tests; both install what is missing.

# Debian's own Python: the one that the package uses.
PYTHON = /usr/bin/python3
VENV ?= .cache/venv
PY = $(VENV)/bin/python
PYTEST = $(PY) -m pytest

C_SOURCES = $(wildcard chdebugd/*/*.[ch] chdebugd/*/*/*.[ch]) chdebugd/vmm/boot/demo_guest.S
BUILDERS = setup.py $(wildcard chdebugd/*/*_build.py chdebugd/*/*/*_build.py)

.PHONY: all deps build demo test lab unit lint bench bench-lab kernel-patch fuzz faults deb clean

all: build

deps:
	packaging/install-deps

$(VENV)/ready: packaging/test-requirements.txt
	$(PYTHON) -m venv --system-site-packages $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r packaging/test-requirements.txt
	touch $@

build: .cache/built

# cffi writes its C beside the builders; what it wrote from these sources serves until they change.
.cache/built: $(C_SOURCES) $(BUILDERS)
	mkdir -p .cache
	$(PYTHON) setup.py --quiet build_ext --inplace --force
	touch $@

demo: deps
	@$(PYTHON) packaging/demo.py

test: deps build $(VENV)/ready
	$(PYTEST)

lab: deps build $(VENV)/ready
	$(PYTEST) tests/lab

unit: build $(VENV)/ready
	$(PYTEST) tests/unit

lint: build $(VENV)/ready
	$(PYTEST) tests/style

# All figures beside their peers, some minutes; ROWS="mark log" runs some.
bench: deps build $(VENV)/ready
	$(PY) -m tests.bench $(ROWS)

# Whatever dies or stalls, at random moments, N times over.
N ?= 10
faults: deps build $(VENV)/ready
	for n in $$(seq $(N)); do CHDEBUGD_FAULTS=1 $(PYTEST) tests/system -k test_fault || exit 1; done

# Twenty times what `make test` tries, and something else each time.
fuzz: deps build $(VENV)/ready
	CHDEBUGD_FUZZ=20 $(PYTEST) tests/fuzz

# Linux on chdebugd and on QEMU, in the lab.
bench-lab: deps build $(VENV)/ready
	$(PY) -m tests.lab.bench_linux

# The guest kit's kernel patch on Debian's source, built small and booted in the lab: 139 MB to load.
kernel-patch: deps build $(VENV)/ready
	packaging/guest/kernel/build-patched .cache/patched-bzimage
	$(PY) -m tests.lab.kernel_patch .cache/patched-bzimage

deb:
	packaging/build-deb

clean:
	rm -rf .cache .hypothesis build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	git clean -fqX chdebugd packaging tests
