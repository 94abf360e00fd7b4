# `make demo` and `make test` do all set-up. On a machine without make, README.md has the same commands for pip.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
DEMO := demo

.PHONY: demo demo-train test lint clean

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/pancreas-seg phantom --out $(DEMO)/sample --cases 1 --seed 2
	$(BIN)/pancreas-seg segment $(DEMO)/sample/images/phantom_0000.nii.gz --out $(DEMO)/result --preview
	$(BIN)/pancreas-seg evaluate --reference $(DEMO)/sample/labels/phantom_0000.nii.gz \
		--prediction $(DEMO)/result/phantom_0000/mask.nii.gz
	@echo "Its picture: $(DEMO)/result/phantom_0000/preview.png"

demo-train: $(VENV)/.installed
	$(BIN)/pancreas-seg phantom --out $(DEMO)/cohort --cases 9 --seed 1 --spacing-mm 3 3 3 --folds 9
	$(BIN)/pancreas-seg phantom --out $(DEMO)/unseen --cases 1 --seed 2
	$(BIN)/pancreas-seg train --data $(DEMO)/cohort/manifest.json --out $(DEMO)/run --preset tiny --fold 0 --resume
	$(BIN)/pancreas-seg segment $(DEMO)/unseen/images/phantom_0000.nii.gz --out $(DEMO)/trained \
		--weights $(DEMO)/run/best.safetensors --preview
	$(BIN)/pancreas-seg evaluate --reference $(DEMO)/unseen/labels/phantom_0000.nii.gz \
		--prediction $(DEMO)/trained/phantom_0000/mask.nii.gz
	@echo "This phantom was in no part of the training. Its picture: $(DEMO)/trained/phantom_0000/preview.png"

test: $(VENV)/.installed
	$(BIN)/python -m pytest --ignore=tests/watch
	$(BIN)/python -m pytest tests/watch

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(DEMO)
