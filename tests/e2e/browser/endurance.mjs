// Five hundred reconnects without growth, and the time from the load of the page to `authenticated`.
//
//   node endurance.mjs USHER_BINARY

import { fact, figure, launchChromium, main, newContext, startDemo, startFront, Visitor } from './support.mjs';

const WARM_UP = 100;
const ROUNDS = 500;
const LOADS = 20;
/** How many bytes the heap may grow in 500 reconnects: a leak in each would need far more. */
const MAY_GROW = 512 * 1024;

await main(async (binary) => {
  const demo = await startDemo(binary);
  const front = await startFront(binary, demo);
  const browser = await launchChromium();
  await reconnects(browser, front);
  await loads(browser, front);
});

async function reconnects(browser, front) {
  const context = await newContext(browser);
  const ada = await Visitor.open(context, front.url, 'ada');
  await ada.logIn();
  await ada.connect();
  const devtools = await context.newCDPSession(ada.page);
  await devtools.send('Performance.enable');
  await devtools.send('HeapProfiler.enable');
  const measure = async () => {
    for (let round = 0; round < 3; round++) await devtools.send('HeapProfiler.collectGarbage');
    const { metrics } = await devtools.send('Performance.getMetrics');
    const value = (name) => metrics.find((metric) => metric.name === name).value;
    return { heap: value('JSHeapUsedSize'), nodes: value('Nodes'), listeners: value('JSEventListeners') };
  };
  const reconnect = (times) => ada.page.evaluate(async (times) => {
    for (let round = 0; round < times; round++) {
      window.states.length = 0;
      const greeted = new Promise((resolve) => {
        const off = usher.client.on('message', ({ type }) => { if (type === 'welcome') { off(); resolve(); } });
      });
      await usher.client.reconnect();
      await greeted;
    }
  }, times);

  // The log and the chat keep a bounded number of lines: the first reconnects fill them.
  await reconnect(WARM_UP);
  await ada.page.locator('#signature[data-kind=good]').waitFor();
  const before = await measure();
  const used = ada.tickets.length;
  await reconnect(ROUNDS);
  await ada.page.locator('#signature[data-kind=good]').waitFor();
  const after = await measure();
  const grown = Math.round((after.heap - before.heap) / 1024);
  figure(`heap over ${ROUNDS} reconnects`, `${Math.round(before.heap / 1024)} KiB to ${Math.round(after.heap / 1024)} KiB, ${grown} KiB more; nodes ${before.nodes} to ${after.nodes}, listeners ${before.listeners} to ${after.listeners}`);
  fact(after.heap - before.heap < MAY_GROW, `${ROUNDS} reconnects leave nothing on the heap: ${grown} KiB`);
  fact(after.listeners - before.listeners < 50, `and no listeners: ${before.listeners} to ${after.listeners}`);
  fact(ada.tickets.length - used === ROUNDS && new Set(ada.tickets).size === ada.tickets.length, 'each of them had a ticket of its own');
  ada.isQuiet();
  await context.close();
}

async function loads(browser, front) {
  const context = await newContext(browser);
  // Presses each button as soon as it is there.
  await context.addInitScript(() => {
    addEventListener('DOMContentLoaded', () => {
      const press = (id) => { const button = document.getElementById(id); if (button.checkVisibility()) button.click(); return button.checkVisibility(); };
      let pressed;
      new MutationObserver(() => {
        if (document.body.dataset.phase === 'in' && !pressed) pressed = press('connect');
        if (document.getElementById('state').dataset.state === 'authenticated') window.authenticatedAt ??= performance.now();
      }).observe(document.body, { subtree: true, attributes: true, childList: true });
      // The module of the page has run before this event.
      press('login');
    });
  });
  const times = [];
  for (let load = 0; load < LOADS; load++) {
    const page = await context.newPage();
    await page.goto(`${front.url}/?as=ada`);
    times.push(await (await page.waitForFunction(() => window.authenticatedAt)).jsonValue());
    await page.close();
  }
  times.sort((one, other) => one - other);
  const at = (share) => Math.round(times[Math.min(times.length - 1, Math.floor(times.length * share))]);
  figure(`from the load of the page to authenticated, login included, ${LOADS} loads`, `median ${at(0.5)} ms, 95th percentile ${at(0.95)} ms, slowest ${at(1)} ms`);
  fact(times.length === LOADS, 'every load came in');
  await context.close();
}
