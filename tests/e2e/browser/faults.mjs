// Faults under the page, over wss:// in Chromium: a ticket endpoint that fails, no network, a token
// that expires, and an Usher that is restarted or killed under ten tabs.
//
//   node faults.mjs USHER_BINARY

import { fact, figure, launchChromium, main, newContext, startDemo, startFront, until, Visitor, whileRefused } from './support.mjs';

await main(async (binary) => {
  const demo = await startDemo(binary);
  // Without leeway, a token is refused from the second of its end on.
  const front = await startFront(binary, demo, (text) => text.replace('secret_file', 'leeway = "0s"\nsecret_file'));
  const browser = await launchChromium();
  await ticketEndpointFails(browser, front);
  await withoutNetwork(browser, front);
  await tokenEndsMeanwhile(browser, front);
  await tenTabsThroughRestarts(browser, front);
});

/** Opens a page with a user who is logged in. */
async function person(browser, front, name) {
  const visitor = await Visitor.open(await newContext(browser), front.url, name);
  await visitor.logIn();
  return visitor;
}

async function ticketEndpointFails(browser, front) {
  const off = { code: 'TICKETS_OFF', message: 'no tickets here', recoverable: false, methods: ['message'] };
  for (const [what, answer] of [
    ['404', (route) => route.fulfill({ status: 404, contentType: 'application/json', body: JSON.stringify(off) })],
    ['500', (route) => route.fulfill({ status: 500, body: 'out of order' })],
    ['a connection that is cut off', (route) => route.abort('connectionreset')],
  ]) {
    const ada = await person(browser, front, 'ada');
    let asked = 0;
    await ada.page.route('**/websocket/ticket', (route) => { asked++; return answer(route); });
    await whileRefused([ada], () => ada.connect());
    fact(asked > 0 && ada.tickets.length === 0, `the ticket endpoint answers with ${what}, ${asked} times`);
    await ada.page.locator('#connect-done', { hasText: 'first message' }).waitFor();
    await ada.logs('Fell back from ticket to message');
    await ada.say(`in spite of ${what}`);
    await ada.hears(`in spite of ${what}`);
    fact(await ada.page.locator('#log .result', { hasText: what === '404' || what === '500' ? `refused, ${what}` : 'no answer' }).count() > 0,
      `after ${what} the page comes in by first message, and the log shows the failure as one`);
    ada.isQuiet();
    await ada.page.context().close();
  }
}

async function withoutNetwork(browser, front) {
  const ada = await person(browser, front, 'ada');
  await ada.connect();
  const before = await ada.sessionAfter('');
  const context = ada.page.context();
  await whileRefused([ada], async () => {
    await context.setOffline(true);
    await ada.page.waitForFunction(() => !navigator.onLine);
    await context.setOffline(false);
    await ada.sessionAfter(before);
  });
  await ada.say('back from nowhere');
  await ada.hears('back from nowhere');
  fact(new Set(ada.tickets).size === ada.tickets.length && ada.tickets.length >= 2, 'the network went and came back, and with it a session by a new ticket');

  // In the other order: the page connects while there is no network.
  await ada.page.click('#disconnect');
  await ada.state('disconnected');
  await whileRefused([ada], async () => {
    await context.setOffline(true);
    await ada.page.click('#connect');
    await ada.state('reconnecting');
    await context.setOffline(false);
    await ada.state('authenticated');
  });
  fact(true, 'a page that was told to connect without a network does so when there is one');
  ada.isQuiet();
  await context.close();
}

async function tokenEndsMeanwhile(browser, front) {
  const ada = await person(browser, front, 'ada');
  // The page gets a wrong life of its token, which is longer than the real one.
  let end;
  await ada.page.route('**/refresh', async (route) => {
    const response = await route.fetch();
    const json = await response.json();
    end = JSON.parse(Buffer.from(json.token.split('.')[1], 'base64url')).exp;
    return route.fulfill({ response, json: { ...json, expires_in: 900 } });
  });
  await ada.connect();
  await ada.does('expire');
  await ada.story(/1 of 3/);
  await ada.page.click('#disconnect');
  await ada.state('disconnected');
  await until(() => Date.now() >= end * 1000, 'the end of the token');
  const refused = ada.page.waitForResponse((answer) => answer.url().endsWith('/websocket/ticket') && answer.status() === 401);
  await whileRefused([ada], async () => {
    await ada.page.click('#connect');
    await refused;
    await ada.state('authenticated');
  });
  fact(true, 'a token that ended meanwhile was refused, refreshed once, and let in');
  ada.isQuiet();
  await ada.page.context().close();
}

async function tenTabsThroughRestarts(browser, front) {
  const context = await newContext(browser);
  const people = await Promise.all(Array.from({ length: 10 }, (_, index) => Visitor.open(context, front.url, `p${index}`)));
  for (const one of people) {
    await one.logIn();
    await one.connect();
  }
  await people[0].say('ten of us');
  await Promise.all(people.map((one) => one.hears('ten of us')));
  fact(true, 'ten tabs are ten people, and all of them hear the first');

  for (const [signal, what] of [['SIGTERM', 'stopped in good order'], ['SIGKILL', 'killed']]) {
    const before = await Promise.all(people.map((one) => one.session()));
    const used = new Set(people.flatMap((one) => one.tickets));
    await whileRefused(people, async () => {
      await front.stop(signal);
      await Promise.all(people.map((one) => one.state('reconnecting')));
      await front.start();
      const began = Date.now();
      await Promise.all(people.map((one, index) => one.sessionAfter(before[index])));
      figure(`ten tabs back after Usher was ${what} and started again`, `${Date.now() - began} ms (the back-off of the page is at most 2000 ms)`);
    });
    const fresh = people.flatMap((one) => one.tickets).filter((ticket) => !used.has(ticket));
    fact(new Set(fresh).size === fresh.length, `Usher was ${what}: all ten are back, and no ticket was used twice`);
    await people[0].say(`after ${signal}`);
    await Promise.all(people.map((one) => one.hears(`after ${signal}`)));
  }
  for (const one of people) one.isQuiet();
  await until(() => people.every((one) => one.page.url().includes('?as=')), 'the names stand in the addresses');
  await context.close();
}
