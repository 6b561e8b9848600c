"""A client that starts a kernel, logs in on its WebSocket by the first message, and runs code.

    TOKEN=... python client.py
"""

import json
import os
import sys
import uuid
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import websocket

USHER = "127.0.0.1:8080"
TOKEN = os.environ.get("TOKEN")
XSRF = uuid.uuid4().hex


def ask(method: str, path: str) -> dict | None:
    """Sends a request to the REST API of Jupyter, with the token in a header."""
    # Jupyter compares these two, against requests that a page of another site makes a browser send.
    headers = {"Cookie": f"_xsrf={XSRF}", "X-XSRFToken": XSRF}
    if TOKEN:
        headers["Authorization"] = f"Bearer {TOKEN}"
    with urlopen(Request(f"http://{USHER}{path}", None, headers, method=method), timeout=60) as answer:
        return json.load(answer) if answer.status != 204 else None


def log_in(socket: websocket.WebSocket) -> str:
    """Sends the token as the first message, and returns the user whom Usher names."""
    socket.send(json.dumps({"type": "auth", "payload": {"token": TOKEN}}))
    answer = json.loads(socket.recv())
    if answer["type"] != "auth_ok":
        raise SystemExit(f"refused: {answer['payload']['code']}")
    return answer["payload"]["user"]


def execute(socket: websocket.WebSocket, code: str) -> str:
    """Runs code in the kernel, by the protocol of Jupyter, and returns its output."""
    header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "session": "1", "version": "5.4"}
    content = {"code": code, "silent": False}
    socket.send(json.dumps({
        "channel": "shell", "header": header, "parent_header": {}, "metadata": {}, "content": content,
    }))
    while True:
        message = json.loads(socket.recv())
        if message.get("msg_type") == "stream":
            return message["content"]["text"]


try:
    kernel = ask("POST", "/api/kernels")
except HTTPError as refusal:
    print("refused:", refusal.code, json.load(refusal)["code"])
    sys.exit(1)
path = f"/api/kernels/{kernel['id']}"
socket = websocket.create_connection(f"ws://{USHER}{path}/channels", timeout=60, suppress_origin=True)
print("authenticated as", log_in(socket))
print("the kernel:", execute(socket, "print(6 * 7)"), end="")
socket.close()
ask("DELETE", path)
