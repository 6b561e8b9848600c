#!/usr/bin/env python3
"""Compares Usher with five other proxies and a floor under the same load. See README.md."""

import argparse
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import measure
import proxies
import scale
import table
from measure import METRICS, Row, Sizes, say
from proxies import Failure

USHER_ROWS = {
    "usher": Row("usher", None),
    "usher-no-reauth": Row("usher-no-reauth", None, "/no-reauth", metrics=("full", "small", "large")),
    "usher-ticket": Row("usher-ticket", None, "/ticket", "ticket", metrics=("full", "resumed", "idle")),
    "usher-message": Row("usher-message", None, "/message", "message", metrics=("full", "resumed", "small", "idle")),
}


def build(arguments):
    """Builds the release binary. The floor and the backend are examples."""
    if not arguments.no_build:
        cargo = ["cargo", "build", "--quiet", "--release"]
        subprocess.run([*cargo, "--example", "peers-floor", "--example", "peers-backend"], cwd=proxies.ROOT, check=True)
        subprocess.run([*cargo, "--bin", "usher"], cwd=proxies.ROOT, check=True)
    target = proxies.ROOT / "target/release"
    proxies.WORK.mkdir(parents=True, exist_ok=True)
    # A copy, so that a build during the run has no effect.
    copies = {}
    for name, source in {
        "usher": arguments.usher or target / "usher",
        "load": arguments.load or target / "usher",
        "floor": target / "examples/peers-floor",
        "backend": target / "examples/peers-backend",
        **dict(arguments.also),
    }.items():
        copies[name] = proxies.WORK / f"bin-{name}"
        copies[name].unlink(missing_ok=True)
        shutil.copy2(source, copies[name])
    return copies


def rows_of(known, arguments, binaries):
    found = []
    for proxy in known:
        if proxy.name != "usher":
            found.append(Row(proxy.name, proxy))
            continue
        found += [replace(row, proxy=proxy) for row in USHER_ROWS.values()]
        for name, _ in arguments.also:
            other = replace(proxy, name=name, command=lambda work, port, backend, name=name: [binaries[name], "run", "-c", work / "usher.toml"])
            found.append(Row(name, other))
    names = [row.name for row in found]
    wanted = arguments.only or names
    if unknown := set(wanted) - set(names):
        sys.exit(f"--only: no {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return [row for row in found if row.name in wanted]


def compare(world, load, rows, arguments, sizes):
    """Measures figures by metric, row and round. Each metric measures all rows before the next metric begins."""
    figures = {metric: {row.name: [] for row in rows if metric in row.metrics} for metric in METRICS if metric in arguments.metrics}
    with ExitStack() as stack:
        backend = stack.enter_context(world.backend())
        running = {}
        for row in rows:
            if row.proxy.name not in running:
                running[row.proxy.name] = stack.enter_context(world.start(row.proxy, backend))
                running[row.proxy.name].check(world)
            measure.ready(running[row.proxy.name], row, world)
            warm = measure.handshakes(load, running[row.proxy.name], row, 400)
            measure.check_workers(row.name, warm["threads"])
            say(f"{row.name}: refuses, echoes, works with {proxies.THREADS}")
        for number in range(arguments.rounds):
            costs = {}
            for metric in figures:
                # The first row changes from round to round.
                order = [row for row in rows if row.name in figures[metric]]
                order = order[number % len(order) :] + order[: number % len(order)]
                for row in order:
                    one = one_figure(metric, world, load, running[row.proxy.name], row, backend, sizes, costs)
                    figures[metric][row.name].append(one)
                    say(f"round {number + 1}  {metric:<8} {row.name:<16} {one['value']:9.2f}")
                # Saved after each figure, because a later one may fail.
                if arguments.json:
                    arguments.json.write_text(json.dumps({"machine": machine(world), "figures": figures}, indent=1))
    return figures


def one_figure(metric, world, load, running, row, backend, sizes, costs):
    if metric == "idle":
        with world.start(row.proxy, backend, "-idle") as fresh:
            fresh.check(world)
            measure.ready(fresh, row, world)
            return measure.idle(load, fresh, row, sizes.idle)
    if metric in ("full", "resumed"):
        one = measure.handshakes(load, running, row, sizes.handshakes, metric == "resumed")
        del one["threads"]
        if metric == "full":
            costs[row.name] = one["value"]
        return one
    # A run with only messages must also measure the cost of opening.
    if row.name not in costs:
        costs[row.name] = measure.handshakes(load, running, row, 300)["value"]
    connections, size = (64, "128B") if metric == "small" else (8, "64KiB")
    return measure.messages(load, running, row, connections, size, sizes.seconds, costs[row.name])


def machine(world):
    cpu = next((line.partition(":")[2].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    pins = ", ".join(line.strip() for line in (proxies.HERE / "requirements.txt").open() if "==" in line)
    return f"{os.cpu_count()} x {cpu}, Linux {platform.release()}; {world.algorithm}; {pins}"


def numbers(text):
    return text.split(",")


def named_file(text):
    name, found, path = text.partition("=")
    if not (found and name.isidentifier() and Path(path).is_file()):
        raise argparse.ArgumentTypeError("NAME=FILE, with a binary of Usher")
    return name, Path(path).resolve()


def options():
    parser = argparse.ArgumentParser(description=__doc__)
    option = parser.add_argument
    option("--only", type=numbers, metavar="NAME,..", help="only these rows, such as floor,usher,haproxy")
    option("--metrics", type=numbers, default=list(METRICS), metavar="NAME,..", help=f"only these metrics, of {','.join(METRICS)}")
    option("--rounds", type=int, default=5, metavar="N", help="the number of rounds for each median (default: %(default)s)")
    option("--quick", action="store_true", help="a quarter of the load, to check that everything works")
    option("--scale", action="store_true", help="measure only Usher, with 100 and 8,000 open sessions, and after 50,000 connects")
    option("--algorithm", choices=proxies.ALGORITHMS, default="RS256", help="the algorithm of the tokens (default: %(default)s)")
    option("--usher", type=Path, metavar="FILE", help="this binary instead of a new build")
    option("--load", type=Path, metavar="FILE", help="the load generator, to use the same one in several runs")
    option("--also", type=named_file, action="append", default=[], metavar="NAME=FILE", help="add a row with another binary of Usher")
    option("--json", type=Path, metavar="FILE", help="also write all figures of all rounds to this file")
    option("--no-build", action="store_true", help="use the binaries in target/release")
    arguments = parser.parse_args()
    if unknown := set(arguments.metrics) - set(METRICS):
        parser.error(f"no metric {', '.join(unknown)}")
    return arguments


def main():
    arguments = options()
    # Every kind of end cleans up in the same way.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    began, sizes = time.monotonic(), Sizes.quick() if arguments.quick else Sizes()
    binaries = build(arguments)
    known = proxies.known(proxies.install(), binaries["usher"], binaries["floor"])
    with tempfile.TemporaryDirectory(prefix="usher-peers-") as directory:
        # nginx drops its privileges, so its workers need access to the directory.
        Path(directory).chmod(0o755)
        world = proxies.World(directory, arguments.algorithm, binaries["usher"], binaries["backend"])
        load = measure.Load(binaries["load"], world)
        try:
            if arguments.scale:
                usher = next(proxy for proxy in known if proxy.name == "usher")
                print(scale.run(world, load, Row("usher", usher), arguments, sizes))
            else:
                rows = rows_of(known, arguments, binaries)
                figures = compare(world, load, rows, arguments, sizes)
                print(table.render(figures, METRICS, [row.name for row in rows if row.proxy.name in PEERS]))
            print(f"\n{machine(world)}; {arguments.rounds} rounds, {time.monotonic() - began:.0f} s")
        except Failure as failure:
            sys.exit(f"peers: {failure}")
        except KeyboardInterrupt:
            sys.exit(130)


PEERS = ("haproxy", "nginx", "envoy", "traefik", "caddy")

if __name__ == "__main__":
    main()
