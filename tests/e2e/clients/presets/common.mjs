// Tools of the protocol programs: JSON lines on the output, the life of a server, the life of a client.

import { createServer } from "node:http";

const WATCHDOG_MS = 40_000;
const RENEWAL_MS = 30_000;
/** How long a refused client goes on collecting the details that its library reports. */
const REFUSAL_MS = 500;
const CLOSING_MS = 1000;

export const renewToken = process.env.RENEW_TOKEN;

export function print(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

/** Runs the mode that the command line names. Each mode but "client" is a kind of server. */
export async function run({ client, ...servers }) {
  const [mode, url, token] = process.argv.slice(2);
  if (mode === "client" && url && token) {
    await runClient(client, url, token);
  } else if (Object.hasOwn(servers, mode)) {
    await runServer(servers[mode]);
  } else {
    console.error(`usage: ${Object.keys(servers).join(" | ")} | client URL TOKEN`);
    process.exit(2);
  }
}

async function runServer(attach) {
  process.once("SIGTERM", () => process.exit(0));
  process.stdin.once("close", () => process.exit(0)).resume();
  const server = createServer();
  server.on("upgrade", ({ headers }) => print({ event: "headers", headers }));
  await attach(server);
  server.listen(0, "127.0.0.1", () => print({ port: server.address().port }));
}

let refusal;
let finished = false;

/** Runs `client`, which does all its work and then returns a function that closes its connection. */
async function runClient(client, url, token) {
  const watchdog = setTimeout(timeout, WATCHDOG_MS);
  let close;
  try {
    close = await client(url, token);
  } catch (error) {
    if (!refusal) throw error;
  }
  if (refusal) return;
  finished = true;
  print({ done: true });
  // The program ends once its connection has closed, or soon after.
  clearTimeout(watchdog);
  setTimeout(() => process.exit(0), CLOSING_MS).unref();
  close();
}

/** Adds details of a refusal. The first call ends the program a moment later. */
export function refused(details) {
  if (finished) return;
  if (refusal) {
    Object.assign(refusal, details);
    return;
  }
  refusal = { ...details };
  setTimeout(() => {
    print({ refused: refusal });
    process.exit(3);
  }, REFUSAL_MS);
}

/** Called when the proxy has accepted the renewed token. */
export let accept;
const accepted = new Promise((resolve) => (accept = resolve));

/** Waits until a renewal is accepted, if there is a token for one, and then does `work`. */
export async function renewal(work) {
  if (!renewToken) return;
  const timer = setTimeout(timeout, RENEWAL_MS);
  await accepted;
  clearTimeout(timer);
  await work();
  print({ renewed: true });
}

function timeout() {
  print({ timeout: true });
  process.exit(4);
}
