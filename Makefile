# Two commands: `make course` runs every lesson, `make test` checks everything. Both make the environment first if needed.
PYTHON  ?= python3.11
# Where the packages are; make VENV=$CONDA_PREFIX takes the active conda environment, where pip finds all of them installed.
VENV    ?= .venv
ifeq ($(strip $(VENV)),)
$(error VENV is empty: activate the conda environment first, or leave VENV out)
endif
# Where the CPU build of torch comes from; on Linux the default index serves the CUDA build.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
RUN     := $(VENV)/bin/python
CHAT    := .venv-chat
export TOKENIZERS_PARALLELISM ?= false
# Threads that wait give their core away: beside another busy program torch is nearly twice as fast so.
export OMP_WAIT_POLICY ?= PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help env chat-env course test lint unit notebooks smoke stored browser lab lesson refresh serve chat clean

help:            ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

env: $(VENV)/.ready   ## make the environment (5 GB on disk)

$(VENV)/.ready: requirements/cpu.lock pyproject.toml
	@echo "== environment 1/3: $(VENV) with $(PYTHON)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Python 3.11 is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)   # without pip it was left half made
	@echo "== environment 2/3: torch, CPU build"
	PIP_RETRIES=1 $(VENV)/bin/pip install --no-deps --extra-index-url $(TORCH_INDEX) "$$(grep -oE '^torch==[^ ]+' requirements/cpu.lock)"
	@echo "== environment 3/3: $$(grep -c == requirements/cpu.lock) packages, pinned"
	$(VENV)/bin/pip install --no-deps -r requirements/cpu.lock
	$(VENV)/bin/pip install --no-deps --no-build-isolation -q -e .
	@touch $@

chat-env: $(CHAT)/.ready   ## the chat page's own environment (0.2 GB): Chainlit and vLLM need different versions of mcp

$(CHAT)/.ready: requirements/chat.lock
	test -x $(CHAT)/bin/pip || $(PYTHON) -m venv $(CHAT)
	$(CHAT)/bin/pip install --no-deps -q -r requirements/chat.lock
	@touch $@

course: env      ## run every lesson (cpu profile); resumes where it stopped; outputs/report.html
	$(RUN) -m helpers.course.run course $(ARGS)

lesson: env      ## make lesson N=02 ARGS="-p temperature 0.05"
	$(RUN) -m helpers.course.run lesson $(N) $(ARGS)

refresh: env     ## re-execute lessons and store their outputs in notebooks/ (N=02 for one)
	$(RUN) -m helpers.course.run refresh $(N) $(ARGS)

lab: env         ## JupyterLab on the notebooks
	$(VENV)/bin/jupyter lab --notebook-dir=. notebooks/00_start_here.ipynb

serve: env       ## the model server, make serve ARGS="-p port 8080 -p backend vllm"
	$(RUN) -m helpers.serving.serve $(ARGS)

chat: env chat-env   ## the chat page over it, make chat ARGS="-p chat_port 8600"
	$(RUN) -m helpers.serving.chat.start $(ARGS)

test: export OMP_NUM_THREADS := 1
test: lint chat-env browser   ## everything; unit tests and notebooks side by side, a core for each
	@$(MAKE) --no-print-directory -j 2 unit notebooks

notebooks:       # one after the other
	@$(MAKE) --no-print-directory smoke
	@$(MAKE) --no-print-directory stored

# Tests never reach for a model hub.
unit smoke stored: export HF_HUB_OFFLINE := 1

lint: env        ## ruff on code and notebooks
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check helpers tests benchmarks requirements sample_data

unit: env chat-env browser   ## unit tests and pages in a real browser
	$(RUN) -m pytest -m "not notebook"

smoke: env       ## every lesson by papermill at smoke size, recorded metrics asserted
	$(RUN) -m pytest -m notebook

# At smoke size, so that it is fast; only notebooks that have such cells (`make smoke` runs all of them).
stored: env      ## nbval: the stored outputs of the cells that are marked for it
	COURSE_SMOKE=1 COURSE_STRICT=1 $(RUN) -m pytest --nbval-lax --nbval-cell-timeout=600 -p no:cacheprovider -q \
	  $$(grep -l nbval-check-output notebooks/[0-9A][0-9]_*.ipynb)

browser: env     ## a Chromium for the page tests, where none is found
	@$(RUN) -m tests.browser || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq chromium; } \
	  || $(RUN) -m playwright install chromium

clean:           ## remove outputs (not the environment)
	rm -rf outputs
