#!/usr/bin/env python3
"""Builds the fuzz targets of `fuzz/` and runs each for a bounded CPU time.

    scripts/fuzz.py [--seconds N] [TARGET ...]

Stable Rust is enough: a pass of LLVM counts edges, and the crate libfuzzer-sys brings libFuzzer,
which needs a C++ compiler. Inputs that reach new edges are kept in `target/fuzz/found` for the next
run, findings in `target/fuzz/findings`, and the output of libFuzzer in `target/fuzz/logs`. The exit
code is 1 if there are findings.
"""

import argparse
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "target" / "fuzz"
COVERAGE = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
]
LONGEST_INPUT = 4096
# An input that takes more time or memory is a finding.
MOST_SECONDS = 10
MOST_MEGABYTES = 512
# The exit code of libFuzzer after an interrupt.
INTERRUPTED = 72


def build():
    host = re.search(r"host: (.*)", subprocess.check_output(["rustc", "-vV"], text=True))[1]
    # With `--target`, the flags do not apply to build scripts and procedural macros.
    command = ["cargo", "build", "--locked", "--package", "usher-fuzz", "--profile", "fuzz"]
    command += ["--target", host, "--target-dir", OUT]
    flags = " ".join([os.environ.get("RUSTFLAGS", ""), *COVERAGE]).strip()
    subprocess.run(command, cwd=ROOT, env={**os.environ, "RUSTFLAGS": flags}, check=True)
    return OUT / host / "fuzz" / "usher-fuzz"


def dictionary(target):
    written = ROOT / "fuzz" / "dictionaries" / f"{target}.dict"
    if written.exists():
        return written
    # The reference has every table and key.
    reference = (ROOT / "config" / "reference.toml").read_text()
    line = r"^#? ?(\[+[a-z_.]+\]+|[a-z_]+ = \S.{0,40}?)(?: +#.*)?$"
    words = set(re.findall(line, reference, re.M))
    made = OUT / f"{target}.dict"
    escaped = (word.replace("\\", "\\\\").replace('"', '\\"') for word in sorted(words))
    made.write_text("".join(f'"{word}\\x0a"\n' for word in escaped))
    return made


def processor_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(program, target, seconds):
    found, findings, logs = (OUT / name for name in ("found", "findings", "logs"))
    (found / target).mkdir(parents=True, exist_ok=True)
    findings.mkdir(exist_ok=True)
    logs.mkdir(exist_ok=True)
    command = [
        program,
        found / target,
        ROOT / "fuzz" / "corpus" / target,
        f"-max_len={LONGEST_INPUT}",
        f"-timeout={MOST_SECONDS}",
        f"-rss_limit_mb={MOST_MEGABYTES}",
        f"-artifact_prefix={findings}/{target}-",
        f"-dict={dictionary(target)}",
        "-print_final_stats=1",
    ]
    used = 0.0
    with open(logs / f"{target}.log", "wb") as log:
        environment = {**os.environ, "USHER_FUZZ_TARGET": target, "RUST_BACKTRACE": "1"}
        process = subprocess.Popen(
            list(map(str, command)), cwd=ROOT, env=environment, stdout=log, stderr=log
        )
        while process.poll() is None:
            used = processor_seconds(process.pid)
            if used >= seconds:
                process.send_signal(signal.SIGINT)
                process.wait()
            time.sleep(0.2)
    text = (logs / f"{target}.log").read_text(errors="replace")
    return process.returncode, used, text


def report(target, code, used, text):
    steps = re.findall(r"cov: (\d+) ft: \d+ corp: (\d+)/", text)
    (edges, inputs), (edges_now, inputs_now) = (steps[0], steps[-1]) if steps else (("-",) * 2,) * 2
    executed = re.search(r"number_of_executed_units: (\d+)", text)
    executed = int(executed[1]) if executed else 0
    found = code not in (0, INTERRUPTED)
    print(
        f"{target:<10} {used:>6.0f} {executed:>12,} {executed / max(used, 0.1):>9,.0f}"
        f" {edges:>7} -> {edges_now:<7} {inputs:>5} -> {inputs_now:<6}"
        f" {'FOUND' if found else 'none'}",
        flush=True,
    )
    if found:
        for line in re.findall(r"panicked at [^\n]*\n[^\n]*|ERROR: libFuzzer: [^\n]*", text):
            print(f"    {line.strip()}".replace("\n", "\n    "))
        for line in re.findall(r"Test unit written to (\S+)", text):
            print(f"    {os.path.relpath(line, ROOT)}", flush=True)
    return found


def main():
    known = sorted(folder.name for folder in (ROOT / "fuzz" / "corpus").iterdir())
    parser = argparse.ArgumentParser(description="Runs the fuzz targets.")
    parser.add_argument("--seconds", type=float, default=60, help="of CPU time, for each")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(known))
    arguments = parser.parse_args()
    unknown = set(arguments.targets) - set(known)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    program = build()
    print("target      CPU s         runs  per CPU s   edges reached       inputs kept     findings")
    results = [
        report(target, *run(program, target, arguments.seconds))
        for target in arguments.targets or known
    ]
    return 1 if any(results) else 0


if __name__ == "__main__":
    sys.exit(main())
