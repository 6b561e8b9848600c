#!/usr/bin/env python3
"""Compares how Usher and a plain rustls server end each TLS conversation of tlsfuzzer.

    cargo build --bin usher --example peers-floor
    python3 tests/conformance/tls.py --tlsfuzzer FOLDER [NAME...]

FOLDER is a checkout of https://github.com/tlsfuzzer/tlsfuzzer. Its scripts have the licence
GPL-2.0, so they are not part of this repository. Its library tlslite-ng is installed from PyPI into
target/conformance/tls. Both servers have the same RSA certificate and the same HTTP answers: the
rustls server forwards to the plain listener of Usher. Each script runs with the same random numbers
against both. Prints every conversation that ends differently, and exits with 1 if EXPLAINED does
not name one of them.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
VENV = ROOT / "target/conformance/tls/venv"
TLSLITE = "tlslite-ng==0.9.0b2"
SUITE = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"
# These scripts measure times for minutes, or have no conversation.
LEFT_OUT = re.compile(r"^_stub|generator|timing|lucky|minerva|pregenerate")
SEEDED = (
    "import random, runpy, sys; random.seed(7); sys.argv = sys.argv[1:]; sys.path.insert(0, '.');"
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)

LOST = "AssertionError Unexpected closure from peer"
# Known differences: a part of "SCRIPT: CONVERSATION", a pattern of the end at Usher, one of the end at
# the rustls server, and the reason.
EXPLAINED = [
    ("", r"as expected|Alert|alert", LOST,
     "the alert of Usher arrives; the rustls server sends none, or its reset overtakes it"),
    ("renegotiation", r"as expected|no_renegotiation", r"Timeout",
     "Usher sends no_renegotiation at once; the rustls server sends it with the next data"),
    ("test-tls13-empty-alert.py", r"as expected", r"decode_error",
     "Usher sends unexpected_message, as RFC 8446 section 5.1 requires; rustls sends decode_error"),
    ("test-tls13-record-layer-limits.py", r"as expected", r"bad_record_mac",
     "Usher checks the length before it decrypts, and sends record_overflow"),
    ("test-extended-master-secret-extension.py", r"Handshake\(certificate\)", r"as expected",
     "Usher stores no sessions: it resumes tickets, and not session ids"),
]


def reason_for(title, ours, theirs):
    for part, mine, other, why in EXPLAINED:
        if part in title and re.search(mine, ours) and re.search(other, theirs):
            return why
    return None


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(folder, usher, floor):
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )
    key.chmod(0o600)
    tls, plain, bare = free_port(), free_port(), free_port()
    (folder / "usher.toml").write_text(f"""
state_dir = "{folder}/state"
threads = 1

[log]
filter = "warn"

# Longer than a script waits: the timeouts of Usher are not tested here.
[limits]
unauthenticated_per_address = 10000
tls_timeout = "60s"
head_timeout = "60s"
handshake_timeout = "60s"

[[listener]]
address = "127.0.0.1:{tls}"
certificates = [{{ cert = "{cert}", key = "{key}" }}]

[[listener]]
address = "127.0.0.1:{plain}"
plain = true

[[issuer]]
name = "main"
issuer = "https://id.example.com"
audience = ["chat"]
algorithms = ["HS256"]
secret_env = "USHER_TLS_SECRET"

[[upstream]]
name = "chat"
servers = ["http://127.0.0.1:{free_port()}"]

[[route]]
path = "/ws"
upstream = "chat"
auth = ["header"]
""")
    env = dict(os.environ, USHER_TLS_SECRET="0123456789abcdef0123456789abcdef")
    processes = [
        subprocess.Popen([usher, "run", "-c", folder / "usher.toml"], env=env),
        subprocess.Popen([floor, f"127.0.0.1:{bare}", f"127.0.0.1:{plain}", cert, key, "1"]),
    ]
    for port in (tls, bare):
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        else:
            sys.exit(f"nothing listens on port {port}")
    return processes, tls, bare


class Scripts:
    def __init__(self, folder):
        self.folder = folder
        self.python = VENV / "bin/python"

    def names(self, parts):
        names = sorted(path.name for path in (self.folder / "scripts").glob("test-*.py"))
        names = [name for name in names if not LEFT_OUT.search(name)]
        return [name for name in names if not parts or any(part in name for part in parts)]

    def call(self, name, *arguments):
        command = [self.python, "-c", SEEDED, f"scripts/{name}", *arguments]
        try:
            done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=300)
            return done.stdout + done.stderr
        except subprocess.TimeoutExpired:
            return ""

    def options(self, name):
        """Returns options with cipher suites of rustls: by default, most TLS 1.2 scripts use others."""
        text = self.call(name, "--help")
        if "tls13" not in name and re.search(r"^ -C ", text, re.M):
            return ["-C", SUITE]
        return ["-d"] if re.search(r"^ -d +negotiate", text, re.M) else []

    def compare(self, name, ports):
        options = self.options(name)
        ends = [conversations(self.call(name, "-h", "127.0.0.1", "-p", str(port), *options)) for port in ports]
        return name, ends


def conversations(output):
    """Returns the end of each conversation: "as expected", or the fault without random values."""
    ends, current = {}, None
    for line in output.splitlines():
        if begun := re.match(r"^(.*) \.\.\.$", line):
            current = begun.group(1)
            ends[current] = "?"
        elif current and line.startswith("OK"):
            ends[current], current = "as expected", None
        elif current and (wrong := re.match(r"^([\w.]*(?:Error|Alert|Exception))(?:: (.*))?$", line)):
            ends[current] = re.sub(r"0x[0-9a-f]+", "0x..", f"{wrong.group(1)} {wrong.group(2) or ''}").strip()
    return ends


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tlsfuzzer", required=True, type=pathlib.Path, help="a checkout of tlsfuzzer")
    parser.add_argument("--usher", type=pathlib.Path, default=ROOT / "target/debug/usher")
    parser.add_argument("--floor", type=pathlib.Path, default=ROOT / "target/debug/examples/peers-floor")
    parser.add_argument("names", nargs="*", help="parts of the names of scripts; all if there is none")
    arguments = parser.parse_args()
    if not (VENV / "bin/python").exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([VENV / "bin/pip", "install", "--quiet", TLSLITE], check=True)
    scripts = Scripts(arguments.tlsfuzzer.resolve())
    same = differ = unexplained = as_expected = 0
    with tempfile.TemporaryDirectory() as folder:
        processes, *ports = start(pathlib.Path(folder), arguments.usher, arguments.floor)
        try:
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                jobs = pool.map(lambda name: scripts.compare(name, ports), scripts.names(arguments.names))
                for name, (ours, theirs) in jobs:
                    for conversation in ours.keys() & theirs.keys():
                        mine, other = ours[conversation], theirs[conversation]
                        as_expected += mine == "as expected"
                        if mine == other:
                            same += 1
                            continue
                        differ += 1
                        title = f"{name}: {conversation}"
                        reason = reason_for(title, mine, other)
                        unexplained += reason is None
                        print(f"{title}\n    usher:  {mine}\n    rustls: {other}\n    {reason or 'NOT EXPLAINED'}", flush=True)
            alive = all(process.poll() is None for process in processes)
        finally:
            for process in processes:
                process.kill()
                process.wait()
    print(f"{same + differ} conversations: {same} end alike ({as_expected} of Usher's as the script expects), "
          f"{differ} differ, {unexplained} of them unexplained; both servers {'live' if alive else 'DIED'}")
    return 0 if alive and not unexplained else 1


if __name__ == "__main__":
    sys.exit(main())
