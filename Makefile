# The project's recipes. `make demo` and `make test` are all that a fresh machine needs.

SHELL := /bin/bash
BIN   := nifcloud-additional-storage-csi
ARCH  := $(shell uname -m)
MUSL  := $(ARCH)-unknown-linux-musl
# Where `cargo build` puts things.
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
# The static binary, unoptimised and small enough to be copied into VMs.
STATIC := $(TARGET_DIR)/$(MUSL)/debug/$(BIN).stripped
# Where scripts/prepare.sh puts what a distribution has too old or not at all: Go, Rust.
export PATH := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/nifcloud-additional-storage-csi/go/bin:$(PATH):$(HOME)/.cargo/bin
export GIT_SHA ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)

.DEFAULT_GOAL := help
.PHONY: help demo test sanity bench bench-scsi lint build release crash storm scsi e2e e2e-vm quickstart clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## Watch a claim live its whole life on real disks (no account, no cluster; root for real mounts; VM=1: SCSI disks in VMs)
ifdef VM
	@scripts/prepare.sh scsi
	@$(MAKE) --no-print-directory $(STATIC)
	@lab=$$(scripts/vm/setup.sh) && $(STATIC) demo --vm --lab $$lab
else
	@scripts/prepare.sh demo
	@cargo build --locked
	@$(TARGET_DIR)/debug/$(BIN) demo
endif

test: ## Run everything that must pass: format, lints, docs, all tests, csi-sanity
	@scripts/prepare.sh test
	@scripts/test.sh

sanity: ## Run csi-sanity against the real binary: ext4, xfs, block, two processes
	@scripts/prepare.sh sanity
	@cargo build --locked
	@sanity-tests/run.sh $(TARGET_DIR)/debug/$(BIN)

bench: release ## Measure the release binary; table on the terminal, rows in target/bench.json (BENCH=node,cloud: some groups)
	@# A copy of what is shipped: cargo builds the program again for a bench, with the tests' features, to the same place.
	@install -D $(TARGET_DIR)/$(MUSL)/release/$(BIN) $(TARGET_DIR)/bench/$(BIN)
	@CSI_BINARY=$(abspath $(TARGET_DIR))/bench/$(BIN) cargo bench --locked --target $(MUSL) --bench bench
	@[ -n "$(BENCH)" ] || $(MAKE) --no-print-directory bench-scsi

bench-scsi: ## Measure the release binary on real SCSI in a VM, as `make bench` does; rows in target/bench.json
	@scripts/prepare.sh scsi
	@[ -x $(TARGET_DIR)/bench/$(BIN) ] || { $(MAKE) --no-print-directory release && \
	  install -D $(TARGET_DIR)/$(MUSL)/release/$(BIN) $(TARGET_DIR)/bench/$(BIN); }
	@lab=$$(scripts/vm/setup.sh) && VM_LAB=$$lab BENCH_ROWS=1 CSI_BINARY=$(abspath $(TARGET_DIR))/bench/$(BIN) \
	  cargo test --locked --test scsi -- bench:

lint: ## Format, clippy, docs, shell scripts, dependency policy
	@scripts/prepare.sh lint
	@scripts/lint.sh

build: ## Build for this machine, unoptimised
	@scripts/prepare.sh build
	@cargo build --locked

release: ## Build the static binary
	@scripts/prepare.sh release
	@cargo build --release --locked --target $(MUSL)
	@ls -l $(TARGET_DIR)/$(MUSL)/release/$(BIN)

crash: ## Kill the controller at every point of every call, and see that nothing leaks
	@scripts/prepare.sh build
	@cargo test --locked --test crash

storm: ## Run random operations on a cloud in trouble against a model (STORM_SEED repeats a run, STORM_OPERATIONS sizes it)
	@scripts/prepare.sh build
	@cargo test --locked --test storm

scsi: ## Run the node on real SCSI: VMs with a pvscsi controller (no KVM; downloads QEMU and a kernel; CASES=part of a name)
	@scripts/prepare.sh scsi
	@$(MAKE) --no-print-directory $(STATIC)
	@if command -v go >/dev/null; then cd sanity-tests && go build -buildvcs=false -o bin/runner ./runner; fi
	@lab=$$(scripts/vm/setup.sh) && VM_LAB=$$lab CSI_SANITY_RUNNER=$(abspath sanity-tests/bin/runner) CSI_BINARY=$(abspath $(STATIC)) \
	  cargo test --locked --test scsi -- $(CASES)

e2e: ## Walk volumes on a live Kubernetes (built from source the first time: 20 minutes); root, no network but the registries
	@scripts/prepare.sh e2e
	@cargo build --locked --release --target $(MUSL)
	@cargo build --locked --target $(MUSL)
	@python3 tests/e2e/run.py --driver $(TARGET_DIR)/$(MUSL)/release/$(BIN) --other $(TARGET_DIR)/$(MUSL)/debug/$(BIN) $(E2E)

e2e-vm: ## The same on nodes that are VMs with a pvscsi controller: hot-plug, online ext4 growth, power cuts
	@$(MAKE) --no-print-directory e2e E2E="--vm $(E2E)"

quickstart: ## Run the documentation's commands for the embedded cloud on a live Kubernetes (as e2e: root, long the first time)
	@scripts/prepare.sh e2e
	@cargo build --locked --target $(MUSL)
	@python3 tests/e2e/quickstart.py --driver $(TARGET_DIR)/$(MUSL)/debug/$(BIN)

.PHONY: $(STATIC)
$(STATIC):
	@cargo build --locked --target $(MUSL)
	@strip -o $@ $(@:.stripped=)

clean: ## Remove what was built
	@cargo clean
	@rm -rf sanity-tests/bin
