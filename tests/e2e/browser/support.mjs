// Tools of the browser tests: the demo, an Usher in front of it that can be restarted, a browser, and
// facts.

import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { fact, freePorts, startUsher, stop, until, WAIT } from './process.mjs';

export { fact, freePorts, startUsher, stop, until, WAIT } from './process.mjs';

/** Runs a test: `body(usher binary, folder for screenshots)`. Exits with 0 if every fact holds. */
export async function main(body) {
  const [binary, folder] = process.argv.slice(2);
  if (!binary) {
    console.error(`usage: node ${process.argv[1]} USHER_BINARY [SCREENSHOT_FOLDER]`);
    process.exit(2);
  }
  let status = 0;
  try {
    await body(binary, folder);
  } catch (error) {
    status = 1;
    console.error(`FAILED  ${error.stack}`);
  } finally {
    for (const stop of stops.reverse()) await stop();
  }
  process.exit(status);
}

const stops = [];
export const atEnd = (stop) => stops.push(stop);

export const figure = (what, value) => console.log(`figure  ${what}: ${value}`);

/** Starts `usher demo` on free ports. Returns its addresses and the configuration it printed. */
export async function startDemo(binary) {
  const child = spawn(binary, ['demo', '--port', '0', '--tls-port', '0', '--admin-port', '0'], { stdio: ['ignore', 'pipe', 'ignore'] });
  atEnd(() => stop(child, 'SIGTERM'));
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (part) => (text += part));
  await until(() => text.includes('Stop with Ctrl-C') || child.exitCode !== null, 'the introduction of the demo');
  const url = /TLS +(https:\S+)/.exec(text)?.[1];
  const configuration = text.split(/^usher\.toml.*$/m)[1]?.split(/^Commands/m)[0]?.replace(/^ {4}/gm, '');
  if (!url || !configuration) throw new Error(`the demo printed:\n${text}`);
  return { url, plain: /Open +(http:\S+)/.exec(text)[1], admin: /Admin +(http:\S+)/.exec(text)[1], configuration };
}

/**
 * Starts another Usher in front of the two servers of the demo. It can be killed and started again
 * while they live on. `change` makes its configuration from that of the demo.
 */
export async function startFront(binary, demo, change = (text) => text) {
  const folder = mkdtempSync(join(tmpdir(), 'usher-browser-'));
  atEnd(() => rmSync(folder, { recursive: true, force: true }));
  const ports = await freePorts(3);
  let text = demo.configuration.replace(/^state_dir = .*$/m, `state_dir = ${JSON.stringify(join(folder, 'state'))}`);
  [demo.plain, demo.url, demo.admin].forEach((address, index) => {
    text = text.replaceAll(`:${new URL(address).port}"`, `:${ports[index]}"`);
  });
  // Tests connect more often than the default rates allow.
  text += '\n[tickets]\nrate_per_user = "100000/1m"\nrate_per_address = "100000/1m"\n';
  const file = join(folder, 'usher.toml');
  writeFileSync(file, change(text));
  let child;
  const front = {
    url: `https://localhost:${ports[1]}`,
    async start() {
      child = await startUsher(binary, file, `http://127.0.0.1:${ports[2]}/readyz`);
    },
    stop: (signal) => stop(child, signal),
  };
  atEnd(() => front.stop('SIGKILL'));
  await front.start();
  return front;
}

/** Starts a server that accepts connections and never answers. */
export async function startSilentServer() {
  const sockets = new Set();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  atEnd(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return `http://127.0.0.1:${server.address().port}`;
}

export const find = (names) => execFileSync('sh', ['-c', names.map((name) => `command -v ${name}`).join(' || ')], { encoding: 'utf8' }).trim();

export async function launchChromium() {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? find(['chromium', 'chromium-browser', 'google-chrome']),
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
      // All tabs are in use: none may be slowed down because another one is in front.
      '--disable-background-timer-throttling', '--disable-renderer-backgrounding', '--disable-backgrounding-occluded-windows'],
  });
  atEnd(() => browser.close());
  return browser;
}

export async function newContext(browser, options = {}) {
  const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1280, height: 900 }, ...options });
  context.setDefaultTimeout(WAIT);
  return context;
}

/** Runs a step in which the browser may report refusals to these visitors. */
export async function whileRefused(visitors, step) {
  for (const visitor of visitors) visitor.mayBeRefused = true;
  const result = await step();
  for (const visitor of visitors) visitor.mayBeRefused = false;
  return result;
}

/** One user at one page of the demo. */
export class Visitor {
  constructor(page, host, name) {
    this.page = page;
    this.name = name;
    /** Unexpected lines of the console. */
    this.faults = [];
    /** Set while a test makes the browser report a refusal by this host, or a missing answer. */
    this.mayBeRefused = false;
    /** Tickets, in the order in which sockets were opened with them. */
    this.tickets = [];
    page.on('pageerror', (error) => this.faults.push(error.message));
    page.on('console', (message) => {
      const text = message.text();
      const isRefusal = text.startsWith(`WebSocket connection to 'wss://${host}/ws`)
        || (text.startsWith('Failed to load resource: ') && message.location().url.startsWith(`https://${host}/`));
      if (['error', 'warning'].includes(message.type()) && !(isRefusal && this.mayBeRefused)) this.faults.push(text);
    });
    page.on('websocket', (socket) => {
      const ticket = new URL(socket.url()).searchParams.get('ticket');
      if (ticket) this.tickets.push(ticket);
    });
  }

  static async open(context, url, name) {
    const visitor = new Visitor(await context.newPage(), new URL(url).host, name);
    await visitor.page.goto(`${url}/?as=${name}`);
    return visitor;
  }

  async logIn() {
    await this.page.click('#login');
    await this.page.locator('#login-done', { hasText: `You are ${this.name}` }).waitFor();
    await this.page.evaluate(() => {
      window.states = [usher.client.state];
      usher.client.on('state', ({ state }) => window.states.push(state));
    });
  }

  async connect() {
    await this.page.click('#connect');
    await this.state('authenticated');
  }

  state = (state) => this.page.locator(`#state[data-state=${state}]`).waitFor();
  states = () => this.page.evaluate(() => window.states);
  /** Returns the session that the backend saw last. */
  session = () => this.page.locator('#context div', { hasText: 'sid' }).locator('dd').first().textContent();
  pane = (name = this.name) => this.page.locator(`.pane[data-name=${name}]`);

  /** Waits until the session is another one than `before`, and returns it. */
  async sessionAfter(before) {
    await this.page.waitForFunction((before) => {
      const row = [...document.querySelectorAll('#context div')].find((row) => row.textContent.includes('sid'));
      const isFresh = !document.querySelector('#received').hasAttribute('data-stale');
      return isFresh && row && row.querySelector('dd').textContent !== before;
    }, before);
    return this.session();
  }

  async say(text, name = this.name) {
    await this.pane(name).locator('input').fill(text);
    await this.pane(name).locator('input').press('Enter');
  }

  hears = (text, name = this.name) => this.pane(name).locator('.messages li', { hasText: text }).first().waitFor();
  does = (control) => this.page.click(`#do-${control}`);
  story = (pattern) => this.page.locator('#story', { hasText: pattern }).waitFor();
  logs = (pattern) => this.page.locator('#log li', { hasText: pattern }).first().waitFor({ state: 'attached' });

  isQuiet() {
    fact(this.faults.length === 0, `the console of ${this.name} is empty ${this.faults.join(' | ')}`);
  }
}
