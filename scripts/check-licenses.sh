#!/usr/bin/env bash
# Checks licences, banned crates and sources by deny.toml. Passes with a notice if cargo-deny is not
# installed.
set -euo pipefail
cd "$(dirname "$0")/.."

if command -v cargo-deny >/dev/null 2>&1; then
    cargo deny check licenses bans sources
else
    echo "check-licenses: skipped, cargo-deny is not installed (cargo install cargo-deny --locked)"
fi
