"""A verifier of Usher's kind "http": says whose an opaque credential is.

    USERS='{"0123456789abcdef": "ada"}' python3 verify.py 9100

Listens on loopback, where plain HTTP is allowed. Prints its address when it is ready.
"""

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USERS = json.loads(os.environ["USERS"])
SECONDS = 600


class Verify(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        user = USERS.get(json.loads(body)["credential"])
        if user is None:
            self.answer(401, {"error": "unknown"})
        else:
            self.answer(200, {"sub": user, "permissions": ["chat:read"], "exp": int(time.time()) + SECONDS})

    def answer(self, status, claims):
        body = json.dumps(claims).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        """A credential could stand in a log; say nothing."""


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Verify)
print(f"http://127.0.0.1:{server.server_port}/", flush=True)
server.serve_forever()
