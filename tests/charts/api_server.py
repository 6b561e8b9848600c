"""A stand-in for the API server of Kubernetes: lists and watches objects that it was given.

It checks nothing, and knows the defaults of the Gateway API alone. A controller that only reads can
work with it.
"""

import copy
import http.server
import json
import re
import threading

KINDS = {
    "backendtlspolicies": "BackendTLSPolicy",
    "configmaps": "ConfigMap",
    "endpointslices": "EndpointSlice",
    "gatewayclasses": "GatewayClass",
    "gateways": "Gateway",
    "grpcroutes": "GRPCRoute",
    "httproutes": "HTTPRoute",
    "listenersets": "ListenerSet",
    "namespaces": "Namespace",
    "nodes": "Node",
    "referencegrants": "ReferenceGrant",
    "secrets": "Secret",
    "services": "Service",
    "tcproutes": "TCPRoute",
    "tlsroutes": "TLSRoute",
}
PATH = re.compile(
    r"^/(?:api|apis/(?P<group>[^/]+))/(?P<version>[^/]+)"
    r"(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?(?P<status>/status)?$"
)


class ApiServer:
    def __init__(self, objects):
        self.objects = [self.stored(one, number) for number, one in enumerate(objects)]
        self.statuses = {}
        self.asked = set()
        self.ending = threading.Event()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                path, _, query = self.path.partition("?")
                found = PATH.match(path)
                if not found:
                    return self.answer(404, {"kind": "Status", "apiVersion": "v1", "code": 404})
                server.asked.add(found["plural"])
                items = server.select(found)
                if "watch=true" in query or "watch=1" in query:
                    return self.watch(found, items if "sendInitialEvents=true" in query else [])
                if found["name"]:
                    named = [one for one in items if one["metadata"]["name"] == found["name"]]
                    return self.answer(200 if named else 404, named[0] if named else {})
                group = f"{found['group']}/" if found["group"] else ""
                self.answer(
                    200,
                    {
                        "kind": "List",
                        "apiVersion": group + found["version"],
                        "metadata": {"resourceVersion": "1"},
                        "items": items,
                    },
                )

            def watch(self, found, items):
                """Sends the objects, the mark of their end, and then nothing."""
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Connection", "close")
                self.end_headers()
                group = f"{found['group']}/" if found["group"] else ""
                mark = {
                    "kind": KINDS[found["plural"]],
                    "apiVersion": group + found["version"],
                    "metadata": {
                        "resourceVersion": "1",
                        "annotations": {"k8s.io/initial-events-end": "true"},
                    },
                }
                events = [{"type": "ADDED", "object": one} for one in items]
                for event in [*events, {"type": "BOOKMARK", "object": mark}]:
                    self.wfile.write(json.dumps(event).encode() + b"\n")
                self.wfile.flush()
                server.ending.wait()
                self.close_connection = True

            def do_PUT(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                key = (body.get("kind"), body["metadata"]["name"])
                server.statuses[key] = body.get("status", {})
                self.answer(200, body)

            do_PATCH = do_PUT

            def answer(self, code, body):
                data = json.dumps(body).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @staticmethod
    def stored(one, number):
        """Returns the object with what an API server adds."""
        one = copy.deepcopy(one)
        metadata = {"resourceVersion": "1", "uid": f"uid-{number}", "generation": 1}
        one["metadata"] = metadata | one["metadata"]
        spec = one.get("spec", {})
        for listener in spec.get("listeners", []):
            for reference in listener.get("tls", {}).get("certificateRefs", []):
                reference.setdefault("group", "")
                reference.setdefault("kind", "Secret")
        for reference in spec.get("parentRefs", []):
            reference.setdefault("group", "gateway.networking.k8s.io")
            reference.setdefault("kind", "Gateway")
        for rule in spec.get("rules", []) if "parentRefs" in spec else []:
            for reference in rule["backendRefs"]:
                for key, value in (("group", ""), ("kind", "Service"), ("weight", 1)):
                    reference.setdefault(key, value)
        return one

    def select(self, found):
        version = f"{found['group']}/{found['version']}" if found["group"] else found["version"]
        return [
            one
            for one in self.objects
            if one["apiVersion"] == version
            and one["kind"] == KINDS[found["plural"]]
            and found["namespace"] in (None, one["metadata"].get("namespace"))
        ]

    @property
    def url(self):
        return f"http://127.0.0.1:{self.http.server_port}"

    def close(self):
        self.ending.set()
        self.http.shutdown()
        self.http.server_close()
