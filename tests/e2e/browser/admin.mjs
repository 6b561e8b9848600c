// The admin page in Chromium: login, figures under real clients, revocation, refused orders, hostile
// names, faults, both themes and two widths.
//
//   node admin.mjs USHER_BINARY SCREENSHOT_FOLDER

import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { ADMIN_TOKEN, mint, openClient, startWorld } from './admin-world.mjs';
import { atEnd, fact, launchChromium, main, newContext, until } from './support.mjs';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const HOSTILE = '<img src=x onerror="window.pwned=1">';

await main(async (binary, folder) => {
  if (folder) mkdirSync(folder, { recursive: true });
  const world = await startWorld(binary);
  const browser = await launchChromium();
  const operator = await open(browser, world.url);
  await logsIn(operator, world);
  await showsFigures(operator, world);
  await revokes(operator, world);
  await explains(operator, world);
  await refusesOtherPages(operator, world);
  await looksRight(browser, world, operator, folder);
  await drains(operator, world);
  await outlivesARestart(operator, world);
  await withoutAToken(browser, binary);
});

/** Opens the page. Nothing may be reported on the console, except refusals that a test expects. */
async function open(browser, url, options = {}) {
  const context = await newContext(browser, options);
  await context.addInitScript(() => {
    window.violations = [];
    document.addEventListener('securitypolicyviolation', (event) => window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
  });
  const page = await context.newPage();
  const faults = [];
  page.on('pageerror', (error) => faults.push(error.message));
  page.on('console', (message) => {
    const isRefusal = message.text().startsWith('Failed to load resource');
    if (['error', 'warning'].includes(message.type()) && !isRefusal) faults.push(message.text());
  });
  await page.goto(url);
  const isQuiet = async (where) => {
    fact(faults.length === 0, `the console has no error: ${where} ${faults.join(' | ')}`);
    const violations = await page.evaluate(() => window.violations);
    fact(violations.length === 0, `the content security policy is kept: ${where} ${violations.join(' | ')}`);
  };
  return { context, page, isQuiet };
}

async function logIn(page) {
  await page.fill('#token', ADMIN_TOKEN);
  await page.keyboard.press('Enter');
  await page.locator('#main:visible').waitFor();
}

async function logsIn({ context, page, isQuiet }, world) {
  await page.locator('#login:visible').waitFor();
  fact(await page.evaluate(() => document.activeElement.id) === 'token', 'the token has the focus');
  await page.fill('#token', 'wrong');
  await page.click('#login-form button');
  await page.locator('#login-fault', { hasText: 'The admin token is wrong.' }).waitFor();
  fact(await page.locator('#main').isHidden() && (await context.cookies()).length === 0, 'a wrong token gets no figures and no cookie');
  await logIn(page);
  const [cookie, ...others] = await context.cookies();
  fact(others.length === 0 && cookie.httpOnly && cookie.sameSite === 'Strict' && cookie.path === '/', `the cookie is HttpOnly and SameSite=Strict: ${cookie.name}`);
  fact(!JSON.stringify(cookie).includes(ADMIN_TOKEN) && await page.evaluate(() => document.cookie) === '', 'the cookie has no token, and no script can read it');
  fact(!page.url().includes('?'), 'the address has no token');
  await page.reload();
  await page.locator('#main:visible').waitFor();
  fact(await page.locator('#node').textContent().then((text) => text.startsWith('edge-1')), 'a reload of the page needs no new login');
  await isQuiet('after the login');
  const wrong = (token) => fetch(`${world.url}/login`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ token }) });
  const limited = await until(async () => {
    const answer = await wrong('guess');
    return answer.status === 429 && answer;
  }, 'wrong tokens are limited');
  const bearer = (token) => fetch(`${world.url}/status`, { headers: { Authorization: `Bearer ${token}` } }).then((answer) => answer.status);
  fact(Number(limited.headers.get('retry-after')) > 0 && await bearer('guess') === 429 && await bearer(ADMIN_TOKEN) === 200, 'wrong bearer tokens share the limit, and the right one is not limited');
  const metrics = await fetch(`${world.url}/metrics`, { headers: { Authorization: `Bearer ${ADMIN_TOKEN}` } }).then((answer) => answer.text());
  fact(/usher_admin_logins_total\{outcome="wrong_token"\} \d/.test(metrics) && metrics.includes('usher_admin_logins_open 1'), 'the metrics count logins');
}

function card(page, title) {
  return page.locator('.chart', { has: page.locator('figcaption', { hasText: title }) });
}

async function showsFigures({ page, isQuiet }, world) {
  const client = (user, more) => openClient(world.port, { user, ...more });
  world.clients = { ada: await client('ada'), second: await client('ada'), hostile: await client(HOSTILE), bob: await client('bob', { path: '/ws' }) };
  await page.locator('#sessions-by', { hasText: '4 sessions open' }).waitFor();
  await page.locator('.chart .value', { hasText: /^4/ }).first().waitFor();
  fact(true, 'the open sessions appear');
  const talk = setInterval(() => world.clients.ada.send('hello'), 50);
  atEnd(() => clearInterval(talk));
  await until(async () => /^[1-9]/.test(await card(page, 'Messages').locator('.value').textContent()), 'messages per second of a live session');
  fact(true, 'the messages of live sessions move the chart');
  for (let n = 0; n < 3; n++) fact((await openClient(world.port, { authorization: 'Bearer wrong' })).status === 401, 'a wrong token of a client is refused');
  fact((await openClient(world.port, { user: 'ada', path: '/away' })).status === 502, 'the upstream is away');
  await page.locator('#refusals tr', { hasText: 'invalid token' }).locator('td', { hasText: /^3$/ }).first().waitFor();
  await page.locator('#refusals tr', { hasText: 'upstream unavailable' }).locator('.badge', { hasText: 'upstream' }).waitFor();
  await page.locator('#attention', { hasText: 'refused in the last minute: upstream unavailable' }).waitFor();
  fact(true, 'refusals appear by reason and side, and the fault of the upstream needs attention');
  await page.locator('#certificates', { hasText: 'cert.pem' }).locator('.badge', { hasText: 'valid' }).waitFor();
  await page.locator('#migration', { hasText: 'ticket 25 %' }).waitFor();
  await page.locator('#services', { hasText: 'chat: http://127.0.0.1' }).waitFor();
  await readsAChartByKeyboard(page);
  await isQuiet('with figures');
}

async function readsAChartByKeyboard(page) {
  const chart = card(page, 'Open sessions');
  await chart.locator('svg').focus();
  await page.keyboard.press('ArrowLeft');
  await chart.locator('.read', { hasText: /: [0-9]/ }).waitFor();
  await page.keyboard.press('Escape');
  await chart.locator('summary').focus();
  await page.keyboard.press('Enter');
  await chart.locator('tbody tr').first().waitFor();
  await page.keyboard.press('Enter');
  fact(/now sessions 4; lowest/.test(await chart.locator('svg').getAttribute('aria-label')), 'a chart has its figures as text, by arrow keys and as a table');
}

async function revokes({ page, isQuiet }, { clients }) {
  await page.fill('#user', HOSTILE);
  await page.keyboard.press('Enter');
  const row = page.locator('#found tbody tr');
  await row.waitFor();
  fact(await row.locator('td').first().textContent() === HOSTILE, 'a hostile name stands in the list as text');
  await page.click('#revoke-user');
  fact(await page.locator('#confirm-title').textContent() === `Revoke ${HOSTILE}?`, 'and in the question');
  await page.keyboard.press('Escape');
  await page.locator('#confirm').waitFor({ state: 'hidden' });
  fact(await page.locator('img').count() === 1 && await page.evaluate(() => window.pwned) === undefined, 'no markup of a name runs');

  await page.fill('#user', 'ada');
  await page.keyboard.press('Enter');
  await page.locator('#found caption', { hasText: '2 sessions' }).waitFor();
  await row.first().locator('button').click();
  await page.click('#confirm-yes');
  await page.locator('#notice', { hasText: '1 session closed' }).waitFor();
  await page.locator('#found caption', { hasText: '1 session,' }).waitFor();
  const code = await Promise.race([clients.ada.ended, clients.second.ended]);
  fact(code >= 1000, `one session of two is closed, with a close frame: ${code}`);
  await page.click('#revoke-user');
  await page.locator('#confirm[open]').waitFor();
  fact(await page.evaluate(() => document.activeElement.value) === 'cancel', 'the question has the focus on cancel');
  await page.click('#confirm-yes');
  await page.locator('#found', { hasText: 'ada has no open session.' }).waitFor();
  fact(await clients.ada.ended >= 1000 && await clients.second.ended >= 1000, 'the user has no session any more');
  await page.fill('#user', '');
  await lists(page, '2 sessions,');
  fact(true, 'others keep their sessions, and an empty search lists them');
  await isQuiet('after revocations');
}

/** The page and the command give the same answer, besides what only the running process has. */
async function explains({ page, isQuiet }, world) {
  const url = `ws://127.0.0.1:${world.port}/ws`;
  const explain = async (kind, secret) => {
    await page.fill('#explain-url', url);
    await page.selectOption('#explain-kind', kind);
    await page.fill('#explain-secret', secret);
    const answered = page.waitForResponse('**/explain');
    await page.click('#explain button[type=submit]');
    const answer = await (await answered).json();
    await page.locator('#explained .steps li').nth(answer.steps.length - 1).waitFor();
    return answer;
  };
  const asked = (file) => spawnSync(world.binary, ['explain', url, '-c', world.file, '--token-file', file, '--json'], { env: world.env, encoding: 'utf8' });
  for (const [token, title, code] of [[mint('bob'), 'Let in', null], ['not a token', 'Refused', 'INVALID_TOKEN']]) {
    const file = join(world.folder, 'token');
    writeFileSync(file, token);
    const command = JSON.parse(asked(file).stdout);
    const answer = await explain('token', token);
    // The words have relative times, so they may differ by a second.
    const verdict = ({ verdict: { let_in: isIn, status, code, user, issuer, expires_at: end } }) => JSON.stringify([isIn, status, code, user, issuer, end]);
    fact(answer.verdict.code === code && verdict(answer) === verdict(command), `the verdict of the page is that of the command: ${title}`);
    const steps = ({ steps }) => JSON.stringify(steps.filter(({ name }) => name !== 'revocation').map(({ name, result }) => [name, result]));
    fact(steps(answer) === steps(command), 'and so is each check');
    await page.locator('#explained .verdict', { hasText: title }).waitFor();
    fact(!(await page.content()).includes(token.split('.')[1] ?? token), 'the token is not on the page');
  }
  const revoked = await explain('token', mint('ada'));
  fact(revoked.verdict.code === 'REVOKED', 'the deny list of the process counts');

  const issued = await fetch(`http://127.0.0.1:${world.port}/websocket/ticket`, { method: 'POST', headers: { Authorization: `Bearer ${mint('tick')}` } }).then((answer) => answer.json());
  for (let round = 0; round < 2; round++) fact((await explain('ticket', issued.ticket_id)).verdict.let_in === true, 'a ticket in memory is judged');
  const client = await openClient(world.port, { path: `/ws?ticket=${issued.ticket_id}`, authorization: '' });
  fact(client.status === 101, 'and an explanation does not redeem it');
  client.close();
  const metrics = await fetch(`${world.url}/metrics`, { headers: { Authorization: `Bearer ${ADMIN_TOKEN}` } }).then((answer) => answer.text());
  const rolledOut = [...metrics.matchAll(/usher_rollout_upgrades_total\{[^}]*\} (\d+)/g)].reduce((sum, [, one]) => sum + Number(one), 0);
  fact(rolledOut === 5, `the five upgrades of real clients are counted, and no explanation: ${rolledOut}`);
  await page.fill('#explain-url', 'chat.example.com');
  await page.click('#explain button[type=submit]');
  await page.locator('#explained .fault', { hasText: 'has no scheme' }).waitFor();
  await page.fill('#explain-url', url);
  await page.selectOption('#explain-kind', 'token');
  await page.fill('#explain-secret', mint('bob'));
  await page.click('#explain button[type=submit]');
  await page.locator('#explained .verdict', { hasText: 'Let in' }).waitFor();
  await isQuiet('after explanations');
}

/** Searches until the list has this caption: the close handshakes of revoked sessions take a moment. */
function lists(page, caption) {
  return until(async () => {
    await page.click('#search button');
    return page.locator('#found caption', { hasText: caption }).waitFor({ timeout: 3000 }).then(() => true, () => false);
  }, `${caption} in the list`);
}

/** Another page on the same machine, so of the same site: the browser sends it the cookie. */
async function refusesOtherPages({ context, isQuiet }, world) {
  const server = createServer((request, answer) => answer.setHeader('Content-Type', 'text/html').end('<title>another page</title>'));
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  atEnd(() => server.close());
  const page = await context.newPage();
  await page.goto(`http://127.0.0.1:${server.address().port}`);
  // The page itself does not see the answers.
  const network = await context.newCDPSession(page);
  const statuses = [];
  const asked = new Set();
  network.on('Network.requestWillBeSent', ({ requestId, request }) => request.url.startsWith(world.url) && asked.add(requestId));
  network.on('Network.responseReceivedExtraInfo', ({ requestId, statusCode }) => asked.has(requestId) && statuses.push(statusCode));
  await network.send('Network.enable');
  const result = await page.evaluate(async (url) => {
    const ask = (path, options) => fetch(url + path, { credentials: 'include', ...options }).then((answer) => answer.type, (error) => error.name);
    const json = { method: 'POST', body: '{"user":"bob"}', headers: { 'Content-Type': 'application/json' } };
    return [await ask('/status'), await ask('/status', { mode: 'no-cors' }), await ask('/revoke', json), await ask('/revoke', { method: 'POST', mode: 'no-cors', body: '{"user":"bob"}' })];
  }, world.url);
  fact(result.every((type) => type === 'TypeError' || type === 'opaque'), `another page reads nothing: ${result}`);
  await until(() => statuses.length >= 3, 'the answers to another page');
  // A preflight has no cookie.
  fact(statuses.every((status) => [401, 403].includes(status)), `every request of another page is refused: ${statuses}`);
  await page.close();
  const [cookie] = await context.cookies(world.url);
  const order = (headers, body = '{"user":"bob"}') => fetch(`${world.url}/revoke`, { method: 'POST', headers: { Cookie: `${cookie.name}=${cookie.value}`, ...headers }, body }).then((answer) => answer.status);
  const json = { 'Content-Type': 'application/json' };
  const own = { Origin: world.url };
  const form = { 'Content-Type': 'application/x-www-form-urlencoded' };
  fact(await order({ ...json, Origin: 'https://evil.example' }) === 403, 'an order with a foreign Origin is refused');
  fact(await order(json) === 403, 'an order with the cookie and without an Origin is refused');
  fact(await order({ ...form, ...own }, 'user=bob') === 415, 'an order as a form is refused');
  const rebound = await fetch(`${world.url}/status`, { headers: { Host: 'rebound.example', Cookie: `${cookie.name}=made-up` } });
  fact(rebound.status === 401, 'a made-up cookie is refused');
  const list = await fetch(`${world.url}/sessions?user=bob`, { headers: { Authorization: `Bearer ${ADMIN_TOKEN}` } }).then((answer) => answer.json());
  fact(list.total === 1, 'the session is still there');
  await isQuiet('after refused orders');
}

async function looksRight(browser, world, { context: from }, folder) {
  const cookies = await from.cookies();
  for (const theme of ['light', 'dark']) {
    for (const [size, width] of [['phone', 360], ['wide', 1280]]) {
      const where = `${theme}, ${width} px`;
      const { context, page, isQuiet } = await open(browser, world.url, { colorScheme: theme, viewport: { width, height: 800 }, hasTouch: size === 'phone', isMobile: size === 'phone', reducedMotion: 'reduce' });
      await page.locator('#login:visible').waitFor();
      await shoot(page, folder, `admin-login-${theme}-${size}`);
      await hasNoFinding(page, `login, ${where}`);
      await context.addCookies(cookies);
      await page.reload();
      await page.locator('#attention', { hasText: /./ }).waitFor();
      await page.fill('#user', '');
      await lists(page, '2 sessions,');
      await page.fill('#explain-url', `ws://127.0.0.1:${world.port}/ws`);
      await page.click('#explain button[type=submit]');
      await page.locator('#explained .verdict').waitFor();
      await page.locator('.chart .line').first().waitFor({ state: 'attached' });
      const [inner, whole] = await page.evaluate(() => [innerWidth, document.documentElement.scrollWidth]);
      fact(whole <= inner, `nothing is wider than the screen: ${where}: ${whole} of ${inner} px`);
      const small = await page.evaluate(() => [...document.querySelectorAll('main#main button, main#main input')].filter((one) => one.type !== 'checkbox' && one.checkVisibility({ contentVisibilityAuto: true }) && one.offsetHeight < 32).map((one) => one.outerHTML));
      fact(small.length === 0, `every button is large enough for a thumb: ${where} ${small}`);
      await shoot(page, folder, `admin-${theme}-${size}`);
      await hasNoFinding(page, `figures, ${where}`);
      await page.click('#stop');
      await page.locator('#confirm[open]').waitFor();
      await shoot(page, folder, `admin-confirm-${theme}-${size}`, false);
      await hasNoFinding(page, `question, ${where}`);
      await isQuiet(where);
      await context.close();
    }
  }
}

async function shoot(page, folder, name, fullPage = true) {
  await page.evaluate(() => scrollTo({ top: 0, behavior: 'instant' }));
  if (folder) await page.screenshot({ path: join(folder, `${name}.png`), fullPage, animations: 'disabled' });
}

/** The policy of the page allows no foreign script in the page: the tool's own world is not under it. */
async function hasNoFinding(page, where) {
  const session = await page.context().newCDPSession(page);
  const { frameTree } = await session.send('Page.getFrameTree');
  const { executionContextId } = await session.send('Page.createIsolatedWorld', { frameId: frameTree.frame.id, grantUniveralAccess: true });
  const run = (expression) => session.send('Runtime.evaluate', { contextId: executionContextId, expression, awaitPromise: true, returnByValue: true });
  await run(axe);
  const { result } = await run(`axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) => violations.map(({ id, nodes }) => id + ': ' + nodes.map(({ html, failureSummary }) => html.slice(0, 120) + ' ' + failureSummary).join('; ')))`);
  await session.detach();
  fact(Array.isArray(result.value) && result.value.length === 0, `axe has no finding: ${where} ${(result.value ?? [result.description]).join('\n')}`);
}

async function drains({ page, isQuiet }, { clients }) {
  await page.click('#stop');
  await page.click('#confirm button[value=cancel]');
  await page.locator('#confirm').waitFor({ state: 'hidden' });
  fact(await page.locator('#stage').textContent() === 'ready', 'cancel changes nothing');
  await page.click('#reload');
  await page.locator('#steered', { hasText: 'Applied.' }).waitFor();
  await page.click('#close-share');
  await page.fill('#percent', '100');
  await page.click('#confirm-yes');
  await page.locator('#steered', { hasText: 'Closing 2 of 2 sessions' }).waitFor();
  fact(await clients.bob.ended === 1001 && await clients.hostile.ended === 1001, 'a closed share ends with 1001, and the node stays');
  await isQuiet('after a reload and a closed share');
}

async function outlivesARestart({ page }, world) {
  await page.route('**/history', () => {});
  await page.locator('#notice', { hasText: 'Usher does not answer' }).waitFor();
  fact(await page.locator('body[data-stale]').count() === 1, 'an Usher that accepts and never answers is reported');
  await page.unroute('**/history');
  await page.locator('body:not([data-stale])').waitFor();
  await world.stop();
  await page.locator('#notice', { hasText: 'Usher does not answer' }).waitFor();
  fact(await page.locator('body[data-stale]').count() === 1, 'without an answer the page says that its figures are old');
  await world.start();
  await page.locator('#login:visible').waitFor();
  fact(await page.locator('#found').textContent() === '' && await page.locator('#notice').isHidden(), 'a new process asks for a login, and no old figure stays');
  await logIn(page);
  await page.locator('.chart .line').first().waitFor({ state: 'attached' });
  let answerLate;
  const late = new Promise((resolve) => { answerLate = resolve; });
  await new Promise((isAsked) => {
    page.route('**/status', async (route) => {
      const response = await route.fetch();
      isAsked();
      await late;
      await route.fulfill({ response });
    }, { times: 1 });
  });
  await page.click('#logout');
  await page.locator('#login:visible').waitFor();
  const answered = page.waitForResponse('**/status');
  answerLate();
  await answered;
  await page.evaluate(() => new Promise((resolve) => setTimeout(resolve, 200)));
  fact(await page.locator('#login').isVisible() && await page.locator('#facts').textContent() === '' && await page.locator('.chart .line').count() === 0, 'an answer that comes after the logout is not shown, and no chart stays');
  const code = await page.evaluate(() => fetch('/status').then((answer) => answer.status));
  fact(code === 401, 'after the logout the cookie opens nothing');
  await logIn(page);
  await page.click('#stop');
  await page.click('#confirm-yes');
  await page.locator('#notice', { hasText: 'Usher does not answer' }).waitFor();
  fact(true, 'drain and stop ends the process');
}

async function withoutAToken(browser, binary) {
  const world = await startWorld(binary, { token: false });
  const { page, isQuiet } = await open(browser, world.url);
  await page.locator('#main:visible').waitFor();
  fact(await page.locator('#logout').isHidden(), 'without a token there is no login and no logout');
  await page.locator('#attention', { hasText: 'Nothing needs attention.' }).waitFor();
  await page.locator('#refusals', { hasText: 'No upgrade and no ticket was refused.' }).waitFor();
  fact(true, 'empty blocks say so');
  await isQuiet('without a token');
}
