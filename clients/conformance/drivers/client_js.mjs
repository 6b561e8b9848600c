// The driver of `usher-client` for JavaScript, as docs/client-rules.md describes it.
import { createInterface } from 'node:readline'
import { createRequire } from 'node:module'

const folder = new URL('../../js/', import.meta.url)
const { createClient, UnauthorizedError } = await import(new URL('dist/index.js', folder))
const require = createRequire(new URL('package.json', folder))
const { WebSocket } = require('ws')
const { version } = require('./package.json')

const features = ['ticket', 'message', 'subprotocol', 'auto', 'queue', 'reconnect']
features.push('reauthenticate', 'prefetch', 'wake', 'subprotocols')
const waiting = new Map()
let client

const tell = (event, fields) => process.stdout.write(JSON.stringify({ event, ...fields }) + '\n')
const ms = (seconds) => (seconds === undefined ? undefined : seconds * 1000)

async function getToken({ reason, rejected }) {
  const n = waiting.size + 1
  const given = await new Promise((resolve) => {
    waiting.set(n, resolve)
    tell('token_wanted', { n, reason, rejected })
  })
  if (given.token) return given.token
  throw given.error === 'unauthorized' ? new UnauthorizedError('signed out') : new Error('away')
}

function create({ url, mode, options }) {
  client = createClient({
    url,
    auth: mode,
    getToken,
    WebSocket,
    proactive: options.proactive,
    protocols: options.subprotocols,
    backoff: { min: ms(options.backoff_min), max: ms(options.backoff_max) },
    queue: { maxMessages: options.queue_messages, ttl: ms(options.queue_ttl) },
  })
  client.on('state', ({ state, reason }) => tell('state', { state, reason }))
  client.on('message', (data) => tell('message', { data }))
  client.on('method', ({ method }) => tell('method', { method }))
  client.on('drop', (detail) => tell('dropped', detail))
}

const orders = {
  create,
  token: (order) => waiting.get(order.n)(order),
  send: ({ id, data }) => tell('send', { id, result: client.send(data) }),
  prefetch: () => client.prefetchTicket(),
  clear_queue: () => client.clearQueue(),
  // The event of a browser when the network is back.
  wake: () => globalThis.dispatchEvent(new Event('online')),
}

// Node has no window: the library only needs an object with these two functions.
const page = new EventTarget()
for (const name of ['addEventListener', 'removeEventListener', 'dispatchEvent']) {
  globalThis[name] ??= page[name].bind(page)
}

tell('ready', { client: `usher-client ${version} (JavaScript)`, features })
for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line)
  const run = orders[order.do] ?? (() => client[order.do]())
  Promise.resolve()
    .then(() => run(order))
    .catch((error) => tell('failed', { what: order.do, why: String(error) }))
}
process.exit(0)
