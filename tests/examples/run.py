#!/usr/bin/env python3
"""Runs the commands of every page in examples/, as a newcomer does: in an empty folder, in order.

A page is examples/NAME/README.md. Its blocks of `sh` run in one shell. The block of `text` after a
block of `sh` is its output, exactly. Only the ports of loopback differ, and a relay that counts bytes
stands between Usher and the application. A page must log in as alice, and be refused. The
application may get bytes for the first of these alone.

Usage: run.py USHER [NAME...]
"""

import concurrent.futures
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import typing
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "target/examples"
# One block may install packages on a loaded machine.
BLOCK_SECONDS = 900
START_SECONDS = 120
END = "--- the block has ended, with these failed commands: "
TEXT_FILES = {".toml", ".mjs", ".py", ".md", ".json"}
GIVEN: set[int] = set()
LOCKED = {"package-lock.json", "package.json"}
BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.M | re.S)
PORT = re.compile(r"(?<=127\.0\.0\.1:)\d{4,5}|(?<=--port )\d{4,5}|(?<=localhost:)\d{4,5}")
REQUEST_ID = re.compile(r"\b[0-9a-f]{32}\b")
SERVER = re.compile(r'(?<=servers = \["http://127\.0\.0\.1:)\d+')


class Fault(Exception):
    """A difference between a page and its commands."""


def stage(folder: Path) -> Path:
    """Copies the examples as git knows them, without files that other tests installed."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "examples"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)
    return folder


def unused_port() -> int:
    """Returns a port below those that the system gives away by itself, and each one once."""
    while True:
        port = random.randint(12_000, 30_000)
        if port in GIVEN:
            continue
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            GIVEN.add(port)
            return port


def is_listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def eventually(holds) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.05)
    return False


def replace_ports(folder: Path) -> list[int]:
    """Gives the example other ports in all of its files, and returns them."""
    files = [path for path in folder.iterdir() if path.suffix in TEXT_FILES and path.name not in LOCKED]
    found = sorted({port for path in files for port in PORT.findall(path.read_text())})
    ports = {port: unused_port() for port in found}
    if not ports:
        raise Fault("no port of loopback in its files")
    name = re.compile(r"\b(" + "|".join(found) + r")\b")
    for path in files:
        # A linked verifier has no port, and belongs to all examples.
        if not path.is_symlink():
            path.write_text(name.sub(lambda match: str(ports[match[0]]), path.read_text()))
    return list(ports.values())


class Relay:
    """Forwards connections to the application, and counts the bytes that it gets."""

    def __init__(self, port: int):
        self.target, self.bytes, self.open_sockets = port, 0, 0
        self.lock = threading.Lock()
        self.port = unused_port()
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=[client], daemon=True).start()

    def serve(self, client: socket.socket):
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", self.target)) as server:
            threading.Thread(target=self.answer, args=[server, client], daemon=True).start()
            self.copy(client, server, is_counted=True)

    def answer(self, server: socket.socket, client: socket.socket):
        with contextlib.suppress(OSError):
            is_upgraded = server.recv(12, socket.MSG_PEEK | socket.MSG_WAITALL) == b"HTTP/1.1 101"
            self.note(sockets=is_upgraded)
            self.copy(server, client)
            self.note(sockets=-is_upgraded)

    def copy(self, source: socket.socket, sink: socket.socket, is_counted: bool = False):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.note(size=len(data) if is_counted else 0)
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def note(self, size: int = 0, sockets: int = 0):
        with self.lock:
            self.bytes += size
            self.open_sockets += sockets

    def settled_bytes(self) -> int:
        """Waits for the end of all WebSockets, and returns the bytes until then."""
        if not eventually(lambda: self.open_sockets == 0):
            raise Fault("a WebSocket of an earlier client is still open")
        return self.bytes

    def close(self):
        # Wakes the thread that accepts.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def put_relay(folder: Path) -> Relay:
    """Puts a relay in the place of the one server that the configurations name."""
    configurations = list(folder.glob("*.toml"))
    found = {port for path in configurations for port in SERVER.findall(path.read_text())}
    if len(found) != 1:
        raise Fault(f"its configurations name the servers {found}, not one")
    relay = Relay(int(found.pop()))
    for path in configurations:
        path.write_text(SERVER.sub(str(relay.port), path.read_text()))
    return relay


class Shell:
    """One bash for all blocks of a page, in a process group of its own."""

    running: typing.ClassVar[set["Shell"]] = set()

    def __init__(self, folder: Path, usher: Path, source: Path):
        environment = {
            name: value for name, value in os.environ.items()
            if not name.startswith("USHER_") and name not in ("TOKEN", "VIRTUAL_ENV")
        }  # fmt: skip
        environment |= {
            "USHER": str(source), "PATH": f"{usher.parent}{os.pathsep}{environment['PATH']}",
            "npm_config_prefer_offline": "true",
            "npm_config_audit": "false", "npm_config_fund": "false",
            "npm_config_update_notifier": "false",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        # Jupyter reads no settings of this machine. Continuous integration may run as root.
        settings = folder.parent / "jupyter"
        settings.mkdir()
        settings.joinpath("jupyter_server_config.json").write_text('{"ServerApp": {"allow_root": true}}')
        environment |= {f"JUPYTER_{name}_DIR": str(settings) for name in ("CONFIG", "DATA", "RUNTIME")}
        environment |= {"IPYTHONDIR": str(settings)}
        wheels = CACHE / "wheels"
        if wheels.is_dir():
            environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_NO_COMPILE": "1"}
        self.folder, self.count = folder, 0
        self.process = subprocess.Popen(
            ["bash", "--norc"], cwd=folder, env=environment, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.running.add(self)

    def run(self, block: str) -> tuple[str, list[str]]:
        """Returns the output of the block and its failed commands."""
        self.count += 1
        script = self.folder.parent / f"block-{self.count}.sh"
        script.write_text(block)
        expired = threading.Event()
        timer = threading.Timer(BLOCK_SECONDS, lambda: (expired.set(), self.kill()))
        timer.start()
        try:
            self.process.stdin.write(
                f"failed=; trap 'failed+=\"$BASH_COMMAND;\"' ERR; . {script} </dev/null; trap - ERR\n"
                f"printf '\\n%s%s\\n' '{END}' \"${{failed//$'\\n'/ }}\"\n"
            )
            self.process.stdin.flush()
            output = ""
            for line in self.process.stdout:
                if line.startswith(END):
                    failed = line.removeprefix(END).strip().split(";")
                    # The last line of a block that fails makes its `.` fail too.
                    failed = [one for one in failed if one and not one.startswith(". /")]
                    return output.removesuffix("\n"), failed
                output += line
        finally:
            timer.cancel()
        reason = f"took longer than {BLOCK_SECONDS} s" if expired.is_set() else "ended the shell"
        raise Fault(f"the block {reason}:\n{block}\n{output}")

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self):
        self.running.discard(self)
        self.kill()
        self.process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


class Page:
    """The commands of one example, and the checks around them."""

    def __init__(self, name: str, usher: Path, folder: Path):
        source = stage(folder / "clone")
        self.name, self.work = name, folder / "empty"
        self.work.mkdir()
        self.example = source / "examples" / name
        self.ports = replace_ports(self.example)
        self.relay = put_relay(self.example)
        self.text = (self.example / "README.md").read_text()
        self.shell = Shell(self.work, usher, source)

    def run(self):
        blocks = [(kind, text) for kind, text in BLOCK.findall(self.text)]
        seen = set()
        for number, (kind, block) in enumerate(blocks):
            if kind != "sh":
                continue
            after = blocks[number + 1] if number + 1 < len(blocks) else ("sh", "")
            expected = after[1] if after[0] == "text" else None
            is_refused = "refused" in (expected or "")
            before = self.relay.settled_bytes() if is_refused else self.relay.bytes
            output, failed = self.shell.run(block)
            # A block that starts programs waits for them itself, for readers who paste the next one.
            if re.search(r"&$", block, re.M) and not all(map(is_listening, self.ports)):
                raise Fault(f"not all of {self.ports} listen after\n{block}\n{output}")
            if expected is None:
                if failed:
                    raise Fault(f"{failed} failed:\n{block}\n{output}")
                continue
            if REQUEST_ID.sub("ID", output) != REQUEST_ID.sub("ID", expected):
                raise Fault(f"{block}\nthe page has\n{expected}\nbut the output is\n{output}")
            seen.add(self.judge(block, expected, before, failed))
        if not seen >= {"authenticated", "refused"}:
            raise Fault(f"the page has only {seen}")
        if not eventually(lambda: not any(map(is_listening, self.ports))):
            raise Fault(f"the last block leaves programs on {self.ports}")

    def judge(self, block: str, expected: str, before: int, failed: list[str]) -> str:
        """Returns the kind of the block, after a look at the bytes that the application got."""
        is_refused = "refused" in expected
        if is_refused and len(failed) != 1:
            raise Fault(f"a refused client must fail, and nothing else: {failed}\n{block}")
        if is_refused and self.relay.bytes != before:
            raise Fault(f"the application got {self.relay.bytes - before} bytes of a refused client")
        if is_refused:
            return "refused"
        if failed:
            raise Fault(f"{failed} failed:\n{block}\n{expected}")
        if "authenticated as alice" not in expected:
            return "other"
        if self.relay.bytes == 0:
            raise Fault("the application got nothing of alice")
        return "authenticated"

    def close(self):
        self.shell.close()
        self.relay.close()

    def logs(self) -> str:
        return "\n".join(
            f"--- {path.name}\n{path.read_text()[-4000:]}" for path in self.work.glob("*/*.log")
        )


def run(name: str, usher: Path) -> bool:
    """Returns true if an example passes, and prints its fault otherwise."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"usher-example-{name}-", ignore_cleanup_errors=True) as folder:
        page = None
        try:
            page = Page(name, usher, Path(folder))
            page.run()
        except Fault as fault:
            print(f"FAULT examples/{name}: {fault}\n{page.logs() if page else ''}", flush=True)
            return False
        finally:
            if page:
                page.close()
    print(f"ok    examples/{name}, {time.monotonic() - began:.0f} s", flush=True)
    return True


def end_all(number: int, _frame):
    """Ends the programs of all pages: they are in groups of their own, which get no signal."""
    for shell in list(Shell.running):
        shell.kill()
    os._exit(128 + number)


def main(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, end_all)
    signal.signal(signal.SIGINT, end_all)
    usher, *names = arguments
    names = names or sorted(path.parent.name for path in ROOT.glob("examples/*/README.md"))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda name: run(name, Path(usher).resolve()), names))
    print(f"{results.count(True)} passed, {results.count(False)} failed")
    return 0 if results and all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
