import type { Backoff, CloseKind, State } from './machine.js'

export type { Backoff, CloseKind, State }

/** How a client proves who it is. */
export type Method = 'ticket' | 'message' | 'subprotocol'

export type TokenReason =
  /** A connection attempt. */
  | 'initial'
  /** The session has ended or is about to: after sleep, or because the application renews early. */
  | 'expiring'
  /** The server asks for a new credential in the stream. */
  | 'auth_required'
  /** The server did not accept the last token. */
  | 'rejected'

export interface TokenContext {
  reason: TokenReason
  /** The token that was not accepted, where `reason` is `rejected`. */
  rejected?: string | undefined
}

/** What a WebSocket takes. */
export type Raw = string | ArrayBuffer | ArrayBufferView | Blob

export interface Codec<In, Out> {
  encode(data: Out): Raw
  decode(data: string | ArrayBuffer): In
}

/** A ticket from another place than Usher's endpoint. */
export interface Ticket {
  ticket_id: string
  ttl_seconds?: number | undefined
}

export interface QueueOptions {
  /** Messages kept while there is no session. Default 100. */
  maxMessages?: number | undefined
  /** Bytes kept. Default 1 MiB. */
  maxBytes?: number | undefined
  /** Milliseconds after which a kept message is dropped. Default 30,000. */
  ttl?: number | undefined
  /** A message for which there is no room: drop it (default), drop the oldest ones, or throw. */
  overflow?: 'drop-newest' | 'drop-oldest' | 'throw' | undefined
}

export interface CloseInfo {
  code: number
  reason: string
  kind: CloseKind
  /** No other attempt follows. */
  fatal: boolean
}

export interface Session {
  user: string
  sessionId: string
  /** Milliseconds since 1970, by the clock of the server. Undefined where the grant has no end. */
  expiresAt: number | undefined
}

export type StateReason =
  | 'connect' | 'reconnect' | 'reauthenticate' | 'wake' | 'retry'
  | 'opened' | 'authenticated'
  | 'disconnect' | 'unauthorized' | 'authentication_timeout' | 'retries_exhausted'
  | 'token' | 'config' | 'ticket' | 'open' | 'reauth' | 'connect_timeout' | CloseKind

export type DropReason = 'overflow' | 'expired' | 'cleared' | 'stopped' | 'identity'

export interface Events<In = unknown> {
  state: { state: State; previous: State; reason: StateReason; attempt: number; retryInMs?: number | undefined }
  message: In
  /** A renewal in the stream. */
  reauth: { phase: 'required' | 'sent' | 'ok' | 'failed'; code?: string | undefined }
  ticket: {
    phase: 'requested' | 'issued' | 'failed' | 'cleared'
    /** Milliseconds from the request to its answer. */
    ms?: number | undefined
    status?: number | undefined
    code?: string | undefined
  }
  close: CloseInfo
  error: { error: Error; phase: 'token' | 'ticket' | 'config' | 'open' | 'auth' | 'reauth' | 'decode' }
  drop: { count: number; reason: DropReason }
  /** The method that succeeded, and for a fallback the one that did not and why. */
  method: { method: Method; fallbackFrom?: Method | undefined; reason?: string | undefined }
}

/** The part of WebSocket that is needed; `ws` for Node has it too. */
export interface SocketLike {
  binaryType: string
  readonly readyState: number
  onopen: ((event: any) => void) | null
  onmessage: ((event: any) => void) | null
  onerror: ((event: any) => void) | null
  onclose: ((event: any) => void) | null
  send(data: any): void
  close(code?: number, reason?: string): void
}

export type SocketConstructor = new (url: string, protocols?: string | string[]) => SocketLike

export interface Options<In = unknown, Out = unknown> {
  /** `wss://host/path`, or a function that is called before each attempt. */
  url: string | URL | (() => string | URL | Promise<string | URL>)
  /** Default: `/websocket/ticket` on the host of `url`. */
  ticketUrl?: string | URL | undefined
  /** Default: `/websocket/config?route=<path of url>` on the host of `url`. */
  configUrl?: string | URL | undefined
  /** Default: `auto`. */
  auth?: Method | 'auto' | undefined
  /** Called before each attempt, and when the server asks. Throw `UnauthorizedError` to stop. */
  getToken?: ((context: TokenContext) => string | Promise<string>) | undefined
  /** In place of the ticket endpoint. */
  getTicket?: ((context: TokenContext) => string | Ticket | Promise<string | Ticket>) | undefined
  /** The query parameter that carries the ticket. Default: `ticket`. */
  ticketParameter?: string | undefined
  /** The route as Usher's configuration writes it, where several take tickets. */
  route?: string | undefined
  /** Subprotocols to offer. `subprotocol` needs one that the server chooses, unless the token is a JWT. */
  protocols?: string | string[] | undefined
  backoff?: Partial<Backoff> | undefined
  /** Failed attempts in a row before it stops. Default: no limit. */
  maxRetries?: number | undefined
  /** Milliseconds for `url`, `getToken` and `getTicket`, and for the upgrade. Default 10,000. */
  connectTimeout?: number | undefined
  /** Milliseconds from the open socket to the proof. Default 5,000. */
  authTimeout?: number | undefined
  queue?: QueueOptions | undefined
  /** Decides whether another attempt follows the end of a connection; undefined leaves it to the client. */
  shouldReconnect?: ((close: Omit<CloseInfo, 'fatal'>) => boolean | undefined) | undefined
  /** Wake on `online`, `visibilitychange` and `pageshow`. Default true. */
  lifecycle?: boolean | undefined
  /** The route renews before it is asked (`reauth.proactive = true`): `reauthenticate()` stays on the connection. */
  proactive?: boolean | undefined
  /** For servers without `auth_ok`: is this message a proof that the server has accepted the client? */
  authenticatedWhen?: ((message: In) => boolean) | undefined
  WebSocket?: SocketConstructor | undefined
  fetch?: typeof fetch | undefined
  /** Default: strings and bytes as they are, other values as JSON; what arrives is not decoded. */
  codec?: Codec<In, Out> | undefined
  /** Prints transitions, codes and times; never a URL, a credential or a message. */
  debug?: boolean | ((line: string) => void) | undefined
}

export interface Client<In = unknown, Out = unknown> {
  readonly state: State
  /** Messages that wait. */
  readonly queued: number
  readonly lastError: Error | undefined
  /** As `auth_ok` said it. Undefined before, and with tickets until the first renewal. */
  readonly session: Session | undefined
  /** The method that succeeded last. */
  readonly method: Method | undefined
  /** Starts, and resolves when authenticated. Rejects when it stops first. */
  connect(): Promise<void>
  /** Closes with 1000, forgets tickets and waiting messages, and makes no other attempt. */
  disconnect(): void
  /** Closes what is open and connects at once, also after it has stopped for good. */
  reconnect(): Promise<void>
  /** Takes another identity, or renews early: forgets tickets and waiting messages, and proves anew. */
  reauthenticate(): Promise<void>
  send(data: Out): 'sent' | 'queued' | 'dropped'
  clearQueue(): void
  clearTickets(): void
  /** Fetches the ticket for the next attempt ahead. At most one is kept, for three quarters of its life. */
  prefetchTicket(): Promise<void>
  on<E extends keyof Events<In>>(event: E, listener: (detail: Events<In>[E]) => void): () => void
  /** Resolves when authenticated, at once where it is. Rejects when it stops, or after `timeoutMs`. */
  ready(timeoutMs?: number): Promise<void>
}
