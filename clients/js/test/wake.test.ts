import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { connect, make, pass, record, setUp, socket, sockets } from './support.js'

setUp()

let page: EventTarget
beforeEach(() => {
  page = new EventTarget()
  vi.stubGlobal('addEventListener', page.addEventListener.bind(page))
  vi.stubGlobal('removeEventListener', page.removeEventListener.bind(page))
})
afterEach(() => vi.unstubAllGlobals())

const happen = (name: string, more: object = {}) => page.dispatchEvent(Object.assign(new Event(name), more))

/** The page sleeps: the clock goes on, its timers do not. */
const sleep = (ms: number) => vi.setSystemTime(Date.now() + ms)

describe('a wait between two attempts', () => {
  it.each(['online', 'pageshow', 'visibilitychange'])('ends with %s', async (name) => {
    const client = make({ backoff: { min: 60_000, max: 60_000, jitter: 0 } })
    await connect(client)
    socket().end()
    await pass(100)
    expect(sockets()).toHaveLength(1)
    happen(name)
    await pass()
    expect(sockets()).toHaveLength(2)
    expect(client.state).toBe('connecting')
    await pass(60_000)
    expect(sockets().length).toBeLessThan(5)
  })

  it('goes on where the page is not listened to', async () => {
    const client = make({ lifecycle: false, backoff: { min: 60_000, jitter: 0 } })
    await connect(client)
    socket().end()
    happen('online')
    await pass()
    expect(sockets()).toHaveLength(1)
  })
})

describe('a session', () => {
  it.each([
    ['online', {}],
    ['pageshow', { persisted: true }],
  ])('is not trusted after %s', async (name, more) => {
    const getToken = vi.fn(({ reason }) => reason)
    const client = make({ getToken })
    const states = record(client, 'state')
    await connect(client)
    happen(name, more)
    await pass()
    expect(sockets()).toHaveLength(2)
    expect(sockets()[0]!.closedWith).toBe(1000)
    expect(getToken).toHaveBeenLastCalledWith({ reason: 'expiring', rejected: undefined })
    expect(states.at(-1)).toMatchObject({ state: 'connecting', previous: 'authenticated', reason: 'wake' })
  })

  it.each([
    ['visibilitychange', {}],
    ['pageshow', { persisted: false }],
  ])('stays after %s', async (name, more) => {
    const client = make()
    await connect(client)
    happen(name, more)
    await pass()
    expect(sockets()).toHaveLength(1)
  })

  it('is renewed after sleep when the page is seen again', async () => {
    const client = make()
    await connect(client)
    sleep(90_001)
    happen('visibilitychange')
    await pass()
    expect(sockets()).toHaveLength(2)
  })

  it('is renewed after sleep before a message is sent', async () => {
    const client = make()
    await connect(client)
    await pass(60_000)
    sleep(89_000)
    expect(client.send('still fresh')).toBe('sent')
    sleep(10_000)
    expect(client.send('after sleep')).toBe('queued')
    await pass()
    socket().open()
    socket().accept()
    expect(socket().sent.at(-1)).toBe('after sleep')
    expect(sockets()[0]!.sent).not.toContain('after sleep')
  })

  it('is renewed after sleep by itself', async () => {
    const client = make()
    await connect(client)
    sleep(90_001)
    await pass(5_000)
    expect(sockets()).toHaveLength(2)
    expect(client.state).toBe('connecting')
  })

  it('goes on for hours where nobody sleeps, and keeps no process alive', async () => {
    const client = make()
    await connect(client)
    await pass(3 * 3_600_000)
    expect(client.state).toBe('authenticated')
    expect(sockets()).toHaveLength(1)
  })
})

describe('a client that has stopped', () => {
  it('wakes where its own timer has stopped it', async () => {
    const client = make()
    client.connect().catch(() => {})
    await pass()
    socket().open()
    await pass(5_000)
    expect(client.state).toBe('disconnected')
    happen('online')
    await pass()
    expect(client.state).toBe('connecting')
  })

  it.each([1000, 4403, 4409])('sleeps on after %i', async (code) => {
    const client = make()
    await connect(client)
    socket().end(code)
    happen('online')
    await pass(60_000)
    expect(client.state).toBe('disconnected')
  })

  it('listens to the page no more after disconnect()', async () => {
    const remove = vi.spyOn(globalThis as any, 'removeEventListener')
    const client = make()
    client.connect().catch(() => {})
    await pass()
    socket().open()
    await pass(5_000)
    client.disconnect()
    expect(remove.mock.calls.map(([name]) => name)).toEqual(['online', 'pageshow', 'visibilitychange'])
    happen('online')
    await pass(60_000)
    expect(sockets()).toHaveLength(1)
  })
})
