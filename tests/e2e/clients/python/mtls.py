"""OpenSSL as a client with good, missing and foreign certificates, and with resumed sessions.

Usage: mtls.py FOLDER OPTIONAL_PORT REQUIRED_PORT OTHER_PORT. OTHER_PORT trusts another authority.
Prints `ok` and exits with 0 if all checks pass.
"""

import socket
import ssl
import sys
from pathlib import Path

UPGRADE = (
    b"GET /who HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


def context(folder: Path, version: ssl.TLSVersion, name: str | None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=folder / "cert.pem")
    made.minimum_version = made.maximum_version = version
    if name:
        made.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return made


def upgrade(port: int, made: ssl.SSLContext, session: ssl.SSLSession | None = None) -> tuple[int, bool, ssl.SSLSession]:
    """Returns the status of an upgrade, whether it resumed the session, and the next session."""
    tcp = socket.create_connection(("127.0.0.1", port), timeout=40)
    with made.wrap_socket(tcp, server_hostname="localhost", session=session) as tls:
        tls.sendall(UPGRADE)
        answer = b""
        while b"\r\n\r\n" not in answer:
            piece = tls.recv(4096)
            if not piece:
                raise ConnectionResetError("closed before an answer")
            answer += piece
        return int(answer.split(b" ")[1]), bool(tls.session_reused), tls.session


def refused(port: int, made: ssl.SSLContext, session: ssl.SSLSession | None, words: list[str]) -> None:
    """Checks that the handshake ends with an alert, which a TLS 1.3 client gets when it reads."""
    try:
        status, _, _ = upgrade(port, made, session)
    except ssl.SSLError as error:
        assert any(word in str(error).lower().replace("_", " ") for word in words), (str(error), words)
        return
    raise AssertionError(f"answered {status}")


def main() -> None:
    folder = Path(sys.argv[1])
    optional, required, other = (int(port) for port in sys.argv[2:5])
    for version in VERSIONS:
        for port in (optional, required):
            ada = context(folder, version, "ada")
            session = None
            for turn in range(3):
                status, reused, session = upgrade(port, ada, session)
                assert (status, reused) == (101, turn > 0), (version, port, turn, status, reused)
            # The other listener accepts neither this session nor this client.
            refused(other, ada, session, ["unknown ca"])
        nobody = context(folder, version, None)
        session = None
        for turn in range(2):
            status, reused, session = upgrade(optional, nobody, session)
            assert (status, reused) == (401, turn > 0), (version, turn, status, reused)
        refused(required, nobody, None, ["certificate required", "handshake failure"])
        for port in (optional, required):
            refused(port, context(folder, version, "stranger"), None, ["unknown ca"])
            refused(port, context(folder, version, "forger"), None, ["decrypt error", "unknown ca", "bad certificate"])
            refused(port, context(folder, version, "expired"), None, ["certificate expired"])
            refused(port, context(folder, version, "server"), None, ["certificate"])
    print("ok")


main()
