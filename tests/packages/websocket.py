"""A backend and a client that speak WebSocket, for tests of the packages and of the image. Only
Python's own library is where they run.
"""

import base64
import hashlib
import socket
import ssl
import struct
import threading

PATIENCE = 60


class Backend:
    """Accepts every upgrade at the address of packaging/usher.toml, and sends each frame back."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 9000))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.socket.accept()
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        lines = [line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line]
        fields = {name.lower(): value for name, value in lines}
        assert "x-user-context" in fields, "the context of the user is missing"
        key = fields["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest())
        client.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        while frame := read_frame(client):
            opcode, payload = frame
            client.sendall(bytes([0x80 | opcode, len(payload)]) + payload)
            if opcode == 8:
                client.close()
                return


def exactly(stream, count):
    data = b""
    while len(data) < count:
        more = stream.recv(count - len(data))
        if not more:
            return None
        data += more
    return data


def read_frame(stream):
    """Returns opcode and payload of a short frame. None: the peer has closed the connection."""
    head = exactly(stream, 2)
    if head is None:
        return None
    opcode, length = head[0] & 15, head[1] & 127
    assert length < 126, "the frame is longer than those of this test"
    mask = exactly(stream, 4) if head[1] & 128 else bytes(4)
    payload = exactly(stream, length)
    return opcode, bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


class Client:
    """A client with a session at Usher's usual port. The authority is the file of its certificate."""

    def __init__(self, token, authority):
        context = ssl.create_default_context(cafile=authority)
        plain = socket.create_connection(("127.0.0.1", 8443), timeout=PATIENCE)
        self.stream = context.wrap_socket(plain, server_hostname="localhost")
        self.stream.sendall(
            f"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            f"Authorization: Bearer {token}\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            more = self.stream.recv(1)
            assert more, f"closed in the answer: {head}"
            head += more
        assert head.startswith(b"HTTP/1.1 101 "), head

    def send(self, opcode, payload):
        self.stream.sendall(bytes([0x80 | opcode, 0x80 | len(payload)]) + bytes(4) + payload)

    def echoes(self):
        self.send(1, b"hello")
        assert read_frame(self.stream) == (1, b"hello")

    def end(self):
        """Returns the close code of the session, which must end in good order."""
        while (frame := read_frame(self.stream))[0] != 8:
            pass
        self.send(8, frame[1])
        return struct.unpack("!H", frame[1][:2])[0]
