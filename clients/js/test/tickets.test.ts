import { describe, expect, it, vi } from 'vitest'
import { UnauthorizedError } from '../src/index.js'
import { aProblem, aTicket, fakeFetch, make, pass, record, setUp, socket, sockets, type Answer } from './support.js'

setUp()

const start = (answers: Answer[] = [aTicket()], options = {}) => {
  const fetch = fakeFetch(...answers)
  return { fetch, client: make({ auth: 'ticket', fetch, ...options }) }
}
const shown = () => sockets().map(({ url }) => new URL(url).searchParams.get('ticket'))

describe('the ticket endpoint', () => {
  it('is asked by POST with the token, and the ticket goes into the query', async () => {
    const { fetch, client } = start([{ status: 201, body: { ticket_id: 'one', ttl_seconds: 30 } }])
    void client.connect()
    await pass()
    expect(fetch.asked).toEqual([
      {
        url: 'https://chat.test/websocket/ticket',
        method: 'POST',
        headers: { 'Content-Type': 'application/json', Authorization: 'Bearer token' },
        body: {},
        credentials: undefined,
      },
    ])
    expect(socket().url).toBe('wss://chat.test/ws?ticket=one')
    expect(socket().protocols).toEqual([])
  })

  it('may be elsewhere, for a route, with another parameter, and by the cookie of the page', async () => {
    const { fetch, client } = start(undefined, {
      url: 'ws://chat.test/ws?room=1#top',
      getToken: undefined,
      ticketUrl: 'https://id.test/tickets',
      ticketParameter: 't',
      route: '/ws',
    })
    void client.connect()
    await pass()
    expect(fetch.asked[0]).toMatchObject({ url: 'https://id.test/tickets', body: { route: '/ws' }, credentials: 'include' })
    expect(fetch.asked[0]!.headers.Authorization).toBeUndefined()
    expect(socket().url).toMatch(/^ws:\/\/chat\.test\/ws\?room=1&t=t\d+/)
  })

  it('is the global fetch where none is given', async () => {
    const fetch = fakeFetch(aTicket())
    vi.stubGlobal('fetch', fetch)
    void make({ auth: 'ticket' }).connect()
    await pass()
    expect(fetch.asked).toHaveLength(1)
  })

  it('gives another ticket for each attempt', async () => {
    const { client } = start()
    void client.connect()
    for (let attempt = 0; attempt < 4; attempt++) {
      await pass(2_000 * attempt)
      socket().end()
    }
    expect(shown().length).toBe(4)
    expect(new Set(shown()).size).toBe(4)
  })

  it('is asked once by attempts at the same time', async () => {
    const { fetch, client } = start()
    for (let time = 0; time < 5; time++) void client.connect()
    await pass()
    expect(fetch.asked).toHaveLength(1)
    expect(sockets()).toHaveLength(1)
  })

  it.each<[string, Answer]>([
    ['is a page of HTML', { body: '<html>log in to the hotel</html>' }],
    ['is a list', { status: 201, body: [] }],
    ['is null', { status: 201, body: 'null' }],
    ['has no ticket', { status: 201, body: {} }],
  ])('is asked again where its answer %s', async (_, answer) => {
    const { fetch, client } = start([answer, aTicket()])
    const errors = record(client, 'error')
    void client.connect()
    await pass(500)
    expect(errors[0]).toMatchObject({ phase: 'ticket', error: { code: 'NO_TICKET' } })
    expect(fetch.asked).toHaveLength(2)
    expect(sockets()).toHaveLength(1)
  })

  it('is left after 3 seconds', async () => {
    const { fetch, client } = start(['never', aTicket()])
    const errors = record(client, 'error')
    void client.connect()
    await pass(2_999)
    expect(errors).toEqual([])
    await pass(501)
    expect(errors[0]!.error).toMatchObject({ code: 'NO_ANSWER' })
    expect(fetch.asked).toHaveLength(2)
  })

  it('is waited for as long as it says', async () => {
    const { fetch, client } = start([{ ...aProblem(503, 'STORE_UNAVAILABLE', true), headers: { 'Retry-After': '7' } }, aTicket()])
    const errors = record(client, 'error')
    void client.connect()
    await pass(6_999)
    expect(fetch.asked).toHaveLength(1)
    await pass(501)
    expect(fetch.asked).toHaveLength(2)
    expect(errors[0]!.error).toMatchObject({ code: 'STORE_UNAVAILABLE', status: 503, retryAfterMs: 7_000, requestId: 'r1' })
  })

  it.each(['Sun, 29 Nov 2026 10:00:00 GMT', '0'])('may say a Retry-After that is not understood: %s', async (value) => {
    const { client } = start([{ ...aProblem(503, 'STORE_UNAVAILABLE', true), headers: { 'Retry-After': value } }])
    const errors = record(client, 'error')
    void client.connect()
    await pass()
    expect((errors[0]!.error as any).retryAfterMs).toBeUndefined()
    expect(client.state).toBe('reconnecting')
  })

  it('never makes a wait that a timer cannot hold', async () => {
    const { fetch, client } = start([{ ...aProblem(429, 'RATE_LIMITED', true), headers: { 'Retry-After': '99999999' } }])
    void client.connect()
    await pass(60_000)
    expect(fetch.asked).toHaveLength(1)
  })

  it('refuses a token: a fresh one is fetched at once, then with back-off', async () => {
    const getToken = vi.fn(({ reason }) => (reason === 'rejected' ? 'fresh' : 'stale'))
    const { fetch, client } = start([aProblem(401, 'INVALID_TOKEN', true)], { getToken })
    void client.connect()
    await pass()
    expect(getToken.mock.calls).toEqual([[{ reason: 'initial' }], [{ reason: 'rejected', rejected: 'stale' }]])
    expect(fetch.asked.map(({ headers }) => headers.Authorization)).toEqual(['Bearer stale', 'Bearer fresh'])
    expect(client.state).toBe('reconnecting')
    await pass(500)
    expect(fetch.asked).toHaveLength(3)
  })

  it('refuses for good: the client stops', async () => {
    const { fetch, client } = start([aProblem(403, 'PERMISSION_DENIED', false)])
    await Promise.all([expect(client.connect()).rejects.toMatchObject({ code: 'PERMISSION_DENIED', status: 403 }), pass()])
    await pass(60_000)
    expect(fetch.asked).toHaveLength(1)
    expect(client.lastError).toMatchObject({ recoverable: false })
  })

  it('may say no word of Usher: another attempt follows', async () => {
    const { client } = start([{ status: 404, body: 'Not Found' }])
    const errors = record(client, 'error')
    void client.connect()
    await pass()
    expect(errors[0]!.error).toMatchObject({ code: 'HTTP', status: 404, recoverable: true })
    expect(client.state).toBe('reconnecting')
  })

  it('is spared for 30 seconds after six failures in a row', async () => {
    const { fetch, client } = start([{ status: 500 }], { backoff: { min: 100, max: 100, jitter: 0 } })
    void client.connect()
    await pass(20_000)
    expect(fetch.asked).toHaveLength(6)
    await pass(15_000)
    expect(fetch.asked.length).toBeGreaterThan(6)
    expect(fetch.asked.length).toBeLessThan(9)
  })

  it('is asked at once by reconnect(), however often it has failed', async () => {
    const { fetch, client } = start([{ status: 500 }], { backoff: { min: 100, max: 100, jitter: 0 } })
    void client.connect()
    await pass(5_000)
    expect(fetch.asked).toHaveLength(6)
    void client.reconnect()
    await pass()
    expect(fetch.asked).toHaveLength(7)
  })

  it('is not spared because the network is away', async () => {
    const { fetch, client } = start([new TypeError('fetch failed')], { backoff: { min: 100, max: 100, jitter: 0 } })
    void client.connect()
    await pass(2_000)
    expect(fetch.asked.length).toBeGreaterThan(15)
  })

  it('is told of by events', async () => {
    const { client } = start([aProblem(500, 'INTERNAL', true), aTicket()])
    const seen = record(client, 'ticket')
    void client.connect()
    await pass(500)
    expect(seen).toEqual([
      { phase: 'requested' },
      { phase: 'failed', ms: 0, status: 500, code: 'INTERNAL' },
      { phase: 'requested' },
      { phase: 'issued', ms: 0 },
    ])
  })
})

describe('a ticket that is fetched ahead', () => {
  it('is one, and the next attempt uses it', async () => {
    const { fetch, client } = start()
    await Promise.all([client.prefetchTicket(), client.prefetchTicket()])
    await client.prefetchTicket()
    expect(fetch.asked).toHaveLength(1)
    void client.connect()
    await pass()
    expect(fetch.asked).toHaveLength(1)
    expect(sockets()).toHaveLength(1)
  })

  it.each([
    [22_499, 1],
    [22_500, 2],
  ])('is used for three quarters of its life: after %i ms there were %i requests', async (age, requests) => {
    const { fetch, client } = start([aTicket(30)])
    await client.prefetchTicket()
    await pass(age)
    void client.connect()
    await pass()
    expect(fetch.asked).toHaveLength(requests)
  })

  it('is taken by one attempt alone', async () => {
    const { client } = start()
    await client.prefetchTicket()
    void client.connect()
    void client.reconnect()
    void client.reconnect()
    await pass()
    socket().end()
    await pass(1_000)
    expect(new Set(shown()).size).toBe(shown().length)
  })

  it.each<[string, (client: ReturnType<typeof make>) => unknown]>([
    ['clearTickets()', (client) => client.clearTickets()],
    ['reauthenticate()', (client) => client.reauthenticate()],
    ['disconnect()', (client) => client.disconnect()],
  ])('is forgotten by %s', async (_, happens) => {
    const { fetch, client } = start()
    const seen = record(client, 'ticket')
    await client.prefetchTicket()
    happens(client)
    expect(seen.map(({ phase }) => phase)).toContain('cleared')
    void client.connect()
    await pass()
    expect(fetch.asked).toHaveLength(2)
  })

  it('is forgotten on its way, too', async () => {
    const { fetch, client } = start()
    const ahead = client.prefetchTicket()
    await Promise.resolve()
    client.clearTickets()
    await ahead
    client.clearTickets()
    void client.connect()
    await pass()
    expect(fetch.asked).toHaveLength(2)
  })

  it('says so where it cannot be had', async () => {
    const { client } = start([aProblem(500, 'INTERNAL', true)])
    await expect(client.prefetchTicket()).rejects.toMatchObject({ code: 'INTERNAL' })
  })
})

describe('an attempt that is overtaken while it waits for a ticket', () => {
  it('asks for no other one', async () => {
    let answer!: (response: Response) => void
    const fetch = vi.fn(() => new Promise<Response>((resolve) => (answer = resolve)))
    const { client } = start([], { fetch })
    client.connect().catch(() => {})
    await pass()
    client.disconnect()
    answer(Response.json({ ticket_id: 'late' }))
    await pass(60_000)
    expect(fetch).toHaveBeenCalledTimes(1)
    expect(sockets()).toEqual([])
  })
})

describe('getTicket', () => {
  it('takes the place of the endpoint', async () => {
    const getTicket = vi.fn(() => 'mine')
    void start([], { getToken: undefined, getTicket }).client.connect()
    await pass()
    expect(getTicket).toHaveBeenCalledWith({ reason: 'initial', rejected: undefined })
    expect(shown()).toEqual(['mine'])
  })

  it('may say how long a ticket is good for', async () => {
    const getTicket = vi.fn(async () => ({ ticket_id: 'mine', ttl_seconds: 1 }))
    const { client } = start([], { getTicket })
    await client.prefetchTicket()
    await pass(750)
    void client.connect()
    await pass()
    expect(getTicket).toHaveBeenCalledTimes(2)
  })

  it('stops the client by an UnauthorizedError', async () => {
    const { client } = start([], { getTicket: () => Promise.reject(new UnauthorizedError('signed out')) })
    const states = record(client, 'state')
    await Promise.all([expect(client.connect()).rejects.toThrow('signed out'), pass()])
    expect(states.at(-1)).toMatchObject({ state: 'disconnected', reason: 'unauthorized' })
  })

  it('has the time of connectTimeout', async () => {
    const { client } = start([], { getTicket: () => new Promise<string>(() => {}), connectTimeout: 1_000 })
    void client.connect()
    await pass(1_000)
    expect(client.lastError).toMatchObject({ code: 'NO_ANSWER' })
  })

  it('may fail without an error, and at once', async () => {
    const getTicket = vi.fn<() => Promise<string>>().mockRejectedValueOnce(undefined)
    getTicket.mockImplementationOnce(() => {
      throw new Error('at once')
    })
    getTicket.mockResolvedValue('third')
    const { client } = start([], { getTicket, backoff: { min: 100, jitter: 0 } })
    const errors = record(client, 'error')
    void client.connect()
    await pass(400)
    expect(errors.map(({ error }) => (error as any).code ?? error.message)).toEqual(['NO_ANSWER', 'at once'])
    expect(shown()).toEqual(['third'])
  })

  it('gives the credential of a first message where there is no getToken', async () => {
    const { client } = start([], { auth: 'message', getToken: undefined, getTicket: () => 'mine' })
    void client.connect()
    await pass()
    socket().open()
    expect(socket().auth.payload).toEqual({ ticket: 'mine' })
    expect(shown()).toEqual([null])
  })
})

describe('a ticket that was fetched ahead is dropped', () => {
  it('with the token that it was given for, and kept with the same one', async () => {
    let token = 'one'
    const { fetch, client } = start(undefined, { getToken: () => token })
    const events = record(client, 'ticket')
    await client.prefetchTicket()
    await client.prefetchTicket()
    expect(fetch.asked).toHaveLength(1)
    token = 'two'
    void client.connect()
    await pass()
    expect(fetch.asked.map(({ headers }) => headers.Authorization)).toEqual(['Bearer one', 'Bearer two'])
    expect(events.map(({ phase }) => phase)).toEqual(['requested', 'issued', 'cleared', 'requested', 'issued'])
  })

  it('with the connection that failed', async () => {
    const { fetch, client } = start()
    void client.connect()
    await pass()
    socket().open()
    await pass(100)
    await client.prefetchTicket()
    expect(fetch.asked).toHaveLength(2)
    socket().end()
    await pass(2_000)
    expect(fetch.asked).toHaveLength(3)
    expect(shown()).toHaveLength(2)
    expect(new Set(shown()).size).toBe(2)
  })
})
