"""Good and bad clients of every method."""

import asyncio
import contextlib
import json
import urllib.request

import websockets
from websockets.asyncio.client import connect
from world import HERE, PAGE, PARENT, World


def bearer(token: str) -> dict:
    return {"additional_headers": {"Authorization": f"Bearer {token}", "traceparent": PARENT}}


def cookie(text: str) -> dict:
    return {"additional_headers": {"Cookie": text}}


def auth(**fields) -> str:
    return json.dumps({"type": "auth", "id": "m1", "payload": fields})


def subprotocol(token: str) -> dict:
    return {"subprotocols": ["chat.v1", "bearer", token]}


async def good(world: World, user: str, node: int, stay: float = 0.0) -> dict:
    """Returns the result of one good client of each method."""
    visit, token = world.visit, world.token(user)
    remote, ticket = world.token(user, remote=True), await world.ticket(token, node)
    moved = await world.ticket(token, node)
    identity = {"additional_headers": {"X-Usher-Bypass": f"{world.bypass} {user} chat:read"}}
    clients = {
        "ticket": visit(f"/ws?ticket={ticket}", node, stay=stay),
        "header": visit("/ws", node, stay=stay, **bearer(remote)),
        "subprotocol": visit("/ws", node, **subprotocol(token)),
        "query": visit(f"/ws?access_token={token}", node),
        "cookie": visit("/ws", node, **cookie(f"access_token={token}")),
        "message": visit("/ws", node, first=auth(token=token), stay=stay),
        "session": visit("/opaque", node, stay=stay, **cookie("session=good-0123456789abcdef")),
        "verifier": visit("/opaque", node, stay=stay, **bearer(f"good-{user}-0123456789")),
        "mtls": visit("/devices", node, ssl=world.tls("ada"), origin=None),
        "bypass": visit("/test", node, **identity),
        "legacy": visit(f"/move?access_token={token}", node, **bearer(token)),
        "moved": visit(f"/move?ticket={moved}", node),
        "unrenewed": visit("/renew", node, first=auth(token=token), stay=4),
    }
    return dict(zip(clients, await asyncio.gather(*clients.values())))


async def bad(world: World, user: str, node: int) -> dict:
    """Returns the result of one bad client of each method, and of other refusals."""
    visit, token = world.visit, world.token(user)
    old, blind = world.token(user, seconds=-600), world.token(user, permissions=[])
    clients = {
        "ticket": visit("/ws?ticket=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", node),
        "header": visit("/ws", node, **bearer(old)),
        "subprotocol": visit("/ws", node, **subprotocol("wrong")),
        "query": visit("/ws?access_token=wrong", node),
        "cookie": visit("/ws", node, **cookie("access_token=wrong")),
        "message": visit("/ws", node, first=auth(token="wrong")),
        "session": visit("/opaque", node, **cookie("session=bad-0123456789abcdef")),
        "mtls": visit("/devices", node, ssl=world.tls("late"), origin=None),
        "no certificate": visit("/devices", node, ssl=world.tls(), origin=None),
        "bypass": visit("/test", node, additional_headers={"X-Usher-Bypass": "wrong ada"}),
        "origin": visit("/ws", node, origin="https://other.example.com", **bearer(token)),
        "permission": visit("/ws", node, **bearer(blind)),
        "nothing": visit("/test", node),
        "no route": visit("/nowhere", node),
        "silent": visit("/renew", node, messages=0, stay=3),
        "away": visit("/away", node, **bearer(token)),
        "shadow": visit("/move?access_token=wrong", node, **bearer(token)),
    }
    return dict(zip(clients, await asyncio.gather(*clients.values())))


async def renewed(world: World, user: str, node: int) -> None:
    """A session whose client answers the question for a new credential."""
    with contextlib.suppress(OSError, TimeoutError, websockets.WebSocketException):
        async with connect(world.url("/renew", node), origin=PAGE, compression=None) as client:
            await client.send(auth(token=world.token(user)))
            for _ in ("auth_ok", "auth_required"):
                await asyncio.wait_for(client.recv(), 10)
            await client.send(auth(token=world.token(user)))
            await asyncio.wait_for(client.recv(), 10)


def _get(url: str, token: str) -> None:
    head = {"authorization": f"Bearer {token}"}
    with contextlib.suppress(OSError):
        urllib.request.urlopen(urllib.request.Request(url, headers=head), timeout=5).close()


async def plain(world: World, node: int) -> None:
    """Plain requests, a proxied one, and a ticket that is never used."""
    one = world.nodes[node]
    for token in (world.token(), "wrong"):
        await asyncio.to_thread(_get, f"http://{HERE}:{one.port}/plain/page", token)
    await world.ticket("wrong", node)
    token = world.token("unused")
    ticket = await world.ticket(token, node)
    path = f"/websocket/ticket/{ticket}/validate"
    await asyncio.to_thread(_get, f"http://{HERE}:{one.port}{path}", token)
    for start in (
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET /x HTTP/1.1\r\nhost: a\r\n\r\n",
        b"x\r\n\r\n",
    ):
        reader, writer = await asyncio.open_connection(HERE, one.proxied)
        writer.write(start)
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(reader.read(64), 3)
        writer.close()


async def greedy(world: World, node: int, count: int) -> None:
    """One user asks for tickets, soon more than it may have."""
    token = world.token("greedy")
    await asyncio.gather(*(world.ticket(token, node) for _ in range(count)))
