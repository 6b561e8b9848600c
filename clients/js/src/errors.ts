export interface Facts {
  /** A stable code for programs, from `docs/errors.md` or from this library. */
  code: string
  /** The HTTP status, if there was one. */
  status?: number | undefined
  recoverable?: boolean | undefined
  requestId?: string | undefined
  /** The wait that the server asked for, in milliseconds. */
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

/** Returns an error of this library, or one with the `facts` of a server. */
export const fault = (code: string, facts?: any) =>
  new UsherError(facts?.message ?? code, {
    code: code.toUpperCase(),
    requestId: facts?.request_id,
    ...facts,
  })
