// A chat on Socket.IO behind Usher. It has no login: each request has a signed header that names the user.
//
//   node server.mjs [PORT [KEYS]]
//
// KEYS is the address of Usher's public keys.

import { createServer } from "node:http";
import { Server } from "socket.io";
import { createVerifier } from "./verify.mjs";

const [port = "9000", keys = "http://127.0.0.1:8080/.well-known/usher/jwks.json"] = process.argv.slice(2);
const http = createServer((request, response) => response.writeHead(404).end());
const io = new Server(http, { serveClient: false });
const verify = createVerifier(keys, "chat");

// Every request of the polling transport and every upgrade goes through this function.
io.engine.use(async (request, response, next) => {
  try {
    request.user = (await verify(request.headers["x-user-context"])).sub;
  } catch ({ message }) {
    console.log(`request refused: ${message}`);
    return response.writeHead(401).end();
  }
  // An Engine.IO session belongs to the user that began it. Its id alone opens nothing.
  const session = io.engine.clients[request._query.sid];
  if (session && session.request.user !== request.user) return response.writeHead(403).end();
  next();
});

io.on("connection", (socket) => {
  const { user } = socket.request;
  console.log(`${user} connected`);
  socket.on("chat", (text, acknowledge) => {
    io.emit("chat", { user, text });
    acknowledge(user);
  });
});

http.listen(Number(port), "127.0.0.1", () => console.log(`listening on ${http.address().port}`));
