"""A server with the ticket endpoint, `/websocket/config` and WebSocket of Usher.

A rule can make it misbehave, one exchange at a time. It keeps a ledger of its events. Its
backend echoes each message.
"""

import asyncio
import json
import secrets
import time
from collections import deque
from dataclasses import dataclass, field

import answers
import tokens
from wire import Ended, Head, Socket, accept_key, answer_bytes, read_head

CUT, HANG = "cut", "hang"


class Ledger:
    """All events in order, and a way to wait for more."""

    def __init__(self):
        self.items: list[tuple[float, str, object]] = []
        self._news = asyncio.Event()

    def add(self, name: str, detail=None) -> None:
        self.items.append((time.monotonic(), name, detail))
        news, self._news = self._news, asyncio.Event()
        news.set()

    def all(self, name: str) -> list:
        return [detail for _, kind, detail in self.items if kind == name]

    def times(self, name: str) -> list[float]:
        return [at for at, kind, _ in self.items if kind == name]

    async def until(self, holds, timeout: float) -> bool:
        """Waits until `holds()` is true or the time is over. Returns the last result."""
        try:
            async with asyncio.timeout(timeout):
                while not holds():
                    news = self._news
                    await news.wait()
        except TimeoutError:
            pass
        return bool(holds())

    async def quiet(self, name: str, seconds: float) -> bool:
        """Returns true if no event of this name is added for so many seconds."""
        before = len(self.all(name))
        return not await self.until(lambda: len(self.all(name)) > before, seconds)


@dataclass
class Ticket:
    claims: dict
    until: float
    asked_at: float
    is_used: bool = False


@dataclass(eq=False)
class Conn:
    """One WebSocket of a client."""

    number: int
    server: "ScriptedUsher"
    socket: Socket
    method: str
    claims: dict | None
    auths: list[dict] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    end: Ended | None = None
    asked: bool = False
    tries: int = 0
    grace: asyncio.Task | None = None

    def send(self, text: str) -> None:
        self.server.ledger.add("sent", (self.number, text))
        self.socket.send(text)

    def accept(self, claims: dict, id: str | None = None) -> None:
        self.claims = claims
        payload = {"user": claims["sub"], "session_id": f"{self.number:032x}"}
        self.send(answers.envelope("auth_ok", {**payload, "expires_at": claims["exp"] * 1000}, id))

    def error(self, code: str, id: str | None = None, **changes) -> None:
        self.send(answers.error_frame(code, id, **changes))

    def refuse(self, code: str, id: str | None = None, *, frame: bool = True, **changes) -> None:
        """Sends the error frame and the close frame of a refusal."""
        if frame:
            self.error(code, id, **changes)
        reason = answers.REFUSALS[code][2]
        self.close(answers.close_code(code, self.server.close_codes), reason)

    def close(self, code: int, reason: str = "") -> None:
        self.socket.close(code, reason)

    def drop(self) -> None:
        self.socket.drop()

    def ask(self, grace: float = 30) -> None:
        """Asks for a new credential. Without one, the session ends after `grace`."""
        self.asked, self.tries = True, 3
        payload = {"reason": "Token expiring soon", "grace_seconds": int(grace)}
        payload["expires_at"] = self.claims["exp"] * 1000
        self.send(answers.envelope("auth_required", payload))
        self.grace = asyncio.create_task(self._end_after(grace))

    async def _end_after(self, grace: float) -> None:
        await asyncio.sleep(grace)
        if self.asked:
            self.refuse("REAUTHENTICATION_TIMEOUT")

    async def next_auth(self, count: int, timeout: float = 6) -> dict | None:
        """Returns the auth message with this number, from 1 on."""
        await self.server.ledger.until(lambda: len(self.auths) >= count, timeout)
        return self.auths[count - 1] if len(self.auths) >= count else None

    async def ended(self, timeout: float = 6) -> Ended | None:
        await self.server.ledger.until(lambda: self.end, timeout)
        return self.end


class ScriptedUsher:
    def __init__(self, *, methods=("ticket", "message", "subprotocol"), ack=True, close_codes="rfc",
                 proactive=False, ttl=30.0, auth_timeout=5.0, subprotocols=()):  # fmt: skip
        self.methods, self.ack, self.close_codes = list(methods), ack, close_codes
        self.proactive, self.ttl, self.auth_timeout = proactive, ttl, auth_timeout
        self.subprotocols = subprotocols
        self.ledger = Ledger()
        self.tickets: dict[str, Ticket] = {}
        self.conns: list[Conn] = []
        # Answers to one request each: (status, headers, body), CUT, HANG, a function of the head.
        self.on_ticket: deque = deque()
        self.on_config: deque = deque()
        self.on_upgrade: deque = deque()
        # Reactions to one auth message each: a function of the connection and the message.
        self.on_auth: deque = deque()
        # If true, a connection without authentication stays open and gets no answer.
        self.is_mute = False
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set = set()
        self._tasks: set = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, limit=1 << 20, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self, code: int | None = None, reason: str = "") -> None:
        """Ends the listener and all connections, with a close frame or without. Forgets tickets."""
        self._server.close()
        for conn in self.open_conns:
            if code:
                conn.close(code, reason)
        if code:
            await asyncio.sleep(0.05)
        for writer in list(self._writers):
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        self.tickets.clear()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def open_conns(self) -> list[Conn]:
        return [conn for conn in self.conns if conn.end is None]

    async def conn(self, number: int, timeout: float = 8) -> Conn:
        """Returns the connection with this number, from 1 on."""
        await self.ledger.until(lambda: len(self.conns) >= number, timeout)
        if len(self.conns) < number:
            raise AssertionError(f"connection {number} did not come in {timeout:g} s")
        return self.conns[number - 1]

    async def _serve(self, reader, writer) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            while head := await read_head(reader):
                if head.is_upgrade:
                    return await self._upgrade(head, reader, writer)
                if not await self._plain(head, writer):
                    return
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()

    async def _planned(self, plan: deque, head: Head):
        item = plan.popleft() if plan else None
        return await item(head) if callable(item) else item

    async def _plain(self, head: Head, writer) -> bool:
        name = {"/websocket/ticket": "ticket", "/websocket/config": "config"}.get(
            head.path, "other"
        )
        self.ledger.add(f"{name} asked", head)
        plans = {"ticket": self.on_ticket, "config": self.on_config}
        answer = await self._planned(plans.get(name, deque()), head)
        if answer is None:
            answer = getattr(self, f"_answer_{name}")(head)
        if answer not in (CUT, HANG):
            self.ledger.add(f"{name} answered", answer[0])
        return await answer_on_the_way(answer, writer)

    def _answer_other(self, head: Head):
        return 404, {"content-type": "application/json"}, b"{}"

    def _offer(self) -> dict:
        return {"route": "/ws", "method": self.methods[0], "methods": self.methods}

    def _answer_config(self, head: Head):
        body = {
            **self._offer(), "legacy": False, "legacy_methods": [], "enforced": False,
            "deprecated": None, "sunset": None, "ticket_path": "/websocket/ticket",
            "first_message": "json",
        }  # fmt: skip
        return self.json(200, body)

    def json(self, status: int, body: dict):
        headers = {"content-type": "application/json", "cache-control": "no-store"}
        return status, headers, json.dumps(body).encode()

    def _answer_ticket(self, head: Head):
        if "ticket" not in self.methods:
            return answers.problem("TICKETS_OFF", False, **self._offer())
        if head.body and not isinstance(head.json(), dict):
            return answers.problem("INVALID_REQUEST", False)
        if not head.bearer:
            return answers.problem("MISSING_CREDENTIAL", False)
        claims = tokens.judge(head.bearer)
        if claims is None:
            return answers.problem("INVALID_TOKEN", False)
        return self.issue(claims)

    def issue(self, claims: dict, **changes):
        id, now = secrets.token_urlsafe(32), time.time()
        self.tickets[id] = Ticket(claims, time.monotonic() + self.ttl, time.monotonic())
        body = {
            "ticket_id": id, "created_at": int(now * 1000),
            "expires_at": int((now + self.ttl) * 1000), "ttl_seconds": int(self.ttl),
            "single_use": True, "websocket_url": f"{self.url}?ticket={id}",
        }  # fmt: skip
        return self.json(201, body | changes)

    async def _upgrade(self, head: Head, reader, writer) -> None:
        self.ledger.add("upgrade", head)
        answer = await self._planned(self.on_upgrade, head)
        if answer in (CUT, HANG):
            await answer_on_the_way(answer, writer)
            return
        method, claims = "message", None
        offers = head.headers.get("sec-websocket-protocol", "")
        offers = [name.strip() for name in offers.split(",") if name.strip()]
        if answer is None and "ticket" in head.query:
            method = "ticket"
            claims, answer = self._redeem(head.query["ticket"])
        elif answer is None and "bearer" in offers and "subprotocol" in self.methods:
            method = "subprotocol"
            claims = tokens.judge(offers[offers.index("bearer") + 1])
            answer = None if claims else answers.problem("INVALID_TOKEN", True)
        elif answer is None and "message" not in self.methods:
            answer = answers.problem("MISSING_CREDENTIAL", True)
        if answer is not None:
            status, headers, body = answer
            writer.write(answer_bytes(status, {**headers, "connection": "close"}, body))
            await writer.drain()
            return
        headers = {"upgrade": "websocket", "connection": "Upgrade"}
        headers["sec-websocket-accept"] = accept_key(head.headers["sec-websocket-key"])
        known = [*self.subprotocols, *(["bearer"] if method == "subprotocol" else [])]
        if chosen := [name for name in offers if name in known]:
            headers["sec-websocket-protocol"] = chosen[0]
        writer.write(answer_bytes(101, headers, b""))
        await self._talk(Socket(reader, writer, False, head), method, claims)

    def _redeem(self, id: str):
        ticket = self.tickets.get(id)
        if ticket is None or ticket.is_used or ticket.until < time.monotonic():
            was = "unknown" if ticket is None else "used" if ticket.is_used else "expired"
            self.ledger.add("ticket refused", was)
            return None, answers.problem("INVALID_TICKET", True)
        ticket.is_used = True
        self.ledger.add("ticket redeemed", ticket)
        return ticket.claims, None

    async def _talk(self, socket: Socket, method: str, claims) -> None:
        conn = Conn(len(self.conns) + 1, self, socket, method, claims)
        self.conns.append(conn)
        self.ledger.add("opened", conn)
        try:
            if claims is not None or await self._first_message(conn):
                while not isinstance(message := await socket.read(), Ended):
                    await self._message(conn, message)
                conn.end = message
        finally:
            if conn.grace:
                conn.grace.cancel()
            conn.end = conn.end or Ended()
            self.ledger.add("closed", conn)

    async def _first_message(self, conn: Conn) -> bool:
        try:
            text = await asyncio.wait_for(conn.socket.read(), self.auth_timeout)
        except TimeoutError:
            conn.refuse("AUTHENTICATION_TIMEOUT")
            conn.end = await conn.socket.read()
            return False
        if isinstance(text, Ended):
            conn.end = text
            return False
        self.ledger.add("message", (conn.number, text))
        message = _object(text)
        if message.get("type") != "auth":
            conn.refuse("FIRST_MESSAGE_NOT_AUTH")
        else:
            conn.auths.append(message)
            self.ledger.add("auth", (conn.number, message))
            if self.is_mute:
                return True
            if self.on_auth:
                await self.on_auth.popleft()(conn, message)
                return True
            claims, code = self._judge(message)
            if claims is None:
                conn.refuse(code, message.get("id"))
            elif self.ack:
                conn.accept(claims, message.get("id"))
            conn.claims = claims
        return True

    def _judge(self, message: dict) -> tuple[dict | None, str]:
        """Returns the claims of the credential in an auth message, or the code of the refusal."""
        payload = message.get("payload", {})
        if token := payload.get("token"):
            return tokens.judge(token), "INVALID_TOKEN"
        if ticket := payload.get("ticket"):
            return self._redeem(ticket)[0], "INVALID_TICKET"
        return None, "MISSING_CREDENTIAL"

    async def _message(self, conn: Conn, text) -> None:
        self.ledger.add("message", (conn.number, text))
        message = _object(text)
        if message.get("type") == "auth":
            conn.auths.append(message)
            self.ledger.add("auth", (conn.number, message))
            if conn.asked or self.proactive:
                return await self._renew(conn, message)
        conn.texts.append(text)
        self.ledger.add("text", (conn.number, text))
        if conn.claims is not None and isinstance(text, str):
            conn.send(text)

    async def _renew(self, conn: Conn, message: dict) -> None:
        if self.on_auth:
            return await self.on_auth.popleft()(conn, message)
        id = message.get("id")
        claims, code = self._judge(message)
        if claims and claims["sub"] != conn.claims["sub"]:
            conn.asked = False
            return conn.refuse("OTHER_SUBJECT", id)
        if claims and claims["exp"] > conn.claims["exp"]:
            conn.asked = False
            return conn.accept(claims, id)
        self.fail_renewal(conn, "NOT_RENEWED" if claims else code, id)

    def fail_renewal(self, conn: Conn, code: str, id) -> None:
        """Counts a wrong answer. The third ends the session."""
        conn.tries -= 1
        conn.error(code, id, recoverable=conn.tries > 0, details={"attempts_left": conn.tries})
        if conn.tries == 0:
            conn.asked = False
            conn.refuse("REAUTHENTICATION_TIMEOUT")


async def answer_on_the_way(answer, writer) -> bool:
    """Writes a whole answer, half of one (CUT), or none (HANG). Returns true if it was whole."""
    if answer == HANG:
        await asyncio.sleep(60)
    elif answer == CUT:
        writer.write(answer_bytes(201, {"content-type": "application/json"}, b'{"tick', 200))
        await writer.drain()
        writer.transport.abort()
    else:
        writer.write(answer_bytes(*answer))
        await writer.drain()
        return True
    return False


def _object(text) -> dict:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
