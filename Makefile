# make           builds bin/comfyume-agent
# make run       builds it and starts a whole workshop on this machine
# make test      vet, format and every test (race detector where a C compiler is)
# make bench     the figures of the README, one line each
# make bench-queue   our queue beside NATS JetStream, etcd and Redis, about 15 min; QUEUE_ARGS="--rounds 5"
# make bench-transfer  a 2 GB file over a test tailnet beside scp, and killed on its way
# make sim       the queue's modes in virtual time; TRACE=file SEED=n keeps one seed's events and checks its figures
# make lint      the linters (installed into .cache at pinned versions)
# make dist      static binaries for three platforms, with checksums
# make chaos     breaks a workshop of processes on purpose and judges it from outside; see below
# make conformance COMFYUI_URL=http://127.0.0.1:8188   the same workflows through a real ComfyUI
SHELL       := /bin/sh
GO          ?= go
PYTHON      ?= python3
VERSION     := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
LDFLAGS     := -s -w -X main.version=$(VERSION)
BUILD       := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'
CACHE       := $(CURDIR)/.cache
WHEELS      := $(CURDIR)/bin/wheels
FRONTENDS   := 1.37.11
NODE_DOCS   := 0.4.0
STATE       ?= $(CACHE)/run
RUN_ARGS    ?=

export COMFYUME_WHEEL_DIR := $(WHEELS)

.PHONY: all run test drill bench bench-transfer sim chaos lint dist conformance wheels browser-wheels browser-matrix clean
all: bin/comfyume-agent wheels

bin/comfyume-agent: FORCE
	@mkdir -p bin
	@$(BUILD) -o $@ ./agent/comfyume-agent
FORCE:

# The stock frontend and the node docs come from their packages, by the machine's own pip. The
# agent checks a digest before it serves a byte of one.
wheels:
	@mkdir -p $(WHEELS)
	@for w in $(addprefix comfyui-frontend-package==,$(FRONTENDS)) comfyui-embedded-docs==$(NODE_DOCS); do \
	  ls $(WHEELS)/$$(echo $$w | sed 's/==/-/; s/-\([a-z]\)/_\1/g')-*.whl >/dev/null 2>&1 || \
	  $(PYTHON) -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest $(WHEELS) $$w || \
	  echo "could not fetch $$w with pip; put its wheel into $(WHEELS)" >&2; done
browser-wheels:
	@$(MAKE) --no-print-directory wheels FRONTENDS="1.27.10 1.37.11 1.45.21 1.58.1"

run: all
	@mkdir -p $(STATE)
	@exec bin/comfyume-agent --dev --state-dir $(STATE) $(RUN_ARGS)

# The S3 server that tests of backups use; its versions and digests stand in deploy/s3test.
bin/versitygw: deploy/s3test/go.mod deploy/s3test/go.sum
	@mkdir -p bin
	@cd deploy/s3test && $(BUILD) -o $(CURDIR)/$@ github.com/versity/versitygw/cmd/versitygw

# make drill [DRILL_GIB=10]   backs a workshop up, wipes it, restores it with the kit, compares
drill: all bin/versitygw
	@DRILL_GIB=$(DRILL_GIB) COMFYUME_BENCH=1 COMFYUME_AGENT_BIN=$(CURDIR)/bin/comfyume-agent COMFYUME_WHEEL_DIR=$(WHEELS) $(GO) test -count=1 -timeout 90m -run '^TestDrill$$' -v ./agent/doortest | grep -E '^(drill|drill_in_place|--- FAIL|FAIL)'

test: all browser-wheels bin/versitygw
	@sh deploy/check.sh test

# A participant's day with each of the four frontends, alone; `make test` has it too.
browser-matrix: all browser-wheels
	@COMFYUME_AGENT_BIN=$(CURDIR)/bin/comfyume-agent CGO_ENABLED=0 $(GO) test -trimpath -count=1 -timeout 30m -v -run '^TestMatrix$$' ./agent/browsertest

bench: all
	@COMFYUME_BENCH=1 COMFYUME_AGENT_BIN=$(CURDIR)/bin/comfyume-agent $(GO) test -count=1 -timeout 20m -run '^TestBench' -v ./agent/doortest | grep -E '^[a-z0-9_]+ [a-z_0-9]+=' 
	@$(GO) test -run '^$$' -bench . -benchtime 1s ./cluster/... ./roles/... | grep -E '^Benchmark'

# Large files between nodes: 2 GB over a test tailnet beside scp (SSHD=path if it is not /usr/sbin/sshd), and processes killed 20 times in 2 GB each.
bench: bench-transfer
bench-transfer:
	@COMFYUME_BENCH=1 $(GO) test -count=1 -timeout 40m -run '^(TestBenchTransfer|TestKilled)' -v ./cluster/peer | grep -E '^(transfer|killed) '

# make chaos SEEDS=3 JOBS=200            jobs and faults, one line for each seed
# make chaos BUG=all                     plants eight bugs, one after the other; each must be caught
# make chaos SCENARIO=leaderkill MINUTES=10   or shapes, killall, join, silent, serverless
# NET=tailnet: on a test tailnet; PROFILE=site: raft's short times; KEEP=1: keep the logs
SEEDS    ?= 3
SEED     ?= 1
JOBS     ?= 200
MINUTES  ?= 10
NET      ?= loopback
PROFILE  ?= wan
BUG      ?=
SCENARIO ?=
KEEP     ?= 0
chaos: all
	@$(BUILD) -o bin/chaos ./agent/chaos
	@$(if $(BUG),,COMFYUME_AGENT_BIN=$(CURDIR)/bin/comfyume-agent) bin/chaos -seeds=$(SEEDS) -seed=$(SEED) -jobs=$(JOBS) -minutes=$(MINUTES) -net=$(NET) -profile=$(PROFILE) -bug=$(BUG) -scenario=$(SCENARIO) -keep=$(KEEP)

bench: bench-queue
bench-queue:
	@mkdir -p bin $(CACHE)
	@$(BUILD) -o bin/benchnode ./agent/benchnode
	@cd deploy/bench && $(BUILD) -o $(CURDIR)/bin/queuebench .
	@bin/queuebench --ours $(CURDIR)/bin/benchnode --dir $(CACHE) $(QUEUE_ARGS) | grep -E '^(env|bench|kill|hogs|ratio) '

# The same package that the agent links, in virtual time. The check shares no code with it.
TRACE ?=
sim:
	@mkdir -p bin
	@$(BUILD) -o bin/policysim ./cluster/policy/sim/policysim
	@$(if $(TRACE),$(BUILD) -o bin/policycheck ./cluster/policy/sim/policycheck)
	@$(if $(TRACE),bin/policysim -trace $(TRACE) -seed $(SEED) > $(TRACE).figures && cat $(TRACE).figures && bin/policycheck $(TRACE) $(TRACE).figures,bin/policysim)

conformance: all
	@test -n "$(COMFYUI_URL)" || { echo "name the ComfyUI: make conformance COMFYUI_URL=http://127.0.0.1:8188"; exit 2; }
	@COMFYUME_CONFORMANCE_URL=$(COMFYUI_URL) COMFYUME_AGENT_BIN=$(CURDIR)/bin/comfyume-agent $(GO) test -count=1 -timeout 20m -run '^TestConformance' -v ./agent/doortest

lint:
	@sh deploy/check.sh lint

dist:
	@VERSION='$(VERSION)' sh deploy/check.sh dist

clean:
	@rm -rf bin dist .cache
