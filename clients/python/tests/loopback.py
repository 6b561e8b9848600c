"""A small Usher on 127.0.0.1 that keeps no record, so that its memory does not grow."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import wire

Talk = Callable[[wire.Socket], Awaitable[None]]


async def until_the_end(socket: wire.Socket) -> None:
    while not isinstance(await socket.read(), wire.Ended):
        pass


class Loopback:
    """Issues a ticket to everybody, answers each `auth`, and then does what `talk` says."""

    def __init__(self, talk: Talk = until_the_end) -> None:
        self.talk = talk
        self.opened = 0
        self.hangs: str | None = None
        self.tasks: set[Any] = set()

    async def __aenter__(self) -> Loopback:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"ws://127.0.0.1:{port}/ws"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _serve(self, reader: Any, writer: Any) -> None:
        task = asyncio.current_task()
        self.tasks.add(task)
        try:
            head = await wire.read_head(reader)
            if head and self.hangs == ("upgrade" if head.is_upgrade else "request"):
                await reader.read()
            elif head and head.is_upgrade:
                await self._open(head, reader, writer)
            elif head:
                body = json.dumps({"ticket_id": "t", "ttl_seconds": 30}).encode()
                writer.write(wire.answer_bytes(201, {"connection": "close"}, body))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self.tasks.discard(task)
            writer.transport.abort()

    async def _open(self, head: wire.Head, reader: Any, writer: Any) -> None:
        headers = {"upgrade": "websocket", "connection": "Upgrade"}
        headers["sec-websocket-accept"] = wire.accept_key(head.headers["sec-websocket-key"])
        writer.write(wire.answer_bytes(101, headers, b""))
        socket = wire.Socket(reader, writer, False, head)
        self.opened += 1
        if self.hangs == "auth":
            return await until_the_end(socket)
        if "ticket" not in head.query:
            accept(socket, json.loads(await text_of(socket)))
        await self.talk(socket)


async def text_of(socket: wire.Socket) -> str:
    text = await socket.read()
    if not isinstance(text, str):
        raise ConnectionError(f"no message but {text!r}")
    return text


def accept(socket: wire.Socket, auth: dict[str, Any], expires_at: int = 4_000_000_000_000) -> None:
    payload = {"user": "ada", "session_id": "s1", "expires_at": expires_at}
    say(socket, "auth_ok", payload, auth["id"])


def say(socket: wire.Socket, kind: str, payload: dict[str, Any], id: str = "x") -> None:
    stamp = "2026-01-01T00:00:00.000Z"
    socket.send(json.dumps({"type": kind, "id": id, "timestamp": stamp, "payload": payload}))
