// Compressed messages in both directions, with a renewal among them.
//
//   node deflate.mjs server on|off
//     An echo with or without permessage-deflate. Prints its port, and the agreed extensions.
//   node deflate.mjs client URL CA RENEWAL [AUTH]
//     Sends AUTH first if it is given, and then 2,000 messages.

import { readFileSync } from "node:fs";
import { WebSocket, WebSocketServer } from "ws";

const COUNT = 2000;
const [mode, ...rest] = process.argv.slice(2);

if (mode === "server") {
  const perMessageDeflate = rest[0] === "on" && { threshold: 0 };
  const server = new WebSocketServer({ host: "127.0.0.1", port: 0, perMessageDeflate });
  server.on("listening", () => console.log(server.address().port));
  server.on("connection", (socket) => {
    console.log(`extensions: ${socket.extensions}`);
    socket.on("message", (data, isBinary) => {
      if (!isBinary && data.includes('"auth"')) console.log("LEAK");
      socket.send(data, { binary: isBinary });
    });
  });
  process.stdin.on("close", () => process.exit(0)).resume();
} else {
  const [url, ca, renewal, auth] = rest;
  const socket = new WebSocket(url, { ca: readFileSync(ca), perMessageDeflate: { threshold: 0 } });
  const say = (token) => socket.send(JSON.stringify({ type: "auth", payload: { token } }));
  const message = (number) => `${number} ${"so it goes ".repeat(number % 400)}`;
  let next = 0;
  let renewed = false;
  const done = () => {
    if (next < COUNT || !renewed) return;
    console.log(`ok ${next} ${socket.extensions}`);
    socket.close();
  };
  socket.on("open", async () => {
    if (auth) say(auth);
    for (let number = 0; number < COUNT; number += 1) {
      socket.send(message(number), { binary: number % 3 === 0 });
      if (number % 10 === 0) await new Promise((resolve) => setTimeout(resolve, 20));
    }
  });
  socket.on("message", (data) => {
    const text = data.toString();
    if (text === message(next)) next += 1;
    else {
      const { type } = JSON.parse(text);
      if (type === "auth_required") say(renewal);
      if (type === "auth_ok" && next > 0) renewed = true;
    }
    done();
  });
  socket.on("close", (code, reason) => process.exit(next === COUNT && renewed ? 0 : (console.log(`closed ${code} ${reason} at ${next}`), 1)));
  socket.on("error", (error) => (console.log(error.message), process.exit(1)));
}
