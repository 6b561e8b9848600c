# Every step of continuous integration is a target here, and every target is a command that a person can run.

.DEFAULT_GOAL := help
.PHONY: help demo build test lint conformance bench bench-instructions peers docs clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## A chat behind Usher on loopback, with a page to log in and talk
	cargo run --release -- demo

build: ## The release binary: target/release/usher
	cargo build --release

test: ## Every test; installs what the outside clients need, where it is missing
	scripts/setup-tests.sh
	# Most of them wait for something: more threads than cores.
	RUST_TEST_THREADS=8 cargo test

lint: ## Format, lints, stray paths, licences
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	scripts/check-paths.sh
	scripts/check-licenses.sh

conformance: build ## The public Autobahn suite with and without Usher, into docs/conformance.md; a quarter of an hour
	python3 tests/conformance/run.py --all --write

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
