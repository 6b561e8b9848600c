"""Rules of SPEC section 3, 'Re-authentication in the live stream'."""

import asyncio
import json

import tokens
from rules import Case, expect, rule

PART = "Re-authentication"
ONE_SESSION = {"limits.sessions_per_user": 1, "limits.extra_sessions": "replace-oldest"}


async def _asked(case: Case, world, client, number: int = 1, grace: float = 30):
    """Waits until the server asks for a new credential: by the script, or after a short token."""
    conn = await world.conn(number)
    if not case.is_real:
        conn.ask(grace)
    return conn


def _short_then_long(client):
    """Makes the first token short, so that a real Usher asks after 2 s, and later ones long."""
    client.on_token = lambda asked: tokens.mint(seconds=4 if len(client.reasons) == 1 else 600)


async def _session(case: Case, mode: str = "message", **options):
    world = await case.world(**options)
    client = await case.client(world, mode)
    _short_then_long(client)
    client.tell("connect")
    expect(await client.reaches("authenticated", 10), f"state is {client.state}")
    return world, client


def _first_answer(mode: str) -> int:
    """Returns the number of the first answer: in message mode, the login is auth message 1."""
    return 2 if mode == "message" else 1


@rule("R01", PART, "auth_required is answered with a fresh token in the stream", real=True)
async def question_is_answered(case: Case):
    world, client = await _session(case)
    conn = await _asked(case, world, client)
    answer = await conn.next_auth(2)
    expect(answer, "no auth message came")
    expect(answer["payload"]["token"] == client.tokens_given[-1], "the answer has an older token")
    expect(client.reasons[-1] == "auth_required", f"get_token was called for {client.reasons[-1]}")
    await asyncio.sleep(0.5)
    expect(len(world.conns) == 1 and client.state == "authenticated", f"state is {client.state}")
    return "get_token for auth_required; same socket, still authenticated"


@rule("R02", PART, "sessions that began with a ticket are renewed too", real=True)
async def ticket_session_is_renewed(case: Case):
    world, client = await _session(case, "ticket")
    conn = await _asked(case, world, client)
    expect(await conn.next_auth(1), "no auth message came")
    await asyncio.sleep(0.5)
    expect(len(world.conns) == 1 and client.state == "authenticated", f"state is {client.state}")
    return "answered in the stream of a ticket session"


@rule("R03", PART, "the answer has type, id, timestamp and payload.token", real=True)
async def answer_has_its_fields(case: Case):
    world, client = await _session(case)
    conn = await _asked(case, world, client)
    answer = await conn.next_auth(2)
    expect(
        answer and set(answer) >= {"type", "id", "timestamp", "payload"},
        f"fields {answer and sorted(answer)}",
    )
    expect(answer["id"] != conn.auths[0]["id"], "the id of the login was used again")
    return "all fields, a new id"


@rule("R04", PART, "other messages flow meanwhile: none lost, none twice, in order", real=True)
async def messages_flow_meanwhile(case: Case):
    world, client = await _session(case)
    texts = [f"message {n}" for n in range(30)]

    async def slow(asked):
        await asyncio.sleep(0.4)
        return tokens.mint()

    client.on_token = slow
    conn = await world.conn(1)
    for text in texts[:10]:
        await client.send(text)
    await _asked(case, world, client)
    await client.ledger.until(lambda: client.reasons[-1] == "auth_required", 8)
    for text in texts[10:]:
        await client.send(text)
    expect(await conn.next_auth(2), "no auth message came")
    expect(
        await client.receives(texts), f"{len(client.messages)} of 30 came back, or in another order"
    )
    expect(conn.texts == texts, "the backend got something else")
    return "30 messages around and between the two halves"


@rule("R05", PART, "neither half of a renewal reaches the application", real=True)
async def renewal_is_not_delivered(case: Case):
    world, client = await _session(case)
    conn = await _asked(case, world, client)
    await conn.next_auth(2)
    await client.send("hello")
    expect(await client.receives(["hello"]), "no echo")
    expect(client.messages == ["hello"], f"the application got {client.messages}")
    return "the application got its own message alone"


@rule("R06", PART, "a wrong credential may try again: with a fresh token", real=True)
async def wrong_answer_is_mended(case: Case):
    world, client = await _session(case)
    client.on_token = lambda asked: (
        "x.y.z" if asked.get("reason") == "auth_required" else tokens.mint()
    )
    conn = await _asked(case, world, client)
    expect(await conn.next_auth(3), f"{len(conn.auths) - 1} answers")
    expect(conn.auths[2]["payload"]["token"] != "x.y.z", "the wrong token again")
    await asyncio.sleep(0.3)
    expect(len(world.conns) == 1 and client.state == "authenticated", f"state is {client.state}")
    expect(client.reasons[-1] == "rejected", f"get_token was called for {client.reasons}")
    return f"get_token for {', '.join(client.reasons[1:])}; same socket"


@rule("R07", PART, "3 tries, then 1008 Re-authentication timeout: a new connection", real=True)
async def three_tries(case: Case):
    world, client = await _session(case)
    conn = await world.conn(1)
    client.on_token = lambda asked: tokens.mint() if conn.end else "x.y.z"
    await _asked(case, world, client, grace=3)
    end = await conn.ended(12)
    expect(end and end.reason == "Re-authentication timeout", f"the session ended with {end}")
    tries = len(conn.auths) - 1
    expect(2 <= tries <= 3, f"{tries} answers")
    await world.conn(2)
    expect(await client.reaches("authenticated"), f"state is {client.state}")
    return f"{tries} answers, then a new connection with a fresh token"


@rule("R08", PART, "a token that is not newer (NOT_RENEWED) is replaced", real=True)
async def same_token_is_replaced(case: Case):
    world, client = await _session(case)
    first = client.tokens_given[0]
    client.on_token = lambda asked: (
        first if asked.get("reason") == "auth_required" else tokens.mint()
    )
    conn = await _asked(case, world, client)
    expect(await conn.next_auth(3), f"{len(conn.auths) - 1} answers")
    await asyncio.sleep(0.3)
    expect(len(world.conns) == 1 and client.state == "authenticated", f"state is {client.state}")
    return "the next answer has a newer token"


@rule("R09", PART, "another subject ends the session; the client stops", real=True)
async def other_subject_ends(case: Case):
    world, client = await _session(case)
    client.on_token = lambda asked: tokens.mint("bob")
    conn = await _asked(case, world, client)
    end = await conn.ended()
    expect(end and end.reason == "Invalid token", f"the session ended with {end}")
    expect(await client.reaches("disconnected"), f"state is {client.state}")
    expect(await world.ledger.quiet("opened", 1.2), "it came again as another user")
    return "disconnected, nothing for 1.2 s"


@rule("R10", PART, "no answer in time: the client comes again with a fresh token", real=True)
async def late_answer_comes_again(case: Case):
    world = await case.world(keys={"route.reauth.grace": "1s"})
    client = await case.client(world, "message")
    gate = asyncio.Event()

    async def held(asked):
        if asked.get("reason") == "auth_required":
            await gate.wait()
        return tokens.mint(seconds=4 if len(client.reasons) == 1 else 600)

    client.on_token = held
    client.tell("connect")
    conn = await world.conn(1)
    await client.reaches("authenticated")
    await _asked(case, world, client, grace=1)
    end = await conn.ended(10)
    expect(end and end.reason == "Re-authentication timeout", f"the session ended with {end}")
    gate.set()
    await world.conn(2)
    expect(await client.reaches("authenticated"), f"state is {client.state}")
    return "closed after the grace, then a new connection"


@rule("R11", PART, "asked twice: one call of get_token")
async def doubled_question_is_one(case: Case):
    world, client = await _session(case)
    conn = await world.conn(1)

    async def slow(asked):
        await asyncio.sleep(0.5)
        return tokens.mint()

    client.on_token = slow
    conn.ask()
    conn.ask()
    await conn.next_auth(2)
    await asyncio.sleep(0.5)
    calls = client.reasons.count("auth_required")
    expect(calls == 1 and len(conn.auths) <= 3, f"{calls} calls, {len(conn.auths) - 1} answers")
    return f"one call, answers: {len(conn.auths) - 1}"


@rule("R12", PART, "STORE_UNAVAILABLE costs no try: the client answers again, without a storm")
async def store_away_is_tried_again(case: Case):
    world, client = await _session(case)
    conn = await world.conn(1)

    async def away(conn, message):
        world.on_auth.append(away)
        conn.error("STORE_UNAVAILABLE", message.get("id"))

    world.on_auth.append(away)
    conn.ask()
    await asyncio.sleep(2.5)
    answers = len(conn.auths) - 1
    expect(2 <= answers <= 40, f"{answers} answers in 2.5 s")
    world.on_auth.clear()
    renewed = len(world.ledger.all("sent"))
    await world.ledger.until(lambda: len(world.ledger.all("sent")) > renewed, 6)
    expect('"auth_ok"' in world.ledger.all("sent")[-1][1], "not renewed when the store was back")
    expect(len(world.conns) == 1, "the session ended")
    return f"{answers} answers in 2.5 s, renewed when the store was back"


@rule(
    "R13",
    PART,
    "the connection is cut between question and answer: a new one, fresh credential",
    real=True,
)
async def cut_between_the_halves(case: Case):
    world, client = await _session(case)

    async def slow(asked):
        await asyncio.sleep(0.6)
        return tokens.mint()

    client.on_token = slow
    conn = await _asked(case, world, client)
    await client.ledger.until(lambda: client.reasons[-1] == "auth_required", 8)
    conn.drop()
    second = await world.conn(2)
    expect(await client.reaches("authenticated"), f"state is {client.state}")
    expect(len(second.auths) == 1, f"{len(second.auths)} auth messages on the new connection")
    return "one auth message on the new connection"


@rule("R14", PART, "UnauthorizedError as the answer: the client leaves and stops", real=True)
async def unauthorized_answer_stops(case: Case):
    world, client = await _session(case)
    client.on_token = lambda asked: "unauthorized"
    await _asked(case, world, client)
    expect(await client.reaches("disconnected", 10), f"state is {client.state}")
    expect(await world.ledger.quiet("opened", 1.2), "it came again")
    return "disconnected, nothing for 1.2 s"


@rule("R15", PART, "a failed get_token leaves the question open, and is tried again", real=True)
async def failed_answer_is_tried_again(case: Case):
    world, client = await _session(case)
    client.on_token = lambda asked: (
        "failure" if client.reasons.count("auth_required") == 1 else tokens.mint()
    )
    conn = await _asked(case, world, client)
    expect(await conn.next_auth(2, 12), "no answer after the failure")
    expect(len(world.conns) == 1, "the session ended")
    return f"get_token for {', '.join(client.reasons[1:])}; same socket"


@rule("R16", PART, "grace_seconds 0: answered all the same", real=True)
async def no_grace_is_answered(case: Case):
    world, client = await _session(case, keys={"route.reauth.grace": "900ms"})
    conn = await _asked(case, world, client, grace=0.9)
    expect(await conn.next_auth(2, 5), "no answer")
    await asyncio.sleep(1.2)
    expect(len(world.conns) == 1 and client.state == "authenticated", f"state is {client.state}")
    return "answered in time"


@rule(
    "R17",
    PART,
    "a client may renew early where the route is proactive",
    needs=("reauthenticate",),
    real=True,
)
async def early_renewal_in_the_stream(case: Case):
    world = await case.world(proactive=True)
    client = await case.client(world, "message", proactive=True)
    client.on_token = lambda asked: tokens.mint(seconds=600 + 60 * len(client.reasons))
    client.tell("connect")
    expect(await client.reaches("authenticated"), f"state is {client.state}")
    client.tell("reauthenticate")
    conn = await world.conn(1)
    expect(await conn.next_auth(2), "no auth message came")
    await asyncio.sleep(0.4)
    expect(len(world.conns) == 1 and client.state == "authenticated", f"state is {client.state}")
    return "auth in the stream, same socket"


@rule(
    "R18",
    PART,
    "unasked on any other route, `auth` would be the application's: a new socket",
    needs=("reauthenticate",),
    real=True,
)
async def early_renewal_by_a_new_socket(case: Case):
    world = await case.world()
    client = await case.connected(world, "message")
    client.tell("reauthenticate")
    second = await world.conn(2)
    expect(await client.reaches("authenticated"), f"state is {client.state}")
    first = await world.conn(1)
    expect(len(first.auths) == 1 and not any('"auth"' in text for text in first.texts),
           "a token went to the backend")  # fmt: skip
    expect(await first.ended(3), "the old socket is still open")
    expect(second.auths[0]["payload"]["token"] == client.tokens_given[-1], "an older token")
    return "the old socket is closed, the new one has a fresh token"


@rule(
    "R19", PART, "reauth.mode close: 1008 Session expired: a new connection, fresh token", real=True
)
async def expired_session_comes_again(case: Case):
    world, client = await _session(case) if not case.is_real else await _closing(case)
    conn = await world.conn(1)
    if not case.is_real:
        conn.refuse("SESSION_EXPIRED")
    end = await conn.ended(12)
    expect(end and end.reason == "Session expired", f"the session ended with {end}")
    await world.conn(2)
    expect(await client.reaches("authenticated"), f"state is {client.state}")
    expect(len(set(client.tokens_given)) >= 2, "get_token was not called again")
    return "a new connection with a fresh token"


async def _closing(case: Case):
    world = await case.world(keys={"route.reauth.mode": "close"})
    client = await case.client(world, "message")
    _short_then_long(client)
    client.tell("connect")
    expect(await client.reaches("authenticated", 10), f"state is {client.state}")
    return world, client


@rule("R20", PART, "1008 Session revoked (recoverable: false): the client stops", real=True)
async def revoked_session_stops(case: Case):
    world = await case.world()
    client = await case.connected(world, "message")
    conn = await world.conn(1)
    if case.is_real:
        await world.revoke("ada")
    else:
        conn.refuse("SESSION_REVOKED")
    end = await conn.ended()
    expect(end and end.reason == "Session revoked", f"the session ended with {end}")
    expect(await client.reaches("disconnected"), f"state is {client.state}")
    expect(await world.ledger.quiet("opened", 1.2), "it came again")
    return "disconnected, nothing for 1.2 s"


@rule("R21", PART, "1008 Session replaced: the client stops, so that two do not fight", real=True)
async def replaced_session_stops(case: Case):
    world = await case.world(keys=ONE_SESSION)
    client = await case.connected(world, "message")
    conn = await world.conn(1)
    if case.is_real:
        await _other_session(world)
    else:
        conn.refuse("SESSION_REPLACED")
    end = await conn.ended()
    expect(end and end.reason == "Session replaced", f"the session ended with {end}")
    expect(await client.reaches("disconnected"), f"state is {client.state}")
    before = len(world.conns)
    await asyncio.sleep(1.2)
    expect(len(world.conns) == before, "it came again")
    return "disconnected, nothing for 1.2 s"


@rule("R22", PART, "each question of a long session is answered, in the same stream", real=True)
async def every_question_is_answered(case: Case):
    world = await case.world()
    client = await case.client(world, "message")
    client.on_token = lambda asked: tokens.mint(seconds=3 + 2 * len(client.reasons))
    client.tell("connect")
    expect(await client.reaches("authenticated", 10), f"state is {client.state}")
    conn = await world.conn(1)
    for number in (2, 3, 4):
        await _asked(case, world, client)
        expect(await conn.next_auth(number, 12), f"question {number - 1} was not answered")
        await asyncio.sleep(0.2)
    shown = [auth["payload"]["token"] for auth in conn.auths]
    expect(len(set(shown)) == len(shown), "a token was shown twice")
    expect(len(world.conns) == 1 and client.state == "authenticated", f"state is {client.state}")
    return f"{len(shown) - 1} questions, {len(shown)} tokens, one connection"


async def _other_session(world) -> None:
    """Opens another session of the same user."""
    from wire import open_socket

    other = await open_socket(world.upstream_port, "/ws")
    other.send(json.dumps({"type": "auth", "payload": {"token": tokens.mint()}}))
    await other.read()
