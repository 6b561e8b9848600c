"""The words of Usher, as the scripted server says them. `self_check.py` compares."""

import json
import secrets
import uuid
from datetime import UTC, datetime

# code: (HTTP status, close code, reason of the close frame, recoverable, message)
REFUSALS = {
    "FIRST_MESSAGE_NOT_AUTH": (
        400, 1008, "First message must be auth", True,
        "the first message is not the one that carries a credential",
    ),
    "MISSING_CREDENTIAL": (
        401, 1008, "Missing auth token", True,
        "the first message carries neither token nor ticket",
    ),
    "INVALID_TOKEN": (401, 1008, "Invalid token", True, "the token is not valid"),
    "INVALID_TICKET": (403, 1008, "Invalid token", True, "the ticket is not valid"),
    "AUTHENTICATION_TIMEOUT": (
        408, 1008, "Authentication timeout", True, "no first message arrived in time",
    ),
    "NOT_RENEWED": (401, 1008, "", True, "the credential does not expire later than the one before"),
    "OTHER_SUBJECT": (
        403, 1008, "Invalid token", False, "the credential belongs to another user",
    ),
    "REAUTHENTICATION_TIMEOUT": (
        408, 1008, "Re-authentication timeout", True, "no valid credential arrived in time",
    ),
    "SESSION_EXPIRED": (
        401, 1008, "Session expired", True, "the session ended because its credential expired",
    ),
    "SESSION_REVOKED": (401, 1008, "Session revoked", False, "the session was revoked"),
    "SESSION_REPLACED": (
        409, 1008, "Session replaced", False, "another session of this user replaced this one",
    ),
    "STORE_UNAVAILABLE": (
        503, 1013, "tickets cannot be checked at the moment", True,
        "tickets cannot be checked at the moment",
    ),
    "UPSTREAM_UNAVAILABLE": (
        502, 1013, "Upstream unavailable", True,
        "the service behind this address cannot be reached",
    ),
    "MISSING_PERMISSION": (
        403, 1008, "Missing permission", False,
        "the credential does not give the permission `chat:read`",
    ),
    "PERMISSION_DENIED": (403, 1008, "", False, "the credential does not give this permission"),
    "FIRST_MESSAGE_TOO_BIG": (
        413, 1009, "First message too big", False, "the first message is too big",
    ),
    "RATE_LIMITED": (429, 1008, "too many requests", True, "too many requests"),
    "INVALID_REQUEST": (
        400, 1008, "", False,
        "the body is not a JSON object with the fields ttl_seconds, single_use, permissions and route",
    ),
    "TICKETS_OFF": (404, 1008, "", False, "tickets are not accepted here"),
    "INTERNAL": (500, 1011, "Internal error", True, "an internal error occurred"),
}  # fmt: skip


def close_code(code: str, codes: str) -> int:
    """Returns the close code. `codes` is the `close_codes` of the route: rfc or http."""
    status, rfc = REFUSALS[code][:2]
    if codes == "rfc" or rfc == 1011:
        return rfc
    return 4503 if status in (502, 503, 504) else 4000 + status


def problem(code: str, as_problem: bool, **more) -> tuple[int, dict, bytes]:
    """Returns an HTTP refusal of the ticket endpoint, or of an upgrade with `as_problem`."""
    status, _, _, recoverable, message = REFUSALS[code]
    if code == "MISSING_CREDENTIAL":
        message = "a credential is required"
    request_id = secrets.token_hex(16)
    body = {
        "message": message, "code": code, "recoverable": recoverable, "request_id": request_id,
        **more,
    }  # fmt: skip
    if as_problem:
        body |= {"type": "about:blank", "title": "Refused", "status": status, "detail": message}
    kind = "application/problem+json" if as_problem else "application/json"
    headers = {"content-type": kind, "cache-control": "no-store", "x-request-id": request_id}
    if status == 401:
        error = "" if code == "MISSING_CREDENTIAL" else ' error="invalid_token"'
        headers["www-authenticate"] = "Bearer" + error
    return status, headers, json.dumps(body).encode()


def envelope(kind: str, payload: dict, id: str | None = None) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    name = id or str(uuid.uuid4())
    return json.dumps({"type": kind, "id": name, "timestamp": now, "payload": payload})


def error_frame(code: str, id: str | None = None, **changes) -> str:
    status, _, _, recoverable, message = REFUSALS[code]
    details = {"status": status, **changes.pop("details", {})}
    payload = {
        "code": code, "message": message, "recoverable": recoverable, "details": details,
        "request_id": secrets.token_hex(16), **changes,
    }  # fmt: skip
    return envelope("error", payload, id)
