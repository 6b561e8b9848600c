#!/usr/bin/env bash
# Refuses what only makes sense on the machine where it was written: home directories, and package sources other than
# the public ones in the lock files.
set -euo pipefail
cd "$(dirname "$0")/.."

fail=0

# The brackets keep the pattern from finding itself.
if git grep -nIE '(^|[^A-Za-z0-9_.-])/([h]ome|[r]oot|[U]sers|[w]ork)/[A-Za-z0-9._-]+' -- . ':!Cargo.lock' ':!*.svg'; then
    echo "check-paths: a path of one machine" >&2
    fail=1
fi
if git grep -nE '^source = ' -- '*Cargo.lock' | grep -v '"registry+https://github.com/rust-lang/crates.io-index"'; then
    echo "check-paths: a crate from elsewhere than the public registry" >&2
    fail=1
fi
if git grep -nE '"resolved": ' -- '*package-lock.json'; then
    echo "check-paths: a package lock that names a download address; write it with omit-lockfile-registry-resolved" >&2
    fail=1
fi

exit "$fail"
