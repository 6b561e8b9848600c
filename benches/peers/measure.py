"""Measures one figure of one proxy at a time, under the load of `usher bench`."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass

import process
from proxies import Failure, Running

# The metrics, in the order of the table.
METRICS = {
    "full": "full TLS handshake, authentication, first echo, close (CPU in us)",
    "resumed": "the same with a resumed TLS 1.3 session (CPU in us)",
    "small": "echo of 128 bytes, 64 connections (CPU in us for a round trip)",
    "large": "echo of 64 KiB, 8 connections (CPU in us for a round trip)",
    "idle": "an idle authenticated connection (memory in KiB)",
}


@dataclass
class Sizes:
    """The amount of load for one figure."""

    handshakes: int = 2000
    seconds: int = 3
    idle: int = 4000

    @classmethod
    def quick(cls):
        return cls(handshakes=600, seconds=1, idle=1000)


@dataclass
class Row:
    """A row of the table: a proxy, and the method by which its clients authenticate."""

    name: str
    proxy: object
    path: str = "/ws"
    auth: str = "header"
    metrics: tuple = tuple(METRICS)


class Load:
    """The load generator: the same binary and the same key exchange for all proxies."""

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
        """Returns a context manager that holds idle connections. Its value is the process of the load."""
        options = ["--pid", running.pid, "--connections", count, "--step", count, "--hold", f"{seconds}s"]
        command = self.command(["idle"], url(running, row), auth(row), *options)
        return process.child(command, running.log.with_name("load.log"), self.environment)


def url(running, row):
    return running.url(row.path + getattr(running, "query", "") if row.auth == "ticket" else row.path)


def auth(row):
    """Returns the method for the load generator. A ticket is already in the URL."""
    return "none" if row.auth == "ticket" else row.auth


def ready(running: Running, row, world):
    if row.auth == "ticket":
        running.query = f"?ticket={running.ticket(world)}"


def handshakes(load, running, row, count, resumed=False):
    """Measures handshakes, eight at the same time: the client keeps TLS tickets for that many."""
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
    """Measures messages. Subtracts the cost of opening and closing the connections in the same round."""
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
    """Measures how much the memory of a fresh process grows with open connections, after a few first ones."""
    load.run([], url(running, row), auth(row), "--connections", 200, "--concurrency", 16)
    time.sleep(1)
    before = process.memory_kib(running.pid)
    with load.hold(running, row, count, 4) as holder:
        wait_for_all(running, holder, count)
        time.sleep(1.5)
        held = process.memory_kib(running.pid)
        if holder.poll() is not None or process.descriptors(holder.pid) < count:
            running.complain("connections were lost while they were held")
        # The load closes them with a close handshake, and fails if a connection was lost.
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
    """Checks that two threads shared the work."""
    total = sum(threads)
    busy = sum(spent > total / 10 for spent in threads)
    if busy < 2:
        raise Failure(f"{name}: {busy} threads did the work instead of two: {[round(spent / total, 2) for spent in threads[:4]]}")


def say(text):
    print(text, file=sys.stderr, flush=True)
