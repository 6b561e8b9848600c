# Every step of continuous integration is a target here, and every target is a command that a person can run.

.DEFAULT_GOAL := help
.PHONY: help demo build test soak fuzz coverage lint conformance conformance-clients thousand-clients bench bench-instructions peers docs clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## A chat behind Usher on loopback, with a page to log in and talk
	@test -x "$${CARGO_TARGET_DIR:-target}/debug/usher" || echo "demo: compiles Usher and the 200 crates under it first, unoptimised. That takes about four minutes of CPU, once."
	cargo run -- demo

build: ## The release binary: target/release/usher
	cargo build --release

test: ## Every test; installs what the outside clients need, where it is missing
	scripts/setup-tests.sh
	# Most of them wait for something: more threads than cores.
	RUST_TEST_THREADS=8 cargo test
	scripts/test-clients.sh

SECONDS ?= 60
TARGETS ?=

fuzz: ## Fuzz the readers of bytes from strangers: SECONDS=60 of CPU for each of TARGETS (all); needs a C++ compiler
	scripts/fuzz.py --seconds $(SECONDS) $(TARGETS)

DURATION ?= 10m

soak: ## Load with an audit at the end, each program for a while: make soak DURATION=10m
	USHER_SOAK=$(DURATION) cargo test --test e2e soak:: -- --test-threads 1 --nocapture

coverage: ## Line coverage of src by the tests in it
	scripts/coverage.sh

lint: ## Format, lints, stray paths, licences
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	scripts/check-paths.sh
	scripts/check-licenses.sh

conformance: build ## The public Autobahn suite with and without Usher, into docs/conformance.md; a quarter of an hour
	python3 tests/conformance/run.py --all --write

conformance-clients: ## Holds the client libraries to the rules of tickets, first message and renewal; prints the tables
	cargo build
	scripts/test-clients.sh tables

thousand-clients: build ## 1,000 clients of the library through restarts of Usher, with every figure; two minutes
	USHER_BIN=target/release/usher scripts/test-clients.sh thousand 1000

bench: ## Micro benches, in CPU time; see benches/README.md
	cargo bench --bench micro

bench-instructions: ## The same in exact instructions, beside the last ones; needs valgrind
	cargo bench --bench micro -- --instructions

peers: ## The same work through Usher and five other proxies, in one table; see benches/peers/README.md
	python3 benches/peers/run.py

docs: ## The library's pages (docs/errors.md and docs/metrics.md are held to the code by tests)
	cargo doc --no-deps --document-private-items

clean: ## Remove what was built, the test tools included
	cargo clean
