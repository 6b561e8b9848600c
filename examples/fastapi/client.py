"""A client that exchanges its token for a ticket, and opens the WebSocket with it.

    TOKEN=... python client.py
"""

import asyncio
import json
import os
import sys
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

USHER = "127.0.0.1:8080"


def address(token: str | None) -> str:
    """Returns the address with a ticket, which opens one connection within 30 seconds."""
    if token is None:
        return f"ws://{USHER}/ws"
    ask = Request(f"http://{USHER}/websocket/ticket", b"", {"Authorization": f"Bearer {token}"})
    with urlopen(ask, timeout=10) as answer:
        return json.load(answer)["websocket_url"]


async def main() -> int:
    try:
        async with connect(address(os.environ.get("TOKEN"))) as socket:
            print("authenticated as", json.loads(await socket.recv())["user"])
            await socket.send("hello")
            print(await socket.recv())
    except InvalidStatus as refusal:
        print("refused:", refusal.response.status_code, json.loads(refusal.response.body)["code"])
        return 1
    except HTTPError as refusal:
        print("refused a ticket:", refusal.code, json.load(refusal)["code"])
        return 1
    return 0


sys.exit(asyncio.run(main()))
