// The pictures of the admin page in docs/images: an Usher under the load of real clients for as long
// as its charts show, with a server of its upstream that fails at the end.
//
//   node admin-pictures.mjs USHER_BINARY FOLDER [MINUTES]

import { generateKeyPairSync } from 'node:crypto';
import { mkdirSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ADMIN_TOKEN, mint, openClient, startWorld } from './admin-world.mjs';
import { atEnd, fact, launchChromium, main, newContext } from './support.mjs';

const LARGEST = 150_000;
const USERS = ['ada', 'alan', 'barbara', 'claude', 'donald', 'edsger', 'frances', 'grace', 'hedy', 'john', 'katherine', 'ken', 'linus', 'margaret', 'radia', 'shafi'];

/** Starts an issuer that publishes one key. */
async function startKeys() {
  const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const keys = JSON.stringify({ keys: [{ ...publicKey.export({ format: 'jwk' }), kid: 'k1', alg: 'ES256' }] });
  const server = createServer((_, answer) => answer.setHeader('Content-Type', 'application/json').end(keys));
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  atEnd(() => server.close());
  return `http://127.0.0.1:${server.address().port}/keys`;
}

const one = (list) => list[Math.floor(Math.random() * list.length)];

/** Clients that come, talk and go. */
class Clients {
  constructor(world) {
    this.world = world;
    this.open = new Set();
  }

  /** Lets a quarter of a second pass: it has `minute` minutes behind it. */
  async tick(minute) {
    const wanted = Math.round(170 + 9 * minute + 35 * Math.sin(minute / 1.7) - (minute > 6 && minute < 7.5 ? 70 : 0));
    const missing = Math.min(8, Math.max(0, wanted - this.open.size));
    const come = Array.from({ length: missing }, () => this.come());
    for (const client of this.open) {
      if (Math.random() < 0.08) client.send(Math.random() < 0.1 ? 'x'.repeat(120) : 'hello');
      if (Math.random() < (this.open.size > wanted ? 0.02 : 0.002)) client.close();
    }
    if (Math.random() < (minute > 9 && minute < 10.5 ? 0.9 : 0.06)) come.push(this.fail());
    await Promise.all(come);
  }

  async come() {
    const user = one(USERS);
    const luck = Math.random();
    const ticket = luck < 0.75 && await this.ticket(user).catch(() => null);
    const how = ticket ? { path: `/ws?ticket=${ticket}`, authorization: null }
      : luck < 0.95 ? { user } : { path: `/ws?access_token=${mint(user)}`, authorization: null };
    const client = await openClient(this.world.port, how).catch(() => null);
    if (client?.status !== 101) return;
    this.open.add(client);
    client.ended.then(() => this.open.delete(client));
  }

  async ticket(user) {
    const answer = await fetch(`http://127.0.0.1:${this.world.port}/websocket/ticket`, { method: 'POST', headers: { Authorization: `Bearer ${mint(user)}` } });
    return (await answer.json()).ticket_id;
  }

  /** A client that is refused. */
  fail() {
    const how = one([{ authorization: 'Bearer wrong' }, { authorization: `Bearer ${mint('ada', -60)}` }, { authorization: 'Bearer wrong' }, { authorization: null },
      { path: '/ws?ticket=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA', authorization: null }, { path: '/sw', user: 'ada' }]);
    return openClient(this.world.port, how).catch(() => null);
  }
}

/** Takes a picture of the top of the page, as WebP. */
async function shoot(browser, world, file, options) {
  const context = await newContext(browser, { reducedMotion: 'reduce', locale: 'en-GB', ...options });
  const page = await context.newPage();
  await page.goto(world.url);
  await page.fill('#token', ADMIN_TOKEN);
  await page.keyboard.press('Enter');
  await page.locator('#attention', { hasText: /./ }).waitFor();
  await page.locator('.chart .line').first().waitFor({ state: 'attached' });
  await page.evaluate(() => document.activeElement.blur());
  const session = await context.newCDPSession(page);
  const { data } = await session.send('Page.captureScreenshot', { format: 'webp', quality: 92 });
  writeFileSync(file, Buffer.from(data, 'base64'));
  const { size } = statSync(file);
  fact(size < LARGEST, `${file} has ${size} bytes`);
  await context.close();
}

await main(async (binary, folder = 'docs/images') => {
  const minutes = Number(process.argv[4] ?? 15);
  const keys = await startKeys();
  const world = await startWorld(binary, { servers: 3, tables: `
[[issuer]]
name = "accounts"
issuer = "https://accounts.example.com"
audience = ["chat"]
algorithms = ["ES256"]
jwks_url = "${keys}"
[tickets]
rate_per_user = "100000/1m"
rate_per_address = "100000/1m"
` });
  const clients = new Clients(world);
  const end = Date.now() + minutes * 60_000;
  const failure = end - 60_000;
  let hasFailed = false;
  while (Date.now() < end) {
    const left = (end - Date.now()) / 60_000;
    await clients.tick(minutes - left);
    if (Date.now() > failure && !hasFailed) {
      hasFailed = true;
      world.upstreams.at(-1).stop();
    }
    await sleep(250);
  }
  mkdirSync(folder, { recursive: true });
  const browser = await launchChromium();
  const live = setInterval(() => clients.tick(minutes), 250);
  atEnd(() => clearInterval(live));
  await shoot(browser, world, join(folder, 'admin-page.webp'), { colorScheme: 'light', viewport: { width: 1280, height: 1000 } });
  await shoot(browser, world, join(folder, 'admin-page-phone.webp'), { colorScheme: 'dark', viewport: { width: 360, height: 780 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true });
});
