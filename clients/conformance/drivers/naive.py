"""A client that breaks every rule, which shows that the rules can fail.

It always sends the same ticket and token, reconnects at once and for ever, treats each open socket
as authenticated, answers no question, and passes the messages of Usher to the application.
"""

import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from wire import Ended, Socket, open_socket, request


def tell(event: str, **fields) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


class Naive:
    def __init__(self, order: dict):
        self.mode, self.port = order["mode"], int(order["url"].split(":")[2].split("/")[0])
        self.token = self.ticket = self.socket = None
        self.given = asyncio.Queue()

    async def connect(self) -> None:
        while True:
            tell("state", state="connecting")
            try:
                await self.attempt()
            except OSError:
                pass
            tell("state", state="reconnecting")
            await asyncio.sleep(0.05)

    async def attempt(self) -> None:
        if self.token is None:
            tell("token_wanted", n=1, reason="initial")
            self.token = (await self.given.get()).get("token", "none")
        query = f"?access_token={self.token}" if self.mode == "subprotocol" else "?v=1"
        if self.mode in ("ticket", "auto"):
            if self.ticket is None:
                head = {"authorization": f"Bearer {self.token}"}
                answer = await request(self.port, "POST", "/websocket/ticket", head, b'{"x":1}')
                self.ticket = (answer.json() or {}).get("ticket_id", "undefined")
            query += f"&ticket={self.ticket}"
        self.socket = await open_socket(self.port, "/ws" + query)
        if not isinstance(self.socket, Socket):
            return
        tell("state", state="authenticated")
        if self.mode == "message":
            self.socket.send(json.dumps({"type": "auth", "payload": {"token": self.token}}))
        while not isinstance(text := await self.socket.read(), Ended):
            tell("message", data=text)

    def send(self, order: dict) -> None:
        if isinstance(self.socket, Socket):
            self.socket.send(order["data"])
        tell("send", id=order["id"], result="sent")


async def main() -> None:
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    features = ["ticket", "message", "subprotocol", "auto", "queue", "reauthenticate", "reconnect"]
    tell("ready", client="naive", features=[*features, "prefetch", "wake", "subprotocols"])
    naive, tasks = None, []
    while line := await reader.readline():
        order = json.loads(line)
        if order["do"] == "create":
            naive = Naive(order)
        elif order["do"] == "token":
            naive.given.put_nowait(order)
        elif order["do"] == "send":
            naive.send(order)
        elif order["do"] in ("connect", "reconnect"):
            tasks.append(asyncio.create_task(naive.connect()))


asyncio.run(main())
