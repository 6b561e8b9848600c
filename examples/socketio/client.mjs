// A client of the chat: it connects by the transports of its argument, says hello and leaves.
//
//   TOKEN=... node client.mjs [URL [websocket | polling | polling,websocket]]

import { io } from "socket.io-client";

const [url = "http://127.0.0.1:8080", transports = "websocket"] = process.argv.slice(2);
const token = process.env.TOKEN;

// A socket that begins as a WebSocket carries the token in its first message, as a page has to. One that begins with polling
// carries it in a header of each request, and of the upgrade too, which a page's WebSocket cannot.
const credential = transports.startsWith("websocket") ? { auth: { token } } : { extraHeaders: { Authorization: `Bearer ${token}` } };
const socket = io(url, { transports: transports.split(","), reconnection: false, ...credential });

socket.on("connect_error", ({ message, data, context }) => {
  console.log(`refused: ${data?.code ?? context?.status ?? message}`);
  process.exitCode = 1;
});
socket.on("chat", ({ user, text }) => console.log(`${user}: ${text}`));
socket.on("connect", async () => {
  const { engine } = socket.io;
  if (transports === "polling,websocket" && engine.transport.name === "polling") await new Promise((done) => engine.once("upgrade", done));
  const user = await socket.timeout(5000).emitWithAck("chat", `hello by ${engine.transport.name}`);
  console.log(`authenticated as ${user}`);
  socket.disconnect();
});
