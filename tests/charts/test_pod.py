"""A pod from its start to its end, and with another configuration."""

import contextlib
import subprocess
import threading
import time

import pytest
from pod import PATIENCE, USHER, eventually


def stop(pod, hook=False):
    """Ends the pod as Kubernetes does, and asserts that it ends in its grace period."""
    client, status = pod.upgrade("/ws")
    assert status.startswith("HTTP/1.1 101")
    codes = []
    closing = threading.Thread(target=read_close, args=(client, codes), daemon=True)
    if hook:
        command = pod.container["lifecycle"]["preStop"]["exec"]["command"]
        assert command[0] == "/usr/local/bin/usher"
        subprocess.run(
            [USHER, *map(pod.inside, command[1:])],
            env=pod.environment,
            check=True,
            capture_output=True,
        )
    closing.start()
    pod.process.terminate()
    grace = pod.rendered.pod["terminationGracePeriodSeconds"]
    end = time.monotonic() + grace + PATIENCE
    answers = set()
    while pod.process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError):
            answers.add((pod.probe("livenessProbe"), pod.probe("readinessProbe")))
        time.sleep(0.05)
    assert pod.process.poll() == 0
    # At first the signal may not have arrived.
    assert answers - {(200, 200)} == {(200, 503)}
    closing.join(PATIENCE)
    assert codes == [1001]


def read_close(client, codes):
    """Reads the head of a close frame and its code, and closes the socket."""
    frame = b""
    while len(frame) < 4:
        frame += client.recv(4 - len(frame)) or b"----"
    assert frame[0] == 0x88
    codes.append(int.from_bytes(frame[2:4], "big"))
    client.close()


def test_a_pod_from_its_start_to_its_end(start):
    pod = start("tls-secret", podMonitor={"enabled": True})
    monitor = pod.rendered.one("PodMonitor")["spec"]["podMetricsEndpoints"][0]
    token = monitor["authorization"]["credentials"]
    secret = pod.secrets[token["name"]][token["key"]].decode()
    assert pod.get(monitor["path"])[0] == 401
    status, metrics = pod.get(monitor["path"], {"Authorization": f"Bearer {secret}"})
    assert status == 200
    assert "usher_build_info" in metrics
    stop(pod)


def test_a_pod_with_a_hook(start):
    pod = start("plain", drain={"preStop": True})
    stop(pod, hook=True)


def test_a_changed_config_map_takes_effect_in_place(start):
    pod = start("plain")
    first, status = pod.upgrade("/ws")
    assert status.startswith("HTTP/1.1 101")
    assert pod.upgrade("/other")[1].startswith("HTTP/1.1 404")
    text = pod.rendered.config_text.replace('path = "/ws"', 'path = "/other"')
    pod.publish(pod.inside("/etc/usher/config"), {"usher.toml": text.encode()}, 0o644)
    eventually(
        lambda: pod.upgrade("/other")[1].startswith("HTTP/1.1 101"), "the other configuration"
    )
    first.settimeout(0.2)
    with pytest.raises(TimeoutError):
        first.recv(1)
