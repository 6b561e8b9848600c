#!/usr/bin/env bash
# Tests the Helm chart without a cluster: renders it with Helm's engine, validates every object with the
# published schemas of Kubernetes and of the operators, and gives each usher.toml to `usher check`.
# `test-chart.sh write` writes the tables of charts/usher/README.md and Kubernetes' part of the schema of
# the values instead. Other arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'test-chart: %s\n' "$*"; }
venv=target/charts/venv
export USHER_BIN=${USHER_BIN:-$PWD/target/debug/usher}

# The stamp has the checksum of the installed list. A changed list is installed again.
prepare() {
    local list=tests/charts/requirements.txt lock=tests/charts/package-lock.json
    if [ "$(cat "$venv/.installed" 2>/dev/null)" != "$(sha256sum <"$list")" ]; then
        say "python packages into $venv"
        mkdir -p "$(dirname "$venv")"
        python3 -m venv --clear "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check --no-input -r "$list"
        sha256sum <"$list" >"$venv/.installed"
    fi
    local stamp=tests/charts/node_modules/.installed
    if [ "$(cat "$stamp" 2>/dev/null)" != "$(sha256sum <"$lock")" ]; then
        say "node packages into tests/charts/node_modules"
        npm ci --prefix tests/charts --no-audit --no-fund --loglevel=error </dev/null
        sha256sum <"$lock" >"$stamp"
    fi
    [ -x "$USHER_BIN" ] || cargo build
}

prepare
if [ "${1:-}" = write ]; then
    tests/charts/node_modules/.bin/readme-generator -v charts/usher/values.yaml -r charts/usher/README.md >/dev/null
    "$venv/bin/python" tests/charts/definitions.py
    say "charts/usher/README.md and values.schema.json written"
else
    "$venv/bin/python" -m pytest --quiet -p no:cacheprovider "${@:-tests/charts}"
fi
