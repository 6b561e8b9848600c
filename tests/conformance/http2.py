#!/usr/bin/env python3
"""Runs the HTTP/2 conformance suite h2spec, with its strict cases, against a public route of Usher.

    cargo build --bin usher
    python3 tests/conformance/http2.py --h2spec PROGRAM [SECTION...]

PROGRAM is built from https://github.com/summerwind/h2spec, which no package registry has. Prints what
the suite prints, and exits with 1 if a case failed or Usher died.
"""

import argparse
import http.server
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The flow control cases need a body of several bytes.
BODY = b"hello from the upstream\n" * 40


class Upstream(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.read_body()
        self.send_response(200)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    do_POST = do_GET

    def read_body(self):
        if "transfer-encoding" not in self.headers:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            return
        while length := int(self.rfile.readline().split(b";")[0], 16):
            self.rfile.read(length + 2)
        self.rfile.readline()

    def log_message(self, *_):
        pass


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(usher, folder, upstream_port):
    port = free_port()
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run([usher, "cert", "--cert", cert, "--key", key], check=True, capture_output=True)
    (folder / "usher.toml").write_text(f"""
state_dir = "{folder}/state"

[log]
filter = "warn"

[[listener]]
address = "127.0.0.1:{port}"
certificates = [{{ cert = "{cert}", key = "{key}" }}]

[[upstream]]
name = "web"
servers = ["http://127.0.0.1:{upstream_port}"]

[[route]]
path = "/*"
upstream = "web"
auth = []
""")
    process = subprocess.Popen([usher, "run", "-c", folder / "usher.toml"])
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return process, port
        except OSError:
            time.sleep(0.05)
    process.kill()
    sys.exit(f"nothing listens on port {port}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--h2spec", required=True, type=pathlib.Path, help="the program h2spec")
    parser.add_argument("--usher", type=pathlib.Path, default=ROOT / "target/debug/usher")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help="such as http2/6.5; all if there is none")
    arguments = parser.parse_args()
    upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        usher, port = start(arguments.usher.resolve(), pathlib.Path(folder), upstream.server_address[1])
        try:
            suite = [arguments.h2spec.resolve(), "--strict", "--tls", "--insecure", "--timeout", "3"]
            suite += ["--host", "127.0.0.1", "--port", str(port), *arguments.sections]
            failed = subprocess.run(suite).returncode != 0
            died = usher.poll() is not None
        finally:
            usher.kill()
            usher.wait()
    if died:
        print("Usher died")
    return 1 if failed or died else 0


if __name__ == "__main__":
    sys.exit(main())
