#!/usr/bin/env python3
"""Measures the memory that Usher holds for each idle HTTP/2 connection and each WebSocket in one.

    target/e2e-tools/venv/bin/python benches/http2/memory.py PORT CERTIFICATE PATH PID [TOKEN]

PORT is that of a listener with TLS on this machine, PATH a route for WebSockets, and PID the process
of Usher. Its configuration needs room and time: `[limits] unauthenticated_per_address`,
`unauthenticated`, `connections` and `http_idle_timeout`; `[keepalive] ping` and `idle_timeout`, because
these clients answer no pings. Prints KiB of VmRSS, each as the difference between two steps: the first
thousand pays for what is allocated once.
"""

import base64
import os
import socket
import ssl
import sys
import time

import h2.config
import h2.connection
import h2.events

PORT, CERTIFICATE, PATH, PID = sys.argv[1:5]
CREDENTIAL = [("authorization", f"Bearer {sys.argv[5]}")] if len(sys.argv) > 5 else []
CONNECTIONS = 1000
STREAMS = 100
SETTLE = 15


def resident() -> int:
    """Returns VmRSS once Usher has given back what the handshakes left."""
    time.sleep(SETTLE)
    with open(f"/proc/{PID}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def connect(protocol: str) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=CERTIFICATE)
    context.set_alpn_protocols([protocol])
    stream = socket.create_connection(("127.0.0.1", int(PORT)))
    return context.wrap_socket(stream, server_hostname="localhost")


class Connection:
    def __init__(self) -> None:
        self.socket = connect("h2")
        config = h2.config.H2Configuration(client_side=True)
        self.http = h2.connection.H2Connection(config)
        self.http.initiate_connection()
        self.ask("GET", "/none", [], ends=True)

    def ask(self, method: str, path: str, headers: list, ends: bool) -> None:
        stream = self.http.get_next_available_stream_id()
        pseudo = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path)]
        if method == "CONNECT":
            pseudo.append((":protocol", "websocket"))
        self.http.send_headers(stream, pseudo + headers, end_stream=ends)
        self.socket.sendall(self.http.data_to_send())
        wanted = h2.events.StreamEnded if ends else h2.events.ResponseReceived
        while True:
            events = self.http.receive_data(self.socket.recv(65536))
            self.socket.sendall(self.http.data_to_send())
            for event in events:
                if isinstance(event, wanted) and event.stream_id == stream:
                    if not ends:
                        assert dict(event.headers)[b":status"] == b"200", event.headers
                    return

    def open(self) -> None:
        headers = [("sec-websocket-version", "13"), *CREDENTIAL]
        self.ask("CONNECT", PATH, headers, ends=False)


def open_http1() -> ssl.SSLSocket:
    stream = connect("http/1.1")
    key = base64.b64encode(os.urandom(16)).decode()
    fields = [
        f"GET {PATH} HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}",
        *(f"{name}: {value}" for name, value in CREDENTIAL),
    ]
    stream.sendall("\r\n".join([*fields, "", ""]).encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += stream.recv(4096)
    assert answer.startswith(b"HTTP/1.1 101"), answer
    return stream


def measure(name: str, make, count: int) -> list:
    held = [make() for _ in range(count)]
    before = resident()
    held += [make() for _ in range(count)]
    print(f"{name}: {(resident() - before) / count:.1f} KiB")
    return held


held = measure("session over HTTP/1.1", open_http1, CONNECTIONS)
connections = measure("idle HTTP/2 connection", Connection, CONNECTIONS)
turns = iter([one for one in connections for _ in range(STREAMS)])
measure("session in an HTTP/2 stream", lambda: next(turns).open(), CONNECTIONS)
