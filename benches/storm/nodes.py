"""The nodes in the storm: listen queue, waiting room, CPU and limits.

All nodes are equal and a balancer spreads clients evenly, so the simulation treats them as one large node. Clients are
cohorts: those that arrived in the same step with the same past. A connection waits in the kernel's listen queue. It is
then accepted into the room, or closed unread. The node works on it in two turns, TLS and the rest. Between the turns,
it goes to the end of the queue, because all connections share the CPU. A client whose time limit has passed has left,
but its connection still costs CPU until the node notices.
"""

from collections import deque
from dataclasses import dataclass, replace

from draw import share

TICKET, UPGRADE = 0, 1
TLS, REST = 0, 1
# Without an answer, the kernel of a client sends its SYN again after one second, then two, then four.
SYN_RETRIES = 3
# The share of the CPU for closing connections: the accept loop shares the CPU with accepted connections.
CLOSING_SHARE = 0.5


@dataclass
class Cohort:
    failures: int
    stage: int
    count: int
    # The step of its first SYN, and the number of SYNs without an answer.
    began: int
    unheard: int
    # The steps when the client gives up, when it was accepted, and when its next bytes arrive.
    deadline: int
    accepted: int = 0
    ready: int = 0
    turn: int = TLS
    gone: bool = False


@dataclass
class Outcome:
    """The outcome of one step: (reason, failures, number) of failed clients, and the numbers of the others."""

    failed: list
    unheard: list
    ticketed: list
    opened: int = 0
    handshakes: int = 0
    busy: float = 0.0
    wasted: float = 0.0


class Store:
    """Redis: a fixed number of operations in each step, and none while it does not answer."""

    def __init__(self, figures, away=(0.0, 0.0)):
        self.per_step = int(figures.redis * figures.redis_operations * figures.step)
        self.away = tuple(round(second / figures.step) for second in away)
        self.used = self.left = 0

    def begin(self, now):
        self.left = 0 if self.away[0] <= now < self.away[1] else self.per_step
        self.used = 0

    def take(self, wanted):
        """Returns the number of operations that were answered in time. The others fail."""
        given = min(wanted, self.left)
        self.left -= given
        self.used += given
        return given


class Nodes:
    def __init__(self, figures, count, sessions, random, guarded=True):
        self.figures, self.count, self.sessions, self.random = figures, count, sessions, random
        self.most_waiting = figures.unauthenticated * count if guarded else float("inf")
        self.most_open = figures.connections * count
        self.most_listening = figures.backlog * figures.cores * count
        # `listening` has lists of cohorts by step of arrival; `room` has cohorts in the order of their bytes.
        self.listening, self.room = deque(), deque()
        self.in_queue = self.in_room = 0
        self.half_way = figures.steps(figures.rtt * figures.round_trips / 2)
        costs = (figures.ticket_ms, figures.upgrade_ms)
        self.costs = [(cost * figures.tls_share, cost * (1.0 - figures.tls_share)) for cost in costs]

    def step(self, now, arrivals, store, by_ticket):
        """Simulates one step. `arrivals` has pairs of (failures, stage, earlier SYNs) and a number."""
        outcome = Outcome([], [], [])
        cpu = self.figures.handshake_cores(self.sessions / self.count) * self.count * self.figures.step * 1000
        self.expire(now, outcome)
        newcomers = [self.cohort(now, key, count) for key, count in arrivals]
        left = cpu - self.accept(now, newcomers, cpu * CLOSING_SHARE, outcome)
        self.drop_unheard(newcomers, outcome)
        left = self.serve(now, left, store, by_ticket, outcome)
        # A remainder that is too small for one more connection does not count as idle.
        outcome.busy = 1.0 - left / cpu if cpu > 0 else 1.0
        return outcome

    def cohort(self, now, key, count):
        failures, stage, unheard = key
        began = now - self.figures.steps(2**unheard - 1) if unheard else now
        return Cohort(failures, stage, count, began, unheard, began + self.figures.steps(self.figures.client_timeout))

    def expire(self, now, outcome):
        tls, handshake = self.figures.steps(self.figures.tls_timeout), self.figures.steps(self.figures.handshake_timeout)
        for cohort in self.room:
            usher_s = cohort.accepted + (tls if cohort.turn == TLS else handshake)
            self.expire_one(cohort, min(cohort.deadline, usher_s), now, outcome)
        for batch in self.listening:
            for cohort in batch:
                self.expire_one(cohort, cohort.deadline, now, outcome)

    def expire_one(self, cohort, deadline, now, outcome):
        if deadline <= now and cohort.count and not cohort.gone:
            cohort.gone = True
            outcome.failed.append(("timeout", cohort.failures, cohort.count))

    def accept(self, now, newcomers, budget, outcome):
        """Accepts in the order of arrival, and returns the CPU time for closing. The rest stays in the listen queue."""
        spent = 0.0
        self.listening.append(newcomers)
        self.in_queue += sum(cohort.count for cohort in newcomers)
        while self.listening:
            batch = self.listening[0]
            present = [0 if cohort.gone else cohort.count for cohort in batch]
            room = min(self.most_waiting - self.in_room, self.most_open - self.sessions - self.in_room)
            for cohort, count in zip(batch, share(self.random, present, int(max(0, min(sum(present), room))))):
                self.admit(now, cohort, count)
            waiting = [cohort.count for cohort in batch]
            affordable = int((budget - spent) / self.figures.refusal_ms)
            for cohort, count in zip(batch, share(self.random, waiting, min(sum(waiting), affordable))):
                spent += self.close(cohort, count, outcome)
            if any(cohort.count for cohort in batch):
                break
            self.listening.popleft()
        return spent

    def admit(self, now, cohort, count):
        if count:
            self.room.append(replace(cohort, count=count, accepted=now, ready=now + self.half_way))
            cohort.count -= count
            self.in_queue -= count
            self.in_room += count

    def close(self, cohort, count, outcome):
        cohort.count -= count
        self.in_queue -= count
        if count and not cohort.gone:
            outcome.failed.append(("refused", cohort.failures, count))
        return count * self.figures.refusal_ms

    def drop_unheard(self, newcomers, outcome):
        """Drops the newest SYNs that do not fit into the listen queue."""
        over = max(0, self.in_queue - self.most_listening)
        for cohort, dropped in zip(newcomers, share(self.random, [cohort.count for cohort in newcomers], over)):
            if dropped:
                cohort.count -= dropped
                self.in_queue -= dropped
                outcome.unheard.append((cohort, dropped))

    def serve(self, now, left, store, by_ticket, outcome):
        """Works on connections whose bytes have arrived, in turn. Returns the CPU time that is left."""
        while self.room and self.room[0].ready <= now:
            cohort = self.room[0]
            # Usher notices that a client has left only after TLS, so TLS is wasted, but the rest is saved.
            cost = 0.0 if cohort.gone and cohort.turn == REST else self.costs[cohort.stage][cohort.turn]
            count = min(cohort.count, int(left / cost)) if cost else cohort.count
            left -= count * cost
            cohort.count -= count
            if cohort.gone:
                self.in_room -= count
                outcome.wasted += count * self.costs[cohort.stage][TLS]
            elif cohort.turn == TLS and count:
                self.room.append(replace(cohort, count=count, turn=REST, ready=now + self.half_way))
            elif count:
                self.in_room -= count
                self.finish(cohort, count, store, by_ticket, outcome)
            if cohort.count:
                break
            self.room.popleft()
        return left

    def finish(self, cohort, count, store, by_ticket, outcome):
        answered = store.take(count) if by_ticket else count
        outcome.handshakes += count
        if answered < count:
            outcome.failed.append(("store", cohort.failures, count - answered))
        if cohort.stage == TICKET:
            outcome.ticketed.append((cohort.failures, answered))
        else:
            self.sessions += answered
            outcome.opened += answered

    def clients_inside(self):
        """Returns the number of clients in the listen queue and the room, without those that have left."""
        queued = sum(cohort.count for batch in self.listening for cohort in batch if not cohort.gone)
        return queued + sum(cohort.count for cohort in self.room if not cohort.gone)
