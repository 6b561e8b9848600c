"""The state machine, in virtual time."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

import pytest
from virtual import NO_ANSWER, World, answer, fails_with, run, settle

from usher_client import Client, UnauthorizedError, UsherError
from usher_client.decide import AttemptError, next_step
from usher_client.types import Close


def virtual(test: Any) -> Any:
    """Runs a test of a `World` in virtual time."""

    def wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
        run(test, monkeypatch)

    wrapped.__name__ = test.__name__
    return wrapped


AWAY = AttemptError(Close(reason="no connection: OSError"))


def refused(status: int, **body: Any) -> AttemptError:
    return AttemptError(answer(status, **body)[0])


@virtual
async def test_a_first_message_goes_through_the_states(world: World) -> None:
    client, socket = await world.connected()
    assert world.names == ["connecting", "authenticating", "authenticated"]
    assert socket.auths[0]["payload"] == {"token": "token-1"}
    assert client.session is not None and client.session.user == "ada"
    await client.disconnect()
    assert world.names[-1] == "disconnected" and socket.is_closed


@virtual
async def test_the_own_timer_ends_the_wait_after_exactly_five_seconds(world: World) -> None:
    client = world.client()
    connecting = asyncio.create_task(client.connect())
    await world.socket(1)
    opened = world.loop.now - 0.001
    assert "no answer" in await fails_with(connecting, UsherError)
    assert world.loop.now - opened == pytest.approx(5.0, abs=0.01)
    await settle(120)
    assert len(world.sockets) == 1 and client.state == "disconnected"
    await client.reconnect()
    (await world.socket(2)).accept()
    await client.connect(1)


@virtual
async def test_an_answer_just_in_time_counts(world: World) -> None:
    client = world.client()
    connecting = asyncio.create_task(client.connect())
    socket = await world.socket(1)
    await asyncio.sleep(4.9)
    socket.accept()
    await connecting
    await settle(10)
    assert client.state == "authenticated"


@virtual
async def test_the_first_backend_message_is_a_proof(world: World) -> None:
    client = world.client()
    got: list[Any] = []
    client.on("message", got.append)
    connecting = asyncio.create_task(client.connect())
    (await world.socket(1)).text("hello")
    await connecting
    await settle()
    assert got == ["hello"]


@virtual
async def test_every_attempt_has_a_ticket_of_its_own(world: World) -> None:
    await world.connected("ticket")
    for number in range(1, 6):
        (await world.socket(number)).end()
        await world.socket(number + 1)
    urls = [url for _, url, _ in world.dials]
    assert len(set(urls)) == 6 and all("?ticket=ticket-" in url for url in urls)
    assert [context.reason for context in world.wanted] == ["initial"] * 6


@virtual
async def test_a_kept_ticket_is_used_once_and_never_in_its_last_part(world: World) -> None:
    client = world.client("ticket")
    await asyncio.gather(*(client.prefetch() for _ in range(5)))
    assert len(world.tickets_asked) == 1
    await client.connect()
    assert len(world.tickets_asked) == 1
    await client.disconnect()
    await client.prefetch()
    await asyncio.sleep(25.1)
    await client.connect()
    assert len(world.tickets_asked) == 3, "25 of 30 s had passed"


@virtual
async def test_a_ticket_of_another_identity_is_not_kept(world: World) -> None:
    client = world.client("ticket")
    ahead = asyncio.create_task(client.prefetch())
    await asyncio.sleep(0.005)
    await client.disconnect()
    await ahead
    await client.connect()
    assert len(world.tickets_asked) == 2


@virtual
async def test_three_tries_then_the_breaker_for_thirty_seconds(world: World) -> None:
    client = world.client("ticket", backoff_max=1.0)
    world.replies = [answer(500)] * 100
    asyncio.ensure_future(client.connect())
    await asyncio.sleep(20)
    assert len(world.tickets_asked) == 9
    await asyncio.sleep(25)
    assert len(world.tickets_asked) > 9
    gap = world.tickets_asked[9] - world.tickets_asked[8]
    assert 30 <= gap < 34


@virtual
async def test_a_server_that_is_away_does_not_open_the_breaker(world: World) -> None:
    client = world.client("ticket", backoff_max=1.0)
    world.replies = [NO_ANSWER] * 30
    await client.connect()
    gaps = [later - at for at, later in zip(world.tickets_asked, world.tickets_asked[1:])]
    assert len(gaps) == 30 and max(gaps) < 2


@virtual
async def test_retry_after_is_the_least_wait(world: World) -> None:
    client = world.client("ticket")
    world.replies = [answer(503, "7", code="STORE_UNAVAILABLE", recoverable=True)]
    await client.connect()
    first, second = world.tickets_asked
    assert 7 <= second - first < 9


@virtual
async def test_auto_follows_the_config_and_falls_back_at_once(world: World) -> None:
    world.config = answer(200, method="ticket", methods=["ticket", "message", "query"])
    world.replies = [answer(404, code="TICKETS_OFF", recoverable=False)]
    client = world.client("auto")
    connecting = asyncio.create_task(client.connect())
    socket = await world.socket(1)
    asked = world.tickets_asked[0]
    assert world.dials[0][0] - asked < 0.1
    assert socket.auths[0]["payload"]["token"] == "token-1", "one token for the whole attempt"
    socket.accept()
    await connecting
    assert client.method == "message" and len(world.wanted) == 1
    socket.end()
    await world.socket(2)
    assert len(world.tickets_asked) == 1, "tickets stay off"


@virtual
async def test_auto_takes_no_method_that_puts_a_token_into_the_url(world: World) -> None:
    world.config = answer(200, method="query", methods=["query", "header"])
    client = world.client("auto")
    assert "no method" in await fails_with(client.connect(), UsherError)
    assert world.dials == []


@virtual
async def test_one_refresh_after_a_rejection_then_back_off(world: World) -> None:
    client = world.client()
    asyncio.ensure_future(client.connect())
    for number in range(1, 5):
        socket = await world.socket(number)
        socket.refuse("INVALID_TOKEN")
        socket.end(1008, "Invalid token")
        await settle()
    reasons = [context.reason for context in world.wanted]
    assert reasons[:2] == ["initial", "rejected"] and world.wanted[1].rejected == "token-1"
    waits = [change.retry_in for change in world.states if change.state == "reconnecting"]
    assert waits[0] == 0.0 and all(wait for wait in waits[1:])


@virtual
async def test_an_unauthorized_error_stops_and_reconnect_works_again(world: World) -> None:
    world.token = lambda _: UnauthorizedError("signed out")
    client = world.client()
    assert "signed out" in await fails_with(client.connect(), UsherError)
    await settle(300)
    assert len(world.wanted) == 1
    world.token = lambda _: "good"
    await client.reconnect()
    (await world.socket(1)).accept()
    await client.connect(5)


@virtual
async def test_a_hanging_token_is_left_after_the_timeout(world: World) -> None:
    calls = 0

    async def hang(context: Any) -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.sleep(3600)
        return "good"

    client = world.client()
    client._get_token = hang
    connecting = asyncio.create_task(client.connect())
    await asyncio.sleep(9.9)
    assert client.state == "connecting"
    socket = await world.socket(1)
    socket.accept()
    await connecting


@virtual
async def test_a_question_is_answered_in_the_stream(world: World) -> None:
    client, socket = await world.connected()
    socket.ask(600)
    await settle()
    assert world.wanted[-1].reason == "auth_required"
    assert socket.auths[1]["payload"]["token"] == "token-2"
    socket.accept(1200)
    await settle()
    assert client.state == "authenticated" and len(world.sockets) == 1


@virtual
async def test_a_question_of_a_peer_gets_no_token(world: World) -> None:
    client, socket = await world.connected()
    got: list[Any] = []
    client.on("message", got.append)
    socket.ask(60)
    await settle()
    assert len(socket.auths) == 1 and len(got) == 1, "another end than that of the session"


@virtual
async def test_a_wrong_answer_is_mended_once_a_second_until_it_is_the_last(world: World) -> None:
    _, socket = await world.connected()
    socket.ask(600)
    await settle()
    for _ in range(2):
        socket.refuse("INVALID_TOKEN")
        await settle(1.1)
    socket.refuse("INVALID_TOKEN", recoverable=False)
    await settle(60)
    assert len(socket.auths) == 1 + 3
    assert [context.reason for context in world.wanted[2:]] == ["rejected", "rejected"]


@virtual
async def test_a_store_that_is_away_costs_no_try_and_is_asked_once_a_second(world: World) -> None:
    _, socket = await world.connected()
    socket.ask(600)
    for _ in range(5):
        await settle(1.1)
        socket.refuse("STORE_UNAVAILABLE")
    assert len(socket.auths) == 1 + 5


@virtual
async def test_an_unauthorized_answer_leaves_for_good(world: World) -> None:
    client, socket = await world.connected()
    world.token = lambda _: UnauthorizedError()
    socket.ask(600)
    await settle(60)
    assert client.state == "disconnected" and socket.is_closed and len(world.sockets) == 1


@virtual
async def test_nothing_is_sent_after_sleep_before_there_is_a_new_grant(world: World) -> None:
    client, socket = await world.connected()
    world.slept = 700
    assert await client.send("late") == "queued"
    second = await world.socket(2)
    assert world.wanted[-1].reason == "expiring"
    assert "late" not in socket.sent
    second.accept()
    await settle()
    assert second.sent[-1] == "late"


@virtual
async def test_messages_after_sleep_are_one_renewal_and_wait_for_its_answer(world: World) -> None:
    client, socket = await world.connected(proactive=True)
    world.slept = 700
    for number in range(5):
        assert await client.send(f"late {number}") == "queued"
        await settle()
    assert len(socket.auths) == 2 and len(world.sockets) == 1
    socket.accept(600)
    await settle()
    assert socket.sent[-5:] == [f"late {number}" for number in range(5)]


@virtual
async def test_a_wrong_clock_on_this_side_does_no_harm(world: World) -> None:
    world.slept = -90_000.0
    client = world.client()
    connecting = asyncio.create_task(client.connect())
    socket = await world.socket(1)
    socket.accept(600)
    await connecting
    assert await client.send("now") == "sent"


@virtual
async def test_the_queue_is_bounded_in_messages_bytes_and_time(world: World) -> None:
    client = world.client(queue_messages=3, queue_bytes=10, queue_ttl=5)
    dropped: list[Any] = []
    client.on("drop", dropped.append)
    results = [await client.send(text) for text in ("1234", "5678", "999", "1")]
    assert results == ["queued", "queued", "dropped", "queued"] and dropped == ["999"]
    await asyncio.sleep(5.1)
    assert dropped == ["999", "1234", "5678", "1"] and client.queued == 0


@virtual
async def test_waiting_messages_do_not_change_hands(world: World) -> None:
    client, socket = await world.connected()
    socket.end()
    await settle(0)
    await client.send("from ada")
    await client.reauthenticate()
    second = await world.socket(2)
    second.accept(user="bob")
    await settle()
    assert second.sent == [second.sent[0]] and client.queued == 0


@virtual
async def test_a_proactive_route_is_renewed_in_the_stream(world: World) -> None:
    client, socket = await world.connected(proactive=True)
    await client.reauthenticate()
    await settle()
    assert len(socket.auths) == 2 and len(world.sockets) == 1


@virtual
async def test_any_other_route_is_renewed_by_a_new_socket(world: World) -> None:
    client, socket = await world.connected()
    await client.reauthenticate()
    (await world.socket(2)).accept()
    await client.connect(5)
    assert len(socket.auths) == 1 and socket.is_closed


@virtual
async def test_wake_ends_the_wait(world: World) -> None:
    client, socket = await world.connected(backoff_min=1000, backoff_max=1000)
    socket.end(1001, "Server going away; retry_after_ms=600000")
    await settle()
    before = world.loop.now
    client.wake()
    await world.socket(2)
    assert world.loop.now - before < 1


@virtual
async def test_the_waits_have_full_jitter_below_a_bound_that_doubles(world: World) -> None:
    random.seed(7)
    client = world.client("message", backoff_min=1, backoff_max=8)
    world.refusals = [AWAY] * 40
    asyncio.ensure_future(client.connect())
    await world.socket(1)
    waits = [change.retry_in or 0 for change in world.states if change.state == "reconnecting"]
    bounds = [min(8, 2.0**n) for n in range(1, 41)]
    assert all(0 <= wait <= bound for wait, bound in zip(waits, bounds))
    assert min(waits[3:]) < 2 and max(waits) > 6 and len(set(waits)) == 40


@virtual
async def test_max_retries_stops_it(world: World) -> None:
    client = world.client("message", max_retries=3)
    world.refusals = [AWAY] * 40
    await fails_with(client.connect(), UsherError)
    assert len(world.dials) == 4


@virtual
async def test_a_refused_upgrade_is_judged_by_its_body(world: World) -> None:
    world.refusals = [refused(403, code="INVALID_TICKET", recoverable=True, request_id="r7")]
    client = world.client("ticket")
    await client.connect()
    assert len(world.tickets_asked) == 2
    assert client.last_close is not None and client.last_close.request_id == "r7"
    await client.disconnect()
    world.refusals = [refused(403, code="MISSING_PERMISSION", recoverable=False)]
    await fails_with(client.connect(), UsherError)


@virtual
async def test_legacy_method_asks_the_config_again(world: World) -> None:
    world.config = answer(200, method="ticket", methods=["ticket"])
    world.refusals = [refused(403, code="LEGACY_METHOD", recoverable=True)]
    client = world.client("auto")
    await client.connect()
    assert sum("/config" in url for _, _, url, _ in world.asked) == 2


@virtual
async def test_messages_are_iterated_over_a_reconnection_until_the_end(world: World) -> None:
    client, socket = await world.connected()
    got: list[Any] = []

    async def read() -> None:
        async for message in client:
            got.append(message)

    reading = asyncio.create_task(read())
    await settle()
    socket.text("one")
    await settle()
    socket.end()
    second = await world.socket(2)
    second.accept()
    second.text("two")
    await settle()
    await client.disconnect()
    await reading
    assert got == ["one", "two"]


@virtual
async def test_a_listener_that_fails_does_no_harm(world: World) -> None:
    client = world.client()

    def fail(_: Any) -> None:
        raise RuntimeError("a fault of the application")

    off = client.on("state", fail)
    connecting = asyncio.create_task(client.connect())
    (await world.socket(1)).accept()
    await connecting
    off()
    off()


@virtual
async def test_a_fault_stops_the_client_and_is_not_hidden(world: World) -> None:
    world.refusals = [RuntimeError("a fault of a library")]
    client = world.client()
    assert "RuntimeError" in await fails_with(client.connect(), UsherError)
    assert client.state == "disconnected" and await client.send("later") == "queued"
    await client.reconnect()
    (await world.socket(1)).accept()
    await client.connect(5)


@pytest.mark.parametrize("token", [None, "", b"bytes", "two words", "a\nb"])
def test_a_token_that_is_none_is_a_failure_of_get_token(
    token: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(world: World) -> None:
        world.token = lambda _: token if len(world.wanted) == 1 else "good"
        client, _ = await world.connected()
        assert len(world.wanted) == 2 and client.last_close is not None
        assert client.last_close.reason.startswith("get_token failed: ")

    run(test, monkeypatch)


@virtual
async def test_a_task_of_get_token_that_is_cancelled_stops_the_client(world: World) -> None:
    world.token = lambda _: asyncio.CancelledError()
    client = world.client()
    assert "CancelledError" in await fails_with(client.connect(), UsherError)


@virtual
async def test_sessions_that_end_at_once_are_met_with_growing_waits(world: World) -> None:
    world.refusals = []
    client = world.client("ticket", backoff_min=1, backoff_max=64)
    asyncio.ensure_future(client.connect())
    for number in range(1, 9):
        (await world.socket(number)).end(1008, "Session expired")
        await settle(0)
    waits = [change.retry_in or 0 for change in world.states if change.state == "reconnecting"]
    assert waits[0] == 0 and max(waits[1:]) > 2
    await settle(200)
    world.sockets[-1].end(1008, "Session expired")
    await settle()
    assert world.states[-1].state == "authenticated", "after a long session at once"


@virtual
async def test_the_later_of_reconnect_and_disconnect_counts(world: World) -> None:
    client, socket = await world.connected()
    await asyncio.gather(client.reconnect(), client.disconnect())
    await settle(60)
    assert client.state == "disconnected" and all(one.is_closed for one in world.sockets)
    await asyncio.gather(client.disconnect(), client.reconnect())
    (await world.socket(2)).accept()
    await client.connect(5)


@virtual
async def test_an_answer_to_nobody_is_a_message(world: World) -> None:
    client, socket = await world.connected()
    got: list[Any] = []
    client.on("message", got.append)
    session = client.session
    socket.say("auth_ok", [], user="eve", session_id="s9", expires_at=1)
    socket.say("auth_ok", "x", user="eve", session_id="s9", expires_at=1)
    await settle()
    assert len(got) == 2 and client.session == session
    assert await client.send("hello") == "sent"


@virtual
async def test_an_error_frame_counts_for_the_end_right_behind_it_alone(world: World) -> None:
    _, socket = await world.connected()
    socket.say("error", code="FORGED", recoverable=False, request_id="r1")
    socket.text("another message")
    socket.end(1006)
    await world.socket(2)


@virtual
async def test_a_message_is_text_or_bytes(world: World) -> None:
    client = world.client()
    for wrong in ({"type": "x"}, ["x"], None, 1):
        await fails_with(client.send(wrong), TypeError)  # type: ignore[arg-type]
    await fails_with(client.send("\ud800"), UnicodeEncodeError)


@virtual
async def test_a_loop_that_sends_lets_others_run(world: World) -> None:
    client = world.client()
    others = 0

    async def other() -> None:
        nonlocal others
        for _ in range(50):
            others += 1
            await asyncio.sleep(0)

    running = asyncio.create_task(other())
    for _ in range(60):
        await client.send("x")
    assert others == 50 and running.done()


@virtual
async def test_disconnect_during_an_attempt_leaves_nothing(world: World) -> None:
    client = world.client("ticket")
    connecting = asyncio.create_task(client.connect())
    await asyncio.sleep(0.015)
    await client.disconnect()
    await fails_with(connecting, UsherError)
    await settle(60)
    assert all(socket.is_closed for socket in world.sockets) and client.state == "disconnected"


def test_no_secret_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG, "usher_client")

    async def test(world: World) -> None:
        world.token = lambda _: "secret-canary"
        client, socket = await world.connected()
        socket.ask(600)
        await settle()
        socket.refuse("INVALID_TOKEN", recoverable=False)
        socket.end(1008, "Invalid token")
        await settle()
        assert client.state == "disconnected"

    run(test, monkeypatch)
    assert caplog.records and "canary" not in caplog.text


@pytest.mark.parametrize(
    ("end", "step"),
    [
        (Close(1006), "retry"),
        (Close(1000), "stop"),
        (Close(1001, "Server going away"), "retry"),
        (Close(1008, "Session revoked"), "rejected"),
        (Close(1008, "Session revoked", recoverable=False), "stop"),
        (Close(1008, "Session replaced"), "stop"),
        (Close(1008, "First message must be auth"), "stop"),
        (Close(1008, "First message must be auth", recoverable=True), "retry"),
        (Close(1008, "Too many messages"), "retry"),
        (Close(1008, "Missing permission (d0d469d6)"), "stop"),
        (Close(1008, "Invalid token (4df8268a)"), "rejected"),
        (Close(4403, "Invalid token (4df8268a)"), "rejected"),
        (Close(4403, "Missing permission (d0d469d6)"), "stop"),
        (Close(4403, "Missing permission"), "stop"),
        (Close(1009, "First message too big", recoverable=False), "stop"),
        (Close(4400), "stop"),
        (Close(4401), "rejected"),
        (Close(4403), "stop"),
        (Close(4403, recoverable=True), "retry"),
        (Close(4408), "rejected"),
        (Close(4409), "stop"),
        (Close(4429), "retry"),
        (Close(4503), "retry"),
        (Close(status=401), "rejected"),
        (Close(status=403), "stop"),
        (Close(status=404, recoverable=False), "stop"),
        (Close(status=429), "retry"),
        (Close(status=502), "retry"),
    ],
)
def test_the_end_of_a_connection_decides(end: Close, step: str) -> None:
    assert next_step(end) == step


@pytest.mark.parametrize("url", ["https://x/ws", "wss://u:p@x/ws", "wss://x/ws#f", "/ws"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    async def get_token(_: Any) -> str:
        return ""

    with pytest.raises(ValueError):
        Client(url, get_token)
