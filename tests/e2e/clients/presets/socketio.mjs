// Socket.IO over WebSocket alone: the socket.io server, whose path is /socket.io/, and its client.

import { Server } from "socket.io";
import { io } from "socket.io-client";
import { accept, print, refused, renewal, renewToken, run } from "./common.mjs";

function server(http) {
  const io = new Server(http, { serveClient: false });
  // A second namespace, which a client joins over the same connection.
  io.of("/more").on("connection", (socket) => print({ event: "connect", payload: socket.handshake.auth }));
  io.on("connection", (socket) => {
    print({ event: "connect", payload: socket.handshake.auth });
    socket.onAny((name, ...args) => {
      print({ event: "message", name, args: args.filter((arg) => typeof arg !== "function") });
    });
    socket.on("hello", (name, acknowledge) => {
      acknowledge(`hello ${name}`);
      socket.emit("news", `${name} is here`);
    });
  });
}

async function client(url, token) {
  const { origin, pathname } = new URL(url);
  const socket = io(origin, {
    path: pathname === "/" ? "/socket.io/" : pathname,
    transports: ["websocket"],
    auth: { token },
    reconnection: false,
  });

  socket.on("connect", () => print({ step: "connected" }));
  socket.on("connect_error", ({ message, data, description, context }) => {
    refused({ connectError: { message, data, description: describe(description), context: describe(context) } });
  });
  socket.on("disconnect", (reason, details) => {
    refused({ disconnect: { reason, details: details && describe(details) } });
  });
  socket.io.engine.on("close", (reason, details) => {
    refused({ engineClose: { reason, details: describe(details) } });
  });
  if (renewToken) {
    socket.on("auth_required", () => socket.emit("auth", { token: renewToken }));
    socket.on("auth_ok", accept);
  }

  const news = new Promise((resolve) => socket.once("news", resolve));
  print({ step: "acknowledged", answer: await socket.emitWithAck("hello", "ada") });
  print({ step: "event", news: await news });
  const more = socket.io.socket("/more", { auth: { token } });
  if (!more.connected) await new Promise((resolve) => more.once("connect", resolve));
  print({ step: "joined", namespace: "/more" });
  await renewal(async () => {
    print({ step: "acknowledged", answer: await socket.emitWithAck("hello", "again") });
  });
  return () => socket.disconnect();
}

/** Returns the readable fields of the error and close events that the library passes on. */
function describe(event) {
  if (typeof event !== "object" || event === null) return event;
  const { message, description, context, code, reason } = event;
  return { message, code, reason, description: describe(description), context: describe(context) };
}

await run({ server, client });
