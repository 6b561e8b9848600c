"""The reconnect habits of clients: four habits of real client libraries.

`delay_bins` returns the first step and the number of steps in which clients reconnect after their nth failure. A habit
without jitter has one step.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Habit:
    name: str
    base: float
    cap: float
    grows: bool
    jitter: bool

    def longest(self, failures):
        """Returns the longest wait after this many failures, in seconds. 0 failures means the first try after a close."""
        if not self.jitter and failures == 0:
            return 0.0
        doubled = self.base * 2 ** min(failures - (0 if self.jitter else 1), 30) if self.grows else self.base
        return min(self.cap, doubled)

    def delay_bins(self, failures, figures):
        longest = figures.steps(self.longest(failures))
        return (1, longest) if self.jitter else (longest, 1)

    def count(self, failures):
        """Returns the number of failures, up to the number from which the wait stays the same."""
        if not self.grows:
            return min(failures, 1)
        return failures if self.longest(failures) < self.cap else min(failures, self.capped())

    def capped(self):
        return next(failures for failures in range(1, 64) if self.longest(failures) >= self.cap)


EAGER = Habit("at once", 0.1, 0.1, grows=False, jitter=False)
FIXED = Habit("every second", 1.0, 1.0, grows=False, jitter=False)
EXPONENTIAL = Habit("doubling", 1.0, 30.0, grows=True, jitter=False)
FULL_JITTER = Habit("full jitter", 1.0, 30.0, grows=True, jitter=True)
HABITS = (EAGER, FIXED, EXPONENTIAL, FULL_JITTER)


def full_jitter(base, cap):
    return Habit(f"jitter {base:g}-{cap:g}", base, cap, grows=True, jitter=True)
