"""What is measured: one figure of one proxy at a time, under the load of `usher bench`."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass

import process
from proxies import Failure, Running

# Of the wider table; the order is the order of the table.
METRICS = {
    "full": "full TLS handshake, authentication, first echo, close (CPU in us)",
    "resumed": "the same with a resumed TLS 1.3 session (CPU in us)",
    "small": "echo of 128 bytes, 64 connections (CPU in us for a round trip)",
    "large": "echo of 64 KiB, 8 connections (CPU in us for a round trip)",
    "idle": "an idle authenticated connection (memory in KiB)",
}


@dataclass
class Sizes:
    """How much load makes one figure."""

    handshakes: int = 2000
    seconds: int = 3
    idle: int = 4000

    @classmethod
    def quick(cls):
        return cls(handshakes=600, seconds=1, idle=1000)


@dataclass
class Row:
    """A line of the table: a proxy, and how its clients show who they are."""

    name: str
    proxy: object
    path: str = "/ws"
    auth: str = "header"
    metrics: tuple = tuple(METRICS)


class Load:
    """The load generator: the same binary for all, offering the same key exchange to all."""

    def __init__(self, binary, world):
        self.binary, self.ca = binary, world.directory / "cert.pem"
        self.environment = {**os.environ, "TOKEN": world.token}

    def command(self, mode, url, auth, *options):
        token = ["--token-env", "TOKEN"] if auth in ("header", "message") else []
        common = ["--ca", self.ca, "--key-exchange", "x25519", "--timeout", "30s", "--json"]
        return [str(part) for part in [self.binary, "bench", *mode, url, *common, "--auth", auth, *token, *options]]

    def run(self, *arguments):
        run = subprocess.run(self.command(*arguments), env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if run.returncode != 0:
            raise Failure(f"the load failed: {run.stdout}{run.stderr}")
        return json.loads(run.stdout)

    def hold(self, running, row, count, seconds):
        """Idle connections: a context manager that gives back the load's own process."""
        options = ["--pid", running.pid, "--connections", count, "--step", count, "--hold", f"{seconds}s"]
        command = self.command(["idle"], url(running, row), auth(row), *options)
        return process.child(command, running.log.with_name("load.log"), self.environment)


def url(running, row):
    return running.url(row.path + getattr(running, "query", "") if row.auth == "ticket" else row.path)


def auth(row):
    """The ticket stands in the URL already."""
    return "none" if row.auth == "ticket" else row.auth


def ready(running: Running, row, world):
    if row.auth == "ticket":
        running.query = f"?ticket={running.ticket(world)}"


def handshakes(load, running, row, count, resumed=False):
    """One handshake after the other, eight at a time: as many as the client keeps tickets for."""
    options = ["--connections", count, "--concurrency", 8, *(["--tls-resume"] if resumed else [])]
    before = process.cpu(running.pid)
    told = load.run([], url(running, row), auth(row), *options)
    time.sleep(process.SETTLE)
    after = process.cpu(running.pid)
    share = told["tls_resumed"] / count
    if (resumed and share < 0.95) or (not resumed and share > 0):
        raise Failure(f"{row.name}: {share:.0%} of the handshakes were resumed")
    threads = process.used_by_thread(before, after)
    return figure(process.used(before, after) / count / 1000, told, "total") | {"resumed": share, "threads": threads}


def messages(load, running, row, connections, size, seconds, handshake_us):
    """Opening and closing the connections is taken off, at what it cost in the same round."""
    options = ["--connections", connections, "--size", size, "--duration", f"{seconds}s"]
    before = process.cpu(running.pid)
    told = load.run(["messages"], url(running, row), auth(row), *options)
    time.sleep(process.SETTLE)
    spent = process.used(before, process.cpu(running.pid)) / 1000 - connections * handshake_us
    count = told["phases"]["message"]["count"]
    return figure(spent / count, told, "message") | {"per_second": count / seconds}


def figure(value, told, phase):
    times = told["phases"][phase]
    return {"value": value, "per_second": told["per_second"], "p50_us": times["p50_us"], "p99_us": times["p99_us"]}


def idle(load, running, row, count):
    """In a fresh process that has seen a few connections: what it grows by with so many held open."""
    load.run([], url(running, row), auth(row), "--connections", 200, "--concurrency", 16)
    time.sleep(1)
    before = process.memory_kib(running.pid)
    with load.hold(running, row, count, 4) as holder:
        wait_for_all(running, holder, count)
        time.sleep(1.5)
        held = process.memory_kib(running.pid)
        if holder.poll() is not None or process.descriptors(holder.pid) < count:
            running.complain("connections were lost while they were held")
        # They are closed in good order, and the loser of one says so.
        if holder.wait(120) != 0:
            running.complain("the load that held connections failed")
    time.sleep(2)
    return {"value": (held - before) / count, "before_kib": before, "held_kib": held, "after_kib": process.memory_kib(running.pid)}


def wait_for_all(running, holder, count):
    until = time.monotonic() + 120
    while process.descriptors(holder.pid) < count:
        if holder.poll() is not None or time.monotonic() > until:
            running.complain(f"{count} connections could not be opened: {running.log.with_name('load.log').read_text()}")
        time.sleep(0.1)


def check_workers(name, threads):
    """Two of the threads have to have done the work."""
    total = sum(threads)
    busy = sum(spent > total / 10 for spent in threads)
    if busy < 2:
        raise Failure(f"{name}: {busy} thread did the work, and two should have: {[round(spent / total, 2) for spent in threads[:4]]}")


def say(text):
    print(text, file=sys.stderr, flush=True)
