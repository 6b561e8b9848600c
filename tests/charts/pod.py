"""Runs the container of a rendered Deployment as a kubelet would: mounts, environment, arguments and
probes, with paths in a folder of the test."""

import base64
import contextlib
import hashlib
import http.server
import os
import pathlib
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request

import chart
import pytest

USHER = os.environ.get("USHER_BIN", str(chart.ROOT / "target/debug/usher"))
PATIENCE = 60


def eventually(check, what):
    """Waits until `check` returns something true, and returns it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if found := check():
                return found
        time.sleep(0.1)
    pytest.fail(f"not within {PATIENCE} s: {what}")


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Backend(http.server.BaseHTTPRequestHandler):
    """Answers each upgrade with a 101 and holds the connection."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        digest = hashlib.sha1(
            self.headers["Sec-WebSocket-Key"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        )
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(digest.digest()).decode())
        # Before the client can see the answer.
        self.server.heads.append(self.headers)
        self.end_headers()
        while self.connection.recv(1024):
            pass

    def log_message(self, *_):
        pass


class Pod:
    """One container of a rendering, as a process."""

    def __init__(self, rendered, secrets, folder):
        self.rendered, self.secrets, self.folder = rendered, secrets, folder
        self.container = rendered.container
        volumes = {one["name"]: one for one in rendered.pod["volumes"]}
        for mount in self.container["volumeMounts"]:
            self.mount(volumes[mount["name"]], self.inside(mount["mountPath"]))
        self.environment = {}
        for one in self.container["env"]:
            source = one["valueFrom"]["secretKeyRef"]
            self.environment[one["name"]] = secrets[source["name"]][source["key"]].decode()
        self.process = subprocess.Popen(
            [USHER, *map(self.inside, self.container["args"])],
            env=self.environment,
            stdout=(folder / "log").open("wb"),
            stderr=subprocess.STDOUT,
            cwd=folder,
        )

    def inside(self, text):
        """Returns the text with the paths of the container in the folder of the test."""
        for path in ("/etc/usher", "/var/lib/usher"):
            text = text.replace(path, f"{self.folder}{path}")
        return text

    def mount(self, volume, path):
        os.makedirs(path)
        if "configMap" in volume:
            self.publish(path, {"usher.toml": self.rendered.config_text.encode()}, 0o644)
        elif "secret" in volume:
            data = self.secrets[volume["secret"]["secretName"]]
            self.publish(path, data, volume["secret"]["defaultMode"])

    def publish(self, path, data, mode):
        """Writes files as a kubelet does: a folder for each version, and a link that moves."""
        version = pathlib.Path(path) / f"..version-{time.monotonic_ns()}"
        version.mkdir()
        for key, value in data.items():
            if key == "usher.toml":
                value = self.inside(value.decode()).encode()
            (version / key).write_bytes(value)
            (version / key).chmod(mode)
            if not (pathlib.Path(path) / key).is_symlink():
                os.symlink(f"..data/{key}", pathlib.Path(path) / key)
        os.symlink(version.name, f"{path}/..data_tmp")
        os.rename(f"{path}/..data_tmp", f"{path}/..data")

    def port(self, name):
        return next(one["containerPort"] for one in self.container["ports"] if one["name"] == name)

    def get(self, path, headers=None):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port('admin')}{path}", headers=headers or {}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refusal:
            return refusal.code, refusal.read().decode()

    def probe(self, name):
        """Returns the status that the probe of that name gets."""
        get = self.container[name]["httpGet"]
        assert get["port"] == "admin"
        return self.get(get["path"])[0]

    @property
    def has_tls(self):
        return self.rendered.one("Service")["spec"]["ports"][0]["name"] == "https"

    def upgrade(self, path):
        """Returns the socket after an upgrade, and the status line."""
        authority = self.folder / "cert.pem" if self.has_tls else None
        return upgrade(self.port("listener"), path, "localhost", authority)


UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def upgrade(port, path, host, authority=None):
    """Asks for an upgrade on loopback. Returns the socket and the status line."""
    return request(port, path, host, authority, UPGRADE)


def request(port, path, host, authority=None, fields=""):
    """Sends a GET on loopback. Returns the socket after the head of the answer, and its first line."""
    raw = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    if authority:
        context = ssl.create_default_context(cafile=authority)
        raw = context.wrap_socket(raw, server_hostname=host)
    raw.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        byte = raw.recv(1)
        if not byte:
            raise ConnectionError("closed before an answer")
        head += byte
    return raw, head.split(b"\r\n")[0].decode()


def make_secrets(folder):
    """Returns the contents of the Secrets that the situations name."""

    def run(*command):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)

    run(USHER, "cert", "localhost", "ws.example.com", "usher.example.com")
    for name in ("next.pem", "current.pem"):
        run("openssl", "genpkey", "-algorithm", "ed25519", "-out", name)
    read = {path.name: path.read_bytes() for path in folder.glob("*.pem")}
    return {
        "usher": {"jwt-secret": b"0123456789abcdef" * 4, "admin-token": b"fedcba9876543210"},
        "usher-tls": {"tls.crt": read["cert.pem"], "tls.key": read["key.pem"]},
        "usher-context": {name: read[name] for name in ("next.pem", "current.pem")},
    }
