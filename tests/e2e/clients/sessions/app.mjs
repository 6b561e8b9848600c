// A web application that logs its users in with express-session and keeps their sessions in Redis
// with connect-redis, both with their defaults. Its arguments are the URL of Redis and the secret of
// its cookies, and it prints its port. It serves POST /login?user=42 and POST /logout.

import { createServer } from "node:http";

import { RedisStore } from "connect-redis";
import session from "express-session";
import { createClient } from "redis";

const [url, secret] = process.argv.slice(2);
const client = createClient({ url });
await client.connect();
const sessions = session({
  store: new RedisStore({ client }),
  secret,
  resave: false,
  saveUninitialized: false,
  cookie: { maxAge: 600_000 },
});

const server = createServer((request, response) => {
  sessions(request, response, () => {
    const { pathname, searchParams } = new URL(request.url, "http://localhost");
    if (pathname === "/login") {
      request.session.user = { id: Number(searchParams.get("user")), roles: ["chat:read"] };
      response.end("welcome");
    } else {
      request.session.destroy(() => response.end("goodbye"));
    }
  });
});
server.listen(0, "127.0.0.1", () => process.stdout.write(`${server.address().port}\n`));
process.stdin.resume().on("end", () => process.exit(0));
