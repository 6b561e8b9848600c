"""Rules about lost connections and reconnects, from all three sections."""

import asyncio
import time

from rules import Case, expect, gaps, rule
from server import CUT

PART = "Connection"


@rule(
    "C01", PART, "1001 Server going away: the client comes again soon, with a new ticket", real=True
)
async def drain_comes_again(case: Case):
    world = await case.world()
    client = await case.connected(world, "ticket")
    conn = await world.conn(1)
    if case.is_real:
        await world.stop_usher()
        await world.start_usher()
    else:
        conn.close(1001, "Server going away")
    end = await conn.ended()
    expect(end and end.code == 1001, f"the session ended with {end}")
    expect(await client.reaches("authenticated", 15), f"state is {client.state}")
    await world.conn(2, 15)
    return f"back by connection {len(world.conns)}"


@rule("C02", PART, "a drain's hint (retry_after_ms in the reason) is the window of the return")
async def drain_hint_is_kept(case: Case):
    world = await case.world()
    waits = []
    client = await case.connected(world, "ticket", backoff_min=20, backoff_max=60)
    for number in (1, 2, 3):
        conn = await world.conn(number)
        closed = time.monotonic()
        conn.close(1001, "Server going away; retry_after_ms=1500")
        await world.conn(number + 1)
        waits.append(time.monotonic() - closed)
    expect(max(waits) < 3, f"it came after {max(waits):.1f} s, the window was 1.5 s")
    expect(len({round(wait, 2) for wait in waits}) > 1, f"no jitter: {waits}")
    await client.reaches("authenticated")
    return "back after " + ", ".join(f"{wait:.2f} s" for wait in waits) + " of a window of 1.5 s"


@rule("C03", PART, "1006: the client comes again after a back-off with full jitter", real=True)
async def drops_are_survived(case: Case):
    world = await case.world()
    await case.connected(world, "message", backoff_min=0.6, backoff_max=0.6)
    waits = []
    for number in range(1, 9):
        conn = await world.conn(number)
        await world.ledger.until(lambda: len(conn.auths) == 1, 5)
        await asyncio.sleep(0.1)
        closed = time.monotonic()
        conn.drop()
        await world.conn(number + 1)
        waits.append(time.monotonic() - closed)
    expect(max(waits) - min(waits) > 0.1, f"no jitter: {waits}")
    expect(max(waits) < 4, f"the longest wait was {max(waits):.1f} s with a bound of 0.6 s")
    return f"8 drops, back after {min(waits) * 1000:.0f} to {max(waits) * 1000:.0f} ms"


@rule(
    "C04",
    PART,
    "refused again and again: the waits grow to the bound, and stay below it",
    real=True,
)
async def waits_grow(case: Case):
    world = await case.world()
    for _ in range(10):
        world.on_upgrade.append(_cut)
    client = await case.client(world, "message", backoff_min=0.1, backoff_max=1)
    client.tell("connect")
    expect(await client.reaches("authenticated", 20), f"state is {client.state}")
    waits = gaps(world.ledger.times("upgrade"))
    expect(max(waits) < 2.5, f"the longest wait was {max(waits):.1f} s with a bound of 1 s")
    expect(sum(waits[3:]) > 0.6, f"no back-off: {[round(wait, 3) for wait in waits]}")
    return "waits " + ", ".join(f"{wait * 1000:.0f}" for wait in waits) + " ms"


async def _cut(head):
    return CUT


@rule(
    "C05",
    PART,
    "the server restarts: the client is back with a new ticket, not an old one",
    real=True,
)
async def restart_is_survived(case: Case):
    world = await case.world()
    client = await case.connected(world, "ticket")
    if case.is_real:
        await world.stop_usher()
        await asyncio.sleep(1)
        await world.start_usher()
    else:
        await world.stop()
        await asyncio.sleep(1)
        await world.start()
    await world.conn(2, 20)
    expect(await client.reaches("authenticated", 20), f"state is {client.state}")
    refused = world.ledger.all("ticket refused") + world.ledger.all("upgrade refused")
    expect(not refused, f"refused upgrades: {refused}")
    return "away for 1 s, back without a refused ticket"


@rule(
    "C06", PART, "reconnect() many times at once: one socket stays", needs=("reconnect",), real=True
)
async def concurrent_reconnects(case: Case):
    world = await case.world()
    client = await case.connected(world, "ticket")
    for _ in range(5):
        client.tell("reconnect")
    await asyncio.sleep(0.5)
    expect(await client.reaches("authenticated"), f"state is {client.state}")
    await world.ledger.until(lambda: len(world.open_conns) == 1, 4)
    expect(len(world.open_conns) == 1, f"{len(world.open_conns)} sockets are open")
    await client.send("still here")
    expect(await client.receives(["still here"]), "no echo")
    return f"5 reconnect(): {len(world.conns) - 1} new sockets, 1 open"


@rule(
    "C07",
    PART,
    "disconnect() ends it; reconnect() always works again",
    needs=("reconnect",),
    real=True,
)
async def disconnect_is_final(case: Case):
    world = await case.world()
    client = await case.connected(world, "message")
    conn = await world.conn(1)
    client.tell("disconnect")
    expect(await client.reaches("disconnected"), f"state is {client.state}")
    end = await conn.ended()
    expect(end and end.code in (1000, 1001, 1005), f"the socket ended with {end}")
    expect(await world.ledger.quiet("opened", 1), "it came again")
    client.tell("reconnect")
    expect(await client.reaches("authenticated"), f"state is {client.state} after reconnect()")
    return f"closed with {end.code}; reconnect() works"


@rule("C08", PART, "disconnect() during an attempt leaves no socket open", real=True)
async def disconnect_during_an_attempt(case: Case):
    world = await case.world()
    client = await case.client(world, "message")
    client.tell("connect")
    await world.ledger.until(lambda: world.ledger.all("upgrade"), 8)
    client.tell("disconnect")
    expect(await client.reaches("disconnected"), f"state is {client.state}")
    await world.ledger.until(lambda: not world.open_conns, 4)
    expect(not world.open_conns, "a socket is still open")
    expect(await world.ledger.quiet("upgrade", 1), "it came again")
    return "no socket, no other attempt"


@rule(
    "C09",
    PART,
    "messages while the connection is away are sent after, in order, once",
    needs=("queue",),
    real=True,
)
async def queue_over_a_gap(case: Case):
    world = await case.world()
    client = await case.connected(world, "message")
    (await world.conn(1)).drop()
    await client.ledger.until(lambda: "reconnecting" in client.states, 5)
    texts = [f"while away {n}" for n in range(10)]
    results = [await client.send(text) for text in texts]
    expect(
        await client.receives(texts, 8),
        f"{len(client.messages)} of 10 came back, or in another order",
    )
    return f"10 sent while away ({', '.join(sorted(set(results)))}), 10 back in order"


@rule(
    "C10",
    PART,
    "the queue is bounded, and the caller is told what was dropped",
    needs=("queue",),
    real=True,
)
async def queue_is_bounded(case: Case):
    world = await case.world()
    client = await case.client(world, "message", queue_messages=5)
    results = [await client.send(f"n {number}") for number in range(8)]
    expect(results == ["queued"] * 5 + ["dropped"] * 3, f"send() said {results}")
    client.tell("connect")
    expect(await client.receives([f"n {number}" for number in range(5)]), f"{client.messages}")
    return "5 queued, 3 dropped"


@rule(
    "C11",
    PART,
    "a message that waited too long is dropped, not sent late",
    needs=("queue",),
    real=True,
)
async def old_messages_are_dropped(case: Case):
    world = await case.world()
    client = await case.client(world, "message", queue_ttl=0.3)
    said = await client.send("old")
    expect(said == "queued", f"send() without a connection said {said}")
    await asyncio.sleep(0.7)
    client.tell("connect")
    expect(await client.reaches("authenticated"), f"state is {client.state}")
    await client.send("new")
    expect(await client.receives(["new"]), "no echo")
    expect("old" not in client.messages, "the old message was sent")
    return "dropped after 0.3 s"


@rule("C12", PART, "send() says sent while authenticated", needs=("queue",), real=True)
async def send_says_sent(case: Case):
    world = await case.world()
    client = await case.connected(world, "message")
    said = await client.send("hello")
    expect(said == "sent", f"send() said {said}")
    expect(await client.receives(["hello"]), "no echo")
    return "sent, and the echo came"


@rule("C13", PART, "a wait between two attempts ends when the network is back", needs=("wake",))
async def wake_ends_the_wait(case: Case):
    world = await case.world()
    client = await case.connected(world, "message")
    # With a window of ten minutes, the client almost always waits for long.
    (await world.conn(1)).close(1001, "Server going away; retry_after_ms=600000")
    await client.ledger.until(lambda: client.state == "reconnecting", 5)
    await asyncio.sleep(0.6)
    expect(len(world.conns) == 1, "it did not wait")
    woken = time.monotonic()
    client.tell("wake")
    await world.conn(2, 5)
    return f"connected {time.monotonic() - woken:.2f} s after it, in a wait of up to 600 s"


@rule("C14", PART, "five states and no other; the same one is not reported twice", real=True)
async def states_are_the_five(case: Case):
    world = await case.world()
    client = await case.connected(world, "message")
    (await world.conn(1)).drop()
    await world.conn(2)
    await client.reaches("authenticated")
    client.tell("disconnect")
    await client.reaches("disconnected")
    states = client.states
    known = {"disconnected", "connecting", "authenticating", "authenticated", "reconnecting"}
    expect(set(states) == known, f"states {sorted(set(states))}")
    doubled = [one for one, other in zip(states, states[1:]) if one == other]
    expect(not doubled, f"reported twice in a row: {doubled}")
    return " > ".join(states)
