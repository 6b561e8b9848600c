// The admin page in Firefox: login, figures, a revocation with a hostile name, and the logout.
//
//   node admin-firefox.mjs USHER_BINARY

import puppeteer from 'puppeteer-core';
import { ADMIN_TOKEN, openClient, startWorld } from './admin-world.mjs';
import { atEnd, fact, find, main, WAIT } from './support.mjs';

const HOSTILE = '"><img src=x onerror="window.pwned=1">';

await main(async (binary) => {
  const world = await startWorld(binary);
  const browser = await puppeteer.launch({ browser: 'firefox', executablePath: process.env.FIREFOX ?? find(['firefox-esr', 'firefox']), headless: true });
  atEnd(() => browser.close());
  console.log(`figure  Firefox: ${await browser.version()}`);
  const page = await browser.newPage();
  page.setDefaultTimeout(WAIT);
  const faults = [];
  page.on('pageerror', (error) => faults.push(error.message));
  page.on('console', (message) => ['error', 'warn'].includes(message.type()) && faults.push(message.text()));
  const shows = (selector, text) => page.waitForFunction((selector, text) => {
    const place = document.querySelector(selector);
    return place && place.offsetParent !== null && place.textContent.includes(text);
  }, {}, selector, text);

  await page.goto(world.url);
  await page.locator('#token').fill('wrong');
  await page.locator('#login-form button').click();
  await shows('#login-fault', 'The admin token is wrong.');
  await page.locator('#token').fill(ADMIN_TOKEN);
  await page.locator('#login-form button').click();
  await shows('#stage', 'ready');
  fact(await page.evaluate(() => document.cookie) === '', 'no script reads the cookie');
  const client = await openClient(world.port, { user: HOSTILE });
  await openClient(world.port, { authorization: 'Bearer wrong' });
  await shows('#sessions-by', '1 session open');
  await shows('#refusals', 'invalid token');
  await page.waitForFunction(() => document.querySelector('.chart .line') && document.querySelector('.chart .value').textContent.startsWith('1'));
  fact(true, 'figures and charts follow a real client');
  await page.locator('#user').fill(HOSTILE);
  await page.locator('#search button').click();
  await shows('#found td', HOSTILE);
  await page.locator('#revoke-user').click();
  await page.locator('#confirm-yes').click();
  await shows('#found', 'has no open session');
  fact(await client.ended >= 1000, 'the session of the hostile name ends');
  fact(await page.evaluate(() => window.pwned === undefined && document.images.length === 1), 'its markup stays text');
  await page.locator('#logout').click();
  await page.waitForFunction(() => !document.querySelector('#login').hidden);
  fact(faults.length === 0, `the console of Firefox is empty ${faults.join(' | ')}`);
});
