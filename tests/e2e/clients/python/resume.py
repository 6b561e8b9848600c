"""OpenSSL as a client: both versions, resumed sessions, many requests at once, close_notify.

Usage: resume.py PORT CERTIFICATE. Prints `ok` and exits with 0 if all checks pass.
"""

import socket
import ssl
import sys

REQUEST = b"GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n"
REQUESTS_AT_ONCE = 50


def connect(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLSocket:
    tcp = socket.create_connection(("127.0.0.1", port), timeout=40)
    return context.wrap_socket(tcp, server_hostname="localhost", session=session)


def talk(tls: ssl.SSLSocket) -> None:
    tls.sendall(REQUEST * REQUESTS_AT_ONCE)
    answers = b""
    while answers.count(b"HTTP/1.1 404 ") < REQUESTS_AT_ONCE or not answers.endswith(b"}"):
        piece = tls.recv(64 * 1024)
        assert piece, "the connection ended early"
        answers += piece


def main() -> None:
    port, certificate = int(sys.argv[1]), sys.argv[2]
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=certificate)
        context.minimum_version = context.maximum_version = version
        session = None
        for turn in range(3):
            tls = connect(port, context, session)
            talk(tls)
            assert tls.session_reused == (turn > 0), (version, turn)
            session = tls.session
            # Sends close_notify and waits for that of Usher: a cut would be an error.
            tls.unwrap().close()
    print("ok")


main()
