import { describe, expect, it } from 'vitest'
import { plan, type Backoff, type CloseKind } from '../src/machine.js'
import { aProblem, connect, fakeFetch, make, pass, record, setUp, socket, type AnyClient } from './support.js'

const exact: Partial<Backoff> = { min: 100, max: 1_000, factor: 2, jitter: 0 }
const wait = (kind: CloseKind, attempt = 0, hint = 0, wish?: boolean, backoff = exact, random = 0.5) =>
  plan(kind, attempt, hint, wish, backoff, random)

describe('plan', () => {
  it.each<CloseKind>(['normal', 'denied', 'replaced', 'timeout'])('ends after %s', (kind) => {
    expect(wait(kind)).toBeUndefined()
  })

  it.each<CloseKind>(['network', 'going_away', 'unavailable', 'busy', 'rejected'])('goes on after %s', (kind) => {
    expect(wait(kind, 1)).toBeGreaterThan(0)
  })

  it('does what the application wishes', () => {
    expect(wait('denied', 0, 0, true)).toBe(100)
    expect(wait('network', 0, 0, false)).toBeUndefined()
  })

  it('doubles the wait with each failure, up to the bound', () => {
    expect([0, 1, 2, 3, 4, 50].map((attempt) => wait('network', attempt))).toEqual([100, 200, 400, 800, 1_000, 1_000])
  })

  it('waits at random between 0 and the bound', () => {
    const full = { ...exact, jitter: 1 }
    expect([0, 0.25, 0.999].map((random) => wait('network', 3, 0, undefined, full, random))).toEqual([800, 600, 800 * 0.001].map((ms) => expect.closeTo(ms)))
  })

  it('waits at random by a part of the bound, where jitter is below 1', () => {
    expect(wait('network', 0, 0, undefined, { ...exact, jitter: 0.5 }, 1)).toBe(50)
  })

  it('refreshes once without a wait', () => {
    expect(wait('rejected', 0)).toBe(0)
    expect(wait('rejected', 1)).toBe(200)
  })

  it('waits for longer where there are too many', () => {
    expect(wait('busy', 0)).toBe(500)
    expect(wait('busy', 9)).toBe(1_000)
  })

  it('comes back at a random moment of the window of a drain', () => {
    expect([0, 0.5].map((random) => wait('going_away', 0, 4_000, undefined, exact, random))).toEqual([0, 2_000])
    expect(wait('going_away', 0)).toBe(100)
  })

  it('takes any other hint as the least wait', () => {
    expect(wait('unavailable', 0, 4_000)).toBe(4_100)
  })

  it('has defaults: 500 ms, doubled, up to 30 s, with full jitter', () => {
    expect(plan('network', 0, 0, undefined, {}, 0)).toBe(500)
    expect(plan('network', 50, 0, undefined, undefined, 0)).toBe(30_000)
    expect(plan('network', 1, 0, undefined, { min: undefined, max: undefined }, 0.5)).toBe(500)
    const spread = Array.from({ length: 50 }, () => plan('network', 0, 0, undefined)!)
    expect(Math.min(...spread)).toBeGreaterThanOrEqual(0)
    expect(Math.max(...spread)).toBeLessThanOrEqual(500)
    expect(new Set(spread).size).toBeGreaterThan(1)
  })
})

/** How a client gets from one state to the next: the edge, the reason that it gives, and what happens. */
const edges: [edge: string, reason: string, happens: (client: AnyClient) => unknown][] = [
  ['disconnected > connecting', 'connect', (client) => client.connect()],
  ['disconnected > connecting', 'reconnect', (client) => client.reconnect()],
  ['disconnected > connecting', 'reauthenticate', (client) => client.reauthenticate()],
  ['connecting > authenticating', 'opened', () => socket().open()],
  ['connecting > reconnecting', 'network', () => socket().end()],
  ['connecting > reconnecting', 'connect_timeout', () => pass(10_000)],
  ['connecting > disconnected', 'disconnect', (client) => client.disconnect()],
  ['connecting > disconnected', 'retries_exhausted', () => socket().end()],
  ['authenticating > authenticated', 'authenticated', () => socket().accept()],
  ['authenticating > connecting', 'reconnect', (client) => client.reconnect()],
  ['authenticating > reconnecting', 'rejected', () => socket().end(1008, 'Invalid token')],
  ['authenticating > disconnected', 'denied', () => socket().end(4403)],
  ['authenticating > disconnected', 'authentication_timeout', () => pass(5_000)],
  ['authenticating > disconnected', 'disconnect', (client) => client.disconnect()],
  ['authenticated > connecting', 'reconnect', (client) => client.reconnect()],
  ['authenticated > connecting', 'reauthenticate', (client) => client.reauthenticate()],
  ['authenticated > reconnecting', 'going_away', () => socket().end(1001)],
  ['authenticated > reconnecting', 'unavailable', () => socket().end(1013)],
  ['authenticated > reconnecting', 'busy', () => socket().end(1008, 'Too many messages')],
  ['authenticated > disconnected', 'normal', () => socket().end(1000)],
  ['authenticated > disconnected', 'replaced', () => socket().end(1008, 'Session replaced')],
  ['authenticated > disconnected', 'disconnect', (client) => client.disconnect()],
  ['reconnecting > connecting', 'retry', () => pass(30_000)],
  ['reconnecting > connecting', 'reconnect', (client) => client.reconnect()],
  ['reconnecting > disconnected', 'disconnect', (client) => client.disconnect()],
]

describe('the states', () => {
  setUp()

  async function reach(client: AnyClient, state: string) {
    if (state === 'disconnected') return
    void client.connect().catch(() => {})
    await pass()
    if (state === 'connecting') return
    socket().open()
    if (state === 'authenticating') return
    socket().accept()
    if (state === 'authenticated') return
    socket().end(1006)
  }

  it.each(edges)('%s: %s', async (edge, reason, happens) => {
    const [from, to] = edge.split(' > ')
    const client = make(reason === 'retries_exhausted' ? { maxRetries: 0 } : {})
    await reach(client, from!)
    expect(client.state).toBe(from)
    const states = record(client, 'state')
    void (happens(client) as Promise<void> | undefined)?.catch?.(() => {})
    if (reason === 'retry' || reason.endsWith('timeout')) await pass()
    expect(states[0]).toMatchObject({ previous: from, state: to, reason })
    expect(['retry', 'connect_timeout'].includes(reason) || client.state === to).toBe(true)
  })

  it('are five, and each change is told once', async () => {
    const client = make()
    const states = record(client, 'state')
    await connect(client)
    socket().end()
    await pass(500)
    client.disconnect()
    client.disconnect()
    expect(states.map(({ state }) => state)).toEqual([
      'connecting', 'authenticating', 'authenticated', 'reconnecting', 'connecting', 'disconnected',
    ])
    expect(states.every(({ previous }, at) => previous === (states[at - 1]?.state ?? 'disconnected'))).toBe(true)
  })

  it('stay where an attempt begins anew', async () => {
    const client = make()
    await reach(client, 'connecting')
    const states = record(client, 'state')
    void client.reconnect()
    expect(states).toEqual([])
  })

  it('say how many attempts have failed, and when the next one is', async () => {
    const client = make({ backoff: { jitter: 0, min: 100 } })
    const states = record(client, 'state')
    await reach(client, 'connecting')
    socket().end()
    await pass(100)
    socket().end()
    const waits = states.filter(({ state }) => state === 'reconnecting')
    expect(waits).toMatchObject([{ attempt: 1, retryInMs: 100 }, { attempt: 2, retryInMs: 200 }])
  })

  it('end with a refusal of the ticket endpoint', async () => {
    const client = make({ auth: 'ticket', fetch: fakeFetch(aProblem(403, 'PERMISSION_DENIED', false)) })
    const states = record(client, 'state')
    void client.connect().catch(() => {})
    await pass()
    expect(states.at(-1)).toMatchObject({ state: 'disconnected', reason: 'ticket' })
  })
})
