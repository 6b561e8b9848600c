// usher-client with `ws` against the real Usher, by every method, over wss:// under a private authority.
//
//   node real.mjs USHER_BINARY
//
// Exits 0 when every fact held, 1 with the first that did not, 2 where it was called wrongly.

import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import WebSocket from 'ws'
import { createClient } from '../dist/index.js'
import { fact } from '../../../tests/e2e/browser/process.mjs'
import { createUsher, mint, startEcho } from './usher.mjs'

/** Each is a user of that name. `by` is the method that lets it in. */
const CLIENTS = [
  { user: 'ticket', auth: 'ticket', by: 'ticket' },
  { user: 'message', auth: 'message', by: 'message' },
  { user: 'subprotocol', auth: 'subprotocol', by: 'subprotocol' },
  { user: 'subprotocol-beside-another', auth: 'subprotocol', by: 'subprotocol', protocols: ['chat.v1'] },
  { user: 'auto', auth: 'auto', by: 'ticket' },
]

const [binary, part] = process.argv.slice(2)
if (!binary) {
  console.error('usage: node real.mjs USHER_BINARY')
  process.exit(2)
}
try {
  await { undefined: main, talk, refuse }[part]()
} catch (error) {
  console.error(`FAILED  ${error.stack}`)
  process.exitCode = 1
}

async function main() {
  const echo = await startEcho()
  const usher = await createUsher(binary, echo, { auth: ['ticket', 'message', 'subprotocol'] })
  try {
    await usher.start()
    // Node reads its authorities when it starts, so each kind of client is a process of its own.
    await run('talk', usher.url, usher.ca)
    for (const { user, by, protocols } of CLIENTS) {
      const upgrades = echo.upgrades.filter(({ headers }) => contextOf(headers).sub === user)
      fact(upgrades.length === 2, `the backend saw two sessions of ${user}`)
      for (const { url, headers } of upgrades) {
        fact(contextOf(headers).auth.method === by && url === '/ws', `let in by ${by}, and nothing is left in the address: ${url}`)
        const offers = headers['sec-websocket-protocol']
        fact(offers === protocols?.join(), `the backend was offered ${offers ?? 'no subprotocol'}`)
      }
    }
    const before = echo.upgrades.length
    await run('refuse', usher.url, '')
    fact(echo.upgrades.length === before, 'nothing of a client that does not know the authority reached the backend')
  } finally {
    await usher.remove()
    echo.stop()
  }
}

/** Runs this file again, with this authority beside those of the system. */
async function run(part, url, authority) {
  const tokens = Object.fromEntries(CLIENTS.map(({ user }) => [user, mint(user)]))
  const env = { ...process.env, NODE_EXTRA_CA_CERTS: authority, USHER_TEST: JSON.stringify({ url, tokens }) }
  const child = spawn(process.execPath, [fileURLToPath(import.meta.url), binary, part], { env, stdio: ['ignore', 'inherit', 'inherit'] })
  const code = await new Promise((resolve) => child.once('exit', resolve))
  if (code !== 0) throw new Error(`${part} ended with ${code}`)
}

function create({ user, auth, protocols }, more) {
  const { url, tokens } = JSON.parse(process.env.USHER_TEST)
  return createClient({ url, auth, protocols, getToken: () => tokens[user], WebSocket, ...more })
}

/** A client that knows the authority connects twice, and hears its own words each time. */
async function talk() {
  for (const each of CLIENTS) {
    const client = create(each)
    const states = []
    const heard = []
    client.on('state', ({ state }) => states.push(state))
    client.on('message', (text) => heard.push(text))
    for (const [step, words] of [['connect', 'first'], ['reconnect', 'second']]) {
      const answer = new Promise((resolve) => client.on('message', (text) => text === words && resolve()))
      await client[step]()
      fact(client.send(words) === 'sent', `${each.user}: ${step}`)
      await answer
    }
    fact(client.method === each.by, `${each.user}: the method is ${client.method}`)
    client.disconnect()
    const once = 'connecting authenticating authenticated'
    fact(states.join(' ') === `${once} ${once} disconnected`, `${each.user}: ${states.join(' ')}`)
    fact(heard.join(' ') === 'first second', `${each.user} heard ${heard.join(' ')}`)
  }
}

/** A client that does not know the authority gives up, and says so. */
async function refuse() {
  for (const each of CLIENTS) {
    const client = create(each, { maxRetries: 0 })
    const states = []
    client.on('state', ({ state }) => states.push(state))
    const error = await client.connect().then(() => undefined, (error) => error)
    fact(error instanceof Error, `${each.user} is told: ${error?.message}`)
    fact(states.join(' ') === 'connecting disconnected', `${each.user}: ${states.join(' ')}`)
  }
}

/** The claims of the signed context. */
function contextOf(headers) {
  return JSON.parse(Buffer.from(headers['x-user-context'].split('.')[1], 'base64url'))
}
