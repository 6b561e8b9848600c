// A client that logs in with `connection_init`, asks for its name, and subscribes.
//
//   TOKEN=... node client.mjs

import { createClient } from "graphql-ws";
import WebSocket from "ws";

const client = createClient({
  url: "ws://127.0.0.1:8080/graphql",
  webSocketImpl: WebSocket,
  // A function: it is called for each connection. Fetch a fresh token here.
  connectionParams: async () => ({ token: process.env.TOKEN }),
  retryAttempts: 0,
  // One connection for all operations.
  lazyCloseTimeout: 1000,
});

try {
  for await (const { data } of client.iterate({ query: "{ me }" })) console.log(`authenticated as ${data.me}`);
  for await (const { data } of client.iterate({ query: "subscription { greetings }" })) console.log(data.greetings);
} catch (end) {
  // Usher refuses with a close frame.
  console.log(`refused: ${end.code} ${end.reason}`);
  process.exitCode = 1;
}
await client.dispose();
