"""Measures whether Usher costs more with many open sessions, and whether its memory returns to the start."""

import json
import time
from contextlib import ExitStack
from statistics import median

import measure
import process
from measure import say

FEW, MANY = 100, 8000
CHURN = 50_000
# Longer than all rounds. The holder ends with its process.
HELD_SECONDS = 7200


def run(world, load, row, arguments, sizes):
    with ExitStack() as stack:
        backend = stack.enter_context(world.backend())
        found = crowded(world, load, row, arguments, sizes, backend)
        found["churn"] = churn(world, load, row, backend, CHURN // 10 if arguments.quick else CHURN)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))
    return render(found)


def crowded(world, load, row, arguments, sizes, backend):
    """Measures two Ushers in turn, one with few sessions and one with many."""
    many = MANY // 8 if arguments.quick else MANY
    found = {"open": [FEW, many], "full": [[], []], "small": [[], []]}
    with ExitStack() as stack:
        both = []
        for count in (FEW, many):
            running = stack.enter_context(world.start(row.proxy, backend))
            running.check(world)
            holder = stack.enter_context(load.hold(running, row, count, HELD_SECONDS))
            measure.wait_for_all(running, holder, count)
            both.append((running, holder, count))
        for running, _, _ in both:
            measure.handshakes(load, running, row, 400)
        for number in range(arguments.rounds):
            for which in ((0, 1), (1, 0))[number % 2]:
                running, holder, count = both[which]
                handshake = measure.handshakes(load, running, row, sizes.handshakes)["value"]
                echo = measure.messages(load, running, row, 64, "128B", sizes.seconds, handshake)["value"]
                found["full"][which].append(handshake)
                found["small"][which].append(echo)
                say(f"round {number + 1}  {count:>5} open: handshake {handshake:8.2f}, echo {echo:8.2f}")
                if process.descriptors(holder.pid) < count:
                    running.complain("sessions were lost")
    return found


def churn(world, load, row, backend, count):
    """Connects and disconnects twice. Reports the memory before, between and after."""
    with world.start(row.proxy, backend) as running:
        running.check(world)
        load.run([], measure.url(running, row), row.auth, "--connections", 1000, "--concurrency", 64)
        readings = []
        for again in range(3):
            if again:
                load.run([], measure.url(running, row), row.auth, "--connections", count, "--concurrency", 64)
            time.sleep(5)
            readings.append(process.memory_kib(running.pid))
            say(f"after {again * count} connects: {readings[-1]} KiB")
        return {"count": count, "kib": readings}


def render(found):
    few, many = found["open"]
    lines = [f"{'Usher with':<44}{few:>8}{many:>8}{'ratio':>8}  sessions open"]
    for key, name in (("full", "CPU us of a full handshake with first echo"), ("small", "CPU us of a 128 byte echo, 64 connections")):
        one, other = found[key]
        paired = median(b / a for a, b in zip(one, other))
        lines.append(f"{name:<44}{median(one):8.1f}{median(other):8.1f}{paired:8.3f}")
    count, kib = found["churn"]["count"], found["churn"]["kib"]
    lines += ["", f"{'Memory of Usher in KiB':<44}{'before':>8}{'after':>8}{'again':>8}"]
    lines.append(f"{f'{count} connects and disconnects':<44}{kib[0]:8}{kib[1]:8}{kib[2]:8}")
    return "\n".join(lines)
