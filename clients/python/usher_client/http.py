"""HTTP requests and WebSocket handshakes. They follow no redirect, which would get a credential."""

import asyncio
import http.client
import logging
from functools import lru_cache
from typing import Any
from urllib.request import HTTPErrorProcessor, HTTPSHandler, Request, build_opener

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus

from .decide import AttemptError, json_object, refused
from .types import Close, Options

# At the level DEBUG, `websockets` logs whole messages with tokens.
log = logging.getLogger("usher_client.socket")
log.setLevel(logging.INFO)


class _Connection(ClientConnection):
    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Ends within a second, even if the other side reads nothing."""
        try:
            async with asyncio.timeout(1):
                await super().close(code, reason)
        except TimeoutError:
            pass
        finally:
            self.transport.abort()


class _Connect(connect):
    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class _AnyAnswer(HTTPErrorProcessor):
    def http_response(self, request: Any, response: Any) -> Any:
        return response

    https_response = http_response


# The opener is kept: loading the certificate authorities takes longer than a request.
_opener = lru_cache(4)(lambda tls: build_opener(_AnyAnswer, HTTPSHandler(context=tls)))


async def dial(url: str, offers: list[Any], options: Options) -> ClientConnection:
    try:
        async with asyncio.timeout(options.connect_timeout):
            return await _Connect(
                url, ssl=(options.ssl_context or True) if url.startswith("wss:") else None,
                subprotocols=offers or None, max_size=options.max_message_bytes, max_queue=1,
                open_timeout=None, create_connection=_Connection, logger=log,
            )  # fmt: skip
    except InvalidStatus as refusal:
        answer = refusal.response
        body = json_object(bytes(answer.body or b""))
        wait = answer.headers.get("retry-after")
        raise AttemptError(refused("no connection", answer.status_code, body, wait)) from refusal
    except (OSError, InvalidHandshake, EOFError) as fault:
        raise AttemptError(Close(reason=f"no connection: {type(fault).__name__}")) from fault


async def ask(method: str, url: str, token: str, options: Options) -> tuple[Close, dict[str, Any]]:
    """Returns the end that a refusal means, and the body of the answer as JSON."""
    data, headers = b"" if method == "POST" else None, {"Authorization": f"Bearer {token}"}
    request = Request(url, data, headers, method=method)

    def exchange() -> tuple[Close, dict[str, Any]]:
        with _opener(options.ssl_context).open(request, timeout=options.http_timeout) as answer:
            body = json_object(answer.read(64 * 1024))
            return refused("no ticket", answer.status, body, answer.headers["retry-after"]), body

    try:
        async with asyncio.timeout(options.http_timeout):
            return await asyncio.to_thread(exchange)
    except (OSError, http.client.HTTPException):
        return Close(reason="no ticket: no answer"), {}
