// GraphQL over WebSocket (the graphql-transport-ws subprotocol): graphql-ws on both sides.

import { buildSchema } from "graphql";
import { createClient } from "graphql-ws";
import { useServer } from "graphql-ws/use/ws";
import WebSocket, { WebSocketServer } from "ws";
import { accept, print, refused, renewal, renewToken, run } from "./common.mjs";

const schema = buildSchema(`
  type Query { hello: String }
  type Subscription { count: Int }
`);

const roots = {
  query: { hello: () => "world" },
  subscription: {
    async *count() {
      for (const count of [1, 2, 3]) yield { count };
    },
  },
};

function server(http) {
  useServer(
    {
      schema,
      roots,
      onConnect: ({ connectionParams }) => print({ event: "connect", payload: connectionParams }),
      onSubscribe: (_, id, payload) => print({ event: "message", type: "subscribe", payload }),
      onPing: (_, payload) => print({ event: "message", type: "ping", payload }),
      onPong: (_, payload) => print({ event: "message", type: "pong", payload }),
    },
    new WebSocketServer({ server: http }),
  );
}

async function client(url, token) {
  let socket;
  const pong = (payload) => socket.send(JSON.stringify({ type: "pong", payload }));

  const graphql = createClient({
    url,
    webSocketImpl: WebSocket,
    connectionParams: { token },
    // One connection serves all operations. A lazy client would close it after each.
    lazy: false,
    retryAttempts: 0,
    onNonLazyError: () => {},
    // By default, the library answers each ping at once with the same payload.
    disablePong: Boolean(renewToken),
    on: {
      opened: (opened) => (socket = opened),
      connected: (_, payload) => print({ step: "connected", payload }),
      ping: (received, payload) => {
        if (!received || !renewToken) return;
        pong(payload?.type === "auth_required" ? { token: renewToken } : undefined);
        if (payload?.type === "auth_ok") accept();
      },
      error: ({ message }) => refused({ error: message }),
      closed: ({ code, reason, wasClean }) => refused({ close: { code, reason, wasClean } }),
    },
  });

  const results = async (query) => {
    const values = [];
    for await (const result of graphql.iterate({ query })) values.push(result.data);
    return values;
  };

  print({ step: "query", results: await results("{ hello }") });
  print({ step: "subscription", results: await results("subscription { count }") });
  await renewal(async () => print({ step: "query", results: await results("{ hello }") }));
  return () => graphql.dispose();
}

await run({ server, client });
