// Walks through the demo as a person would, in a real browser.
//
//   node demo.mjs http://127.0.0.1:8080 [folder for screenshots]
//
// Exits 0 when everything was seen, 1 with the first thing that was not. CHROMIUM names the browser where it is not in PATH.

import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const [base, folder] = process.argv.slice(2);
if (!base) {
  console.error('usage: node demo.mjs BASE_URL [SCREENSHOT_FOLDER]');
  process.exit(2);
}
if (folder) mkdirSync(folder, { recursive: true });

const executablePath = process.env.CHROMIUM ?? execFileSync('sh', ['-c', 'command -v chromium || command -v chromium-browser'], { encoding: 'utf8' }).trim();
const browser = await chromium.launch({
  executablePath,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});

const WAIT = 10_000;
let failed = false;
try {
  const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1280, height: 1000 } });
  context.setDefaultTimeout(WAIT);

  const ada = await open(context, 'ada');
  fact(await ada.page.locator('#state').textContent() === 'disconnected', 'a page begins disconnected');
  await shot(ada.page, '1-begin');
  await connect(ada);
  const bob = await open(context, 'bob');
  await connect(bob);

  await say(ada, 'hello from ada');
  await say(bob, 'hello from bob');
  for (const { page, name } of [ada, bob]) {
    for (const from of ['ada', 'bob']) {
      await page.locator('#messages li', { hasText: `hello from ${from}` }).filter({ has: page.locator('.from', { hasText: from }) }).waitFor();
      fact(true, `${name} sees what ${from} said, under that name`);
    }
  }

  for (const { page, name, secrets } of [ada, bob]) {
    const claims = JSON.parse(await page.locator('#context').textContent());
    fact(claims.sub === name, `the backend was told that ${name} is ${claims.sub}`);
    for (const claim of ['iss', 'aud', 'exp', 'jti', 'sid', 'auth']) fact(claim in claims, `the signed context has ${claim}`);
    const headers = await page.locator('#headers').textContent();
    fact(headers.includes('x-user-context'), 'the header list shows the signed context');
    fact(secrets.length > 0 && secrets.every((secret) => !headers.includes(secret)), 'no ticket and no token reached the backend');
    await page.locator('#signature', { hasText: /The signature/ }).waitFor();
    fact(/is good/.test(await page.locator('#signature').textContent()), `the published key verifies it: ${await page.locator('#signature').textContent()}`);
  }
  await shot(ada.page, '2-connected');

  await ada.page.click('#reuse');
  await ada.page.locator('#notice', { hasText: /Refused, as it should be: 403/ }).waitFor();
  fact(true, 'the same ticket does not open a second connection');
  fact(await ada.page.locator('#state').textContent() === 'connected', 'the connection that the ticket opened lives on');
  await shot(ada.page, '3-ticket-used-again');

  await ada.page.click('#no-ticket');
  await ada.page.locator('#notice', { hasText: /Refused, as it should be: 401/ }).waitFor();
  fact(true, 'without a ticket nothing opens');
  await shot(ada.page, '4-without-a-ticket');

  await ada.page.click('#disconnect');
  await ada.page.locator('#state[data-state=disconnected]').waitFor();
  await bob.page.locator('#messages li', { hasText: 'ada left' }).waitFor();
  fact(true, 'leaving is seen by the others');
  await connect(ada);
  fact(true, 'a new ticket connects again');

  await ada.page.click('#disconnect');
  await ada.page.locator('#state[data-state=disconnected]').waitFor();
  await ada.page.click('#connect-live');
  await ada.page.locator('#steps li', { hasText: 'auth_ok' }).waitFor();
  await ada.page.locator('#state[data-state=connected]').waitFor();
  fact(JSON.parse(await ada.page.locator('#context').textContent()).auth.method === 'message', 'the first message opens the door too');
  await ada.page.locator('#steps li', { hasText: 'auth_required in the stream' }).waitFor({ timeout: 20_000 });
  await ada.page.locator('#steps li', { hasText: 'auth_ok' }).nth(1).waitFor();
  await say(ada, 'renewed and still here');
  await bob.page.locator('#messages li', { hasText: 'renewed and still here' }).waitFor();
  fact(true, 'the session was renewed in the stream and goes on');
  await shot(ada.page, '5-renewed');

  await ada.page.emulateMedia({ colorScheme: 'dark' });
  await shot(ada.page, '6-dark');
  await ada.page.setViewportSize({ width: 390, height: 844 });
  fact(await ada.page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), 'a narrow screen needs no sideways scrolling');
  await shot(ada.page, '7-narrow');

  for (const { name, faults } of [ada, bob]) fact(faults.length === 0, `${name}'s page had no faults ${faults.join(' | ')}`);
} catch (error) {
  failed = true;
  console.error(`FAILED  ${error.message}`);
} finally {
  await browser.close();
}
process.exit(failed ? 1 : 0);

async function open(context, name) {
  const page = await context.newPage();
  const visitor = { page, name, faults: [], secrets: [] };
  page.on('pageerror', (error) => visitor.faults.push(error.message));
  page.on('console', (message) => {
    // The browser itself reports each refusal that the walk asks for; what remains is a fault of the page or of its policy.
    if (message.type() === 'error' && !/status of 40[13]|WebSocket connection to/.test(message.text())) visitor.faults.push(message.text());
  });
  page.on('response', async (response) => {
    const body = await response.json().catch(() => null);
    for (const secret of [body?.token, body?.ticket_id]) if (secret) visitor.secrets.push(secret);
  });
  await page.goto(base);
  return visitor;
}

async function connect({ page, name }) {
  if (await page.locator('#connect').isDisabled()) {
    // By keyboard alone: the name has the focus when the page opens.
    await page.keyboard.type(name);
    await page.keyboard.press('Enter');
    await page.locator('#notice', { hasText: `Logged in as ${name}` }).waitFor();
  }
  await page.click('#connect');
  await page.locator('#state[data-state=connected]').waitFor();
  await page.locator('#messages li', { hasText: `You are ${name}` }).first().waitFor();
  fact(true, `${name} is connected by ticket`);
}

async function say({ page }, text) {
  await page.fill('#text', text);
  await page.press('#text', 'Enter');
}

async function shot(page, name) {
  if (folder) await page.screenshot({ path: join(folder, `${name}.png`), fullPage: true });
}

function fact(holds, what) {
  if (!holds) throw new Error(what);
  console.log(`ok  ${what}`);
}
