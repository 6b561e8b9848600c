"""Simulates reconnect storms of a fleet, and prints tables: `python3 benches/storm/simulate.py --help`."""

import argparse
import re
import sys
from dataclasses import replace
from pathlib import Path

import figures as figures_module
import sizing
from clients import EAGER, EXPONENTIAL, FIXED, FULL_JITTER, HABITS, full_jitter
from storm import Scenario, Storm, per_second

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [DOCS / name for name in ("scaling.md", "reconnect-storms.md", "storm-simulation.md")]
HEAD = (
    f"{'storm':<23}{'clients':<14}{'guard':<6}{'arrive':>7}{'taken':>7}{'CPU':>6}{'full s':>7}{'room':>7}"
    f"{'refused':>8}{'unheard':>8}{'late':>7}{'store':>7}{'away s':>7}{'99 % s':>7}{'all s':>7}"
)


class Fleet:
    """A fleet with clients, nodes and regions, and its scenarios."""

    def __init__(self, clients, nodes, regions, figures):
        self.clients, self.nodes, self.regions, self.figures = clients, nodes, regions, figures
        self.per_node = clients // nodes
        self.in_region = nodes // regions

    def node(self, name, over):
        takers = self.in_region - 1
        return Scenario(name, self.per_node, over, takers, takers * self.per_node)

    def region(self, name, over, away=0.0):
        takers = self.nodes - self.in_region
        return Scenario(name, self.in_region * self.per_node, over, takers, takers * self.per_node, (0.0, away))

    def redis(self, away):
        """Redis does not answer. Open sessions continue, but clients that reconnect as usual get no tickets."""
        leaving = int(self.clients * away / self.figures.session_length)
        return Scenario(f"Redis away {away:g} s", leaving, away, self.nodes, self.clients - leaving, (0.0, away))


def row(report, figures):
    times = [f"{report.back_after[percent]:.1f}" if percent in report.back_after else "never" for percent in (99, 100)]
    failed = report.failed
    return (
        f"{report.scenario.name:<23}{report.habit.name:<14}{'yes' if report.guarded else 'no':<6}"
        f"{short(max(per_second(report.arrivals, figures))):>7}{short(max(per_second(report.handshakes, figures))):>7}"
        f"{max(report.busy):>6.0%}{report.full_seconds:>7.1f}{short(report.most_in_room / report.scenario.nodes):>7}"
        f"{short(failed['refused']):>8}{short(failed['unheard']):>8}{short(failed['timeout']):>7}{short(failed['store']):>7}"
        f"{report.mean_away:>7.1f}{times[0]:>7}{times[1]:>7}"
    )


def short(number):
    """Returns a number with three digits, which is the precision of the model."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size * 0.9995:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def storms(fleet, figures, options):
    """Compares the scenarios by the habit of clients, with all limits of Usher on."""
    notice = figures.notice
    scenarios = [fleet.node("node drained, 30 s", 30.0), fleet.node("node drained, at once", notice), fleet.node("node lost", notice)]
    scenarios += [fleet.redis(10.0), fleet.redis(60.0)]
    scenarios += [fleet.region(f"region drained, {window} s", float(window)) for window in (10, 30, 60, 120)]
    pairs = [(scenario, habit) for scenario in scenarios for habit in (FIXED, FULL_JITTER)]
    for scenario in (fleet.region("region lost", notice), fleet.region("region and Redis, 10 s", notice, 10.0)):
        pairs += [(scenario, habit) for habit in HABITS]
    return "\n".join([HEAD] + [row(run(scenario, habit, figures, options), figures) for scenario, habit in pairs])


def guards(fleet, figures, options):
    """Loses a region, with and without `limits.unauthenticated`, on nodes of several sizes."""
    lines = [HEAD]
    for cores in (figures.cores * 2, figures.cores, max(1, figures.cores // 2)):
        changed = replace(figures, cores=cores)
        scenario = fleet.region(f"region lost, cores: {cores}", figures.notice)
        for habit in (EAGER, FIXED, FULL_JITTER):
            lines += [row(run(scenario, habit, changed, options, guarded), changed) for guarded in (True, False)]
    return "\n".join(lines)


def backoffs(fleet, figures, options):
    """Loses a region, with several bases and caps of the back-off."""
    scenario = fleet.region("region lost", figures.notice)
    habits = [full_jitter(base, cap) for base, cap in ((0.5, 5), (0.5, 30), (1, 10), (1, 30), (1, 60), (5, 30), (10, 60))]
    return "\n".join([HEAD] + [row(run(scenario, habit, figures, options), figures) for habit in habits])


def variants(fleet, figures, options):
    """Loses a region, with full jitter, and with one changed figure in each row."""
    lines = [HEAD]
    for name, change in (
        ("as above", {}),
        ("unauthenticated 2,500", {"unauthenticated": 2_500}),
        ("unauthenticated 40,000", {"unauthenticated": 40_000}),
        ("connections 75,000", {"connections": 75_000}),
        ("4 Redis", {"redis": 4}),
        ("client timeout 3 s", {"client_timeout": 3.0}),
        ("20 % slower handshakes", {"upgrade_ms": figures.upgrade_ms * 1.2, "ticket_ms": figures.ticket_ms * 1.2}),
    ):
        changed = replace(figures, **change)
        lines.append(row(run(fleet.region(name, figures.notice), FULL_JITTER, changed, options), changed))
    report = Storm(figures, fleet.region("header, no ticket", figures.notice), FULL_JITTER, by_ticket=False, seed=options.seed).run()
    return "\n".join(lines + [row(report, figures)])


def course(fleet, figures, options):
    """Loses a region, and shows the course in seconds."""
    scenario = fleet.region("region lost", figures.notice)
    rows = [(EAGER, True), (FIXED, True), (EXPONENTIAL, True), (FULL_JITTER, True)]
    reports = [run(scenario, habit, figures, options, guarded) for habit, guarded in rows]
    names = [f"{report.habit.name}{'' if report.guarded else ', no guard'}" for report in reports]
    lines = [f"{'':>6}" + "".join(f"{name:>24}" for name in names), f"{'second':>6}" + f"{'arrive':>12}{'missing':>12}" * len(reports)]
    longest = max(len(per_second(report.arrivals, figures)) for report in reports)
    for second in (second for second in (0, 1, 2, 3, 4, 5, 7, 10, 15, 20, 25, 30, 40, 60, 90, 120, 240) if second < longest):
        cells = []
        for report in reports:
            arrivals, missing = per_second(report.arrivals, figures), report.missing[:: figures.steps(1.0)]
            over = second >= len(arrivals)
            cells.append(f"{'-' if over else short(arrivals[second]):>12}{'-' if over else short(missing[second]):>12}")
        lines.append(f"{second:>6}" + "".join(cells))
    return "\n".join(lines)


def run(scenario, habit, figures, options, guarded=True):
    return Storm(figures, scenario, habit, guarded, options.method == "ticket", options.seed).run()


TABLES = {"storms": storms, "guards": guards, "course": course, "backoffs": backoffs, "variants": variants}


def tables(options, figures):
    """Yields the requested tables as pairs of name and text."""
    if "figures" in options.table:
        yield "figures", figures_module.table(figures)
    if "sizing" in options.table:
        yield "sizing", sizing.table(figures, options.regions)
    for clients in options.clients:
        fleet = Fleet(clients, options.nodes or max(2 * options.regions, clients // 50_000), options.regions, figures)
        title = f"{short(clients)} clients on {fleet.nodes} nodes in {fleet.regions} regions, {short(fleet.per_node)} each"
        for name, make in TABLES.items():
            if name in options.table:
                yield f"{name} {clients}", f"{title}\n\n{make(fleet, figures, options)}"


def write(made, page):
    """Returns the page with each table in the fenced block after its mark."""
    for name, text in made:
        pattern = rf"(<!-- simulate: {re.escape(name)} -->\n```text\n).*?(\n```)"
        page = re.sub(pattern, lambda found: found[1] + "\n".join(line.rstrip() for line in text.split("\n")) + found[2], page, flags=re.S)
    return page


def parse(arguments):
    parser = argparse.ArgumentParser(description="Reconnect storms of a fleet, in aggregate time steps.")
    parser.add_argument("--clients", type=int, nargs="+", default=[1_000_000], metavar="N", help="the number of clients (1000000)")
    parser.add_argument("--nodes", type=int, metavar="N", help="the number of nodes (one for 50,000 clients)")
    parser.add_argument("--regions", type=int, default=2, metavar="N", help="the number of regions (2)")
    parser.add_argument("--method", choices=["ticket", "header"], default="ticket", help="how clients authenticate")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="the same seed gives the same run")
    every = ["figures", "sizing", *TABLES]
    parser.add_argument("--table", nargs="+", choices=every, default=every, help="only these tables")
    parser.add_argument("--write", action="store_true", help="write the tables into their pages in docs/")
    figures_module.add_options(parser)
    options = parser.parse_args(arguments)
    if options.regions < 2 or (options.nodes and options.nodes < 2 * options.regions):
        parser.error("needs at least two regions, and two nodes in each")
    if wrong := [name for name, value in figures_module.given(options).items() if value <= 0 and name != "echoes"]:
        parser.error(f"must be above 0: {', '.join(wrong)}")
    return options


def main(arguments=None):
    options = parse(arguments)
    made = []
    for name, text in tables(options, figures_module.from_options(options)):
        made.append((name, text))
        print(f"== {name}\n\n{text}\n", flush=True)
    if options.write:
        for page in PAGES:
            page.write_text(write(made, page.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
