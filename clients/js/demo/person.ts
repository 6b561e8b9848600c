// One person: a login, a token that is refreshed, and a client of the library.

import { createClient, UnauthorizedError } from '../src/index.js'
import type { Client, Method, TokenContext } from '../src/index.js'
import { tap, type Line, type Wire } from './wire.js'

/** A token that ends within this many milliseconds is refreshed before it is used. */
const NEARLY_OVER = 3_000

export type Way = 'auto' | Extract<Method, 'message'>

export interface Visit {
  you: string
  context: Record<string, unknown> | null
  target: string
  headers: [string, string][]
}

export type RoomMessage =
  | ({ type: 'welcome' } & Visit)
  | { type: 'chat'; from: string; text: string }
  | { type: 'joined' | 'left'; from: string }
  | { type: 'missed'; count: number }
  | { type: 'rejected'; text: string }

interface Login {
  token: string
  expires_in: number
  refresh?: string
}

export type ChatClient = Client<RoomMessage, unknown>

/** The login was refused. The message is for the person. */
export class LoginFailed extends Error {}

export class Person {
  readonly wire: Wire
  readonly client: ChatClient
  readonly name: string
  #token = ''
  #refresh = ''
  /** Milliseconds since 1970. */
  tokenEnds = 0
  /** The `sid` of the signed context. */
  sessionId = ''
  /** The issuer has ended this login: it cannot be refreshed. */
  hasEnded = false

  constructor(name: string, way: Way, note: (line: Line) => void) {
    this.name = name
    this.wire = tap(() => name, note)
    this.client = createClient<RoomMessage, unknown>({
      url: new URL('/ws', location.href.replace(/^http/, 'ws')),
      auth: way,
      getToken: (context) => this.#freshToken(context),
      proactive: true,
      // Somebody watches: no wait is long.
      backoff: { max: 2_000 },
      fetch: this.wire.fetch,
      WebSocket: this.wire.WebSocket,
      codec: { encode: (data) => JSON.stringify(data), decode: (data) => JSON.parse(String(data)) as RoomMessage },
    })
  }

  /** Returns the same login with another way in. */
  by(way: Way, note: (line: Line) => void): Person {
    const other = new Person(this.name, way, note)
    other.#token = this.#token
    other.#refresh = this.#refresh
    other.tokenEnds = this.tokenEnds
    return other
  }

  async logIn(): Promise<void> {
    this.#take(await this.#ask('/login', { name: this.name }))
  }

  /** Takes a token that ends soon. */
  async takeShortToken(seconds: number): Promise<void> {
    this.#take(await this.#ask('/refresh', { refresh: this.#refresh, lifetime_seconds: seconds }))
  }

  /** Calls one of the demo's controls as this person. */
  async order(path: string, body: unknown = {}): Promise<Response> {
    return this.wire.fetch(path, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${this.#token}` },
      body: JSON.stringify(body),
    })
  }

  /** The address that puts the token where every log can read it. */
  oldAddress(): string {
    const address = new URL('/old', location.href.replace(/^http/, 'ws'))
    address.searchParams.set('access_token', this.#token)
    return address.href
  }

  async #freshToken({ reason, rejected }: TokenContext): Promise<string> {
    const isGood = this.#token && this.#token !== rejected && this.tokenEnds - Date.now() > NEARLY_OVER
    if (reason !== 'initial' || !isGood) {
      this.#take(await this.#ask('/refresh', { refresh: this.#refresh }))
    }
    return this.#token
  }

  #take({ token, expires_in, refresh }: Login): void {
    this.#token = token
    this.#refresh = refresh ?? this.#refresh
    this.tokenEnds = Date.now() + expires_in * 1000
  }

  async #ask(path: string, body: unknown): Promise<Login> {
    const response = await this.wire.fetch(path, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify(body),
    })
    const answer = await response.json().catch(() => ({}))
    if (response.ok) return answer as Login
    if (response.status === 401) {
      this.hasEnded = true
      throw new UnauthorizedError(answer.message)
    }
    throw new LoginFailed(answer.message ?? `the login service answered ${response.status}`)
  }
}
