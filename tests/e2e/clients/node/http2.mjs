// Echoes messages through a WebSocket in a stream of an HTTP/2 connection (RFC 8441), beside a
// request on the same connection. Takes the URL, with its ticket, and the certificate.
import assert from "node:assert";
import fs from "node:fs";
import http2 from "node:http2";
import { Receiver, Sender } from "ws";

const [url, certificate] = process.argv.slice(2);
const { origin, pathname, search } = new URL(url.replace(/^wss/, "https"));
const session = http2.connect(origin, { ca: fs.readFileSync(certificate) });
await new Promise((resolve, reject) => {
  session.once("remoteSettings", resolve);
  session.once("error", reject);
});
assert.equal(session.alpnProtocol, "h2");
assert.equal(session.remoteSettings.enableConnectProtocol, true);

const stream = session.request(
  {
    ":method": "CONNECT",
    ":protocol": "websocket",
    ":path": pathname + search,
    "sec-websocket-version": "13",
  },
  { endStream: false },
);
const status = await new Promise((resolve, reject) => {
  stream.once("response", (headers) => resolve(headers[":status"]));
  stream.once("error", reject);
});
assert.equal(status, 200);

const messages = [];
let wake = () => {};
const receiver = new Receiver({ isServer: false });
receiver.on("message", (data, isBinary) => {
  messages.push(isBinary ? data : data.toString());
  wake();
});
receiver.on("ping", (data) => sender.pong(data, true));
const closed = new Promise((resolve) => receiver.on("conclude", resolve));
stream.pipe(receiver);
// The sender corks its socket, which a stream of HTTP/2 can as well.
const sender = new Sender(stream, {}, () => {});

async function next() {
  while (messages.length === 0) await new Promise((resolve) => { wake = resolve; });
  return messages.shift();
}

for (const size of [0, 1, 125, 126, 65535, 65536, 200_000]) {
  for (const message of ["x".repeat(size), Buffer.alloc(size, 7)]) {
    sender.send(message, {
      binary: typeof message !== "string", mask: true, fin: true, compress: false,
    });
    const heard = await next();
    assert.ok(typeof message === "string" ? heard === message : heard.equals(message), `${size}`);
  }
}

const request = session.request({ ":path": "/none" });
const [headers] = await new Promise((resolve) => {
  request.once("response", (...heard) => resolve(heard));
});
assert.equal(headers[":status"], 404);
request.close();

sender.close(1000, "", true);
const code = await closed;
stream.end();
session.close();
console.log("ok", code);
