#!/usr/bin/env python3
"""Compares the results of the Autobahn WebSocket test suite through Usher and without it."""

import argparse
import hashlib
import http.client
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK = ROOT / "target/conformance"
VENV = WORK / "venv"
REQUIREMENTS = HERE / "requirements.txt"

PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}
RUNS = {"bare": "the backend itself", "ticket": "Usher, by ticket", "message": "Usher, by first message"}
GROUPS = {
    "1": "framing",
    "2": "pings and pongs",
    "3": "reserved bits",
    "4": "opcodes",
    "5": "fragmentation",
    "6": "UTF-8",
    "7": "close handling",
    "9": "limits",
    "10": "automatic fragmentation",
    "12": "compression, by kind of payload",
    "13": "compression, by parameters",
}

# The cases check each ping that arrives, and slow cases are silent for long. So Usher sends no
# pings of its own for ten minutes.
CONFIG = """
state_dir = "state"
[[listener]]
address = "127.0.0.1:0"
plain = true
[[issuer]]
name = "main"
issuer = "https://id.example.com"
audience = ["chat"]
algorithms = ["HS256"]
secret_env = "USHER_JWT_SECRET"
[[upstream]]
name = "echo"
servers = ["http://127.0.0.1:{echo}"]
[tickets]
multi_use = true
max_ttl = "2h"
rate_per_user = "1000/1m"
rate_per_address = "1000/1m"
[keepalive]
ping = "10m"
idle_timeout = "30m"
[audit]
file = "audit.jsonl"
[[route]]
path = "/ticket"
upstream = "echo"
auth = ["ticket"]
"""
# With `proactive`, Usher reads every text message of a client.
REAUTH = """
[route.reauth]
proactive = true
"""
MESSAGE_ROUTE = """
[[route]]
path = "/message"
upstream = "echo"
auth = ["message"]
[route.first_message]
ack = false
"""

PAGE = """# Conformance

Every case of the [Autobahn WebSocket test suite](https://github.com/crossbario/autobahn-testsuite) that passes against an echo backend must also pass against the same backend behind Usher. A case passes if both its behaviour and its close are OK, NON-STRICT or INFORMATIONAL.

- Usher: {version}; one plain listener; no pings of its own, because the cases check each ping that arrives; Usher reads every text message of the client (`proactive = true`).
- Backend: `websockets` {websockets} for Python, with permessage-deflate and no limit on sizes and fragments.
- Suite: `kosoku` {kosoku}, which runs Autobahn's own case files, with `{options}`.
- By ticket: the suite connects with one ticket of many uses. By first message: a byte forwarder appends the frame with the token to each upgrade request, and Usher does not answer it (`ack = false`).

To repeat it, run `make conformance`. It exits with 1 if a case passes without Usher and fails through it. It writes the suite's own reports to `target/conformance/reports`.

{report}"""


def install():
    """Installs the pinned packages into the virtual environment, unless it has them."""
    stamp, wanted = VENV / ".installed", hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
    pip = [VENV / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    subprocess.run([*pip, "-r", REQUIREMENTS], check=True)
    stamp.write_text(wanted)


@contextmanager
def child(name, command, **options):
    """Runs a process that ends with the block. Its stderr goes into a file."""
    path = WORK / f"{name}.log"
    with path.open("w") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, text=True, **options)
    try:
        yield process, path
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def script(stack, name, *arguments, **environment):
    """Starts a script of this folder. Returns the port that it prints."""
    command = [VENV / "bin/python", HERE / f"{name}.py", *arguments]
    process, log = stack.enter_context(
        child(name, command, stdout=subprocess.PIPE, env={**os.environ, **environment})
    )
    return int(process.stdout.readline() or sys.exit(f"{name}.py did not start:\n{log.read_text()}"))


def usher(stack, binary, config, environment):
    """Starts Usher with a configuration. Returns the port that it listens on."""
    command = [binary, "run", "--log-format", "json", "-c", config]
    process, log = stack.enter_context(child("usher", command, stdout=subprocess.DEVNULL, env=environment))
    until = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < until:
        for line in log.read_text().splitlines():
            if '"event":"ready"' in line:
                return int(json.loads(line)["listeners"].strip("[]").rpartition(":")[2])
        time.sleep(0.05)
    sys.exit(f"Usher did not become ready:\n{log.read_text()}")


def ask_ticket(port, token):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    body = json.dumps({"ttl_seconds": 7200, "single_use": False})
    connection.request("POST", "/websocket/ticket", body, {"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return json.loads(text)["ticket_id"] if answer.status == 201 else sys.exit(f"no ticket: {answer.status} {text}")


def suite(name, url, options):
    """Runs the cases against a URL. Returns the fault of each case, or None if it passes."""
    print(f"running the suite against {RUNS[name]}", file=sys.stderr, flush=True)
    folder = WORK / "reports" / name
    shutil.rmtree(folder, ignore_errors=True)
    command = [VENV / "bin/kosoku", "-m", "fuzzingclient", *options, "-o", folder, url]
    run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=3600)
    if not (folder / "index.json").exists():
        sys.exit(f"no report against {RUNS[name]}:\n{run.stdout}{run.stderr}")
    results = {}
    for agent in json.loads((folder / "index.json").read_text()).values():
        for case, verdict in agent.items():
            if {verdict["behavior"], verdict["behaviorClose"]} <= PASSED:
                results[case] = None
            else:
                report = json.loads((folder / verdict["reportfile"]).read_text())
                results[case] = f"{verdict['behavior']}, {verdict['behaviorClose']}: {report['resultClose']}"
    return results


def all_runs(options, arguments):
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="usher-conformance-")))
        environment = {**os.environ, "USHER_JWT_SECRET": secrets.token_hex(32)}
        mint = ["token", "mint", "--subject", "ada", "--issuer", "https://id.example.com", "--audience", "chat"]
        mint += ["--ttl", "24h", "--secret-env", "USHER_JWT_SECRET"]
        token = subprocess.check_output([arguments.usher, *mint], env=environment, text=True).strip()

        echo = script(stack, "echo")
        routes = "" if arguments.old else REAUTH + MESSAGE_ROUTE + REAUTH
        config = folder / "usher.toml"
        config.write_text(CONFIG.format(echo=echo) + routes)
        port = usher(stack, arguments.usher, config, environment)

        results = {"bare": suite("bare", f"ws://127.0.0.1:{echo}/", options)}
        ticket = ask_ticket(port, token)
        results["ticket"] = suite("ticket", f"ws://127.0.0.1:{port}/ticket?ticket={ticket}", options)
        if not arguments.old:
            shim = script(stack, "shim", str(port), TOKEN=token)
            results["message"] = suite("message", f"ws://127.0.0.1:{shim}/message", options)
        return results


def in_order(case):
    return [int(part) for part in case.split(".")]


def table(results):
    def row(group, about, cases):
        passed = [sum(run.get(case, "missing") is None for case in cases) for run in results.values()]
        return [group, about, len(cases), *passed]

    groups = {}
    for case in results["bare"]:
        groups.setdefault(case.split(".")[0], []).append(case)
    rows = [["group", "about", "cases", *(f"passed: {RUNS[name]}" for name in results)]]
    rows.append(["--:", "---", *["--:"] * (len(rows[0]) - 2)])
    rows += [row(group, GROUPS.get(group, ""), groups[group]) for group in sorted(groups, key=int)]
    rows.append(row("all", "", list(results["bare"])))
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def failures(results):
    """Returns the faults through Usher of cases that pass without it, by run and case."""
    passing = [case for case, wrong in results["bare"].items() if wrong is None]
    wrong = {name: {case: run.get(case, "missing") for case in passing} for name, run in results.items()}
    return {name: {case: why for case, why in run.items() if why} for name, run in wrong.items() if name != "bare"}


def listed(failed):
    return "\n".join(f"- {case}: {failed[case]}" for case in sorted(failed, key=in_order)) or "None."


def report(results):
    sections = [table(results)]
    for name, failed in failures(results).items():
        sections += [f"## Passed by the backend itself, failed by {RUNS[name]}", listed(failed)]
    bare = {case: wrong for case, wrong in results["bare"].items() if wrong}
    sections += ["## Failed by the backend itself", listed(bare)]
    return "\n\n".join(sections) + "\n"


def page(text, options, binary):
    version = subprocess.check_output([binary, "--version"], text=True).split()[-1]
    pins = dict(line.split("==") for line in REQUIREMENTS.read_text().split())
    return PAGE.format(version=version, options=" ".join(options), report=text, **pins)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    option = parser.add_argument
    option("--usher", type=Path, default=ROOT / "target/release/usher", help="the binary (default: %(default)s)")
    option("--old", action="store_true", help="for a binary without first message and reauth: leave both out")
    option("--cases", action="append", metavar="CASE", help="only this id or glob, such as '12.*'; repeatable")
    option("--all", action="store_true", help="with group 9, the large messages, which is left out otherwise")
    option("-p", "--parallelism", type=int, default=2, metavar="N", help="cases at a time (default: %(default)s)")
    page_path = ROOT / "docs/conformance.md"
    option("--write", type=Path, nargs="?", const=page_path, metavar="FILE", help="write a page too: docs/conformance.md")
    arguments = parser.parse_args()
    if arguments.old and arguments.write:
        parser.error("--write is for all three runs: not with --old")
    arguments.usher = arguments.usher.resolve()

    options = [f"-p{arguments.parallelism}"]
    if arguments.cases:
        options += [f"-i{case}" for case in arguments.cases]
    elif not arguments.all:
        options.append("-x9.*")
    WORK.mkdir(parents=True, exist_ok=True)
    install()
    results = all_runs(options, arguments)
    text = report(results)
    print(text)
    if arguments.write:
        arguments.write.write_text(page(text, options, arguments.usher))
    return 1 if any(failures(results).values()) else 0


if __name__ == "__main__":
    sys.exit(main())
