# Every step of continuous integration is a target here.

.DEFAULT_GOAL := help
.PHONY: help demo build packages image test soak fuzz coverage lint conformance conformance-clients thousand-clients kube-api dashboards pictures runbooks bench bench-instructions peers docs clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## A chat behind Usher on loopback, with a page to log in and chat
	@test -x "$${CARGO_TARGET_DIR:-target}/debug/usher" || echo "demo: compiles Usher and the 200 crates under it first, unoptimised. That takes about four minutes of CPU, once."
	cargo run -- demo

build: ## The release binary: target/release/usher
	cargo build --release

BIN ?=

packages: ## .deb, .rpm, archive and bill of materials of the release binary, or of BIN=path
	packaging/build.sh $(BIN)

test: ## All tests; installs the missing programs that they need
	scripts/setup-tests.sh
	# Most tests wait, so there are more threads than cores.
	RUST_TEST_THREADS=8 cargo test
	scripts/test-clients.sh
	scripts/test-chart.sh
	scripts/test-dashboards.sh
	scripts/test-api.sh
	scripts/test-examples.sh
	scripts/test-packages.sh
	scripts/test-image.sh

image: ## Compile the image of packaging/Dockerfile without a registry, and run it; needs mmdebstrap
	scripts/test-image.sh compile

SECONDS ?= 60
TARGETS ?=

fuzz: ## Fuzz the parsers: SECONDS=60 of CPU for each of TARGETS (all); needs a C++ compiler
	scripts/fuzz.py --seconds $(SECONDS) $(TARGETS)

DURATION ?= 10m

soak: ## Load tests with an audit at the end, DURATION=10m for each
	USHER_SOAK=$(DURATION) cargo test --test e2e soak:: -- --test-threads 1 --nocapture

coverage: ## Line coverage of src by the tests in it
	scripts/coverage.sh

lint: ## Format, lints, pages of the library, language, stray paths, licences
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(MAKE) docs
	scripts/check-language.py
	scripts/check-paths.sh
	scripts/check-licenses.sh

conformance: build ## The Autobahn suite with and without Usher, into docs/conformance.md; 15 minutes
	python3 tests/conformance/run.py --all --write

conformance-clients: ## Check the client libraries against the rules for clients; prints the tables
	cargo build
	scripts/test-clients.sh tables

thousand-clients: build ## 1,000 clients of the library through restarts of Usher; two minutes
	USHER_BIN=target/release/usher scripts/test-clients.sh thousand 1000

kube-api: ## Test the chart against a real API server; needs kube-apiserver, etcd, kubectl and helm
	scripts/kube-api.sh

dashboards: ## Write the dashboards and alert rules of the chart from scripts/dashboards
	scripts/dashboards/generate.py

pictures: ## Take the pictures of the admin page in docs/images again; 15 minutes, needs Chromium
	@test -x target/debug/usher || cargo build
	node tests/e2e/browser/admin-pictures.mjs target/debug/usher docs/images

runbooks: ## Make the fault of each runbook real, and run its commands; three minutes
	scripts/test-dashboards.sh walk

bench: ## Micro benches, in CPU time; see benches/README.md
	cargo bench --bench micro

bench-instructions: ## Micro benches in instructions, beside the last counts; needs valgrind
	cargo bench --bench micro -- --instructions

peers: ## The same work through Usher and five other proxies, in one table; see benches/peers/README.md
	python3 benches/peers/run.py

docs: ## The pages of the library (tests compare docs/errors.md and docs/metrics.md with the code)
	cargo doc --no-deps --document-private-items

clean: ## Remove all build results, with the test tools
	cargo clean
