// A GraphQL server with subscriptions behind Usher. It has no login: the upgrade has a signed header that names the user.

import { createServer } from "node:http";
import { buildSchema } from "graphql";
import { useServer } from "graphql-ws/use/ws";
import { WebSocketServer } from "ws";
import { createVerifier } from "./verify.mjs";

const verify = createVerifier("http://127.0.0.1:8080/.well-known/usher/jwks.json", "chat");

const schema = buildSchema(`
  type Query { me: String! }
  type Subscription { greetings: String! }
`);

// Each operation gets the user from the verified header.
const roots = {
  query: { me: (_, { user }) => user },
  subscription: {
    async *greetings(_, { user }) {
      for (const greeting of ["hello", "goodbye"]) yield { greetings: `${greeting}, ${user}` };
    },
  },
};

const http = createServer((request, response) => response.writeHead(426).end());
const sockets = new WebSocketServer({ noServer: true });

http.on("upgrade", async (request, socket, head) => {
  let user;
  try {
    user = (await verify(request.headers["x-user-context"])).sub;
  } catch ({ message }) {
    console.log(`upgrade refused: ${message}`);
    return socket.end("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
  }
  console.log(`${user} connected`);
  sockets.handleUpgrade(request, socket, head, (opened) => sockets.emit("connection", opened, { user }));
});

// The second argument of the event "connection" above is `extra.request` here.
useServer({ schema, roots, context: ({ extra }) => extra.request }, sockets);

http.listen(9000, "127.0.0.1", () => console.log(`listening on ${http.address().port}`));
