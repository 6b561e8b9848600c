"""The backend of the conformance run: echoes every message unchanged. Prints its port."""

import asyncio
import os

# The library reads this when it is imported. One case sends a message in 65536 fragments.
os.environ["WEBSOCKETS_MAX_FRAGMENTS"] = "100000"

from websockets.asyncio.server import serve  # noqa: E402


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def main():
    async with serve(echo, "127.0.0.1", 0, max_size=None, ping_interval=None, compression="deflate") as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


asyncio.run(main())
