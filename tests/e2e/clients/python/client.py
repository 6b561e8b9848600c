"""Echoes messages through the given URL, with the given certificate as its authority."""

import asyncio
import ssl
import sys

import websockets


async def main(url: str, certificate: str) -> None:
    context = ssl.create_default_context(cafile=certificate)
    async with websockets.connect(url, ssl=context, max_size=None) as socket:
        for size in (0, 1, 125, 126, 65535, 65536, 200_000):
            for message in ("x" * size, b"\x00" * size):
                await socket.send(message)
                assert await socket.recv() == message, size
    print("ok", socket.close_code)


asyncio.run(main(*sys.argv[1:]))
