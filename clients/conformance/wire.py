"""HTTP/1.1 heads and WebSocket frames over asyncio streams, for both ends, without a library."""

import asyncio
import base64
import hashlib
import json
import os
import struct
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


@dataclass
class Head:
    """The first line of a request or an answer, and the headers by lower-case name."""

    line: list[str]
    headers: dict[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        return urlsplit(self.line[1]).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.line[1]).query, keep_blank_values=True))

    @property
    def status(self) -> int:
        return int(self.line[1])

    @property
    def bearer(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")

    def json(self):
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def is_upgrade(self) -> bool:
        return self.headers.get("upgrade", "").lower() == "websocket"


async def read_head(reader) -> Head | None:
    """Reads a head and its body. Returns None at the end of the stream."""
    try:
        text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *lines = text[:-4].split("\r\n")
        pairs = (line.split(":", 1) for line in lines)
        head = Head(line.split(" ", 2), {name.lower(): value.strip() for name, value in pairs})
        if head.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int((await reader.readline()).split(b";")[0], 16):
                head.body += (await reader.readexactly(size + 2))[:-2]
            await reader.readline()
        elif not head.is_upgrade:
            head.body = await reader.readexactly(int(head.headers.get("content-length", 0)))
    except (asyncio.IncompleteReadError, ConnectionError, ValueError):
        return None
    return head


def answer_bytes(status: int, headers: dict, body: bytes, declared: int | None = None) -> bytes:
    words = {200: "OK", 201: "Created", 204: "No Content", 101: "Switching Protocols"}
    lines = [f"HTTP/1.1 {status} {words.get(status, 'Refused')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if status != 101:
        lines.append(f"content-length: {len(body) if declared is None else declared}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def accept_key(key: str) -> str:
    return base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()


def frame(opcode: int, payload: bytes, *, masked: bool, final: bool = True) -> bytes:
    size, mask_bit = len(payload), 0x80 if masked else 0
    head = bytes([(0x80 if final else 0) | opcode])
    if size < 126:
        head += bytes([mask_bit | size])
    elif size < 1 << 16:
        head += bytes([mask_bit | 126]) + struct.pack(">H", size)
    else:
        head += bytes([mask_bit | 127]) + struct.pack(">Q", size)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


async def read_frame(reader) -> tuple[bool, int, bytes]:
    first, second = await reader.readexactly(2)
    size = second & 0x7F
    if size > 125:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8))
    mask = await reader.readexactly(4) if second & 0x80 else bytes(4)
    payload = await reader.readexactly(size)
    if any(mask):
        payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return bool(first & 0x80), first & 0x0F, payload


@dataclass
class Ended:
    """The end of a socket: the close frame of the other side, or 1006."""

    code: int = 1006
    reason: str = ""


@dataclass
class Socket:
    """One end of an open WebSocket. `read` answers pings and joins fragments."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    is_client: bool
    head: Head
    _sent_close: bool = field(default=False)

    async def read(self) -> str | bytes | Ended:
        whole, kind = b"", TEXT
        try:
            while True:
                final, opcode, payload = await read_frame(self.reader)
                if opcode == PING:
                    self.send_frame(PONG, payload)
                elif opcode == CLOSE:
                    if not self._sent_close:
                        self.send_frame(CLOSE, payload[:2])
                    if len(payload) < 2:
                        return Ended(1005)
                    return Ended(int.from_bytes(payload[:2]), payload[2:].decode())
                elif opcode != PONG:
                    kind, whole = opcode or kind, whole + payload
                    if final:
                        return whole.decode() if kind == TEXT else whole
        except (asyncio.IncompleteReadError, ConnectionError):
            return Ended()

    def send_frame(self, opcode: int, payload: bytes, final: bool = True) -> None:
        self._sent_close |= opcode == CLOSE
        if not self.writer.is_closing():
            self.writer.write(frame(opcode, payload, masked=self.is_client, final=final))

    def send(self, text: str) -> None:
        self.send_frame(TEXT, text.encode())

    def close(self, code: int, reason: str = "") -> None:
        self.send_frame(CLOSE, struct.pack(">H", code) + reason.encode())

    def drop(self) -> None:
        """Ends the TCP connection without a close frame."""
        self.writer.transport.abort()


async def request(port: int, method: str, target: str, headers=None, body: bytes = b"") -> Head:
    """Sends one plain request and returns the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    names = {"host": f"127.0.0.1:{port}", "content-length": len(body), "connection": "close"}
    lines = [f"{name}: {value}" for name, value in {**names, **(headers or {})}.items()]
    writer.write(f"{method} {target} HTTP/1.1\r\n".encode() + "\r\n".join(lines).encode())
    writer.write(b"\r\n\r\n" + body)
    try:
        answer = await asyncio.wait_for(read_head(reader), 10)
        if answer is None:
            raise ConnectionError("no whole answer")
        return answer
    finally:
        writer.close()


async def open_socket(port: int, target: str, headers=None) -> Socket | Head:
    """Opens a WebSocket. Returns the head of the answer if it is not a 101."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    key = base64.b64encode(os.urandom(16)).decode()
    names = {
        "host": f"127.0.0.1:{port}",
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": key,
        **(headers or {}),
    }
    lines = [f"{name}: {value}" for name, value in names.items()]
    writer.write(f"GET {target} HTTP/1.1\r\n".encode() + "\r\n".join(lines).encode() + b"\r\n\r\n")
    answer = await asyncio.wait_for(read_answer(reader), 10)
    if answer.status != 101:
        writer.close()
        return answer
    if answer.headers.get("sec-websocket-accept") != accept_key(key):
        raise ConnectionError("wrong Sec-WebSocket-Accept")
    return Socket(reader, writer, True, answer)


async def read_answer(reader) -> Head:
    answer = await read_head(reader)
    if answer is None:
        raise ConnectionError("no whole answer")
    return answer
