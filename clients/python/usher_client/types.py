"""The words of the client: states, reasons, results, options and errors."""

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

State = Literal["disconnected", "connecting", "authenticating", "authenticated", "reconnecting"]
Event = Literal["state", "message", "method", "reauth", "close", "error", "drop"]
Method = Literal["ticket", "message", "subprotocol"]
TokenReason = Literal["initial", "expiring", "auth_required", "rejected"]
SendResult = Literal["sent", "queued", "dropped"]
Data = str | bytes


class UsherError(Exception):
    """The connection cannot be used. The message says why."""


class UnauthorizedError(UsherError):
    """Raised by `get_token` to stop: the user is logged out."""


@dataclass(frozen=True)
class TokenContext:
    """The reason for a call of `get_token`. `rejected` is the refused token, if there is one."""

    reason: TokenReason
    rejected: str | None = field(default=None, repr=False)


GetToken = Callable[[TokenContext], Awaitable[str]]


@dataclass(frozen=True)
class StateChange:
    """A change of the state. In `reconnecting`, `retry_in` is the wait in seconds."""

    state: State
    previous: State
    reason: str
    attempt: int = 0
    retry_in: float | None = None


@dataclass(frozen=True)
class Session:
    """The content of `auth_ok`. `expires_at` is in milliseconds since 1970, by Usher's clock."""

    user: str
    session_id: str
    expires_at: int


@dataclass(frozen=True)
class Close:
    """The end of a connection or of an attempt: a close frame, an HTTP refusal, or neither.

    `window`: the client should reconnect at a random moment within these seconds."""

    code: int = 1006
    reason: str = ""
    error_code: str | None = None
    recoverable: bool | None = None
    request_id: str | None = None
    status: int | None = None
    retry_after: float = 0.0
    window: float | None = None

    def __str__(self) -> str:
        return self.reason or f"close code {self.code}"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Times are in seconds. `proactive`: the route accepts a renewal without a question."""

    auth: Method | Literal["auto"] = "auto"
    ticket_url: str | None = None
    config_url: str | None = None
    subprotocols: tuple[str, ...] = ()
    ssl_context: ssl.SSLContext | None = None
    proactive: bool = False
    max_retries: float = float("inf")
    backoff_min: float = 0.5
    backoff_max: float = 30.0
    connect_timeout: float = 10.0
    auth_timeout: float = 5.0
    http_timeout: float = 3.0
    max_message_bytes: int = 16 * 1024 * 1024
    queue_messages: int = 100
    queue_bytes: int = 1024 * 1024
    queue_ttl: float = 30.0
    receive_bytes: int = 4 * 1024 * 1024
