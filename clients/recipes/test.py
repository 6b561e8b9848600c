#!/usr/bin/env python3
"""Runs the recipes that can be run here against the real Usher."""

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "conformance"))
import tokens
from real import RealUsher

GORILLA = Path("/usr/share/gocode/src/github.com/gorilla/websocket")
# Debian's package is a plain source tree, so Go runs as it did before modules.
GO = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOFLAGS": "-buildvcs=false"}


def recipes(folder: str) -> dict[str, tuple[list[str], dict[str, str]]]:
    go = {**GO, "GOCACHE": f"{folder}/go"}
    return {
        "Rust, tokio-tungstenite": ([str(ROOT / "target/debug/examples/first_message")], {}),
        "Go, gorilla/websocket": (["go", "run", str(HERE / "main.go")], go),
        "Java, java.net.http": (["java", str(HERE / "Chat.java")], {}),
        "Python, usher_client": ([sys.executable, str(HERE / "chat.py")], {}),
    }


async def run(name: str, command: list[str], extra: dict[str, str], usher: str) -> bool:
    # The question comes 2 s after the login, however long a compiler needed before.
    world = RealUsher(usher, keys={"route.reauth.max_age": "4s"})
    await world.start()
    try:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, world.url, stdin=pipe, stdout=pipe, stderr=pipe, env={**os.environ, **extra}
        )
        both = f"{tokens.mint(seconds=600)}\n{tokens.mint(seconds=900)}\n"
        out, err = await asyncio.wait_for(process.communicate(both.encode()), 120)
    finally:
        await world.stop()
    is_good = process.returncode == 0 and out.decode().split("\n")[:2] == ["got hello", "renewed"]
    print(f"recipe: {name}: {'ok' if is_good else 'FAILED'}", flush=True)
    if not is_good:
        print(out.decode(), err.decode()[-2000:])
    return is_good


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--usher", default=str(ROOT / "target/debug/usher"))
    usher = parser.parse_args().usher
    with tempfile.TemporaryDirectory() as folder:
        wrong = 0
        for name, (command, extra) in recipes(folder).items():
            if shutil.which(command[0]) is None or (name.startswith("Go") and not GORILLA.is_dir()):
                sys.exit(
                    f"{name}: not installed; scripts/setup-tests.sh installs what the tests need"
                )
            wrong += not await run(name, command, extra, usher)
    return int(wrong > 0)


sys.exit(asyncio.run(main()))
