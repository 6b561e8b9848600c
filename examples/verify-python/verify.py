#!/usr/bin/env python3
"""Verifies the signed context that Usher puts into every authenticated request.

    verify.py JWKS_PATH_OR_URL AUDIENCE [ISSUER]      EdDSA or ES256, with the published keys
    verify.py --secret FILE AUDIENCE [ISSUER]         HS256, with the secret shared with Usher

reads the header's value from standard input and prints its claims. Exits 1 with the reason when it is not valid.
"""

import base64
import binascii
import hashlib
import hmac
import json
import math
import sys
import threading
import time
import urllib.request
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

# The key's type decides the algorithm; what the header says must agree with it.
ALGORITHMS = {"EdDSA": ("OKP", "Ed25519"), "ES256": ("EC", "P-256")}


class InvalidContext(Exception):
    """Why a signed context is refused."""


class UnknownKey(InvalidContext):
    """The key set has no key with the key id: Usher may have rotated its keys."""


class Verifier:
    """Verifies headers with the published keys.

    It reads the keys at the first header, because Usher may start later, and again for an unknown key id, at most once a
    minute. It may block for the keys: call it in a thread, not on an event loop.
    """

    def __init__(self, place, audience, issuer="usher"):
        self._place, self._audience, self._issuer = place, audience, issuer
        self._lock = threading.Lock()
        self._jwks, self._read_at = None, 0.0

    def verify(self, header_value):
        """Returns the claims."""
        with self._lock:
            if self._jwks is None:
                self._read()
            jwks = self._jwks
        try:
            return verify(header_value, jwks, self._audience, self._issuer)
        except UnknownKey:
            with self._lock:
                if jwks is self._jwks:
                    if time.monotonic() - self._read_at < 60:
                        raise
                    self._read()
                jwks = self._jwks
        return verify(header_value, jwks, self._audience, self._issuer)

    def _read(self):
        self._read_at = time.monotonic()
        self._jwks = read_jwks(self._place)


def verify(header_value, jwks, audience, issuer="usher", now=None):
    """Returns the claims.

    `jwks` is the published key set (a dict), or the shared secret (bytes); `audience` is your upstream's name in Usher's
    config, `issuer` its `[context] issuer`.
    """
    if not header_value:
        raise InvalidContext("there is no signed context")
    if not audience or not issuer:
        raise ValueError("an audience and an issuer are needed")
    parts = header_value.split(".")
    if len(parts) != 3:
        raise InvalidContext("it is not a compact JWS")
    header, claims, signature = _object(parts[0]), _object(parts[1]), _bytes(parts[2])
    if "crit" in header:
        raise InvalidContext("the value has an unknown critical header")
    signed = f"{parts[0]}.{parts[1]}".encode("ascii")
    if isinstance(jwks, bytes):
        _check_hmac(header, jwks, signed, signature)
    else:
        _check_signature(header, jwks, signed, signature)

    if claims.get("iss") != issuer:
        raise InvalidContext("another issuer made it")
    if claims.get("aud") != audience:
        raise InvalidContext("the audience is another one")
    expires = claims.get("exp")
    if isinstance(expires, bool) or not isinstance(expires, (int, float)) or not math.isfinite(expires):
        raise InvalidContext("it has no expiry")
    if expires <= (time.time() if now is None else now):
        raise InvalidContext("it has expired")
    if not isinstance(claims.get("sub"), str) or not claims["sub"]:
        raise InvalidContext("the value has no user")
    return claims


def _check_signature(header, jwks, signed, signature):
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise InvalidContext("its algorithm is not one of EdDSA, ES256")
    jwk = next((key for key in jwks["keys"] if isinstance(kid, str) and key.get("kid") == kid), None)
    if jwk is None:
        raise UnknownKey("no published key has the key id")
    if (jwk.get("kty"), jwk.get("crv")) != ALGORITHMS[algorithm]:
        raise InvalidContext("its algorithm is not that of its key")
    try:
        if algorithm == "EdDSA":
            Ed25519PublicKey.from_public_bytes(_bytes(jwk["x"])).verify(signature, signed)
        else:
            if len(signature) != 64:
                raise InvalidSignature
            x, y = (int.from_bytes(_bytes(jwk[name]), "big") for name in ("x", "y"))
            key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
            # JWS has the two numbers side by side, the library wants them in DER.
            r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
            key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise InvalidContext("the signature does not verify") from None


def _check_hmac(header, secret, signed, signature):
    if header.get("alg") != "HS256":
        raise InvalidContext("its algorithm is not HS256")
    if header.get("kid") != "shared":
        raise InvalidContext("the key id is not that of the shared secret")
    if len(secret) < 32:
        raise ValueError("a shared secret needs at least 32 bytes")
    if not hmac.compare_digest(hmac.new(secret, signed, hashlib.sha256).digest(), signature):
        raise InvalidContext("the signature does not verify")


def _bytes(part):
    try:
        decoded = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidContext("it is not a compact JWS") from None
    # A signed value has one spelling.
    if base64.urlsafe_b64encode(decoded).rstrip(b"=").decode("ascii") != part:
        raise InvalidContext("it is not a compact JWS")
    return decoded


def _object(part):
    try:
        value = json.loads(_bytes(part).decode("utf-8"))
    except (ValueError, RecursionError):
        raise InvalidContext("it is not a compact JWS") from None
    if not isinstance(value, dict):
        raise InvalidContext("it is not a compact JWS")
    return value


def read_jwks(place):
    """The key set from a file or a URL."""
    if place.startswith(("http://", "https://")):
        with urllib.request.urlopen(place, timeout=5) as answer:
            jwks = json.load(answer)
    else:
        jwks = json.loads(Path(place).read_text(encoding="utf-8"))
    if not isinstance(jwks, dict) or not isinstance(jwks.get("keys"), list):
        raise ValueError(f"{place} is not a key set")
    return jwks


def read_secret(path):
    """The secret from a file, without the one line's end that editors add: what Usher reads as well."""
    return Path(path).read_bytes().removesuffix(b"\n").removesuffix(b"\r")


def main(arguments):
    shared = arguments[:1] == ["--secret"]
    arguments = arguments[1:] if shared else arguments
    if len(arguments) not in (2, 3):
        print("usage: verify.py (JWKS_PATH_OR_URL | --secret FILE) AUDIENCE [ISSUER]", file=sys.stderr)
        return 2
    try:
        keys = read_secret(arguments[0]) if shared else read_jwks(arguments[0])
        claims = verify(sys.stdin.read().strip(), keys, *arguments[1:])
    except (InvalidContext, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(claims, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
