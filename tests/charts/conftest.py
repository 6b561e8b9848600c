"""Servers and pods that several files of tests start."""

import http.server
import threading

import chart
import pytest
from pod import Backend, Pod, eventually, free_ports, make_secrets


@pytest.fixture
def backend():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Backend)
    server.daemon_threads = True
    server.heads = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def start(tmp_path, backend):
    started = []

    def launch(name, over):
        listener, admin = free_ports(2)
        folder = tmp_path / str(len(started))
        folder.mkdir()
        fixed = {
            "ports": {"listener": listener, "admin": admin},
            "drain": {"delay": "4s", "window": "1s"},
        }
        values = chart.deep_merge(chart.situation(name), fixed)
        values["config"]["upstream"][0]["servers"] = [f"http://127.0.0.1:{backend.server_port}"]
        values["config"]["route"][0] = {"path": "/ws", "upstream": "chat", "auth": []}
        values = chart.deep_merge(values, over)
        started.append(Pod(chart.Rendered(values), make_secrets(folder), folder))
        return started[-1]

    def start_pod(name, **over):
        # Another process may have taken the free ports meanwhile.
        for _ in range(5):
            pod = launch(name, over)
            eventually(
                lambda: pod.process.poll() is not None or pod.probe("startupProbe") == 200,
                "the startup probe",
            )
            if pod.process.poll() is None:
                eventually(lambda: pod.probe("readinessProbe") == 200, "the readiness probe")
                return pod
        pytest.fail((pod.folder / "log").read_text())

    yield start_pod
    for pod in started:
        if pod.process.poll() is None:
            pod.process.kill()
            pod.process.wait()
