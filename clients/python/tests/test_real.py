"""The client against the real binary, over TLS: what the conformance program does not look at."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
import real
import tokens

from usher_client import Client, Options, UsherError

ROOT = Path(__file__).resolve().parents[3]
USHER = os.environ.get("USHER_BIN") or str(ROOT / "target/debug/usher")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("certificate")
    assert shutil.which("openssl"), "openssl makes the certificate of this test"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder


async def get_token(_: Any) -> str:
    return tokens.mint()


@pytest.mark.parametrize("auth", ["auto", "ticket", "message", "subprotocol"])
def test_a_client_talks_over_tls_and_trusts_no_stranger(certificate: Path, auth: Any) -> None:
    async def run() -> None:
        pair = f'{{ cert = "{certificate}/cert.pem", key = "{certificate}/key.pem" }}'
        usher = real.RealUsher(USHER, listener=f"certificates = [{pair}]")
        await usher.start_untapped()
        try:
            trusted = ssl.create_default_context(cafile=certificate / "cert.pem")
            url = f"wss://localhost:{usher.upstream_port}/ws"
            async with Client(url, get_token, Options(auth=auth, ssl_context=trusted)) as client:
                assert await client.send("hello") == "sent"
                async for message in client:
                    assert message == "hello"
                    break
            stranger = Client(url, get_token, Options(auth=auth, max_retries=1, backoff_min=0.01))
            with pytest.raises(UsherError, match="no connection|no ticket"):
                await stranger.connect(20)
        finally:
            await usher.stop()

    asyncio.run(run())
