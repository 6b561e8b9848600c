#!/usr/bin/env python3
"""Installs, runs, upgrades and removes a package under systemd.

    installed.py deb|rpm OLD NEW

It runs as root in the system that boot.sh has booted, never on a machine that is in use. NEW has a
higher version than OLD. Two clients hold sessions while the package is upgraded, and a third one
connects all the time: none of them may see a reset or a refusal.
"""

import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import websocket

KIND, OLD, NEW = sys.argv[1:]
CONFIG = pathlib.Path("/etc/usher/usher.toml")
TLS = pathlib.Path("/etc/usher/tls")
SECRET = "0123456789abcdef" * 4
PATIENCE = websocket.PATIENCE


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


def connected(token):
    return websocket.Client(token, TLS / "cert.pem")


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
    steps = [line.strip().removeprefix("3. ") for line in said.splitlines()]
    steps = [step for step in steps if step.startswith(("usher cert", "chown", "sh -c"))]
    assert len(steps) == 3, said
    user = run("getent", "passwd", "usher").split(":")
    assert user[5:] == ["/var/lib/usher", "/usr/sbin/nologin"], user
    for path, mode, owner in [("/etc/usher/environment", "600", "root"), ("/etc/usher/tls", "750", "root"),
                              ("/var/lib/usher", "700", "usher"), ("/run/usher", "700", "usher"),
                              ("/var/log/usher", "700", "usher"), ("/etc/logrotate.d/usher", "644", "root")]:
        assert run("stat", "--format=%a %U", path) == f"{mode} {owner}", path
    run("systemd-analyze", "verify", "/usr/lib/systemd/system/usher.service", "/usr/lib/systemd/system/usher.socket")
    run("usher", "man")
    return steps


def is_configured(steps):
    # The packaged configuration is complete, but for its secret and its certificate: the steps that
    # the installation has printed make the certificate, and check all.
    with open("/etc/usher/environment", "a", encoding="utf-8") as file:
        file.write(f"USHER_JWT_SECRET='{SECRET}'\n")
    for step in steps:
        run("sh", "-c", step, cwd="/")
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
    later = connected(token)
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
    connected(token).echoes()
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
    client = connected(token)
    client.echoes()
    # A replaced process reads the credential too.
    old = shown("MainPID")
    systemctl("kill", "--kill-who=main", "--signal=SIGUSR2", "usher.service")
    wait_until("the process is replaced", lambda: shown("MainPID") != old)
    connected(token).echoes()


def rotates_its_files(token):
    """With the packaged configuration of logrotate, whose command needs the unit and its user."""
    without = CONFIG.read_text()
    folder = pathlib.Path("/var/log/usher")
    log, audit = folder / "usher.log", folder / "audit.jsonl"
    CONFIG.write_text(without + f'\n[log]\nfile = "{log}"\n[audit]\nfile = "{audit}"\n')
    systemctl("restart", "usher.service")
    connected(token).echoes()
    wait_until("the audit log has the session", lambda: "session_started" in audit.read_text())
    said = run("logrotate", "--debug", "/etc/logrotate.d/usher")
    assert "error" not in said.lower() and "log needs rotating" not in said, said
    run("logrotate", "--force", "--state", "/tmp/state", "/etc/logrotate.d/usher")
    wait_until("the log is opened again", lambda: "log_reopened" in log.read_text())
    for name in ["usher.log", "audit.jsonl"]:
        assert (folder / f"{name}.1").stat().st_size > 0, name
        assert run("stat", "--format=%a %U:%G", str(folder / name)) == "600 usher:usher", name
    assert "session_started" in (folder / "audit.jsonl.1").read_text()
    connected(token).echoes()
    wait_until("the new file has the session", lambda: "session_started" in audit.read_text())
    CONFIG.write_text(without)
    systemctl("stop", "usher.service")


def is_started_again_after_a_crash(token):
    """The new process is killed while a session keeps the old one."""
    short = CONFIG.read_text()
    CONFIG.write_text(short.replace('window = "1s"', 'window = "60s"'))
    systemctl("restart", "usher.service")
    old, kept = shown("MainPID"), connected(token)
    kept.echoes()
    systemctl("kill", "--kill-who=main", "--signal=SIGUSR2", "usher.service")
    wait_until("the process is replaced", lambda: shown("MainPID") != old)
    new = shown("MainPID")
    connected(token).echoes()
    assert pathlib.Path("/proc", old).exists(), "the session keeps the old process"
    run("kill", "-KILL", new)
    assert kept.end() == 1001
    wait_until("systemd starts the service again",
               lambda: shown("ActiveState") == "active" and shown("MainPID") not in ("0", old, new))
    assert int(shown("NRestarts")) == 1
    connected(token).echoes()
    CONFIG.write_text(short)


def is_removed():
    run(*(["dpkg", "--remove", "usher"] if KIND == "deb" else ["rpm", "--erase", "usher"]))
    assert shown("ActiveState") in ("inactive", "failed") and not pathlib.Path("/usr/bin/usher").exists()
    kept = CONFIG if KIND == "deb" else CONFIG.with_name("usher.toml.rpmsave")
    assert '[drain]\nwindow = "1s"' in kept.read_text()
    assert any(pathlib.Path("/var/lib/usher").iterdir())
    if KIND == "deb":
        run("dpkg", "--purge", "usher")
        for path in [CONFIG, "/var/lib/usher", "/var/log/usher", "/etc/logrotate.d/usher"]:
            assert not pathlib.Path(path).exists(), path
        assert (TLS / "key.pem").exists()


def main():
    assert pathlib.Path("/proc/1/comm").read_text() == "systemd\n" and pathlib.Path("/packages").is_dir()
    is_configured(is_installed_and_not_started())
    backend = websocket.Backend()
    is_started_with_few_rights()
    token = run("usher", "token", "mint", "--secret-env", "USHER_JWT_SECRET", "--issuer", "https://id.example.com",
                "--audience", "chat", "--subject", "ada", env={**os.environ, "USHER_JWT_SECRET": SECRET})
    client = connected(token)
    client.echoes()
    reloads(client)
    is_upgraded_under_clients(token, client)
    restarts_with_sockets_of_systemd(token)
    rotates_its_files(token)
    reads_a_credential(token)
    is_started_again_after_a_crash(token)
    is_removed()
    backend.socket.close()
    print(f"{KIND}: installed, reloaded, upgraded under clients, removed")


if __name__ == "__main__":
    main()
