#!/usr/bin/env python3
"""Tests the dashboards and the alerts: statically, with promtool, and against a real Prometheus.

The last part runs two nodes under clients that are good and bad in every way, and requires an
answer with sensible values from the query of every panel.
"""

import argparse
import asyncio
import json
import math
import re
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "dashboards"))
import alert_cases
import clients
import generate
import walk
from alerts import ALERTS, RECORDINGS
from metrics import Catalogue, UnknownName
from panels import DASHBOARDS
from prometheus import RULES, Prometheus
from world import TRACE, World, eventually

# Series from before the last seconds count, so that a slow machine has a rate, too.
RATE_INTERVAL = "20s"
LONGEST = 150


def say(text: str) -> None:
    print(f"test-dashboards: {text}", flush=True)


def files() -> None:
    """The committed files are what the generator writes, and every panel is complete."""
    for path, text in generate.outputs().items():
        assert path.exists() and path.read_text() == text, (
            f"{path}: run scripts/dashboards/generate.py"
        )
    for path in (ROOT / "charts" / "usher" / "dashboards").glob("*.json"):
        board = json.loads(path.read_text())
        assert board["uid"] == path.stem and board["editable"] is False, path
        assert {"datasource", "job", "instance"} <= {
            one["name"] for one in board["templating"]["list"]
        }, path
        for panel in board["panels"]:
            name = f"{path.name}: {panel['title']}"
            assert panel["title"] and panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24, name
            if panel["type"] in ("row", "text"):
                continue
            assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"], name
            for target in panel["targets"]:
                query = target["expr"]
                assert query.count('job=~"$job"') == len(
                    re.findall(r"\b(?:usher|process)_\w+", query)
                ), (
                    f"{name}: {query}"
                )
        places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
        assert len(places) == len(set(places)), f"{path.name}: two panels in one place"


def pages() -> None:
    """Each alert has its runbook, a line in both lists, and a walk; each runbook is whole."""
    runbooks = ROOT / "docs" / "runbooks"
    listed = (runbooks / "README.md").read_text()
    explained = (ROOT / "docs" / "alerts.md").read_text()
    walked = {alert for one in walk.WALKS for alert in one.alerts}
    for alert in ALERTS:
        page = f"[{alert.runbook}.md]({alert.runbook}.md)"
        assert f"| `{alert.name}` | {alert.severity} | {page} |" in listed, alert.name
        row = re.search(rf"^\| `{alert.name}` \| .* \| {alert.severity} \|$", explained, re.M)
        assert row, f"docs/alerts.md has no line for {alert.name} with its severity"
        assert alert.name in walked, f"{alert.name} has no walk"
        text = (runbooks / f"{alert.runbook}.md").read_text()
        assert alert.name in text, f"{alert.runbook}.md: {alert.name}"
        parts = re.findall(r"^## (.*)$", text, re.M)
        assert parts == ["Symptom", "Look", "Causes, the most likely first", "Over when"], (
            alert.runbook
        )
        assert len(walk.commands(alert.runbook)) == 3, alert.runbook
        causes = text.split("| cause | sign | remedy |")[1].split("\n\n")[0].strip().splitlines()
        assert len(causes) >= 4, alert.runbook
    named = {alert.runbook for alert in ALERTS} | {"README"}
    assert {page.stem for page in runbooks.glob("*.md")} == named


def faults() -> None:
    """The generator refuses names that do not exist."""
    catalogue = Catalogue()
    for query in (
        "sum(rate(usher_upgrade_total[5m]))",
        "sum by (user) (rate(usher_upgrades_total[5m]))",
        'sum(rate(usher_upgrades_total{user="ada"}[5m]))',
        'sum(rate(usher_upgrades_total{outcome="acepted"}[5m]))',
        'sum(rate(usher_session_closes_total{reason="bored"}[5m]))',
        "sum(rate(usher_sessions_active[5m]))",
        "avg_over_time(usher_connections_total[5m])",
        "sum(usher_upgrade_duration_seconds)",
        "sum(usher:unknown:rate5m)",
        "vector(1)",
    ):
        try:
            catalogue.check(query)
        except UnknownName:
            continue
        raise AssertionError(f"accepted: {query}")


def promtool(folder: Path) -> None:
    """The rules are well formed, and each alert fires when it should, and only then."""
    check = ["promtool", "check", "rules", "--lint=all", "--lint-fatal", RULES]
    subprocess.run(check, check=True, stdout=subprocess.DEVNULL)
    for fires in (True, False):
        missing = {alert.name for alert in ALERTS} - {
            case.alert for case in alert_cases.CASES if case.fires == fires
        }
        assert not missing, f"no case in which they {'fire' if fires else 'do not fire'}: {missing}"
    paths = []
    for step, text in alert_cases.test_files(str(RULES)).items():
        paths.append(folder / f"rules_test_{step}.yaml")
        # JSON is YAML.
        paths[-1].write_text(json.dumps(text))
    done = subprocess.run(["promtool", "test", "rules", *paths], capture_output=True, text=True)
    assert done.returncode == 0, alert_cases.name_of(done.stdout + done.stderr)


def exemplar_queries() -> list[str]:
    """Returns the queries of panels that show exemplars."""
    asked = set()
    for path in (ROOT / "charts" / "usher" / "dashboards").glob("*.json"):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                if target.get("exemplar"):
                    query = target["expr"].replace("$__rate_interval", RATE_INTERVAL)
                    asked.add(re.sub(r'"\$\w+"', '".+"', query))
    assert all(any(name in query for query in asked) for name in generate.TRACED), asked
    return sorted(asked)


def queries() -> dict[str, tuple[str, bool, str]]:
    """Returns each query of each panel under its name, with the variables replaced.

    Before it the unit, and whether its values may all be 0.
    """
    found = {}
    for board in DASHBOARDS:
        text = (ROOT / "charts" / "usher" / "dashboards" / f"{board.uid}.json").read_text()
        written = [one for one in json.loads(text)["panels"] if one["type"] not in ("row", "text")]
        for panel, one in zip(
            (panel for row in board.rows for panel in row.panels), written, strict=True
        ):
            for target in one["targets"]:
                query = target["expr"].replace("$__rate_interval", RATE_INTERVAL)
                query = query.replace("$admissions", "2000")
                for name in ("job", "instance", "route"):
                    query = query.replace(f'"${name}"', '".+"')
                assert "$" not in query, query
                name = f"{board.uid}: {one['title']}: {target['legendFormat']}"
                assert name not in found, name
                is_quiet = panel.quiet is True or target["legendFormat"] in (panel.quiet or ())
                found[name] = panel.unit, is_quiet, query
    return found


def fault_of(unit: str, is_quiet: bool, samples: list[dict]) -> str | None:
    """Returns the fault of the values that a query has now; `None` if it has none."""
    values = [float(sample["value"][1]) for sample in samples]
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return "empty"
    low, high = {
        "percentunit": (0, 1),
        "none": (0, 2),
        "dateTimeFromNow": ((time.time() - 3600) * 1000, (time.time() + 60) * 1000),
        # The longest bucket of a session is a day, and the longest thing here a minute.
        "s": (0, 600),
        "bytes": (2, 10_000),
        "decbytes": (1_000_000, 10_000_000_000),
        "dtdurations": (-40 * 86400, 400 * 86400),
    }.get(unit, (0, 50_000))
    if is_quiet and max(values) == 0:
        return None
    if min(values) < low - 1e-9 or max(values) > high + 1e-9:
        return f"{min(values):g} to {max(values):g} cannot be {unit}"
    if not is_quiet and max(values) == 0:
        return "all 0"
    return None


async def drive(world: World, stop: asyncio.Event) -> None:
    """Lets rounds of clients in until the test has seen enough."""
    number = 0
    while not stop.is_set():
        user, node = f"user{number}", number % 2
        # The sessions of `revoked` end by an order, given at the other node.
        await asyncio.gather(
            clients.good(world, user, node, stay=2),
            clients.bad(world, user, node),
            clients.plain(world, node),
            world.visit("/ws", node, stay=3, **clients.bearer(world.token(f"revoked{number}"))),
            revoke(world, f"revoked{number}", 1 - node),
            clients.greedy(world, node, 8),
            clients.renewed(world, user, node),
            knock(world, node),
        )
        number += 1


async def revoke(world: World, user: str, node: int) -> None:
    await asyncio.sleep(1.5)
    await asyncio.to_thread(world.nodes[node].order, "/revoke", user=user)


async def knock(world: World, node: int) -> None:
    for token in (world.nodes[node].token, "wrong"):
        await asyncio.to_thread(world.nodes[node].knock, token)


async def live(folder: Path, binary: Path) -> None:
    async with World(binary, folder, token=secrets.token_hex(16)) as world:
        prometheus = Prometheus(folder, world.nodes, RULES)
        await prometheus.start()
        stop = asyncio.Event()
        driver = asyncio.create_task(drive(world, stop))
        try:
            wanted = queries()
            panels = sum(len(row.panels) for board in DASHBOARDS for row in board.rows)
            say(f"{len(wanted)} queries of {panels} panels")
            left, end = dict(wanted), time.monotonic() + LONGEST
            await eventually(
                lambda: prometheus.ask("usher_ready == 1"), 20, "Prometheus scrapes a node"
            )
            while left:
                why = {}
                for name, (unit, is_quiet, query) in left.items():
                    if fault := fault_of(unit, is_quiet, await prometheus.ask(query)):
                        why[name] = f"{fault}: {query}"
                left = {name: wanted[name] for name in why}
                if left and (driver.done() or time.monotonic() > end):
                    raise AssertionError("\n".join(f"{name}: {text}" for name, text in why.items()))
                await asyncio.sleep(1)
            for rule in (one for one in RECORDINGS if not one.is_quiet):
                await eventually(lambda rule=rule: prometheus.ask(rule.name), 20, rule.name)
            groups = (await asyncio.to_thread(prometheus.get, "rules"))["groups"]
            sick = [rule for group in groups for rule in group["rules"] if rule["health"] == "err"]
            assert len(groups) == 2 and not sick, sick
            # The test identities and the shadow of this world are firing by now.
            await eventually(
                lambda: prometheus.ask(
                    'ALERTS{alertname="UsherShadowMismatch", alertstate="firing"} > 0'
                ),
                20,
                "an alert fires",
            )
            # A reload changes the limit that the capacity is read from.
            world.limits["connections"] = 4321
            world.nodes[0].config.write_text(world.text(world.nodes[0]))
            await asyncio.to_thread(world.nodes[0].order, "/reload")
            metrics = await asyncio.to_thread(world.nodes[0].metrics)
            assert "\nusher_connections_limit 4321\n" in metrics, "the limit after a reload"
            lint = ["promtool", "check", "metrics"]
            subprocess.run(lint, input=metrics, text=True, check=True, stdout=subprocess.DEVNULL)
            # Prometheus asks for OpenMetrics by itself. Grafana asks it with the query of the panel.
            found = set()
            for query in exemplar_queries():
                traces = await asyncio.to_thread(
                    prometheus.get, "query_exemplars", query=query,
                    start=time.time() - 600, end=time.time(),
                )  # fmt: skip
                assert traces, f"no exemplars of {query}"
                found |= {one["labels"]["trace_id"] for row in traces for one in row["exemplars"]}
            # The first node names the trace of the client, and the second one its own.
            assert TRACE in found and len(found) > 1, f"exemplars: {found}"
        finally:
            stop.set()
            await asyncio.wait([driver], timeout=15)
            driver.cancel()
            await prometheus.stop()
        if driver.done() and not driver.cancelled() and driver.exception():
            raise driver.exception()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--usher", type=Path, default=ROOT / "target/debug/usher")
    usher = parser.parse_args().usher.resolve()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        files()
        pages()
        faults()
        promtool(Path(folder))
        say(f"{len(ALERTS)} alerts in {len(alert_cases.CASES)} cases")
        asyncio.run(live(Path(folder), usher))
    cpu = sum(
        sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    say(f"ok: {time.monotonic() - begin:.0f} s, {cpu:.0f} s of CPU")


main()
