#!/usr/bin/env python3
"""Prints docs/conformance-clients.md from the verdicts that `run.py --save` has written."""

import json
import sys
from pathlib import Path

HEAD = """# Conformance of the clients

The rules for clients of Usher, and the results of both libraries. `make conformance-clients`
generates this page; [client-rules.md](client-rules.md) says how to test another client.

Each rule runs against a scripted server, which misbehaves where the rule needs it. Where possible,
it runs against the real Usher too (`pass, pass`). A tap in front of the real one records the
client's bytes; for some rules it delays, cuts or answers one exchange, as a network would. A
self-check compares the answers of the two servers.
"""


def main() -> None:
    runs = [json.loads(Path(name).read_text()) for name in sys.argv[1:]]
    print(HEAD)
    for run in runs:
        rows = run["rows"]
        scripted = sum(row[3] == "pass" for row in rows)
        real = [row[5] for row in rows if row[5]]
        print(
            f"- {run['client']}: {scripted} of {len(rows)} rules pass against the scripted server,"
        )
        print(f"  {real.count('pass')} of {len(real)} against the real Usher.")
    names = [run["client"].split("(")[-1].rstrip(")") for run in runs]
    observed = [f"{name}, observed" for name in names]
    part = None
    for rows in zip(*(run["rows"] for run in runs)):
        id, here, sentence = rows[0][:3]
        if here != part:
            part = here
            columns = " | ".join(["rule", "requirement", *names, *observed])
            print(f"\n## {part}\n\n| {columns} |")
            print("|---" * (2 + 2 * len(names)) + "|")
        verdicts = [row[3] + (f", {row[5]}" if row[5] else "") for row in rows]
        seen = [row[4].replace("|", "/") for row in rows]
        print(f"| {id} | {sentence} | {' | '.join(verdicts)} | {' | '.join(seen)} |")


main()
