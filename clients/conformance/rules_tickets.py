"""Rules of SPEC section 3, 'Tickets'."""

import asyncio
import json

import answers
import tokens
from rules import Case, expect, gaps, rule
from server import CUT, HANG

PART = "Tickets"


@rule("T01", PART, "POST /websocket/ticket with a bearer token", real=True)
async def asks_with_a_bearer_token(case: Case):
    world = await case.world()
    client = await case.connected(world, "ticket")
    asked = world.ledger.all("ticket asked")
    expect(len(asked) == 1, f"{len(asked)} requests for one connection")
    expect(asked[0].line[0] == "POST", f"the method is {asked[0].line[0]}")
    expect(asked[0].bearer in client.tokens_given, "no bearer token of get_token in Authorization")
    return "one POST, with the token of get_token"


@rule("T02", PART, "optional JSON body {ttl_seconds, single_use, permissions, route}", real=True)
async def body_has_known_fields_alone(case: Case):
    world = await case.world()
    await case.connected(world, "ticket")
    head = world.ledger.all("ticket asked")[0]
    body = head.json() if head.body.strip() else {}
    expect(isinstance(body, dict), f"the body is no JSON object: {head.body[:40]!r}")
    unknown = set(body) - {"ttl_seconds", "single_use", "permissions", "route"}
    expect(not unknown, f"unknown fields {unknown}")
    return f"the body has {sorted(body) or 'nothing'}"


@rule("T03", PART, "a ticket goes into the query of the upgrade; the token goes nowhere", real=True)
async def ticket_is_in_the_query(case: Case):
    world = await case.world()
    client = await case.connected(world, "ticket")
    head = world.ledger.all("upgrade")[0]
    expect(head.query.get("ticket"), "no ticket in the query")
    expect("authorization" not in head.headers, "the upgrade has Authorization beside the ticket")
    text = json.dumps([head.line, head.headers])
    expect(not any(token in text for token in client.tokens_given), "the upgrade has the token")
    return "?ticket= and no token"


@rule("T04", PART, "single_use: a fresh ticket for each attempt", real=True)
async def each_attempt_has_a_fresh_ticket(case: Case):
    world = await case.world()
    await case.connected(world, "ticket")
    for number in range(1, 5):
        (await world.conn(number)).drop()
        await world.conn(number + 1)
    shown = [head.query.get("ticket") for head in world.ledger.all("upgrade")]
    expect(
        None not in shown and len(set(shown)) == len(shown) >= 5,
        f"{len(shown)} upgrades, not all new",
    )
    return f"{len(shown)} upgrades, {len(set(shown))} tickets"


@rule(
    "T05", PART, "a replayed ticket is refused with 403; the client comes with a new one", real=True
)
async def refused_ticket_is_replaced(case: Case):
    world = await case.world()
    refuse = world.redeem if case.is_real else _refuse
    world.on_upgrade.extend([refuse, refuse])
    await case.connected(world, "ticket")
    return f"{len(world.ledger.all('upgrade'))} upgrades, each with a new ticket"


@rule("T06", PART, "a ticket that is about to end is not used", real=True)
async def no_ticket_that_is_about_to_end(case: Case):
    world = await case.world(ttl=1.0, keys={"tickets.ttl": "1s"})
    client = await case.client(world, "ticket")
    if client.can("prefetch"):
        client.tell("prefetch")
        await world.ledger.until(lambda: world.tickets, 5)
        await asyncio.sleep(0.9)
    client.tell("connect")
    expect(await client.reaches("authenticated"), f"state is {client.state}")
    refused = world.ledger.all("ticket refused") + world.ledger.all("upgrade refused")
    expect(not refused, f"tickets were refused: {refused}")
    used = world.tickets[world.ledger.all("upgrade")[0].query["ticket"]]
    age = world.ledger.times("upgrade")[0] - used.asked_at
    expect(age < 0.76, f"the ticket of 1 s was {age:.2f} s old")
    asked = len(world.ledger.all("ticket asked"))
    kept = "threw an older one away" if asked > 1 else "had no older one"
    return f"age at use {age * 1000:.0f} ms of 1,000 ms; {kept}"


@rule(
    "T07", PART, "a ticket's life is ttl_seconds from its issue, whatever the client's clock says"
)
async def life_does_not_depend_on_the_clock(case: Case):
    world = await case.world()
    past = {"created_at": 1_000_000, "expires_at": 1_030_000}

    async def issue(head):
        return world.issue(tokens.judge(head.bearer), **past)

    world.on_ticket.append(issue)
    await case.connected(world, "ticket")
    expect(len(world.ledger.all("ticket asked")) == 1, "the good ticket was thrown away")
    return "a ticket with expires_at in 1970 and ttl_seconds 30 was used"


@rule("T08", PART, "requests at the same time are joined, and one socket is opened", real=True)
async def concurrent_requests_are_joined(case: Case):
    world = await case.world()
    client = await case.client(world, "ticket")
    for _ in range(5):
        client.tell("connect")
    expect(await client.reaches("authenticated"), f"state is {client.state}")
    await world.ledger.quiet("ticket asked", 0.5)
    asked, opened = len(world.ledger.all("ticket asked")), len(world.conns)
    expect(asked <= 2 and opened == 1, f"{asked} ticket requests, {opened} sockets for 5 connect()")
    return f"5 connect(): {asked} ticket request, 1 socket"


@rule("T09", PART, "at most one ticket is fetched ahead", needs=("prefetch",), real=True)
async def one_ticket_is_kept(case: Case):
    world = await case.world()
    client = await case.client(world, "ticket")
    token = tokens.mint()
    client.on_token = lambda asked: token
    for _ in range(5):
        client.tell("prefetch")
    await world.ledger.until(lambda: world.tickets, 5)
    await world.ledger.quiet("ticket asked", 0.5)
    expect(len(world.tickets) == 1, f"{len(world.tickets)} tickets were fetched ahead")
    client.tell("connect")
    expect(await client.reaches("authenticated"), f"state is {client.state}")
    expect(len(world.ledger.all("ticket asked")) == 1, "the kept ticket was not used")
    return "5 requests ahead gave one ticket, and the connection used it"


@rule(
    "T10",
    PART,
    "a change of identity forgets the kept ticket",
    needs=("prefetch", "reauthenticate"),
    real=True,
)
async def identity_forgets_tickets(case: Case):
    world = await case.world()
    client = await case.connected(world, "ticket")
    before = len(world.ledger.all("ticket asked"))
    client.tell("prefetch")
    await world.ledger.until(lambda: len(world.ledger.all("ticket asked")) > before, 5)
    await asyncio.sleep(0.2)
    client.on_token = lambda asked: tokens.mint("bob")
    client.tell("reauthenticate")
    await world.conn(2)
    used = world.tickets[world.ledger.all("upgrade")[1].query["ticket"]]
    expect(used.claims["sub"] == "bob", f"the new socket belongs to {used.claims['sub']}")
    return "the socket after reauthenticate() belongs to the new user"


@rule("T11", PART, "500: at most three tries with back-off, then a pause; it works again after")
async def tries_are_bounded(case: Case):
    world = await case.world()
    for _ in range(3):
        world.on_ticket.append(lambda head: _soon(answers.problem("INTERNAL", False)))
    client = await case.client(world, "ticket")
    client.tell("connect")
    expect(await client.reaches("authenticated", 10), f"state is {client.state}")
    times = world.ledger.times("ticket asked")
    expect(len(times) == 4, f"{len(times)} requests, 4 were needed")
    expect(times[3] - times[0] > 0.02, "no back-off between the tries")
    return (
        "gaps " + ", ".join(f"{gap * 1000:.0f} ms" for gap in gaps(times)) + "; the fourth succeeds"
    )


@rule("T12", PART, "an endpoint that goes on failing is spared (circuit breaker)")
async def breaker_opens(case: Case):
    world = await case.world()

    async def fail(head):
        world.on_ticket.append(fail)
        return answers.problem("INTERNAL", False)

    world.on_ticket.append(fail)
    client = await case.client(world, "ticket")
    client.tell("connect")
    await asyncio.sleep(5)
    early = len(world.ledger.all("ticket asked"))
    await asyncio.sleep(3)
    late = len(world.ledger.all("ticket asked")) - early
    expect(early <= 30 and late <= 3, f"{early} requests in 5 s, {late} in the 3 s that followed")
    return f"{early} requests in the first 5 s, {late} in the next 3 s"


@rule("T13", PART, "Store away: 503 with Retry-After is waited for", real=True)
async def retry_after_is_kept(case: Case):
    world = await case.world(redis=True)

    async def away(head):
        status, headers, body = answers.problem("STORE_UNAVAILABLE", False)
        return status, {**headers, "retry-after": "1"}, body

    client = await case.client(world, "ticket")
    if case.is_real:
        await world.redis.stop()
        case.after(_start_again(world, "ticket answered"))
    else:
        world.on_ticket.append(away)
    client.tell("connect")
    expect(await client.reaches("authenticated", 20), f"state is {client.state}")
    answered = world.ledger.all("ticket answered")
    expect(answered[0] == 503, f"the answers were {answered}")
    waits = gaps(world.ledger.times("ticket asked"))
    waits = [wait for wait, status in zip(waits, answered) if status == 503]
    expect(min(waits) >= 0.95, f"a request came after {min(waits) * 1000:.0f} ms")
    return f"the next request after {min(waits) * 1000:.0f} ms of Retry-After"


@rule("T14", PART, "Issuing is rate limited: 429 with Retry-After is waited for", real=True)
async def rate_limit_is_kept(case: Case):
    world = await case.world(keys={"tickets.rate_per_user": "1/2s"})

    async def limited(head):
        status, headers, body = answers.problem("RATE_LIMITED", False)
        return status, {**headers, "retry-after": "1"}, body

    await case.connected(world, "ticket")
    if not case.is_real:
        world.on_ticket.append(limited)
    (await world.conn(1)).drop()
    await world.conn(2)
    answered = world.ledger.all("ticket answered")
    expect(429 in answered, f"no request was refused: {answered}")
    at = answered.index(429)
    first = gaps(world.ledger.times("ticket asked"))[at]
    expect(first >= 0.95, f"the next request came after {first * 1000:.0f} ms, Retry-After was 1 s")
    return f"the next request after {first * 1000:.0f} ms"


@rule(
    "T15",
    PART,
    "TICKETS_OFF (recoverable: false): a client falls back at once",
    needs=("auto",),
    real=True,
)
async def tickets_off_falls_back_at_once(case: Case):
    world = await case.world(methods=["message"])
    world.on_config.append(_away)
    client = await case.connected(world, "auto")
    answered = world.ledger.times("ticket answered")[0]
    opened = world.ledger.times("upgrade")[0]
    expect(world.conns[0].method == "message", f"the method is {world.conns[0].method}")
    expect(len(world.ledger.all("ticket asked")) == 1, "the endpoint was asked again")
    waited = (opened - answered) * 1000
    expect("reconnecting" not in client.states, "a back-off came before the fallback")
    told = [event["method"] for event in client.ledger.all("method")]
    expect(not told or told[-1] == "message", f"the client reports the method {told}")
    return f"one request, the upgrade {waited:.0f} ms later, by first message"


@rule(
    "T16",
    PART,
    "TICKETS_OFF where only tickets are allowed: the client stops and is quiet",
    real=True,
)
async def tickets_off_stops_ticket_mode(case: Case):
    world = await case.world(methods=["message"])
    client = await case.client(world, "ticket")
    client.tell("connect")
    expect(await client.reaches("disconnected"), f"state is {client.state}")
    await world.ledger.quiet("ticket asked", 1)
    asked = len(world.ledger.all("ticket asked"))
    expect(asked == 1, f"{asked} requests to an endpoint that is off")
    return "one request, then disconnected"


@rule("T17", PART, "Our clients never fall back to `query`", needs=("auto",), real=True)
async def never_by_query(case: Case):
    world = await case.world(methods=["query"])
    client = await case.client(world, "auto")
    client.tell("connect")
    expect(await client.reaches("disconnected"), f"state is {client.state}")
    opened = world.ledger.all("upgrade")
    expect(not opened, f"{len(opened)} upgrades where only query is offered")
    return "stops where only query is offered; no token in a URL"


@rule("T18", PART, "500 with auto: three tries, then the first message", needs=("auto",))
async def failing_endpoint_falls_back(case: Case):
    world = await case.world()
    for _ in range(3):
        world.on_ticket.append(lambda head: _soon(answers.problem("INTERNAL", False)))
    await case.connected(world, "auto")
    asked = len(world.ledger.all("ticket asked"))
    expect(world.conns[0].method == "message", f"by {world.conns[0].method} after {asked} tries")
    return f"{asked} tries, then by first message"


@rule("T19", PART, "an answer that is cut off is no ticket; the client asks again", real=True)
async def cut_answer_is_tried_again(case: Case):
    world = await case.world()
    world.on_ticket.extend([lambda head: _soon(CUT)] * 2)
    await case.connected(world, "ticket")
    return f"{len(world.ledger.all('ticket asked'))} requests, the third succeeds"


@rule("T20", PART, "an answer that does not come ends by the client's own timer", real=True)
async def silent_endpoint_is_left(case: Case):
    world = await case.world()
    world.on_ticket.append(lambda head: _soon(HANG))
    client = await case.client(world, "ticket", http_timeout=1.0)
    client.tell("connect")
    expect(await client.reaches("authenticated", 20), f"state is {client.state} after 20 s")
    gap = gaps(world.ledger.times("ticket asked"))[0]
    return f"asked again after {gap:.1f} s"


@rule("T21", PART, "a 201 without a ticket (a captive portal) is no ticket", real=True)
async def nonsense_is_no_ticket(case: Case):
    world = await case.world()
    page = (200, {"content-type": "text/html"}, b"<html>log in to the hotel</html>")
    world.on_ticket.append(lambda head: _soon(page))
    world.on_ticket.append(lambda head: _soon((201, {"content-type": "application/json"}, b"[]")))
    await case.connected(world, "ticket")
    shown = [head.query.get("ticket") for head in world.ledger.all("upgrade")]
    expect(None not in shown and "undefined" not in shown, f"upgrades with {shown}")
    return f"{len(world.ledger.all('ticket asked'))} requests, then a ticket"


@rule("T22", PART, "401: the token is fetched anew once, and the new one is shown", real=True)
async def refused_token_is_refreshed(case: Case):
    world = await case.world()
    client = await case.client(world, "ticket")
    client.on_token = lambda asked: tokens.mint() if asked.get("reason") == "rejected" else "x.y.z"
    client.tell("connect")
    expect(await client.reaches("authenticated"), f"state is {client.state}")
    expect("rejected" in client.reasons, f"get_token was called for {client.reasons}")
    wrong = sum(head.bearer == "x.y.z" for head in world.ledger.all("ticket asked"))
    expect(wrong == 1, f"the refused token was shown {wrong} times")
    return f"get_token was called for {', '.join(client.reasons)}"


@rule("T23", PART, "401 again: back-off, not a loop", real=True)
async def second_refusal_backs_off(case: Case):
    world = await case.world()
    client = await case.client(world, "ticket", backoff_min=0.5, backoff_max=2)
    client.on_token = lambda asked: "x.y.z"
    client.tell("connect")
    await asyncio.sleep(3)
    asked = len(world.ledger.all("ticket asked"))
    expect(2 <= asked <= 24, f"{asked} requests in 3 s")
    expect(client.state != "authenticated", "authenticated by a wrong token")
    return f"{asked} requests in 3 s with a back-off of 0.5 to 2 s"


@rule("T24", PART, "403 PERMISSION_DENIED (recoverable: false): the client stops")
async def denied_is_final(case: Case):
    world = await case.world()

    async def denied(head):
        world.on_ticket.append(denied)
        return answers.problem("PERMISSION_DENIED", False)

    world.on_ticket.append(denied)
    client = await case.client(world, "ticket")
    client.tell("connect")
    expect(await client.reaches("disconnected"), f"state is {client.state}")
    await world.ledger.quiet("ticket asked", 1)
    expect(len(world.ledger.all("ticket asked")) == 1, "it asked again")
    return "one request, then disconnected"


@rule("T25", PART, "websocket_url may be null: the client opens its own URL")
async def null_url_is_allowed(case: Case):
    world = await case.world()

    async def issue(head):
        return world.issue(tokens.judge(head.bearer), websocket_url=None)

    world.on_ticket.append(issue)
    await case.connected(world, "ticket")
    path = world.ledger.all("upgrade")[0].path
    expect(path == "/ws", f"it opened {path}")
    return "it opened its own URL with ?ticket="


@rule("T26", PART, "the config endpoint says which method to use", needs=("auto",), real=True)
async def config_is_followed(case: Case):
    world = await case.world(methods=["message"])
    await case.connected(world, "auto")
    asked = world.ledger.all("config asked")
    expect(
        asked and asked[0].query.get("route") == "/ws",
        "GET /websocket/config?route=/ws was not asked",
    )
    expect(not world.ledger.all("ticket asked"), "a ticket was asked for where none are offered")
    expect(world.conns[0].method == "message", f"the method is {world.conns[0].method}")
    return "route=/ws asked; by first message, without a ticket request"


@rule(
    "T27",
    PART,
    "the config endpoint may be away: tickets, then the first message",
    needs=("auto",),
    real=True,
)
async def config_may_be_away(case: Case):
    world = await case.world()
    world.on_config.append(_away)
    await case.connected(world, "auto")
    expect(world.ledger.all("config asked"), "GET /websocket/config was not asked")
    expect(world.conns[0].method == "ticket", f"the method is {world.conns[0].method}")
    return "without an answer: by ticket"


@rule(
    "T28",
    PART,
    "the token ends while the client is connected: the next ticket has a new one",
    real=True,
)
async def each_ticket_has_a_current_token(case: Case):
    world = await case.world()
    client = await case.connected(world, "ticket")
    (await world.conn(1)).drop()
    await world.conn(2)
    expect(await client.reaches("authenticated"), f"state is {client.state}")
    bearers = [head.bearer for head in world.ledger.all("ticket asked")]
    expect(
        len(set(bearers)) == len(bearers) == 2, "the second ticket was asked for by the old token"
    )
    return "get_token before each of 2 tickets"


@rule(
    "T29",
    PART,
    "TICKETS_OFF lists what the route takes: one of these is the next, and `query` is none",
    needs=("auto",),
    real=True,
)
async def tickets_off_lists_the_methods(case: Case):
    world = await case.world(methods=["query"])
    world.on_config.append(_away)
    client = await case.client(world, "auto")
    client.tell("connect")
    expect(await client.reaches("disconnected"), f"state is {client.state}")
    opened = world.ledger.all("upgrade")
    expect(not opened, f"{len(opened)} upgrades where only query is offered")
    asked = len(world.ledger.all("ticket asked"))
    expect(asked == 1, f"{asked} requests to an endpoint that is off")
    return "one request, then disconnected; no upgrade"


@rule(
    "T30",
    PART,
    "Store away: redeem is refused (503); the client comes with a new ticket",
    real=True,
)
async def refused_redemption_backs_off(case: Case):
    world = await case.world(redis=True)

    async def lose(head):
        await world.redis.stop()
        case.after(_start_again(world, "upgrade refused"))

    def refuse(head):
        return _soon(answers.problem("STORE_UNAVAILABLE", True))

    world.on_upgrade.extend([lose] if case.is_real else [refuse] * 3)
    client = await case.client(world, "ticket", backoff_min=0.2, backoff_max=2)
    client.tell("connect")
    expect(await client.reaches("authenticated", 30), f"state is {client.state}")
    times = world.ledger.times("upgrade")
    expect(len(times) > 1 and times[-1] - times[0] > 0.05, f"no back-off: {times}")
    return f"{len(times)} upgrades in {times[-1] - times[0]:.1f} s, each with a new ticket"


@rule("T31", PART, "Store away (503): other methods of the route go on", needs=("auto",), real=True)
async def other_methods_go_on(case: Case):
    world = await case.world(redis=True)

    async def away(head):
        world.on_ticket.append(away)
        status, headers, body = answers.problem("STORE_UNAVAILABLE", False)
        return status, {**headers, "retry-after": "5"}, body

    client = await case.client(world, "auto")
    if case.is_real:
        await world.redis.stop()
    else:
        world.on_ticket.append(away)
    client.tell("connect")
    expect(await client.reaches("authenticated", 8), f"state is {client.state} after 8 s")
    expect(world.conns[0].method == "message", f"by {world.conns[0].method}")
    return f"{len(world.ledger.all('ticket asked'))} requests, then by first message"


async def _start_again(world, event: str) -> None:
    """Starts the store again after this has happened."""
    await world.ledger.until(lambda: world.ledger.all(event), 20)
    await world.redis.start()


async def _soon(answer):
    return answer


async def _refuse(head):
    return answers.problem("INVALID_TICKET", True)


async def _away(head):
    return 404, {}, b""
