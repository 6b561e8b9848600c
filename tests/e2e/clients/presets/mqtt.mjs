// MQTT over WebSocket: the mqtt client and the aedes broker, which speaks 3.1.1. For MQTT 5 the test
// runs mosquitto.

import { Aedes } from "aedes";
import mqtt from "mqtt";
import { parser } from "mqtt-packet";
import WebSocket, { createWebSocketStream, WebSocketServer } from "ws";
import { print, refused, run } from "./common.mjs";

const protocolVersion = Number(process.env.MQTT_VERSION ?? 4);

async function server(http) {
  const broker = await Aedes.createBroker();
  broker.on("publish", (packet, client) => client && printPublish(packet));
  broker.on("subscribe", (subscriptions) => print({ event: "message", type: "subscribe", subscriptions }));

  new WebSocketServer({ server: http }).on("connection", (socket, request) => {
    const stream = createWebSocketStream(socket).on("error", () => {});
    const packets = parser();
    const chunks = [];
    const read = (chunk) => {
      chunks.push(chunk);
      packets.parse(chunk);
    };
    stream.on("data", read);
    packets.on("error", ({ message }) => print({ event: "error", message }));
    packets.once("packet", ({ cmd, clientId, username, password, protocolVersion }) => {
      stream.off("data", read).pause();
      stream.unshift(Buffer.concat(chunks));
      const frames = chunks.length;
      print({
        event: "connect",
        payload: { cmd, clientId, username, password: password?.toString(), protocolVersion, frames },
      });
      broker.handle(stream, request);
    });
  });
}

function printPublish({ topic, payload }) {
  print({ event: "message", type: "publish", topic, payload: payload.toString() });
}

async function client(url, token) {
  const connection = mqtt.connect(url, {
    username: "ada",
    password: token,
    protocolVersion,
    reconnectPeriod: 0,
    // The library reports only that the connection is closed. The WebSocket knows how and why.
    createWebsocket: (address, protocols, { wsOptions }) =>
      new WebSocket(address, protocols, wsOptions)
        .on("error", ({ message }) => refused({ socketError: message }))
        .on("close", (code, reason) => refused({ close: { code, reason: reason.toString() } })),
  });
  connection.on("error", ({ message, code }) => refused({ error: { message, code } }));
  connection.on("disconnect", ({ reasonCode, properties }) => refused({ disconnect: { reasonCode, properties } }));
  connection.on("close", () => refused({}));

  const { reasonCode, returnCode } = await new Promise((resolve) => connection.once("connect", resolve));
  print({ step: "connected", code: reasonCode ?? returnCode });
  const message = new Promise((resolve) => {
    connection.once("message", (topic, payload) => resolve({ topic, payload: payload.toString() }));
  });
  const [{ topic, qos }] = await connection.subscribeAsync("rooms/1");
  print({ step: "subscribed", topic, qos });
  await connection.publishAsync("rooms/1", "hello", { qos: 1 });
  print({ step: "published" });
  print({ step: "received", ...(await message) });
  return () => connection.endAsync();
}

await run({ server, client });
