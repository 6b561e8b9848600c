"""Tokens for the scripted server and the real Usher (HS256)."""

import base64
import hashlib
import hmac
import json
import secrets
import time

ISSUER, AUDIENCE = "https://id.example.com", "chat"
SECRET = secrets.token_hex(32)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _sign(text: str) -> str:
    return _encode(hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).digest())


def mint(user: str = "ada", seconds: float = 600, **more) -> str:
    """Returns a token that differs from every other. `more` are further claims."""
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": user, "iat": now, "jti": secrets.token_hex(8)}
    claims |= {"exp": int(time.time() + seconds), **more}
    parts = [
        _encode(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims)
    ]
    text = ".".join(parts)
    return f"{text}.{_sign(text)}"


def judge(token: str) -> dict | None:
    """Returns the claims of a token that is valid now."""
    try:
        text, signature = token.rsplit(".", 1)
        claims = json.loads(_decode(text.split(".")[1]))
        is_good = hmac.compare_digest(_sign(text), signature) and claims["exp"] > time.time() - 30
    except (ValueError, KeyError, IndexError):
        return None
    return claims if is_good else None
