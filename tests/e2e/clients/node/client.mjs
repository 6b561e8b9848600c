// Echoes a few messages through the given URL, with the given certificate as its authority, and closes.

import assert from "node:assert";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import WebSocket from "ws";

const [url, certificate] = process.argv.slice(2);
const socket = new WebSocket(url, { ca: readFileSync(certificate) });
await once(socket, "open");
for (const size of [0, 1, 125, 126, 65535, 65536, 200000]) {
  socket.send(Buffer.alloc(size, 7));
  const [data] = await once(socket, "message");
  assert.equal(data.length, size);
}
socket.close(1000);
const [code] = await once(socket, "close");
console.log("ok", code);
