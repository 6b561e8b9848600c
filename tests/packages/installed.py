#!/usr/bin/env python3
"""Installs, runs, upgrades and removes a package under systemd.

    installed.py deb|rpm OLD NEW

It runs as root in the system that boot.sh has booted, never on a machine that is in use. NEW has a
higher version than OLD. Two clients hold sessions while the package is upgraded, and a third one
connects all the time: none of them may see a reset or a refusal.
"""

import base64
import hashlib
import os
import pathlib
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time

KIND, OLD, NEW = sys.argv[1:]
CONFIG = pathlib.Path("/etc/usher/usher.toml")
TLS = pathlib.Path("/etc/usher/tls")
SECRET = "0123456789abcdef" * 4
PATIENCE = 60


def run(*command, status=0, **more):
    """Runs a command, which must end with this status, and returns its output."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **more)
    assert done.returncode == status, f"{' '.join(command)}: {done.returncode}\n{done.stdout}\n{journal()}"
    return done.stdout.strip()


def journal():
    log = ["journalctl", "--unit", "usher", "--no-pager", "--lines", "30"]
    return subprocess.run(log, stdout=subprocess.PIPE, text=True, check=False).stdout


def systemctl(*arguments, status=0):
    return run("systemctl", *arguments, status=status)


def shown(name, unit="usher.service"):
    return systemctl("show", f"--property={name}", "--value", unit)


def wait_until(what, condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"did not happen within {PATIENCE} s: {what}\n{journal()}"
        time.sleep(0.05)


def install(package):
    if KIND == "deb":
        return run("dpkg", "--install", package)
    # The machine is a Debian, so rpm does not find the packages that it requires.
    return run("rpm", "--upgrade", "--nodeps", package)


class Backend:
    """Accepts every upgrade, and sends each frame back."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 9000))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.socket.accept()
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        lines = [line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line]
        fields = {name.lower(): value for name, value in lines}
        assert "x-user-context" in fields, "the context of the user is missing"
        key = fields["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest())
        client.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        while frame := read_frame(client):
            opcode, payload = frame
            client.sendall(bytes([0x80 | opcode, len(payload)]) + payload)
            if opcode == 8:
                client.close()
                return


def exactly(stream, count):
    data = b""
    while len(data) < count:
        more = stream.recv(count - len(data))
        if not more:
            return None
        data += more
    return data


def read_frame(stream):
    """Returns opcode and payload of a short frame. None: the peer has closed the connection."""
    head = exactly(stream, 2)
    if head is None:
        return None
    opcode, length = head[0] & 15, head[1] & 127
    assert length < 126, "the frame is longer than those of this test"
    mask = exactly(stream, 4) if head[1] & 128 else bytes(4)
    payload = exactly(stream, length)
    return opcode, bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


class Client:
    """A client with a session."""

    def __init__(self, token):
        context = ssl.create_default_context(cafile=TLS / "cert.pem")
        plain = socket.create_connection(("127.0.0.1", 8443), timeout=PATIENCE)
        self.stream = context.wrap_socket(plain, server_hostname="localhost")
        self.stream.sendall(
            f"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            f"Authorization: Bearer {token}\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            more = self.stream.recv(1)
            assert more, f"closed in the answer: {head}"
            head += more
        assert head.startswith(b"HTTP/1.1 101 "), head

    def send(self, opcode, payload):
        self.stream.sendall(bytes([0x80 | opcode, 0x80 | len(payload)]) + bytes(4) + payload)

    def echoes(self):
        self.send(1, b"hello")
        assert read_frame(self.stream) == (1, b"hello")

    def end(self):
        """Returns the close code of the session, which must end in good order."""
        while (frame := read_frame(self.stream))[0] != 8:
            pass
        self.send(8, frame[1])
        return struct.unpack("!H", frame[1][:2])[0]


class Visitor(threading.Thread):
    """Connects again and again, and keeps each failure."""

    def __init__(self):
        super().__init__(daemon=True)
        self.failures, self.count, self.ends = [], 0, False

    def run(self):
        while not self.ends:
            try:
                with socket.create_connection(("127.0.0.1", 8443), timeout=PATIENCE):
                    self.count += 1
            except OSError as error:
                self.failures.append(str(error))
            time.sleep(0.005)


def is_installed_and_not_started():
    said = install(OLD)
    assert "systemctl enable --now usher" in said, said
    assert shown("ActiveState") == "inactive" and shown("UnitFileState") == "disabled"
    (check,) = [line.split(". ", 1)[1] for line in said.splitlines() if "usher check" in line]
    user = run("getent", "passwd", "usher").split(":")
    assert user[5:] == ["/var/lib/usher", "/usr/sbin/nologin"], user
    for path, mode, owner in [("/etc/usher/environment", "600", "root"), ("/etc/usher/tls", "750", "root"),
                              ("/var/lib/usher", "700", "usher"), ("/run/usher", "700", "usher")]:
        assert run("stat", "--format=%a %U", path) == f"{mode} {owner}", path
    run("systemd-analyze", "verify", "/usr/lib/systemd/system/usher.service", "/usr/lib/systemd/system/usher.socket")
    run("usher", "man")
    return check


def is_configured(check):
    # The packaged configuration is complete, but for its secret and its certificate.
    with open("/etc/usher/environment", "a", encoding="utf-8") as file:
        file.write(f"USHER_JWT_SECRET='{SECRET}'\n")
    run("sh", "-c", check, cwd="/")
    run("usher", "cert", "--cert", str(TLS / "cert.pem"), "--key", str(TLS / "key.pem"))
    for name in ["cert.pem", "key.pem"]:
        run("chown", "root:usher", str(TLS / name))
        run("chmod", "640", str(TLS / name))
    CONFIG.write_text(CONFIG.read_text() + '\n[drain]\nwindow = "1s"\n')


def is_started_with_few_rights():
    systemctl("enable", "--quiet", "--now", "usher.service")
    assert shown("ActiveState") == "active"
    facts = pathlib.Path("/proc", shown("MainPID"), "status").read_text()
    values = dict(line.split(":\t", 1) for line in facts.splitlines() if ":\t" in line)
    assert values["Uid"].split()[0] != "0" and values["NoNewPrivs"] == "1" and values["Seccomp"] == "2", facts
    # CAP_NET_BIND_SERVICE alone.
    assert [values[name] for name in ["CapEff", "CapBnd"]] == ["0000000000000400"] * 2, facts


def reloads(client):
    systemctl("reload", "usher.service")
    good = CONFIG.read_text()
    CONFIG.write_text(good + "nonsense = true\n")
    systemctl("reload", "usher.service", status=1)
    wait_until("the journal has the reason", lambda: "nonsense" in journal())
    CONFIG.write_text(good)
    client.echoes()


def is_upgraded_under_clients(token, client):
    visitor = Visitor()
    visitor.start()
    changed, old = CONFIG.read_text(), shown("MainPID")
    install(NEW)
    new = shown("MainPID")
    assert new != old and shown("ActiveState") == "active"
    later = Client(token)
    later.echoes()
    assert client.end() == 1001
    wait_until("the old process exits", lambda: not pathlib.Path("/proc", old).exists())
    visitor.ends = True
    visitor.join()
    assert not visitor.failures and visitor.count > 10, (visitor.failures[:3], visitor.count)
    assert shown("MainPID") == new and CONFIG.read_text() == changed
    assert int(shown("NRestarts")) == 0
    later.echoes()
    return later


def restarts_with_sockets_of_systemd(token):
    systemctl("stop", "usher.service")
    systemctl("start", "usher.socket")
    Client(token).echoes()
    assert shown("ActiveState") == "active", "the first client starts the service"
    systemctl("stop", "usher.socket", "usher.service")


def reads_a_credential(token):
    """A secret that only systemd can read takes the place of the variable."""
    pathlib.Path("/etc/usher/jwt-secret").write_text(SECRET)
    os.chmod("/etc/usher/jwt-secret", 0o600)
    folder = pathlib.Path("/etc/systemd/system/usher.service.d")
    folder.mkdir(parents=True)
    (folder / "secret.conf").write_text("[Service]\nLoadCredential=jwt-secret:/etc/usher/jwt-secret\n")
    text = CONFIG.read_text()
    CONFIG.write_text(text.replace('secret_env = "USHER_JWT_SECRET"',
                                   'secret_file = "/run/credentials/usher.service/jwt-secret"'))
    systemctl("daemon-reload")
    systemctl("start", "usher.service")
    client = Client(token)
    client.echoes()
    # A replaced process reads the credential too.
    old = shown("MainPID")
    systemctl("kill", "--kill-who=main", "--signal=SIGUSR2", "usher.service")
    wait_until("the process is replaced", lambda: shown("MainPID") != old)
    Client(token).echoes()


def is_started_again_after_a_crash(token):
    """The new process is killed while a session keeps the old one."""
    short = CONFIG.read_text()
    CONFIG.write_text(short.replace('window = "1s"', 'window = "60s"'))
    systemctl("restart", "usher.service")
    old, kept = shown("MainPID"), Client(token)
    kept.echoes()
    systemctl("kill", "--kill-who=main", "--signal=SIGUSR2", "usher.service")
    wait_until("the process is replaced", lambda: shown("MainPID") != old)
    new = shown("MainPID")
    Client(token).echoes()
    assert pathlib.Path("/proc", old).exists(), "the session keeps the old process"
    run("kill", "-KILL", new)
    assert kept.end() == 1001
    wait_until("systemd starts the service again",
               lambda: shown("ActiveState") == "active" and shown("MainPID") not in ("0", old, new))
    assert int(shown("NRestarts")) == 1
    Client(token).echoes()
    CONFIG.write_text(short)


def is_removed():
    run(*(["dpkg", "--remove", "usher"] if KIND == "deb" else ["rpm", "--erase", "usher"]))
    assert shown("ActiveState") in ("inactive", "failed") and not pathlib.Path("/usr/bin/usher").exists()
    kept = CONFIG if KIND == "deb" else CONFIG.with_name("usher.toml.rpmsave")
    assert '[drain]\nwindow = "1s"' in kept.read_text()
    assert any(pathlib.Path("/var/lib/usher").iterdir())
    if KIND == "deb":
        run("dpkg", "--purge", "usher")
        assert not CONFIG.exists() and not pathlib.Path("/var/lib/usher").exists()
        assert (TLS / "key.pem").exists()


def main():
    assert pathlib.Path("/proc/1/comm").read_text() == "systemd\n" and pathlib.Path("/packages").is_dir()
    is_configured(is_installed_and_not_started())
    backend = Backend()
    is_started_with_few_rights()
    token = run("usher", "token", "mint", "--secret-env", "USHER_JWT_SECRET", "--issuer", "https://id.example.com",
                "--audience", "chat", "--subject", "ada", env={**os.environ, "USHER_JWT_SECRET": SECRET})
    client = Client(token)
    client.echoes()
    reloads(client)
    is_upgraded_under_clients(token, client)
    restarts_with_sockets_of_systemd(token)
    reads_a_credential(token)
    is_started_again_after_a_crash(token)
    is_removed()
    backend.socket.close()
    print(f"{KIND}: installed, reloaded, upgraded under clients, removed")


if __name__ == "__main__":
    main()
