// The look of the page and its use without a mouse: screenshots of the five states in both themes and
// two widths, axe-core, the keyboard alone, and a phone.
//
//   node looks.mjs USHER_BINARY SCREENSHOT_FOLDER

import { readFileSync, mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fact, figure, launchChromium, main, newContext, startDemo, startFront, startSilentServer, Visitor, whileRefused } from './support.mjs';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const WIDTHS = { wide: { width: 1280, height: 900 }, phone: { width: 375, height: 812 } };

await main(async (binary, folder) => {
  if (folder) mkdirSync(folder, { recursive: true });
  const demo = await startDemo(binary);
  const silent = await startSilentServer();
  // The chat behind this Usher never answers, so its sessions stay in `authenticating`.
  const slow = await startFront(binary, demo, (text) =>
    text.replace(/(name = "chat"\nservers = )\[.*\]/, `$1["${silent}"]\nupgrade_timeout = "1m"\nreach_timeout = "1m"`));
  const browser = await launchChromium();
  const shoot = async (page, name) => {
    await page.evaluate(() => scrollTo({ top: 0, behavior: 'instant' }));
    if (folder) await page.screenshot({ path: join(folder, `${name}.png`), fullPage: true, animations: 'disabled' });
  };
  for (const theme of ['light', 'dark']) {
    for (const [size, viewport] of Object.entries(WIDTHS)) {
      const options = { colorScheme: theme, viewport, hasTouch: size === 'phone', isMobile: size === 'phone' };
      await theFiveStates(browser, { demo, slow }, options, (page, state) => shoot(page, `${state}-${theme}-${size}`));
    }
  }
  await byKeyboard(browser, demo.url);
  await onAPhone(browser, demo.url);
});

async function theFiveStates(browser, { demo, slow }, options, shoot) {
  const context = await newContext(browser, options);
  await context.addInitScript(holdTimers);
  const ada = await Visitor.open(context, demo.url, 'ada');
  const { page } = ada;
  const where = `${options.colorScheme}, ${options.viewport.width} px`;
  const look = async (visitor, state) => {
    await visitor.state(state);
    await shoot(visitor.page, state);
    await hasNoFinding(visitor.page, `${state}, ${where}`);
    fact(await visitor.page.evaluate(() => document.querySelector('#state').dataset.state) === state, `the state stayed ${state}`);
  };
  await look(ada, 'disconnected');

  // Connecting: the ticket is held back until the page has been checked.
  let answer;
  const looked = new Promise((resolve) => (answer = resolve));
  await page.route('**/websocket/ticket', async (route) => { await looked; await route.continue(); });
  await ada.logIn();
  await hold(page, 'connecting');
  const asked = page.waitForRequest('**/websocket/ticket');
  await page.click('#connect');
  await asked;
  await look(ada, 'connecting');
  await release(page);
  answer();
  await ada.state('authenticated');
  await page.unroute('**/websocket/ticket');
  await page.locator('#signature[data-kind=good]').waitFor();
  await ada.say('Is anybody there?');
  await page.click('#invite');
  await ada.pane('bob').locator('.pill[data-state=authenticated]').waitFor();
  await ada.say('Yes, I am.', 'bob');
  await ada.hears('Yes, I am.');
  await page.locator('#log details').first().evaluate((details) => (details.open = true));
  await look(ada, 'authenticated');
  await page.locator('#log details').first().evaluate((details) => (details.open = false));

  await hold(page, 'reconnecting');
  await whileRefused([ada], async () => {
    await ada.does('restart');
    await look(ada, 'reconnecting');
    await release(page);
    await ada.story(/Back after/);
    // The guest has the same faults, on the same console.
    await ada.pane('bob').locator('.pill[data-state=authenticated]').waitFor();
  });
  await ada.does('revoke');
  await page.locator('#notice', { hasText: 'revoked' }).waitFor();
  await shoot(page, 'revoked');
  await hasNoFinding(page, `revoked, ${where}`);

  // Authenticating: by first message, in front of a backend that does not answer.
  const eve = await Visitor.open(context, slow.url, 'eve');
  await eve.page.route('**/websocket/ticket', (route) => route.fulfill({ status: 404, json: { code: 'TICKETS_OFF', recoverable: false, methods: ['message'] } }));
  await eve.logIn();
  await hold(eve.page, 'authenticating');
  await whileRefused([eve], async () => {
    await eve.page.click('#connect');
    await look(eve, 'authenticating');
  });
  ada.isQuiet();
  eve.isQuiet();
  await context.close();
}

/** Runs in the page: timers that end while a state is held wait, so that the state stays. */
function holdTimers() {
  const { setTimeout, clearTimeout } = window;
  window.untouchedTimeout = setTimeout;
  const waiting = new Map();
  let held;
  window.setTimeout = (run, ms, ...rest) => {
    const id = setTimeout(() => {
      if (held && document.querySelector('#state').dataset.state === held) waiting.set(id, () => run(...rest));
      else run(...rest);
    }, ms);
    return id;
  };
  window.clearTimeout = (id) => {
    waiting.delete(id);
    clearTimeout(id);
  };
  window.hold = (state) => (held = state);
  window.release = () => {
    held = undefined;
    for (const [id, run] of waiting) if (waiting.delete(id)) run();
  };
}

function hold(page, state) {
  return page.evaluate((state) => window.hold(state), state);
}

function release(page) {
  return page.evaluate(() => window.release());
}

async function hasNoFinding(page, where) {
  // In the middle of a transition, the contrast of a colour says nothing.
  await page.evaluate(() => Promise.all(document.getAnimations().map((animation) => animation.finished.catch(() => {}))));
  // The timers of axe are not held.
  await page.evaluate(`((setTimeout) => { ${axe} })(window.untouchedTimeout)`);
  const findings = await page.evaluate(async () => {
    const { violations } = await globalThis.axe.run(document, { resultTypes: ['violations'] });
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html, failureSummary }) => `${html.slice(0, 120)} ${failureSummary}`).join('; ')}`);
  });
  fact(findings.length === 0, `axe has no finding: ${where} ${findings.join('\n')}`);
}

async function byKeyboard(browser, url) {
  const context = await newContext(browser);
  const { page } = await Visitor.open(context, url, 'ada');
  const focus = () => page.evaluate(() => document.activeElement.id || document.activeElement.className || document.activeElement.tagName);
  const press = (key) => page.keyboard.press(key);
  fact(await focus() === 'name', 'the keyboard begins at the name');
  await page.keyboard.type('kay');
  await press('Enter');
  await page.locator('#connect:focus').waitFor();
  await press('Enter');
  await page.locator('.pane[data-name=kay] input:focus').waitFor();
  await page.keyboard.type('without a mouse');
  await press('Enter');
  await page.locator('.messages li', { hasText: 'without a mouse' }).waitFor();
  fact(true, 'name, connect, write: the focus leads there by itself');

  await page.locator('#do-drop').focus();
  await press('Space');
  await page.locator('#story', { hasText: /Back after/ }).waitFor();
  fact(await focus() === 'do-drop', 'a control keeps the focus while the socket is dropped and comes back');
  await page.locator('#disconnect').focus();
  await press('Enter');
  await page.locator('#connect:focus').waitFor();
  await press('Enter');
  await page.locator('#state[data-state=authenticated]').waitFor();
  await page.locator('#do-revoke').focus();
  await press('Enter');
  await page.locator('#name:focus').waitFor();
  await press('Enter');
  await page.locator('#connect:focus').waitFor();
  fact(true, 'after a disconnect and after a revocation the focus is at what comes next');
  await page.locator('#logout').focus();
  await press('Enter');
  await page.locator('#name:focus').waitFor();

  await page.evaluate(() => document.querySelector('.skip').focus());
  const visited = ['skip'];
  for (let step = 0; step < 40; step++) {
    await press('Tab');
    const at = await focus();
    if (at === 'BODY') break;
    visited.push(at);
  }
  const order = ['skip', 'name', 'login', 'SUMMARY', 'older'].map((id) => visited.indexOf(id));
  fact(order.every((at, index) => at >= 0 && (index === 0 || at > order[index - 1])), `every part is reached by Tab: ${visited.join(', ')}`);
  await context.close();
}

async function onAPhone(browser, url) {
  const context = await newContext(browser, { viewport: WIDTHS.phone, hasTouch: true, isMobile: true });
  const ada = await Visitor.open(context, url, 'ada');
  await ada.logIn();
  await ada.connect();
  await ada.page.locator('#signature[data-kind=good]').waitFor();
  fact(await ada.page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), 'a phone needs no sideways scrolling');
  const top = await ada.page.evaluate(() => Math.round(document.querySelector('#received').getBoundingClientRect().top + scrollY));
  figure('what the backend sees begins on a phone at', `${top} px`);
  fact(top < 1200, 'what the backend sees is near on a phone');
  await ada.page.getByRole('link', { name: 'Backend', exact: true }).tap();
  await ada.page.waitForFunction(() => Math.abs(document.querySelector('#received').getBoundingClientRect().top) < 200);
  fact(true, 'one tap scrolls to it');
  const small = await ada.page.evaluate(() => [...document.querySelectorAll('button, input')].filter((one) => one.offsetParent && one.offsetHeight < 32).map((one) => one.outerHTML));
  fact(small.length === 0, `every button is large enough for a thumb ${small}`);
  await context.close();
}
