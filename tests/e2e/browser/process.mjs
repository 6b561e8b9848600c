// Tools of all tests in Node: facts, waits, ports, processes. Needs no package.

import { spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

export const WAIT = 30_000;

export function fact(holds, what) {
  if (!holds) throw new Error(what);
  console.log(`ok  ${what}`);
}

/** Resolves with the first true value that `isTrue` resolves to. */
export async function until(isTrue, what, patience = WAIT) {
  const end = Date.now() + patience;
  for (;;) {
    const value = await isTrue();
    if (value) return value;
    if (Date.now() > end) throw new Error(`this did not happen in time: ${what}`);
    await sleep(20);
  }
}

/** Starts `usher run`, and resolves with its process when `readyz` answers. Ends it if that fails. */
export async function startUsher(binary, file, readyz, options = {}) {
  const child = spawn(binary, ['run', '-c', file], { ...options, stdio: ['ignore', 'ignore', 'pipe'] });
  let log = '';
  child.stderr.setEncoding('utf8').on('data', (part) => (log = (log + part).slice(-4000)));
  try {
    await until(() => {
      if (child.exitCode !== null) throw new Error(`Usher ended: ${log}`);
      return fetch(readyz).then((answer) => answer.ok, () => false);
    }, 'Usher is ready');
  } catch (error) {
    await stop(child, 'SIGKILL');
    throw error;
  }
  return child;
}

/**
 * Returns free ports. They stay free while their server is stopped: the kernel takes the ports of
 * outgoing connections, and of programs that ask for any port, from another range.
 */
export async function freePorts(count) {
  const ports = new Set();
  while (ports.size < count) {
    const port = 10_000 + Math.floor(Math.random() * 20_000);
    const isFree = await new Promise((resolve) => {
      const server = createServer().once('error', () => resolve(false));
      server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
    });
    if (isFree) ports.add(port);
  }
  return [...ports];
}

/** Resolves when the program has ended. */
export async function stop(child, signal) {
  if (!child || child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.kill(signal);
  await ended;
}
