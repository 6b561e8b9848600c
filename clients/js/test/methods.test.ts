import { describe, expect, it, vi } from 'vitest'
import { aProblem, aTicket, fakeFetch, make, pass, record, setUp, socket, sockets, type Answer } from './support.js'

setUp()

const offers = (methods: string[], more: object = {}) => ({ body: { method: methods[0], methods, first_message: 'json', ...more } })
const start = (answers: Answer[], options = {}) => {
  const fetch = fakeFetch(...answers)
  const client = make({ auth: 'auto', fetch, backoff: { min: 100, jitter: 0 }, ...options })
  return { fetch, client, method: record(client, 'method') }
}
const paths = (fetch: ReturnType<typeof fakeFetch>) => fetch.asked.map(({ url }) => new URL(url).pathname.split('/').at(-1))
const by = () => {
  const { url, protocols } = socket()
  return new URL(url).searchParams.has('ticket') ? 'ticket' : protocols.includes('bearer') ? 'subprotocol' : 'message'
}

describe('auto', () => {
  it('asks the server, with the token and the path of the socket', async () => {
    const { fetch, client } = start([offers(['message'])])
    void client.connect()
    await pass()
    expect(fetch.asked).toMatchObject([
      { url: 'https://chat.test/websocket/config?route=/ws', method: undefined, headers: { Authorization: 'Bearer token' } },
    ])
    expect(by()).toBe('message')
  })

  it('asks elsewhere, and for a route', async () => {
    const first = start([offers(['message'])], { route: '/v1/{room}' })
    void first.client.connect()
    const second = start([offers(['message'])], { configUrl: 'https://id.test/config?route=a' })
    void second.client.connect()
    await pass()
    expect(new URL(first.fetch.asked[0]!.url).searchParams.get('route')).toBe('/v1/{room}')
    expect(second.fetch.asked[0]!.url).toBe('https://id.test/config?route=a')
  })

  it.each([
    ['the preferred one', offers(['message', 'ticket']), 'message'],
    ['tickets first where none is preferred', offers(['subprotocol', 'message', 'ticket'], { method: undefined }), 'ticket'],
    ['one that it has', offers(['query', 'cookie', 'message']), 'message'],
    ['a subprotocol', offers(['query', 'subprotocol']), 'subprotocol'],
    ['no first message of another protocol', offers(['message', 'ticket'], { first_message: 'mqtt' }), 'ticket'],
    ['tickets where the answer is not there', { status: 404, body: 'Not Found' }, 'ticket'],
    ['tickets where the answer is not understood', { body: 'null' }, 'ticket'],
    ['tickets where the network is away', new TypeError('fetch failed'), 'ticket'],
  ])('takes %s', async (_, answer, expected) => {
    const { client } = start([answer as Answer, aTicket()])
    void client.connect()
    await pass()
    expect(by()).toBe(expected)
  })

  it('never takes the query, and stops where there is nothing else', async () => {
    const { client } = start([offers(['query', 'cookie'])])
    await Promise.all([expect(client.connect()).rejects.toMatchObject({ code: 'NO_METHOD' }), pass()])
    expect(sockets()).toEqual([])
  })

  it('takes no subprotocol without a token', async () => {
    const { client } = start([offers(['subprotocol'])], { getToken: undefined })
    await Promise.all([expect(client.connect()).rejects.toMatchObject({ code: 'NO_METHOD' }), pass()])
  })

  it('says which method has succeeded', async () => {
    const { client, method } = start([offers(['message'])])
    const connected = client.connect()
    await pass()
    expect(client.method).toBeUndefined()
    socket().open()
    socket().accept()
    await connected
    expect(client.method).toBe('message')
    expect(method).toEqual([{ method: 'message' }])
  })

  it('asks again after a connection has ended, and not before', async () => {
    const { fetch, client } = start([offers(['message'])])
    void client.connect()
    await pass()
    socket().open()
    socket().accept()
    void client.reconnect()
    await pass()
    expect(fetch.asked).toHaveLength(1)
    socket().end()
    await pass(1_000)
    expect(fetch.asked).toHaveLength(2)
  })
})

describe('the fallback', () => {
  it('is at once where tickets are off', async () => {
    const off = aProblem(404, 'TICKETS_OFF', false, { methods: ['message'] })
    const { fetch, client, method } = start([offers(['ticket', 'message']), off])
    const states = record(client, 'state')
    void client.connect()
    await pass()
    socket().open()
    socket().accept()
    expect(by()).toBe('message')
    expect(paths(fetch)).toEqual(['config', 'ticket'])
    expect(states.map(({ state }) => state)).toEqual(['connecting', 'authenticating', 'authenticated'])
    expect(method).toEqual([{ method: 'message', fallbackFrom: 'ticket', reason: 'TICKETS_OFF' }])
  })

  it('takes what the endpoint lists, where the configuration is away', async () => {
    const off = aProblem(404, 'TICKETS_OFF', false, { methods: ['subprotocol'] })
    const { client } = start([{ status: 404 }, off])
    void client.connect()
    await pass()
    expect(by()).toBe('subprotocol')
  })

  it('is none where the endpoint lists nothing that the client has', async () => {
    const off = aProblem(404, 'TICKETS_OFF', false, { methods: ['query'] })
    const { client } = start([{ status: 404 }, off])
    await Promise.all([expect(client.connect()).rejects.toMatchObject({ code: 'TICKETS_OFF' }), pass()])
    expect(sockets()).toEqual([])
  })

  it('is at once where the endpoint wants a longer wait', async () => {
    const away = { ...aProblem(503, 'STORE_UNAVAILABLE', true), headers: { 'Retry-After': '60' } }
    const { client } = start([offers(['ticket', 'message']), away])
    void client.connect()
    await pass()
    expect(by()).toBe('message')
  })

  it('follows three tries of an endpoint that fails', async () => {
    const { fetch, client } = start([offers(['ticket', 'message']), { status: 500 }])
    void client.connect()
    await pass(1_000)
    expect(by()).toBe('message')
    expect(paths(fetch)).toEqual(['config', 'ticket', 'ticket', 'ticket'])
  })

  it('is none for a token that is refused: a fresh one is', async () => {
    const getToken = vi.fn(({ reason }) => reason)
    const { client } = start([offers(['ticket', 'message']), aProblem(401, 'INVALID_TOKEN', true), aTicket()], { getToken })
    void client.connect()
    await pass()
    expect(getToken.mock.calls.map(([{ reason }]) => reason)).toEqual(['initial', 'rejected'])
    expect(by()).toBe('ticket')
  })

  it('is none for a method that was written', async () => {
    const { client } = start([aProblem(404, 'TICKETS_OFF', false, { methods: ['message'] })], { auth: 'ticket' })
    await Promise.all([expect(client.connect()).rejects.toMatchObject({ code: 'TICKETS_OFF' }), pass()])
    expect(sockets()).toEqual([])
  })

  it('goes round where upgrades are refused without a word', async () => {
    const { fetch, client, method } = start([offers(['ticket', 'message']), aTicket(), offers(['ticket', 'message']), aTicket()])
    void client.connect()
    const ways: string[] = []
    for (let attempt = 0; attempt < 3; attempt++) {
      await pass(1_000)
      ways.push(by())
      socket().end()
    }
    expect(ways).toEqual(['ticket', 'message', 'ticket'])
    expect(paths(fetch)).toEqual(['config', 'ticket', 'config', 'ticket'])
    await pass(1_000)
    socket().open()
    socket().accept()
    expect(method).toEqual([{ method: 'message', fallbackFrom: 'ticket', reason: 'network' }])
  })

  it('is none while the server is away: the first attempt after its return asks again', async () => {
    const away = new TypeError('fetch failed')
    const back = offers(['message'])
    const { fetch, client } = start([away, away, away, away, back])
    void client.connect()
    await pass()
    socket().end()
    await pass(150)
    socket().end()
    await pass(1_000)
    expect(paths(fetch)).toEqual(['config', 'ticket', 'config', 'ticket', 'config'])
    expect(by()).toBe('message')
  })

  it('asks again which method it is to be, where the one it took is refused', async () => {
    const legacy = { code: 'LEGACY_METHOD', recoverable: true }
    const { client } = start([offers(['message']), offers(['ticket']), aTicket()])
    void client.connect()
    await pass()
    socket().open()
    socket().refuse(legacy)
    socket().end(1008, 'use the ticket method instead')
    await pass()
    expect(by()).toBe('ticket')
  })
})

describe('an attempt that is overtaken', () => {
  it('takes no other way for the one that follows', async () => {
    let answer!: (response: Response) => void
    const fetch = vi.fn(async (url: any) =>
      String(url).includes('config') ? Response.json(offers(['ticket', 'message']).body) : new Promise<Response>((resolve) => (answer = resolve)),
    )
    const client = make({ auth: 'auto', fetch: fetch as any })
    void client.connect()
    await pass()
    const late = answer
    client.clearTickets()
    void client.reconnect()
    await pass()
    late(Response.json({ code: 'TICKETS_OFF', recoverable: false }, { status: 404 }))
    await pass()
    expect(sockets()).toEqual([])
    answer(Response.json({ ticket_id: 'second' }))
    await pass()
    expect(by()).toBe('ticket')
  })
})

describe('the subprotocols', () => {
  it('carry a token as it is', async () => {
    void make({ auth: 'subprotocol', getToken: () => 'eyJ.a-b_c~', protocols: 'chat' }).connect()
    await pass()
    expect(socket().protocols).toEqual(['chat', 'bearer', 'eyJ.a-b_c~'])
    expect(socket().url).toBe('wss://chat.test/ws')
  })

  it('carry any other one in base64url', async () => {
    void make({ auth: 'subprotocol', getToken: () => 'a?>~/==', protocols: ['chat', 'v2'] }).connect()
    await pass()
    const encoded = Buffer.from('a?>~/==').toString('base64url')
    expect(socket().protocols).toEqual(['chat', 'v2', `base64url.bearer.authorization.${encoded}`])
  })

  it('are those of the application alone with other methods', async () => {
    void make({ protocols: ['chat'] }).connect()
    await pass()
    expect(socket().protocols).toEqual(['chat'])
  })
})
