"""Rules of SPEC section 3, 'First message'."""

import asyncio
import json
import time

import answers
import tokens
from rules import Case, expect, gaps, rule

PART = "First message"


@rule("F01", PART, "the first message is the credential; the URL has none", real=True)
async def first_message_is_the_credential(case: Case):
    world = await case.world()
    client = await case.connected(world, "message")
    head = world.ledger.all("upgrade")[0]
    expect(not head.query, f"the URL has {sorted(head.query)}")
    expect("authorization" not in head.headers, "the upgrade has Authorization")
    first = json.loads(world.ledger.all("message")[0][1])
    expect(first.get("type") == "auth", f"the first message has the type {first.get('type')}")
    expect(first["payload"].get("token") in client.tokens_given, "payload.token is not the token")
    return "type auth, payload.token"


@rule("F02", PART, '{"type":"auth","id","timestamp","payload"}: one text message', real=True)
async def first_message_has_its_fields(case: Case):
    world = await case.world()
    await case.connected(world, "message")
    first = json.loads(world.ledger.all("message")[0][1])
    expect(set(first) >= {"type", "id", "timestamp", "payload"}, f"the fields are {sorted(first)}")
    expect(isinstance(first["id"], str) and 0 < len(first["id"]) <= 128, "id is no short text")
    expect("T" in str(first["timestamp"]), f"timestamp is {first['timestamp']}")
    return "type, id, timestamp and payload"


@rule("F03", PART, "auth_ok means authenticated; before it the client is authenticating", real=True)
async def authenticated_by_auth_ok(case: Case):
    world = await case.world()
    client = await case.connected(world, "message")
    expect(client.states[-2:] == ["authenticating", "authenticated"], f"states {client.states}")
    expect(
        set(client.states) <= {"connecting", "authenticating", "authenticated"}, f"{client.states}"
    )
    await asyncio.sleep(0.2)
    expect(not client.messages, f"the application got {client.messages}")
    return " > ".join(client.states) + "; auth_ok stays away from the application"


@rule(
    "F04",
    PART,
    "messages of before are sent after auth_ok, in order, once",
    needs=("queue",),
    real=True,
)
async def queue_is_flushed_in_order(case: Case):
    world = await case.world()
    client = await case.client(world, "message")
    texts = [f"early {n}" for n in range(20)]
    results = {await client.send(text) for text in texts}
    expect(results == {"queued"}, f"send() before connect() said {results}")
    client.tell("connect")
    expect(
        await client.receives(texts), f"{len(client.messages)} of 20 came back, or in another order"
    )
    conn = await world.conn(1)
    expect(conn.texts == texts, "the backend got something else")
    return "20 queued, 20 delivered in order"


@rule("F05", PART, "ack = false: the first message of the backend means authenticated", real=True)
async def first_backend_message_authenticates(case: Case):
    world = await case.world(ack=False, greeting="hello")
    client = await case.client(world, "message")
    client.tell("connect")
    conn = await world.conn(1)
    await conn.next_auth(1)
    await asyncio.sleep(0.1)
    before = client.state
    if not case.is_real:
        conn.send("hello")
    expect(await client.reaches("authenticated"), f"state is {client.state}")
    expect(await client.receives(["hello"]), "the message itself did not arrive")
    expect(before == "authenticating", f"the state was {before} before")
    return "authenticating, then authenticated by the message, which is delivered"


@rule("F06", PART, "no auth_ok: the client's own timer of 5 s, then disconnected", real=True)
async def own_timer_ends_the_wait(case: Case):
    world = await case.world()
    world.is_mute = True
    client = await case.client(world, "message")
    client.tell("connect")
    conn = await world.conn(1)
    opened = time.monotonic()
    expect(await client.reaches("disconnected", 12), f"state is {client.state} after 12 s")
    waited = time.monotonic() - opened
    expect(4.8 < waited < 8, f"it waited {waited:.1f} s")
    expect(await conn.ended(3), "the socket is still open")
    expect(await world.ledger.quiet("opened", 1), "it came again by itself")
    return f"disconnected after {waited:.1f} s, socket closed"


@rule("F07", PART, "an auth_ok that comes after the client's timer changes nothing")
async def late_auth_ok_is_nothing(case: Case):
    world = await case.world()
    world.is_mute = True
    client = await case.client(world, "message")
    client.tell("connect")
    conn = await world.conn(1)
    await client.reaches("disconnected", 12)
    conn.accept(tokens.judge(client.tokens_given[0]))
    await asyncio.sleep(0.5)
    expect(client.state == "disconnected", f"state is {client.state}")
    world.is_mute = False
    client.tell("reconnect")
    expect(await client.reaches("authenticated"), "reconnect() did not work")
    return "stays disconnected; reconnect() works"


async def _refusal(case: Case, code: str, codes: str = "rfc", provoke=None, **changes):
    """Starts a client whose first attempt is refused with `code`. Later ones are let in."""
    if case.is_real:
        world, client = await provoke(case)
    else:
        world = await case.world(close_codes=codes)

        async def refuse(conn, message):
            conn.refuse(code, message.get("id"), **changes)

        world.on_auth.append(refuse)
        client = await case.client(world, "message")
    client.tell("connect")
    end = await (await world.conn(1)).ended(10)
    reason = answers.REFUSALS[code][2]
    expect(end and end.reason == reason, f"the connection ended with {end}, not with {reason}")
    return world, client


async def _first_token_is(case: Case, token: str, then=tokens.mint, **options):
    world = await case.world(**options)
    client = await case.client(world, "message")
    client.on_token = lambda asked: token if not world.conns else then()
    return world, client


async def _too_late(case: Case):
    """Holds the first message back on its way."""
    world = await case.world(auth_timeout=1)
    world.holds.append(1.5)
    return world, await case.client(world, "message")


async def _bound_token(case: Case):
    return await _first_token_is(case, tokens.mint(cnf={"jkt": "x"}))


async def _without_permission(case: Case):
    def permitted() -> str:
        return tokens.mint(permissions=["chat:read"])

    return await _first_token_is(
        case, tokens.mint(), permitted, keys={"route.require": ["chat:read"]}
    )


async def _without_backend(case: Case):
    world = await case.world()
    world.backend.stop()

    async def start_again():
        await (await world.conn(1)).ended(10)
        await world.backend.start()

    case.after(start_again())
    return world, await case.client(world, "message")


async def _too_big(case: Case):
    return await _first_token_is(case, tokens.mint(filler="x" * 20_000))


async def _comes_again(case: Case, code: str, codes: str = "rfc", **changes):
    world, client = await _refusal(case, code, codes, **changes)
    expect(await client.reaches("authenticated"), f"state is {client.state}")
    given = client.tokens_given
    expect(len(given) >= 2 and given[0] != given[-1], "get_token was not called again")
    reasons = ", ".join(client.reasons)
    return f"a new connection, get_token for {reasons}"


async def _stays_away(case: Case, code: str, codes: str = "rfc", **changes):
    world, client = await _refusal(case, code, codes, **changes)
    expect(await client.reaches("disconnected"), f"state is {client.state}")
    expect(await world.ledger.quiet("opened", 1.2), "it came again")
    client.tell("reconnect")
    expect(await client.reaches("authenticated"), "reconnect() did not work after that")
    return "disconnected, nothing for 1.2 s; reconnect() works"


def _refusal_rule(
    id: str, sentence: str, outcome, code: str, codes: str = "rfc", provoke=None, **changes
):
    """Adds a rule. `provoke` makes the real Usher refuse the first attempt with that code."""

    async def run(case: Case):
        return await outcome(case, code, codes, provoke=provoke, **changes)

    rule(id, PART, sentence, real=provoke is not None)(run)


_refusal_rule(
    "F08",
    "1008 `First message must be auth` (frame: recoverable)",
    _comes_again,
    "FIRST_MESSAGE_NOT_AUTH",
)
_refusal_rule(
    "F09", "1008 `Missing auth token` (frame: recoverable)", _comes_again, "MISSING_CREDENTIAL"
)
_refusal_rule(
    "F10", "1008 `Invalid token` (frame: recoverable): a fresh token", _comes_again, "INVALID_TOKEN"
)
_refusal_rule(
    "F11",
    "1008 `Invalid token` without a frame: a fresh token",
    _comes_again,
    "INVALID_TOKEN",
    frame=False,
)
_refusal_rule(
    "F12",
    "1008 `Authentication timeout`: a fresh token",
    _comes_again,
    "AUTHENTICATION_TIMEOUT",
    provoke=_too_late,
)
_refusal_rule(
    "F13",
    "a frame with recoverable: false ends it",
    _stays_away,
    "INVALID_TOKEN",
    provoke=_bound_token,
    recoverable=False,
)
_refusal_rule(
    "F14",
    "1008 `Missing permission` (recoverable: false)",
    _stays_away,
    "MISSING_PERMISSION",
    provoke=_without_permission,
)
_refusal_rule("F15", "1013 (store away): back-off, then again", _comes_again, "STORE_UNAVAILABLE")
_refusal_rule(
    "F16",
    "1013 `Upstream unavailable`: back-off, then again",
    _comes_again,
    "UPSTREAM_UNAVAILABLE",
    provoke=_without_backend,
)
_refusal_rule("F17", "1011 `Internal error`: back-off, then again", _comes_again, "INTERNAL")
_refusal_rule(
    "F18",
    "close_codes http: 4400 without a frame ends it",
    _stays_away,
    "FIRST_MESSAGE_NOT_AUTH",
    "http",
    frame=False,
)
_refusal_rule(
    "F19",
    "close_codes http: 4401 without a frame: a fresh token",
    _comes_again,
    "INVALID_TOKEN",
    "http",
    frame=False,
)
_refusal_rule(
    "F20",
    "close_codes http: 4403 without a frame ends it",
    _stays_away,
    "MISSING_PERMISSION",
    "http",
    frame=False,
)
_refusal_rule(
    "F21", "close_codes http: 4403 with a recoverable frame", _comes_again, "INVALID_TICKET", "http"
)
_refusal_rule(
    "F22",
    "close_codes http: 4408 without a frame: a fresh token",
    _comes_again,
    "AUTHENTICATION_TIMEOUT",
    "http",
    frame=False,
)
_refusal_rule(
    "F23",
    "close_codes http: 4409 without a frame ends it",
    _stays_away,
    "SESSION_REPLACED",
    "http",
    frame=False,
)
_refusal_rule(
    "F24",
    "close_codes http: 4429: back-off, then again",
    _comes_again,
    "RATE_LIMITED",
    "http",
    frame=False,
)
_refusal_rule(
    "F25",
    "close_codes http: 4503: back-off, then again",
    _comes_again,
    "STORE_UNAVAILABLE",
    "http",
    frame=False,
)


_refusal_rule(
    "F34",
    "at most 16 KiB: 1009 `First message too big` ends it",
    _stays_away,
    "FIRST_MESSAGE_TOO_BIG",
    provoke=_too_big,
)


@rule("F26", PART, "`Invalid token` for a stale token: one refresh is enough", real=True)
async def stale_token_is_refreshed(case: Case):
    world = await case.world()
    client = await case.client(world, "message")
    client.on_token = lambda asked: tokens.mint() if asked.get("reason") == "rejected" else "x.y.z"
    client.tell("connect")
    expect(await client.reaches("authenticated"), f"state is {client.state}")
    expect(len(world.conns) == 2, f"{len(world.conns)} connections")
    return f"2 connections, get_token for {', '.join(client.reasons)}"


@rule("F27", PART, "`Invalid token` again and again: back-off, not a loop", real=True)
async def stale_tokens_back_off(case: Case):
    world = await case.world()
    client = await case.client(world, "message", backoff_min=0.5, backoff_max=2)
    client.on_token = lambda asked: "x.y.z"
    client.tell("connect")
    await asyncio.sleep(3)
    opened = len(world.conns)
    expect(2 <= opened <= 12, f"{opened} connections in 3 s")
    return f"{opened} connections in 3 s with a back-off of 0.5 to 2 s"


@rule("F28", PART, "get_token may be slow: it is called before the socket is opened", real=True)
async def token_comes_before_the_socket(case: Case):
    world = await case.world(auth_timeout=1)
    client = await case.client(world, "message")

    async def slow(asked):
        await asyncio.sleep(2)
        return tokens.mint()

    client.on_token = slow
    client.tell("connect")
    expect(await client.reaches("authenticated", 10), f"state is {client.state}")
    expect(
        len(world.conns) == 1, f"{len(world.conns)} connections: the socket waited for the token"
    )
    return "a token that takes 2 s on a route that waits 1 s"


@rule(
    "F29",
    PART,
    "messages of the backend named `error` or `auth_ok` are the application's",
    real=True,
)
async def foreign_messages_pass(case: Case):
    world = await case.world()
    client = await case.connected(world, "message")
    conn = await world.conn(1)
    texts = ['{"type":"error","payload":{"code":"OUT_OF_TEA"}}', '{"type":"auth_ok","payload":{}}',
             '{"type":"error"}', '["auth_ok"]', '{"type":"auth_required"}', "{",
             "auth_ok"]  # fmt: skip
    for text in texts:
        # The real backend echoes the message.
        conn.send(text) if not case.is_real else await client.send(text)
    expect(await client.receives(texts), f"the application got {client.messages}")
    expect(client.state == "authenticated", f"state is {client.state}")
    return f"{len(texts)} messages delivered as they were"


@rule(
    "F30",
    PART,
    "subprotocol: the pair `bearer, <token>`; nothing in the URL",
    needs=("subprotocol",),
    real=True,
)
async def subprotocol_carries_the_token(case: Case):
    world = await case.world(methods=["subprotocol"])
    client = await case.connected(world, "subprotocol")
    head = world.ledger.all("upgrade")[0]
    offers = [name.strip() for name in head.headers["sec-websocket-protocol"].split(",")]
    expect(
        any(token in offers for token in client.tokens_given),
        f"{len(offers)} offers, none is the token",
    )
    expect(await client.send("hello") in ("sent", "queued"), "send() failed")
    expect(await client.receives(["hello"]), "no echo")
    return f"{len(offers)} offers, the token among them"


@rule("F31", PART, "get_token: UnauthorizedError stops; reconnect() always works again", real=True)
async def unauthorized_stops(case: Case):
    world = await case.world()
    client = await case.client(world, "message")
    client.on_token = lambda asked: "unauthorized"
    client.tell("connect")
    expect(await client.reaches("disconnected"), f"state is {client.state}")
    await asyncio.sleep(1)
    expect(
        len(client.reasons) == 1 and not world.conns,
        f"get_token was called {len(client.reasons)} times",
    )
    client.on_token = lambda asked: tokens.mint()
    client.tell("reconnect")
    expect(await client.reaches("authenticated"), f"state is {client.state} after reconnect()")
    return "one call, disconnected; reconnect() works"


@rule("F32", PART, "get_token fails otherwise: back-off, then again", real=True)
async def token_failure_is_retried(case: Case):
    world = await case.world()
    client = await case.client(world, "message")
    client.on_token = lambda asked: "failure" if len(client.reasons) < 3 else tokens.mint()
    client.tell("connect")
    expect(await client.reaches("authenticated"), f"state is {client.state}")
    expect(len(client.reasons) >= 3, f"get_token was called {len(client.reasons)} times")
    times = [f"{gap * 1000:.0f} ms" for gap in gaps(client.ledger.times("token_wanted"))]
    return f"{len(client.reasons)} calls, gaps {', '.join(times)}"


@rule("F33", PART, "reject_mode close: refused right behind the 101, by code and reason", real=True)
async def refusal_behind_the_101(case: Case):
    world = await case.world(close_codes="http", keys={"route.reject_mode": "close"})
    client = await case.client(world, "ticket")
    if case.is_real:
        world.on_upgrade.append(world.redeem)
    client.tell("connect")
    conn = await world.conn(1)
    if not case.is_real:
        conn.close(4403, "Invalid token (4df8268adfcbeba14fa867255d2e364a)")
    end = await conn.ended()
    expect(end and end.code == 4403, f"the connection ended with {end}")
    await world.conn(2)
    expect(await client.reaches("authenticated"), f"state is {client.state}")
    shown = [head.query["ticket"] for head in world.ledger.all("upgrade")]
    expect(len(set(shown)) == len(shown), "the refused ticket was shown again")
    return f"4403 {end.reason.split(' (')[0]}: a new ticket and a new connection"


@rule(
    "F37",
    PART,
    "reject_mode close: 1008 `Missing permission` and the request id: the client stops",
    real=True,
)
async def denial_behind_the_101(case: Case):
    keys = {"route.reject_mode": "close", "route.require": ["chat:read"]}
    world = await case.world(keys=keys)
    client = await case.client(world, "ticket")
    client.tell("connect")
    conn = await world.conn(1)
    if not case.is_real:
        conn.close(1008, "Missing permission (d0d469d6322d4d9debb0e399b0138085)")
    end = await conn.ended()
    expect(end and end.reason.startswith("Missing permission"), f"the connection ended with {end}")
    expect(await client.reaches("disconnected"), f"state is {client.state}")
    expect(await world.ledger.quiet("opened", 1.2), "it came again")
    return "disconnected, nothing for 1.2 s"


CHAT = ["chat.v2", "chat.v1"]


async def _with_subprotocols(case: Case, mode: str) -> tuple:
    world = await case.world(subprotocols=CHAT, keys={"route.subprotocols": CHAT})
    client = await case.connected(world, mode, subprotocols=["chat.v1", "chat.v2"])
    expect(await client.send("hello") in ("sent", "queued"), "send() failed")
    expect(await client.receives(["hello"]), "no echo")
    offers = world.ledger.all("upgrade")[0].headers.get("sec-websocket-protocol", "")
    offers = [name.strip() for name in offers.split(",")]
    names = [name for name in offers if name.startswith("chat.")]
    expect(names == ["chat.v1", "chat.v2"], f"the offers are {names}")
    return client, offers


@rule(
    "F35",
    PART,
    "Subprotocol on the early 101: the application's are offered, in its order",
    needs=("subprotocols",),
    real=True,
)
async def subprotocols_are_offered(case: Case):
    _, offers = await _with_subprotocols(case, "message")
    return f"offered {', '.join(offers)}; the connection stands"


@rule(
    "F36",
    PART,
    "subprotocol: beside the token the application's are offered; one of them is chosen",
    needs=("subprotocol", "subprotocols"),
    real=True,
)
async def subprotocols_beside_the_token(case: Case):
    client, offers = await _with_subprotocols(case, "subprotocol")
    expect(any(token in offers for token in client.tokens_given), "none of them is the token")
    return f"{len(offers)} offers, the token among them; the connection stands"
