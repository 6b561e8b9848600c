#!/usr/bin/env python3
"""Reads the audit log of a running Usher with `usher audit`: filters, and a rotation under --follow.

Usage: audit.py USHER
"""

import json
import queue
import subprocess
import sys
import threading
from pathlib import Path

from servers import UPGRADE, Backend, Usher, eventually, head, send, tokens


def config(backend: Backend) -> str:
    return f"""
[[listener]]
address = "127.0.0.1:0"
plain = true
[[issuer]]
name = "main"
issuer = "{tokens.ISSUER}"
audience = ["{tokens.AUDIENCE}"]
algorithms = ["HS256"]
secret_env = "API_JWT_SECRET"
[[upstream]]
name = "chat"
servers = ["http://127.0.0.1:{backend.port}"]
[[route]]
path = "/ws"
upstream = "chat"
auth = ["header"]
[audit]
file = "audit.jsonl"
[admin]
address = "127.0.0.1:0"
"""


def session(usher: Usher, user: str):
    """Opens a session and ends it."""
    headers = {"Host": "localhost", **UPGRADE, "Authorization": f"Bearer {tokens.mint(user)}"}
    answer = send(usher.client, head("GET", "/ws", headers))
    assert answer.status == 101, answer.status
    answer.socket.close()


def main(binary: str) -> int:
    backend = Backend()
    usher = Usher(binary, config(backend))
    log = usher.file.parent / "audit.jsonl"
    command = [binary, "audit", "-c", usher.file, "--json"]

    def audit(*options: str) -> list[dict]:
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, ""), done
        return [json.loads(line) for line in done.stdout.splitlines()]

    follower = None
    try:
        session(usher, "ada")
        session(usher, "bob")
        assert eventually(lambda: len(audit("--event", "session_ended")) == 2), log.read_text()
        assert {line["user"] for line in audit("--user", "ada")} == {"ada"}
        ended = audit("--user", "bob", "--event", "session_ended", "--since", "10m")
        assert [line["user"] for line in ended] == ["bob"]
        assert {line["user"] for line in audit("--session", ended[0]["session_id"])} == {"bob"}
        assert audit("--since", "2099-01-01T00:00:00Z") == []
        plain = subprocess.run([binary, "audit", log, "--user", "ada"], capture_output=True, text=True)
        assert "  session_ended  " in plain.stdout and "  ada  " in plain.stdout, plain

        follower = subprocess.Popen(
            [*command, "--follow", "--event", "session_ended"], stdout=subprocess.PIPE, text=True
        )
        lines = queue.Queue()
        threading.Thread(
            target=lambda: [lines.put(json.loads(line)["user"]) for line in follower.stdout], daemon=True
        ).start()
        found = [lines.get(timeout=60), lines.get(timeout=60)]
        session(usher, "eve")
        found.append(lines.get(timeout=60))
        log.rename(log.with_name("audit.old"))
        headers = {"Host": "localhost", "Content-Type": "application/json"}
        assert send(usher.admin, head("POST", "/reload", headers)).status == 200
        session(usher, "joe")
        found.append(lines.get(timeout=60))
        assert sorted(found[:2]) + found[2:] == ["ada", "bob", "eve", "joe"], found
        assert "joe" not in log.with_name("audit.old").read_text()
    finally:
        if follower:
            follower.kill()
            follower.wait()
        usher.stop()
        backend.stop()
    print("audit: `usher audit` filters a log, and follows it over a rotation")
    return 0


if __name__ == "__main__":
    sys.exit(main(str(Path(sys.argv[1]).resolve())))
