// A process of clients for thousand.mjs: obeys the orders that come over IPC, and answers each.

import { setTimeout as sleep } from 'node:timers/promises'
import WebSocket from 'ws'
import { createClient } from '../dist/index.js'
import { until } from '../../../tests/e2e/browser/process.mjs'

const PATIENCE = 120_000
/** The library's own default, written here because waits are compared with it. */
const BACKOFF = { min: 500, max: 30_000, factor: 2, jitter: 1 }

/** Each ticket that a socket was opened with: which, when it was issued, and when its user's connection before was lost. */
const used = []
let setup
let people = []

const orders = {
  'set-up': (given) => void (setup = given),

  /** New clients at the given rate, each with a first message. Answers when each has heard its own. */
  async arrive({ auth }) {
    people = setup.tokens.map((token, index) => new Person(token, auth, `${auth}-${process.pid}-${index}`))
    for (const one of people) {
      one.write('first')
      one.client.connect().catch(() => {})
      await sleep(1000 / setup.rate)
    }
    await everybodyIsIn()
    return people.map((one) => one.report())
  },

  /** Bytes of heap that the tickets take which clients keep, one each. */
  async cache() {
    await prefetch()
    // Until the HTTP client has closed what it has kept open.
    await sleep(6_000)
    const full = await heap()
    for (const one of people) one.client.clearTickets()
    return [{ clients: people.length, bytes: full - (await heap()) }]
  },

  /** Everybody keeps a ticket, which is old after the restart, and writes a message as soon as the connection is lost. */
  async prepare() {
    await prefetch()
    for (const one of people) one.begin()
    return []
  },

  async 'come-back'({ readyAt }) {
    await everybodyIsIn()
    return people.map((one) => one.report(readyAt))
  },

  leave() {
    for (const one of people) one.client.disconnect()
    return []
  },

  tickets: () => used,
}

/** One client, and what happened to it since `begin`. */
class Person {
  constructor(token, auth, name) {
    this.name = name
    this.round = 0
    /** When the ticket of this name was issued. */
    this.issued = new Map()
    this.begin()
    const one = this
    this.client = createClient({
      url: setup.url,
      auth,
      getToken: () => token,
      backoff: BACKOFF,
      // No message is dropped for its age: one that does not arrive is lost.
      queue: { ttl: PATIENCE },
      WebSocket: class extends WebSocket {
        constructor(url, protocols) {
          super(url, protocols)
          const ticket = new URL(url).searchParams.get('ticket')
          if (ticket) used.push({ ticket, issuedAt: one.issued.get(ticket), lostAt: one.lostAt })
        }
      },
      fetch: async (url, init) => {
        const answer = await fetch(url, init)
        if (answer.status === 201) {
          const now = Date.now()
          one.issued.set((await answer.clone().json()).ticket_id, now)
        }
        return answer
      },
    })
    this.client.on('state', (event) => this.note(event))
    this.client.on('method', (method) => Object.assign(this, method))
    this.client.on('ticket', ({ phase, ms }) => {
      if (phase === 'issued' || phase === 'failed') this.tickets.push({ phase, ms, at: Date.now() - ms })
    })
    this.client.on('message', (text) => {
      if (text !== this.words) return
      this.echoes++
      this.echoAt ??= Date.now()
    })
  }

  begin() {
    this.round++
    this.lostAt = this.backAt = this.echoAt = this.words = this.method = this.fallbackFrom = undefined
    this.echoes = this.window = 0
    this.attempts = []
    this.tickets = []
  }

  note({ state, attempt }) {
    const now = Date.now()
    if (state === 'connecting') this.attempts.push(now)
    if (state === 'authenticated') this.backAt = now
    if (state !== 'reconnecting') return
    this.backAt = undefined
    this.window = Math.min(BACKOFF.max, BACKOFF.min * BACKOFF.factor ** (attempt - 1))
    if (this.lostAt !== undefined) return
    this.lostAt = now
    this.write('meanwhile')
  }

  /** A message that is told apart from all others. */
  write(what) {
    this.words = JSON.stringify({ from: this.name, round: this.round, what })
    this.client.send(this.words)
  }

  isIn = () => this.client.state === 'authenticated' && this.echoes > 0

  report(readyAt = 0) {
    const began = this.attempts[0]
    return {
      isBack: this.client.state === 'authenticated',
      method: this.method,
      fallbackFrom: this.fallbackFrom,
      attempts: this.attempts.length,
      attemptsSinceReady: this.attempts.filter((at) => at >= readyAt).length,
      window: this.window,
      /** From the first attempt to the session and to the echo of the first message. */
      connectMs: this.backAt - began,
      echoMs: this.echoAt - began,
      backMs: Math.max(0, this.backAt - readyAt),
      echoes: this.echoes,
      tickets: this.tickets.filter(({ at }) => at >= readyAt),
    }
  }
}

/** Everybody fetches the next ticket, at the rate at which they came. */
async function prefetch() {
  const fetches = []
  for (const one of people) {
    fetches.push(one.client.prefetchTicket())
    await sleep(1000 / setup.rate)
  }
  await Promise.all(fetches)
}

/** Resolves when everybody is in, and also when somebody is not after a long time: the report says so. */
const everybodyIsIn = () => until(() => people.every((one) => one.isIn()), 'everybody is in', PATIENCE).catch(() => {})

/** The bytes in use once nothing more can be collected. */
async function heap() {
  for (let before = Infinity; ; ) {
    gc()
    // What is finalised runs between two collections.
    await sleep(50)
    const { heapUsed } = process.memoryUsage()
    if (heapUsed >= before - 1024) return heapUsed
    before = heapUsed
  }
}

process.on('message', async ({ order, ...more }) => {
  try {
    const answer = await orders[order](more)
    if (order !== 'set-up') process.send({ answer })
  } catch (error) {
    process.send({ failed: `${order}: ${error.stack}` })
  }
})
