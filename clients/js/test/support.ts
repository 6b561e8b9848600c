import { afterEach, beforeEach, vi } from 'vitest'
import { createClient, type Client, type Events, type Options, type SocketLike } from '../src/index.js'

/** A socket that does what the test says, and nothing by itself. */
export class FakeSocket implements SocketLike {
  static made: FakeSocket[] = []
  binaryType = 'blob'
  readyState = 0
  onopen: SocketLike['onopen'] = null
  onmessage: SocketLike['onmessage'] = null
  onerror: SocketLike['onerror'] = null
  onclose: SocketLike['onclose'] = null
  readonly sent: any[] = []
  closedWith: number | undefined

  constructor(
    readonly url: string,
    readonly protocols: string[],
  ) {
    FakeSocket.made.push(this)
  }

  send(data: any) {
    this.sent.push(data)
  }

  close(code?: number) {
    this.readyState = 3
    this.closedWith = code
  }

  /** The server accepts the upgrade. */
  open() {
    this.readyState = 1
    this.onopen?.({})
  }

  /** A message of the server: text and bytes as they are, other values as JSON. */
  receive(data: unknown) {
    const isRaw = typeof data === 'string' || data instanceof ArrayBuffer
    this.onmessage?.({ data: isRaw ? data : JSON.stringify(data) })
  }

  /** The server ends the connection. */
  end(code = 1006, reason = '') {
    this.readyState = 3
    this.onclose?.({ code, reason })
  }

  /** The `auth` messages, oldest first. */
  get auths() {
    const texts = this.sent.filter((data) => typeof data === 'string' && data.startsWith('{"type":"auth"'))
    return texts.map((text) => JSON.parse(text))
  }

  get auth() {
    return this.auths.at(-1)
  }

  /** Accepts the last `auth` message. */
  accept(payload: object = {}) {
    const { id } = this.auth
    const granted = { user: 'ada', session_id: 's1', expires_at: 1_000, ...payload }
    this.receive({ type: 'auth_ok', id, payload: granted })
  }

  /** Refuses with an error frame. */
  refuse(payload: object = {}, id: string = this.auth?.id) {
    const refused = { code: 'INVALID_TOKEN', message: 'no', recoverable: true, request_id: 'r1', ...payload }
    this.receive({ type: 'error', id, payload: refused })
  }

  /** Asks for a new credential. */
  ask(expires_at = 1_000) {
    this.receive({ type: 'auth_required', id: 'q1', payload: { expires_at, grace_seconds: 30 } })
  }
}

export const sockets = () => FakeSocket.made
export const socket = () => FakeSocket.made.at(-1)!

/** Fake timers, and randomness that is nearly none, for each test of the file. */
export function setUp() {
  let random = 0.5
  beforeEach(() => {
    vi.useFakeTimers()
    // Ids still differ.
    vi.spyOn(Math, 'random').mockImplementation(() => (random += 1e-9))
    FakeSocket.made = []
  })
  afterEach(() => {
    vi.restoreAllMocks()
    vi.unstubAllGlobals()
    vi.useRealTimers()
  })
}

/** Lets microtasks and timers of this many milliseconds happen. */
export const pass = (ms = 0) => vi.advanceTimersByTimeAsync(ms)

export type Answer = { status?: number; body?: unknown; headers?: Record<string, string> } | Error | 'never'

/** A `fetch` that gives these answers in order; the last one again and again. */
export function fakeFetch(...answers: Answer[]) {
  let count = 0
  const asked: { url: string; method: string | undefined; headers: Record<string, string>; body: any; credentials: any }[] = []
  const fetch = async (url: any, { method, headers, body, credentials }: any = {}) => {
    asked.push({ url: String(url), method, headers, body: body && JSON.parse(body), credentials })
    const answer = answers[Math.min(count++, answers.length - 1)]!
    if (answer === 'never') return new Promise<Response>(() => {})
    if (answer instanceof Error) throw answer
    const { status = 200, body: content = {}, headers: sent = {} } = answer
    const text = typeof content === 'string' ? content : JSON.stringify(content)
    return new Response(text, { status, headers: sent })
  }
  return Object.assign(fetch as typeof globalThis.fetch, { asked })
}

let issued = 0
/** The answer of the ticket endpoint: another ticket each time. */
export const aTicket = (ttl_seconds = 30) => ({
  status: 201,
  get body() {
    return { ticket_id: `t${++issued}`, ttl_seconds }
  },
})

export const aProblem = (status: number, code: string, recoverable: boolean, more: object = {}) => ({
  status,
  body: { code, message: 'no', recoverable, request_id: 'r1', ...more },
})

export type AnyClient = Client<any, any>

/** A client of the first message. */
export const make = (options: Partial<Options<any, any>> = {}): AnyClient =>
  createClient<any, any>({
    url: 'wss://chat.test/ws',
    auth: 'message',
    getToken: () => 'token',
    WebSocket: FakeSocket as any,
    ...options,
  })

/** The events of one name, as they come. */
export function record<E extends keyof Events<any>>(client: AnyClient, event: E): Events<any>[E][] {
  const seen: Events<any>[E][] = []
  client.on(event, (detail) => seen.push(detail))
  return seen
}

/** Connects by the first message. */
export async function connect(client: AnyClient, granted: object = {}) {
  void client.connect()
  await pass()
  socket().open()
  socket().accept(granted)
  await pass()
}
