#!/usr/bin/env python3
"""Checks a client against the rules for clients of Usher, and prints a table.

    run.py [options] -- COMMAND OF THE DRIVER

docs/client-rules.md describes a driver. The exit code is 1 if the client breaks a rule.
"""

import argparse
import asyncio
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import rules_connection  # noqa: F401
import rules_first_message  # noqa: F401
import rules_renewal  # noqa: F401
import rules_tickets  # noqa: F401
import self_check
from rules import RULES, Case, Failed, NotApplicable, Rule, check_secrets

ROOT = Path(__file__).resolve().parents[2]
RULE_TIMEOUT = 60
PARTS = ["Tickets", "First message", "Re-authentication", "Connection"]
PASS, FAIL, SKIP = "pass", "FAIL", "n/a"


async def run_rule(rule: Rule, command: list[str], binary: str | None, log) -> tuple[str, str]:
    """Returns the verdict and the observation."""
    case = Case(command, binary, log)
    try:
        async with asyncio.timeout(RULE_TIMEOUT):
            driver = await case.driver()
            lacking = [name for name in rule.needs if not driver.can(name)]
            await driver.stop()
            if lacking:
                raise NotApplicable(f"the driver has no {', '.join(lacking)}")
            observed = await rule.run(case)
            for world in case.worlds:
                check_secrets(world)
            return PASS, observed
    except NotApplicable as reason:
        return SKIP, str(reason)
    except (Failed, AssertionError) as reason:
        return FAIL, str(reason) or repr(reason)
    except TimeoutError:
        return FAIL, f"not over after {RULE_TIMEOUT} s"
    except Exception as fault:
        return FAIL, f"{type(fault).__name__}: {fault}"
    finally:
        with suppress(TimeoutError):
            await asyncio.wait_for(case.close(), 15)


async def run_all(chosen: list[Rule], command: list[str], binary: str | None, jobs: int, log):
    """Runs all rules against the scripted server, and those marked as real with the binary too."""
    places = asyncio.Semaphore(jobs)

    async def one(rule: Rule, binary: str | None):
        async with places:
            result = await run_rule(rule, command, binary, log)
            if result[0] == FAIL:
                kind = "real" if binary else "scripted"
                print(f"{rule.id} ({kind}): {result[1]}", file=sys.stderr, flush=True)
            return result

    scripted = [one(rule, None) for rule in chosen]
    real = [one(rule, binary) for rule in chosen if rule.is_real and binary]
    results = await asyncio.gather(*scripted, *real)
    by_real = iter(results[len(chosen) :])
    rows = []
    for rule, (verdict, observed) in zip(chosen, results):
        against_real = next(by_real) if rule.is_real and binary else ("", "")
        rows.append((rule, verdict, observed, *against_real))
    return rows


def table(rows) -> str:
    lines = [
        "| rule | from | what the spec says | scripted | real | observed |",
        "|---|---|---|---|---|---|",
    ]
    for rule, verdict, observed, real, real_observed in rows:
        text = (
            observed
            if real in ("", PASS) or verdict == FAIL
            else f"{observed}; real: {real_observed}"
        )
        cells = [rule.id, rule.part, rule.sentence, verdict, real or "-", text.replace("|", "/")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(name: str, rows) -> str:
    def count(verdict: str, column: int) -> int:
        return sum(row[column] == verdict for row in rows)

    return (
        f"{name}: {len(rows)} rules; scripted: {count(PASS, 1)} pass, {count(FAIL, 1)} fail, "
        f"{count(SKIP, 1)} not applicable; real Usher: {count(PASS, 3)} pass, {count(FAIL, 3)} fail"
    )


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--usher", default=os.environ.get("USHER_BIN"), help="the binary to run rules against, too"
    )
    parser.add_argument(
        "--self-check", action="store_true", help="compare the scripted server with the binary"
    )
    parser.add_argument("--only", default="", help="rules, with commas: T04,R02")
    parser.add_argument(
        "--must-fail", action="store_true", help="end with 0 only if every rule is broken"
    )
    parser.add_argument("--jobs", type=int, default=6, help="rules at the same time")
    parser.add_argument("--save", help="write the verdicts into this file, as JSON, for page.py")
    parser.add_argument("--brief", action="store_true", help="print the last line alone")
    parser.add_argument("driver", nargs="*", help="the command of the driver")
    return parser.parse_args()


async def main() -> int:
    asked = arguments()
    status = 0
    if asked.self_check:
        if not asked.usher:
            sys.exit("--self-check needs --usher")
        status |= await self_check.run(asked.usher)
    if not asked.driver:
        return status
    wanted = [name for name in asked.only.split(",") if name]
    chosen = [rule for rule in RULES if not wanted or rule.id in wanted]
    chosen.sort(key=lambda rule: (PARTS.index(rule.part), rule.id))
    log_path = ROOT / "target/conformance-client.log"
    log_path.parent.mkdir(exist_ok=True)
    with log_path.open("a") as log:
        probe = Case(asked.driver, None, log)
        try:
            name = (await probe.driver()).about.get("client", "client")
        except AssertionError as error:
            sys.exit(f"{error}; its stderr is in {log_path}")
        finally:
            await probe.close()
        rows = await run_all(chosen, asked.driver, asked.usher, asked.jobs, log)
    if asked.save:
        saved = [[rule.id, rule.part, rule.sentence, *seen] for rule, *seen in rows]
        Path(asked.save).write_text(json.dumps({"client": name, "rows": saved}))
    if not asked.brief:
        print(table(rows))
    print(summary(name, rows))
    if asked.must_fail:
        return status | any(row[1] != FAIL for row in rows)
    return status | any(FAIL in row for row in rows)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
