"""The next step after a connection or an attempt: by error frame, close code and HTTP status."""

import json
import re
from typing import Any, Literal

from .types import Close, UsherError

# Close codes, HTTP statuses, and reasons of a close frame.
STOP = {1000, 4400, 4403, 4406, 4409, "First message must be auth", "Missing permission",
        "Session replaced"}  # fmt: skip
REJECTED = {401, 4401, 4408, "Missing auth token", "Invalid token", "Authentication timeout",
            "Re-authentication timeout", "Session expired", "Session revoked"}  # fmt: skip


class AttemptError(UsherError):
    """An attempt opened no socket, a request got no ticket, or `get_token` returned no token."""

    def __init__(self, end: Close) -> None:
        super().__init__(end.reason)
        self.end, self.step = end, next_step(end)


def next_step(end: Close) -> Literal["stop", "retry", "rejected"]:
    """Returns the next step. The field `recoverable` of Usher decides first.

    `rejected`: try again with a new token, at once the first time, then with back-off."""
    # Without an error frame, the reason ends with a request id.
    reason, number = end.reason.split(" (")[0], end.status or end.code
    sign = reason if reason in STOP | REJECTED else number
    is_final = sign in STOP or (400 <= number < 500 and number not in (401, 408, 425, 429))
    if end.recoverable is False or (is_final and end.recoverable is None):
        return "stop"
    return "rejected" if sign in REJECTED else "retry"


def closed(code: int, reason: str, error: dict[str, Any]) -> Close:
    """Returns the end by a close frame. `error` is the payload of the error frame before it."""
    wait = re.search(r"\bretry_after_ms[=:]\s*(\d{1,7})\b", reason)
    return Close(code, reason, *_facts(error), window=int(wait[1]) / 1000 if wait else None)


def refused(doing: str, status: int, body: dict[str, Any], retry_after: str | None) -> Close:
    """Returns the end by an HTTP answer. A date in `Retry-After` is ignored."""
    reason = f"{doing}: HTTP {status} {body.get('code', '')}".strip()
    wait = float(retry_after) if retry_after and retry_after.isdecimal() else 0.0
    return Close(1006, reason, *_facts(body), status=status, retry_after=min(wait, 600.0))


def _facts(body: dict[str, Any]) -> tuple[Any, Any, Any]:
    return body.get("code"), body.get("recoverable"), body.get("request_id")


def json_object(text: str | bytes) -> dict[str, Any]:
    """Returns the JSON object in the text, or an empty one."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
