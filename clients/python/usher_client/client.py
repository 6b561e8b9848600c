"""The client: one task that connects, authenticates, reads, and connects again."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from sys import getsizeof
from typing import Any

from .decide import AttemptError, next_step
from .door import Door, now
from .live import GRANT_OVER, Live
from .types import (Close, Data, Event, GetToken, Method, Options, SendResult, Session, State,
                    StateChange, TokenContext, TokenReason, UnauthorizedError,
                    UsherError)  # fmt: skip

log = logging.getLogger("usher_client")
# In seconds. A session that ends sooner counts as a failed attempt, so that the waits grow.
STABLE = 5.0


class Client:
    """A lasting connection: `connect()`, `send()`, and `async for message in client`."""

    def __init__(self, url: str, get_token: GetToken, options: Options = Options()) -> None:
        self.options, self._get_token = options, get_token
        self._door = Door(url, options, self.fresh_token)
        self._listeners: dict[Event, list[Callable[[Any], None]]] = {}
        # Messages that wait for a connection, each with the end of its wait, and unread messages.
        self._queue: deque[tuple[Data, float]] = deque()
        self._inbox: deque[Data] = deque()
        self._last_token, self._unread, self._failures, self._changed_at = "", 0, 0, 0.0
        self._changed, self._wake = asyncio.Event(), asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._live: Live | None = None
        # Read-only for the application.
        self.state: State = "disconnected"
        self.method: Method | None = None
        self.last_close: Close | None = None

    @property
    def session(self) -> Session | None:
        return self._live.session if self._live and self.state == "authenticated" else None

    @property
    def queued(self) -> int:
        return len(self._queue)

    def on(self, event: Event, listener: Callable[[Any], None]) -> Callable[[], None]:
        """Calls `listener` for each event of this name. Returns a function that removes it."""
        listeners = self._listeners.setdefault(event, [])
        listeners.append(listener)
        while event == "message" and self._inbox:
            self.emit("message", self._take())
        return lambda: listeners.remove(listener) if listener in listeners else None

    async def connect(self, timeout: float | None = None) -> None:
        """Waits until the client is authenticated. Starts it if it has stopped.

        Raises `UsherError` if it stops. After a `TimeoutError`, the attempts go on."""
        if self._runner is None:
            self._start()
        async with asyncio.timeout(timeout):
            while self.state != "authenticated":
                if self._runner is None:
                    raise UsherError(f"disconnected: {self.last_close}")
                await self._changed.wait()

    async def disconnect(self) -> None:
        """Closes the socket, drops waiting and unread messages, and stays disconnected."""
        runner, self._runner = self._runner, None
        self.last_close = Close(1000, "disconnect() was called")
        self._door.clear()
        while self._inbox:
            self._take()
        self.set_state("disconnected", str(self.last_close))
        self.clear_queue()
        await _cancel(runner)

    async def reconnect(self) -> None:
        """Opens a new connection at once, also after the client has stopped for good."""
        runner = self._runner
        self._start()
        await _cancel(runner)

    async def reauthenticate(self) -> None:
        """Changes the user, or renews early. Waiting messages of the old user are dropped.

        Sends the new token in the stream if `proactive` is set, or else opens a new socket."""
        self.clear_queue()
        self._door.clear()
        if self.options.proactive and self._live and self.state == "authenticated":
            self._live.renew("expiring")
        else:
            await self.reconnect()

    async def prefetch(self) -> None:
        """Fetches the ticket of the next attempt in advance. At most one is kept."""
        await self._door.prefetch()

    def wake(self) -> None:
        """Ends the wait between two attempts, for example when the network is back."""
        self._wake.set()

    def clear_queue(self) -> None:
        self._drop_until(float("inf"))

    async def send(self, data: Data) -> SendResult:
        """Sends now, or keeps the message until the client is authenticated, or drops it."""
        size = _size(data)
        self._drop_until(now())
        if not self._queue and self._live and self._live.takes_messages():
            await self._live.send(data)
            return "sent"
        size += sum(_size(waiting) for waiting, _ in self._queue)
        is_full = self.queued >= self.options.queue_messages or size > self.options.queue_bytes
        if is_full:
            self.emit("drop", data)
        else:
            until = now() + self.options.queue_ttl
            self._queue.append((data, until))
            asyncio.get_running_loop().call_at(until, self._drop_until, until)
        # Without this, a loop that sends would block all other tasks.
        await asyncio.sleep(0)
        return "dropped" if is_full else "queued"

    async def __aenter__(self) -> Client:
        try:
            await self.connect()
        except BaseException:
            await self.disconnect()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.disconnect()

    async def __aiter__(self) -> AsyncIterator[Data]:
        """Yields the messages of the backend, across reconnects, until the client disconnects."""
        while self._runner or self._inbox:
            if self._inbox:
                yield self._take()
            else:
                await self._changed.wait()

    # Called by the parts of the client.

    def emit(self, event: Event, detail: Any) -> None:
        for listener in list(self._listeners.get(event, ())):
            try:
                listener(detail)
            except Exception:
                log.exception("a listener for %s failed", event)

    def set_state(self, state: State, reason: str, retry_in: float | None = None) -> None:
        previous, self.state = self.state, state
        self._notify()
        if previous != state:
            self._changed_at = now()
            log.debug("%s -> %s: %s", previous, state, reason)
            self.emit("state", StateChange(state, previous, reason, self._failures, retry_in))

    async def fresh_token(self, reason: TokenReason) -> str:
        context = TokenContext(reason, self._last_token if reason == "rejected" else None)
        try:
            async with asyncio.timeout(self.options.connect_timeout):
                self._last_token = await self._get_token(context)
            if not re.fullmatch("[!-~]+", self._last_token):
                raise ValueError
        except UnauthorizedError as error:
            end = Close(reason=str(error) or "unauthorized", recoverable=False)
            raise AttemptError(end) from error
        except Exception as error:
            raise AttemptError(Close(reason=f"get_token failed: {type(error).__name__}")) from error
        return self._last_token

    async def flush(self) -> None:
        self._drop_until(now())
        while self._queue and self._live and self._live.takes_messages():
            await self._live.send(self._queue.popleft()[0])

    async def received(self, data: Data) -> None:
        """Waits while too much is unread, so that the socket is not read either."""
        if self._listeners.get("message"):
            return self.emit("message", data)
        self._inbox.append(data)
        self._unread += getsizeof(data)
        self._notify()
        while self._unread > self.options.receive_bytes:
            await self._changed.wait()

    # The loop over connections.

    def _start(self) -> None:
        self._door.reset()
        self._failures = 0
        self._runner = asyncio.create_task(self._run())
        self.set_state("connecting", "connecting")

    async def _run(self) -> None:
        try:
            end = await self._stay_connected()
        except BaseException as fault:
            end = Close(reason=f"stopped by {type(fault).__name__}")
            raise
        finally:
            if self._runner is asyncio.current_task():
                self._runner, self.last_close = None, end
                self.set_state("disconnected", str(end))
                self.clear_queue()

    async def _stay_connected(self) -> Close:
        """Connects again and again. Returns the end after which no attempt follows."""
        rejections = 0
        while True:
            self.last_close = end = await self._attempt()
            lived = now() - self._changed_at if self.state == "authenticated" else 0.0
            self._failures = 0 if lived >= STABLE else self._failures + 1
            step = next_step(end)
            rejections = (rejections if self._failures else 0) + (step == "rejected")
            self._door.clear()
            log.info("closed: %r", end)
            self.emit("close", end)
            if step == "stop" or self._failures > self.options.max_retries:
                return end
            if end.error_code == "LEGACY_METHOD":
                self._door.reset()
            if step == "rejected" or end is GRANT_OVER:
                self._door.reason = "rejected" if step == "rejected" else "expiring"
            wait = 0.0 if step == "rejected" and rejections == 1 else self._pause(end)
            self._wake.clear()
            self.set_state("reconnecting", str(end), wait)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            self.set_state("connecting", "retry")

    async def _attempt(self) -> Close:
        try:
            socket, self.method, token = await self._door.open()
        except AttemptError as error:
            return error.end
        self._live = Live(socket, self.method, self)
        self.set_state("authenticating", f"by {self.method}")
        return await self._live.run(token)

    def _pause(self, end: Close) -> float:
        """Returns the wait before the next attempt: a random part of a bound that doubles."""
        if end.window is not None:
            return random.uniform(0, end.window)
        # A server with too many clients needs longer waits than one that is away.
        doubled = min(self._failures + (3 if end.code == 4429 else 0), 20)
        bound = min(self.options.backoff_max, self.options.backoff_min * 2.0**doubled)
        return random.uniform(0, bound) + end.retry_after

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _take(self) -> Data:
        data = self._inbox.popleft()
        self._unread -= getsizeof(data)
        self._notify()
        return data

    def _drop_until(self, time: float) -> None:
        while self._queue and self._queue[0][1] <= time:
            self.emit("drop", self._queue.popleft()[0])


async def _cancel(runner: asyncio.Task[None] | None) -> None:
    if runner:
        runner.cancel()
        await asyncio.wait([runner])


def _size(data: Data) -> int:
    if not isinstance(data, str | bytes):
        raise TypeError(f"a message is str or bytes, not {type(data).__name__}")
    return len(data.encode()) if isinstance(data, str) else len(data)
