// The same page in Firefox, driven over WebDriver BiDi, over wss://.
//
//   node firefox.mjs USHER_BINARY

import puppeteer from 'puppeteer-core';
import { atEnd, fact, find, main, startDemo, startFront, WAIT } from './support.mjs';
import { walk } from './walk.mjs';

await main(async (binary) => {
  const demo = await startDemo(binary);
  const front = await startFront(binary, demo);
  const browser = await puppeteer.launch({
    browser: 'firefox',
    executablePath: process.env.FIREFOX ?? find(['firefox-esr', 'firefox']),
    headless: true,
    acceptInsecureCerts: true,
  });
  atEnd(() => browser.close());
  const { page, said, driver } = await openPage(browser, front);
  console.log(`figure  Firefox: ${await browser.version()}`);
  await walk(driver, front);
  await said.isQuiet();
  await page.close();
  await ticketEndpointFails(browser, front);
});

async function openPage(browser, front) {
  const page = await browser.newPage();
  page.setDefaultTimeout(WAIT);
  const said = listen(page, new URL(front.url).host);
  const driver = {
    open: (url) => page.goto(url),
    evaluate: (text) => page.evaluate(text),
    // The locator waits until the element no longer moves.
    click: (selector) => page.locator(selector).click(),
    write: (selector, text) => page.type(selector, text).then(() => page.keyboard.press('Enter')),
    wait: (expression) => page.waitForFunction(expression),
    whileUsherIsAway: (step) => said.expectLosses(step),
  };
  return { page, said, driver };
}

async function ticketEndpointFails(browser, front) {
  const off = { code: 'TICKETS_OFF', message: 'no tickets here', recoverable: false, methods: ['message'] };
  for (const [what, answer] of [
    ['404', (request) => request.respond({ status: 404, contentType: 'application/json', body: JSON.stringify(off) })],
    ['500', (request) => request.respond({ status: 500, body: 'out of order' })],
    ['a connection that is cut off', (request) => request.abort()],
  ]) {
    const { page, said, driver } = await openPage(browser, front);
    let asked = 0;
    await page.setRequestInterception(true);
    page.on('request', (request) => {
      if (!request.url().endsWith('/websocket/ticket')) return request.continue();
      asked++;
      return answer(request);
    });
    await driver.open(`${front.url}/?as=ada`);
    await driver.click('#login');
    await driver.click('#connect');
    await driver.wait(`document.querySelector('#connect-done').textContent.includes('first message')`);
    fact(asked > 0, `the ticket endpoint answers with ${what}, ${asked} times, and the page comes in by first message`);
    await said.isQuiet();
    await driver.click('#disconnect');
    await page.close();
  }
}

/**
 * Records the console of `page`. Firefox itself reports each socket to `host` that it could not open
 * or that was cut.
 */
function listen(page, host) {
  const socket = `wss://${host.replace('.', '\\.')}/ws(\\?ticket=[\\w-]+)?`;
  const loss = new RegExp(`^(Firefox can’t establish a connection to the server at ${socket}|The connection to ${socket} was interrupted while the page was loading)\\.$`);
  const faults = [];
  let mayLose = false;
  let marks = 0;
  let isMarked;
  const add = (text) => {
    if (!(mayLose && loss.test(text))) faults.push(text);
  };
  page.on('pageerror', (error) => add(error.message));
  page.on('console', (message) => {
    if (['error', 'warn'].includes(message.type())) add(message.text());
    if (message.text() === `mark ${marks}`) isMarked();
  });
  return {
    async isQuiet() {
      await this.isWhole();
      fact(faults.length === 0, `the console of Firefox is empty ${faults.join(' | ')}`);
    },
    /** Resolves when all lines that were printed until now have arrived: they keep their order. */
    async isWhole() {
      const mark = new Promise((resolve) => (isMarked = resolve));
      await page.evaluate((mark) => console.debug(mark), `mark ${++marks}`);
      await mark;
    },
    /** Runs a step in which connections are lost. */
    async expectLosses(step) {
      await this.isWhole();
      mayLose = true;
      await step();
      await this.isWhole();
      mayLose = false;
    },
  };
}
