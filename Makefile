# Base interpreter (3.10 or newer); everything else lives in .venv.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
# The photo for `make detect` goes to the recipe through the environment, so that spaces and quotes in its name survive.
export IMAGE
# These commands print one clear line where they fail, and make would add its own. On SIGQUIT it waits for the recipe, and
# exits with status 1 and without a message. Where SIGQUIT is ignored, as in a shell's background jobs, the status of the
# command is returned and make adds its line. `trap : INT` makes the shell wait for a command that Ctrl-C ends.
QUIETLY := || { status=$$?; trap 'quits=1' QUIT; kill -QUIT $$$$; [ "$$quits" ] || exit $$status; kill -QUIT $$PPID; sleep 1; }

.DEFAULT_GOAL := help
.PHONY: help detect demo test test-common test-browser style quality

help:
	@echo "make detect [IMAGE=photo.jpg] [ARGS='...']  find the faces in a photo (a built-in one by default) and their landmarks"
	@echo "make demo [ARGS='...']                     serve the Gradio demo on 127.0.0.1; ARGS='--checkpoints DIR_OR_ID ...' for your own"
	@echo "make test                                  run the tests"
	@echo "make test-common                           run transformers' own tests of its models on this one; fetches them once"
	@echo "make test-browser                          drive the demo in Chromium, which must be installed"
	@echo "make quality                               check lint and format"
	@echo "make style                                 fix lint and format, copy the code into the checkpoints, update the pages"

# The stamp is touched last, so that an interrupted installation is repeated.
$(STAMP): pyproject.toml
	@echo "Installing into $(VENV): PyTorch with its CUDA libraries takes about 6 GB and two minutes. This happens once."
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --editable '.[demo,dev,export]'
	@touch $@

detect: $(STAMP)
	@trap : INT; $(VENV)/bin/python -m modeling_mtld.detect $${IMAGE:+"$$IMAGE"} $(ARGS) $(QUIETLY)

demo: $(STAMP)
	@trap : INT; $(VENV)/bin/python space/app.py $(ARGS) $(QUIETLY)

test: $(STAMP)
	@$(VENV)/bin/python -m pytest -n auto --dist loadfile $(ARGS)

# transformers' tests of the installed release, from its source distribution. Skips are listed with their reasons.
test-common: $(STAMP)
	@$(VENV)/bin/python tests/common/sources.py
	@$(VENV)/bin/python -m pytest tests/common -rs --no-fold-skipped $(ARGS)

test-browser: $(STAMP)
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --editable '.[demo,dev,export,browser]'
	@$(VENV)/bin/python -m pytest tests/browser $(ARGS)

quality: $(STAMP)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

# Checkpoints have copies of the code; README and the model cards have figures of the results.
style: $(STAMP)
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .
	@for folder in space/checkpoints/*/; do $(VENV)/bin/python -c "import sys; from modeling_mtld.auto_mtld import complete_checkpoint; complete_checkpoint(sys.argv[1])" "$$folder"; done
	@$(VENV)/bin/python -m training_mtld.readme
