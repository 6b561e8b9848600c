"""A loop whose clock jumps, and a server without a network: no test here waits for real time."""

from __future__ import annotations

import asyncio
import json
import selectors
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from websockets.exceptions import ConnectionClosedError
from websockets.frames import Close as CloseFrame
from websockets.protocol import CLOSED, OPEN

from usher_client import Client, Close, Options, StateChange, TokenContext, http
from usher_client.decide import refused

Answer = tuple[Close, dict[str, Any]]
NO_ANSWER: Answer = (Close(reason="no ticket: no answer"), {})

EPOCH = 1_800_000_000.0
URL = "wss://chat.example.com/ws"


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time stands still while something can run, and jumps to the next timer otherwise."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Jump(self))

    def time(self) -> float:
        return self.now


class _Jump(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if not events and timeout is None:
            raise AssertionError("the test waits for something that nothing will cause")
        if not events and timeout:
            self._loop.now += timeout
        return events


def run(test: Callable[[World], Coroutine[Any, Any, None]], monkeypatch: Any) -> None:
    loop = VirtualLoop()
    world = World(loop)
    monkeypatch.setattr(time, "time", lambda: EPOCH + loop.now + world.slept)
    monkeypatch.setattr(http, "ask", world.ask)
    monkeypatch.setattr(http, "dial", world.dial)
    try:
        loop.run_until_complete(test(world))
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=5))
        loop.close()


class FakeSocket:
    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.is_closed = False
        self._incoming: asyncio.Queue[Any] = asyncio.Queue()

    @property
    def state(self) -> Any:
        return CLOSED if self.is_closed else OPEN

    async def send(self, message: Any) -> None:
        if self.is_closed:
            raise ConnectionClosedError(None, None)
        self.sent.append(message)

    async def recv(self) -> Any:
        item = await self._incoming.get()
        if isinstance(item, Exception):
            self.is_closed = True
            raise item
        return item

    async def close(self) -> None:
        if not self.is_closed:
            self.end(1000)
            self.is_closed = True

    def say(self, kind: str, id: str = "x", **payload: Any) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time()))
        message = {"type": kind, "id": id, "timestamp": stamp, "payload": payload}
        self._incoming.put_nowait(json.dumps(message))

    def text(self, text: str) -> None:
        self._incoming.put_nowait(text)

    def accept(self, seconds: float = 600, user: str = "ada") -> None:
        """`auth_ok` for the last auth message."""
        ends = int((time.time() + seconds) * 1000)
        self.say("auth_ok", self.auths[-1]["id"], user=user, session_id="s1", expires_at=ends)

    def ask(self, seconds: float) -> None:
        ends = int((time.time() + seconds) * 1000)
        self.say("auth_required", expires_at=ends, grace_seconds=30, reason="Token expiring soon")

    def refuse(self, code: str, recoverable: bool = True, **more: Any) -> None:
        """The error frame for the last auth message."""
        self.say("error", self.auths[-1]["id"], code=code, recoverable=recoverable,
                 request_id="r1", **more)  # fmt: skip

    def end(self, code: int = 1006, reason: str = "") -> None:
        frame = None if code == 1006 else CloseFrame(code, reason)
        self._incoming.put_nowait(ConnectionClosedError(frame, None))

    @property
    def auths(self) -> list[Any]:
        messages = [json.loads(text) for text in self.sent if text.startswith("{")]
        return [message for message in messages if message.get("type") == "auth"]


class World:
    """Answers in place of the network. `replies`: what the ticket endpoint says, then 201."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop, self.slept = loop, 0.0
        self.sockets: list[FakeSocket] = []
        self.dials: list[tuple[float, str, list[str]]] = []
        self.refusals: list[Exception] = []
        self.asked: list[tuple[float, str, str, str]] = []
        self.replies: list[Answer] = []
        self.config = NO_ANSWER
        self.ttl = 30
        self.wanted: list[TokenContext] = []
        self.token: Callable[[TokenContext], Any] = lambda _: f"token-{len(self.wanted)}"
        self.states: list[StateChange] = []
        self.news = asyncio.Event()

    async def get_token(self, context: TokenContext) -> str:
        self.wanted.append(context)
        token = self.token(context)
        if isinstance(token, BaseException):
            raise token
        return token

    async def ask(self, method: str, url: str, token: str, options: Options) -> Answer:
        self.asked.append((self.loop.now, method, url, token))
        await asyncio.sleep(0.01)
        if "/config" in url:
            return self.config
        return self.replies.pop(0) if self.replies else self.issue()

    def issue(self) -> Answer:
        return answer(201, ticket_id=f"ticket-{len(self.asked)}", ttl_seconds=self.ttl)

    async def dial(self, url: str, offers: list[str], options: Options) -> FakeSocket:
        self.dials.append((self.loop.now, url, offers))
        await asyncio.sleep(0.01)
        if self.refusals:
            raise self.refusals.pop(0)
        self.sockets.append(FakeSocket())
        self.news.set()
        return self.sockets[-1]

    def client(self, auth: Any = "message", **options: Any) -> Client:
        client = Client(URL, self.get_token, Options(auth=auth, **options))
        client.on("state", self.states.append)
        return client

    async def socket(self, number: int) -> FakeSocket:
        """The socket with this number, from 1 on; waits for it."""
        while len(self.sockets) < number:
            self.news.clear()
            await self.news.wait()
        await asyncio.sleep(0.001)
        return self.sockets[number - 1]

    async def connected(self, auth: Any = "message", **options: Any) -> tuple[Client, FakeSocket]:
        client = self.client(auth, **options)
        connecting = asyncio.create_task(client.connect())
        socket = await self.socket(1)
        if auth == "message":
            socket.accept()
        await connecting
        return client, socket

    @property
    def names(self) -> list[str]:
        return [change.state for change in self.states]

    @property
    def tickets_asked(self) -> list[float]:
        return [at for at, method, _, _ in self.asked if method == "POST"]


def answer(status: int, retry_after: str = "", **body: Any) -> Answer:
    return refused("no ticket", status, body, retry_after), body


async def settle(seconds: float = 0.05) -> None:
    await asyncio.sleep(seconds)


async def fails_with(call: Awaitable[Any], kind: type[Exception]) -> str:
    try:
        await call
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")
