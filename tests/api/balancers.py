#!/usr/bin/env python3
"""Runs the configurations of docs/load-balancers.md: real balancers in front of two real Ushers.

Addresses, ports, files and intervals are replaced; every other line runs as the page has it.

Usage: balancers.py USHER
"""

import os
import re
import select
import socket
import ssl
import subprocess
import sys
import tempfile
from http.client import HTTPResponse
from pathlib import Path

from servers import (
    UPGRADE, Answer, Backend, Usher, eventually, head, make_certificate, send, tokens, unused_port,
)  # fmt: skip

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/load-balancers.md"
# The client is 127.0.0.2, so that it differs from the balancer.
CLIENT = "127.0.0.2"
ADMIN = {"Host": "localhost", "Authorization": "Bearer an-admin-token-of-the-api-test"}
SECRET = "a-secret-in-the-query"


def block(language: str) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert len(found) == 1, f"{PAGE.name} has {len(found)} blocks of {language}"
    return found[0]


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in text, f"{PAGE.name} has no {old!r} any more"
        text = text.replace(old, new)
    return text


class Node(Usher):
    """An Usher with the page's own tables."""

    def __init__(self, binary: str, backend: Backend, *pairs: tuple[str, str]):
        page = replaced(
            block("toml"), ("10.0.0.5:8080", "127.0.0.1:0"), ("10.0.0.5:9090", "127.0.0.1:0"),
            ("10.0.0.10", "127.0.0.1"), ("USHER_ADMIN_TOKEN", "API_ADMIN_TOKEN"), *pairs,
        )  # fmt: skip
        super().__init__(binary, f"""
{page}
[[issuer]]
name = "main"
issuer = "{tokens.ISSUER}"
audience = ["{tokens.AUDIENCE}"]
algorithms = ["HS256"]
secret_env = "API_JWT_SECRET"
[[upstream]]
name = "chat"
servers = ["http://127.0.0.1:{backend.port}"]
[[route]]
path = "/ws"
upstream = "chat"
auth = ["ticket", "header"]
""")  # fmt: skip

    def ask(self, verb: str, path: str, body: bytes = b"") -> dict:
        headers = {**ADMIN, "Content-Type": "application/json", "Content-Length": str(len(body))}
        answer = send(self.admin, head(verb, path, headers), body)
        assert answer.status == 200, f"{verb} {path}: {answer.status} {answer.body!r}"
        return answer.json

    def sessions(self) -> list[dict]:
        return self.ask("GET", "/sessions")["sessions"]


class Balancer:
    """A program in front of the nodes, in a folder with a certificate."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, unused_port()
        certificate, key = make_certificate(folder)
        (folder / "chat.pem").write_text(certificate.read_text() + key.read_text())
        self.tls = ssl.create_default_context(cafile=str(certificate))

    def start(self, check: list, run: list):
        # The path of Debian is not in every PATH.
        env = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin"}
        checked = subprocess.run(check, env=env, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        self.out = (self.folder / "out.log").open("w")
        self.process = subprocess.Popen(
            run, env=env, stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.out
        )
        assert eventually(lambda: self.is_up()), (self.folder / "out.log").read_text()

    def is_up(self) -> bool:
        try:
            return self.call("GET", "/nothing").status == 404
        except OSError:
            return False

    def call(self, verb: str, path: str, headers: dict | None = None) -> Answer:
        # A new connection for each call.
        raw = socket.create_connection(("127.0.0.1", self.port), 20, source_address=(CLIENT, 0))
        sock = self.tls.wrap_socket(raw, server_hostname="localhost")
        wire = {"Host": f"localhost:{self.port}", "Connection": "close", "Content-Length": "0"}
        sock.sendall(head(verb, path, {**wire, **(headers or {})}))
        answer = HTTPResponse(sock, method=verb)
        answer.begin()
        if answer.status == 101:
            # The message of the backend may be in the buffer of the head.
            hello = answer.fp.read1(64)
            return Answer(answer, hello, sock)
        body = answer.read()
        sock.close()
        return Answer(answer, body, None)

    def open(self, path="/ws") -> Answer:
        bearer = {"Authorization": f"Bearer {tokens.mint()}"}
        return self.call("GET", path, {**UPGRADE, **bearer, "Content-Length": "0"})

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.out.close()

    def log(self) -> str:
        return "".join(path.read_text() for path in self.folder.glob("*.log"))


class HaProxy(Balancer):
    # Without a delay, the health check would notice too late.
    node = ()

    def __init__(self, folder: Path, nodes: list[Node]):
        super().__init__(folder)
        pairs = [("bind :443", f"bind 127.0.0.1:{self.port}"), ("/etc/haproxy", str(folder))]
        for node, host in zip(nodes, ["10.0.0.5", "10.0.0.6"], strict=True):
            checked = f"127.0.0.1:{node.client[1]} check port {node.admin[1]}"
            pairs.append((f"{host}:8080 check port 9090", checked))
        pairs.append(("inter 2s", "inter 200ms"))
        file = folder / "haproxy.cfg"
        file.write_text(replaced(block("haproxy"), *pairs))
        self.start(["haproxy", "-c", "-f", file], ["haproxy", "-db", "-f", file])


class Nginx(Balancer):
    node = (('delay = "10s"', 'delay = "0s"'),)

    def __init__(self, folder: Path, nodes: list[Node]):
        super().__init__(folder)
        pairs = [("listen 443", f"listen 127.0.0.1:{self.port}"), ("/etc/nginx", str(folder))]
        pairs.append(("/var/log/nginx", str(folder)))
        for node, host in zip(nodes, ["10.0.0.5", "10.0.0.6"], strict=True):
            pairs.append((f"{host}:8080", f"127.0.0.1:{node.client[1]}"))
        temporary = "".join(
            f"{name}_temp_path {folder}/{name};\n"
            for name in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        )
        file = folder / "nginx.conf"
        file.write_text(
            f"daemon off; master_process off; pid {folder}/pid; error_log stderr;\n"
            f"events {{}}\nhttp {{\n{temporary}{replaced(block('nginx'), *pairs)}}}\n"
        )
        command = ["nginx", "-c", file, "-p", folder]
        self.start([*command, "-t"], command)


def holds(balancer: Balancer, nodes: list[Node]):
    """Checks what the page promises."""
    opened = [balancer.open(f"/ws?unread={SECRET}") for _ in range(4)]
    for answer in opened:
        assert answer.status == 101, (answer.status, answer.body)
        said = answer.body or answer.socket.recv(64)
        assert said == b"\x81\x05hello", said
    rows = {row["request_id"]: row for node in nodes for row in node.sessions()}
    for answer in opened:
        row = rows[answer.header("x-request-id")]
        assert row["peer"] == CLIENT, f"the client is {row['peer']}"
    assert all(node.sessions() for node in nodes), "a node has no session"

    bearer = {"Authorization": f"Bearer {tokens.mint()}"}
    url = balancer.call("POST", "/websocket/ticket", bearer).json["websocket_url"]
    assert url.startswith(f"wss://localhost:{balancer.port}/ws?ticket="), url

    # One node stops. Its sessions stay until the window, and new ones open on the other node.
    first, second = nodes
    kept = [row["request_id"] for row in first.sessions()]
    first.ask("POST", "/drain", b"{}")
    statuses = []

    def all_on_the_second() -> bool:
        before = len(second.sessions())
        answers = [balancer.open() for _ in range(4)]
        opened.extend(answer for answer in answers if answer.socket)
        statuses.extend(answer.status for answer in answers)
        return len(second.sessions()) == before + 4

    assert eventually(all_on_the_second), "new sessions still go to the node that stops"
    # 503 is that of a node in the last moment of its stop.
    assert set(statuses) <= {101, 503}, statuses
    for answer in opened[:4]:
        if answer.header("x-request-id") in kept:
            readable, _, _ = select.select([answer.socket], [], [], 0)
            # The window has begun without a delay: a close frame may be there, and no cut.
            assert not readable or answer.socket.recv(64)[:1] == b"\x88", "a session was cut"
    for answer in opened:
        answer.socket.close()

    assert eventually(lambda: balancer.log().count(" /ws") >= 8), "the balancer writes no log"
    assert SECRET not in balancer.log(), "the balancer writes queries into its log"


def main(binary: str) -> int:
    backend = Backend()
    for kind in (HaProxy, Nginx):
        started = []
        with tempfile.TemporaryDirectory() as folder:
            try:
                for _ in range(2):
                    started.append(Node(binary, backend, *kind.node))
                nodes = list(started)
                started.append(kind(Path(folder), nodes))
                holds(started[-1], nodes)
            finally:
                for program in reversed(started):
                    program.stop()
        print(f"balancers: {kind.__name__} holds what docs/{PAGE.name} says")
    backend.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(str(Path(sys.argv[1]).resolve())))
