#!/usr/bin/env python3
"""Holds docs/openapi.yaml to running Ushers: calls each endpoint in good and bad ways.

Fails if an answer does not fit the document, if a documented answer was not seen and is not in
`NOT_SEEN`, or if the error codes differ from those of the code.

Usage: run.py USHER
"""

import copy
import json
import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

from contract import ROOT, Contract, load
from servers import (
    UPGRADE, Answer, Backend, Redis, Usher, eventually, head, make_certificate, send, tokens, unused_port,
)  # fmt: skip

TICKET, VALIDATE = "/websocket/ticket", "/websocket/ticket/{ticket}/validate"
CONFIG, KEYS, WS = "/websocket/config", "/.well-known/usher/jwks.json", "/ws"
ADMIN_TOKEN = "an-admin-token-of-the-api-test"
PAGE = "https://app.example.com"
JSON = {"Content-Type": "application/json"}
READS = ["/metrics", "/status", "/sessions", "/history"]
ORDERS = ["/revoke", "/reload", "/drain", "/explain", "/login", "/logout"]

# Documented answers that this test does not cause, with the test that does or the reason.
NOT_SEEN = {
    ("issueTicket", "500", "INTERNAL"): "needs a system without randomness",
    ("issueTicket", "408", "HEAD_TIMEOUT"): "one head for all endpoints: openWebSocket",
    ("validateTicket", "408", "HEAD_TIMEOUT"): "the same",
    ("clientConfig", "408", "HEAD_TIMEOUT"): "the same",
    ("signingKeys", "408", "HEAD_TIMEOUT"): "the same",
    ("openWebSocket", "400", "CLIENT_GONE"): "no client reads it; tests/e2e/refusals.rs",
    ("openWebSocket", "401", "INVALID_CERTIFICATE"): "tests/e2e/mtls.rs",
    ("openWebSocket", "500", "INTERNAL"): "a fault of Usher; none is known",
    ("openWebSocket", "503", "DRAINING"): "a moment of a stop; tests/e2e/drain.rs",
    ("reload", "409", "NO_RELOAD"): "the last moment of a stop",
    ("logIn", "500", "INTERNAL"): "needs a system without randomness",
    ("metrics", "500", "INTERNAL"): "a fault of Usher; none is known",
    ("explain", "503", "BUSY"): "needs five explanations at once",
    ("sessions", "503", "BUSY"): "needs nine questions at once; tests/e2e/fleet_sessions.rs",
}
# Codes that no answer of these endpoints has.
ELSEWHERE = {
    "BODY_TIMEOUT": "of forwarded requests",
    "FIRST_MESSAGE_NOT_AUTH": "of an error frame", "TWO_CREDENTIALS": "of an error frame",
    "FIRST_MESSAGE_TOO_BIG": "of an error frame", "AUTHENTICATION_TIMEOUT": "of an error frame",
    "FIRST_MESSAGE_PROTOCOL": "of an error frame", "UPSTREAM_DECLINED": "of logs and metrics",
}  # fmt: skip


class Test:
    def __init__(self, binary: str):
        self.binary, self.contract, self.faults, self.calls = binary, Contract(load()), [], 0

    def fault(self, text: str):
        self.faults.append(text)

    def call(self, address, verb, template, status, code="", *, path=None, headers=None, body=None,
             raw=None, fits=None) -> Answer:  # fmt: skip
        """Sends a request and judges the answer.

        `fits`: whether the document allows the request itself.
        """
        headers, path, self.calls = dict(headers or {}), path or template, self.calls + 1
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        wire = {"Host": f"{address[0]}:{address[1]}", "Connection": "close", **headers}
        if body is not None:
            wire["Content-Length"] = str(len(content))
        what = f"{verb} {path} {headers} {content[:80]!r}"
        answer = send(address, raw if raw is not None else head(verb, path, wire), content, verb)
        self.judge(what, verb, template, path, answer, status, code)
        if fits is not None:
            refusal = self.contract.judge_body(verb, template, path, headers, content)
            if fits != (refusal is None):
                self.fault(f"{what}: by the document this request is {refusal or 'allowed'}")
        return answer

    def judge(self, what, verb, template, path, answer, status, code):
        found = answer.json.get("code", "") if answer.json and answer.status >= 400 else ""
        if (answer.status, found) != (status, code):
            self.fault(f"{what}: {answer.status} {found} {answer.body[:200]!r}, not {status} {code}")
        if fault := self.contract.judge_answer(verb, template, path, answer):
            self.fault(f"{what}: {answer.status} {answer.headers} {answer.body[:300]!r}: {fault}")
        if answer.status >= 400 and (given := answer.header("x-request-id")) and answer.json:
            if answer.json.get("request_id") != given:
                self.fault(f"{what}: the header has the request id {given!r}: {answer.json}")

    # The endpoints of clients.

    def tickets(self, at):
        ada = _bearer()
        self.call(at, "POST", TICKET, 201, headers=ada)
        page = {**ada, "Origin": PAGE}
        answer = self.call(at, "POST", TICKET, 201, headers={**page, **JSON}, fits=True, body={
            "route": "/ws", "ttl_seconds": 10, "single_use": True, "permissions": ["chat:read"],
        })  # fmt: skip
        if answer.header("access-control-allow-origin") != PAGE:
            self.fault(f"a listed page may not read: {answer.headers}")
        self.call(at, "POST", TICKET, 201, headers=ada, body={"route": "/rooms/{room}"})
        for body, fits in [
            (b"[]", False), (b"{", False), ({"ttl": 1}, False), ({"ttl_seconds": 0}, False),
            ({"ttl_seconds": "1"}, False), ({"single_use": 1}, False), ({"permissions": "a"}, False),
            ({"ttl_seconds": 100_000}, True), ({"single_use": False}, True), ({"route": "/no"}, True),
        ]:  # fmt: skip
            self.call(at, "POST", TICKET, 400, "INVALID_REQUEST", headers={**ada, **JSON}, body=body, fits=fits)
        self.call(at, "POST", TICKET, 400, "INVALID_REQUEST", headers=ada, body=b'{"route":"/ws","route":"/ws"}')
        self.call(at, "POST", TICKET, 400, "BAD_REQUEST", headers=ada, body=b" " * 5000)
        self.bad_credentials(at, "POST", TICKET, TICKET)
        self.call(at, "POST", TICKET, 403, "FORBIDDEN_ORIGIN", headers={**ada, "Origin": "https://evil.example"})
        cookie = {"Cookie": f"access_token={tokens.mint()}"}
        self.call(at, "POST", TICKET, 403, "FORBIDDEN_ORIGIN", headers=cookie)
        answer = self.call(at, "POST", TICKET, 201, headers={**cookie, "Origin": PAGE})
        if answer.header("access-control-allow-credentials") != "true":
            self.fault(f"a listed page may not send its cookie: {answer.headers}")
        self.call(at, "POST", TICKET, 403, "PERMISSION_DENIED", headers=ada, body={"permissions": ["x"]})
        self.call(at, "POST", TICKET, 403, "MISSING_PERMISSION", headers=ada, body={"route": "/admins"})
        answer = self.call(at, "POST", TICKET, 404, "TICKETS_OFF", body={"route": "/old"})
        if answer.json["methods"] != ["subprotocol", "query"]:
            self.fault(f"another method was expected: {answer.json}")
        greedy = _bearer("greedy")
        wire = head("POST", TICKET, {"Host": "a", "Connection": "close", **greedy})
        while send(at, wire, verb="POST").status == 201:
            pass
        self.call(at, "POST", TICKET, 429, "RATE_LIMITED", headers=greedy)
        self.not_allowed(at, TICKET, TICKET, ["GET", "PUT", "DELETE"])
        self.heads(at, "POST", TICKET)
        self.preflights(at, TICKET, TICKET)

    def validation(self, at):
        ada = _bearer("owner")
        ticket = self.call(at, "POST", TICKET, 201, headers=ada).json["ticket_id"]
        path = f"/websocket/ticket/{ticket}/validate"
        for headers, valid in [(ada, True), (_bearer("eve"), False)]:
            answer = self.call(at, "GET", VALIDATE, 200, path=path, headers=headers)
            if answer.json["valid"] != valid:
                self.fault(f"{headers}: {answer.json}")
        for other in ["nothing", "x" * 43, "eu.nothing"]:
            path = f"/websocket/ticket/{other}/validate"
            if self.call(at, "GET", VALIDATE, 200, path=path, headers=ada).json["valid"]:
                self.fault(f"{other} is valid")
        cookie = {"Cookie": f"access_token={tokens.mint('owner')}"}
        self.call(at, "GET", VALIDATE, 200, path=path, headers=cookie)
        self.bad_credentials(at, "GET", VALIDATE, path)
        evil = {**ada, "Origin": "https://evil.example"}
        self.call(at, "GET", VALIDATE, 403, "FORBIDDEN_ORIGIN", path=path, headers=evil)
        self.call(at, "GET", VALIDATE, 400, "BAD_REQUEST", path=path, headers=ada, body=b" " * 5000)
        self.not_allowed(at, VALIDATE, path, ["POST", "PUT"])
        self.heads(at, "GET", VALIDATE, path)
        self.preflights(at, VALIDATE, path)

    def config(self, at):
        for route in ["/ws", "/old", "/rooms/{room}"]:
            self.call(at, "GET", CONFIG, 200, path=f"{CONFIG}?route={quote(route, safe='')}")
        answer = self.call(at, "GET", CONFIG, 200, path=f"{CONFIG}?route=%2Fmoved", headers=_bearer())
        if not answer.json["enforced"] or not answer.json["sunset"]:
            self.fault(f"a rollout was expected: {answer.json}")
        self.call(at, "GET", CONFIG, 200, path=f"{CONFIG}?route=/ws", headers={"Origin": PAGE})
        self.call(at, "GET", CONFIG, 404, "NO_ROUTE", path=f"{CONFIG}?route=/testers")
        for query in ["", "?route=/no", "?route=/ws&route=/ws", "?route=%f"]:
            self.call(at, "GET", CONFIG, 400, "INVALID_REQUEST", path=CONFIG + query)
        self.call(at, "GET", CONFIG, 401, "MISSING_CREDENTIAL", path=f"{CONFIG}?route=/moved")
        self.bad_credentials(at, "GET", CONFIG, f"{CONFIG}?route=/moved")
        evil = {"Origin": "https://evil.example"}
        self.call(at, "GET", CONFIG, 403, "FORBIDDEN_ORIGIN", path=f"{CONFIG}?route=/ws", headers=evil)
        self.not_allowed(at, CONFIG, CONFIG, ["POST", "HEAD"])
        self.heads(at, "GET", CONFIG)
        self.preflights(at, CONFIG, CONFIG)

    def keys(self, at):
        if len(self.call(at, "GET", KEYS, 200).json["keys"]) < 2:
            self.fault("the set has no next key")
        self.heads(at, "GET", KEYS)

    def websocket(self, at):
        ada, up = _bearer(), UPGRADE

        def call(status, code="", path="/ws", headers=None, verb="GET", **more):
            answer = self.call(
                at, verb, WS, status, code, path=path, headers={**up, **(headers or {})}, **more
            )
            return answer

        call(101, headers=ada).socket.close()
        ticket = self.call(at, "POST", TICKET, 201, headers=ada).json["ticket_id"]
        call(101, path=f"/ws?ticket={ticket}").socket.close()
        call(403, "INVALID_TICKET", path=f"/ws?ticket={ticket}")
        call(101, path="/public").socket.close()
        # The offer of a subprotocol, and a route that announces its end.
        bearer = {"Sec-WebSocket-Protocol": f"bearer, {tokens.mint()}"}
        call(101, path="/old", headers=bearer).socket.close()
        answer = call(101, path=f"/old?access_token={tokens.mint()}")
        answer.socket.close()
        for name in ["deprecation", "sunset", "link"]:
            if not answer.header(name):
                self.fault(f"a legacy method has no {name}: {answer.headers}")
        call(401, "INVALID_TOKEN", path="/old?access_token=wrong")
        call(403, "LEGACY_METHOD", path=f"/moved?access_token={tokens.mint()}")

        self.bad_credentials(at, "GET", WS, "/ws", up)
        call(400, "UPGRADE_MALFORMED", headers={"Sec-WebSocket-Key": "short"})
        call(403, "FORBIDDEN_ORIGIN", headers={**ada, "Origin": "https://evil.example"})
        answer = call(403, "MISSING_PERMISSION", path="/admins", headers=ada)
        if not answer.header("www-authenticate"):
            self.fault(f"a scope was expected: {answer.headers}")
        call(403, "UNFIT_CLAIM", path="/named", headers=_bearer(" ada"))
        call(404, "NO_ROUTE", path="/nothing")
        call(404, "PATH_SPELLING", path="/free/WS", headers=ada)
        call(426, "UPGRADE_VERSION", headers={**ada, "Sec-WebSocket-Version": "12"})
        # An upgrade with another method is no operation of the document; its answer is.
        wire = head("POST", "/ws", {"Host": "localhost", **up})
        call(405, "UPGRADE_METHOD", raw=wire)
        for path, status, code in [
            ("/closed", 502, "UPSTREAM_UNAVAILABLE"), ("/broken", 502, "UPSTREAM_PROTOCOL"),
            ("/silent", 504, "UPSTREAM_TIMEOUT"), ("/declines", 418, ""),
        ]:  # fmt: skip
            call(status, code, path=path, headers=ada)
        call(503, "VERIFIER_UNAVAILABLE", path="/opaque", headers={"Authorization": "Bearer opaque"})
        self.heads(at, "GET", WS)

    def limits(self, at):
        def call(status, code="", headers=None, address="203.0.113.1"):
            headers = {**UPGRADE, **(headers or {}), "X-Forwarded-For": address}
            return self.call(at, "GET", WS, status, code, headers=headers)

        first = call(101, headers=_bearer("ada"), address="203.0.113.1")
        call(429, "TOO_MANY_SESSIONS", headers=_bearer("ada"), address="203.0.113.2")
        second = call(101, headers=_bearer("bob"), address="203.0.113.3")
        # The route is full now.
        call(503, "TOO_MANY_CONNECTIONS", headers=_bearer("eve"), address="203.0.113.4")
        for _ in range(3):
            call(401, "MISSING_CREDENTIAL", address="203.0.113.9")
        call(429, "RATE_LIMITED", address="203.0.113.9")
        first.socket.close()
        second.socket.close()

    def begin_slowly(self, at):
        """Sends a part of a head. Returns the function that waits for the answer."""
        half = b"GET /ws HTTP/1.1\r\nHost: loc"
        pool = ThreadPoolExecutor(1)
        answer = pool.submit(send, at, half)
        return lambda: self.judge("the half of a head", "GET", WS, WS, answer.result(), 408, "HEAD_TIMEOUT")

    # What all of them answer.

    def bad_credentials(self, at, verb, template, path, extra=None):
        def call(status, code, headers):
            self.call(at, verb, template, status, code, path=path, headers={**(extra or {}), **headers})

        call(401, "MISSING_CREDENTIAL", {})
        call(401, "INVALID_TOKEN", {"Authorization": "Bearer wrong"})
        call(401, "INVALID_TOKEN", {"Authorization": f"Bearer {tokens.mint(seconds=-600)}"})
        call(401, "INVALID_TOKEN", {"Authorization": "Basic YTpi"})
        call(401, "BOUND_TOKEN", _bearer(cnf={"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}))
        call(401, "REVOKED", _bearer("revoked"))
        once = head(verb, path, {"Host": "localhost", "Connection": "close", **(extra or {})})
        twice = once[:-2] + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n"
        self.call(at, verb, template, 400, "BAD_REQUEST", path=path, raw=twice)

    def heads(self, at, verb, template, path=None):
        path = path or template
        wire = head(verb, path, {"Host": "a", "X": "y" * 17_000})
        self.call(at, verb, template, 431, "HEAD_TOO_LARGE", path=path, raw=wire)
        wire = head(verb, path, {"Host": "a", "host": "b"})
        self.call(at, verb, template, 400, "BAD_REQUEST", path=path, raw=wire)

    def not_allowed(self, at, template, path, verbs):
        """Other methods are not in the document: they are held to its answer of the right one."""
        right = next(verb for verb in ("get", "post") if verb in self.contract.document["paths"][template])
        for verb in verbs:
            wire = head(verb, path, {"Host": "localhost", "Connection": "close"})
            if verb == "HEAD":
                answer = send(at, wire, verb=verb)
                if (answer.status, answer.body) != (405, b"") or not answer.header("allow"):
                    self.fault(f"HEAD {path}: {answer.status} {answer.headers}")
            else:
                self.call(at, right, template, 405, "METHOD_NOT_ALLOWED", path=path, raw=wire)

    def preflights(self, at, template, path):
        ask = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
        answer = self.call(at, "OPTIONS", template, 204, path=path, headers=ask)
        if answer.header("access-control-allow-origin") != PAGE:
            self.fault(f"OPTIONS {path}: {answer.headers}")
        evil = {**ask, "Origin": "https://evil.example"}
        self.call(at, "OPTIONS", template, 403, "FORBIDDEN_ORIGIN", path=path, headers=evil)

    # The endpoints of operators.

    def probes(self, at):
        for path in ["/livez", "/readyz", "/metrics", "/status", "/sessions", "/history"]:
            self.call(at, "GET", path, 200)
            answer = send(at, head("HEAD", path, {"Host": "localhost"}), verb="HEAD")
            if (answer.status, answer.body) != (200, b""):
                self.fault(f"HEAD {path}: {answer.status} {answer.body[:80]!r}")
            self.not_allowed(at, path, path, ["POST", "DELETE"])
        for path in ORDERS:
            self.not_allowed(at, path, path, ["GET", "PUT"])
        for path in [*READS, *ORDERS]:
            verb = "GET" if path in READS else "POST"
            self.call(at, verb, path, 421, "MISDIRECTED_REQUEST", headers={"Host": "evil.example"})
            for headers in [
                {"Origin": "https://evil.example"}, {"Origin": "null"},
                {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
            ]:  # fmt: skip
                self.call(at, verb, path, 403, "FOREIGN_ORIGIN", headers=headers)
        for path in ORDERS:
            for headers in [{}, {"Content-Type": "text/plain"}]:
                self.call(at, "POST", path, 415, "UNSUPPORTED_MEDIA_TYPE", headers=headers, body=b"{}")
        self.call(at, "POST", "/login", 409, "NO_TOKEN", headers=JSON, body={"token": ADMIN_TOKEN})
        self.call(at, "POST", "/logout", 400, "INVALID_REQUEST", headers=JSON, body=b" " * 9000)
        page = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        self.call(at, "GET", "/status", 200, headers=page)
        for path in ["/", "/assets/page.css", "/assets/page.js", "/assets/chart.js", "/assets/icon.svg"]:
            answer = send(at, head("GET", path, {"Host": "localhost", **page}))
            if answer.status != 200 or "default-src 'none'" not in answer.header("content-security-policy"):
                self.fault(f"{path}: {answer.status} {answer.headers}")
        unknown = send(at, head("GET", "/nothing", {"Host": "localhost"}))
        if (unknown.status, unknown.json) != (404, {"code": "NOT_FOUND", "message": "unknown path"}):
            self.fault(f"an unknown path: {unknown.status} {unknown.json}")

    def secured(self, at):
        for path in [*READS, "/revoke", "/reload", "/drain", "/explain"]:
            verb = "GET" if path in READS else "POST"
            for headers in [{}, {"Authorization": "Bearer wrong"}, {"Cookie": f"usher_admin_{at[1]}=wrong"}]:
                self.call(at, verb, path, 401, "UNAUTHORIZED", headers=headers)

    def page_login(self, at):
        """Logs in as the admin page does, and uses the cookie."""
        own = {"Origin": f"http://{at[0]}:{at[1]}", "Sec-Fetch-Site": "same-origin", **JSON}

        def call(path, status, code="", headers=own, body=None, **more):
            verb = "GET" if path in READS else "POST"
            return self.call(at, verb, path, status, code, headers=headers, body=body, **more)

        for body, fits in [({}, False), ({"token": 1}, False), (b"", False), ({"tokn": "a"}, False)]:
            call("/login", 400, "INVALID_REQUEST", body=body, fits=fits)
        call("/login", 401, "UNAUTHORIZED", body={"token": "wrong"}, fits=True)
        answer = call("/login", 200, body={"token": ADMIN_TOKEN}, fits=True)
        cookie = {**own, "Cookie": answer.header("set-cookie").partition(";")[0]}
        for path in READS:
            call(path, 200, headers=cookie)
        call("/revoke", 400, "INVALID_REQUEST", headers=cookie, body={})
        for origin in [{"Origin": "https://evil.example"}, {"Origin": f"http://{at[0]}:1"}, {}]:
            foreign = {name: value for name, value in cookie.items() if name != "Origin"}
            for path in ["/revoke", "/reload", "/drain", "/explain"]:
                call(path, 403, "FOREIGN_ORIGIN", headers={**foreign, **origin}, body={})
        # The token itself may come from anywhere: a browser does not send it by itself.
        token = {"Authorization": f"Bearer {ADMIN_TOKEN}", "Origin": "https://tools.example"}
        call("/status", 200, headers=token)
        call("/logout", 200, headers=cookie, body={}, fits=True)
        call("/status", 401, "UNAUTHORIZED", headers=cookie)
        for _ in range(10):
            answer = send(at, head("POST", "/login", {"Host": "a", "Content-Length": "13", **JSON}), b'{"token":"a"}', "POST")
        if answer.status != 429:
            self.fault(f"wrong tokens are not limited: {answer.status}")
        call("/login", 429, "RATE_LIMITED", body={"token": "a"}, fits=True)
        for path in [*READS, "/revoke", "/reload", "/drain", "/explain"]:
            call(path, 429, "RATE_LIMITED", headers={"Authorization": "Bearer wrong"})
        call("/login", 200, body={"token": ADMIN_TOKEN}, fits=True)

    def sessions(self, at, client):
        socket = self.call(client, "GET", WS, 101, headers={**UPGRADE, **_bearer("lister")}).socket
        for query in ["", "?limit=1", "?user=lister&route=%2Fws&method=header&fleet=false", "?fleet=true"]:
            answer = self.call(at, "GET", "/sessions", 200, path=f"/sessions{query}", fits=True)
            if answer.json["total"] < 1 or not answer.json["sessions"]:
                self.fault(f"/sessions{query}: {answer.json}")
        for query, fits in [
            ("?limit=many", False), ("?limit=-1", False), ("?fleet=yes", None),
            ("?users=ada", None), ("?user=a&user=b", None),
        ]:  # fmt: skip
            self.call(at, "GET", "/sessions", 400, "BAD_REQUEST", path=f"/sessions{query}", fits=fits)
        status = self.call(at, "GET", "/status", 200).json
        if not status.get("certificates") or not status["sessions_by"] or not status["legacy"]:
            self.fault(f"/status has an empty list, which judges nothing: {status}")
        socket.close()

    def revoke(self, at, headers=None):
        headers = {**JSON, **(headers or {})}
        for body in [
            {"user": "one"}, {"session": "5f0c6b1d7e3a4c2b9d8e7f6a5b4c3d2e"}, {"token_id": "t"},
            {"issued_before": 1_700_000_000_000}, {"issued_before": "2020-01-31T13:00:00+01:00"},
            {"issued_before": "2020-01-31T12:00:00Z", "user": "one", "issuer": "main"},
            {"user": "two", "until": "2099-01-01T00:00:00Z"}, {"user": "\u00e9" * 512},
            {"issued_before": "now", "user": "three"},
        ]:  # fmt: skip
            self.call(at, "POST", "/revoke", 200, headers=headers, body=body, fits=True)
        for body, fits in [
            ({}, False), ({"usr": "a"}, False), ({"user": 7}, False), ([], False), (b"{", False),
            ({"user": ""}, False), ({"user": "a" * 1025}, False), ({"user": "a", "session": "b"}, False),
            ({"token_id": "a", "issued_before": "now"}, False), ({"issued_before": 17}, False),
            ({"issued_before": "yesterday"}, False), ({"issued_before": True}, False),
            ({"user": "a", "until": "2020-01-01T00:00:00Z"}, True), ({"user": "a", "issuer": "x"}, True),
            ({"issued_before": "2099-01-01T00:00:00Z"}, True), (b'{"user":"a","user":"b"}', True),
            (b" " * 9000, False),
        ]:  # fmt: skip
            self.call(at, "POST", "/revoke", 400, "INVALID_REQUEST", headers=headers, body=body, fits=fits)

    def explain(self, at):
        def call(status, code="", **more):
            return self.call(at, "POST", "/explain", status, code, headers=JSON, **more)

        for body, verdict in [
            ({"url": "ws://localhost/ws", "token": tokens.mint()}, True),
            ({"url": "ws://localhost/ws", "token": "wrong", "as": "header"}, False),
            ({"url": "ws://localhost/ws", "token": tokens.mint("revoked")}, False),
            ({"url": "https://localhost/nothing", "method": "POST"}, False),
            ({"url": "ws://localhost/public", "peer": "2001:db8::1", "headers": ["X-A: b"]}, True),
            ({"url": "ws://localhost/opaque", "token": "opaque"}, None),
            ({"url": "ws://localhost/opaque", "token": "opaque", "ask_verifiers": True}, False),
        ]:  # fmt: skip
            answer = call(200, body=body, fits=True)
            if answer.json["verdict"]["let_in"] != verdict:
                self.fault(f"/explain {body}: {answer.json['verdict']}")
        for body, fits in [
            ({}, False), ([], False), (b"{", False), ({"url": 1}, False), ({"url": "nowhere"}, True),
            ({"url": "ws://a/", "usr": "a"}, False), ({"url": "ws://a/", "token": "a", "ticket": "b"}, True),
            ({"url": "ws://a/", "headers": ["none"]}, True), ({"url": "ws://a/", "as": "x"}, True),
            (b" " * 70_000, False),
        ]:  # fmt: skip
            call(400, "INVALID_REQUEST", body=body, fits=fits)

    def reload(self, usher):
        at, text = usher.admin, usher.file.read_text()
        self.call(at, "POST", "/reload", 200, headers=JSON, body={})
        usher.file.write_text(text.replace('window = "60s"', 'window = "50s"'))
        answer = self.call(at, "POST", "/reload", 200, headers=JSON, body={})
        if answer.json["changed"] != ["drain"]:
            self.fault(f"/reload: {answer.json}")
        for broken in [text + "\n[nothing]\n", text + "\n[", text.replace("API_JWT_SECRET", "NOT_SET")]:
            usher.file.write_text(broken)
            self.call(at, "POST", "/reload", 422, "CONFIG_REFUSED", headers=JSON, body={})
        usher.file.write_text(text)
        self.call(at, "POST", "/reload", 200, headers=JSON, body={})

    def drain(self, usher):
        at = usher.admin
        for body, fits in [
            ({"percent": 0}, False), ({"percent": 101}, False), ({"percent": "20"}, False),
            ({"percnt": 1}, False), (b"", False), ({"route": "/no"}, True), (b" " * 9000, False),
        ]:  # fmt: skip
            self.call(at, "POST", "/drain", 400, "INVALID_REQUEST", headers=JSON, body=body, fits=fits)
        kept = [
            self.call(usher.client, "GET", WS, 101, headers={**UPGRADE, **_bearer(f"d{n}")})
            for n in range(2)
        ]
        self.call(at, "POST", "/drain", 200, headers=JSON, body={"percent": 1, "route": "/ws"}, fits=True)
        self.call(at, "POST", "/drain", 409, "BUSY", headers=JSON, body={"percent": 100})
        self.call(at, "POST", "/drain", 200, headers=JSON, body={}, fits=True)
        self.call(at, "POST", "/drain", 409, "DRAINING", headers=JSON, body={})
        if not eventually(lambda: send(at, head("GET", "/readyz", {"Host": "a"})).status == 503):
            self.fault("a stopping node stays ready")
        self.call(at, "GET", "/readyz", 503)
        self.call(at, "GET", "/livez", 200)
        self.call(at, "GET", "/status", 200)
        for answer in kept:
            answer.socket.close()

    # Several nodes, and a store that goes away.

    def fleet(self, usher, redis):
        at, token = usher.admin, {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        self.secured(at)
        self.page_login(at)
        if self.call(at, "GET", "/readyz", 200).json != {
            "status": "ready", "store": "here", "issuers_without_keys": ["remote"],
        }:  # fmt: skip
            self.fault("/readyz does not name the store and the issuer without keys")
        self.call(at, "GET", "/metrics", 200, headers=token)
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        answer = self.call(at, "GET", "/metrics", 200, headers={**token, **accept})
        if not answer.header("content-type").startswith("application/openmetrics-text;"):
            self.fault(f"OpenMetrics was asked for: {answer.headers}")
        socket = self.call(usher.client, "GET", WS, 101, headers={**UPGRADE, **_bearer()}).socket
        answer = self.call(at, "GET", "/sessions", 200, path="/sessions?fleet=true", headers=token)
        if answer.json.get("fleet") != "whole" or answer.json["total"] != 1:
            self.fault(f"/sessions?fleet=true: {answer.json}")
        if self.call(at, "GET", "/status", 200, headers=token).json["nodes"] is None:
            self.fault("/status does not list the nodes")
        user = {**token, **JSON}
        if not self.call(at, "POST", "/revoke", 200, headers=user, body={"user": "away"}).json.get("fleet"):
            self.fault("/revoke did not reach the fleet")
        remote = {"Authorization": f"Bearer {_token_of_another_issuer()}"}
        opaque = {"Authorization": "Bearer opaque"}
        ticket = self.call(usher.client, "POST", TICKET, 201, headers=_bearer()).json["ticket_id"]
        validate = f"/websocket/ticket/{ticket}/validate"
        for headers, code in [(remote, "ISSUER_KEYS_UNAVAILABLE"), (opaque, "VERIFIER_UNAVAILABLE")]:
            self.call(usher.client, "POST", TICKET, 503, code, headers=headers)
            self.call(usher.client, "GET", VALIDATE, 503, code, path=validate, headers=headers)
            self.call(usher.client, "GET", CONFIG, 503, code, headers=headers)
        self.call(usher.client, "GET", WS, 503, "ISSUER_KEYS_UNAVAILABLE", headers={**UPGRADE, **remote})
        socket.close()

        redis.stop()
        self.call(usher.client, "POST", TICKET, 503, "STORE_UNAVAILABLE", headers=_bearer())
        self.call(usher.client, "GET", VALIDATE, 503, "STORE_UNAVAILABLE", path=validate, headers=_bearer())
        path = f"/ws?ticket={ticket}"
        self.call(usher.client, "GET", WS, 503, "STORE_UNAVAILABLE", path=path, headers=UPGRADE)
        answer = self.call(at, "GET", "/sessions", 200, path="/sessions?fleet=true", headers=token)
        if answer.json.get("fleet") != "unknown":
            self.fault(f"/sessions?fleet=true without a store: {answer.json}")
        self.call(at, "GET", "/status", 200, headers=token)
        self.call(at, "POST", "/revoke", 503, "REVOKED_HERE_ONLY", headers=user, body={"user": "two"})
        self.call(at, "POST", "/revoke", 503, "REVOCATIONS_FULL", headers=user, body={"user": "three"})

    # The document and the code.

    def codes(self):
        """Compares the codes of the document with docs/errors.md, which the code writes."""
        text = (ROOT / "docs/errors.md").read_text().partition("## `AUTH_FAILED`")[0]
        rows = re.findall(r"^\| `([A-Z_]+)` \| (\d+|the upstream's) \|", text, re.M)
        listed = self.contract.document["components"]["schemas"]["ErrorCode"]["enum"]
        if sorted(listed) != sorted({code for code, _ in rows}):
            self.fault(f"ErrorCode differs from docs/errors.md: {sorted(set(listed) ^ {c for c, _ in rows})}")
        used = set()
        for _, _, operation in self.contract.operations():
            if operation["tags"] == ["client"]:
                for status, answer in operation["responses"].items():
                    for code in self.contract.codes(self.contract._of(answer)):
                        used.add(code)
                        if (code, status) not in rows:
                            self.fault(f"{operation['operationId']}: {code} has no status {status}")
        if used | set(ELSEWHERE) != set(listed) or used & set(ELSEWHERE):
            self.fault(f"not in exactly one place: {set(listed) ^ (used | set(ELSEWHERE))}, {used & set(ELSEWHERE)}")
        used = {"NOT_FOUND"}
        for _, _, operation in self.contract.operations():
            if operation["tags"] == ["admin"]:
                for answer in operation["responses"].values():
                    used |= set(self.contract.codes(answer))
        listed = self.contract.document["components"]["schemas"]["AdminErrorCode"]["enum"]
        files = [path for path in (ROOT / "src/admin").glob("*.rs") if path.name != "tests.rs"]
        source = "".join(path.read_text().partition("#[cfg(test)]")[0] for path in files)
        written = set(re.findall(r'"([A-Z]+(?:_[A-Z]+)*)"', source)) - {"GET", "POST", "CARGO_PKG_VERSION"}
        if not set(listed) == used == written:
            self.fault(f"admin codes: document {listed}, operations {sorted(used)}, code {sorted(written)}")

    def whole(self):
        """Finds documented answers that were not seen."""
        missing = self.contract.documented() - self.contract.seen - set(NOT_SEEN)
        for one in sorted(missing):
            self.fault(f"documented, and not seen: {one}")
        for one in sorted(self.contract.seen & set(NOT_SEEN) | set(NOT_SEEN) - self.contract.documented()):
            self.fault(f"NOT_SEEN has an answer that was seen, or is not documented: {one}")

    def can_fail(self, at):
        """Changes a good answer in several ways: each must be found."""
        answer = self.call(at, "POST", TICKET, 201, headers=_bearer("checker"))
        refused = self.call(at, "POST", TICKET, 401, "MISSING_CREDENTIAL")
        seen = set(self.contract.seen)
        for why, one, changes, headers in [
            ("a field is missing", answer, {"ttl_seconds": None}, {}),
            ("a field is new", answer, {"colour": "red"}, {}),
            ("a type is wrong", answer, {"expires_at": "soon"}, {}),
            ("a status is new", answer, {}, {"status": 299}),
            ("a header is missing", answer, {}, {"X-Request-Id": None}),
            ("a header is wrong", answer, {}, {"Cache-Control": "public"}),
            ("a media type is new", answer, {}, {"Content-Type": "text/html"}),
            ("a code is new", refused, {"code": "TEAPOT"}, {}),
            ("a code has another status", refused, {"code": "DRAINING"}, {}),
            ("a challenge is missing", refused, {}, {"WWW-Authenticate": None}),
        ]:
            other = copy.copy(one)
            body = {**one.json, **changes}
            other.body = json.dumps({k: v for k, v in body.items() if (k, v) != (k, None) or k not in changes}).encode()
            other.json, other.status = json.loads(other.body), headers.get("status", one.status)
            names = {name.lower() for name in headers}
            other.headers = [pair for pair in one.headers if pair[0].lower() not in names]
            other.headers += [(k, v) for k, v in headers.items() if k != "status" and v is not None]
            if self.contract.judge_answer("POST", TICKET, TICKET, other) is None:
                self.fault(f"not found: {why}")
        self.contract.seen = seen


def _bearer(user="ada", **claims) -> dict:
    return {"Authorization": f"Bearer {tokens.mint(user, **{'scope': 'chat:read', **claims})}"}


def _token_of_another_issuer() -> str:
    """Returns a token whose key is not known. Its signature is not one."""
    claims = {"iss": "https://remote.example.com", "aud": tokens.AUDIENCE, "sub": "ada", "iat": 0, "exp": 2**33}
    parts = [{"alg": "EdDSA", "kid": "k", "typ": "JWT"}, claims]
    encoded = [tokens._encode(json.dumps(part).encode()) for part in parts]
    return ".".join([*encoded, tokens._encode(bytes(64))])


def _issuer(name: str, url: str, keys: str) -> str:
    return f"""
[[issuer]]
name = "{name}"
issuer = "{url}"
audience = ["{tokens.AUDIENCE}"]
permissions_claim = "scope"
{keys}
"""


MAIN = _issuer("main", tokens.ISSUER, 'algorithms = ["HS256"]\nsecret_env = "API_JWT_SECRET"')


def _route(path: str, auth: str, upstream: str = "chat", more: str = "") -> str:
    return f'[[route]]\npath = "{path}"\nupstream = "{upstream}"\nauth = {auth}\norigins = ["{PAGE}"]\n{more}\n'


def every_kind(backend: Backend, folder: Path) -> str:
    """Returns a configuration with a route for each kind of answer."""
    certificate, key = make_certificate(folder)
    legacy = 'legacy = ["query"]\ndeprecated = "2026-11-01"\nsunset = "2099-03-01"\nmigration_link = "https://example.com/move"\n'
    return f"""
[[listener]]
address = "127.0.0.1:0"
plain = true
[[listener]]
address = "127.0.0.1:0"
certificates = [{{ cert = "{certificate}", key = "{key}" }}]
{MAIN}
[[verifier]]
name = "login"
kind = "http"
url = "http://127.0.0.1:{unused_port()}/verify"
[[upstream]]
name = "chat"
servers = ["http://127.0.0.1:{backend.port}"]
max_ejected_percent = 0
[[upstream]]
name = "silent"
servers = ["http://127.0.0.1:{backend.port}"]
upgrade_timeout = "300ms"
[[upstream]]
name = "closed"
servers = ["http://127.0.0.1:{unused_port()}"]
""" + "".join([
        _route("/ws", '["ticket", "header", "message"]').replace('"message"', '"cookie"'),
        _route("/rooms/{room}", '["ticket"]'),
        _route("/old", '["query", "subprotocol"]', more=legacy),
        _route("/moved", '["ticket", "query", "header"]', more=legacy + 'rollout = { ticket = 100, enforce = true }\n'),
        _route("/admins", '["ticket", "header"]', more='require = ["admin"]\n'),
        _route("/named", '["header"]', more='identity_headers = { X-User-Id = "sub" }\n'),
        _route("/testers", '["bypass"]'),
        _route("/opaque", '["header"]', more='verifier = "login"\n'),
        _route("/closed", '["header"]', "closed"),
        _route("/broken", '["header"]'), _route("/silent", '["header"]', "silent"), _route("/declines", '["header"]'),
        _route("/public", "[]"), _route("/free/ws", '["header"]'), _route("/free/*", "[]"),
    ]) + """
[tickets]
rate_per_user = "60/1h"
[bypass]
secret_env = "API_BYPASS"
[drain]
delay = "300s"
window = "60s"
[admin]
address = "127.0.0.1:0"
"""  # fmt: skip


def small(backend: Backend) -> str:
    """Returns a configuration with low limits."""
    return f"""
[[listener]]
address = "127.0.0.1:0"
plain = true
trusted_peers = ["127.0.0.0/8"]
{MAIN}
[[upstream]]
name = "chat"
servers = ["http://127.0.0.1:{backend.port}"]
{_route("/ws", '["header"]')}
[limits]
sessions_per_user = 1
sessions_per_route = 2
upgrades_rate_per_address = "3/1h"
[admin]
address = "127.0.0.1:0"
"""


def one_of_several(backend: Backend, redis: Redis) -> str:
    """Returns a configuration with a shared store, a token and services that do not answer."""
    keys = f'algorithms = ["EdDSA"]\njwks_url = "http://127.0.0.1:{unused_port()}/keys"'
    return f"""
node = "edge-1"
[[listener]]
address = "127.0.0.1:0"
plain = true
{MAIN}
{_issuer("remote", "https://remote.example.com", keys)}
[[verifier]]
name = "login"
kind = "http"
url = "http://127.0.0.1:{unused_port()}/verify"
[[upstream]]
name = "chat"
servers = ["http://127.0.0.1:{backend.port}"]
{_route("/ws", '["ticket", "header"]')}
[tickets]
verifier = "login"
verifier_tokens = "opaque"
[store]
url = "redis://127.0.0.1:{redis.port}/0"
timeout = "5s"
[revocation]
max_entries = 2
[admin]
address = "127.0.0.1:0"
token_env = "API_ADMIN_TOKEN"
login_rate_per_address = "10/1h"
"""


def main(binary: str) -> int:
    test, started = Test(binary), []

    def start(program, *arguments):
        started.append(program(*arguments))
        return started[-1]

    try:
        test.codes()
        backend = start(Backend)
        folder = start(tempfile.TemporaryDirectory)
        usher = start(Usher, binary, every_kind(backend, Path(folder.name)), "--allow-bypass")
        test.call(usher.admin, "POST", "/revoke", 200, headers=JSON, body={"user": "revoked"})
        slow = test.begin_slowly(usher.client)
        test.can_fail(usher.client)
        for part in [test.tickets, test.validation, test.config, test.keys, test.websocket]:
            part(usher.client)
        test.probes(usher.admin)
        test.sessions(usher.admin, usher.client)
        test.revoke(usher.admin)
        test.explain(usher.admin)
        test.reload(usher)
        slow()
        test.drain(usher)
        test.limits(start(Usher, binary, small(backend)).client)
        redis = start(Redis)
        test.fleet(start(Usher, binary, one_of_several(backend, redis)), redis)
        test.whole()
    finally:
        for program in reversed(started):
            program.stop() if hasattr(program, "stop") else program.cleanup()
    for fault in test.faults:
        print(f"api: {fault}", file=sys.stderr)
    documented = len(test.contract.documented())
    print(f"api: {test.calls} calls, {len(test.contract.seen)} of {documented} documented answers seen, {len(test.faults)} faults")
    return min(len(test.faults), 1)


if __name__ == "__main__":
    sys.exit(main(str(Path(sys.argv[1]).resolve())))
