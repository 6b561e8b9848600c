import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { createClient, type Options } from '../../src/index.js'
import { createFakeServer, type FakeServer } from '../../src/testing.js'

const clients: { disconnect(): void }[] = []

function connectTo(server: FakeServer, options: Partial<Options<any, any>> = {}) {
  const { WebSocket, fetch } = server
  const client = createClient({ url: 'wss://chat.test/ws', getToken: () => 'token', WebSocket, fetch, ...options })
  clients.push(client)
  return client
}

/** Lets microtasks run, and timers of this many milliseconds. */
const pass = (ms = 50) => vi.advanceTimersByTimeAsync(ms)

beforeEach(() => {
  vi.useFakeTimers()
})

afterEach(() => {
  for (const client of clients.splice(0)) client.disconnect()
  vi.useRealTimers()
})

describe('tickets', () => {
  it('lets a client in by ticket, and records what it asked', async () => {
    const server = createFakeServer()
    const client = connectTo(server)
    void client.connect()
    await pass()
    expect(client.state).toBe('authenticated')
    expect(server.requests.map(({ method, path, status }) => `${method} ${path} ${status}`)).toEqual([
      'GET /websocket/config 200',
      'POST /websocket/ticket 201',
    ])
    expect(server.requests[1]!.token).toBe('token')
    expect(server.connection.url.searchParams.get('ticket')).toBe(server.connection.credentials[0]!.ticket)
    expect(server.connection.user).toBe('user')
  })

  it('accepts each ticket once, and only while it lives', async () => {
    const server = createFakeServer({ ticketMs: 1_000 })
    const kept = server.issueTicket()
    const late = server.issueTicket()
    const outcomes: number[] = []
    const open = (ticket: string) => {
      const socket = new server.WebSocket(`wss://chat.test/ws?ticket=${ticket}`)
      socket.onopen = () => outcomes.push(101)
      socket.onclose = ({ code }) => outcomes.push(code)
    }
    open(kept)
    await pass()
    open(kept)
    await pass(1_000)
    open(late)
    await pass()
    expect(outcomes).toEqual([101, 1006, 1006])
  })

  it('refuses with a status, a code and Retry-After, as often as it is told', async () => {
    const server = createFakeServer()
    const errors: any[] = []
    const client = connectTo(server, { auth: 'ticket', backoff: { min: 100, jitter: 0 } })
    client.on('error', ({ error }) => errors.push(error))
    server.refuse('ticket', { status: 403, code: 'PERMISSION_DENIED', recoverable: false, times: 1 })
    void client.connect()
    await pass()
    expect(client.state).toBe('disconnected')
    expect(errors[0]).toMatchObject({ code: 'PERMISSION_DENIED', status: 403, recoverable: false })

    server.refuse('ticket', { status: 429, code: 'RATE_LIMITED', retryAfterSeconds: 7, times: 1 })
    void client.reconnect()
    await pass()
    expect(errors[1]).toMatchObject({ code: 'RATE_LIMITED', retryAfterMs: 7_000 })
    await pass(60_000)
    expect(client.state).toBe('authenticated')
  })

  it('fails like a network', async () => {
    const server = createFakeServer()
    server.refuse('ticket', { status: 0 })
    await expect(server.fetch('https://chat.test/websocket/ticket', { method: 'POST' })).rejects.toThrow(TypeError)
    expect(server.requests[0]!.status).toBe(0)
  })

  it('takes the tokens it was given, and no other', async () => {
    const server = createFakeServer({ users: { good: 'ada' } })
    const reasons: string[] = []
    const client = connectTo(server, {
      getToken: ({ reason }) => {
        reasons.push(reason)
        return reason === 'rejected' ? 'good' : 'stale'
      },
    })
    void client.connect()
    await pass()
    expect(client.state).toBe('authenticated')
    expect(reasons).toEqual(['initial', 'rejected'])
    expect(server.connection.user).toBe('ada')
  })

  it('says TICKETS_OFF where tickets are not offered', async () => {
    const server = createFakeServer({ methods: ['message'] })
    const answer = await server.fetch('https://chat.test/websocket/ticket', { method: 'POST' })
    expect(answer.status).toBe(404)
    expect(await answer.json()).toMatchObject({ code: 'TICKETS_OFF', recoverable: false, methods: ['message'] })
  })
})

describe('the first message', () => {
  it('lets a client in with auth_ok', async () => {
    const server = createFakeServer({ methods: ['message'], users: { token: 'ada' }, sessionMs: 60_000 })
    const client = connectTo(server)
    void client.connect()
    await pass()
    expect(client.session).toMatchObject({ user: 'ada', expiresAt: server.connection.expiresAt })
    expect(server.connection.credentials).toEqual([{ token: 'token' }])
    expect(server.connection.received).toEqual([])
  })

  it('refuses a token with an error frame and 1008', async () => {
    const server = createFakeServer({ methods: ['message'], users: {} })
    const errors: any[] = []
    const closes: any[] = []
    const client = connectTo(server)
    client.on('error', ({ error }) => errors.push(error))
    client.on('close', (close) => closes.push(close))
    void client.connect()
    await pass()
    expect(errors[0]).toMatchObject({ code: 'INVALID_TOKEN', recoverable: true })
    expect(closes[0]).toMatchObject({ code: 1008, reason: 'Invalid token', kind: 'rejected' })
  })

  it('wants auth before anything else, and keeps what follows it', async () => {
    const server = createFakeServer({ methods: ['message'] })
    const open = async (...messages: object[]) => {
      const closes: string[] = []
      const socket = new server.WebSocket('wss://chat.test/ws')
      socket.onclose = ({ code, reason }) => closes.push(`${code} ${reason}`)
      await pass()
      for (const message of messages) socket.send(JSON.stringify(message))
      await pass()
      return closes
    }
    expect(await open({ type: 'hello' })).toEqual(['1008 First message must be auth'])
    expect(await open({ type: 'auth', id: '1', payload: { token: 'token' } }, { type: 'hello' })).toEqual([])
    expect(server.connection.messages).toEqual([{ type: 'hello' }])
  })

  it('can be held: the client is authenticating, and its own timer ends it', async () => {
    const server = createFakeServer({ methods: ['message'] })
    server.hold('auth')
    const client = connectTo(server)
    void client.connect()
    await pass()
    expect(client.state).toBe('authenticating')
    await pass(5_000)
    expect(client.state).toBe('disconnected')
    expect(client.lastError).toMatchObject({ code: 'AUTHENTICATION_TIMEOUT' })
    server.accept('auth')
    await pass()
    expect(client.state).toBe('disconnected')
  })
})

describe('subprotocols', () => {
  it.each(['plain.token', 'with space'])('finds the token %s', async (token) => {
    const server = createFakeServer({ methods: ['subprotocol'], users: { [token]: 'ada' } })
    const client = connectTo(server, { protocols: 'chat', getToken: () => token })
    void client.connect()
    await pass()
    expect(client.state).toBe('authenticated')
    expect(server.connection.user).toBe('ada')
    expect(server.connection.protocols[0]).toBe('chat')
  })
})

describe('the upgrade', () => {
  it('can be held, refused without a word, and refused by a close frame', async () => {
    const server = createFakeServer()
    const codes: number[] = []
    const client = connectTo(server, { auth: 'ticket', backoff: { min: 100, jitter: 0 } })
    client.on('close', ({ code }) => codes.push(code))
    server.hold('upgrade')
    void client.connect()
    await pass()
    expect(client.state).toBe('connecting')
    server.refuse('upgrade', { times: 1 })
    await pass(200)
    expect(codes).toEqual([1006])
    expect(client.state).toBe('authenticated')

    server.refuse('upgrade', { close: { code: 4403, reason: 'pages of this origin may not connect here' } })
    void client.reconnect()
    await pass()
    expect(codes).toEqual([1006, 4403])
    expect(client.state).toBe('disconnected')
  })

  it('without a credential is refused where the first message is not offered', async () => {
    const server = createFakeServer({ methods: ['ticket'] })
    const codes: number[] = []
    const socket = new server.WebSocket('wss://chat.test/ws')
    socket.onclose = ({ code }) => codes.push(code)
    await pass()
    expect(codes).toEqual([1006])
  })

  it('takes no message before it is done', () => {
    const { WebSocket } = createFakeServer()
    expect(() => new WebSocket('wss://chat.test/ws').send('early')).toThrow('still connecting')
  })

  it('that the client gives up is not opened later', async () => {
    const server = createFakeServer()
    server.hold('upgrade')
    const client = connectTo(server)
    void client.connect()
    await pass()
    client.disconnect()
    server.accept('upgrade')
    await pass()
    expect(server.open).toEqual([])
    expect(server.connection.closed).toEqual({ code: 1006, reason: '', by: 'client' })
  })
})

describe('renewal', () => {
  async function authenticated(options: Parameters<typeof createFakeServer>[0] = {}, more: Partial<Options<any, any>> = {}) {
    const server = createFakeServer(options)
    const client = connectTo(server, more)
    const phases: string[] = []
    client.on('reauth', ({ phase, code }) => phases.push(code ? `${phase} ${code}` : phase))
    void client.connect()
    await pass()
    return { server, client, phases, connection: server.connection }
  }

  it.each([['ticket'], ['message']] as const)('is asked for and answered after a login by %s', async (method) => {
    const { server, connection, phases } = await authenticated({ methods: [method] })
    const before = connection.expiresAt!
    await pass(60_000)
    connection.requireAuth()
    await pass()
    expect(phases).toEqual(['required', 'sent', 'ok'])
    expect(connection.expiresAt).toBeGreaterThan(before)
    expect(Object.keys(connection.credentials[1]!)).toEqual([method === 'ticket' ? 'ticket' : 'token'])
    expect(server.connections).toHaveLength(1)
  })

  it('is refused by an error frame, and the session goes on', async () => {
    const { server, connection, phases } = await authenticated({ methods: ['message'] })
    server.refuse('auth', { code: 'NOT_RENEWED', times: 1 })
    connection.requireAuth()
    await pass()
    expect(phases).toEqual(['required', 'sent', 'failed NOT_RENEWED', 'sent', 'ok'])
    expect(connection.isOpen).toBe(true)
  })

  it('as another user ends the session', async () => {
    let token = 'a'
    const { connection, phases } = await authenticated(
      { methods: ['message'], users: { a: 'ada', b: 'bob' } },
      { getToken: () => token },
    )
    token = 'b'
    connection.requireAuth()
    await pass()
    expect(phases).toContain('failed OTHER_SUBJECT')
    expect(connection.closed).toEqual({ code: 1008, reason: 'Invalid token', by: 'server' })
  })

  it('may come unasked only where the server says so', async () => {
    const proactive = await authenticated({ methods: ['message'], proactive: true }, { proactive: true })
    void proactive.client.reauthenticate()
    await pass()
    expect(proactive.phases).toEqual(['sent', 'ok'])

    const other = await authenticated({ methods: ['message'] })
    other.client.send({ type: 'auth', payload: { token: 'late' } })
    other.client.send({ type: 'auth', payload: {} })
    await pass()
    expect(other.connection.messages).toEqual([{ type: 'auth', payload: {} }])
    expect(other.connection.credentials).toHaveLength(1)
  })
})

describe('a connection', () => {
  it('carries messages both ways', async () => {
    const server = createFakeServer({
      onMessage: (connection, data) => connection.send({ echo: JSON.parse(data) }),
    })
    const client = connectTo(server, { codec: { encode: JSON.stringify, decode: (data) => JSON.parse(String(data)) } })
    const messages: unknown[] = []
    client.on('message', (message) => messages.push(message))
    void client.connect()
    await pass()
    expect(client.send({ text: 'hello' })).toBe('sent')
    expect(messages).toEqual([])
    await pass()
    expect(server.connection.received).toEqual(['{"text":"hello"}'])
    expect(messages).toEqual([{ echo: { text: 'hello' } }])
  })

  it('ends with codes, frames and drops, and counts', async () => {
    const server = createFakeServer()
    const closes: any[] = []
    const errors: any[] = []
    const client = connectTo(server, { backoff: { min: 100, jitter: 0 } })
    client.on('close', (close) => closes.push(close))
    client.on('error', ({ error }) => errors.push(error))
    void client.connect()
    await pass()
    server.connection.drop()
    await pass(200)
    server.connection.close(1001, 'Server going away')
    await pass(1_000)
    expect(server.connections).toHaveLength(3)
    expect(server.open).toHaveLength(1)
    server.connection.error({ code: 'SESSION_REPLACED', recoverable: false })
    server.connection.close(1008, 'Session replaced')
    await pass(60_000)
    expect(closes.map(({ code, kind, fatal }) => `${code} ${kind} ${fatal}`)).toEqual([
      '1006 network false', '1001 going_away false', '1008 replaced true',
    ])
    expect(errors[0]).toMatchObject({ code: 'SESSION_REPLACED', recoverable: false })
    expect(server.open).toHaveLength(0)
    expect(() => server.connection.send('late')).toThrow('not open')
  })

  it('tells how the client left', async () => {
    const server = createFakeServer()
    expect(() => server.connection).toThrow('no socket was made')
    const client = connectTo(server)
    void client.connect()
    await pass()
    client.disconnect()
    expect(server.connection.closed).toEqual({ code: 1000, reason: '', by: 'client' })
  })
})

it('sets no timer of its own', async () => {
  const server = createFakeServer()
  const socket = new server.WebSocket(`wss://chat.test/ws?ticket=${server.issueTicket()}`)
  const opened = new Promise((resolve) => (socket.onopen = resolve))
  await opened
  server.connection.requireAuth()
  expect(vi.getTimerCount()).toBe(0)
})

it('answers 404 to what is not its own', async () => {
  const server = createFakeServer({ ticketPath: '/t' })
  const status = async (path: string, method: string) => (await server.fetch(`https://chat.test${path}`, { method })).status
  expect(await status('/t', 'POST')).toBe(201)
  expect(await status('/websocket/ticket', 'POST')).toBe(404)
  expect(await status('/t', 'GET')).toBe(404)
})
