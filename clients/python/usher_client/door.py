"""The way to an open socket: the method, the credential, the dial."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote, urlsplit

from websockets.asyncio.client import ClientConnection

from . import http
from .decide import AttemptError, next_step
from .types import Close, Method, Options, TokenReason

KNOWN: tuple[Method, ...] = ("ticket", "message", "subprotocol")
TRIES = 3
TRY_PAUSE = 0.2
LONGEST_TRY_PAUSE = 1.0
BREAKER_FAILURES = 3
BREAKER_PAUSE = 30.0
FreshToken = Callable[[TokenReason], Awaitable[str]]


class Door:
    """Opens one socket after the other, each with its own credential."""

    def __init__(self, url: str, options: Options, fresh_token: FreshToken) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss") or parts.fragment or parts.username is not None:
            raise ValueError("url must begin with ws:// or wss://, without user and fragment")
        here = f"{parts.scheme.replace('ws', 'http')}://{parts.netloc}/websocket"
        self._url, self._options, self._fresh_token = url, options, fresh_token
        self._ticket_url = options.ticket_url or f"{here}/ticket"
        config_url = f"{here}/config?route={quote(parts.path or '/', safe='')}"
        self._config_url = options.config_url or config_url
        self._is_auto = options.auth == "auto"
        # At most one ticket that was fetched in advance, and the last moment of its use.
        self._kept: list[tuple[str, float]] = []
        self._fetching = asyncio.Lock()
        self.reset()

    def reset(self) -> None:
        # The methods in the last offer of the server. If empty, the next attempt asks for them.
        self._offered: list[Any] = [] if self._is_auto else [self._options.auth]
        # The reason of the next call for a token, and the token of this attempt after the call.
        self.reason: TokenReason = "initial"
        self._token, self._failures, self._breaker_until = "", 0, 0.0

    def clear(self) -> None:
        """Forgets the kept ticket. A ticket on its way goes into the old list and is not used."""
        self._kept = []

    async def prefetch(self) -> None:
        self._token = ""
        await self._keep_ticket()

    async def open(self) -> tuple[ClientConnection, Method, str]:
        """Returns the open socket, the method, and the token for a first message."""
        self._token = ""
        if not self._offered:
            await self._ask("GET", self._config_url)
            self._offered = self._offered or ["ticket", "message"]
        if not (methods := self._methods()):
            raise AttemptError(Close(reason="no method that this client has", recoverable=False))
        method, url, offers = methods[0], self._url, list(self._options.subprotocols)
        try:
            if method == "ticket":
                ticket, _ = (await self._keep_ticket()).pop()
                url += f"{'&' if '?' in url else '?'}ticket={quote(ticket, safe='')}"
        except AttemptError as error:
            method = self._without_ticket(error)
        token = await self._bearer() if method != "ticket" else ""
        if method == "subprotocol":
            offers += ["bearer", token]
        socket = await http.dial(url, offers, self._options)
        self.reason = "initial"
        return socket, method, token if method == "message" else ""

    def _methods(self) -> list[Method]:
        """Returns the usable methods, without `query` and `header`: logs may show their token."""
        return sorted((name for name in KNOWN if name in self._offered), key=self._offered.index)

    async def _bearer(self) -> str:
        self._token = self._token or await self._fresh_token(self.reason)
        return self._token

    async def _ask(self, method: str, url: str) -> tuple[Close, dict[str, Any]]:
        """Sends a request. Repeats it with a fresh token after a refusal, once in an attempt."""
        end, body = await http.ask(method, url, await self._bearer(), self._options)
        if self._is_auto and isinstance(body.get("methods"), list):
            self._offered = [body.get("method"), *body["methods"]]
        if next_step(end) != "rejected" or self.reason == "rejected":
            return end, body
        self._token, self.reason = "", "rejected"
        return await self._ask(method, url)

    async def _keep_ticket(self) -> list[tuple[str, float]]:
        """Returns the list with the kept ticket. At most one request runs at a time."""
        async with self._fetching:
            kept = self._kept
            if not kept or kept[0][1] <= now():
                kept[:] = [await self._fetch_ticket()]
            return kept

    async def _fetch_ticket(self) -> tuple[str, float]:
        """Tries up to three times, and stops early after an answer that makes a retry useless."""
        if (wait := self._breaker_until - now()) > 0:
            raise AttemptError(Close(reason="circuit breaker open", retry_after=wait))
        for number in range(1, TRIES + 1):
            asked, (end, body) = now(), await self._ask("POST", self._ticket_url)
            ticket, life = body.get("ticket_id"), body.get("ttl_seconds")
            if end.status == 201 and isinstance(ticket, str) and ticket:
                self._failures = 0
                life = life if isinstance(life, int | float) else 30.0
                # The life counts from the request, by this clock. Its last part is not used.
                return ticket, asked + life - min(5.0, life / 4)
            if next_step(end) != "retry":
                raise AttemptError(end)
            if number == TRIES or end.retry_after > LONGEST_TRY_PAUSE:
                break
            await asyncio.sleep(random.uniform(0, TRY_PAUSE * 2**number) + end.retry_after)
        # Only answers open the breaker: a server that cannot be reached may be back at once.
        self._failures += end.status is not None
        if self._failures >= BREAKER_FAILURES:
            self._breaker_until = now() + BREAKER_PAUSE
        raise AttemptError(end)

    def _without_ticket(self, error: AttemptError) -> Method:
        """Returns the next method, if one is allowed. Tickets stay off after 404, 405 or 501."""
        others = [name for name in self._methods() if name != "ticket"]
        is_off = error.end.status in (404, 405, 501)
        if not others or not (is_off or error.step == "retry"):
            raise error
        if is_off:
            self._offered = list(others)
        return others[0]


def now() -> float:
    return asyncio.get_running_loop().time()
