"""Compares the scripted server with the real Usher: equal requests must get equal answers."""

import asyncio
import json

import tokens
from real import RealUsher
from server import ScriptedUsher
from wire import Ended, Head, Socket, open_socket, request

EXCHANGES = []
# These values are compared. Of all others, only the types are.
COMPARED = {
    "type", "code", "recoverable", "message", "status", "details", "single_use", "ttl_seconds",
    "method", "methods", "route", "legacy", "legacy_methods", "enforced", "ticket_path",
    "first_message", "user", "reason", "attempts_left", "title",
}  # fmt: skip
HEADERS = ("content-type", "cache-control", "www-authenticate", "sec-websocket-protocol")
SLACK = {"title", "detail"}
# Differences between the specification and the binary. They are reported and do not fail the run.
AWAITED: set[str] = set()


def exchange(name: str, **options):
    def add(function):
        EXCHANGES.append((name, options, function))
        return function

    return add


def shape(value, key: str = ""):
    """Returns the value with its type in place of each part that differs from run to run."""
    if isinstance(value, dict):
        return {
            name: shape(item, name) for name, item in sorted(value.items()) if name not in SLACK
        }
    if key in COMPARED or value is None or isinstance(value, bool):
        return value
    return [shape(item) for item in value] if isinstance(value, list) else type(value).__name__


def of_head(head: Head):
    headers = {name: head.headers[name] for name in HEADERS if name in head.headers}
    return ["HTTP", head.status, headers, shape(head.json())]


async def of_socket(socket: Socket | Head, count: int = 99, timeout: float = 12):
    """Returns the frames and the end of a socket, at most `count` in all."""
    if isinstance(socket, Head):
        return [of_head(socket)]
    seen = []
    while len(seen) < count:
        item = await asyncio.wait_for(socket.read(), timeout)
        if isinstance(item, Ended):
            return [*seen, ["close", item.code, item.reason]]
        try:
            seen.append(["frame", shape(json.loads(item))])
        except ValueError:
            seen.append(["text", item])
    return seen


class Side:
    """One of the two servers, with a raw client."""

    def __init__(self, world):
        self.world, self.is_real = world, isinstance(world, RealUsher)

    @property
    def port(self) -> int:
        return self.world.upstream_port if self.is_real else self.world.port

    async def ticket(self, token: str | None = "", body: bytes = b"") -> Head:
        head = {"authorization": f"Bearer {token or tokens.mint()}"} if token is not None else {}
        return await request(self.port, "POST", "/websocket/ticket", head, body)

    async def open(self, query: str = "", headers=None) -> Socket | Head:
        return await open_socket(self.port, "/ws" + query, headers)

    async def begin(self, token: str) -> Socket:
        """Logs in by first message, and reads `auth_ok`."""
        socket = await self.open()
        say(socket, token)
        await socket.read()
        return socket

    async def asked(self) -> Socket:
        """Opens a session and waits until the server asks it for a new credential."""
        socket = await self.begin(tokens.mint(seconds=6))
        if not self.is_real:
            self.world.conns[-1].ask(self.world.script_grace)
        await socket.read()
        return socket


def say(socket: Socket, token: str | None, type: str = "auth") -> None:
    payload = {} if token is None else {"token": token}
    socket.send(json.dumps({"type": type, "id": "m1", "payload": payload}))


@exchange("ticket: issued")
async def _(side: Side):
    return of_head(await side.ticket())


@exchange("ticket: no credential")
async def _(side: Side):
    return of_head(await side.ticket(None))


@exchange("ticket: wrong token")
async def _(side: Side):
    return of_head(await side.ticket("x.y.z"))


@exchange("ticket: an array as the body")
async def _(side: Side):
    return of_head(await side.ticket(body=b"[]"))


@exchange("ticket: no route takes tickets", methods=["message"])
async def _(side: Side):
    return of_head(await side.ticket())


@exchange("config")
async def _(side: Side):
    return of_head(await request(side.port, "GET", "/websocket/config?route=%2Fws"))


@exchange("config: the first message alone", methods=["message"])
async def _(side: Side):
    return of_head(await request(side.port, "GET", "/websocket/config?route=%2Fws"))


@exchange("upgrade: by ticket, then the same again")
async def _(side: Side):
    id = (await side.ticket()).json()["ticket_id"]
    first, second = await side.open(f"?ticket={id}"), await side.open(f"?ticket={id}")
    first.send("hello")
    seen = await of_socket(first, 1)
    return [first.head.status, seen, of_head(second)]


@exchange("upgrade: unknown ticket")
async def _(side: Side):
    return of_head(await side.open("?ticket=AAAA"))


@exchange("upgrade: no credential, and no first message", methods=["ticket"])
async def _(side: Side):
    return of_head(await side.open())


@exchange("upgrade: by subprotocol")
async def _(side: Side):
    socket = await side.open("", {"sec-websocket-protocol": f"bearer, {tokens.mint()}"})
    return of_head(socket.head)


@exchange("upgrade: by subprotocol, wrong token")
async def _(side: Side):
    return of_head(await side.open("", {"sec-websocket-protocol": "bearer, x.y.z"}))


def first_messages(codes: str) -> None:
    async def good(side: Side):
        socket = await side.open()
        say(socket, tokens.mint())
        socket.send("hello")
        return await of_socket(socket, 2)

    async def not_auth(side: Side):
        socket = await side.open()
        say(socket, "x", "hello")
        return await of_socket(socket)

    async def missing(side: Side):
        socket = await side.open()
        say(socket, None)
        return await of_socket(socket)

    async def wrong(side: Side):
        socket = await side.open()
        say(socket, "x.y.z")
        return await of_socket(socket)

    async def silent(side: Side):
        return await of_socket(await side.open())

    for function in (good, not_auth, missing, wrong, silent):
        name = f"first message, {codes}: {function.__name__.replace('_', ' ')}"
        exchange(name, close_codes=codes, auth_timeout=1)(function)


first_messages("rfc")
first_messages("http")


@exchange("first message: ack = false", ack=False)
async def _(side: Side):
    socket = await side.open()
    say(socket, tokens.mint())
    socket.send("hello")
    return await of_socket(socket, 1)


@exchange("renewal: question and answer", keys={"route.reauth.grace": "3s"})
async def _(side: Side):
    token = tokens.mint(seconds=6)
    socket = await side.begin(token)
    if not side.is_real:
        side.world.conns[-1].ask(3)
    question = json.loads(await socket.read())
    seen = [shape(question), question["payload"]["expires_at"] == tokens.judge(token)["exp"] * 1000]
    say(socket, tokens.mint())
    seen += await of_socket(socket, 1)
    socket.send("still talking")
    return seen + await of_socket(socket, 1)


@exchange("renewal: three wrong answers")
async def _(side: Side):
    socket = await side.asked()
    for _ in range(3):
        say(socket, "x.y.z")
        await asyncio.sleep(0.2)
    return await of_socket(socket)


@exchange("renewal: a token that is not newer")
async def _(side: Side):
    old = tokens.mint(seconds=6)
    socket = await side.begin(old)
    if not side.is_real:
        side.world.conns[-1].ask(3)
    await socket.read()
    say(socket, old)
    return await of_socket(socket, 1)


@exchange("renewal: another subject")
async def _(side: Side):
    socket = await side.asked()
    say(socket, tokens.mint("bob"))
    return await of_socket(socket)


@exchange("renewal: no answer", keys={"route.reauth.grace": "1s"})
async def _(side: Side):
    return await of_socket(await side.asked())


@exchange("renewal: unasked, on a proactive route", proactive=True)
async def _(side: Side):
    socket = await side.begin(tokens.mint(seconds=600))
    say(socket, tokens.mint(seconds=900))
    return await of_socket(socket, 1)


@exchange("session: revoked", close_codes="http")
async def _(side: Side):
    socket = await side.begin(tokens.mint())
    if side.is_real:
        await side.world.revoke("ada")
    else:
        side.world.conns[-1].refuse("SESSION_REVOKED")
    return await of_socket(socket)


@exchange("session: expired", keys={"route.reauth.mode": "close"})
async def _(side: Side):
    socket = await side.begin(tokens.mint(seconds=2))
    if not side.is_real:
        conn = side.world.conns[-1]
        conn.refuse("SESSION_EXPIRED", details={"expires_at": conn.claims["exp"] * 1000})
    return await of_socket(socket)


@exchange(
    "session: replaced", keys={"limits.sessions_per_user": 1, "limits.extra_sessions": "replace-oldest"}
)
async def _(side: Side):
    socket = await side.begin(tokens.mint())
    if side.is_real:
        await side.begin(tokens.mint())
    else:
        side.world.conns[-1].refuse("SESSION_REPLACED")
    return await of_socket(socket)


@exchange("session: drained")
async def _(side: Side):
    socket = await side.begin(tokens.mint())
    if side.is_real:
        asyncio.get_running_loop().call_soon(side.world.terminate)
    else:
        side.world.conns[-1].close(1001, "Server going away")
    return await of_socket(socket)


async def _observe(binary: str | None, options: dict, function):
    if binary:
        world = RealUsher(binary, **options)
    else:
        options = dict(options)
        grace = options.pop("keys", {}).get("route.reauth.grace", "3s")
        world = ScriptedUsher(**options)
        world.script_grace = int(grace.removesuffix("s"))
    await world.start()
    try:
        async with asyncio.timeout(40):
            return await function(Side(world))
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    finally:
        await world.stop()


async def run(binary: str) -> int:
    """Prints each difference. Returns 1 if there is one."""
    places = asyncio.Semaphore(6)

    async def both(options, function):
        async with places:
            return await _observe(None, options, function), await _observe(
                binary, options, function
            )

    pairs = await asyncio.gather(*(both(options, function) for _, options, function in EXCHANGES))
    wrong = awaited = 0
    for (name, _, _), (scripted, real) in zip(EXCHANGES, pairs):
        if scripted != real:
            is_awaited = name in AWAITED
            wrong, awaited = wrong + (not is_awaited), awaited + is_awaited
            print(f"self-check: {name}\n  scripted: {scripted}\n  real:     {real}", flush=True)
    same = len(EXCHANGES) - wrong - awaited
    print(
        f"self-check: {len(EXCHANGES)} exchanges, {same} the same, {wrong} not, {awaited} awaited"
    )
    return int(wrong > 0)
