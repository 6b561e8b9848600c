"""A client under test: a process that obeys JSON lines on stdin, and reports on stdout."""

import asyncio
import json
import os
from contextlib import suppress

import tokens
from server import Ledger

STATES = {"disconnected", "connecting", "authenticating", "authenticated", "reconnecting"}
# In seconds, so that a run is short. A driver passes on the options that its client has.
FAST = {"backoff_min": 0.05, "backoff_max": 0.4}


class Driver:
    """`on_token`: takes a request, and returns a token or the name of an error."""

    def __init__(self, command: list[str], log):
        self._command, self._log = command, log
        self.ledger = Ledger()
        self.about: dict = {}
        self.on_token = lambda asked: tokens.mint()
        self.tokens_given: list[str] = []
        self._process: asyncio.subprocess.Process | None = None
        self._tasks: list[asyncio.Task] = []
        self._sends = 0

    async def start(self) -> None:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=pipe, stdout=pipe, stderr=self._log, limit=1 << 20,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        self._tasks.append(asyncio.create_task(self._read()))
        await self.ledger.until(lambda: self.about or self.ledger.all("gone"), 20)
        if not self.about:
            raise AssertionError("the driver did not report {'event': 'ready'} in 20 s")

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        process = self._process
        if process and process.returncode is None:
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), 2)
            except TimeoutError:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    def tell(self, do: str, **fields) -> None:
        if not self._process.stdin.is_closing():
            self._process.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")

    def can(self, feature: str) -> bool:
        return feature in self.about.get("features", [])

    def create(self, url: str, mode: str, **options) -> None:
        self.tell("create", url=url, mode=mode, options={**FAST, **options})

    async def _read(self) -> None:
        while line := await self._process.stdout.readline():
            try:
                event = json.loads(line)
                name = event["event"]
            except (ValueError, KeyError, TypeError):
                self.ledger.add("nonsense", line[:200])
                continue
            if name == "ready":
                self.about = event
            if name == "token_wanted":
                self._tasks.append(asyncio.create_task(self._give_token(event)))
            self.ledger.add(name, event)
        self.ledger.add("gone")

    async def _give_token(self, event: dict) -> None:
        given = self.on_token(event)
        if asyncio.iscoroutine(given):
            given = await given
        if given in ("unauthorized", "failure"):
            return self.tell("token", n=event["n"], error=given)
        self.tokens_given.append(given)
        self.tell("token", n=event["n"], token=given)

    @property
    def states(self) -> list[str]:
        return [event["state"] for event in self.ledger.all("state")]

    @property
    def state(self) -> str:
        """Returns the last reported state, or None before the first report."""
        return self.states[-1] if self.states else "not reported"

    @property
    def messages(self) -> list[str]:
        return [event["data"] for event in self.ledger.all("message")]

    @property
    def reasons(self) -> list[str]:
        """The reasons of all calls for a token so far."""
        return [event.get("reason", "") for event in self.ledger.all("token_wanted")]

    async def reaches(self, state: str, timeout: float = 8) -> bool:
        return await self.ledger.until(lambda: self.state == state, timeout)

    async def receives(self, texts: list[str], timeout: float = 6) -> bool:
        def has_all() -> bool:
            return [text for text in self.messages if text in texts] == texts

        return await self.ledger.until(has_all, timeout)

    async def send(self, text: str) -> str:
        """Returns sent, queued or dropped."""
        self._sends += 1
        number = self._sends
        self.tell("send", id=number, data=text)

        def results() -> list[str]:
            return [item["result"] for item in self.ledger.all("send") if item["id"] == number]

        await self.ledger.until(results, 6)
        return (results() or ["no answer"])[0]
