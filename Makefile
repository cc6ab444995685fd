# Each target sets up all it needs, then does its one thing. Needed: Python 3.10 or newer with pip, and this folder.

# uv is the one on PATH (which answers if it is there and new enough for pyproject.toml), or one that pip brings.
ifneq ($(shell uv cache dir 2>/dev/null),)
UV := uv
else
UV := .tools/bin/uv
setup docs: $(UV)
endif
RUN := $(UV) run --no-sync
# Needs neither toco nor torch to be installed.
DOCS := $(UV) run --isolated --locked --only-group docs

# Where Python may not keep compiled modules, each new process compiles torch and others again, for 20 seconds.
unexport PYTHONDONTWRITEBYTECODE

# The dense CRF is compiled on the spot: an extra where there is a C++ compiler, and nothing else needs it.
ifneq ($(shell command -v c++ 2>/dev/null || command -v g++ 2>/dev/null || command -v clang++ 2>/dev/null),)
CRF := --extra crf
endif

.PHONY: demo test test-slow check docs setup
.DEFAULT_GOAL := demo

# Resumes a demo that was stopped. To start again: make demo OPTIONS=--overwrite
demo: setup
	$(RUN) toco demo $(OPTIONS)

# One worker for each core, up to four: each of them imports torch and trains the networks that its tests share.
# A file's tests stay together (loadfile), because they share networks, too.
# tests/conftest.py sorts the files.
PYTEST := $(RUN) pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: setup
	$(PYTEST)

# OPTIONS="--budget 200" starts no test after 200 seconds.
test-slow: setup
	$(PYTEST) -m slow $(OPTIONS)

check: setup
	$(RUN) ruff format --check
	$(RUN) ruff check
	$(RUN) mypy
	$(RUN) lint-imports

# The documentation as a site in build/site: open build/site/index.html.
docs:
	$(DOCS) python docs/site_pages.py
	$(DOCS) zensical build --clean --strict

# The environment of uv.lock in .venv; a moment's work when nothing has changed.
setup:
	$(UV) sync --locked $(CRF) || \
	{ test -n "$(CRF)" && echo "toco: once more, without the dense CRF (option --crf)" && $(UV) sync --locked; }

.tools/bin/uv:
	python3 -m pip install -qq --target .tools uv || { python3 -m venv .tools && .tools/bin/pip install -qq uv; }
