# Everything a newcomer needs: `make demo` and `make test`.  Each target sets up what it needs and is quick the
# second time.  PYTHON may name another interpreter (>= 3.11).
PYTHON ?= python3
VENV := .venv
SUB := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
BIN := $(VENV)/$(SUB)
STAMP := $(VENV)/.installed
# further environments, each for one question
CORE ?= .venv-core
OLDEST ?= .venv-oldest
OTHER ?= .venv-$(notdir $(PYTHON))
FRAMEWORK ?= torch
# a file stays with one worker, which starts its processes and compiles its programs once
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder
# small matrices on many threads are slower than on one; the trainings set their own number
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: help env info demo test test-all test-core test-oldest test-python slow fuzz docs html doctest pictures bench studies lint dist clean
help:
	@echo "make env | info | demo | test | test-all | test-core | test-oldest | test-python PYTHON=... | slow | fuzz"
	@echo "     docs | pictures | bench | studies | lint | dist | clean"

env: $(STAMP)

# $(call environment,folder,interpreter,constraints,extras)
define environment
$(1)/.installed: pyproject.toml $(3)
	@$(2) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "balred needs Python >= 3.11, got " + sys.version)'
	$(2) -m venv $(1)
	$(1)/$(SUB)/python -m pip install --quiet --disable-pip-version-check -c $(3) -e ".[$(4)]"
	@touch $$@
endef

ALL := all,test,docs
BESIDE := test-core,control,pymor,plot
TEST := all,test
$(eval $(call environment,$(VENV),$(PYTHON),constraints.txt,$$(ALL)))
$(eval $(call environment,$(CORE),$(PYTHON),constraints.txt,test-core))
$(eval $(call environment,$(OLDEST),$(PYTHON),constraints-oldest.txt,$$(BESIDE)))
$(eval $(call environment,$(OTHER),$(PYTHON),constraints.txt,$$(TEST)))

info: env
	$(BIN)/balred info

demo: env
	$(BIN)/balred demo --framework $(FRAMEWORK)

# PyTorch's threads wait for each other where two workers share two cores
test test-all test-core test-oldest test-python slow doctest: export OMP_NUM_THREADS ?= 1

# every test file and every value of every parameter, each combination of values where it shows something new
test: env
	$(BIN)/pytest $(WORKERS)

# all combinations, too, as in CI
test-all: env
	$(BIN)/pytest $(WORKERS) -m "not slow"

# NumPy, SciPy and the tools of the tests, nothing else: the tests of what needs more are skipped, each with what it lacks
test-core: $(CORE)/.installed
	$(CORE)/$(SUB)/pytest $(WORKERS) --without-extras

# the least versions that pyproject.toml allows; PYTHON is to be the oldest, 3.11
test-oldest: $(OLDEST)/.installed
	$(OLDEST)/$(SUB)/pytest $(WORKERS) --without-extras

# the same tests on another interpreter, PYTHON=python3.13; TEST=test-core for the core alone
test-python: $(OTHER)/.installed
	$(OTHER)/$(SUB)/pytest $(WORKERS) --without-extras

slow: env
	$(BIN)/pytest -m "slow or gpu"

# damaged files of every kind, some minutes; COUNT of each
COUNT ?= 500
fuzz: env
	$(BIN)/python benchmarks/fuzz.py --count $(COUNT) --out benchmarks/results

docs: html doctest

html: env
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html

doctest: env
	$(BIN)/sphinx-build -q -W -b doctest docs docs/_build/doctest

# the scripts of the gallery and the code of the pages of the methods, run, and their pictures
pictures: env
	$(BIN)/python docs/gallery/pictures.py
	$(BIN)/python docs/methods/pictures.py

# and which rows got worse than the committed ones
bench: env
	$(BIN)/python benchmarks/bench.py

# hours; killed, it goes on when called again
studies: env
	$(BIN)/python benchmarks/studies.py
	for name in calibration recovery after_cut whose_fault settling moments variants budget selection; do \
		$(BIN)/python benchmarks/$$name.py || exit; done

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

# a wheel and an sdist, built anew and checked for what an index refuses
dist: env
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[release]"
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf $(VENV) .venv-* build dist docs/_build docs/api/generated *.egg-info demo-out
