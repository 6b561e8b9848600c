"""What is left behind: after many connections, in a cancelled program, by a slow reader."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
import wire
from loopback import Loopback, say, text_of, until_the_end

from usher_client import Client, Options

FAST: Any = {"backoff_min": 0.0, "backoff_max": 0.0}


async def get_token(_: Any) -> str:
    return "token"


def run(test: Coroutine[Any, Any, None], caplog: Any) -> None:
    """Runs `test`, and fails for what asyncio complains of and for sockets that are left open."""
    before = set(os.listdir("/proc/self/fd"))
    complaints: list[Any] = []

    async def watched() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        async with asyncio.timeout(300):
            await test

    asyncio.run(watched())
    gc.collect()
    assert complaints == [] and [r for r in caplog.records if r.name == "asyncio"] == []
    assert set(os.listdir("/proc/self/fd")) <= before


async def nothing_runs_but(server: Loopback) -> None:
    """Waits until the client has no task, for two seconds at most."""
    for _ in range(200):
        tasks = asyncio.all_tasks() - server.tasks - {asyncio.current_task()}
        if not tasks:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"still running: {tasks}")


@pytest.mark.parametrize("auth", ["message", "ticket"])
def test_500_reconnections_leave_nothing_behind(auth: Any, caplog: Any) -> None:
    async def test() -> None:
        rests, rested, go_on = {150, 151, 651}, asyncio.Event(), asyncio.Event()

        async def drop(socket: wire.Socket) -> None:
            if server.opened in rests:
                rested.set()
                await go_on.wait()
            socket.drop()

        async def measure() -> tuple[int, ...]:
            """Counts at rest: memory, objects, open files, tasks and timers."""
            await rested.wait()
            await asyncio.sleep(0.05)
            # The interpreter remembers up to 4,096 names of attributes.
            sys._clear_type_cache()
            gc.collect()
            counts = tracemalloc.get_traced_memory()[0], len(gc.get_objects())
            files, tasks = os.listdir("/proc/self/fd"), asyncio.all_tasks()
            timers: Any = vars(asyncio.get_running_loop())["_scheduled"]
            rested.clear()
            go_on.set()
            go_on.clear()
            return *counts, len(files), len(tasks), len(timers)

        async with Loopback(drop) as server:
            client = Client(server.url, get_token, Options(auth=auth, **FAST))
            client.on("state", lambda change: None)
            await client.connect()
            # Caches and the threads of the executor grow at first.
            tracemalloc.start()
            try:
                await measure()
                before, after = await measure(), await measure()
            finally:
                tracemalloc.stop()
            memory, objects, files, tasks, timers = (b - a for a, b in zip(before, after))
            # One string that stays of each connection would be more than 25 kB.
            assert memory < 10_000 and objects < 100, (memory, objects)
            assert (files, tasks) == (0, 0) and timers < 50, (files, tasks, timers)
            await client.disconnect()

    run(test(), caplog)


async def flood(socket: wire.Socket) -> None:
    """Sends as much as the client takes."""
    for number in range(1_000_000):
        socket.send(f"{number:08}" + "x" * 1000)
        await socket.writer.drain()


async def deaf(socket: wire.Socket) -> None:
    """Reads nothing."""
    await asyncio.sleep(3600)


async def ask(socket: wire.Socket) -> None:
    """Asks for a new token."""
    payload = {"expires_at": 4_000_000_000_000, "grace_seconds": 30, "reason": ""}
    say(socket, "auth_required", payload)
    await until_the_end(socket)


async def never(_: Any) -> str:
    await asyncio.sleep(3600)
    return ""


async def token_once(context: Any) -> str:
    return "token" if context.reason == "initial" else await never(context)


async def nothing(client: Client) -> None:
    """The application does nothing but wait."""
    await asyncio.sleep(3600)


async def send_all(client: Client) -> None:
    while True:
        await client.send("x" * 100_000)


async def read_slowly(client: Client) -> None:
    async for _ in client:
        await asyncio.sleep(3600)


# A name, the token source, what the server does, where it hangs, and what the application does.
MOMENTS: list[tuple[str, Any, Any, str | None, Any]] = [
    ("get_token", never, until_the_end, None, nothing),
    ("ticket", get_token, until_the_end, "request", nothing),
    ("upgrade", get_token, until_the_end, "upgrade", nothing),
    ("authenticating", get_token, until_the_end, "auth", nothing),
    ("authenticated", get_token, until_the_end, None, nothing),
    ("renewal", token_once, ask, None, nothing),
    ("sending to a deaf peer", get_token, deaf, None, send_all),
    ("sleeping in a flood", get_token, flood, None, nothing),
    ("reading slowly in a flood", get_token, flood, None, read_slowly),
]


@pytest.mark.parametrize("how", ["cancelled", "disconnected", "forgotten"])
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment[0])
def test_a_client_that_ends_at_any_moment_leaves_nothing(
    moment: Any, how: str, caplog: Any
) -> None:
    name, source, talk, hangs, work = moment

    async def test() -> None:
        async with Loopback(talk) as server:
            server.hangs = hangs
            auth: Any = "ticket" if name == "ticket" else "message"
            client = Client(server.url, source, Options(auth=auth, http_timeout=0.5))

            async def application() -> None:
                async with client:
                    await work(client)

            async def careless() -> None:
                await client.connect()
                await work(client)

            is_careful = how == "cancelled"
            running = asyncio.create_task(application() if is_careful else careless())
            await asyncio.sleep(0.3)
            if how == "forgotten":
                return
            began = asyncio.get_running_loop().time()
            if how == "disconnected":
                await client.disconnect()
            running.cancel()
            await asyncio.wait([running])
            await nothing_runs_but(server)
            assert asyncio.get_running_loop().time() - began < 2.5
            assert client.state == "disconnected"

    run(test(), caplog)


@pytest.mark.parametrize("auth", ["message", "ticket"])
def test_a_slow_reader_bounds_what_is_kept_and_loses_nothing(auth: Any, caplog: Any) -> None:
    count, size, limit = 20_000, 1_000, 100_000

    async def test() -> None:
        sent = 0

        async def talk(socket: wire.Socket) -> None:
            nonlocal sent
            # A buffer of the kernel takes megabytes otherwise.
            socket.writer.transport.set_write_buffer_limits(1 << 16)
            for number in range(count):
                socket.send(f"{number:08}".ljust(size))
                await socket.writer.drain()
                sent += 1
            payload = {"expires_at": 4_000_000_000_000, "grace_seconds": 30, "reason": ""}
            say(socket, "auth_required", payload)
            socket.send(json.loads(await text_of(socket))["payload"]["token"])
            await until_the_end(socket)

        async with Loopback(talk) as server:
            got: list[str] = []
            options = Options(auth=auth, receive_bytes=limit)
            async with Client(server.url, get_token, options) as client:
                await asyncio.sleep(0.5)
                stopped_at = sent
                await asyncio.sleep(0.2)
                assert sent == stopped_at < count, "the server was not slowed down"
                assert client._unread <= limit + 2 * size
                async for message in client:
                    got.append(str(message))
                    if message == "token":
                        break
                    if len(got) % 5_000 == 0:
                        await asyncio.sleep(0.1)
            assert [int(text) for text in got[:-1]] == list(range(count))

    run(test(), caplog)


def test_messages_before_the_first_read_are_kept_and_go_to_a_late_listener(caplog: Any) -> None:
    async def talk(socket: wire.Socket) -> None:
        socket.send("welcome")
        socket.send("news")
        await until_the_end(socket)

    async def test() -> None:
        async with Loopback(talk) as server:
            async with Client(server.url, get_token, Options(auth="message")) as client:
                await asyncio.sleep(0.1)
                async for message in client:
                    assert message == "welcome"
                    break
                late: list[Any] = []
                client.on("message", late.append)
                assert late == ["news"]

    run(test(), caplog)


@pytest.mark.parametrize("work", ["async for _ in client: pass", "await client.send('x')"])
def test_an_interrupted_program_ends_soon_and_in_good_order(work: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"""
import asyncio, signal, sys
sys.path[:0] = {sys.path!r}
from loopback import Loopback
from usher_client import Client, Options

async def get_token(context):
    return "token"

async def main():
    async with Loopback() as server:
        async with Client(server.url, get_token, Options(auth="message")) as client:
            print("ready", flush=True)
            while True:
                {work}
                await asyncio.sleep(0.01)

# A program that is started in the background ignores SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
asyncio.run(main())
""")
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", str(program)], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=5)
    assert process.returncode == -signal.SIGINT or process.returncode == 130
    assert err.rstrip().endswith("KeyboardInterrupt") and "Warning" not in err, err
    assert "never" not in err and "Task" not in err, err
