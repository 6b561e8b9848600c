/**
 * The states of a client, and the wait after a lost connection.
 *
 * Pure: no timer, no socket, no clock. `client.ts` does what is decided here.
 */

export type State =
  /** Not started, or ended for good. */
  | 'disconnected'
  /** Fetches credentials and opens the socket. */
  | 'connecting'
  /** The socket is open, the user not yet accepted. */
  | 'authenticating'
  | 'authenticated'
  /** Waits for the next attempt. */
  | 'reconnecting'

/** Why a connection ended: by its close code, its reason and the error frame (`verdict.ts`). */
export type CloseKind =
  /** Code 1000: the server is done. */
  | 'normal'
  /** The network, or an upgrade that was refused without a word (1006). */
  | 'network'
  /** The server stops. Another attempt succeeds soon. */
  | 'going_away'
  /** The credential was not accepted, or has ended. A fresh one may be. */
  | 'rejected'
  /** No credential of this client helps. */
  | 'denied'
  /** Another connection of the same user took the place. */
  | 'replaced'
  /** Too many connections or messages. */
  | 'busy'
  /** The server, its store or the service behind it fails. */
  | 'unavailable'
  /** The own authentication timer ran out. */
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
 * Returns the milliseconds until the next attempt, or undefined where none follows.
 *
 * `attempt` counts the failures in a row before this one. `hint` is what the server asked for, in
 * milliseconds. `wish` is the decision of the application, where it has one. `random` is in [0, 1).
 */
export function plan(
  kind: CloseKind,
  attempt: number,
  hint: number,
  wish: boolean | undefined,
  { min = 500, max = 30_000, factor = 2, jitter = 1 }: Partial<Backoff> = {},
  random = Math.random(),
): number | undefined {
  // After some kinds no attempt follows, unless the application wishes so.
  if (!(wish ?? !/normal|denied|replaced|timeout/.test(kind))) return
  // One refresh after a rejection needs no wait: the server is well.
  if (kind === 'rejected' && !attempt) return 0
  // A drain names its window, and attempts are spread over it. Any other hint is the least wait.
  if (kind === 'going_away' && hint) return hint * random
  const bound = Math.max(Math.min(max, min * factor ** attempt), kind === 'busy' ? max / 2 : 0)
  return hint + bound * (1 - jitter * random)
}
