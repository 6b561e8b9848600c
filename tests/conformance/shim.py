"""Authenticates by a first message for a client that does not know how.

It forwards bytes. After the upgrade request of the client, and before any other byte of the client,
it sends one text frame with the token. Usage: TOKEN=... shim.py PORT, where PORT is the port of
Usher on loopback. Prints its own port.
"""

import asyncio
import json
import os
import struct
import sys

CHUNK = 256 * 1024


def auth_frame(token):
    payload = json.dumps({"type": "auth", "payload": {"token": token}}).encode()
    length = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack("!H", len(payload))
    mask = os.urandom(4)
    return b"\x81" + length + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


async def copy(reader, writer):
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def forward(reader, writer, port, token):
    server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port, limit=CHUNK)
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        server_writer.write(head + auth_frame(token))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(copy(reader, server_writer))
            tasks.create_task(copy(server_reader, writer))
    except* (OSError, asyncio.IncompleteReadError):
        # One side was lost, so both connections are cut.
        writer.transport.abort()
        server_writer.transport.abort()
    finally:
        writer.close()
        server_writer.close()


async def main():
    port, token = int(sys.argv[1]), os.environ["TOKEN"]
    server = await asyncio.start_server(lambda r, w: forward(r, w, port, token), "127.0.0.1", 0, limit=CHUNK)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
