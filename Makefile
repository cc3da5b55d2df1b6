# Each target is one line of intent. `make repro` and `make test` need nothing but git, make and Python 3.11 with pip.
PYTHON ?= python3
VENV := $(CURDIR)/.venv
export PATH := $(VENV)/bin:$(PATH)
.PHONY: setup tested repro verify test test-slow fuzz lint compare show ui predict demo bench
.DEFAULT_GOAL := repro

setup: .venv/installed                            ## make .venv with the pinned packages

tested: .venv/tested                              ## add those that only the tests need

repro: setup                                      ## run what changed and print the table of methods
	python -m commands.check && dvc repro && cat out/report/table.md

verify: setup                                     ## run everything anew in a clone of HEAD and compare with dvc.lock
	python -m commands.verify

test: tested                                      ## run the tests
	python -m pytest -m "not slow"

test-slow: tested                                 ## run those that take longer: whole pipelines, other libraries
	python -m pytest -m slow

fuzz: tested                                      ## the tests over generated inputs, with new ones at every call
	python -m pytest --hypothesis-profile fuzz -m hypothesis

lint: tested                                      ## style and types
	ruff check . && ruff format --check . && mypy

compare: setup                                    ## one experiment a method, and a table of them all
	python -m commands.compare

show: setup                                       ## the table of all experiments
	python -m commands.show

ui: setup                                         ## publish every experiment to MLflow and serve its UI
	python -m commands.ui

predict: setup                                    ## the class of each image: make predict IMAGES="a.png photos"
	python -m commands.predict $(IMAGES)

demo: .venv/demo                                  ## the dense and the compressed model beside each other, in a browser
	python -m commands.demo

bench: repro                                      ## the benchmarks of the default run, each a table
	python -m benchmarks.table1 && python -m benchmarks.decompositions && python -m benchmarks.pruning && \
	python -m benchmarks.methods

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --disable-pip-version-check -r requirements.txt
	touch $@

.venv/tested: requirements-test.txt .venv/installed
	.venv/bin/python -m pip install --disable-pip-version-check -r requirements-test.txt
	touch $@

.venv/demo: requirements-test.txt .venv/installed
	.venv/bin/python -m pip install --disable-pip-version-check -c requirements-test.txt gradio
	touch $@
