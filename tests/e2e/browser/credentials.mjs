// Opens sockets in a real browser, with a token among the subprotocols and with one in a cookie, and
// reads Usher's endpoints from a page of another origin.
//
//   node credentials.mjs HOST:PORT TOKEN
//
// Usher listens for plain HTTP at HOST:PORT. It accepts a subprotocol at /protocol, a cookie at
// /cookie, and pages of the origin http://localhost. Exits with 0 if every fact holds, and with 1
// after the first that does not. CHROMIUM names the browser if it is not in PATH.

import { execFileSync } from 'node:child_process';
import { chromium } from 'playwright-core';
import { fact } from './process.mjs';

const [base, token] = process.argv.slice(2);
if (!token) {
  console.error('usage: node credentials.mjs HOST:PORT TOKEN');
  process.exit(2);
}

const executablePath = process.env.CHROMIUM ?? execFileSync('sh', ['-c', 'command -v chromium || command -v chromium-browser'], { encoding: 'utf8' }).trim();
const browser = await chromium.launch({
  executablePath,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
    // The pages here have no server, and Chromium keeps such pages from this machine.
    '--disable-features=LocalNetworkAccessChecks,LocalNetworkAccessChecksWebSockets,BlockInsecurePrivateNetworkRequests'],
});

let failed = false;
try {
  const context = await browser.newContext();
  const ours = await pageOf(context, 'http://localhost/');
  const encoded = Buffer.from(token).toString('base64url');

  for (const [what, offers, chosen] of [
    ['the pair alone is answered with its marker', ['bearer', token], 'bearer'],
    ['the pair beside what the upstream does not know too', ['bearer', token, 'chat.v9'], 'bearer'],
    ['the pair beside what the upstream knows', ['echo.v1', 'bearer', token], 'echo.v1'],
    ['one name with the token in it, beside a real one', ['echo.v1', `bearer.${token}`], 'echo.v1'],
    ['the form of Kubernetes, beside a real one', ['echo.v1', `base64url.bearer.authorization.k8s.io.${encoded}`], 'echo.v1'],
    ['one name with the token in it, alone, is not opened by the browser', [`bearer.${token}`], null],
  ]) {
    const got = await open(ours, `ws://${base}/protocol`, offers);
    fact(got.protocol === chosen, `${what}: ${JSON.stringify(got)}`);
  }

  await context.addCookies([
    { name: 'access_token', value: token, domain: 'localhost', path: '/', httpOnly: true, sameSite: 'Strict' },
    { name: 'theme', value: 'dark', domain: 'localhost', path: '/' },
  ]);
  const byCookie = await open(ours, `ws://${base}/cookie`, []);
  fact(byCookie.protocol === '', `our page is let in by its cookie: ${JSON.stringify(byCookie)}`);
  // It is the same site, so the browser sends the cookie. Only the origin differs.
  const evil = await pageOf(context, 'http://localhost:1/');
  const refused = await open(evil, `ws://${base}/cookie`, []);
  fact(refused.protocol === null, `a page of another origin is not, with the same cookie: ${JSON.stringify(refused)}`);

  // No route takes tickets. The page may still read which methods its route takes.
  const off = await read(ours, `http://${base}/websocket/ticket`, { method: 'POST', body: '{"route":"/protocol"}', headers: { 'Content-Type': 'application/json' } });
  fact(off.status === 404 && off.json.code === 'TICKETS_OFF' && off.json.methods.join() === 'subprotocol', `our page reads that its route takes no tickets: ${JSON.stringify(off)}`);
  const config = await read(ours, `http://${base}/websocket/config?route=/protocol`, {});
  fact(config.status === 200 && config.json.method === 'subprotocol', `our page reads which method its route takes: ${JSON.stringify(config)}`);
  const blind = await read(evil, `http://${base}/websocket/config?route=/protocol`, {});
  fact(blind.failed, `a page of another origin cannot: ${JSON.stringify(blind)}`);
} catch (error) {
  failed = true;
  console.error(`FAILED  ${error.message}`);
} finally {
  await browser.close();
}
process.exit(failed ? 1 : 0);

// Opens an empty page of this origin without a request over the network.
async function pageOf(context, url) {
  const page = await context.newPage();
  await page.route(url, (route) => route.fulfill({ contentType: 'text/html', body: '<!doctype html><title>page</title>' }));
  await page.goto(url);
  return page;
}

// Resolves with the chosen subprotocol after an echo, or with null if the browser opened no socket.
async function open(page, url, offers) {
  return page.evaluate(([url, offers]) => new Promise((resolve) => {
    const socket = new WebSocket(url, offers);
    socket.onopen = () => socket.send('hello');
    socket.onmessage = () => { const protocol = socket.protocol; socket.onclose = () => resolve({ protocol }); socket.close(); };
    socket.onclose = ({ code }) => resolve({ protocol: null, code });
  }), [url, offers]);
}

// Returns what the page can read of an answer.
async function read(page, url, options) {
  return page.evaluate(([url, options]) => fetch(url, options)
    .then(async (answer) => ({ status: answer.status, json: await answer.json() }), (error) => ({ failed: String(error) })), [url, options]);
}
