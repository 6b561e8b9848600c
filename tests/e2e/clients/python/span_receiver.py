"""A receiver of OTLP over HTTP that decodes with the published protobuf messages.

It prints its port, and then one JSON object for each request. Lines on its input set how it acts:

    accept                  takes the spans
    answer STATUS [SECONDS] refuses with this status, and Retry-After if SECONDS are given
    partial                 rejects one span of each request
    garbage                 answers a success with a body that is no protobuf
    noise                   answers with bytes that are not HTTP
    endless                 answers a success with a body that does not end
    silent                  does not answer
"""

import json
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service

mood = ["accept"]
printing = threading.Lock()


def say(value):
    with printing:
        print(json.dumps(value), flush=True)


def attributes(pairs):
    found = {}
    for pair in pairs:
        kind = pair.value.WhichOneof("value")
        found[pair.key] = getattr(pair.value, kind)
    assert len(found) == len(pairs), f"a key stands twice: {pairs}"
    return found


def span(one):
    return {
        "trace_id": one.trace_id.hex(),
        "span_id": one.span_id.hex(),
        "parent": one.parent_span_id.hex(),
        "state": one.trace_state,
        "name": one.name,
        "kind": one.kind,
        "start": one.start_time_unix_nano,
        "end": one.end_time_unix_nano,
        "attributes": attributes(one.attributes),
        "links": [
            {
                "trace_id": link.trace_id.hex(),
                "span_id": link.span_id.hex(),
                "attributes": attributes(link.attributes),
            }
            for link in one.links
        ],
        "code": one.status.code,
        "message": one.status.message,
        "flags": one.flags,
    }


def decoded(body):
    request = service.ExportTraceServiceRequest()
    request.ParseFromString(body)
    known = service.ExportTraceServiceRequest()
    known.CopyFrom(request)
    known.DiscardUnknownFields()
    [resource] = request.resource_spans
    [scope] = resource.scope_spans
    return {
        "is_known": known.SerializeToString() == request.SerializeToString(),
        "resource": attributes(resource.resource.attributes),
        "scope": scope.scope.name,
        "spans": [span(one) for one in scope.spans],
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        how = mood[0].split()
        request = {"how": how[0], "path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}}
        request.update(decoded(body))
        say(request)
        getattr(self, how[0])(*how[1:])

    def whole(self, status, body, *headers):
        self.send_response(status)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def accept(self):
        self.whole(200, service.ExportTraceServiceResponse().SerializeToString())

    def answer(self, status, *seconds):
        self.whole(int(status), b"", *[("retry-after", one) for one in seconds])

    def partial(self):
        answer = service.ExportTraceServiceResponse()
        answer.partial_success.rejected_spans = 1
        answer.partial_success.error_message = "one span too many"
        self.whole(200, answer.SerializeToString())

    def garbage(self):
        self.whole(200, b"<html>welcome</html>")

    def noise(self):
        self.wfile.write(b"220 mail.example.com ESMTP\r\n")
        self.close_connection = True

    def endless(self):
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"400\r\n" + b"x" * 0x400 + b"\r\n")
        except OSError:
            self.close_connection = True

    def silent(self):
        # Returns when the client has given up.
        self.connection.settimeout(60)
        try:
            self.connection.recv(1)
        except OSError:
            pass
        self.close_connection = True


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            say({"broken": repr(error)})


server = Server(("127.0.0.1", int(sys.argv[1])), Handler)
say({"port": server.server_address[1]})
threading.Thread(target=server.serve_forever, daemon=True).start()
for line in sys.stdin:
    mood[0] = line.strip()
    say({"mood": mood[0]})
