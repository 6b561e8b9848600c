"""Starts, measures and ends the processes of the comparison. Each has a session of its own."""

import os
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

# The wait after the load, for the work that its last packets cause, in seconds.
SETTLE = 0.1


@contextmanager
def child(command, log, environment=None, directory=None):
    """Starts a process. At the end of the block, ends it and all processes that it started."""
    with Path(log).open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=directory,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        end(process)


def end(process):
    """Ends a process group. The leader of the session has the number of the group."""
    for number, patience in ((signal.SIGTERM, 2), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        until = time.monotonic() + patience
        while time.monotonic() < until and group(process.pid):
            process.poll()
            time.sleep(0.02)
    process.wait()


def group(leader):
    """Returns the live processes of a session."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                state, _, _, session = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[:4]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if session == str(leader) and state != "Z":
                found.append(int(entry))
    return found


def cpu(leader):
    """Returns the CPU time in nanoseconds by thread, and the total CPU time of the processes, measured in ticks."""
    threads, ticks = {}, 0
    for pid in group(leader):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
        for thread in os.listdir(f"/proc/{pid}/task"):
            try:
                threads[pid, thread] = int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                continue
    return threads, ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def used(before, after):
    """Returns the CPU time between two readings. If a thread ended in between, only the coarse total includes it."""
    if before[0].keys() <= after[0].keys():
        return sum(after[0].values()) - sum(before[0].values())
    return after[1] - before[1]


def used_by_thread(before, after):
    return sorted((spent - before[0].get(thread, 0) for thread, spent in after[0].items()), reverse=True)


def memory_kib(leader):
    """Returns the proportional set size, so that memory shared by the processes is counted once."""
    total = 0
    for pid in group(leader):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total


def descriptors(pid):
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except (FileNotFoundError, ProcessLookupError):
        return 0
