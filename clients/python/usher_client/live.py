"""One open connection: the first message, the messages of both sides, and renewal in the stream."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import OPEN

from .decide import AttemptError, closed, json_object
from .types import Close, Data, Method, Session, TokenReason

if TYPE_CHECKING:
    from .client import Client

PAUSE = 1.0
# The end by the client if the route accepts no renewal without a question. It reconnects at once.
GRANT_OVER = Close(reason="the grant is over", window=0.0)


class Live:
    def __init__(self, socket: ClientConnection, method: Method, client: Client) -> None:
        self._socket, self._method, self._client = socket, method, client
        self.session: Session | None = None
        self._is_in, self._ends_at = False, float("inf")
        # The ids of auth messages without an answer. Only messages with such an id are answers.
        self._asked: set[str] = set()
        # The payload of the last message, if it was an error frame of Usher.
        self._error: dict[str, Any] = {}
        self._renewal: asyncio.Task[None] | None = None
        self._own_end: Close | None = None

    async def run(self, token: str) -> Close:
        """Reads until the connection ends."""
        try:
            timeout = self._client.options.auth_timeout if token else None
            async with asyncio.timeout(timeout) as self._deadline:
                await (self._send_auth(token) if token else self._authenticated())
                while True:
                    await self._receive()
        except TimeoutError:
            return Close(4408, "no answer to the first message", recoverable=False)
        except ConnectionClosed as end:
            frame = end.rcvd or end.sent
            code, reason = (frame.code, frame.reason) if frame else (1006, "")
            return self._own_end or closed(code, reason, self._error)
        finally:
            if self._renewal:
                self._renewal.cancel()
            await self._socket.close()

    def takes_messages(self) -> bool:
        """Returns true if messages can be sent. After sleep, the grant may need a renewal first."""
        is_in, is_over = self._client.state == "authenticated", time.time() >= self._ends_at
        if is_in and is_over:
            self.renew("expiring")
        return is_in and not is_over and self._socket.state is OPEN

    async def send(self, data: Data) -> None:
        """Passes a message to the socket. It can get lost with it, and is never sent twice."""
        with suppress(ConnectionClosed):
            await self._socket.send(data)

    def renew(self, reason: TokenReason, pause: float = 0.0) -> None:
        """Sends a new token in the stream. At most one answer is on its way."""
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew(reason, pause))

    async def _renew(self, reason: TokenReason, pause: float) -> None:
        if reason == "expiring" and not self._client.options.proactive:
            return await self._leave(GRANT_OVER)
        while True:
            await asyncio.sleep(pause)
            try:
                return await self._send_auth(await self._client.fresh_token(reason))
            except AttemptError as error:
                self._client.emit("reauth", "failed")
                if error.step == "stop":
                    return await self._leave(error.end)
                # Without a token, the question stays open until its grace time ends.
                pause = PAUSE

    async def _leave(self, end: Close) -> None:
        self._own_end = end
        await self._socket.close()

    async def _send_auth(self, token: str) -> None:
        id, timestamp = str(uuid.uuid4()), datetime.now(UTC).isoformat()
        self._asked.add(id)
        message = {"type": "auth", "id": id, "timestamp": timestamp}
        await self.send(json.dumps({**message, "payload": {"token": token}}))

    async def _receive(self) -> None:
        data = await self._socket.recv()
        message = json_object(data) if isinstance(data, str) and data[:1] == "{" else {}
        kind, payload = message.get("type"), message.get("payload")
        names = payload if isinstance(payload, dict) else {}
        id, self._error = str(message.get("id")), {}
        is_answer = id in self._asked
        self._asked.discard(id)
        if kind == "auth_ok" and "session_id" in names and is_answer:
            await self._accepted(message, names)
        elif kind == "auth_required" and "grace_seconds" in names and self._is_own(names):
            self._client.emit("reauth", "required")
            self.renew("auth_required")
        elif kind == "error" and "request_id" in names:
            self._refused(names, is_answer)
        else:
            await self._authenticated()
            await self._client.received(data)

    def _is_own(self, question: dict[str, Any]) -> bool:
        """Returns false for another expiry: the question may come from a peer and gets no token."""
        return self.session is None or self.session.expires_at == question.get("expires_at")

    async def _authenticated(self) -> None:
        if not self._is_in:
            self._is_in = True
            self._deadline.reschedule(None)
            self._client.set_state("authenticated", f"by {self._method}")
            self._client.emit("method", self._method)
        await self._client.flush()

    async def _accepted(self, message: dict[str, Any], payload: dict[str, Any]) -> None:
        if isinstance(expires := payload.get("expires_at"), int):
            self.session = Session(str(payload.get("user")), str(payload["session_id"]), expires)
            with suppress(ValueError):
                # Only the clock of the server counts, so a wrong clock here does no harm.
                sent = datetime.fromisoformat(str(message.get("timestamp"))).timestamp()
                self._ends_at = time.time() + expires / 1000 - sent
        if self._is_in:
            self._client.emit("reauth", "ok")
        await self._authenticated()

    def _refused(self, error: dict[str, Any], is_answer: bool) -> None:
        self._error = error
        self._client.emit("error", error)
        if self._is_in and is_answer and error.get("recoverable") is True:
            self._client.emit("reauth", "failed")
            is_outage = str(error.get("code")).endswith("_UNAVAILABLE")
            self.renew("auth_required" if is_outage else "rejected", PAUSE)
