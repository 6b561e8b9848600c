// A server behind two Ushers. It has no login: the upgrade has a signed header that names the user.

import { createServer } from "node:http";
import { WebSocketServer } from "ws";
import { createVerifier } from "./verify.mjs";

// Both nodes sign with the same keys, so either one can publish them.
const verify = createVerifier("http://127.0.0.1:8080/.well-known/usher/jwks.json", "chat");

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
  sockets.handleUpgrade(request, socket, head, (opened) => opened.send(JSON.stringify({ user })));
});

http.listen(9000, "127.0.0.1", () => console.log(`listening on ${http.address().port}`));
