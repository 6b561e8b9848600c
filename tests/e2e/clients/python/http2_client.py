"""Echoes messages through WebSockets in streams of one HTTP/2 connection (RFC 8441).

Takes the address, the certificate as its authority, the path, and one ticket for each WebSocket.
The frames of HTTP/2 are those of `h2`, and the messages those of `wsproto`.
"""

import socket
import ssl
import sys

import h2.config
import h2.connection
import h2.events
import h2.settings
import wsproto.connection
import wsproto.events
import wsproto.extensions


class Client:
    def __init__(self, host: str, port: int, certificate: str) -> None:
        context = ssl.create_default_context(cafile=certificate)
        context.set_alpn_protocols(["h2", "http/1.1"])
        stream = socket.create_connection((host, port))
        self.socket = context.wrap_socket(stream, server_hostname="localhost")
        self.socket.settimeout(30)
        assert self.socket.selected_alpn_protocol() == "h2"
        self.authority = f"{host}:{port}"
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.http.initiate_connection()
        self.answers = {}
        self.data = {}
        self.ended = set()
        self.send()
        while not self.http.remote_settings.enable_connect_protocol:
            self.receive()

    def send(self) -> None:
        self.socket.sendall(self.http.data_to_send())

    def receive(self) -> None:
        data = self.socket.recv(65536)
        assert data, "Usher has closed the connection"
        for event in self.http.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                self.answers[event.stream_id] = dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self.data.setdefault(event.stream_id, bytearray()).extend(event.data)
                length = event.flow_controlled_length
                self.http.acknowledge_received_data(length, event.stream_id)
            elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
                self.ended.add(event.stream_id)
            elif isinstance(event, h2.events.ConnectionTerminated):
                raise AssertionError(event)
        self.send()

    def request(self, method: str, path: str, headers: list, ends: bool) -> int:
        stream = self.http.get_next_available_stream_id()
        pseudo = [(":method", method), (":scheme", "https"), (":path", path)]
        pseudo += [(":authority", self.authority)]
        if method == "CONNECT":
            pseudo += [(":protocol", "websocket")]
        self.http.send_headers(stream, pseudo + headers, end_stream=ends)
        self.send()
        while stream not in self.answers:
            self.receive()
        return stream

    def write(self, stream: int, data: bytes, ends: bool = False) -> None:
        while data:
            window = self.http.local_flow_control_window(stream)
            size = min(window, self.http.max_outbound_frame_size, len(data))
            if size == 0:
                self.receive()
                continue
            self.http.send_data(stream, data[:size])
            self.send()
            data = data[size:]
        if ends:
            self.http.end_stream(stream)
            self.send()


class WebSocket:
    def __init__(self, client: Client, path: str, compresses: bool) -> None:
        self.client = client
        deflate = wsproto.extensions.PerMessageDeflate()
        headers = [("sec-websocket-version", "13")]
        if compresses:
            headers.append(("sec-websocket-extensions", "permessage-deflate"))
        self.stream = client.request("CONNECT", path, headers, ends=False)
        answer = client.answers[self.stream]
        assert answer[b":status"] == b"200", answer
        extensions = []
        if b"sec-websocket-extensions" in answer:
            deflate.finalize(answer[b"sec-websocket-extensions"].decode())
            extensions.append(deflate)
        kind = wsproto.connection.ConnectionType.CLIENT
        self.messages = wsproto.connection.Connection(kind, extensions)

    def send(self, event: wsproto.events.Event, ends: bool = False) -> None:
        self.client.write(self.stream, self.messages.send(event), ends)

    def events(self):
        while True:
            yield from self.messages.events()
            data = self.client.data.pop(self.stream, b"")
            if data:
                self.messages.receive_data(bytes(data))
            elif self.stream in self.client.ended:
                return
            else:
                self.client.receive()

    def receive(self):
        whole = None
        for event in self.events():
            if isinstance(event, wsproto.events.Message):
                whole = event.data if whole is None else whole + event.data
                if event.message_finished:
                    return whole
            elif isinstance(event, wsproto.events.Ping):
                self.send(event.response())
        raise AssertionError("the session has ended")


def main(host: str, port: str, certificate: str, path: str, *tickets: str) -> None:
    client = Client(host, int(port), certificate)
    sockets = [
        WebSocket(client, f"{path}?ticket={ticket}", compresses=number % 2 == 1)
        for number, ticket in enumerate(tickets)
    ]
    for size in (0, 1, 125, 126, 65535, 65536, 200_000):
        for message in ("x" * size, b"\x00" * size):
            kind = wsproto.events.TextMessage if isinstance(message, str) else wsproto.events.BytesMessage
            for one in sockets:
                one.send(kind(data=message))
            for one in sockets:
                assert one.receive() == (message if size else type(message)()), size
    # A request beside the sessions.
    stream = client.request("GET", "/none", [], ends=True)
    assert client.answers[stream][b":status"] == b"404"
    for one in sockets:
        one.send(wsproto.events.CloseConnection(code=1000), ends=True)
        codes = [e.code for e in one.events() if isinstance(e, wsproto.events.CloseConnection)]
        assert codes == [1000], codes
    print("ok", len(sockets))


main(*sys.argv[1:])
