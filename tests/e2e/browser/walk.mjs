// One walk through the page for the browsers that Playwright does not drive. `driver` has open,
// evaluate, click, write, wait, and whileUsherIsAway, which runs a step in which the browser may
// report lost connections.

import { fact } from './support.mjs';

const state = (name) => `document.querySelector('#state').dataset.state === '${name}'`;
const story = (text) => `document.querySelector('#story').textContent.includes('${text}')`;
const shown = (selector) => `!!document.querySelector('${selector}')?.checkVisibility()`;
const isIn = (who) => `document.querySelector('.pane[data-name=${who}] .pill')?.dataset.state === 'authenticated'`;
const hears = (who, text) => `[...document.querySelectorAll('.pane[data-name=${who}] .messages li')].some((line) => line.textContent.includes('${text}'))`;

export async function walk(driver, front) {
  const { open, evaluate, click, write, wait, whileUsherIsAway } = driver;
  await open(`${front.url}/?as=ada`);
  await wait(state('disconnected'));
  await click('#login');
  await wait(shown('#connect'));
  await evaluate(`(() => { window.states = [usher.client.state]; usher.client.on('state', ({ state }) => states.push(state)); return true })()`);
  await click('#connect');
  await wait(state('authenticated'));
  await wait(`document.querySelector('#signature').dataset.kind === 'good'`);
  fact(true, 'logged in, connected by ticket, and the signature was checked in the browser');

  await click('#invite');
  await wait(isIn('bob'));
  await write('.pane[data-name=ada] input', 'hello bob');
  await wait(hears('bob', 'hello bob'));
  await write('.pane[data-name=bob] input', 'hello ada');
  await wait(hears('ada', 'hello ada'));
  fact(true, 'two people chat');

  await click('#do-drop');
  await wait(story('Back after'));
  await click('#do-expire');
  await wait(story('3 of 3'));
  fact(true, 'a dropped socket came back, and a token that ran out was renewed in silence');
  await click('#do-way');
  await wait(story('Connected by first message'));
  fact(true, 'the first message opens the door too');

  for (const [signal, what] of [['SIGTERM', 'restarted'], ['SIGKILL', 'killed']]) {
    await whileUsherIsAway(async () => {
      await front.stop(signal);
      await wait(state('reconnecting'));
      await wait(`!(${isIn('bob')})`);
      await front.start();
      await wait(state('authenticated'));
      await wait(isIn('bob'));
    });
    fact(true, `Usher was ${what}, and both came back by themselves`);
  }

  // Both users disconnect before the page is left: browsers report sockets that are open then.
  await click('.pane[data-name=bob] header button');
  await click('#disconnect');
  await wait(state('disconnected'));
  const states = await evaluate('window.states.slice(0, 8).join(" ")');
  fact(
    states === 'disconnected connecting authenticating authenticated reconnecting connecting authenticating authenticated',
    `the five states come in order: ${states}`,
  );
  await open(`${front.url}/?as=ada`);
  await wait(shown('#login'));
  await click('#login');
  await wait(shown('#connect'));
  await click('#connect');
  await wait(state('authenticated'));
  fact(true, 'a reloaded page comes back');
}
