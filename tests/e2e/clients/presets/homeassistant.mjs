// The Home Assistant WebSocket API: the client home-assistant-js-websocket and a small server.

import { createConnection, createLongLivedTokenAuth, createSocket, getStates } from "home-assistant-js-websocket";
import WebSocket, { WebSocketServer } from "ws";
import { accept, print, refused, renewal, renewToken, run } from "./common.mjs";

const ha_version = "2026.1.0";

const listen = (needsAuth) => (http) => {
  new WebSocketServer({ server: http }).on("connection", (socket) => {
    const send = (message) => socket.send(JSON.stringify(message));
    let authenticated = !needsAuth;
    if (needsAuth) send({ type: "auth_required", ha_version });
    socket.on("message", (data) => {
      const message = JSON.parse(data);
      if (authenticated) {
        print({ event: "message", message });
        send(answer(message));
      } else if (message.type === "auth") {
        print({ event: "connect", payload: message });
        authenticated = true;
        send({ type: "auth_ok", ha_version });
      } else {
        send({ type: "auth_invalid", message: "Auth message incorrectly formatted" });
        socket.close();
      }
    });
  });
};

const results = { get_states: [], supported_features: null };

function answer({ id, type }) {
  if (type === "ping") return { id, type: "pong" };
  if (type in results) return { id, type: "result", success: true, result: results[type] };
  return { id, type: "result", success: false, error: { code: "unknown_command", message: "Unknown command." } };
}

async function client(url, token) {
  // The library uses the global WebSocket, and does not report how it was closed.
  globalThis.WebSocket = class extends WebSocket {
    constructor(address) {
      super(address);
      this.on("close", (code, reason) => refused({ close: { code, reason: reason.toString() } }));
      this.on("error", ({ message }) => refused({ socketError: message }));
      this.on("message", (data) => {
        const { type, message } = JSON.parse(data);
        if (type === "auth_invalid") refused({ authInvalid: message });
      });
    }
  };

  const auth = createLongLivedTokenAuth(new URL(url).origin, token);
  Object.defineProperty(auth, "wsUrl", { value: url });
  let connection;
  try {
    connection = await createConnection({ auth, createSocket: createRenewingSocket, setupRetry: 0 });
  } catch (error) {
    refused({ error });
    throw error;
  }
  // Without this, the library would reconnect for ever.
  connection.addEventListener("disconnected", () => connection.close());

  print({ step: "connected", ha_version: connection.haVersion });
  await connection.ping();
  print({ step: "pong" });
  print({ step: "states", states: await getStates(connection) });
  await renewal(async () => print({ step: "states", states: await getStates(connection) }));
  return () => connection.close();
}

async function createRenewingSocket(options) {
  const socket = await createSocket(options);
  if (renewToken) {
    socket.addEventListener("message", ({ data }) => {
      const { type } = JSON.parse(data);
      if (type === "auth_required") socket.send(JSON.stringify({ type: "auth", access_token: renewToken }));
      if (type === "auth_ok") accept();
    });
  }
  return socket;
}

await run({ server: listen(true), "server-noauth": listen(false), client });
