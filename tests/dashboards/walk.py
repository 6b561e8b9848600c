#!/usr/bin/env python3
"""Walks the runbooks: makes the fault of each one real, and waits for its alert.

Then it runs the commands of the page, requires the signs that the page names, removes the fault
and waits for the end of the alert. The windows of the rules are shortened from minutes to seconds.

    walk.py [--show] [NAME...]   # the names of runbooks; --show prints what the commands print
"""

import argparse
import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import clients
from prometheus import RULES, Prometheus
from world import HERE, World, eventually

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "runbooks"


def shortened(text: str) -> str:
    """Returns the rules with every span of time a twentieth, and at least what a rate needs."""

    def seconds(found: re.Match) -> str:
        units = {"m": 60, "h": 3600, "d": 86400}
        long = int(found[2]) * units[found[3]]
        least = 2 if found[1] == "for: " else 6
        return f"{found[1]}{min(max(long // 20, least), 30)}s"

    return re.sub(r"(for: |\[|offset )(\d+)([mhd])\b", seconds, text)


class Walk:
    """One page with its fault: `begin` and `end` make and remove it."""

    name: str
    alerts: tuple[str, ...] = ()
    # What the commands of the page print.
    signs: tuple[str, ...] = ()
    limits: dict = {}
    keys: dict = {}
    # The admin token. The commands of a page need no change for one.
    token: str | None = None
    # True if the process answers no command afterwards.
    is_gone = False

    async def begin(self, world: World) -> None:
        raise NotImplementedError

    async def traffic(self, world: World) -> None:
        """Runs again and again while the fault lasts."""
        await asyncio.sleep(0.5)

    async def end(self, world: World) -> None:
        raise NotImplementedError


def header(world: World, user: str = "ada", **claims) -> dict:
    return clients.bearer(world.token(user, **claims))


class Down(Walk):
    name, alerts, signs = "down", ("UsherDown",), ("no answer from the admin listener",)

    async def begin(self, world):
        world.nodes[0].signal(signal.SIGKILL)
        await world.nodes[0].process.wait()

    async def end(self, world):
        await world.nodes[0].start(world.text(world.nodes[0]), world.secrets())


class Admission(Walk):
    name, alerts, signs = (
        "admission",
        (
            "UsherAdmissionBudgetBurnsFast",
            "UsherAdmissionBudgetBurns",
            "UsherAdmissionBudgetBurnsSlowly",
        ),
        ("upstream_unavailable", "dial_failed"),
    )
    token = "an-admin-token-of-the-walk-0123456789"

    async def begin(self, world):
        await world.backend.stop()

    async def traffic(self, world):
        await asyncio.gather(*(world.visit("/ws", **header(world)) for _ in range(4)))
        await asyncio.sleep(0.3)

    async def end(self, world):
        await world.backend.start()


class SessionsFall(Walk):
    name, alerts = "sessions-fall", ("UsherSessionsFall",)
    signs = ('reason="upstream_closed"', "server_ejected")

    async def begin(self, world):
        self.crowd = [
            asyncio.create_task(world.visit("/ws", stay=60, **header(world))) for _ in range(70)
        ]
        await asyncio.sleep(14)
        await world.backend.stop()
        await asyncio.sleep(3)

    async def end(self, world):
        for task in self.crowd:
            task.cancel()
        await asyncio.gather(*self.crowd, return_exceptions=True)
        await world.backend.start()


class RefusalsJump(Walk):
    name, alerts, signs = "refusals-jump", ("UsherRefusalsJump",), ("invalid_token", "refused")

    async def begin(self, world):
        for _ in range(20):
            await world.visit("/ws", **header(world))
            await asyncio.sleep(1)

    async def traffic(self, world):
        await asyncio.gather(*(world.visit("/ws", **header(world, seconds=-600)) for _ in range(6)))

    async def end(self, world):
        pass


class Storm(Walk):
    """Clients that show no credential."""

    name, alerts = "storm", ("UsherReconnectStorm",)
    signs = ('limit="unauthenticated"', "limit_reached")
    limits = {"connections": 100, "unauthenticated": 20, "unauthenticated_per_address": 1000}

    async def begin(self, world):
        self.silent = []

    async def traffic(self, world):
        for _ in range(25):
            with contextlib.suppress(OSError):
                self.silent.append(await asyncio.open_connection(HERE, world.nodes[0].port))
        await asyncio.sleep(0.5)

    async def end(self, world):
        for _, writer in self.silent:
            writer.close()


class Full(Walk):
    """More good clients than connections."""

    name, alerts = "storm", ("UsherConnectionsFull", "UsherConnectionsNearlyFull")
    signs = ('limit="connections"', "limit_reached", "sessions +40")
    limits = {"connections": 40, "unauthenticated": 20, "unauthenticated_per_address": 20}

    async def begin(self, world):
        self.crowd = []
        for _ in range(4):
            self.crowd += [
                asyncio.create_task(world.visit("/ws", stay=120, **header(world)))
                for _ in range(10)
            ]
            await asyncio.sleep(2)

    async def traffic(self, world):
        await asyncio.gather(*(world.visit("/ws", **header(world)) for _ in range(5)))
        await asyncio.sleep(0.5)

    async def end(self, world):
        for task in self.crowd:
            task.cancel()
        await asyncio.gather(*self.crowd, return_exceptions=True)


class Store(Walk):
    name, alerts = "store", ("UsherStoreAway", "UsherRevocationsNotRead")
    signs = ("breaker (half-)?open", 'outcome="timeout"', "no answer")

    async def begin(self, world):
        world.redis.signal(signal.SIGSTOP)

    async def traffic(self, world):
        await world.ticket(world.token(str(time.monotonic())))

    async def end(self, world):
        world.redis.signal(signal.SIGCONT)


class FullStore(Store):
    alerts = ("UsherStoreFails", "UsherTicketsFail")
    signs = ('outcome="out_of_memory"', "PONG")

    async def begin(self, world):
        self.set(world, "1")

    def set(self, world, size):
        subprocess.run(
            ["redis-cli", "-p", str(world.redis.port), "config", "set", "maxmemory", size],
            check=True,
            stdout=subprocess.DEVNULL,
        )

    async def end(self, world):
        self.set(world, "0")


class Issuer(Walk):
    name, alerts = "issuer", ("UsherIssuerAway",)
    signs = ("stale", "unreachable", "issuer_keys_failed", "warning: keys of issuer remote")

    async def begin(self, world):
        world.issuer.stop()

    async def end(self, world):
        await world.issuer.start()


class NewIssuer(Issuer):
    """A node that never had the keys."""

    alerts, signs = ("UsherIssuerHasNoKeys",), ("0 keys, none", "issuer_keys_failed")

    async def begin(self, world):
        world.issuer.stop()
        node = world.nodes[0]
        await node.stop()
        shutil.rmtree(node.folder / f"state-{node.name}")
        await node.start(world.text(node), world.secrets())


class Verifier(Walk):
    name, alerts = "verifier", ("UsherVerifierAway",)
    signs = ("breaker open", "verifier_failed", 'outcome="status"')

    async def begin(self, world):
        world.verifier_status = 500

    async def traffic(self, world):
        for number in range(6):
            await world.visit("/opaque", **clients.bearer(f"good-{number}-{time.monotonic()}"))

    async def end(self, world):
        world.verifier_status = 0
        # Only a client closes the breaker.
        await asyncio.sleep(1.5)
        await world.visit("/opaque", **clients.bearer("good-0123456789-after"))


class Upstream(Admission):
    name, alerts = "upstream", ("UsherUpstreamFails", "UsherServersEjected")
    signs = ("ejected", "Connection refused", "dial_failed", "start the server")


class Certificates(Walk):
    name, alerts = "certificates", ("UsherCertificateExpiresSoon", "UsherCertificateExpires")
    signs = ("expired", "notAfter", "warning: certificate")

    async def begin(self, world):
        await self.renew(world, -1)

    async def end(self, world):
        await self.renew(world, 20)

    async def renew(self, world, days):
        world.authority.sign("localhost", days=days)
        await self.reload(world)

    async def reload(self, world):
        for node in world.nodes:
            await asyncio.to_thread(node.order, "/reload")


class Staple(Certificates):
    alerts, signs = ("UsherStapleExpiresSoon",), ("OCSP",)

    async def begin(self, world):
        world.authority.staple("localhost", 0.1)
        await self.reload(world)

    async def end(self, world):
        world.authority.staple("localhost")
        await self.reload(world)


class Acme(Certificates):
    alerts, signs = ("UsherAcmeOrdersFail",), ("acme",)

    async def begin(self, world):
        table = f"""
[acme]
directory = "http://{HERE}:{world.away_port}/directory"
domains = ["chat.example.com"]
terms_agreed = true
"""
        for node in world.nodes:
            text = world.text(node).replace('client_ca = "ca.pem"', 'client_ca = "ca.pem"\nacme = true')
            node.config.write_text(text + table)
        await self.reload(world)

    async def end(self, world):
        for node in world.nodes:
            node.config.write_text(world.text(node))
        await self.reload(world)


class Drain(Walk):
    name, alerts, signs = "drain", ("UsherDrainStuck",), ("draining", "drain_started", "ada")
    keys = {"window": "1h"}

    async def begin(self, world):
        self.session = asyncio.create_task(world.visit("/ws", stay=120, **header(world)))
        await asyncio.sleep(2)
        world.nodes[0].signal(signal.SIGTERM)

    async def end(self, world):
        # The remedy of the page: a second signal.
        world.nodes[0].signal(signal.SIGTERM)
        code = await asyncio.wait_for(world.nodes[0].process.wait(), 20)
        assert code == 1, f"exit code {code} after a second signal"
        await asyncio.wait([self.session])
        await world.nodes[0].start(world.text(world.nodes[0]), world.secrets())


class Shadow(Walk):
    name, alerts = "shadow", ("UsherShadowMismatch",)
    signs = ("shadow_mismatch", "would_refuse", 'verdict="invalid_token"')

    async def begin(self, world):
        await world.visit("/move?access_token=wrong", **header(world))

    async def end(self, world):
        pass


class Configuration(Walk):
    name, alerts = "configuration", ("UsherConfigurationRefused",)
    signs = ("did you mean `mtls`?", "config_refused", "usher_config_is_current 0")

    async def begin(self, world):
        node = world.nodes[0]
        node.config.write_text(node.config.read_text().replace('["mtls"]', '["mlts"]'))
        await asyncio.to_thread(node.order, "/reload")

    async def end(self, world):
        world.nodes[0].config.write_text(world.text(world.nodes[0]))
        await asyncio.to_thread(world.nodes[0].order, "/reload")


class Audit(Walk):
    name, alerts, signs = (
        "audit",
        ("UsherAuditLinesLost",),
        ("usher_audit_lines_dropped_total [1-9]",),
    )
    limits = {"log_queue": 5}
    keys = {"file": "/dev/full"}

    async def begin(self, world):
        await asyncio.gather(*(world.visit("/ws", **header(world)) for _ in range(30)))

    async def end(self, world):
        pass


class AdminToken(Walk):
    name, alerts, token = "admin-token", ("UsherAdminTokenRefused",), "the-admin-token-of-the-walk"
    signs = ('outcome="wrong_bearer"', '"admin_login"', "admin_login  rate_limited")

    async def begin(self, world):
        pass

    async def traffic(self, world):
        await asyncio.to_thread(world.nodes[0].knock, "wrong")
        await asyncio.sleep(0.5)

    async def end(self, world):
        pass


class Bypass(Walk):
    name, alerts, signs = (
        "bypass",
        ("UsherAcceptsTestIdentities",),
        ("usher_bypass_allowed 1", "bypass_allowed"),
    )

    async def begin(self, world):
        pass

    async def end(self, world):
        node = world.nodes[0]
        for node in world.nodes:
            await node.stop()
            text = world.text(node).replace('auth = ["bypass"]', 'auth = ["header"]')
            await node.start(text, world.secrets(), allow_bypass=False)


WALKS = [
    Down,
    Admission,
    SessionsFall,
    RefusalsJump,
    Storm,
    Full,
    Store,
    FullStore,
    Issuer,
    NewIssuer,
    Verifier,
    Upstream,
    Certificates,
    Staple,
    Acme,
    Drain,
    Shadow,
    Configuration,
    Audit,
    AdminToken,
    Bypass,
]


def commands(name: str) -> list[str]:
    """Returns the commands of the page."""
    block = (PAGES / f"{name}.md").read_text().split("```sh\n")[1].split("```")[0]
    lines = block.strip().splitlines()
    assert len(lines) == 3, f"{name}: {len(lines)} commands"
    return lines


def run(world: World, command: str) -> str:
    """Runs a command of a page at the first node, whose log stands in for the journal."""
    node = world.nodes[0]
    for written, real in {
        "journalctl -u usher -o cat --since -2h": f"cat {node.log}",
        "journalctl -u usher -o cat --since -10min": f"cat {node.log}",
        "chat.example.com:443": f"{HERE}:{node.tls}",
        "redis://127.0.0.1:6379": f"redis://{HERE}:{world.redis.port}",
        "systemctl status usher": "true",
        "/var/log/usher/audit.jsonl": world.audit_file(node),
        "usher check": f"usher check {node.bypass}",
        "wss://chat.example.com/ws": f"ws://{HERE}:{node.port}/ws",
    }.items():
        command = command.replace(written, real)
    (world.folder / "token.txt").write_text(world.token(seconds=-600))
    env = {**os.environ, **world.secrets(), "USHER_CONFIG": str(node.config)}
    env["PATH"] = f"{node.binary.parent}:{env['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], env=env, cwd=world.folder, capture_output=True, text=True
    )
    return done.stdout + done.stderr


async def walk(one: Walk, binary: Path, folder: Path, show: bool) -> list[str]:
    """Returns the faults of the page."""
    faults = []
    rules = folder / "rules.yaml"
    rules.write_text(shortened(RULES.read_text()))
    async with World(binary, folder, keys=one.keys, token=one.token, **one.limits) as world:
        prometheus = Prometheus(folder, world.nodes, rules, evaluation="1s")
        await prometheus.start()
        await eventually(
            lambda: prometheus.ask("count(usher_ready == 1) == 2"), 60, "Prometheus scrapes the nodes"
        )
        done = asyncio.Event()

        async def traffic():
            while not done.is_set():
                await one.traffic(world)

        try:
            begin = time.monotonic()
            await one.begin(world)
            task = asyncio.create_task(traffic())
            for alert in one.alerts:
                ask = f'ALERTS{{alertname="{alert}", alertstate="firing"}}'
                await eventually(lambda ask=ask: prometheus.ask(ask), 90, f"{alert} fires")
                for fired in await asyncio.to_thread(prometheus.alerts, alert):
                    text = fired["annotations"]
                    if show:
                        print(f"    {alert}: {text['summary']}. {text['description']}")
                    assert "no value" not in text["summary"] + text["description"], text
                    assert Path(text["runbook_url"]).stem == one.name, text
                    assert "&var-job=usher" in text["dashboard_url"], text
            fired_after = time.monotonic() - begin
            output = ""
            for command in commands(one.name):
                printed = await asyncio.to_thread(run, world, command)
                output += printed
                if show:
                    print(
                        f"    $ {command}\n      "
                        + printed.strip()[-2500:].replace("\n", "\n      ")
                    )
                if not printed.strip() and "systemctl" not in command:
                    faults.append(f"{command}: printed nothing")
            faults += [f"no sign of {sign}" for sign in one.signs if not re.search(sign, output)]
            done.set()
            await task
            begin = time.monotonic()
            await one.end(world)
            if one.name != "audit":
                for alert in one.alerts:
                    if alert == "UsherServersEjected":
                        # One server of this world is always away.
                        continue
                    ask = f'ALERTS{{alertname="{alert}", alertstate="firing"}}'

                    async def is_over(ask=ask):
                        return not await prometheus.ask(ask)

                    await eventually(is_over, 120, f"{alert} is over")
            print(
                f"  {type(one).__name__}: fired after {fired_after:.0f} s, over after "
                f"{time.monotonic() - begin:.0f} s{''.join(f'; {fault}' for fault in faults)}",
                flush=True,
            )
        except AssertionError as error:
            faults.append(str(error))
            print(f"  {type(one).__name__}: FAILED: {error}", flush=True)
        finally:
            done.set()
            await prometheus.stop()
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--usher", type=Path, default=ROOT / "target/debug/usher")
    parser.add_argument("--show", action="store_true")
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    wrong = 0
    for kind in WALKS:
        if given.names and kind.name not in given.names and kind.__name__ not in given.names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            wrong += bool(
                asyncio.run(walk(kind(), given.usher.resolve(), Path(folder), given.show))
            )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
