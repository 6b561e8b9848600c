// STOMP over WebSocket: the client @stomp/stompjs and the broker stomp-broker-js, whose path is
// /stomp. With STOMP_TOPIC the broker is RabbitMQ, which sends a message back to its sender.

import { Client } from "@stomp/stompjs";
import StompServer from "stomp-broker-js";
import WebSocket from "ws";
import { print, refused, run } from "./common.mjs";

function server(http) {
  const broker = new StompServer({ server: http, path: "/stomp" });
  broker.on("connected", (_, headers) => print({ event: "connect", payload: headers }));
  broker.on("error", ({ message }) => print({ event: "error", message }));
  // The broker never sends a message back to its sender, so an application answers.
  broker.subscribe("/app.hello", (body, headers) => {
    print({ event: "message", type: "send", headers: { ...headers }, body });
    broker.send("/topic.greetings", { destination: "/topic.greetings" }, `hello ${body}`);
  });
  broker.on("subscribe", ({ topic }) => print({ event: "message", type: "subscribe", topic }));
}

const topic = process.env.STOMP_TOPIC;
// The token is in the header `Authorization`, or in `passcode` if there is a login.
const login = process.env.STOMP_LOGIN;

async function client(url, token) {
  Object.assign(globalThis, { WebSocket });
  const stomp = new Client({
    brokerURL: url,
    connectHeaders: login ? { login, passcode: token } : { Authorization: `Bearer ${token}` },
    reconnectDelay: 0,
    onStompError: ({ headers, body }) => refused({ error: { headers, body } }),
    onWebSocketError: ({ message }) => refused({ socketError: message }),
    onWebSocketClose: ({ code, reason, wasClean }) => refused({ close: { code, reason, wasClean } }),
  });

  await new Promise((resolve) => {
    stomp.onConnect = ({ headers }) => {
      print({ step: "connected", headers });
      resolve();
    };
    stomp.activate();
  });
  const message = new Promise((resolve) => stomp.subscribe(topic ?? "/topic.greetings", resolve));
  print({ step: "subscribed" });
  stomp.publish({ destination: topic ?? "/app.hello", body: "ada" });
  print({ step: "sent" });
  print({ step: "received", body: (await message).body });
  return () => stomp.deactivate();
}

await run({ server, client });
