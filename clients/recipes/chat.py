"""The Python client of this project: sends one message, stays through a renewal.

Usage: chat.py URL, with one token a line on stdin: the place of your own token source.
"""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))
from usher_client import Client, Options


async def get_token(context) -> str:
    return sys.stdin.readline().strip()


async def main() -> None:
    renewed = asyncio.Event()
    client = Client(sys.argv[1], get_token, Options(auth="message"))
    client.on("message", lambda text: print("got", text))
    client.on("reauth", lambda phase: phase == "ok" and renewed.set())
    async with client:
        await client.send("hello")
        await renewed.wait()
        print("renewed")


asyncio.run(main())
