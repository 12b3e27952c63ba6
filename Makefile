# Second Glance: the few commands for people and CI.   make help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo fleet-demo scaling test test-vllm gpu-check hardening lint golden edge-endurance endurance soak bench bench-engine bench-ladder bench-before-after bench-throughput eval-model train train-reader train-repeat clean fuzz pictures audit images compose-demo compose-lab lab lock

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "make %-17s %s\n", $$1, $$2}'

# A fresh clone runs with the versions that were tested.
CONSTRAINTS := requirements/constraints.txt
WITH_READER = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) -e 'server[reader]'
EXTRA_OF_MODEL = $(if $(filter reader,$(MODEL)),$(WITH_READER))
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --constraint requirements/torch.txt
PROJECTS := $(wildcard */pyproject.toml)

# pip 25.1 is the first that knows dependency groups.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'

$(VENV)/.app: $(BIN)/python $(PROJECTS) $(CONSTRAINTS)
	$(INSTALL) -e ./shared -e ./edge_client -e ./server
	touch $@

$(VENV)/.edge: $(BIN)/python $(PROJECTS) pyproject.toml $(CONSTRAINTS)
	$(INSTALL) -e ./shared -e ./edge_client --group lab
	touch $@

$(VENV)/.dev: $(BIN)/python $(PROJECTS) pyproject.toml $(CONSTRAINTS)
	$(INSTALL) -e ./shared -e ./edge_web -e './edge_client[camera,gateway,heic,pdf]' -e './server[devices,otel,page,redis]' -e ./evaluation --group dev
	touch $(VENV)/.edge $(VENV)/.app $@

demo: $(VENV)/.app ## the main job on a 12-megapixel photo: server up, edge asks, receipt, picture
	$(BIN)/python examples/demo.py

fleet-demo: $(VENV)/.dev ## two servers, nginx and Redis here; one server is killed between two stages (no docker)
	$(BIN)/python -m examples.fleet_demo

scaling: $(VENV)/.dev ## what a question costs Redis, nginx and a server; written into docs/scaling.md
	$(BIN)/python -m benchmarks.scaling --out benchmarks/results/scaling.json --docs docs/scaling.md

# A file's tests stay in one process: they share servers. torch's own threads would fight for the processors.
test: $(VENV)/.dev ## all tests, one process for each processor (ten minutes on two); PYTEST_FLAGS for more
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile $(PYTEST_FLAGS)

hardening: $(VENV)/.dev ## abuse, overload and faults at full length
	$(BIN)/python -m pytest -m slow tests/hardening -s

.PHONY: chaos-fleet
chaos-fleet: $(VENV)/.dev ## 1,000 conversations with two servers, nginx and Redis, all killed and restarted; 100,000 sessions expire
	$(BIN)/python -m pytest -m slow -q -s tests/hardening/test_fleet_chaos.py tests/server/test_redis_live.py

.PHONY: test-families survey
test-families: $(VENV)/.dev ## every model type that has a random model: equal to stock transformers, or answering only
	$(BIN)/python -m pytest -q -m "slow or not slow" tests/engine/test_types.py tests/engine/test_answering.py tests/engine/test_probe.py tests/engine/test_registry.py

.PHONY: test-torchvision
test-torchvision: $(VENV)/.dev ## model types whose image processor needs torchvision: equal to stock transformers
	$(INSTALL) --no-deps --target out/torchvision torchvision==0.28.0
	PYTHONPATH=out/torchvision $(BIN)/python -m pytest -q -p tests.engine.types.torchvision_shim -m "slow or not slow" \
	  -k "cohere2_vision or lfm2_vl or llama4" tests/engine/test_types.py tests/engine/test_registry.py

.PHONY: test-calibrate
test-calibrate: $(VENV)/.dev ## calibrate --localization on the embedded model without its file: as good as what it ships
	$(BIN)/python -m pytest -q -s -m "slow or not slow" tests/evaluation/test_localization_calibration.py

survey: $(VENV)/.dev ## load a random model of each type and write what the probe found (registry.json)
	$(BIN)/python -m tests.engine.types.survey

pictures: $(VENV)/.dev ## 2,000 generated pictures through edge and server: no silent difference
	$(BIN)/python -m pytest -q -s -m slow tests/edge_client/formats/test_metamorphic.py

.PHONY: pictures-in-chromium
pictures-in-chromium: $(VENV)/.dev ## 100 of them beside what Debian's chromium shows (apt-get install chromium)
	$(INSTALL) playwright
	$(BIN)/python -m tests.edge_client.formats.in_chromium

tests/web/node_modules/.ready: tests/web/package-lock.json
	npm ci --prefix tests/web --no-audit --no-fund --silent
	touch $@

.PHONY: test-web screenshots
test-web: $(VENV)/.dev tests/web/node_modules/.ready ## the page in Debian's chromium, before a real server (apt-get install chromium npm)
	$(INSTALL) playwright
	tests/web/node_modules/.bin/tsc -p tests/web
	tests/web/node_modules/.bin/tsc -p edge_web
	npm --prefix edge_web test
	$(BIN)/python -m pytest -q -s -m slow $(PYTEST_FLAGS) tests/web

screenshots: $(VENV)/.dev ## the page's pictures in docs/browser/, taken anew
	$(INSTALL) playwright
	$(BIN)/python -m tests.web.screenshots docs/browser

FUZZED_FORMATS := png jpg webp gif tif bmp ppm avif heic
FUZZ = $(BIN)/python -m tests.fuzz
FUZZ_OPTIONS = -max_total_time=600 -artifact_prefix=out/fuzz/

fuzz: $(VENV)/.dev ## image intake, request parser and each of the edge's formats, coverage-guided, ten minutes each
	for format in $(FUZZED_FORMATS); do \
		mkdir -p out/fuzz/original-$$format && \
		seeds=$$(ls tests/fuzz/corpus/original/*.$$format | paste -sd, -) && \
		$(FUZZ) original out/fuzz/original-$$format -seed_inputs=$$seeds $(FUZZ_OPTIONS) || exit 1; \
	done
	mkdir -p out/fuzz/image out/fuzz/request
	$(FUZZ) image out/fuzz/image tests/fuzz/corpus/image $(FUZZ_OPTIONS)
	$(FUZZ) request out/fuzz/request tests/fuzz/corpus/request $(FUZZ_OPTIONS)

# Advisories that are explained in docs/operations.md, by their ids.
EXPLAINED := PYSEC-2021-427

audit: $(VENV)/.dev ## known vulnerabilities of the pinned versions (asks PyPI's advisory database)
	$(BIN)/python requirements/audit.py $(BIN)/pip-audit $(CONSTRAINTS) $(EXPLAINED)

lint: $(VENV)/.dev ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

golden: $(VENV)/.dev ## write the golden files of the command line anew
	UPDATE_GOLDEN=1 $(BIN)/python -m pytest -q tests/edge_client/test_golden.py

edge-endurance: $(VENV)/.dev ## batch killed 50 times, watch over 500 files, a server away for a minute
	$(BIN)/python -m pytest -m slow -q -s tests/edge_client/test_batch_kills.py \
		tests/edge_client/watching/test_watch_many.py tests/edge_client/watching/test_outage.py

endurance: $(VENV)/.dev ## a year of the watch: 10,000 events of disks, clocks, links and kills from a seeded script
	ENDURANCE_EVENTS=10000 $(BIN)/python -m pytest -q -s tests/edge_client/watching/test_endurance.py

soak: $(VENV)/.dev ## 10,000 mixed requests; memory and what the server holds must stay flat
	$(BIN)/python -m benchmarks.soak

bench: $(VENV)/.dev ## the pair over real HTTP on 200 held-out scenes
	$(BIN)/python -m benchmarks.pair

bench-engine: $(VENV)/.dev ## the engine beside stock generate and the published pipeline
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.engine

bench-ladder: $(VENV)/.dev ## what the edge chooses encodings by, and what that saves at 256 kbit/s; put into the edge and docs/network.md
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.ladder --out edge_client/secondglance/link/measured_encodings.json --docs docs/network.md
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.slow_link --out benchmarks/results/slow_link_256.json --docs docs/network.md

bench-before-after: $(VENV)/.dev ## this tree beside an older one in BESIDE: what a request and a start of the command line cost
	$(BIN)/python -m benchmarks.before_after --beside $(BESIDE)

bench-throughput: $(VENV)/.dev ## requests per second with 1 to 64 edges beside the engine alone, and short answers beside a long one
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.throughput
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.instruments.mixed_lengths

# vLLM lives in an environment of its own. It brings torchvision, torchaudio and torchcodec, whose builds for CUDA
# break the import on a CPU, and which nothing here uses.
VLLM_VENV := .venv-vllm
VLLM_PYTHON ?= $(CURDIR)/$(VLLM_VENV)/bin/python
VLLM_TESTS = SECONDGLANCE_VLLM_PYTHON=$(VLLM_PYTHON)

$(VLLM_VENV)/.ready: requirements/vllm.txt $(PROJECTS)
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements/vllm.txt
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		-e ./shared -e ./edge_client -e ./server -e ./vllm_capture
	touch $@

test-vllm: $(VENV)/.dev $(VLLM_VENV)/.ready ## the vLLM engine on its CPU build, in an environment of its own (3.4 GB; 15 minutes)
	$(VLLM_TESTS) $(VLLM_PYTHON) -m pytest -q -s -o filterwarnings=default --timeout 900 tests/vllm/engine
	$(VLLM_TESTS) $(BIN)/python -m pytest -q -s --timeout 900 tests/vllm/http

# On a machine with CUDA set VLLM_PYTHON to the Python of an environment with vLLM (docs/vllm.md).
GPU_CHECK ?= --model llava-1.5-7b
gpu-check: $(VENV)/.dev ## both engines on this machine's GPU: equality, capture, throughput, faults; GPU_CHECK=options
	$(VLLM_TESTS) $(BIN)/python -m benchmarks.gpu_check $(GPU_CHECK)

SCENES ?= 1000
MODEL ?= embedded
.PHONY: evaluate recipes

evaluate: $(VENV)/.dev ## accuracy against bytes, every baseline and what was sent before, SCENES=1000 of each set, MODEL; goes on where it was cut off
	$(EXTRA_OF_MODEL)
	$(BIN)/python -m benchmarks.instruments.evaluate --model $(MODEL) --scenes $(SCENES) --out out/evaluation/$(MODEL) --docs docs

recipes: $(VENV)/.dev ## the encodings that are best for MODEL, chosen on scenes and photo textures; into its secondglance.json
	$(EXTRA_OF_MODEL)
	$(BIN)/secondglance-eval recipes --model $(MODEL) --dataset scenes --dataset textures --pictures 60 --out out/recipes/$(MODEL) \
		--write server/secondglance_server/engine/$(MODEL)/weights/secondglance.json

eval-model: $(VENV)/.dev ## MODEL on 1,000 held-out drawn scenes and 1,000 on photo textures
	$(EXTRA_OF_MODEL)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.model --model $(MODEL)

train: $(VENV)/.dev ## train the embedded model from scratch (docs/training.md); resumes where it stopped
	$(BIN)/python -m training

TRAIN_READER = $(WITH_READER) && $(BIN)/python -m training.reader
train-reader: $(VENV)/.dev ## train the model that reads from scratch (docs/training-reader.md); resumes where it stopped
	$(TRAIN_READER)

train-repeat: $(VENV)/.dev ## the first 200 steps of each stage of train-reader twice, from nothing; they must be equal
	$(TRAIN_READER) --stage render --shards 40 && $(BIN)/python -m training.reader.repeat

# BUILD_FLAGS: for builders that need more, such as --network host.
images: ## the container images of server, edge and lab
	docker build $(BUILD_FLAGS) --tag second-glance-server --file Dockerfile.server .
	docker build $(BUILD_FLAGS) --tag second-glance-edge --file Dockerfile.edge .
	docker build $(BUILD_FLAGS) --tag second-glance-lab --file Dockerfile.edge --target lab .

compose-demo: $(VENV)/.edge images ## one question across two containers, bytes at four layers (docker)
	$(BIN)/python -m lab demo

compose-lab: $(VENV)/.dev images ## methods and links between two containers (docker, root, Linux)
	$(BIN)/python -m lab containers

lab: $(VENV)/.dev ## methods and links between two network namespaces (root, Linux)
	$(BIN)/python -m lab namespaces

lock: ## pin the newest versions that pyproject.toml allows, for tests and images
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	UV=$(BIN)/uv requirements/lock.sh

clean: ## forget the environment and everything that was built
	rm -rf $(VENV) out build dist *.egg-info
