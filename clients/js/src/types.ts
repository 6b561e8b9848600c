import type { Backoff, CloseKind, State } from './machine.js'

export type { Backoff, CloseKind, State }

/** How a client proves who it is. */
export type Method = 'ticket' | 'message' | 'subprotocol'

export type TokenReason =
  /** A connection attempt. */
  | 'initial'
  /** The session has ended or ends soon: after sleep, or because the application renews early. */
  | 'expiring'
  /** The server asks for a new credential in the stream. */
  | 'auth_required'
  /** The server did not accept the last token. */
  | 'rejected'

export interface TokenContext {
  reason: TokenReason
  /** The refused token, if `reason` is `rejected`. */
  rejected?: string | undefined
}

/** The types that a WebSocket can send. */
export type Raw = string | ArrayBuffer | ArrayBufferView | Blob

export interface Codec<In, Out> {
  encode(data: Out): Raw
  decode(data: string | ArrayBuffer): In
}

/** A ticket that the application fetched itself. */
export interface Ticket {
  ticket_id: string
  ttl_seconds?: number | undefined
}

export interface QueueOptions {
  /** The number of messages kept while there is no session. Default 100. */
  maxMessages?: number | undefined
  /** The bytes of kept messages. Default 1 MiB. */
  maxBytes?: number | undefined
  /** Milliseconds after which a kept message is dropped. Default 30,000. */
  ttl?: number | undefined
  /** If there is no room for a message: drop it (default), drop the oldest ones, or throw. */
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
  /** Milliseconds since 1970, by the clock of the server. Undefined if the grant has no end. */
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
  /** The method that succeeded. After a fallback, also the method that failed and the reason. */
  method: { method: Method; fallbackFrom?: Method | undefined; reason?: string | undefined }
}

/** The part of WebSocket that the client uses. `ws` for Node has it too. */
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
  /** Replaces the ticket endpoint. */
  getTicket?: ((context: TokenContext) => string | Ticket | Promise<string | Ticket>) | undefined
  /** The query parameter that carries the ticket. Default: `ticket`. */
  ticketParameter?: string | undefined
  /** The route as in the configuration of Usher, if several routes accept tickets. */
  route?: string | undefined
  /** Subprotocols to offer. `subprotocol` needs one that the server chooses, except for a JWT. */
  protocols?: string | string[] | undefined
  backoff?: Partial<Backoff> | undefined
  /** Failed attempts in a row before the client stops. Default: no limit. */
  maxRetries?: number | undefined
  /** Milliseconds for `url`, `getToken` and `getTicket`, and for the upgrade. Default 10,000. */
  connectTimeout?: number | undefined
  /** Milliseconds from the open socket to the authentication. Default 5,000. */
  authTimeout?: number | undefined
  queue?: QueueOptions | undefined
  /** Decides if an attempt follows the end of a connection. Undefined: the client decides. */
  shouldReconnect?: ((close: Omit<CloseInfo, 'fatal'>) => boolean | undefined) | undefined
  /** Wake on `online`, `visibilitychange` and `pageshow`. Default true. */
  lifecycle?: boolean | undefined
  /** True if the route has `reauth.proactive = true`: `reauthenticate()` keeps the connection. */
  proactive?: boolean | undefined
  /** For servers without `auth_ok`: true if this message shows that the client is accepted. */
  authenticatedWhen?: ((message: In) => boolean) | undefined
  WebSocket?: SocketConstructor | undefined
  fetch?: typeof fetch | undefined
  /** Default: sends strings and bytes unchanged and other values as JSON, and decodes nothing. */
  codec?: Codec<In, Out> | undefined
  /** Prints transitions, codes and times, and never a URL, a credential or a message. */
  debug?: boolean | ((line: string) => void) | undefined
}

export interface Client<In = unknown, Out = unknown> {
  readonly state: State
  /** The number of waiting messages. */
  readonly queued: number
  readonly lastError: Error | undefined
  /** The session of `auth_ok`. Undefined before, and with tickets until the first renewal. */
  readonly session: Session | undefined
  /** The method that succeeded last. */
  readonly method: Method | undefined
  /** Starts, and resolves when authenticated. Rejects if the client stops first. */
  connect(): Promise<void>
  /** Closes with 1000, drops tickets and waiting messages, and makes no other attempt. */
  disconnect(): void
  /** Closes the connection and connects again at once, also after the client has stopped. */
  reconnect(): Promise<void>
  /** Changes the user or renews early: drops tickets and messages, and authenticates again. */
  reauthenticate(): Promise<void>
  send(data: Out): 'sent' | 'queued' | 'dropped'
  clearQueue(): void
  clearTickets(): void
  /** Fetches a ticket in advance. At most one is kept, for three quarters of its life. */
  prefetchTicket(): Promise<void>
  on<E extends keyof Events<In>>(event: E, listener: (detail: Events<In>[E]) => void): () => void
  /** Resolves when authenticated. Rejects if the client stops, or after `timeoutMs`. */
  ready(timeoutMs?: number): Promise<void>
}
