# make test: the checks of every change.   make test-all: all that CI runs.   make demo: ten small tasks.
# All make a virtual environment in .venv first. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --constraint constraints.txt
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist worksteal

# The oldest onnxruntime that pyproject.toml allows.
FLOOR = $(shell sed -n 's/^cpu = \["onnxruntime>=\([0-9.]*\)".*/\1/p' pyproject.toml)

.PHONY: demo test test-all lint types unit slow browser floor docs dist mutants fuzz crash deaths arm arm-counting install clean
.DELETE_ON_ERROR:

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "supsup needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[cpu,export,train,ray,dev]'
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(PIP) --editable '.[docs]'
	touch $@

$(VENV)/.mutants: $(VENV)/.installed
	$(PIP) cosmic-ray
	touch $@

install: $(VENV)/.installed

demo: install
	$(BIN)/python tools/demo.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: install
	$(BIN)/mypy
	$(BIN)/mypy tests tools

unit: install
	$(PYTEST) -m "not slow"

slow: install
	if command -v npm > /dev/null; then $(MAKE) browser || true; fi
	$(PYTEST) -m slow

# Beside the environment, whose newer onnxruntime it hides.
floor: install
	rm -rf build/floor
	$(BIN)/pip install --quiet --no-deps --target build/floor onnxruntime==$(FLOOR)
	export PYTHONPATH=build/floor && \
	$(BIN)/python -c 'import onnxruntime as o; assert o.__version__ == "$(FLOOR).0", o.__version__' && \
	$(PYTEST) -m "not slow" tests/parity tests/runtime/model tests/runtime/recovery tests/export/test_composing.py

build/node/.installed:
	npm install --silent --no-audit --no-fund --prefix build/node puppeteer-core@24.43.1
	touch $@

browser: build/node/.installed

test: lint types unit

test-all: test slow floor docs

docs: $(VENV)/.docs
	rm -rf build/pages build/site
	mkdir -p build/pages
	cp -r README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE docs build/pages
	for page in *.md docs/*.md; do sed 's/ no-run$$//' $$page > build/pages/$$page; done
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	! grep -rl --include=*.html '<p>```' build/site  # a fence that was not understood

dist: install
	rm -rf dist
	$(BIN)/python -m build --quiet --no-isolation

# In a copy, as each mutant replaces the code that it changes. Takes half an hour.
mutants: $(VENV)/.mutants
	rm -rf build/mutants
	mkdir -p build/mutants
	cp -r mutants.toml pyproject.toml runtime tests build/mutants
	cd build/mutants && export PATH="$(abspath $(BIN)):$$PATH" PYTHONPATH=runtime && \
	cosmic-ray init mutants.toml mutants.sqlite && \
	cr-filter-operators mutants.sqlite mutants.toml && \
	cosmic-ray --verbosity ERROR exec mutants.toml mutants.sqlite && \
	cr-report --surviving-only --show-diff mutants.sqlite > surviving.txt && cr-report mutants.sqlite | tail -3

# N changed files and arguments, N stopped commands, or N killed workers, from a seed. RECORD=1 writes the table of docs/RELIABILITY.md.
N ?= 1000
SEED ?= 0
FUZZ = PYTHONPATH=tests:. $(BIN)/python -m
RECORDED = $(if $(RECORD),--record docs/RELIABILITY.md)

fuzz: install
	$(FUZZ) fuzz run --cases $(N) --seed $(SEED) $(RECORDED)

crash: install
	$(FUZZ) fuzz.crash --stops $(N) --seed $(SEED) $(RECORDED)

deaths: install
	$(FUZZ) fuzz.deaths --kills $(N) --seed $(SEED) $(RECORDED)

# Emulated ARM cores: Debian 13 for arm64, unpacked and not installed, which needs no root privileges.
ARM := $(abspath build/arm)
DEBIAN_MIRROR ?= http://deb.debian.org/debian
KEYS := /usr/share/keyrings/debian-archive-keyring.gpg
HOST = $(shell dpkg --print-architecture)
APT = apt-get --quiet=2 --yes $(addprefix -o,APT::Architecture=arm64 APT::Architectures::=arm64 APT::Architectures::=$(HOST) \
	APT::Install-Recommends=false APT::Update::Error-Mode=any Acquire::Languages=none APT::Sandbox::User= \
	Dir::Etc::SourceList=$(ARM)/apt/sources Dir::Etc::SourceParts=/dev/null Dir::State::Status=$(ARM)/apt/status \
	Dir::State::Lists=$(ARM)/apt/lists Dir::Cache=$(ARM)/apt)
REACHED = || { echo "make arm: apt-get failed; set DEBIAN_MIRROR to one that can be reached, and see that $(KEYS) exists" >&2; exit 1; }

$(ARM)/.lists:
	mkdir -p $(ARM)/apt/lists/partial $(ARM)/apt/archives/partial
	for kind in deb deb-src; do echo "$$kind [signed-by=$(KEYS)] $(DEBIAN_MIRROR) trixie main"; done > $(ARM)/apt/sources
	touch $(ARM)/apt/status
	$(APT) update $(REACHED)
	touch $@

$(ARM)/.root: $(ARM)/.lists
	$(APT) --download-only install python3.13 libstdc++6 qemu-user:$(HOST) $(REACHED)
	mkdir -p $(ARM)/root
	ln -sfn usr/lib $(ARM)/root/lib
	dpkg-deb --fsys-tarfile $(ARM)/apt/archives/qemu-user_*.deb | tar -x -C $(ARM) --strip-components=3 ./usr/bin/qemu-aarch64
	for package in $(ARM)/apt/archives/*_arm64.deb $(ARM)/apt/archives/*_all.deb; do dpkg-deb --extract $$package $(ARM)/root || exit; done
	touch $@

$(ARM)/.site: $(VENV)/.installed
	$(PIP) --target $(ARM)/site --upgrade --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 --python-version 3.13 \
	--only-binary=:all: numpy safetensors bitarray onnxruntime onnx
	touch $@

# QEMU with the plugin that counts instructions, which Debian's QEMU lacks. Needs gcc, ninja-build and libglib2.0-dev.
$(ARM)/counting/libinsn.so: $(ARM)/.lists $(VENV)/.installed
	rm -rf $(ARM)/source
	mkdir -p $(ARM)/source $(ARM)/counting
	cd $(ARM)/source && $(APT) --download-only source qemu $(REACHED)
	cd $(ARM)/source && tar -x --strip-components=1 -f *.orig.tar.xz
	$(BIN)/python -m venv $(ARM)/source/python
	$(ARM)/source/python/bin/pip install --quiet meson==1.5.0 pycotap
	cd $(ARM)/source && ./configure --python=$(ARM)/source/python/bin/python --target-list=aarch64-linux-user --without-default-features \
	--enable-plugins --disable-install-blobs && ninja -C build qemu-aarch64 tests/tcg/plugins/libinsn.so
	cp $(ARM)/source/build/qemu-aarch64 $(ARM)/source/build/tests/tcg/plugins/libinsn.so $(ARM)/counting

arm: $(ARM)/.root $(ARM)/.site
	$(BIN)/python tools/arm.py $(if $(RECORD),--record docs/PERFORMANCE.md)

arm-counting: $(ARM)/counting/libinsn.so

clean:
	rm -rf $(VENV) build demo dist
