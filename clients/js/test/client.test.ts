import { afterEach, describe, expect, it, vi } from 'vitest'
import { UnauthorizedError, UsherError } from '../src/index.js'
import { aTicket, connect, fakeFetch, make, pass, record, setUp, socket, sockets } from './support.js'

setUp()
afterEach(() => vi.unstubAllGlobals())

describe('the first message', () => {
  it('is the token, with an id and a time', async () => {
    void make().connect()
    await pass()
    socket().open()
    expect(socket().url).toBe('wss://chat.test/ws')
    expect(socket().sent).toHaveLength(1)
    expect(socket().auth).toEqual({ type: 'auth', id: expect.any(String), timestamp: new Date().toISOString(), payload: { token: 'token' } })
  })

  it('is accepted by auth_ok, which the application does not see', async () => {
    const client = make()
    const messages = record(client, 'message')
    await connect(client, { user: 'ada', session_id: 's1', expires_at: 5_000 })
    expect(client.state).toBe('authenticated')
    expect(client.session).toEqual({ user: 'ada', sessionId: 's1', expiresAt: 5_000 })
    expect(messages).toEqual([])
  })

  it('may give a session without an end', async () => {
    const client = make()
    await connect(client, { expires_at: null })
    expect(client.session!.expiresAt).toBeUndefined()
  })

  it('is accepted by the first message of the backend, where there is no auth_ok', async () => {
    const client = make()
    const messages = record(client, 'message')
    void client.connect()
    await pass()
    socket().open()
    socket().receive('hello')
    expect(client.state).toBe('authenticated')
    expect(messages).toEqual(['hello'])
    expect(client.session).toBeUndefined()
  })

  it('is accepted by the message that the application knows, and others are delivered before', async () => {
    const client = make({ authenticatedWhen: (message) => message === 'welcome' })
    const messages = record(client, 'message')
    void client.connect()
    await pass()
    socket().open()
    socket().receive('notice')
    expect(client.state).toBe('authenticating')
    socket().receive('welcome')
    expect(client.state).toBe('authenticated')
    expect(messages).toEqual(['notice', 'welcome'])
  })

  it('has 5 seconds, and then the client stops; a late auth_ok changes nothing', async () => {
    const client = make()
    const errors = record(client, 'error')
    const connected = client.connect()
    connected.catch(() => {})
    await pass()
    socket().open()
    await pass(4_999)
    expect(client.state).toBe('authenticating')
    await pass(1)
    expect(client.state).toBe('disconnected')
    expect(socket().closedWith).toBe(1000)
    expect(errors).toMatchObject([{ phase: 'auth', error: { code: 'AUTHENTICATION_TIMEOUT' } }])
    await expect(connected).rejects.toBe(client.lastError)
    socket().accept()
    await pass(60_000)
    expect(client.state).toBe('disconnected')
    expect(sockets()).toHaveLength(1)
  })

  it('has the time of authTimeout', async () => {
    const client = make({ authTimeout: 100 })
    client.connect().catch(() => {})
    await pass()
    socket().open()
    await pass(100)
    expect(client.state).toBe('disconnected')
  })

  it('is refused: the error frame is reported, and a fresh token follows at once', async () => {
    const getToken = vi.fn(({ reason }) => reason)
    const client = make({ getToken })
    const [errors, closes] = [record(client, 'error'), record(client, 'close')]
    void client.connect()
    await pass()
    socket().open()
    socket().refuse({ code: 'INVALID_TOKEN', request_id: 'r7' })
    socket().end(1008, 'Invalid token')
    await pass()
    expect(errors).toMatchObject([{ phase: 'auth', error: { code: 'INVALID_TOKEN', message: 'no', requestId: 'r7', recoverable: true } }])
    expect(closes).toEqual([{ code: 1008, reason: 'Invalid token', kind: 'rejected', fatal: false }])
    expect(getToken).toHaveBeenLastCalledWith({ reason: 'rejected', rejected: 'initial' })
    expect(sockets()).toHaveLength(2)
  })

  it('is refused again and again: back-off', async () => {
    const client = make({ backoff: { min: 100, jitter: 0 } })
    const states = record(client, 'state')
    void client.connect()
    for (let attempt = 0; attempt < 3; attempt++) {
      await pass(1_000)
      socket().open()
      socket().end(1008, 'Invalid token')
    }
    expect(states.filter(({ state }) => state === 'reconnecting').map(({ retryInMs }) => retryInMs)).toEqual([0, 200, 400])
  })

  it('is refused for good by the frame, and by nothing of an earlier frame', async () => {
    const client = make()
    const closes = record(client, 'close')
    void client.connect()
    await pass()
    socket().open()
    socket().refuse({ recoverable: false })
    socket().end(1008, 'Invalid token')
    expect(client.state).toBe('disconnected')
    void client.reconnect()
    await pass()
    socket().open()
    socket().end(1008, 'Invalid token')
    expect(closes.map(({ kind }) => kind)).toEqual(['denied', 'rejected'])
  })

  it('tells when to come back, in the frame and in the reason', async () => {
    const client = make({ backoff: { min: 0 } })
    const states = record(client, 'state')
    void client.connect()
    await pass()
    socket().open()
    socket().refuse({ code: 'RATE_LIMITED', details: { status: 429, retry_after_seconds: 3 } })
    socket().end(4429, 'too many requests')
    await pass(60_000)
    socket().open()
    socket().end(1001, 'Server going away; retry_after_ms=1500')
    const waits = states.filter(({ state }) => state === 'reconnecting')
    expect(waits[0]!.retryInMs).toBeGreaterThanOrEqual(3_000)
    expect(waits.at(-1)!.retryInMs).toBe(750)
  })
})

describe('a credential in the upgrade', () => {
  it('counts as accepted when nothing refuses it within 25 ms', async () => {
    const client = make({ auth: 'ticket', fetch: fakeFetch(aTicket()) })
    const connected = client.connect()
    await pass()
    socket().open()
    await pass(24)
    expect(client.state).toBe('authenticating')
    await pass(1)
    expect(client.state).toBe('authenticated')
    await connected
  })

  it('counts as accepted with the first message, or when it is asked for a new one', async () => {
    const client = make({ auth: 'ticket', fetch: fakeFetch(aTicket()) })
    void client.connect()
    await pass()
    socket().open()
    socket().receive('hello')
    expect(client.state).toBe('authenticated')
    void client.reconnect()
    await pass()
    socket().open()
    socket().ask()
    expect(client.state).toBe('authenticated')
  })

  it('is refused behind the 101', async () => {
    const client = make({ auth: 'ticket', fetch: fakeFetch(aTicket()) })
    const states = record(client, 'state')
    void client.connect()
    await pass()
    socket().open()
    socket().end(4403, 'Invalid token (0bcb)')
    await pass()
    expect(states.map(({ state }) => state)).toEqual(['connecting', 'authenticating', 'reconnecting', 'connecting'])
  })
})

describe('getToken', () => {
  it('is called before each attempt', async () => {
    let count = 0
    const client = make({ getToken: () => `token ${++count}`, backoff: { min: 100 } })
    await connect(client)
    socket().end()
    await pass(500)
    socket().open()
    expect(socket().auth.payload).toEqual({ token: 'token 2' })
  })

  it('is called once by attempts at the same time', async () => {
    const getToken = vi.fn(async () => 'token')
    const client = make({ getToken })
    void client.connect()
    void client.reconnect()
    void client.reconnect()
    await pass()
    expect(getToken).toHaveBeenCalledTimes(1)
    expect(sockets()).toHaveLength(1)
  })

  it('stops the client by an UnauthorizedError, and reconnect() always works again', async () => {
    const getToken = vi.fn(() => {
      if (getToken.mock.calls.length === 1) throw new UnauthorizedError('signed out')
      return 'token'
    })
    const client = make({ getToken })
    const states = record(client, 'state')
    await Promise.all([expect(client.connect()).rejects.toThrow('signed out'), pass()])
    expect(states.at(-1)).toMatchObject({ state: 'disconnected', reason: 'unauthorized' })
    await pass(60_000)
    expect(getToken).toHaveBeenCalledTimes(1)
    void client.reconnect()
    await pass()
    socket().open()
    socket().accept()
    expect(client.state).toBe('authenticated')
    expect(client.lastError).toBeUndefined()
  })

  it.each([
    ['an error', () => Promise.reject(new Error('away')), 'away'],
    ['no error', () => Promise.reject(), 'no_answer'],
    ['an error at once', () => { throw new Error('away') }, 'away'],
  ])('may fail with %s: another attempt follows', async (_, fail, message) => {
    const getToken = vi.fn<() => any>().mockImplementationOnce(fail).mockReturnValue('token')
    const client = make({ getToken })
    const errors = record(client, 'error')
    void client.connect()
    await pass(500)
    expect(errors).toMatchObject([{ phase: 'token', error: { message } }])
    expect(sockets()).toHaveLength(1)
  })

  it('has the time of connectTimeout', async () => {
    const client = make({ getToken: () => new Promise<string>(() => {}), connectTimeout: 1_000 })
    const states = record(client, 'state')
    void client.connect()
    await pass(1_000)
    expect(states.at(-1)).toMatchObject({ state: 'reconnecting', reason: 'token' })
    expect(client.lastError).toMatchObject({ code: 'NO_ANSWER' })
  })

  it('that answers after the client has left changes nothing', async () => {
    let give!: (token: string) => void
    const client = make({ getToken: () => new Promise<string>((resolve) => (give = resolve)) })
    client.connect().catch(() => {})
    const first = give
    client.disconnect()
    void client.connect()
    first('the token of before')
    await pass()
    expect(sockets()).toEqual([])
    give('the token of now')
    await pass()
    socket().open()
    expect(socket().auth.payload).toEqual({ token: 'the token of now' })
  })

  it('that fails after the client has left changes nothing', async () => {
    let fail!: (error: Error) => void
    const client = make({ getToken: () => new Promise<string>((_, reject) => (fail = reject)) })
    const errors = record(client, 'error')
    client.connect().catch(() => {})
    client.disconnect()
    fail(new Error('late'))
    await pass(1_000)
    expect(errors).toEqual([])
    expect(client.state).toBe('disconnected')
  })
})

describe('the address', () => {
  it('may be a function, which is called before each attempt', async () => {
    let count = 0
    const client = make({ url: async () => `wss://chat.test/${++count}` })
    void client.connect()
    await pass()
    socket().end()
    await pass(500)
    expect(sockets().map(({ url }) => url)).toEqual(['wss://chat.test/1', 'wss://chat.test/2'])
  })

  it('may be that of a page, or a part of it', async () => {
    vi.stubGlobal('location', { href: 'https://app.test/rooms/1' })
    void make({ url: new URL('http://chat.test/ws') }).connect()
    await pass()
    expect(socket().url).toBe('ws://chat.test/ws')
    void make({ url: '/ws' }).connect()
    await pass()
    expect(socket().url).toBe('wss://app.test/ws')
  })

  it.each([
    ['never comes', () => new Promise<string>(() => {}), 'NO_ANSWER'],
    ['fails without an error', () => Promise.reject(), 'NO_ANSWER'],
    ['is none', () => 'chat', 'ERR_INVALID_URL'],
  ])('that %s is an error', async (_, url, code) => {
    const client = make({ url, connectTimeout: 1_000 })
    const states = record(client, 'state')
    const errors = record(client, 'error')
    void client.connect()
    await pass(1_000)
    expect(errors[0]).toMatchObject({ phase: 'config', error: { code } })
    expect(states[1]).toMatchObject({ state: 'reconnecting', reason: 'config' })
  })
})

describe('the socket', () => {
  it('is the global one, or must be given', async () => {
    vi.stubGlobal('WebSocket', undefined)
    const client = make({ WebSocket: undefined })
    await Promise.all([expect(client.connect()).rejects.toMatchObject({ code: 'NO_WEBSOCKET' }), pass()])
    const Given = vi.fn(function (this: any) { this.close = () => {} })
    vi.stubGlobal('WebSocket', Given)
    void client.reconnect()
    await pass()
    expect(Given).toHaveBeenCalledWith('wss://chat.test/ws', [])
  })

  it('that cannot be made is an error', async () => {
    const client = make({ WebSocket: class { constructor() { throw new SyntaxError('protocol') } } as any })
    const errors = record(client, 'error')
    void client.connect()
    await pass()
    expect(errors).toMatchObject([{ phase: 'open', error: { message: 'protocol' } }])
  })

  it('that does not open in time is let go', async () => {
    const client = make({ connectTimeout: 1_000 })
    const errors = record(client, 'error')
    void client.connect()
    await pass(1_000)
    expect(errors).toMatchObject([{ phase: 'open', error: { code: 'CONNECT_TIMEOUT' } }])
    const [first] = sockets()
    expect(first!.closedWith).toBe(1000)
    await pass(500)
    first!.open()
    first!.receive('late')
    first!.end()
    first!.onerror!({})
    expect(client.state).toBe('connecting')
    expect(sockets()).toHaveLength(2)
  })

  it('reads bytes as an ArrayBuffer', async () => {
    const client = make()
    const messages = record(client, 'message')
    await connect(client)
    const bytes = new ArrayBuffer(2)
    socket().receive(bytes)
    expect(socket().binaryType).toBe('arraybuffer')
    expect(messages).toEqual([bytes])
  })

  it('of five reconnect() at once is one', async () => {
    const client = make()
    await connect(client)
    for (let time = 0; time < 5; time++) void client.reconnect()
    await pass()
    expect(sockets()).toHaveLength(2)
    expect(sockets()[0]!.closedWith).toBe(1000)
  })

  it('is never opened after disconnect()', async () => {
    const client = make()
    client.connect().catch(() => {})
    client.disconnect()
    await pass(60_000)
    expect(sockets()).toEqual([])
  })
})

describe('the number of attempts', () => {
  it('has no limit but the one that is given', async () => {
    const client = make({ maxRetries: 2, backoff: { min: 100, jitter: 0 } })
    const [states, closes] = [record(client, 'state'), record(client, 'close')]
    client.connect().catch(() => {})
    for (let attempt = 0; attempt < 3; attempt++) {
      await pass(1_000)
      socket().end()
    }
    expect(states.at(-1)).toMatchObject({ state: 'disconnected', reason: 'retries_exhausted' })
    expect(closes.map(({ fatal }) => fatal)).toEqual([false, false, true])
    void client.reconnect()
    await pass()
    expect(client.state).toBe('connecting')
  })

  it('begins anew after 5 seconds of a session, and not before', async () => {
    const client = make({ backoff: { min: 100, jitter: 0 } })
    const states = record(client, 'state')
    const waits = () => states.filter(({ state }) => state === 'reconnecting').map(({ retryInMs }) => retryInMs)
    await connect(client)
    for (const life of [4_999, 5_000]) {
      await pass(life)
      socket().end()
      await pass(200)
      socket().open()
      socket().accept()
    }
    await pass(4_000)
    socket().end()
    expect(waits()).toEqual([100, 100, 200])
  })

  it('is what the application decides', async () => {
    const shouldReconnect = vi.fn(({ code }) => ({ 1000: true, 1006: false })[code as number])
    const client = make({ shouldReconnect })
    await connect(client)
    socket().end(1000, 'bye')
    expect(client.state).toBe('reconnecting')
    expect(shouldReconnect).toHaveBeenCalledWith({ code: 1000, reason: 'bye', kind: 'normal' })
    await pass(500)
    socket().open()
    socket().end(4503)
    expect(client.state).toBe('reconnecting')
    await pass(1_000)
    socket().end(1006)
    expect(client.state).toBe('disconnected')
  })

  it('asks the application nothing about a user that is not signed in', async () => {
    const client = make({ shouldReconnect: () => true, getToken: () => { throw new UnauthorizedError() } })
    client.connect().catch(() => {})
    await pass(1_000)
    expect(client.state).toBe('disconnected')
  })
})

describe('connect() and ready()', () => {
  it('resolve when it is authenticated', async () => {
    const client = make()
    const all = [client.ready(), client.connect(), client.ready(), client.connect()]
    await pass()
    socket().open()
    socket().accept()
    await Promise.all(all)
    await client.ready()
    await client.connect()
    expect(sockets()).toHaveLength(1)
  })

  it('reject when it stops, and a rejection may be ignored', async () => {
    const client = make()
    const connected = client.connect()
    void client.ready()
    client.disconnect()
    await expect(connected).rejects.toMatchObject({ name: 'UsherError', code: 'DISCONNECTED' })
  })

  it('wait over attempts that fail', async () => {
    const client = make()
    const connected = client.connect()
    await pass()
    socket().end()
    await pass(500)
    socket().open()
    socket().accept()
    await connected
  })

  it('may have a limit', async () => {
    const client = make()
    void client.connect()
    await Promise.all([expect(client.ready(100)).rejects.toMatchObject({ code: 'NO_ANSWER' }), pass(100)])
    await pass()
    socket().open()
    const soon = client.ready(100)
    socket().accept()
    await soon
  })

  it('go on where a listener connects anew', async () => {
    const client = make({ maxRetries: 0 })
    client.on('state', ({ state }) => {
      if (state === 'disconnected') void client.reconnect()
    })
    const connected = client.connect()
    await pass()
    socket().end()
    await pass()
    socket().open()
    socket().accept()
    await connected
  })
})

describe('disconnect()', () => {
  it('ends the connection with 1000, and forgets what waits', async () => {
    const client = make()
    const drops = record(client, 'drop')
    await connect(client)
    socket().end()
    client.send('one')
    client.disconnect()
    expect(drops).toEqual([{ count: 1, reason: 'stopped' }])
    expect(client.send('two')).toBe('dropped')
    expect(drops.at(-1)).toEqual({ count: 1, reason: 'stopped' })
    await pass(60_000)
    expect(sockets()).toHaveLength(1)
    expect(client.lastError).toBeUndefined()
  })

  it.each(['close', 'state'] as const)('may be called by a listener of %s', async (event) => {
    const client = make()
    await connect(client)
    client.on(event, () => client.disconnect())
    socket().end()
    await pass(60_000)
    expect(client.state).toBe('disconnected')
    expect(sockets()).toHaveLength(1)
  })

  it('by a listener keeps the message that proved the session from the others', async () => {
    const client = make()
    const messages = record(client, 'message')
    client.on('state', ({ state }) => state === 'authenticated' && client.disconnect())
    client.connect().catch(() => {})
    await pass()
    socket().open()
    socket().receive('hello')
    expect(messages).toEqual([])
  })

  it('keeps no timer', async () => {
    const client = make()
    await connect(client)
    client.disconnect()
    expect(vi.getTimerCount()).toBe(0)
  })
})

describe('send()', () => {
  it('sends at once in a session, and keeps order with what waited', async () => {
    const client = make()
    expect([client.send('one'), client.send('two'), client.queued]).toEqual(['queued', 'queued', 2])
    void client.connect()
    await pass()
    expect(client.send('three')).toBe('queued')
    socket().open()
    expect(client.send('four')).toBe('queued')
    socket().accept()
    expect([client.send('five'), client.queued]).toEqual(['sent', 0])
    expect(socket().sent.slice(1)).toEqual(['one', 'two', 'three', 'four', 'five'])
  })

  it('keeps a message for the next session where the socket is closing', async () => {
    const client = make()
    await connect(client)
    socket().readyState = 2
    expect(client.send('one')).toBe('queued')
  })

  it('takes text and bytes as they are, and other values as JSON', async () => {
    const client = make()
    await connect(client)
    const raw = ['text', new ArrayBuffer(1), new Uint8Array(1), new Blob(['a'])]
    for (const data of raw) client.send(data)
    for (const data of [{ a: 1 }, [1], 1, null]) client.send(data)
    expect(socket().sent.slice(1)).toEqual([...raw, '{"a":1}', '[1]', '1', 'null'])
  })

  it('takes the codec of the application', async () => {
    const codec = { encode: (data: number) => `n${data}`, decode: (text: any) => Number(text.slice(1)) }
    const client = make({ codec })
    const messages = record(client, 'message')
    await connect(client)
    client.send(1)
    socket().receive('n2')
    expect(socket().sent.at(-1)).toBe('n1')
    expect(messages).toEqual([2])
  })

  it('keeps the connection where a message cannot be decoded', async () => {
    const client = make({ codec: { encode: String, decode: (text: any) => JSON.parse(text) } })
    const [messages, errors] = [record(client, 'message'), record(client, 'error')]
    await connect(client)
    socket().receive('{')
    socket().receive('{}')
    expect(errors).toMatchObject([{ phase: 'decode', error: { name: 'SyntaxError' } }])
    expect(messages).toEqual([{}])
    expect(client.state).toBe('authenticated')
  })

  it('says when there is no room, and clearQueue() makes some', async () => {
    const client = make({ queue: { maxMessages: 1 } })
    const drops = record(client, 'drop')
    expect([client.send('one'), client.send('two')]).toEqual(['queued', 'dropped'])
    client.clearQueue()
    expect(client.send('three')).toBe('queued')
    expect(drops).toEqual([{ count: 1, reason: 'overflow' }, { count: 1, reason: 'cleared' }])
  })

  it('keeps the messages of one user from another', async () => {
    const client = make()
    const drops = record(client, 'drop')
    await connect(client, { user: 'ada' })
    socket().end()
    client.send('of ada')
    await pass(500)
    socket().open()
    socket().accept({ user: 'bob' })
    expect(socket().sent).toHaveLength(1)
    expect(drops).toEqual([{ count: 1, reason: 'identity' }])
  })
})

describe('messages of the backend', () => {
  it.each([
    '{"type":"error","payload":{"code":"OUT_OF_TEA"}}',
    '{"type":"error","payload":null}',
    '{"type":"error"}',
    '{"type":"auth_ok","payload":{}}',
    '{"type":"auth_ok","id":"x","payload":{"session_id":"s"}}',
    '{"type":"auth_required"}',
    '{"type":"auth_required","payload":{"expires_at":1,"grace_seconds":30}}',
    '["auth_ok"]',
    '"auth_ok"',
    '{"auth_ok"',
    'null "error"',
    '{',
    'auth_ok',
  ])('are the application\'s: %s', async (text) => {
    const client = make()
    const messages = record(client, 'message')
    await connect(client)
    const { sent } = socket()
    socket().receive(text)
    await pass(1_000)
    expect(messages).toEqual([text])
    expect(client.state).toBe('authenticated')
    expect(sent).toHaveLength(1)
  })
})

describe('listeners', () => {
  it('end by the function that on() returns, and the same one may listen twice', async () => {
    const client = make()
    const listener = vi.fn()
    const [stop] = [client.on('state', listener), client.on('state', listener)]
    void client.connect()
    expect(listener).toHaveBeenCalledTimes(2)
    stop!()
    client.disconnect()
    expect(listener).toHaveBeenCalledTimes(3)
  })

  it('that throw stop no other one, and are unhandled rejections', async () => {
    const unhandled = vi.fn()
    const before = process.listeners('unhandledRejection')
    process.removeAllListeners('unhandledRejection').on('unhandledRejection', unhandled)
    const client = make()
    client.on('state', () => { throw new Error('of a listener') })
    const states = record(client, 'state')
    await connect(client)
    vi.useRealTimers()
    await new Promise((resolve) => setTimeout(resolve, 5))
    process.removeAllListeners('unhandledRejection')
    for (const listener of before) process.on('unhandledRejection', listener)
    expect(states).toHaveLength(3)
    expect(unhandled).toHaveBeenCalledTimes(3)
    expect(unhandled.mock.calls[0]![0].message).toBe('of a listener')
  })
})

describe('errors', () => {
  it('have the facts that they are made with', () => {
    const error = new UsherError('why', { code: 'CODE', status: 418 })
    expect(error).toMatchObject({ name: 'UsherError', message: 'why', code: 'CODE', status: 418, recoverable: true })
    expect(new UsherError('why', { code: 'CODE', recoverable: false }).recoverable).toBe(false)
    expect(error).toBeInstanceOf(Error)
    expect(new UnauthorizedError('signed out')).toMatchObject({ name: 'UnauthorizedError', message: 'signed out', recoverable: false })
  })
})

describe('debug', () => {
  const secrets = ['SECRET-TOKEN', 'SECRET-TICKET', 'SECRET-MESSAGE', 'SECRET-REASON', 'SECRET-URL', 'SECRET-ERROR']

  it('prints transitions, codes and times, and no secret', async () => {
    const lines: string[] = []
    const getToken = vi.fn(() => 'SECRET-TOKEN')
    const fetch = fakeFetch({ status: 500, body: { code: 'INTERNAL', message: 'SECRET-ERROR' } }, { body: { ticket_id: 'SECRET-TICKET' } })
    const client = make({ url: 'wss://chat.test/SECRET-URL', auth: 'ticket', fetch, getToken, debug: (line) => lines.push(line) })
    void client.connect()
    await pass(500)
    socket().open()
    socket().receive('SECRET-MESSAGE')
    client.send('SECRET-MESSAGE')
    socket().refuse({ message: 'SECRET-ERROR' }, 'e1')
    getToken.mockImplementationOnce(() => { throw Object.assign(new Error('SECRET-ERROR'), { config: { token: 'SECRET-TOKEN' } }) })
    socket().end(4000, 'SECRET-REASON')
    await pass(1_000)
    const text = lines.join('\n')
    for (const secret of secrets) expect(text).not.toContain(secret)
    expect(lines.every((line) => line.startsWith('usher '))).toBe(true)
    for (const part of ['"state":"authenticated"', '"INTERNAL"', 'close 4000', '"ms":']) expect(text).toContain(part)
  })

  it('goes to the console where it is true, and nowhere where it is not', async () => {
    const print = vi.spyOn(console, 'debug').mockImplementation(() => {})
    void make({ debug: false }).connect()
    void make().connect()
    expect(print).not.toHaveBeenCalled()
    void make({ debug: true }).connect()
    expect(print).toHaveBeenCalledTimes(1)
  })
})
