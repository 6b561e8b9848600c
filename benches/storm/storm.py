"""One storm: clients lose their sessions and reconnect by their habit, and the remaining nodes accept them.

Time goes in steps. A calendar has the number of clients that arrive in each step, with their past: the failures, the
stage (ticket or upgrade), and the SYNs without an answer. At the end of each step, each client is in exactly one place:
still connected, in the calendar, at a node, or back. `Storm.step` checks that.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from random import Random

from clients import Habit
from draw import spread
from nodes import SYN_RETRIES, TICKET, UPGRADE, Nodes, Store


@dataclass(frozen=True)
class Scenario:
    """`clients` lose their sessions within `over` seconds. `nodes` accept them, and already have `sessions`."""

    name: str
    clients: int
    over: float
    nodes: int
    sessions: int
    store_away: tuple = (0.0, 0.0)


@dataclass
class Report:
    scenario: Scenario
    habit: Habit
    guarded: bool
    arrivals: list = field(default_factory=list)
    handshakes: list = field(default_factory=list)
    operations: list = field(default_factory=list)
    busy: list = field(default_factory=list)
    missing: list = field(default_factory=list)
    failed: Counter = field(default_factory=Counter)
    most_in_room: int = 0
    full_seconds: float = 0.0
    back: int = 0
    back_after: dict = field(default_factory=dict)
    mean_away: float = 0.0


class Storm:
    def __init__(self, figures, scenario, habit, guarded=True, by_ticket=True, seed=1):
        self.figures, self.scenario, self.habit, self.by_ticket = figures, scenario, habit, by_ticket
        self.random = Random(seed)
        self.nodes = Nodes(figures, scenario.nodes, scenario.sessions, self.random, guarded)
        self.store = Store(figures, scenario.store_away)
        self.calendar = defaultdict(Counter)
        self.scheduled = self.back = self.now = 0
        self.closes = Counter(dict(spread(self.random, scenario.clients, figures.steps(scenario.over))))
        self.connected = scenario.clients
        self.report = Report(scenario, habit, guarded)

    def run(self):
        while self.back < self.scenario.clients and self.now < self.figures.steps(self.figures.longest):
            self.step()
        return self.finish()

    def step(self):
        closed = self.closes.pop(self.now, 0)
        self.connected -= closed
        self.come_back(0, closed)
        arrivals = self.calendar.pop(self.now, Counter())
        self.scheduled -= sum(arrivals.values())
        self.store.begin(self.now)
        outcome = self.nodes.step(self.now, sorted(arrivals.items()), self.store, self.by_ticket)
        for reason, failures, count in outcome.failed:
            self.report.failed[reason] += count
            self.come_back(failures + 1, count)
        for cohort, count in outcome.unheard:
            self.unheard(cohort, count)
        for failures, count in outcome.ticketed:
            self.schedule(1, (failures, UPGRADE, 0), count)
        self.back += outcome.opened
        self.record(arrivals, outcome)
        here = self.connected + self.scheduled + self.nodes.clients_inside() + self.back
        if here != self.scenario.clients:
            raise AssertionError(f"{self.scenario.clients} clients, but {here} are somewhere")
        self.now += 1

    def come_back(self, failures, count, after=0):
        failures = self.habit.count(failures)
        first, bins = self.habit.delay_bins(failures, self.figures)
        # The first try after a close may be in this step, because arrivals are handled later. A retry is in a later step.
        first = first + after if failures else 0
        key = (failures, TICKET if self.by_ticket else UPGRADE, 0)
        for later, some in spread(self.random, count, bins):
            self.schedule(first + later, key, some)

    def unheard(self, cohort, count):
        """Handles a SYN without an answer. The kernel repeats it, until the time limit of the client ends the try."""
        self.report.failed["unheard"] += count
        wait = self.figures.steps(2**cohort.unheard)
        if cohort.unheard < SYN_RETRIES and self.now + wait < cohort.deadline:
            self.schedule(wait, (cohort.failures, cohort.stage, cohort.unheard + 1), count)
        else:
            self.report.failed["timeout"] += count
            self.come_back(cohort.failures + 1, count, after=max(0, cohort.deadline - self.now))

    def schedule(self, later, key, count):
        self.calendar[self.now + later][key] += count
        self.scheduled += count

    def record(self, arrivals, outcome):
        report = self.report
        report.arrivals.append(sum(arrivals.values()))
        report.handshakes.append(outcome.handshakes)
        report.operations.append(self.store.used)
        report.busy.append(outcome.busy)
        report.full_seconds += self.figures.step if outcome.busy > 0.95 else 0.0
        report.missing.append(self.scenario.clients - self.connected - self.back)
        report.most_in_room = max(report.most_in_room, self.nodes.in_room)
        for percent in (50, 99, 100):
            if percent not in report.back_after and self.back * 100 >= self.scenario.clients * percent:
                report.back_after[percent] = (self.now + 1) * self.figures.step

    def finish(self):
        report = self.report
        report.back = self.back
        report.mean_away = sum(report.missing) * self.figures.step / max(1, self.scenario.clients)
        return report


def per_second(counts, figures):
    """Returns sums over whole seconds."""
    width = figures.steps(1.0)
    return [sum(counts[at : at + width]) for at in range(0, len(counts), width)]
