#!/usr/bin/env bash
# Refuses paths that are valid on one machine only, such as home directories, and package sources in
# lock files other than the public ones.
set -euo pipefail
cd "$(dirname "$0")/.."

fail=0

# The brackets keep the pattern from finding itself.
if git grep -nIE '(^|[^A-Za-z0-9_.-])/([h]ome|[r]oot|[U]sers|[w]ork)/[A-Za-z0-9._-]+' -- . ':!Cargo.lock' ':!*.svg'; then
    echo "check-paths: a path that is valid on one machine only" >&2
    fail=1
fi
if git grep -nE '^source = ' -- '*Cargo.lock' | grep -v '"registry+https://github.com/rust-lang/crates.io-index"'; then
    echo "check-paths: a crate from another registry than the public one" >&2
    fail=1
fi
if git grep -nE '"resolved": ' -- '*package-lock.json'; then
    echo "check-paths: a package lock with download addresses; write it with omit-lockfile-registry-resolved" >&2
    fail=1
fi

exit "$fail"
