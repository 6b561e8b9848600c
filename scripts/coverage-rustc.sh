#!/bin/sh
# Cargo runs this in place of rustc for the crates of this repository: only they count their lines.
exec "$@" -C instrument-coverage
