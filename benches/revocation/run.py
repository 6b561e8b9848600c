#!/usr/bin/env python3
"""Measures the time from a revocation to the last close frame, on the node that received it and on another node.

Starts a redis-server and an echo behind two Ushers, and opens sessions of one user at each. The revocation goes to the
first node. The client is one loop over plain sockets, so that it costs little. All processes share the cores.

    cargo build --release --examples && cargo build --release
    python3 benches/revocation/run.py --sessions 100 1000 2500 --rounds 5
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import resource
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECRET = "0123456789012345678901234567890123456789"
# The answer to a close frame with 1008, masked with zeros.
CLOSE = bytes([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xF0])
CONFIG = """
state_dir = "{folder}/state-{number}"
[[listener]]
address = "127.0.0.1:{port}"
plain = true
[[issuer]]
name = "main"
issuer = "https://id.example.com"
audience = ["chat"]
algorithms = ["HS256"]
secret_env = "USHER_BENCH_SECRET"
[[upstream]]
name = "chat"
servers = ["http://127.0.0.1:{backend}"]
[[route]]
path = "/ws"
upstream = "chat"
auth = ["header"]
[store]
url = "redis://127.0.0.1:{redis}"
[admin]
address = "127.0.0.1:{admin}"
[limits]
connections = 60000
unauthenticated = 60000
unauthenticated_per_address = 60000
[audit]
file = "{folder}/audit-{number}.jsonl"
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def token(user):
    part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")
    now = int(time.time())
    claims = {"iss": "https://id.example.com", "aud": "chat", "sub": user, "iat": now - 5, "exp": now + 3600}
    signed = part({"alg": "HS256", "typ": "JWT"}) + b"." + part(claims)
    signature = hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()
    return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def started(stack, command, port, **more):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, **more)
    stack.callback(lambda: (process.terminate(), process.wait()))
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return process
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{command[0]} does not start")
            time.sleep(0.05)


class Node:
    def __init__(self, stack, usher, folder, number, backend, redis):
        self.port, self.admin = free_port(), free_port()
        config = Path(folder) / f"usher-{number}.toml"
        values = {"folder": folder, "number": number, "port": self.port, "backend": backend, "redis": redis, "admin": self.admin}
        config.write_text(CONFIG.format(**values))
        log = stack.enter_context(open(Path(folder) / f"log-{number}", "w"))
        environment = dict(os.environ, USHER_BENCH_SECRET=SECRET)
        command = [usher, "run", "-c", str(config), "--log-format", "json"]
        self.process = started(stack, command, self.port, env=environment, stderr=log)

    def cpu_milliseconds(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) * 1000 // os.sysconf("SC_CLK_TCK")

    def sessions(self, count, shown):
        head = (
            "GET /ws HTTP/1.1\r\nHost: chat\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nAuthorization: Bearer {shown}\r\n\r\n"
        ).encode()
        opened = []
        for begin in range(0, count, 200):
            batch = [socket.create_connection(("127.0.0.1", self.port)) for _ in range(min(200, count - begin))]
            for one in batch:
                one.sendall(head)
            for one in batch:
                answer = b""
                while b"\r\n\r\n" not in answer:
                    answer += one.recv(4096) or sys.exit(f"closed after {answer!r}")
                if b" 101 " not in answer:
                    sys.exit(answer.decode())
            opened += batch
        return opened


def one_round(nodes, count, user):
    """Returns the milliseconds to the last close frame, and the CPU milliseconds, for each node."""
    shown = token(user)
    sessions = {}
    poll = select.epoll()
    for number, node in enumerate(nodes):
        for one in node.sessions(count, shown):
            one.setblocking(False)
            poll.register(one.fileno(), select.EPOLLIN)
            sessions[one.fileno()] = (number, one)
    time.sleep(0.5)
    order = json.dumps({"user": user}).encode()
    admin = socket.create_connection(("127.0.0.1", nodes[0].admin))
    head = f"POST /revoke HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(order)}\r\n\r\n"
    before = [node.cpu_milliseconds() for node in nodes]
    began = time.perf_counter()
    admin.sendall(head.encode() + order)
    last, left = [0.0] * len(nodes), [count] * len(nodes)
    while any(left):
        events = poll.poll(10)
        now = (time.perf_counter() - began) * 1000
        if not events:
            sys.exit(f"no close frame for {left} sessions")
        for handle, _ in events:
            number, one = sessions[handle]
            if one.recv(256)[:1] == b"\x88":
                last[number], left[number] = now, left[number] - 1
                one.send(CLOSE)
            poll.unregister(handle)
    answer = admin.recv(4096)
    if b" 200 " not in answer.split(b"\r\n", 1)[0]:
        sys.exit(answer.decode())
    time.sleep(0.7)
    spent = [node.cpu_milliseconds() - start for node, start in zip(nodes, before)]
    for _, one in sessions.values():
        one.close()
    return last, spent


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sessions", type=int, nargs="+", default=[1, 100, 1000], help="the number of sessions at each node")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--usher", default=str(ROOT / "target/release/usher"))
    arguments.add_argument("--backend", default=str(ROOT / "target/release/examples/peers-backend"))
    chosen = arguments.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        redis, backend = free_port(), free_port()
        started(stack, ["redis-server", "--port", str(redis), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"], redis)
        started(stack, [chosen.backend, f"127.0.0.1:{backend}"], backend)
        nodes = [Node(stack, chosen.usher, folder, number, backend, redis) for number in range(2)]
        print("| sessions at each node | last close frame, asked node | other node | CPU of a node |\n|--:|--:|--:|--:|")
        for count in chosen.sessions:
            rounds = [one_round(nodes, count, f"user {count} {number}") for number in range(chosen.rounds)]
            cells = []
            for number in range(2):
                times = [last[number] for last, _ in rounds]
                cells.append(f"{statistics.median(times):.0f} ms ({max(times):.0f})" if count > 50 else f"{statistics.median(times):.1f} ms ({max(times):.1f})")
            spent = statistics.median(value for _, both in rounds for value in both)
            print(f"| {count:,} | {cells[0]} | {cells[1]} | {spent:.0f} ms |", flush=True)


if __name__ == "__main__":
    main()
