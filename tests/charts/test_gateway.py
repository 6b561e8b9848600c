"""A real Gateway, Traefik, reads the rendered routes and leads WebSockets to a real Usher.

An API server is the one part that is not real: api_server.py hands the objects out.
"""

import base64
import os
import pathlib
import subprocess
import sys

import pytest
from api_server import ApiServer
from pod import eventually, free_ports, request, upgrade

TRAEFIK = pathlib.Path(sys.executable).parent / "traefik"
GROUP = "gateway.networking.k8s.io/v1"


def objects_around(pod, port, listener):
    """Returns what a cluster has beside the rendered objects: the Gateway, and the pod's address."""
    tls = {name: base64.b64encode(data).decode() for name, data in pod.secrets["usher-tls"].items()}
    service = pod.rendered.one("Service")
    return [
        {
            "apiVersion": GROUP,
            "kind": "GatewayClass",
            "metadata": {"name": "traefik"},
            "spec": {"controllerName": "traefik.io/gateway-controller"},
        },
        {
            "apiVersion": GROUP,
            "kind": "Gateway",
            "metadata": {"name": "edge", "namespace": "gateways"},
            "spec": {
                "gatewayClassName": "traefik",
                "listeners": [
                    listener | {"port": port, "allowedRoutes": {"namespaces": {"from": "All"}}}
                ],
            },
        },
        *(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            for name in ("gateways", "prod")
        ),
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": "edge-tls", "namespace": "gateways"},
            "data": tls,
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "internal-ca", "namespace": "prod"},
            "data": {"ca.crt": pod.secrets["usher-tls"]["tls.crt"].decode()},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "addressType": "IPv4",
            "metadata": {
                "name": "edge-usher-1",
                "namespace": "prod",
                "labels": {"kubernetes.io/service-name": service["metadata"]["name"]},
            },
            "ports": [
                {
                    "name": service["spec"]["ports"][0]["name"],
                    "port": pod.port("listener"),
                    "protocol": "TCP",
                }
            ],
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}],
        },
    ]


@pytest.fixture
def gateway(tmp_path):
    """Starts a Gateway on a port with these objects, and returns the stand-in of the API server."""
    running = []

    def start(port, objects):
        server = ApiServer(objects)
        command = [
            TRAEFIK,
            f"--entrypoints.edge.address=127.0.0.1:{port}",
            "--providers.kubernetesgateway",
            f"--providers.kubernetesgateway.endpoint={server.url}",
            "--providers.kubernetesgateway.token=token",
            "--providers.providersthrottleduration=100ms",
            "--global.checknewversion=false",
            "--global.sendanonymoususage=false",
        ]
        log = (tmp_path / "traefik.log").open("wb")
        environment = {"HOME": os.fspath(tmp_path), "GOMAXPROCS": "1"}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=tmp_path)
        running.append((server, process))
        return server

    yield start
    for server, process in running:
        process.kill()
        process.wait()
        server.close()


HTTPS = {
    "name": "https",
    "protocol": "HTTPS",
    "hostname": "ws.example.com",
    "tls": {"mode": "Terminate", "certificateRefs": [{"kind": "Secret", "name": "edge-tls"}]},
}
PASSTHROUGH = {
    "name": "passthrough",
    "protocol": "TLS",
    "hostname": "ws.example.com",
    "tls": {"mode": "Passthrough"},
}


def reach(pod, gateway, listener):
    """Starts the Gateway in front of the pod, and asks for an upgrade and for the keys."""
    [port] = free_ports(1)
    server = gateway(port, pod.rendered.objects + objects_around(pod, port, listener))

    def upgraded():
        client, status = upgrade(port, "/ws", "ws.example.com", pod.folder / "cert.pem")
        return client if status.startswith("HTTP/1.1 101") else None

    eventually(upgraded, "an upgrade through the Gateway").close()
    # The Service is one for sockets, and still leads plain requests: tickets, published keys.
    keys = "/.well-known/usher/jwks.json"
    client, status = request(port, keys, "ws.example.com", pod.folder / "cert.pem")
    client.close()
    assert status == "HTTP/1.1 200 OK"
    return server


def conditions(server, kind):
    """Returns the conditions that the controller wrote into the status of the route."""
    [status] = [status for (of, _), status in server.statuses.items() if of == kind]
    return {one["type"]: one["status"] for one in status["parents"][0]["conditions"]}


def test_tls_passes_through(start, gateway):
    pod = start("tls-route", config={"listener": [{}]})
    server = reach(pod, gateway, PASSTHROUGH)
    assert conditions(server, "TLSRoute") == {"Accepted": "True", "ResolvedRefs": "True"}


@pytest.mark.parametrize("again", [False, True], ids=["plain", "tls-twice"])
def test_the_gateway_ends_tls(start, gateway, backend, again):
    tls = {} if again else {"enabled": False, "existingSecret": ""}
    pod = start(
        "http-route",
        tls=tls,
        httpRoute={"backendTLS": {"enabled": again}},
        config={"listener": [{"trusted_peers": ["127.0.0.0/8"]}]},
    )
    service = pod.rendered.one("Service")["spec"]["ports"][0]
    assert service["appProtocol"] == ("kubernetes.io/wss" if again else "kubernetes.io/ws")
    server = reach(pod, gateway, HTTPS)
    assert conditions(server, "HTTPRoute") == {"Accepted": "True", "ResolvedRefs": "True"}
    head = backend.heads[-1]
    # The scheme of the client, which only the Gateway knows.
    assert head["X-Forwarded-Proto"] == "https"
    assert head["Host"] == "ws.example.com"


def test_usher_in_front_of_a_gateway(start, gateway, backend):
    [port] = free_ports(1)
    upstream = {"name": "gateway", "servers": [f"http://127.0.0.1:{port}"]}
    route = {"path": "/*", "hosts": ["ws.example.com"], "upstream": "gateway", "auth": []}
    pod = start("plain", config={"upstream": [upstream], "route": [route]})
    port_of_chat = {
        "name": "ws",
        "port": 80,
        "protocol": "TCP",
        "appProtocol": "kubernetes.io/ws",
    }
    chat = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "chat", "namespace": "prod"},
        "spec": {"ports": [port_of_chat]},
    }
    http_route = {
        "apiVersion": GROUP,
        "kind": "HTTPRoute",
        "metadata": {"name": "chat", "namespace": "prod"},
        "spec": {
            "parentRefs": [{"name": "edge", "namespace": "gateways"}],
            "hostnames": ["ws.example.com"],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/room"}}],
                    "backendRefs": [{"name": "chat", "port": 80}],
                }
            ],
        },
    }
    around = objects_around(pod, port, {"name": "http", "protocol": "HTTP"})
    slice_of_chat = around.pop()
    slice_of_chat["metadata"]["labels"] = {"kubernetes.io/service-name": "chat"}
    slice_of_chat["ports"] = [{"name": "ws", "port": backend.server_port, "protocol": "TCP"}]
    gateway(port, [*around, chat, http_route, slice_of_chat])

    def upgraded():
        client, status = upgrade(pod.port("listener"), "/room/7", "ws.example.com")
        client.close()
        return status.startswith("HTTP/1.1 101")

    eventually(upgraded, "an upgrade through Usher and the Gateway")
    head = backend.heads[-1]
    assert head["Host"] == "ws.example.com"
    assert head["X-User-Context"] is None
