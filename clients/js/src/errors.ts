export interface Facts {
  /** Stable, for programs: a code of `docs/errors.md`, or one of this library. */
  code: string
  /** The HTTP status, where there was one. */
  status?: number | undefined
  recoverable?: boolean | undefined
  requestId?: string | undefined
  /** Milliseconds that the server asked for. */
  retryAfterMs?: number | undefined
  /** The methods that the server offers instead (`TICKETS_OFF`). */
  methods?: unknown
}

export class UsherError extends Error {
  override name = 'UsherError'
  declare readonly code: string
  declare readonly status: number | undefined
  readonly recoverable: boolean = true
  declare readonly requestId: string | undefined
  declare readonly retryAfterMs: number | undefined
  declare readonly methods: unknown
  constructor(message: string, facts: Facts) {
    super(message)
    Object.assign(this, facts)
  }
}

/** Thrown by `getToken` or `getTicket`: the user is not signed in, and no other attempt is made. */
export class UnauthorizedError extends Error {
  override name = 'UnauthorizedError'
  readonly recoverable = false
  /** @internal The reason of the state that follows. */
  readonly _reason = 'unauthorized'
}

/** Returns an error of this library, or with the `facts` that a server tells. */
export const fault = (code: string, facts?: any) =>
  new UsherError(facts?.message ?? code, {
    code: code.toUpperCase(),
    requestId: facts?.request_id,
    ...facts,
  })
