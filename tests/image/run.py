#!/usr/bin/env python3
"""Checks the image of packaging/Dockerfile, and runs it with as few rights as Kubernetes gives it.

    run.py BASE COMMIT CGROUP

BASE is the image under it, COMMIT is the one of its label. scripts/test-image.sh runs this in
namespaces of its own, with the command for podman in $PODMAN.
"""

import fcntl
import io
import json
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).parents[2]
# Before the packages of this machine, one of which may have the same name.
sys.path.insert(0, str(ROOT / "tests/packages"))
import websocket  # noqa: E402 (after its path)

BASE, COMMIT, CGROUP = sys.argv[1:]
IMAGE = "usher:first"
PODMAN = os.environ["PODMAN"].split()
SECRET = "0123456789abcdef" * 4
USER = 65532
# No rights, no writable root. The limits are set because podman's defaults are above those of a machine.
STRICT = ["--log-driver=k8s-file", "--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--network=host",
          f"--cgroup-parent=/{CGROUP}", "--ulimit=nofile=4096:4096", "--ulimit=nproc=1024:1024"]


def podman(*arguments, status=0):
    """Runs podman, which must end with this status, and returns its output.

    Without systemd it complains that nothing will call the health check. This test calls it.
    """
    done = subprocess.run([*PODMAN, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == status, f"podman {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def run(*arguments, options=(), status=0):
    return podman("run", "--rm", *STRICT, *options, IMAGE, *arguments, status=status)


def files(image):
    """Returns the files of an image, by path."""
    container = podman("create", "--entrypoint=/none", image)
    data = subprocess.run([*PODMAN, "export", container], stdout=subprocess.PIPE, check=True).stdout
    podman("rm", container)
    return {one.name.rstrip("/"): one for one in tarfile.open(fileobj=io.BytesIO(data))}


def adds_only_the_program():
    before, after = files(BASE), files(IMAGE)
    # podman makes the places where it mounts something.
    added = {path for path in after.keys() - before.keys() if path.split("/")[0] not in ("dev", "proc", "sys", "run", "etc")}
    assert added - {"usr/local", "usr/local/bin"} == {"usr/local/bin/usher", "var/lib/usher"}, added
    program, state = after["usr/local/bin/usher"], after["var/lib/usher"]
    assert (program.uid, program.mode & 0o7777) == (0, 0o755), (program.uid, oct(program.mode))
    assert state.uid == state.gid == USER and state.isdir(), state
    assert not [path for path, one in after.items() if one.isfile() and one.mode & 0o6000], "a setuid or setgid file"


def says_how_it_runs():
    (image,) = json.loads(podman("image", "inspect", IMAGE))
    config = image["Config"]
    assert config["User"] == f"{USER}:{USER}", config
    assert config["Entrypoint"] == ["/usr/local/bin/usher"], config
    assert config["Cmd"] == ["run", "--config", "/etc/usher/usher.toml"], config
    assert config["StopSignal"] in ("SIGTERM", "15"), config
    assert list(config["ExposedPorts"]) == ["8443/tcp"], config
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert (labels["title"], labels["revision"], labels["base.name"]) == ("usher", COMMIT, BASE), labels
    assert image["Healthcheck"]["Test"] == ["CMD", "/usr/local/bin/usher", "status"], image
    assert run("--version").startswith("usher "), "the version"
    podman("run", "--rm", *STRICT, "--entrypoint=/bin/sh", IMAGE, "-c", "exit 0", status=127)


def wait_until(what, condition):
    end = time.monotonic() + websocket.PATIENCE
    while not condition():
        assert time.monotonic() < end, f"did not happen in time: {what}\n{podman('logs', 'usher')}"
        time.sleep(0.05)


def answers(url):
    try:
        return urllib.request.urlopen(url, timeout=websocket.PATIENCE).status == 200
    except urllib.error.URLError:
        return False


def serves_and_drains(folder):
    """With the packaged configuration, whose admin listener gets an address here."""
    config, tls = folder / "usher.toml", folder / "tls"
    packaged = (ROOT / "packaging/usher.toml").read_text()
    config.write_text(packaged.replace("unix:/run/usher/admin.sock", "127.0.0.1:9090") + '\n[drain]\nwindow = "1s"\n')
    tls.mkdir()
    shutil.chown(tls, USER, USER)
    secret = f"--env=USHER_JWT_SECRET={SECRET}"
    run("cert", "--cert", "/tls/cert.pem", "--key", "/tls/key.pem", options=[f"--volume={tls}:/tls"])
    options = [secret, f"--volume={config}:/etc/usher/usher.toml:ro", f"--volume={tls}:/etc/usher/tls:ro",
               "--volume=state:/var/lib/usher"]
    run("check", "--offline", "/etc/usher/usher.toml", options=options)
    token = run("token", "mint", "--secret-env", "USHER_JWT_SECRET", "--issuer", "https://id.example.com",
                "--audience", "chat", "--subject", "ada", options=[secret])

    backend = websocket.Backend()
    podman("run", "--detach", "--name=usher", *STRICT, *options, IMAGE)
    wait_until("/readyz is 200", lambda: answers("http://127.0.0.1:9090/readyz"))
    podman("healthcheck", "run", "usher")
    client = websocket.Client(token, tls / "cert.pem")
    client.echoes()
    process = podman("inspect", "--format={{.State.Pid}}", "usher")
    lines = pathlib.Path("/proc", process, "status").read_text().splitlines()
    facts = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert facts["Uid"].split() == [str(USER)] * 4 and facts["NoNewPrivs"] == "1" and facts["Seccomp"] == "2", facts
    assert {facts[name] for name in ["CapPrm", "CapEff", "CapBnd", "CapAmb"]} == {"0" * 16}, facts

    stop = subprocess.Popen([*PODMAN, "stop", "--time=60", "usher"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert client.end() == 1001, "the session ends in good order"
    assert stop.wait() == 0
    assert podman("inspect", "--format={{.State.ExitCode}}", "usher") == "0", podman("logs", "usher")
    podman("rm", "usher")
    (state,) = json.loads(podman("volume", "inspect", "state"))
    kept = list(pathlib.Path(state["Mountpoint"]).iterdir())
    assert kept and {path.stat().st_uid for path in kept} == {USER}, kept
    backend.socket.close()


def main():
    # SIOCSIFFLAGS with IFF_UP: the loopback of this namespace.
    fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sH14x", b"lo", 1))
    adds_only_the_program()
    says_how_it_runs()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        serves_and_drains(pathlib.Path(folder))


if __name__ == "__main__":
    main()
