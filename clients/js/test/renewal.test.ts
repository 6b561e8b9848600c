import { describe, expect, it, vi } from 'vitest'
import { UnauthorizedError } from '../src/index.js'
import { aProblem, aTicket, connect, fakeFetch, make, pass, record, setUp, socket, sockets } from './support.js'

setUp()

const auths = () => socket().auths
const phases = (events: { phase: string; code?: string | undefined }[]) => events.map(({ phase, code }) => (code ? `${phase} ${code}` : phase))

describe('auth_required', () => {
  it('is answered in the stream by a fresh token, and the session goes on', async () => {
    const getToken = vi.fn(({ reason }) => reason)
    const client = make({ getToken })
    const [reauth, messages] = [record(client, 'reauth'), record(client, 'message')]
    await connect(client)
    socket().ask()
    expect(client.send('meanwhile')).toBe('sent')
    await pass()
    expect(getToken).toHaveBeenLastCalledWith({ reason: 'auth_required', rejected: undefined })
    expect(auths()[1]).toMatchObject({ payload: { token: 'auth_required' } })
    expect(auths()[1].id).not.toBe(auths()[0].id)
    socket().accept({ session_id: 's1', expires_at: 9_000 })
    expect(client.session).toMatchObject({ expiresAt: 9_000 })
    expect(phases(reauth)).toEqual(['required', 'sent', 'ok'])
    expect(messages).toEqual([])
    expect(sockets()).toHaveLength(1)
  })

  it('of another end is a message of the backend, and gets no token', async () => {
    const client = make()
    const messages = record(client, 'message')
    await connect(client, { expires_at: 1_000 })
    socket().ask(2_000)
    await pass()
    expect(auths()).toHaveLength(1)
    expect(messages).toHaveLength(1)
  })

  it('that comes twice calls getToken once, and is answered once', async () => {
    let give!: (token: string) => void
    const getToken = vi.fn(({ reason }) => (reason === 'initial' ? 'token' : new Promise<string>((resolve) => (give = resolve))))
    const client = make({ getToken })
    await connect(client)
    socket().ask()
    socket().ask()
    await pass()
    give('fresh')
    await pass()
    expect(getToken).toHaveBeenCalledTimes(2)
    expect(auths()).toHaveLength(2)
  })

  it('is answered by a ticket where the session began with one', async () => {
    const client = make({ auth: 'ticket', fetch: fakeFetch({ body: { ticket_id: 'one' } }, { body: { ticket_id: 'two' } }) })
    void client.connect()
    await pass()
    socket().open()
    await pass(25)
    socket().ask()
    await pass()
    expect(socket().auth.payload).toEqual({ ticket: 'two' })
  })

  it('is answered by a token where the tickets fail meanwhile', async () => {
    const away = { ...aProblem(503, 'STORE_UNAVAILABLE', true), headers: { 'Retry-After': '9' } }
    const client = make({ auth: 'ticket', fetch: fakeFetch(aTicket(), away) })
    const errors = record(client, 'error')
    void client.connect()
    await pass()
    socket().open()
    await pass(25)
    socket().ask()
    await pass(500)
    expect(errors).toMatchObject([{ phase: 'reauth', error: { code: 'STORE_UNAVAILABLE' } }])
    expect(socket().auth.payload).toEqual({ token: 'token' })
  })

  it('is answered by getTicket where there is no getToken', async () => {
    const client = make({ getToken: undefined, getTicket: ({ reason }) => reason })
    await connect(client)
    socket().ask()
    await pass()
    expect(socket().auth.payload).toEqual({ ticket: 'auth_required' })
  })

  it('is asked and not answered in time: a new connection with a fresh token', async () => {
    const client = make({ getToken: ({ reason }) => (reason === 'auth_required' ? new Promise<string>(() => {}) : reason) })
    await connect(client)
    socket().ask()
    socket().refuse({ code: 'REAUTHENTICATION_TIMEOUT' }, 'other')
    socket().end(1008, 'Re-authentication timeout')
    // The call that hangs has the time of connectTimeout.
    await pass(11_000)
    expect(sockets()).toHaveLength(2)
  })

  it('loses its connection: no old answer goes into the new one', async () => {
    let give!: (token: string) => void
    const client = make({
      getToken: ({ reason }) => (reason === 'auth_required' ? new Promise<string>((resolve) => (give = resolve)) : 'token'),
    })
    await connect(client)
    socket().ask()
    await pass()
    socket().end()
    give('late')
    await pass(500)
    socket().open()
    await pass()
    expect(auths()).toHaveLength(1)
  })
})

describe('an answer that is refused', () => {
  it('is followed by a fresh token at once, then with a pause', async () => {
    const getToken = vi.fn(({ reason }) => reason)
    const client = make({ getToken })
    const [reauth, errors] = [record(client, 'reauth'), record(client, 'error')]
    await connect(client)
    socket().ask()
    await pass()
    socket().refuse({ code: 'NOT_RENEWED' })
    await pass()
    expect(getToken).toHaveBeenLastCalledWith({ reason: 'rejected', rejected: 'auth_required' })
    socket().refuse({ code: 'STORE_UNAVAILABLE' })
    await pass(499)
    expect(auths()).toHaveLength(3)
    await pass(1)
    socket().accept()
    expect(phases(reauth)).toEqual(['required', 'sent', 'failed NOT_RENEWED', 'sent', 'failed STORE_UNAVAILABLE', 'sent', 'ok'])
    expect(errors.every(({ phase }) => phase === 'reauth')).toBe(true)
    expect(sockets()).toHaveLength(1)
  })

  it('for the last time is left to the server', async () => {
    const client = make()
    await connect(client)
    socket().ask()
    await pass()
    socket().refuse({ recoverable: false })
    await pass(60_000)
    expect(auths()).toHaveLength(2)
    expect(client.state).toBe('authenticated')
  })

  it('because it is another user\'s ends the client', async () => {
    const client = make()
    await connect(client)
    socket().ask()
    await pass()
    socket().refuse({ code: 'OTHER_SUBJECT', recoverable: false })
    socket().end(1008, 'Invalid token')
    expect(client.state).toBe('disconnected')
  })

  it('is not what another frame says', async () => {
    const client = make()
    await connect(client)
    socket().ask()
    await pass()
    socket().refuse({}, 'other')
    await pass(1_000)
    expect(auths()).toHaveLength(2)
  })

  it('says nothing about an end after the renewal', async () => {
    const client = make()
    const closes = record(client, 'close')
    await connect(client)
    socket().ask()
    await pass()
    socket().refuse({ recoverable: false })
    socket().ask()
    await pass()
    socket().accept()
    socket().end(1008, 'Session expired')
    expect(closes).toMatchObject([{ kind: 'rejected' }])
  })
})

describe('getToken, asked in the stream,', () => {
  it('may fail: it is asked again', async () => {
    const getToken = vi.fn(() => 'token')
    const client = make({ getToken })
    await connect(client)
    getToken.mockImplementationOnce(() => {
      throw new Error('away')
    })
    socket().ask()
    await pass(500)
    expect(auths()).toHaveLength(2)
    expect(sockets()).toHaveLength(1)
  })

  it('stops the client by an UnauthorizedError', async () => {
    const getToken = vi.fn(() => 'token')
    const client = make({ getToken })
    const states = record(client, 'state')
    await connect(client)
    getToken.mockImplementation(() => {
      throw new UnauthorizedError('signed out')
    })
    socket().ask()
    await pass()
    expect(states.at(-1)).toMatchObject({ state: 'disconnected', reason: 'unauthorized' })
    expect(socket().closedWith).toBe(1000)
  })

  it('may fail after the client has left', async () => {
    let fail!: (error: Error) => void
    const client = make({ getToken: ({ reason }) => (reason === 'initial' ? 'token' : new Promise((_, reject) => (fail = reject))) })
    const errors = record(client, 'error')
    await connect(client)
    socket().ask()
    await pass()
    client.disconnect()
    fail(new Error('late'))
    await pass(1_000)
    expect(errors).toEqual([])
  })

  it('is not asked again for a client that has left', async () => {
    const getToken = vi.fn(() => 'token')
    const client = make({ getToken })
    await connect(client)
    getToken.mockImplementation(() => {
      throw new Error('away')
    })
    socket().ask()
    await pass()
    client.disconnect()
    await pass(1_000)
    expect(getToken).toHaveBeenCalledTimes(2)
  })
})

describe('reauthenticate()', () => {
  it('connects anew with a fresh token, and drops what waits', async () => {
    const getToken = vi.fn(({ reason }) => reason)
    const client = make({ getToken })
    const drops = record(client, 'drop')
    client.send('of the user before')
    const done = client.reauthenticate()
    await pass()
    socket().open()
    socket().accept()
    await done
    expect(getToken).toHaveBeenLastCalledWith({ reason: 'expiring', rejected: undefined })
    expect(drops).toEqual([{ count: 1, reason: 'identity' }])
  })

  it('proves anew on another socket, where the route does not listen', async () => {
    const client = make()
    await connect(client)
    const done = client.reauthenticate()
    await pass()
    expect(sockets()[0]!.closedWith).toBe(1000)
    socket().open()
    socket().accept({ user: 'bob' })
    await done
    expect(client.session!.user).toBe('bob')
  })

  it('stays on the connection, where the route is proactive', async () => {
    const getToken = vi.fn(({ reason }) => reason)
    const client = make({ proactive: true, getToken })
    await connect(client)
    const done = client.reauthenticate()
    const settled = vi.fn()
    void done.then(settled)
    await pass()
    expect(settled).not.toHaveBeenCalled()
    expect(auths()[1].payload).toEqual({ token: 'expiring' })
    socket().accept()
    await done
    expect(sockets()).toHaveLength(1)
  })

  it('comes back as another user, where the session could not become theirs', async () => {
    const client = make({ proactive: true, backoff: { min: 100 } })
    const closes = record(client, 'close')
    await connect(client)
    const done = client.reauthenticate()
    await pass()
    socket().refuse({ code: 'OTHER_SUBJECT', recoverable: false })
    socket().end(1008, 'Invalid token')
    expect(closes).toMatchObject([{ kind: 'denied', fatal: false }])
    await pass(500)
    socket().open()
    socket().accept({ user: 'bob' })
    await done
    socket().end(4403)
    expect(client.state).toBe('disconnected')
  })

  it('forgets a call of getToken that is on its way', async () => {
    const given: ((token: string) => void)[] = []
    const client = make({ getToken: () => new Promise<string>((resolve) => given.push(resolve)) })
    client.connect().catch(() => {})
    void client.reauthenticate()
    given[0]!('of ada')
    await pass()
    expect(sockets()).toEqual([])
    given[1]!('of bob')
    await pass()
    socket().open()
    expect(socket().auth.payload).toEqual({ token: 'of bob' })
  })
})
