"""The rules of the table, and the tools of a run: a server, a client, checks."""

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import tokens
from driver import Driver
from real import RealUsher
from server import ScriptedUsher

RULES: list["Rule"] = []


class Failed(Exception):
    """The client broke the rule. The text says how."""


class NotApplicable(Exception):
    """The client lacks a feature that the rule needs. The text names it."""


@dataclass
class Rule:
    id: str
    part: str
    sentence: str
    needs: tuple[str, ...]
    run: Callable
    is_real: bool


def rule(id: str, part: str, sentence: str, *, needs: tuple[str, ...] = (), real: bool = False):
    """Declares a rule. `needs`: features that a client may lack. `real`: also runs with the binary."""

    def add(function):
        RULES.append(Rule(id, part, sentence, needs, function, real))
        return function

    return add


class Case:
    """One run of one rule. It ends all that it started."""

    def __init__(self, command: list[str], binary: str | None, log):
        self._command, self._binary, self._log = command, binary, log
        self._running: list = []
        self._beside: list[asyncio.Task] = []
        self.worlds: list = []

    @property
    def is_real(self) -> bool:
        return self._binary is not None

    async def world(self, **options):
        """Starts the server of this run.

        Only the real one uses `keys`, `greeting` and `redis`, and only the scripted one `ttl` and
        `subprotocols`."""
        if self._binary and options.get("redis") and not shutil.which("redis-server"):
            raise NotApplicable("redis-server is not installed")
        if self._binary:
            for name in ("ttl", "subprotocols"):
                options.pop(name, None)
            world = RealUsher(self._binary, **options)
        else:
            for name in ("keys", "greeting", "redis"):
                options.pop(name, None)
            world = ScriptedUsher(**options)
        self.worlds.append(world)
        self._running.append(world)
        await world.start()
        return world

    async def driver(self) -> Driver:
        driver = Driver(self._command, self._log)
        self._running.append(driver)
        await driver.start()
        return driver

    async def client(self, world, mode: str, needs: tuple[str, ...] = (), **options) -> Driver:
        """Starts a client with its addresses. It does not connect yet."""
        driver = await self.driver()
        lacking = [name for name in (mode, *needs) if not driver.can(name)]
        if lacking:
            raise NotApplicable(f"the driver has no {', '.join(lacking)}")
        driver.create(world.url, mode, **options)
        return driver

    async def connected(self, world, mode: str, **options) -> Driver:
        driver = await self.client(world, mode, **options)
        driver.tell("connect")
        expect(
            await driver.reaches("authenticated", 10), f"state is {driver.state}, not authenticated"
        )
        return driver

    def after(self, coroutine) -> None:
        """Runs a function beside the rule."""
        self._beside.append(asyncio.create_task(coroutine))

    async def close(self) -> None:
        for task in self._beside:
            task.cancel()
        for running in reversed(self._running):
            await running.stop()


def expect(holds, text: str) -> None:
    if not holds:
        raise Failed(text)


def check_secrets(world) -> None:
    """Checks in every rule that no URL has a token, and no ticket is used twice or too late."""
    for name in ("upgrade", "ticket asked", "config asked"):
        for head in world.ledger.all(name):
            for part in head.line[1].replace("=", "&").split("&"):
                expect(
                    tokens.judge(part) is None, f"a token stands in the URL of a request: {name}"
                )
    shown = [head.query["ticket"] for head in world.ledger.all("upgrade") if "ticket" in head.query]
    expect(len(shown) == len(set(shown)), "a ticket was shown twice")


def gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in zip(times, times[1:])]
