#!/usr/bin/env bash
# Holds docs/openapi.yaml to a running Usher, runs the configurations of docs/load-balancers.md, and
# reads an audit log.
# The validator is a package of PyPI.
set -euo pipefail
cd "$(dirname "$0")/.."

usher=${USHER_BIN:-target/debug/usher}
list=tests/api/requirements.txt
venv=target/api/venv
# The stamp has the checksum of the installed list. A changed list is installed again.
if [ "$(cat "$venv/.installed" 2>/dev/null)" != "$(sha256sum <"$list")" ]; then
    printf 'test-api: python packages into %s\n' "$venv"
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-input -r "$list"
    sha256sum <"$list" >"$venv/.installed"
fi
[ -x "$usher" ] || cargo build
"$venv/bin/python" tests/api/run.py "$usher"
"$venv/bin/python" tests/api/balancers.py "$usher"
"$venv/bin/python" tests/api/audit.py "$usher"
