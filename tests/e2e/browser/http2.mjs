// Loads a page over HTTP/2, and opens sockets from it, which share its connection (RFC 8441).
//
//   node http2.mjs chromium|firefox https://localhost:PORT PATH_OF_PAGE PATH_OF_SOCKET...
//
// Exits with 0 if each socket gets its echoes. The caller reads from Usher's metrics which protocol
// the browser chose. CHROMIUM and FIREFOX name the browsers if they are not in PATH.

import puppeteer from 'puppeteer-core';
import { fact, find, launchChromium, newContext, WAIT } from './support.mjs';

const [name, base, pagePath, ...socketPaths] = process.argv.slice(2);
if (socketPaths.length === 0) {
  console.error('usage: node http2.mjs chromium|firefox https://localhost:PORT PAGE SOCKET...');
  process.exit(2);
}

const openers = { chromium: chromiumPage, firefox: firefoxPage };
const [page, close] = await openers[name]();
let failed = false;
try {
  await page.goto(`${base}${pagePath}`);
  const protocol = await page.evaluate(() => performance.getEntriesByType('navigation')[0].nextHopProtocol);
  fact(protocol === 'h2', `the page came over ${protocol}`);
  const got = await page.evaluate(async (urls) => Promise.all(urls.map((url) => new Promise((resolve) => {
    const socket = new WebSocket(url);
    const sizes = [0, 1, 126, 65536, 200000];
    const echoes = [];
    const next = () => (sizes.length > 0 ? socket.send('x'.repeat(sizes.shift())) : socket.close(1000, 'done'));
    socket.onopen = next;
    socket.onmessage = ({ data }) => { echoes.push(data.length); next(); };
    socket.onclose = ({ code }) => resolve({ echoes, code });
  }))), socketPaths.map((path) => `${base.replace('https', 'wss')}${path}`));
  for (const one of got) {
    fact(one.code === 1000 && one.echoes.join() === '0,1,126,65536,200000', `echoes: ${JSON.stringify(one)}`);
  }
} catch (error) {
  failed = true;
  console.error(`FAILED  ${error.stack}`);
} finally {
  await close();
}
process.exit(failed ? 1 : 0);

async function chromiumPage() {
  const browser = await launchChromium();
  const context = await newContext(browser);
  return [await context.newPage(), () => browser.close()];
}

async function firefoxPage() {
  const browser = await puppeteer.launch({
    browser: 'firefox',
    executablePath: process.env.FIREFOX ?? find(['firefox-esr', 'firefox']),
    headless: true,
    acceptInsecureCerts: true,
  });
  const page = await browser.newPage();
  page.setDefaultTimeout(WAIT);
  return [page, () => browser.close()];
}
