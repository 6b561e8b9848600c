/**
 * The states of a client, and the wait after a lost connection.
 *
 * Pure: no timer, no socket, no clock. `client.ts` carries the decisions out.
 */

export type State =
  /** Not started, or ended for good. */
  | 'disconnected'
  /** Fetches credentials and opens the socket. */
  | 'connecting'
  /** The socket is open, and the user is not yet accepted. */
  | 'authenticating'
  | 'authenticated'
  /** Waits for the next attempt. */
  | 'reconnecting'

/** The kind of an end, from its close code, its reason and the error frame (`verdict.ts`). */
export type CloseKind =
  /** Code 1000: the server is done. */
  | 'normal'
  /** A network failure, or an upgrade that was refused without a reason (1006). */
  | 'network'
  /** The server stops. Another attempt succeeds soon. */
  | 'going_away'
  /** The credential was refused or has expired. A fresh one may be accepted. */
  | 'rejected'
  /** No credential of this client helps. */
  | 'denied'
  /** Another connection of the same user replaced this one. */
  | 'replaced'
  /** Too many connections or messages. */
  | 'busy'
  /** The server, its store or the service behind it fails. */
  | 'unavailable'
  /** The authentication timer of the client ran out. */
  | 'timeout'

export interface Backoff {
  /** Milliseconds. The first wait is between 0 and `min`. */
  min: number
  /** Milliseconds. No wait is longer, unless the server asks for it. */
  max: number
  factor: number
  /** 1: each wait is random between 0 and its bound (full jitter). 0: no randomness. */
  jitter: number
}

/**
 * Returns the milliseconds until the next attempt, or undefined if none follows.
 *
 * `attempt` counts the failures in a row before this one. `hint` is the wait that the server asked
 * for, in milliseconds. `wish` is the decision of the application, if it made one. `random` is in
 * [0, 1).
 */
export function plan(
  kind: CloseKind,
  attempt: number,
  hint: number,
  wish: boolean | undefined,
  { min = 500, max = 30_000, factor = 2, jitter = 1 }: Partial<Backoff> = {},
  random = Math.random(),
): number | undefined {
  // After some kinds, no attempt follows unless the application decides otherwise.
  if (!(wish ?? !/normal|denied|replaced|timeout/.test(kind))) return
  // The first retry after a rejection needs no wait: the server works.
  if (kind === 'rejected' && !attempt) return 0
  // A drain names its window, and attempts are spread over it. Any other hint is the least wait.
  if (kind === 'going_away' && hint) return hint * random
  const bound = Math.max(Math.min(max, min * factor ** attempt), kind === 'busy' ? max / 2 : 0)
  return hint + bound * (1 - jitter * random)
}
