// The React example of `clients/js` behind a real Usher, and the recipes of its README that need
// one.

import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { atEnd, fact, figure, freePorts, launchChromium, main, newContext, startUsher, stop, until, WAIT } from './support.mjs';

const library = fileURLToPath(new URL('../../../clients/js/', import.meta.url));
const example = join(library, 'examples/react');
const readme = readFileSync(join(library, 'README.md'), 'utf8');
const secret = 'a secret of at least thirty-two bytes, for the tests';

await main(async (binary, folder) => {
  execFileSync('node', [join(example, 'build.mjs')]);
  const [port, adminPort, chatPort] = await freePorts(3);
  const origin = `http://127.0.0.1:${port}`;
  const chat = await startChat(chatPort, origin);
  const usher = await startExample(binary, { 8080: port, 9000: chatPort, 9090: adminPort });
  /** Returns the sum over all lines of a metric, or over the lines that contain `label`. */
  const metric = async (name, label = '') => {
    const text = await (await fetch(`http://127.0.0.1:${adminPort}/metrics`)).text();
    const lines = text.split('\n').filter((line) => line.startsWith(`${name}{`) && line.includes(label));
    return lines.reduce((sum, line) => sum + Number(line.split(' ').pop()), 0);
  };
  const sessions = () => metric('usher_sessions_active');

  const context = await newContext(await launchChromium());
  const page = await context.newPage();
  const faults = [];
  page.on('pageerror', (error) => faults.push(error.message));
  let sockets = 0;
  page.on('websocket', () => sockets++);
  const shows = (text) => page.locator('[role=status]', { hasText: text }).waitFor();
  const input = page.getByLabel('Message');
  const say = async (text) => {
    await input.fill(text);
    await input.press('Enter');
    await page.locator('li', { hasText: text }).waitFor();
  };

  // The ticket is held back while the page is checked.
  let handOver;
  let tickets = 0;
  const isHandedOver = new Promise((resolve) => (handOver = resolve));
  await page.route('**/websocket/ticket', async (route) => {
    tickets++;
    await isHandedOver;
    await route.continue();
  });
  await page.goto(origin);
  await page.getByLabel('Your name').fill('ada');
  await page.getByRole('button', { name: 'Log in' }).click();
  await shows('Connecting…');
  fact(await input.isDisabled(), 'nobody can write while the page connects');
  if (folder) await page.screenshot({ path: join(folder, 'example-connecting.png') });
  handOver();
  await shows('Connected');
  fact(await input.isEnabled(), 'the input opens when the user is authenticated');
  fact(sockets === 1 && tickets === 1, 'under StrictMode the page asked for one ticket and opened one socket');
  fact((await sessions()) === 1, 'Usher has one open session');
  fact((await metric('usher_upgrades_total')) === 1, 'and had no other upgrade');

  await say('hello');
  fact((await page.locator('li').textContent()) === 'ada hello', 'the chat answers with the name of the signed header');
  if (folder) await page.screenshot({ path: join(folder, 'example-connected.png') });

  // The token ends after 20 seconds, and Usher asks for another one after 10.
  await until(async () => (await metric('usher_reauth_total', 'outcome="renewed"')) > 0, 'a renewal');
  await say('still here');
  fact(sockets === 1 && (await sessions()) === 1, 'the session is renewed in its stream');

  await chat.stop();
  await shows('Reconnecting…');
  fact(await input.isDisabled(), 'nobody can write while the backend is away');
  let began = Date.now();
  await chat.start();
  await shows('Connected');
  figure('connected again after the backend came back', `${Date.now() - began} ms`);
  await say('hello again');
  fact((await sessions()) === 1, 'one session after the backend came back');

  await usher.stop('SIGKILL');
  await shows('Reconnecting…');
  began = Date.now();
  await usher.start();
  await shows('Connected');
  figure('connected again after Usher came back', `${Date.now() - began} ms`);
  await say('and again');
  fact((await sessions()) === 1, 'one session after a lost connection');

  await page.getByRole('button', { name: 'Leave' }).click();
  await until(async () => (await sessions()) === 0, 'the session ends with the page of the chat');
  fact(true, 'leaving closes the session');
  fact(faults.length === 0, `the page is without errors ${faults.join(' | ')}`);

  await plainPage(context, origin);
  await nodeRecipe(context, origin);
});

/** Starts the server of the example on a port of its own. */
async function startChat(port, origin) {
  const environment = { ...process.env, PORT: port, USHER_URL: origin, CHAT_SECRET: secret, TOKEN_SECONDS: '20' };
  let child;
  const chat = {
    async start() {
      child = spawn('node', [join(example, 'server.mjs')], { env: environment, stdio: ['ignore', 'pipe', 'inherit'] });
      await new Promise((resolve, reject) => {
        child.stdout.once('data', resolve);
        child.once('exit', () => reject(new Error('the chat ended')));
      });
    },
    stop: () => stop(child, 'SIGKILL'),
  };
  atEnd(() => chat.stop());
  await chat.start();
  return chat;
}

/** Starts Usher with the configuration of the example, on other ports. */
async function startExample(binary, ports) {
  const folder = mkdtempSync(join(tmpdir(), 'usher-example-'));
  atEnd(() => rmSync(folder, { recursive: true, force: true }));
  let text = readFileSync(join(example, 'usher.toml'), 'utf8');
  for (const [written, port] of Object.entries(ports)) text = text.replaceAll(`:${written}"`, `:${port}"`);
  writeFileSync(join(folder, 'usher.toml'), text);
  let child;
  const usher = {
    async start() {
      const options = { cwd: folder, env: { ...process.env, CHAT_SECRET: secret } };
      child = await startUsher(resolve(binary), 'usher.toml', `http://127.0.0.1:${ports[9090]}/readyz`, options);
    },
    stop: (signal = 'SIGTERM') => stop(child, signal),
  };
  atEnd(() => usher.stop('SIGKILL'));
  await usher.start();
  return usher;
}

/** Runs the page without a build exactly as README shows it. */
async function plainPage(context, origin) {
  const [, html] = /```html\n([\s\S]*?)```/.exec(readme);
  const page = await context.newPage();
  await page.route('**/usher-client.js', (route) => route.fulfill({ path: join(library, 'dist/index.js') }));
  await page.goto(origin);
  await page.evaluate(() => fetch('/api/login', { method: 'POST', body: '{"name":"bob"}' }));
  await page.setContent(html);
  await page.locator('#state', { hasText: 'authenticated' }).waitFor();
  fact(await page.locator('#hello').isEnabled(), 'the page of the README connects');
  await page.click('#hello');
  await page.locator('#lines li', { hasText: '"from":"bob","text":"hello"' }).waitFor();
  await page.close();
}

/** Runs the program for Node with `ws` exactly as README shows it. */
async function nodeRecipe(context, origin) {
  const [, code] = /```ts\n(\/\/ node\.ts\n[\s\S]*?)```/.exec(readme);
  const page = await context.newPage();
  await page.goto(origin);
  const token = await page.evaluate(async () => (await (await fetch('/api/token', { method: 'POST' })).json()).access_token);
  writeFileSync(join(example, 'dist/node.ts'), code);
  const entry = join(example, 'dist/node.mjs');
  const { build } = await import(join(library, 'node_modules/esbuild/lib/main.js'));
  await build({ entryPoints: [join(example, 'dist/node.ts')], outfile: entry, format: 'esm' });
  const environment = { ...process.env, CHAT_URL: `${origin.replace('http', 'ws')}/ws`, CHAT_TOKEN: token };
  const said = execFileSync('node', [entry], { env: environment, timeout: WAIT, encoding: 'utf8' });
  fact(said.includes('"from":"bob","text":"hello from Node"'), 'the program of the README connects');
}
