# The front door. Every target is one command line that you can also type yourself; `make help` lists them.

PYTHON    ?= python3
RAW       ?= samples/pages.warc.gz
WORKSPACE ?= out/corpus
TOKENIZER ?= $(WORKSPACE)/tokenizer
RUN       ?= runs/glm130b-tiny
NPROC     ?= 1
STEPS     ?=
TEXT      ?= 山里的早晨很安静，[MASK]在树上叫。

# CONFIG is of the room that the target belongs to
CORPUS_CONFIG    = $(or $(CONFIG),configs/corpus/web.yaml)
TOKENIZER_CONFIG = $(or $(CONFIG),configs/tokenizer/bbpe-32k.yaml)
PRETRAIN_CONFIG  = $(or $(CONFIG),configs/pretrain/glm130b-tiny.yaml)

DEMO       = out/demo
DEMO_STEPS ?= 400
# twice the configuration's rate, which on a corpus of more than the demo's 0.2 MB stays at word counts longer
DEMO_RATE   = --stages.0.schedule.peak 2.0e-3 --stages.0.schedule.end 2.0e-4

PY    = .venv/bin/python
PIP   = .venv/bin/pip --disable-pip-version-check --quiet
DATA  = $(PY) -m data
TRAIN = $(if $(filter-out 1,$(NPROC)),$(PY) -m torch.distributed.run --nproc-per-node $(NPROC) -m -- trainer,$(PY) -m trainer)
STAGES = ingest annotate filter deduplicate redact decontaminate mix tokenize report

.PHONY: help setup demo test test-slow lint corpus $(STAGES) tokenizer pretrain evaluate fill export bench clean

help: ## list the targets
	@echo "make TARGET [RAW=... WORKSPACE=... CONFIG=... RUN=... TEXT=... NPROC=...]"
	@sed -nE 's/^([a-z-]+): .*## (.*)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-16s%s\n", $$1, $$2}'
	@echo "  one a stage     $(STAGES)"

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/base: pyproject.toml | .venv/bin/python
	$(PIP) install --editable .
	@touch $@

.venv/dev: pyproject.toml | .venv/bin/python
	$(PIP) install --editable '.[dev]'
	@touch $@ .venv/base

.venv/peers: pyproject.toml | .venv/dev
	$(PIP) install --editable '.[dev,peers,ray]'
	@touch $@

setup: .venv/base ## make the environment in .venv

demo: .venv/base ## from raw sample pages to a filled blank, in under ten minutes on two cores
	$(PY) samples/build_warc.py --output $(DEMO)/pages.warc.gz
	$(DATA) run --config configs/corpus/demo.yaml --input $(DEMO)/pages.warc.gz --workspace $(DEMO)/corpus
	$(PY) -m tokenizer train --config configs/tokenizer/bbpe-demo.yaml --input $(DEMO)/corpus/mix/train --output $(DEMO)/tokenizer
	$(DATA) tokenize --config configs/corpus/demo.yaml --workspace $(DEMO)/corpus --tokenizer $(DEMO)/tokenizer
	$(DATA) report --config configs/corpus/demo.yaml --workspace $(DEMO)/corpus
	$(PY) -m trainer pretrain --config configs/pretrain/glm130b-tiny.yaml --data $(DEMO)/corpus/tokenize --tokenizer $(DEMO)/tokenizer --run $(DEMO)/glm130b-tiny --steps $(DEMO_STEPS) $(DEMO_RATE)
	$(PY) -m trainer pretrain --config configs/pretrain/glm5-tiny.yaml --data $(DEMO)/corpus/tokenize --tokenizer $(DEMO)/tokenizer --run $(DEMO)/glm5-tiny --steps $(DEMO_STEPS)
	$(PY) -m evaluation bits-per-byte --run $(DEMO)/glm130b-tiny --data $(DEMO)/corpus/tokenize
	$(PY) -m evaluation bits-per-byte --run $(DEMO)/glm5-tiny --data $(DEMO)/corpus/tokenize
	$(PY) -m inference fill --run $(DEMO)/glm130b-tiny --input samples/blanks.jsonl --limit 4
	@echo
	@echo "The corpus    $(DEMO)/corpus/mix       its report: $(DEMO)/corpus/report.html"
	@echo "The tokenizer $(DEMO)/tokenizer"
	@echo "The models    $(DEMO)/glm130b-tiny (blank infilling), $(DEMO)/glm5-tiny (causal)"
	@echo "Try next      make fill RUN=$(DEMO)/glm130b-tiny TEXT='春天到了，[MASK]开了。'"
	@echo "              make corpus RAW=your-pages.warc.gz WORKSPACE=out/mine"

# one thread a process: two processes of two threads each would wait for one another most of the time
test: .venv/dev ## every test but the long ones
	OMP_NUM_THREADS=1 $(PY) -m pytest -m "not slow" --numprocesses 2 --dist loadfile

test-slow: .venv/dev ## the long laws and the kill tests
	$(PY) -m pytest -m slow

lint: .venv/dev ## style (ruff) and types (mypy)
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

corpus: .venv/base ## RAW pages through every data stage into WORKSPACE
	$(DATA) run --config $(CORPUS_CONFIG) --input $(RAW) --workspace $(WORKSPACE)

ingest: .venv/base
	$(DATA) ingest --config $(CORPUS_CONFIG) --input $(RAW) --workspace $(WORKSPACE)

$(filter-out ingest tokenize,$(STAGES)): .venv/base
	$(DATA) $@ --config $(CORPUS_CONFIG) --workspace $(WORKSPACE)

tokenize: .venv/base
	$(DATA) tokenize --config $(CORPUS_CONFIG) --workspace $(WORKSPACE) --tokenizer $(TOKENIZER)

tokenizer: .venv/base ## train a tokenizer on the mix of WORKSPACE
	$(PY) -m tokenizer train --config $(TOKENIZER_CONFIG) --input $(WORKSPACE)/mix/train --output $(TOKENIZER)

pretrain: .venv/base ## train CONFIG on WORKSPACE into RUN, on NPROC processes
	$(TRAIN) pretrain --config $(PRETRAIN_CONFIG) --data $(WORKSPACE)/tokenize --tokenizer $(TOKENIZER) --run $(RUN) $(if $(STEPS),--steps $(STEPS))

evaluate: .venv/base ## held-out bits per byte of RUN
	$(PY) -m evaluation bits-per-byte --run $(RUN) --data $(WORKSPACE)/tokenize

fill: .venv/base ## fill the [MASK] of TEXT with the model of RUN
	$(PY) -m inference fill --run $(RUN) --text '$(TEXT)'

export: .venv/base ## write RUN's model in Hugging Face's format to RUN/export
	$(PY) -m inference export --run $(RUN) --output $(RUN)/export

bench: .venv/peers ## this project beside its peers
	for benchmark in benchmarks/*.py; do $(PY) $$benchmark || exit 1; done

clean: ## remove what the commands here have written (not .venv)
	rm -rf out runs
