#!/bin/sh
# Cargo runs this in place of rustc for the crates of this repository: only they are measured.
exec "$@" -C instrument-coverage
