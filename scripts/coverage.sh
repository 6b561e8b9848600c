#!/usr/bin/env bash
# Measures the line coverage of src by the unit tests, and by them together with the end-to-end tests.
# The report is in target/coverage.
# First installs what the tests need, and the LLVM tools of the version of this rustc from Debian,
# after a notice.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup-tests.sh
scripts/setup-tests.sh coverage

major=$(rustc --version --verbose | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
out=$PWD/target/coverage
rm -rf "$out"
mkdir -p "$out"
export RUSTC_WORKSPACE_WRAPPER=$PWD/scripts/coverage-rustc.sh
export LLVM_PROFILE_FILE=$out/%m.profraw

# report NAME PROGRAM...: what the profiles written so far say of these programs.
report() {
    local name=$1 objects=() program
    shift
    for program; do objects+=(--object "$program"); done
    "llvm-profdata-$major" merge --sparse "$out"/*.profraw -o "$out/usher.profdata"
    "llvm-cov-$major" export --format=lcov --instr-profile "$out/usher.profdata" "${objects[@]}" >"$out/$name.info"
    count_lines <"$out/$name.info" | sort --key=7 >"$out/$name.txt"
    echo "$name tests: $(grep ' lines  src$' "$out/$name.txt")"
}

# Reads a report in the form of lcov. Test code is not counted: neither files of tests, nor the lines
# from `mod tests {` to the end of a file.
count_lines() {
    awk -v root="$PWD/" '
        /^SF:/ {
            path = substr($0, 4); file = substr(path, length(root) + 1); end = 0
            counts = index(path, root "src/") == 1 && file !~ /(tests|_attacks|_vectors)\.rs$|\/test_[a-z_]*\.rs$/
            if (counts) {
                for (number = 1; (getline text < path) > 0; number++) if (text ~ /mod tests \{$/) { end = number; break }
                close(path)
            }
        }
        /^DA:/ {
            split(substr($0, 4), line, ",")
            if (!counts || (end && line[1] >= end)) next
            lines[file]++; all++
            if (line[2] > 0) { covered[file]++; all_covered++ }
        }
        END {
            for (file in lines) printf "%5.1f %%  %5d of %5d lines  %s\n", 100 * covered[file] / lines[file], covered[file], lines[file], file
            printf "%5.1f %%  %5d of %5d lines  src\n", 100 * all_covered / all, all_covered, all
        }'
}

export RUST_TEST_THREADS=8
programs() {
    cargo test --locked "$@" --no-run --message-format=json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p'
}

unit=$(programs --lib)
cargo test --locked --lib
report unit "$unit"

mapfile -t all < <(programs --lib --test e2e)
# A failed test does not end the measurement: a process that a test kills leaves no profile anyhow.
cargo test --locked --test e2e || echo "coverage: tests failed, the report is of what ran"
report all "${all[@]}" target/debug/usher

echo "each file: target/coverage/{unit,all}.txt; each line: target/coverage/{unit,all}.info"
