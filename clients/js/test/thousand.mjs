// A thousand clients of usher-client through restarts of the real Usher, with an echo behind it.
//
// Over ws://: all clients share the cores with Usher, and two TLS handshakes of Node cost more than everything else here.
//
//   node thousand.mjs USHER_BINARY [CLIENTS] [--json FILE]
//
// Prints what was measured as a table, and writes it as JSON where asked. Exits 0 when what has to be right on every
// machine was right (all clients came back and fell back, no ticket was used twice), 1 when it was not, 2 where it was
// called wrongly. Times are measured and not judged: they belong to the machine. Their bounds are for clients that come one
// after the other. After a restart all come at once, from the cores that Usher has to share with them. An attempt that a
// slow machine cuts off is a second one: with few clients 90 % have to be back at the first.

import { execFileSync, fork } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { createUsher, mint, startEcho } from './usher.mjs'

/** New clients in a second, where they do not come back from a restart. */
const RATE = 100
/** Clients in one process of Node. */
const PER_PROCESS = 250

let asked
try {
  asked = parseArgs({ allowPositionals: true, options: { json: { type: 'string' } } })
} catch {
  asked = { positionals: [] }
}
const [binary, given = '1000'] = asked.positionals
const count = Number(given)
if (!binary || !(count > 0)) {
  console.error('usage: node thousand.mjs USHER_BINARY [CLIENTS] [--json FILE]')
  process.exit(2)
}
// A session is a socket of the client and two of Usher. As many again are those that ask for tickets meanwhile.
const descriptors = count * 4 + 200
const allowed = Number(execFileSync('sh', ['-c', 'ulimit -n'], { encoding: 'utf8' }).replace('unlimited', 'Infinity'))
if (allowed < descriptors) {
  console.error(`${count} clients need ${descriptors} descriptors, and ${allowed} are allowed: raise the hard limit (ulimit -Hn)`)
  process.exit(2)
}

/** All clients come from one address here, and it is the limits for one address that a load from one machine meets. */
const LIMITS = `
[tickets]
rate_per_address = "${count * 100}/1m"
[limits]
connections = ${count * 10}
unauthenticated = ${count * 5}
unauthenticated_per_address = ${count * 4}
[store]
max_tickets = ${count * 10}
`
const BY_TICKET = ['ticket', 'message']
/** Percent of the clients that have to be back at their first attempt. */
const AT_ONCE = count < 1000 ? 90 : 99

const echo = await startEcho()
const usher = await createUsher(binary, echo, { auth: BY_TICKET, isPlain: true, more: LIMITS })
const workers = []
let status = 1
try {
  await usher.start()
  status = (await measure()) ? 0 : 1
} catch (error) {
  console.error(`FAILED  ${error.stack}`)
} finally {
  for (const worker of workers) worker.kill()
  await usher.remove()
  echo.stop()
}
process.exit(status)

/** Takes all clients through everything, prints it, and returns whether what has to be right was right. */
async function measure() {
  const sizes = []
  for (let left = count; left > 0; left -= PER_PROCESS) sizes.push(Math.min(left, PER_PROCESS))
  sizes.forEach((size, index) => {
    const tokens = Array.from({ length: size }, (_, one) => mint(`user-${index * PER_PROCESS + one}`))
    workers.push(startWorker({ url: usher.url, tokens, rate: RATE / sizes.length }))
  })

  const arrival = await all('arrive', { auth: 'ticket' })
  const cache = await all('cache')
  const restarts = []
  for (const signal of ['SIGTERM', 'SIGKILL']) restarts.push({ signal, ...(await restart(signal)) })
  // Clients that found tickets there, and find them gone after the next restart.
  await all('leave')
  const autos = await all('arrive', { auth: 'auto' })
  usher.configure(['message'])
  const fallback = await restart('SIGTERM')
  const tickets = await all('tickets')

  const figures = summarise({ arrival, cache, restarts, autos, fallback, tickets })
  print(figures)
  if (asked.values.json) writeFileSync(asked.values.json, JSON.stringify({ clients: count, figures }, null, 2) + '\n')
  return figures.every(({ judged, holds }) => !judged || holds)
}

function startWorker(setup) {
  const worker = fork(fileURLToPath(new URL('thousand-worker.mjs', import.meta.url)), {
    // Code that is not used for a while is not collected with the rest.
    execArgv: ['--expose-gc', '--no-flush-bytecode'],
  })
  worker.once('exit', (code, signal) => {
    // After the end of the measurement it is ended by its signal.
    if (signal === null) throw new Error(`a process of clients ended with ${code}`)
  })
  worker.send({ order: 'set-up', ...setup })
  return worker
}

/** Gives an order to all processes of clients. Resolves with their answers joined. */
async function all(order, more) {
  const answers = await Promise.all(workers.map((worker) => ask(worker, { order, ...more })))
  return answers.flat()
}

function ask(worker, order) {
  return new Promise((resolve, reject) => {
    worker.once('message', ({ failed, answer }) => (failed ? reject(new Error(failed)) : resolve(answer)))
    worker.send(order)
  })
}

/** Stops Usher by `signal`, starts it again, and waits for everybody. */
async function restart(signal) {
  await all('prepare')
  const stoppedAt = Date.now()
  await usher.stop(signal)
  await usher.start()
  const readyAt = Date.now()
  return { awayMs: readyAt - stoppedAt, clients: await all('come-back', { readyAt }) }
}

function summarise({ arrival, cache, restarts, autos, fallback, tickets }) {
  const figures = []
  const add = (what, measured, rest = {}) => figures.push({ what, measured, ...rest })
  const times = (what, values, most) => {
    const spread = { median: at(values, 0.5), p99: at(values, 0.99), most: at(values, 1) }
    add(what, `${spread.median} / ${spread.p99} / ${spread.most} ms`, { ...spread, ...(most && { bound: `at most ${most} ms`, holds: spread.most <= most }) })
  }
  const share = (what, part, whole, bound, isKept, judged = false) => {
    const percent = whole === 0 ? NaN : (100 * part) / whole
    add(what, `${percent.toFixed(2)} % (${part} of ${whole})`, { part, whole, bound, holds: isKept(percent), judged })
  }
  const none = (what, number) => add(what, `${number}`, { number, bound: 'none', holds: number === 0, judged: true })
  const requests = (people) => people.flatMap((one) => one.tickets)
  const issued = (people) => requests(people).filter(({ phase }) => phase === 'issued').map(({ ms }) => ms)
  const isWhole = (percent) => percent === 100

  const first = [...arrival, ...autos]
  times('connection: connect() to authenticated', first.map((one) => one.connectMs), 2000)
  times('first event: connect() to the first message', first.map((one) => one.echoMs), 5000)
  times('ticket: request to answer', issued(first), 500)
  share('attempts that became a session', first.filter((one) => one.isBack).length, first.reduce((sum, one) => sum + one.attempts, 0), 'at least 99.5 %', (percent) => percent >= 99.5)
  share('ticket requests that failed', requests(first).filter(({ phase }) => phase === 'failed').length, requests(first).length, 'at most 0.1 %', (percent) => percent <= 0.1)
  const bytes = Math.round(cache.reduce((sum, one) => sum + one.bytes, 0) / count)
  add('cache: heap for the ticket that is kept, a client', `${bytes} bytes`, { bytes, bound: 'at most 1024 bytes', holds: bytes <= 1024 })

  const back = (name, { awayMs, clients }) => {
    add(`${name}: Usher was away`, `${awayMs} ms`, { awayMs })
    share(`${name}: back`, clients.filter((one) => one.isBack).length, count, '100 %', isWhole, true)
    share(`${name}: back within the back-off window that ran when Usher was ready`, clients.filter((one) => one.isBack && one.attemptsSinceReady <= 1).length, count, `more than ${AT_ONCE} %`, (percent) => percent > AT_ONCE, true)
    times(`${name}: ready to authenticated`, clients.map((one) => one.backMs))
    add(`${name}: the longest back-off window`, `${at(clients.map((one) => one.window), 1)} ms`)
    share(`${name}: what was written meanwhile arrived, and once`, clients.filter((one) => one.echoes === 1).length, count, '100 %', isWhole, true)
  }
  for (const { signal, ...rest } of restarts) {
    back(signal, rest)
    times(`${signal}: ticket: request to answer`, issued(rest.clients))
    share(`${signal}: ticket requests that failed since Usher was ready`, requests(rest.clients).filter(({ phase }) => phase === 'failed').length, requests(rest.clients).length, 'at most 0.1 %', (percent) => percent <= 0.1)
  }
  back('tickets off', fallback)
  // Before, they came by ticket: else there is nothing to fall back from.
  share('tickets off: fell back from ticket to message', fallback.clients.filter((one, index) => autos[index].method === 'ticket' && one.isBack && one.method === 'message').length, count, '100 %', isWhole, true)

  add('tickets used', `${tickets.length}`)
  none('tickets used twice', tickets.length - new Set(tickets.map(({ ticket }) => ticket)).size)
  none('tickets used that are older than the loss of the connection before', tickets.filter(({ issuedAt, lostAt }) => !(issuedAt >= (lostAt ?? 0))).length)
  return figures
}

/** The value below which this share of the values is. */
function at(values, share) {
  const sorted = values.toSorted((one, other) => one - other)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]
}

function print(figures) {
  const rows = figures.map(({ what, measured, bound = '', holds, judged }) =>
    [what, measured, bound, bound === '' ? '' : holds ? 'kept' : judged ? 'BROKEN' : 'not kept'])
  rows.unshift([`${count} clients; times: median / 99th percentile / longest`, 'measured', 'bound', ''])
  const widths = [0, 1, 2].map((column) => Math.max(...rows.map((row) => row[column].length)))
  for (const row of rows) console.log(row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  ').trimEnd())
}
