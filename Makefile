# One target for each thing that a contributor does.  `make check` is what CI runs, but for the machine's set-up.
PYTHON ?= .venv/bin/python
BIN := $(dir $(PYTHON))

.PHONY: help venv native build docs site fmt lint types test kvm kvm-all engines-vm check bench clean wheel

help:
	@echo "venv    create .venv with an editable, interpreted cloche and the tools"
	@echo "native  rebuild the stub and the C extensions in place"
	@echo "build   build a compiled wheel into dist/"
	@echo "wheel   build manylinux wheels for the CPythons of this machine into dist/, and try them without a compiler"
	@echo "docs    write docs/compat.md from the table of system calls"
	@echo "site    make the pages of docs/ and the reference of the SDK a site, in build/site"
	@echo "fmt     format the sources"
	@echo "lint    style and unused code"
	@echo "types   mypy --strict"
	@echo "test    the tests, interpreted"
	@echo "kvm     the tests that need a /dev/kvm, in a machine that QEMU emulates (tests/kvm/README.md)"
	@echo "kvm-all the same with all programs and tests of tests/guest and tests/security: an hour or more"
	@echo "engines-vm Docker and Podman with systemd and control groups of version 2 alone, in such a machine (tests/vm/README.md)"
	@echo "check   format, lint, types, layers, tests interpreted and compiled"
	@echo "bench   the tables of docs/bench: native, cloche and, where installed, runsc; needs an idle machine"

venv:
	python3 -m venv .venv
	CLOCHE_PURE=1 .venv/bin/pip install --editable '.[dev]'

native:
	$(PYTHON) csrc/build.py

build:
	$(PYTHON) -m pip wheel --no-deps --wheel-dir dist .

wheel:
	python3 tools/wheels.py

docs:
	$(PYTHON) -m cloche.cli.main syscalls --format markdown > docs/compat.md

site:
	NO_MKDOCS_2_WARNING=1 $(BIN)mkdocs build --strict

fmt:
	$(BIN)ruff format .
	$(BIN)ruff check --fix .

lint:
	$(BIN)ruff format --check .
	$(BIN)ruff check .

types:
	$(BIN)mypy

test:
	CLOCHE_STRICT=1 $(PYTHON) -m pytest

kvm:
	$(PYTHON) -m tests.kvm.kernel
	$(PYTHON) -m pytest tests/kvm

kvm-all:
	$(PYTHON) -m tests.kvm.kernel
	CLOCHE_SLOW=1 $(PYTHON) -m pytest -rA tests/kvm

engines-vm:
	$(PYTHON) -m tests.kvm.kernel
	PATH="$$PATH:/usr/sbin:/sbin" $(PYTHON) -m tests.vm.root
	$(PYTHON) -m pytest -rA --timeout 3600 tests/vm

check:
	.ci/run --no-install

bench:
	$(PYTHON) -m bench.run --json docs/bench --svg docs/bench/calls.svg
	$(PYTHON) -m bench.workloads --json docs/bench --svg docs/bench/workloads.svg
	$(PYTHON) -m bench.waiting --json docs/bench
	$(PYTHON) -m bench.sandboxes --rounds 30 --json docs/bench
	$(PYTHON) -m bench.machines docs/bench

clean:
	rm -rf build dist reports .venv-tests src/cloche.egg-info
	find src -name '*.so' -delete
	rm -f src/cloche/platform/*.elf
