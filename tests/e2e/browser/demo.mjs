// Uses the demo as two users would, over wss:// in Chromium.
//
//   node demo.mjs USHER_BINARY

import { fact, launchChromium, main, newContext, startDemo, Visitor, whileRefused } from './support.mjs';

await main(async (binary) => {
  const { url } = await startDemo(binary);
  const browser = await launchChromium();
  const context = await newContext(browser);

  const ada = await Visitor.open(context, url, 'ada');
  const secrets = [];
  ada.page.on('response', async (response) => {
    const body = await response.json().catch(() => null);
    secrets.push(...[body?.token, body?.refresh, body?.ticket_id].filter(Boolean));
  });
  await startsClean(ada);
  await ada.logIn();
  await ada.connect();
  const bob = await Visitor.open(context, url, 'bob');
  await bob.logIn();
  await bob.connect();

  await ada.say('hello from ada');
  await bob.say('hello from bob');
  for (const visitor of [ada, bob]) {
    for (const from of ['ada', 'bob']) await visitor.hears(`hello from ${from}`);
  }
  fact(await bob.pane().locator('.other .from', { hasText: 'ada' }).count() === 1, 'two pages chat, each under its own name');

  await seesTheSignedContext(ada);
  ada.isQuiet();
  bob.isQuiet();

  await fiveStatesInOrder(ada, bob);
  await controls(ada, bob);
  await anotherPerson(ada, bob);
  await revoked(ada, bob);
  await reload(bob);

  const text = await ada.page.content();
  fact(secrets.length > 5 && secrets.every((secret) => !text.includes(secret)), `none of ${secrets.length} tokens and tickets stands on the page`);
  ada.isQuiet();
  bob.isQuiet();
});

async function startsClean({ page }) {
  fact(await page.locator('#state').textContent() === 'Disconnected', 'a page begins disconnected');
  fact(await page.evaluate(() => document.activeElement.id) === 'name', 'the name has the focus');
  fact(await page.locator('button.primary:visible').count() === 1, 'there is one primary button');
  fact(await page.locator('.grid > :visible').count() === 0, 'there is no empty box');
}

async function seesTheSignedContext({ page, name }) {
  await page.locator('#signature[data-kind=good]').waitFor();
  fact(true, 'the published key verifies the header');
  fact(await page.locator('#gone').textContent() === 'The ticket is gone, this came instead:', 'one sentence stands above the raw header');
  fact(await page.locator('#request-line').textContent() === 'GET /ws?ticket=…', 'the ticket in the request line is struck out');
  const rows = await page.locator('#context div').allTextContents();
  for (const claim of ['sub', 'auth', 'permissions', 'sid', 'session_exp', 'iat', 'iss, aud', 'client']) {
    fact(rows.some((row) => row.endsWith(claim)), `the claim ${claim} is shown`);
  }
  fact(rows.some((row) => row.startsWith(`User${name}`)), `the backend knows ${name}`);
  fact(!rows.some((row) => /\d{10}/.test(row.replace(/sid$/, '').replace(/^Session[0-9a-f]{32}/, ''))), 'times are shown as times, not as numbers of seconds');
}

async function fiveStatesInOrder(ada, bob) {
  const before = await ada.session();
  await ada.does('drop');
  await ada.story(/Back after/);
  await ada.page.click('#disconnect');
  await ada.state('disconnected');
  await bob.hears('ada left');
  const states = (await ada.states()).join(' ');
  fact(
    states === 'disconnected connecting authenticating authenticated reconnecting connecting authenticating authenticated disconnected',
    `the five states come in order: ${states}`,
  );
  fact(await ada.page.locator('#signature').isHidden(), 'after a disconnect no signature is claimed to be good');
  fact(await ada.page.evaluate(() => document.activeElement.id) === 'connect', 'the focus goes to the next thing to do');
  await ada.connect();
  fact((await ada.sessionAfter(before)) !== before, 'each connection is a session of its own');
  fact(new Set(ada.tickets).size === ada.tickets.length && ada.tickets.length === 3, 'each connection has a ticket of its own');
}

async function controls(ada, bob) {
  await whileRefused([ada], async () => {
    await ada.does('reuse');
    await ada.story(/Refused: 403 INVALID_TICKET/);
  });
  fact(await ada.page.locator('#log .result.refused').count() > 0, 'a ticket works once, and the refusal looks like one');
  await ada.state('authenticated');
  await ada.does('old');
  await ada.story(/the token stood in the address/);
  fact(true, 'the old way works, and the page names its risk');

  await ada.does('way');
  await ada.story(/Connected by first message/);
  await ada.page.locator('#gone', { hasText: 'The first message stayed at Usher' }).waitFor();
  fact((await ada.page.locator('#context').textContent()).includes('message'), 'the first message opens the door too');
  await ada.does('way');
  await ada.story(/Connected by ticket again/);

  await ada.does('expire');
  await ada.story(/1 of 3/);
  const session = await ada.sessionAfter('');
  await ada.story(/3 of 3/);
  await ada.say('renewed and still here');
  await bob.hears('renewed and still here');
  fact(await ada.session() === session, 'the token ran out, and the session was renewed in silence');
  await ada.logs('Usher asks for a new credential');

  await whileRefused([ada, bob], async () => {
    await ada.does('restart');
    await Promise.all([ada, bob].map((one) => one.state('reconnecting')));
    await ada.say('written while the backend was away');
    await ada.story(/Back after/);
    await bob.state('authenticated');
  });
  await ada.hears('written while the backend was away');
  fact(true, 'the backend was killed and came back, and what was written meanwhile was sent');
}

async function anotherPerson(ada, bob) {
  await ada.page.click('#logout');
  fact(await ada.page.evaluate(() => document.activeElement.id) === 'name', 'logging out leads to the name');
  fact(await ada.page.locator('#received').isHidden(), 'no data of the last user is left');
  await ada.page.fill('#name', 'eve');
  ada.name = 'eve';
  await ada.logIn();
  await ada.connect();
  await ada.say('this is eve');
  await bob.pane().locator('.other', { hasText: 'this is eve' }).locator('.from', { hasText: 'eve' }).waitFor();
  fact(true, 'the others see the new user under the new name');
}

async function revoked(ada, bob) {
  await ada.does('revoke');
  await ada.state('disconnected');
  await ada.page.locator('#notice', { hasText: 'revoked' }).waitFor();
  await ada.logs('SESSION_REVOKED');
  await bob.hears('eve left');
  await bob.state('authenticated');
  fact(true, 'a revoked user is disconnected at once, and the others stay');
  fact(await ada.page.evaluate(() => document.activeElement.id) === 'name', 'the focus goes to the login');
  await ada.logIn();
  await ada.connect();
  fact(true, 'a new login is let in again');
}

async function reload(bob) {
  const before = await bob.session();
  await bob.page.reload();
  fact(await bob.page.inputValue('#name') === 'bob', 'a reload keeps the name, and nothing else');
  await bob.logIn();
  await bob.connect();
  fact((await bob.sessionAfter(before)) !== before, 'a reloaded page comes back with a session of its own');
}
