// The same page in WebKitGTK, the nearest to Safari on Linux, by plain WebDriver, over wss://.
//
//   node webkit.mjs USHER_BINARY
//
// WebKitGTK has no headless mode: this script starts a virtual display for it (Xvfb).

import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { atEnd, figure, find, freePorts, main, startDemo, startFront, stop, until } from './support.mjs';
import { walk } from './walk.mjs';

const ELEMENT = 'element-6066-11e4-a52e-4f735466cecf';
const ENTER = '\uE007';

await main(async (binary) => {
  const demo = await startDemo(binary);
  const front = await startFront(binary, demo);
  const display = await startDisplay();
  const driver = await startDriver(display);
  await walk(
    {
      open: (url) => driver('POST', '/url', { url }),
      evaluate: (text) => driver('POST', '/execute/sync', { script: `return (${text})`, args: [] }),
      click: async (selector) => {
        // WebDriver would scroll smoothly, as the page does, and click too early.
        await driver('POST', '/execute/sync', { script: `document.querySelector('${selector}').scrollIntoView({ block: 'center', behavior: 'instant' })`, args: [] });
        return driver('POST', `/element/${await element(driver, selector)}/click`, {});
      },
      write: async (selector, text) => driver('POST', `/element/${await element(driver, selector)}/value`, { text: text + ENTER }),
      wait: (expression) => until(() => driver('POST', '/execute/sync', { script: `return !!(${expression})`, args: [] }), expression),
      // WebDriver gives no access to the console.
      whileUsherIsAway: (step) => step(),
    },
    front,
  );
});

async function element(driver, selector) {
  return (await driver('POST', '/element', { using: 'css selector', value: selector }))[ELEMENT];
}

/** Starts a display and returns the name that Xvfb chose. */
async function startDisplay() {
  const child = spawn('Xvfb', ['-displayfd', '3', '-screen', '0', '1280x900x24', '-nolisten', 'tcp'], { stdio: ['ignore', 'ignore', 'ignore', 'pipe'] });
  atEnd(() => stop(child, 'SIGTERM'));
  let text = '';
  child.stdio[3].setEncoding('utf8').on('data', (part) => (text += part));
  return `:${(await until(() => /^\d+\n/.exec(text)?.[0], 'a display of Xvfb')).trim()}`;
}

/** Starts WebKitWebDriver and a session, and returns what sends commands to it. */
async function startDriver(display) {
  const [port] = await freePorts(1);
  const child = spawn(find(['WebKitWebDriver']), [`--port=${port}`], {
    stdio: 'ignore',
    env: { ...process.env, DISPLAY: display, GDK_BACKEND: 'x11', LIBGL_ALWAYS_SOFTWARE: '1', WEBKIT_DISABLE_COMPOSITING_MODE: '1', NO_AT_BRIDGE: '1' },
  });
  atEnd(() => stop(child, 'SIGTERM'));
  const base = `http://127.0.0.1:${port}`;
  await until(() => fetch(`${base}/status`).then((answer) => answer.ok, () => false), 'WebKitWebDriver');
  const send = async (method, path, body) => {
    const answer = await fetch(base + path, { method, headers: { 'Content-Type': 'application/json' }, ...(body && { body: JSON.stringify(body) }) });
    const { value } = await answer.json();
    if (!answer.ok) throw new Error(`${method} ${path}: ${JSON.stringify(value)}`);
    return value;
  };
  const capabilities = { acceptInsecureCerts: true, 'webkitgtk:browserOptions': { binary: miniBrowser(), args: ['--automation'] } };
  const session = await send('POST', '/session', { capabilities: { alwaysMatch: capabilities } });
  atEnd(() => send('DELETE', `/session/${session.sessionId}`).catch(() => {}));
  figure('WebKitGTK', `${session.capabilities.browserName} ${session.capabilities.browserVersion}`);
  return (method, path, body) => send(method, `/session/${session.sessionId}${path}`, body);
}

/** Finds the small browser of WebKitGTK. Its path depends on the machine and the version. */
function miniBrowser() {
  for (const root of readdirSync('/usr/lib', { withFileTypes: true }).filter((entry) => entry.isDirectory()).map(({ name }) => `/usr/lib/${name}`)) {
    const found = readdirSync(root).filter((name) => name.startsWith('webkit2gtk-4')).map((name) => `${root}/${name}`);
    for (const folder of found) if (readdirSync(folder).includes('MiniBrowser')) return `${folder}/MiniBrowser`;
  }
  throw new Error('MiniBrowser of WebKitGTK is not there');
}
