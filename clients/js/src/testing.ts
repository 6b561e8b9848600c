/**
 * A fake Usher for the tests of an application. It replaces `WebSocket` and `fetch`, answers in
 * microtasks, and sets no timer: with fake timers, only the test moves the clock.
 */

import type { Method, SocketConstructor, SocketLike } from './types.js'

/** A step that can be refused: the ticket endpoint, the upgrade, and `auth` messages. */
export type Step = 'ticket' | 'upgrade' | 'auth'

export interface Refusal {
  /** HTTP status of the ticket endpoint; 0 is a network failure. Default 401. */
  status?: number | undefined
  /** Default `INVALID_TOKEN`. */
  code?: string | undefined
  message?: string | undefined
  /** Default true. */
  recoverable?: boolean | undefined
  /** `Retry-After` of the ticket endpoint. */
  retryAfterSeconds?: number | undefined
  /**
   * The close frame. Without it, a refused first message ends with 1008 `Invalid token`, and a
   * session goes on after a refused renewal. A refused upgrade is then an HTTP answer: the client
   * gets 1006 without a reason.
   */
  close?: { code: number; reason?: string | undefined } | undefined
  /** Refuses this many times, then accepts. Default: until `accept` is called. */
  times?: number | undefined
}

export interface FakeServerOptions {
  /** The methods of `/websocket/config`, preferred first. Default: ticket, then first message. */
  methods?: Method[] | undefined
  /** The users by token. Other tokens are refused. Without it, any token and none are `user`. */
  users?: Record<string, string> | undefined
  /** Milliseconds from the authentication to the end of the grant. Default 15 minutes. */
  sessionMs?: number | undefined
  /** The life of a ticket, in milliseconds. Default 30 seconds. */
  ticketMs?: number | undefined
  /** Accepts an `auth` message without a question, like `reauth.proactive = true`. */
  proactive?: boolean | undefined
  /** Default `/websocket/ticket`. */
  ticketPath?: string | undefined
  /** Default `/websocket/config`. */
  configPath?: string | undefined
  /** Default `ticket`. */
  ticketParameter?: string | undefined
  /** The backend: called with each message of the application. */
  onMessage?: ((connection: FakeConnection, data: any) => void) | undefined
}

export interface FakeRequest {
  method: string
  path: string
  token: string | undefined
  /** Undefined until it is answered; 0 is a network failure. */
  status: number | undefined
}

export interface FakeServer {
  /** For the option `WebSocket`, or to stub the global. */
  readonly WebSocket: SocketConstructor
  /** For the option `fetch`, or to stub the global. Unknown paths are 404. */
  readonly fetch: typeof fetch
  /** Every socket that was made, oldest first. */
  readonly connections: readonly FakeConnection[]
  /** The sockets that are open now. */
  readonly open: readonly FakeConnection[]
  /** The newest socket. Throws if there is none. */
  readonly connection: FakeConnection
  /** The HTTP requests, oldest first. */
  readonly requests: readonly FakeRequest[]
  /** The methods of `/websocket/config` from now on. */
  methods: Method[]
  /** Accepts waiting and later clients. */
  accept(step: Step): void
  refuse(step: Step, refusal?: Refusal): void
  /** Answers no later client until `accept` or `refuse`. */
  hold(step: Step): void
  /** Returns a ticket as the endpoint would, for `getTicket`. */
  issueTicket(user?: string): string
}

export interface FakeConnection {
  readonly url: URL
  readonly protocols: readonly string[]
  readonly isOpen: boolean
  /** Undefined before the authentication. */
  readonly user: string | undefined
  /** Milliseconds since 1970. Undefined before the authentication. */
  readonly expiresAt: number | undefined
  /** The messages of the application, oldest first, without `auth` messages. */
  readonly received: readonly unknown[]
  /** The same, parsed as JSON. */
  readonly messages: readonly any[]
  /** The credentials that this connection has sent, oldest first. */
  readonly credentials: readonly { token?: string | undefined; ticket?: string | undefined }[]
  readonly closed: { code: number; reason: string; by: 'client' | 'server' } | undefined
  /** Sends a message of the backend: text and bytes unchanged, other values as JSON. */
  send(data: unknown): void
  /** Asks for a new credential, as before the end of a grant. */
  requireAuth(graceSeconds?: number): void
  /** Sends an error frame. `close` is a call of its own. */
  error(refusal?: Pick<Refusal, 'code' | 'message' | 'recoverable'>): void
  close(code?: number, reason?: string): void
  /** Ends without a close frame, as after a network failure: 1006. */
  drop(): void
}

type Credential = FakeConnection['credentials'][number]
type Verdict = 'accept' | 'hold' | Refusal

/** Returns the token in the offered subprotocols. */
function tokenIn(protocols: readonly string[]): string | undefined {
  const at = protocols.indexOf('bearer')
  if (at >= 0) return protocols[at + 1]
  const prefix = 'base64url.bearer.authorization.'
  const encoded = protocols.find((name) => name.startsWith(prefix))?.slice(prefix.length)
  if (encoded === undefined) return undefined
  const binary = atob(encoded.replace(/-/g, '+').replace(/_/g, '/'))
  return new TextDecoder().decode(Uint8Array.from(binary, (character) => character.charCodeAt(0)))
}

function parse(data: unknown): any {
  try {
    return JSON.parse(data as string)
  } catch {
    return undefined
  }
}

/** The side of the application. */
class FakeSocket implements SocketLike {
  binaryType = 'blob'
  readyState = 0
  onopen: SocketLike['onopen'] = null
  onmessage: SocketLike['onmessage'] = null
  onerror: SocketLike['onerror'] = null
  onclose: SocketLike['onclose'] = null
  /** Set by the server, for messages and the close of the client. */
  onSend!: (data: unknown) => void
  onLeave!: (code: number, reason: string) => void

  constructor(readonly url: string, readonly protocols: string[]) {}

  send(data: unknown) {
    if (this.readyState === 0) throw new DOMException('the socket is still connecting', 'InvalidStateError')
    if (this.readyState === 1) this.onSend(data)
  }

  close(code = 1005, reason = '') {
    if (this.readyState >= 2) return
    // A socket that closes before it is open ends with 1006.
    const end = this.readyState === 0 ? { code: 1006, reason: '' } : { code, reason }
    this.readyState = 2
    this.onLeave(end.code, end.reason)
    void Promise.resolve().then(() => this.end(end.code, end.reason))
  }

  end(code: number, reason: string) {
    if (this.readyState === 3) return
    this.readyState = 3
    if (code === 1006) this.onerror?.({ type: 'error' })
    this.onclose?.({ type: 'close', code, reason, wasClean: code !== 1006 })
  }
}

export function createFakeServer(options: FakeServerOptions = {}): FakeServer {
  const { users, sessionMs = 900_000, ticketMs = 30_000 } = options
  const verdicts: Record<Step, Verdict> = { ticket: 'accept', upgrade: 'accept', auth: 'accept' }
  const held: Record<Step, (() => void)[]> = { ticket: [], upgrade: [], auth: [] }
  const tickets = new Map<string, { user: string; until: number }>()
  const connections: FakeConnection[] = []
  const requests: FakeRequest[] = []
  let count = 0

  const newId = (what: string) => `${what}-${++count}`

  function decide(step: Step, verdict: Verdict) {
    verdicts[step] = verdict
    for (const goOn of held[step].splice(0)) goOn()
  }

  /** Resolves to undefined if the step is accepted. Never resolves at once, as on a network. */
  async function refusalOf(step: Step): Promise<Refusal | undefined> {
    await undefined
    while (verdicts[step] === 'hold') await new Promise<void>((goOn) => held[step].push(goOn))
    const verdict = verdicts[step]
    if (typeof verdict === 'string') return undefined
    if (verdict.times !== undefined && --verdict.times <= 0) verdicts[step] = 'accept'
    return verdict
  }

  const userOf = (token: string | undefined) => (users ? users[token ?? ''] : 'user')

  function issueTicket(user = 'user') {
    const id = newId('ticket')
    tickets.set(id, { user, until: Date.now() + ticketMs })
    return id
  }

  /** Returns the user, or undefined for an invalid credential. A ticket works once. */
  function redeem({ ticket, token }: Credential): string | undefined {
    if (ticket === undefined) return userOf(token)
    const issued = tickets.get(ticket)
    tickets.delete(ticket)
    return issued && Date.now() < issued.until ? issued.user : undefined
  }

  const payloadOf = ({ code = 'INVALID_TOKEN', message = 'refused by the fake server', recoverable = true }: Refusal) => ({
    code, message, recoverable, request_id: newId('request'),
  })

  function answer(status: number, body: object, headers: Record<string, string> = {}) {
    return new Response(JSON.stringify(body), { status, headers: { 'Content-Type': 'application/json', ...headers } })
  }

  async function answerTicket(token: string | undefined): Promise<Response | undefined> {
    const refusal = await refusalOf('ticket')
    if (refusal) {
      const { status = 401, retryAfterSeconds: after } = refusal
      if (status === 0) return undefined
      return answer(status, payloadOf(refusal), after === undefined ? {} : { 'Retry-After': String(after) })
    }
    if (!server.methods.includes('ticket')) {
      return answer(404, { ...payloadOf({ code: 'TICKETS_OFF', recoverable: false }), methods: server.methods })
    }
    const user = userOf(token)
    if (user === undefined) return answer(401, payloadOf({}))
    const now = Date.now()
    return answer(201, {
      ticket_id: issueTicket(user), created_at: now, expires_at: now + ticketMs, ttl_seconds: ticketMs / 1000,
      single_use: true, websocket_url: null,
    })
  }

  async function fakeFetch(input: RequestInfo | URL, init: RequestInit = {}): Promise<Response> {
    const { pathname: path } = new URL(input instanceof Request ? input.url : input, 'http://localhost')
    const token = new Headers(init.headers).get('Authorization')?.replace(/^Bearer /, '')
    const request: FakeRequest = { method: init.method ?? 'GET', path, token, status: undefined }
    requests.push(request)
    let response: Response | undefined
    if (request.method === 'POST' && path === (options.ticketPath ?? '/websocket/ticket')) {
      response = await answerTicket(token)
    } else if (request.method === 'GET' && path === (options.configPath ?? '/websocket/config')) {
      response = answer(200, { method: server.methods[0], methods: server.methods, first_message: 'json' })
    } else {
      response = answer(404, payloadOf({ code: 'NO_ROUTE', recoverable: false }))
    }
    request.status = response?.status ?? 0
    if (!response) throw new TypeError('Failed to fetch')
    return response
  }

  /** The side of the server. */
  function serve(socket: FakeSocket): FakeConnection {
    const url = new URL(socket.url)
    const credentials: Credential[] = []
    const received: unknown[] = []
    let user: string | undefined
    let expiresAt: number | undefined
    let closed: FakeConnection['closed']
    let hasBegun = false
    let isAsked = false
    /** True once the client has sent a credential in a message or was asked for one. */
    let isWatched = false

    function end(code: number, reason: string) {
      if (closed) return
      closed = { code, reason, by: 'server' }
      socket.end(code, reason)
    }

    function frame(type: string, id: string, payload: object) {
      connection.send({ type, id, timestamp: new Date().toISOString(), payload })
    }

    function prove(name: string) {
      user = name
      expiresAt = Date.now() + sessionMs
    }

    async function open() {
      const ticket = url.searchParams.get(options.ticketParameter ?? 'ticket') ?? undefined
      const token = tokenIn(socket.protocols)
      const isBare = ticket === undefined && token === undefined
      if (!isBare) credentials.push({ ticket, token })
      const refusal = await refusalOf('upgrade')
      if (socket.readyState !== 0) return
      const name = isBare ? undefined : redeem({ ticket, token })
      const isRefused = isBare ? !server.methods.includes('message') : name === undefined
      if (isRefused || (refusal && !refusal.close)) return end(1006, '')
      if (name !== undefined) prove(name)
      hasBegun = name !== undefined
      socket.readyState = 1
      socket.onopen?.({ type: 'open' })
      if (refusal?.close) end(refusal.close.code, refusal.close.reason ?? '')
    }

    /** Handles an `auth` message: the first message, or a renewal. */
    async function authenticate(id: string, credential: Credential) {
      credentials.push(credential)
      const refusal = await refusalOf('auth')
      if (socket.readyState !== 1) return
      const name = redeem(credential)
      const isRenewal = user !== undefined
      const isOther = isRenewal && name !== undefined && name !== user
      if (!refusal && name !== undefined && !isOther) {
        prove(name)
        isAsked = false
        return frame('auth_ok', id, { user, session_id: sessionId, expires_at: expiresAt })
      }
      frame('error', id, payloadOf(refusal ?? (isOther ? { code: 'OTHER_SUBJECT', recoverable: false } : {})))
      const close = refusal?.close ?? (isRenewal && !isOther ? undefined : { code: 1008, reason: 'Invalid token' })
      if (close) end(close.code, close.reason ?? '')
    }

    socket.onLeave = (code, reason) => (closed ??= { code, reason, by: 'client' })
    socket.onSend = (data) => {
      const message = parse(data)
      if (message?.type === 'auth') {
        if (user === undefined || isAsked || options.proactive) {
          hasBegun = isWatched = true
          return void authenticate(message.id, message.payload ?? {})
        }
        // A late credential does not reach the backend.
        if (isWatched && (message.payload?.token ?? message.payload?.ticket)) return
      }
      if (!hasBegun) {
        frame('error', newId('error'), payloadOf({ code: 'FIRST_MESSAGE_NOT_AUTH' }))
        return end(1008, 'First message must be auth')
      }
      received.push(data)
      void Promise.resolve().then(() => options.onMessage?.(connection, data))
    }

    const sessionId = newId('session')
    const connection: FakeConnection = {
      url,
      protocols: socket.protocols,
      credentials,
      received,
      get isOpen() {
        return socket.readyState === 1
      },
      get user() {
        return user
      },
      get expiresAt() {
        return expiresAt
      },
      get messages() {
        return received.map(parse)
      },
      get closed() {
        return closed
      },
      send(data) {
        if (socket.readyState !== 1) throw new Error('the connection is not open')
        const isRaw = typeof data === 'string' || data instanceof ArrayBuffer || ArrayBuffer.isView(data)
        socket.onmessage?.({ type: 'message', data: isRaw ? data : JSON.stringify(data) })
      },
      requireAuth(graceSeconds = 30) {
        isAsked = isWatched = true
        const reason = 'Token expiring soon'
        frame('auth_required', newId('question'), { reason, expires_at: expiresAt, grace_seconds: graceSeconds })
      },
      error: (refusal = {}) => frame('error', newId('error'), payloadOf(refusal)),
      close: (code = 1000, reason = '') => end(code, reason),
      drop: () => end(1006, ''),
    }
    void open()
    return connection
  }

  const server: FakeServer = {
    WebSocket: class extends FakeSocket {
      constructor(url: string, protocols: string | string[] = []) {
        super(url, ([] as string[]).concat(protocols))
        connections.push(serve(this))
      }
    },
    fetch: fakeFetch,
    connections,
    get open() {
      return connections.filter(({ isOpen }) => isOpen)
    },
    get connection() {
      const newest = connections[connections.length - 1]
      if (!newest) throw new Error('no socket was made')
      return newest
    },
    requests,
    methods: options.methods ?? ['ticket', 'message'],
    accept: (step) => decide(step, 'accept'),
    refuse: (step, refusal = {}) => decide(step, { ...refusal }),
    hold: (step) => decide(step, 'hold'),
    issueTicket,
  }
  return server
}
