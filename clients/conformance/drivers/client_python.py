"""The driver of `usher_client` for Python, as docs/client-rules.md describes it."""

import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))
from usher_client import Client, Options, UnauthorizedError, __version__

FEATURES = ["ticket", "message", "subprotocol", "auto", "queue", "reauthenticate", "reconnect"]
FEATURES += ["prefetch", "wake", "subprotocols"]
waiting: dict[int, asyncio.Future] = {}


def tell(event: str, **fields) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


async def get_token(context) -> str:
    number = len(waiting) + 1
    waiting[number] = asyncio.get_running_loop().create_future()
    tell("token_wanted", n=number, reason=context.reason, rejected=context.rejected)
    given = await waiting[number]
    if "token" in given:
        return given["token"]
    raise UnauthorizedError("signed out") if given["error"] == "unauthorized" else OSError("away")


def create(order: dict) -> Client:
    names = Options.__dataclass_fields__
    known = {name: value for name, value in order["options"].items() if name in names}
    client = Client(order["url"], get_token, Options(auth=order["mode"], **known))
    client.on("state", lambda change: tell("state", state=change.state, reason=change.reason))
    client.on("message", lambda data: tell("message", data=data))
    client.on("method", lambda method: tell("method", method=method))
    client.on("drop", lambda data: tell("dropped", data=data))
    return client


async def main() -> None:
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tell("ready", client=f"usher-client {__version__} (Python)", features=FEATURES)
    client, tasks = None, set()

    async def run(order: dict) -> None:
        try:
            if order["do"] == "send":
                tell("send", id=order["id"], result=await client.send(order["data"]))
            else:
                await getattr(client, order["do"])()
        except Exception as error:
            tell("failed", what=order["do"], why=str(error))

    while line := await reader.readline():
        order = json.loads(line)
        if order["do"] == "create":
            client = create(order)
        elif order["do"] == "token":
            # Cancelled, where the client needs it no longer.
            if not waiting[order["n"]].done():
                waiting[order["n"]].set_result(order)
        elif order["do"] in ("wake", "clear_queue"):
            getattr(client, order["do"])()
        else:
            task = asyncio.create_task(run(order))
            tasks.add(task)
            task.add_done_callback(tasks.discard)


asyncio.run(main())
