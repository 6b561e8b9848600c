"""The real Usher with an echo backend, and a tap in front of it that records the clients."""

import asyncio
import json
import os
import random
import socket
import tempfile
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

import tokens
from server import Ledger, Ticket, _object, answer_on_the_way
from wire import (
    BINARY, CLOSE, TEXT, Ended, Head, Socket, accept_key, answer_bytes, frame, open_socket,
    read_frame, read_head, request,
)  # fmt: skip


class Echo:
    """The backend, which echoes each message. `greeting` is a first message of its own."""

    def __init__(self, greeting: str | None = None):
        self.greeting, self.port = greeting, 0
        # The delay before it answers an upgrade, in seconds.
        self.delay = 0.0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        self._server.close()

    async def _serve(self, reader, writer) -> None:
        head = await read_head(reader)
        if head is None:
            return writer.close()
        await asyncio.sleep(self.delay)
        key = accept_key(head.headers.get("sec-websocket-key", ""))
        headers = {"upgrade": "websocket", "connection": "Upgrade", "sec-websocket-accept": key}
        if offers := head.headers.get("sec-websocket-protocol"):
            headers["sec-websocket-protocol"] = offers.split(",")[0].strip()
        writer.write(answer_bytes(101, headers, b""))
        client = Socket(reader, writer, False, head)
        if self.greeting:
            await asyncio.sleep(0.3)
            client.send(self.greeting)
        while not isinstance(text := await client.read(), Ended):
            client.send(text if isinstance(text, str) else text.decode())
        writer.close()


class Conn:
    """One WebSocket of a client, as recorded between the client and Usher."""

    def __init__(self, number: int, world: "RealUsher", method: str, writers):
        self.number, self._world, self.method, self._writers = number, world, method, writers
        self.auths, self.texts, self.end = [], [], None
        self.heard: list[str] = []

    def drop(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def next_auth(self, count: int, timeout: float = 8):
        await self._world.ledger.until(lambda: len(self.auths) >= count, timeout)
        return self.auths[count - 1] if len(self.auths) >= count else None

    async def ended(self, timeout: float = 8):
        await self._world.ledger.until(lambda: self.end, timeout)
        return self.end


def _free_port() -> int:
    """Returns a free port that stays free while its server is stopped.

    The kernel takes ports by itself from a higher range.
    """
    while True:
        port = random.randrange(10_000, 30_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class Redis:
    """A store that can stop and start again at the same address."""

    async def start(self) -> None:
        if not hasattr(self, "port"):
            self.port = _free_port()
        self._process = await asyncio.create_subprocess_exec(
            "redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
            stdout=asyncio.subprocess.DEVNULL, stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        for _ in range(500):
            try:
                return (await asyncio.open_connection("127.0.0.1", self.port))[1].close()
            except OSError:
                await asyncio.sleep(0.02)
        raise AssertionError("redis-server did not start")

    async def stop(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


class RealUsher:
    """`keys`: further keys of the configuration, such as `{"tickets.ttl": "1s"}`."""

    def __init__(self, binary: str, *, methods=("ticket", "message", "subprotocol"), ack=True,
                 close_codes="rfc", proactive=False, auth_timeout=5, greeting=None, keys=None,
                 redis=False, listener="plain = true"):  # fmt: skip
        self.ledger, self.conns, self.port = Ledger(), [], 0
        # Faults for the next requests, as in the scripted server.
        self.on_ticket: deque = deque()
        self.on_config: deque = deque()
        self.on_upgrade: deque = deque()
        # How long the first message of each new connection is held back, in seconds.
        self.holds: deque[float] = deque()
        # The tickets that Usher has issued to clients.
        self.tickets: dict[str, Ticket] = {}
        self.backend = Echo(greeting)
        self.redis = Redis() if redis else None
        self._binary, self._listener = binary, listener
        self._keys = {
            "tickets.rate_per_user": "1000/1m", "tickets.rate_per_address": "1000/1m",
            "drain.window": "1s", "upstream.upgrade_timeout": "20s",
            "upstream.reach_timeout": "20s", "route.auth": list(methods), "route.close_codes": close_codes,
            "route.first_message.ack": ack, "route.first_message.timeout": f"{auth_timeout}s",
            "route.reauth.proactive": proactive, **(keys or {}),
        }  # fmt: skip
        self._folder = tempfile.TemporaryDirectory()
        self.upstream_port = self.admin_port = 0
        self._process = None

    async def start_untapped(self) -> None:
        """Starts without the tap, for a client that connects to `upstream_port` itself."""
        await self.backend.start()
        if self.redis:
            await self.redis.start()
            self._keys["store.url"] = f"redis://127.0.0.1:{self.redis.port}/0"
        await self.start_usher()

    def _config(self) -> str:
        tables = {
            "[listener]": f'address = "127.0.0.1:0"\n{self._listener}\n',
            "[issuer]": f'name = "main"\nissuer = "{tokens.ISSUER}"\naudience = ["{tokens.AUDIENCE}"]\n'
            'algorithms = ["HS256"]\nsecret_env = "USHER_CONFORMANCE_SECRET"\n',
            "[upstream]": f'name = "echo"\nservers = ["http://127.0.0.1:{self.backend.port}"]\n',
            "admin": 'address = "127.0.0.1:0"\n',
            "[route]": 'path = "/ws"\nupstream = "echo"\n',
        }
        for name, value in self._keys.items():
            table, key = name.rsplit(".", 1)
            table = f"[{table}]" if table in ("upstream", "route") else table
            # JSON and TOML write strings, lists and booleans alike.
            tables[table] = tables.get(table, "") + f"{key} = {json.dumps(value)}\n"
        text = "".join(f"[{table}]\n{lines}" for table, lines in tables.items())
        return f'state_dir = "{self._folder.name}/state"\n{text}'

    async def start(self) -> None:
        await self.start_untapped()
        self._tap = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)
        self.port = self._tap.sockets[0].getsockname()[1]

    async def start_usher(self) -> None:
        path = Path(self._folder.name) / "usher.toml"
        path.write_text(self._config())
        self._process = await asyncio.create_subprocess_exec(
            self._binary, "run", "--log-format", "json", "-c", str(path),
            env={**os.environ, "USHER_CONFORMANCE_SECRET": tokens.SECRET},
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE, limit=1 << 20,
        )  # fmt: skip
        said = []
        while line := await asyncio.wait_for(self._process.stderr.readline(), 20):
            said.append(line.decode())
            event = _object(line)
            if event.get("event") == "ready":
                self.upstream_port = _port(event["listeners"])
                self.admin_port = _port(event["admin"])
                self._drain = asyncio.create_task(self._process.stderr.read())
                return
        raise AssertionError("usher did not start: " + "".join(said)[-800:])

    def terminate(self) -> None:
        """Sends SIGTERM, which starts a drain of one second."""
        if self._process and self._process.returncode is None:
            self._process.terminate()

    async def stop_usher(self) -> None:
        self.terminate()
        await asyncio.wait_for(self._process.wait(), 20)

    async def stop(self) -> None:
        if self._process and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        if hasattr(self, "_tap"):
            self._tap.close()
        for conn in self.conns:
            conn.drop()
        if self.redis:
            await self.redis.stop()
        self.backend.stop()
        self._folder.cleanup()

    async def redeem(self, head: Head) -> None:
        """Uses the ticket of an upgrade before the client does."""
        await open_socket(self.upstream_port, head.line[1])

    @property
    def is_mute(self) -> bool:
        return self.backend.delay > 0

    @is_mute.setter
    def is_mute(self, value: bool) -> None:
        """Delays the backend by 12 s: Usher answers a first message after the backend."""
        self.backend.delay = 12.0 if value else 0.0

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def open_conns(self) -> list[Conn]:
        return [conn for conn in self.conns if conn.end is None]

    async def conn(self, number: int, timeout: float = 10) -> Conn:
        await self.ledger.until(lambda: len(self.conns) >= number, timeout)
        if len(self.conns) < number:
            raise AssertionError(f"connection {number} did not come in {timeout:g} s")
        return self.conns[number - 1]

    async def revoke(self, user: str) -> None:
        body = json.dumps({"user": user}).encode()
        head = {"content-type": "application/json"}
        answer = await request(self.admin_port, "POST", "/revoke", head, body)
        if answer.status != 200:
            raise AssertionError(f"/revoke answered {answer.status}: {answer.body!r}")

    async def _serve(self, reader, writer) -> None:
        try:
            while head := await read_head(reader):
                name = {"/websocket/ticket": "ticket", "/websocket/config": "config"}
                name = "upgrade" if head.is_upgrade else name.get(head.path, "other")
                self.ledger.add(name if head.is_upgrade else f"{name} asked", head)
                plan = getattr(self, f"on_{name}", None)
                planned = await plan.popleft()(head) if plan else None
                if planned is not None:
                    if not await answer_on_the_way(planned, writer):
                        return
                    self.ledger.add(f"{name} answered", planned[0])
                    continue
                asked_at = time.monotonic()
                far = await asyncio.open_connection("127.0.0.1", self.upstream_port)
                far[1].write(_bytes_of(head))
                if head.is_upgrade:
                    return await self._upgrade(head, (reader, writer), far)
                answer = await read_head(far[0])
                far[1].close()
                if answer is None:
                    return
                self.ledger.add(f"{name} answered", answer.status)
                if name == "ticket" and answer.status == 201:
                    self._note_ticket(head, answer.json(), asked_at)
                writer.write(answer_bytes(answer.status, _end_to_end(answer), answer.body))
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def _note_ticket(self, head: Head, body: dict, asked_at: float) -> None:
        ticket = Ticket(tokens.judge(head.bearer), asked_at + body["ttl_seconds"], asked_at)
        self.tickets[body["ticket_id"]] = ticket

    async def _upgrade(self, head: Head, near, far) -> None:
        answer = await read_head(far[0])
        if answer is None:
            return
        if answer.status != 101:
            self.ledger.add("upgrade refused", answer.status)
            near[1].write(answer_bytes(answer.status, _end_to_end(answer), answer.body))
            return await near[1].drain()
        near[1].write(answer_bytes(101, answer.headers, b""))
        method = "ticket" if "ticket" in head.query else "message"
        method = "subprotocol" if "sec-websocket-protocol" in head.headers else method
        conn = Conn(len(self.conns) + 1, self, method, (near[1], far[1]))
        self.conns.append(conn)
        self.ledger.add("opened", conn)
        up = asyncio.create_task(self._pump(conn, near[0], far[1], True))
        down = asyncio.create_task(self._pump(conn, far[0], near[1], False))
        await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait([up, down], timeout=0.5)
        for writer in (near[1], far[1]):
            writer.transport.abort()
        conn.end = conn.end or Ended()
        self.ledger.add("closed", conn)

    async def _pump(self, conn: Conn, reader, writer, from_client: bool) -> None:
        hold = self.holds.popleft() if from_client and self.holds else 0
        try:
            while True:
                final, opcode, payload = await read_frame(reader)
                await asyncio.sleep(hold)
                hold = 0
                if opcode == CLOSE and conn.end is None:
                    code = int.from_bytes(payload[:2]) if payload else 1005
                    conn.end = Ended(code, payload[2:].decode())
                elif opcode in (TEXT, BINARY):
                    self._note(conn, payload.decode(), from_client)
                writer.write(frame(opcode, payload, masked=from_client, final=final))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass

    def _note(self, conn: Conn, text: str, from_client: bool) -> None:
        if not from_client:
            conn.heard.append(text)
            return self.ledger.add("sent", (conn.number, text))
        self.ledger.add("message", (conn.number, text))
        message = _object(text)
        if message.get("type") == "auth":
            conn.auths.append(message)
            self.ledger.add("auth", (conn.number, message))
        else:
            conn.texts.append(text)
            self.ledger.add("text", (conn.number, text))


def _bytes_of(head: Head) -> bytes:
    """Returns the request without its offer of compression, so that frames can be read."""
    skipped = {"sec-websocket-extensions", "transfer-encoding", "content-length"}
    lines = [" ".join(head.line)]
    lines += [f"{name}: {value}" for name, value in head.headers.items() if name not in skipped]
    if head.body or head.line[0] == "POST":
        lines.append(f"content-length: {len(head.body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + head.body


def _end_to_end(answer: Head) -> dict:
    hops = {"content-length", "transfer-encoding", "connection"}
    return {name: value for name, value in answer.headers.items() if name not in hops}


def _port(text: str) -> int:
    return int(text.strip("[]").rpartition(":")[2])
