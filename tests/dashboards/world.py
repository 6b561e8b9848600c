"""Two nodes of the real Usher with all that they ask: Redis, an issuer, a verifier and backends.

Everything listens on loopback. Each fault of a test or a runbook is a method or a public part.
"""

import asyncio
import base64
import contextlib
import datetime
import hashlib
import hmac
import http
import json
import os
import secrets
import signal
import socket
import ssl
import time
import urllib.request
from pathlib import Path

import websockets
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

HERE = "127.0.0.1"
ISSUER, REMOTE, AUDIENCE = "https://id.example.com", "https://remote.example.com", "chat"
PAGE = "https://app.example.com"
# The trace that clients with a bearer token name.
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
DROP = asyncio.subprocess.DEVNULL


def free_port() -> int:
    """Returns a free port below the range from which the kernel takes ports by itself."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with contextlib.suppress(OSError), socket.create_server((HERE, port)):
            return port


async def eventually(check, seconds: float, name: str):
    """Waits until `check` returns something true, and returns it."""
    end = time.monotonic() + seconds
    while not (found := await check()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s: {name}")
        await asyncio.sleep(0.1)
    return found


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Authority:
    """A certificate authority, which signs for the listener and for clients."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
        ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=30)
        self._write("ca", self._build(self.name, self.key, ends, authority=True), self.key)

    def _build(self, subject, key, ends, authority=False, usage=None):
        begins = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=30)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject).issuer_name(self.name).public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins).not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )  # fmt: skip
        if usage:
            names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), False)
            builder = builder.add_extension(names, False)
        return builder.sign(self.key, hashes.SHA256())

    def _write(self, name: str, certificate, key) -> None:
        pem = serialization.Encoding.PEM
        (self.folder / f"{name}.pem").write_bytes(certificate.public_bytes(pem))
        form = serialization.PrivateFormat.PKCS8
        text = key.private_bytes(pem, form, serialization.NoEncryption())
        (self.folder / f"{name}.key").write_bytes(text)

    def sign(self, name: str, *, client=False, days: float = 20) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._build(subject, key, ends, usage=usage)
        self._write(name, certificate, key)
        if not client:
            # A file with an OCSP answer has the issuer behind the certificate.
            with (self.folder / f"{name}.pem").open("ab") as file:
                file.write((self.folder / "ca.pem").read_bytes())
            self.staple(name)

    def staple(self, name: str, days: float = 20) -> None:
        """Writes the OCSP answer for a certificate."""
        read = x509.load_pem_x509_certificates((self.folder / f"{name}.pem").read_bytes())
        now = datetime.datetime.now(datetime.UTC)
        ends = now + datetime.timedelta(days=days)
        begins = now - datetime.timedelta(days=1)
        good = ocsp.OCSPCertStatus.GOOD
        answer = (
            ocsp.OCSPResponseBuilder()
            .add_response(*read, hashes.SHA1(), good, begins, ends, None, None)
            .responder_id(ocsp.OCSPResponderEncoding.NAME, read[1])
            .sign(self.key, hashes.SHA256())
        )
        der = answer.public_bytes(serialization.Encoding.DER)
        (self.folder / f"{name}.ocsp").write_bytes(der)


class Http:
    """A small HTTP server. `answer` takes the path and the body, and returns status and JSON."""

    def __init__(self, answer):
        self.answer, self.port = answer, free_port()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, HERE, self.port)

    def stop(self) -> None:
        """Stops listening: the next connection is refused."""
        self._server.close()

    async def _serve(self, reader, writer) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            size = head.partition("content-length:")[2].partition("\r\n")[0].strip()
            body = await reader.readexactly(int(size or 0))
            status, claims = self.answer(head.split()[1], body)
            text = json.dumps(claims).encode()
            writer.write(
                f"HTTP/1.1 {status} x\r\ncontent-type: application/json\r\nconnection: close\r\n"
                f"content-length: {len(text)}\r\n\r\n".encode()
                + text
            )
            await writer.drain()
        writer.close()


class Backend:
    """Echoes the messages of WebSocket clients, and answers plain requests with 200."""

    def __init__(self):
        self.port = free_port()

    async def start(self) -> None:
        self._server = await serve(self._echo, HERE, self.port, process_request=self._plain)

    async def stop(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _echo(self, client) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            async for message in client:
                await client.send(message)

    def _plain(self, connection, request):
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return connection.respond(http.HTTPStatus.OK, "fine\n")


class Process:
    """A child process in a folder, ended by its id alone."""

    async def run(self, *command, env=None, stderr=DROP) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *map(str, command), stdin=DROP, stdout=DROP, stderr=stderr,
            env={**os.environ, **(env or {})},
        )  # fmt: skip

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.signal(signal.SIGCONT)
            self.process.kill()
        await self.process.wait()


class Redis(Process):
    def __init__(self):
        self.port = free_port()

    async def start(self) -> None:
        await self.run("redis-server", "--port", self.port, "--bind", HERE, "--save", "")


class Node(Process):
    """One Usher."""

    def __init__(self, binary: Path, folder: Path, name: str, token: str | None):
        self.binary, self.folder, self.name = binary, folder, name
        # The admin token.
        self.token = token
        self.port, self.tls, self.proxied, self.admin = (free_port() for _ in range(4))
        self.config, self.log = folder / f"{name}.toml", folder / f"{name}.log"

    async def start(self, text: str, secrets_: dict, allow_bypass: bool = True) -> None:
        self.config.write_text(text)
        # The option of `usher run` and `usher check`.
        self.bypass = "--allow-bypass" if allow_bypass else ""
        options = [self.bypass] if allow_bypass else []
        with self.log.open("ab") as log:
            await self.run(
                self.binary, "run", "-c", self.config, *options, "--log-format", "json",
                env=secrets_, stderr=log,
            )  # fmt: skip
        await eventually(self.is_ready, 30, f"{self.name} is ready: {self.log}")

    async def is_ready(self) -> bool:
        if self.process.returncode is not None:
            raise AssertionError(self.log.read_text()[-2000:])
        with contextlib.suppress(OSError):
            return "usher_ready 1" in await asyncio.to_thread(self.metrics)
        return False

    def metrics(self) -> str:
        return self._ask("/metrics", None, self.token)

    def order(self, path: str, **body) -> None:
        with contextlib.suppress(urllib.error.HTTPError):
            self._ask(path, json.dumps(body).encode(), self.token)

    def knock(self, token: str) -> None:
        """Asks for the status with this admin token, and logs in to the admin page with it."""
        with contextlib.suppress(urllib.error.HTTPError):
            self._ask("/login", json.dumps({"token": token}).encode(), None)
        with contextlib.suppress(urllib.error.HTTPError):
            self._ask("/status", None, token)

    def _ask(self, path: str, body: bytes | None, token: str | None) -> str:
        head = {"content-type": "application/json"}
        if token:
            head["authorization"] = f"Bearer {token}"
        request = urllib.request.Request(f"http://{HERE}:{self.admin}{path}", body, head)
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()


class World:
    """`async with World(...)` starts everything, and stops it in the end."""

    def __init__(
        self, binary: Path, folder: Path, *, keys: dict | None = None, token: str | None = None, **limits
    ):
        """`keys` are those of `drain` and `audit`, `limits` those of `limits`.

        `token` is the admin token. With one, the second node sends traces, too.
        """
        self.folder, self.limits, self.admin_token = folder, limits, token
        self.keys = {"window": "2s", **(keys or {})}
        self.secret = secrets.token_hex(32)
        self.bypass = secrets.token_hex(32)
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.authority = Authority(folder)
        self.authority.sign("localhost")
        self.authority.sign("ada", client=True)
        self.authority.sign("late", client=True, days=-1)
        self.redis, self.backend = Redis(), Backend()
        self.issuer, self.verifier = Http(self._keys), Http(self._verify)
        self.receiver = Http(lambda *_: (200, {}))
        self.nodes = [Node(binary, folder, name, token) for name in ("one", "two")]
        self.away_port = free_port()
        self.verifier_status = 0

    async def __aenter__(self):
        await asyncio.gather(
            self.redis.start(), self.backend.start(), self.issuer.start(), self.verifier.start(),
            self.receiver.start(),
        )  # fmt: skip
        try:
            await asyncio.gather(
                *(node.start(self.text(node), self.secrets()) for node in self.nodes)
            )
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_) -> None:
        for node in self.nodes:
            if hasattr(node, "process"):
                await node.stop()
        await self.redis.stop()
        self.issuer.stop()
        self.verifier.stop()
        self.receiver.stop()
        await self.backend.stop()

    def secrets(self) -> dict:
        token = {"ADMIN_TOKEN": self.admin_token} if self.admin_token else {}
        return {"ISSUER_SECRET": self.secret, "BYPASS_SECRET": self.bypass, **token}

    def audit_file(self, node: Node) -> str:
        return self.keys.get("file", f"{node.folder}/audit-{node.name}.jsonl")

    def text(self, node: Node) -> str:
        limits = {"head_timeout": "1s", "sessions_per_user": 200, **self.limits}
        token_line = 'token_env = "ADMIN_TOKEN"' if self.admin_token else ""
        traces = f'[traces]\nurl = "http://{HERE}:{self.receiver.port}/v1/traces"\ndelay = "1s"'
        if not self.admin_token or node is self.nodes[0]:
            traces = ""
        limit_lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in limits.items())
        return f"""
state_dir = "{node.folder}/state-{node.name}"
node = "{node.name}"
threads = 1
[[listener]]
address = "{HERE}:{node.port}"
plain = true
[[listener]]
address = "{HERE}:{node.tls}"
certificates = [{{ cert = "localhost.pem", key = "localhost.key", ocsp_file = "localhost.ocsp" }}]
client_ca = "ca.pem"
[[listener]]
address = "{HERE}:{node.proxied}"
plain = true
proxy_protocol = "required"
proxy_peers = ["127.0.0.0/8"]
[[issuer]]
name = "main"
issuer = "{ISSUER}"
audience = ["{AUDIENCE}"]
algorithms = ["HS256"]
secret_env = "ISSUER_SECRET"
[[issuer]]
name = "remote"
issuer = "{REMOTE}"
audience = ["{AUDIENCE}"]
algorithms = ["ES256"]
jwks_url = "http://{HERE}:{self.issuer.port}/jwks.json"
jwks_refresh = "2s"
[[verifier]]
name = "login"
kind = "http"
url = "http://{HERE}:{self.verifier.port}/verify"
revalidate = "1s"
negative_cache_ttl = "1s"
cache_ttl = "2s"
[[upstream]]
name = "chat"
servers = ["http://{HERE}:{self.backend.port}", "http://{HERE}:{self.away_port}"]
health = {{ path = "/healthz", every = "1s" }}
[[upstream]]
name = "away"
servers = ["http://{HERE}:{self.away_port}"]
[[route]]
path = "/ws"
upstream = "chat"
auth = ["ticket", "header", "subprotocol", "query", "cookie", "message"]
origins = ["{PAGE}"]
require = ["chat:read"]
[[route]]
path = "/renew"
upstream = "chat"
auth = ["message"]
origins = ["{PAGE}"]
reauth = {{ max_age = "2s", before_expiry = "1s", grace = "1s" }}
first_message = {{ timeout = "1s" }}
[[route]]
path = "/opaque"
upstream = "chat"
auth = ["session", "header"]
verifier = "login"
origins = ["{PAGE}"]
[[route]]
path = "/devices"
upstream = "chat"
auth = ["mtls"]
[[route]]
path = "/test"
upstream = "chat"
auth = ["bypass"]
[[route]]
path = "/away"
upstream = "away"
auth = ["header"]
[[route]]
path = "/move"
upstream = "chat"
auth = ["ticket", "header"]
origins = ["{PAGE}"]
legacy = ["header"]
deprecated = "2026-01-01"
shadow = ["query"]
rollout = {{ ticket = 50 }}
[[route]]
path = "/plain/*"
upstream = "chat"
auth = ["header"]
[tickets]
rate_per_user = "10/1m"
rate_per_address = "1000/1m"
ttl = "2s"
[store]
url = "redis://{HERE}:{self.redis.port}"
[context]
algorithm = "ES256"
[bypass]
secret_env = "BYPASS_SECRET"
[limits]
{limit_lines}
[keepalive]
ping = "1s"
[drain]
window = "{self.keys["window"]}"
[admin]
address = "{HERE}:{node.admin}"
{token_line}
{traces}
[log]
refusal_lines = 2
[audit]
file = "{self.audit_file(node)}"
"""

    def token(self, user="ada", *, remote=False, kid="k1", seconds=600, **more) -> str:
        now = int(time.time())
        claims = {
            "iss": REMOTE if remote else ISSUER, "aud": AUDIENCE, "sub": user, "iat": now,
            "exp": now + seconds, "jti": secrets.token_hex(8), "permissions": ["chat:read"],
        } | more  # fmt: skip
        head = {"alg": "ES256", "kid": kid} if remote else {"alg": "HS256"}
        text = ".".join(_text(json.dumps(part).encode()) for part in (head, claims))
        if not remote:
            sum_ = hmac.new(self.secret.encode(), text.encode(), hashlib.sha256).digest()
            return f"{text}.{_text(sum_)}"
        r, s = decode_dss_signature(self.key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{_text(r.to_bytes(32) + s.to_bytes(32))}"

    def _keys(self, *_):
        point = self.key.public_key().public_numbers()
        x, y = (_text(number.to_bytes(32)) for number in (point.x, point.y))
        key = {"kty": "EC", "crv": "P-256", "kid": "k1", "alg": "ES256", "x": x, "y": y}
        return 200, {"keys": [key]}

    def _verify(self, _, body):
        if self.verifier_status:
            return self.verifier_status, {}
        if json.loads(body)["credential"].startswith("good"):
            return 200, {"sub": "ada", "permissions": ["chat:read"], "exp": int(time.time()) + 600}
        return 401, {}

    def url(self, path: str, node=0, tls=False) -> str:
        one = self.nodes[node]
        return f"wss://localhost:{one.tls}{path}" if tls else f"ws://{HERE}:{one.port}{path}"

    async def ticket(self, token: str, node=0) -> str:
        def ask():
            url = f"http://{HERE}:{self.nodes[node].port}/websocket/ticket"
            head = {
                "authorization": f"Bearer {token}", "content-type": "application/json",
                "traceparent": PARENT,
            }  # fmt: skip
            request = urllib.request.Request(url, b"{}", head)
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.loads(answer.read())["ticket_id"]

        try:
            return await asyncio.to_thread(ask)
        except OSError:
            return "none"

    def tls(self, client: str | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        if client:
            context.load_cert_chain(self.folder / f"{client}.pem", self.folder / f"{client}.key")
        return context

    async def visit(self, path: str, node=0, *, first=None, messages=3, stay=0.0, **options) -> str:
        """Opens a WebSocket, echoes some messages, and returns how it went."""
        tls = "ssl" in options
        options = {"origin": PAGE, "compression": None, "open_timeout": 10, **options}
        try:
            async with connect(self.url(path, node, tls), **options) as client:
                if first is not None:
                    await client.send(first)
                    await asyncio.wait_for(client.recv(), 10)
                for number in range(messages):
                    await client.send(f"message {number}")
                    await asyncio.wait_for(client.recv(), 10)
                if stay:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(client.wait_closed(), stay)
                return "good"
        except websockets.InvalidStatus as error:
            return str(error.response.status_code)
        except websockets.ConnectionClosed as error:
            return f"close {error.rcvd.code if error.rcvd else None}"
        except (OSError, TimeoutError, websockets.WebSocketException) as error:
            return type(error).__name__
