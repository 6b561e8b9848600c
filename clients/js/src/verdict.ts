import { KINDS } from './codes.js'
import type { CloseKind } from './machine.js'

/**
 * Returns the kind of an end. `recoverable` of the error frame counts before code and reason.
 *
 * A failure before the socket has the code 4000 + its HTTP status.
 */
export function judge(code: number, reason: string, recoverable?: boolean): CloseKind {
  const [kind] = KINDS.find(([, pattern]) => pattern.test(code + ' ' + reason))!
  if (recoverable && kind === 'denied') return 'rejected'
  return recoverable === false && kind !== 'replaced' ? 'denied' : kind
}
