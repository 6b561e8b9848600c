#!/usr/bin/env bash
# Runs the commands of each page in examples/, or of the named ones: `test-examples.sh socketio`.
# Packages of PyPI are kept in target/examples, so that the pages install them without a network.
set -euo pipefail
cd "$(dirname "$0")/.."

usher=${USHER_BIN:-target/debug/usher}
cache=target/examples
lists=(examples/*/requirements.txt)
# The stamp has the checksum of the lists. If one changes, the packages are fetched again.
if [ "$(cat "$cache/wheels/.fetched" 2>/dev/null)" != "$(cat "${lists[@]}" | sha256sum)" ]; then
    printf 'test-examples: python packages into %s\n' "$cache/wheels"
    rm -rf "$cache/wheels"
    mkdir -p "$cache/wheels"
    python3 -m venv "$cache/venv"
    # Eight at a time: the registry answers many small questions slowly.
    sort -u "${lists[@]}" | xargs -P 8 -n 8 "$cache/venv/bin/pip" download --quiet --no-input --no-deps \
        --disable-pip-version-check --only-binary :all: --dest "$cache/wheels"
    cat "${lists[@]}" | sha256sum >"$cache/wheels/.fetched"
fi
[ -x "$usher" ] || cargo build
exec python3 tests/examples/run.py "$usher" "$@"
