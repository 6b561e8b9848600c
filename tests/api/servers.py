"""Real programs for the test: Usher, its store, and a backend that answers by the path."""

import base64
import contextlib
import hashlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "clients/conformance"))
import tokens

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = {
    "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
}  # fmt: skip
PATIENCE = 20


class Answer:
    def __init__(self, raw: http.client.HTTPResponse, body: bytes, sock: socket.socket | None):
        self.status, self.headers, self.body, self.socket = raw.status, raw.getheaders(), body, sock
        try:
            self.json = json.loads(body)
        except ValueError:
            self.json = None

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


def send(address: tuple[str, int], head: bytes, body: bytes = b"", verb: str = "GET") -> Answer:
    """Sends bytes and reads one answer. After a 101 the socket stays open."""
    sock = socket.create_connection(address, PATIENCE)
    try:
        sock.sendall(head + body)
        raw = http.client.HTTPResponse(sock, method=verb)
        raw.begin()
        if raw.status == 101:
            return Answer(raw, b"", sock)
        answer = Answer(raw, raw.read(), None)
    except BaseException:
        sock.close()
        raise
    sock.close()
    return answer


def head(verb: str, target: str, headers: dict) -> bytes:
    lines = [f"{verb} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


class Backend:
    """Accepts an upgrade and says hello, unless the path says otherwise: /declines, /broken or /silent."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[sock], daemon=True).start()

    def _serve(self, sock):
        with contextlib.suppress(OSError), sock, sock.makefile("rb") as lines:
            path = lines.readline().split()[1].decode()
            fields = {}
            while line := lines.readline().strip():
                name, _, value = line.decode("latin-1").partition(":")
                fields[name.lower()] = value.strip()
            digest = hashlib.sha1(
                (fields["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()
            ).digest()
            if path == "/declines":
                sock.sendall(b"HTTP/1.1 418 I'm a teapot\r\nContent-Length: 5\r\n\r\nshort")
            elif path == "/broken":
                sock.sendall(b"this is not HTTP\r\n\r\n")
            elif path != "/silent":
                accept = base64.b64encode(digest).decode()
                sock.sendall(
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                    b"Connection: Upgrade\r\nSec-WebSocket-Accept: " + accept.encode() + b"\r\n\r\n\x81\x05hello"
                )
            # Until the other side leaves.
            while lines.read1(4096):
                pass

    def stop(self):
        self._listener.close()


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Returns a new certificate of localhost, and its key."""
    certificate, key = folder / "chat.crt", folder / "chat.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


def unused_port() -> int:
    """Returns a port of loopback that refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Redis:
    def __init__(self):
        for _ in range(5):
            self.port = unused_port()
            self._process = subprocess.Popen(
                ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            if eventually(lambda: self._is_up() or self._process.poll() is not None) and self._is_up():
                return
        raise AssertionError("redis-server did not start")

    def _is_up(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return self._process.poll() is None
        return False

    def stop(self):
        self._process.kill()
        self._process.wait()


class Usher:
    def __init__(self, binary: str, config: str, *options: str):
        self._folder = tempfile.TemporaryDirectory()
        self.file = Path(self._folder.name) / "usher.toml"
        self.file.write_text(f'state_dir = "{self._folder.name}/state"\n{config}')
        self._process = subprocess.Popen(
            [binary, "run", "--log-format", "json", "-c", self.file, *options],
            env={
                **os.environ, "API_JWT_SECRET": tokens.SECRET,
                "API_ADMIN_TOKEN": "an-admin-token-of-the-api-test", "API_BYPASS": "b" * 32,
            },
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.log = []
        for line in self._process.stderr:
            self.log.append(line.decode())
            event = json.loads(line) if line.startswith(b"{") else {}
            if event.get("event") == "ready":
                self.client, self.admin = _address(event["listeners"]), _address(event["admin"])
                threading.Thread(target=self._drain, daemon=True).start()
                return
        self._process.wait()
        raise AssertionError("usher did not start: " + "".join(self.log))

    def _drain(self):
        for line in self._process.stderr:
            self.log.append(line.decode())

    def stop(self):
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.strip("[]").partition(",")[0].rpartition(":")
    return host, int(port)


def eventually(holds) -> bool:
    """Returns true as soon as the condition holds, and false if it does not within `PATIENCE`."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.02)
    return False
