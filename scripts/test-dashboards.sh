#!/usr/bin/env bash
# Tests the dashboards and the alerts of the chart against a real Prometheus. With `walk` it makes the
# fault of each runbook real and runs the runbook's commands: `walk store` does it for one page.
set -euo pipefail
cd "$(dirname "$0")/.."

usher=${USHER_BIN:-target/debug/usher}
# scripts/setup-tests.sh makes this environment.
python=target/e2e-tools/venv/bin/python

[ -x "$usher" ] || cargo build
if [ "${1:-}" = walk ]; then
    shift
    exec "$python" tests/dashboards/walk.py --usher "$usher" "$@"
fi
exec "$python" tests/dashboards/test.py --usher "$usher"
