// Blanks secrets, and turns epoch numbers into times, in what the log shows.

import { timeOf } from './time.js'

const SECRET_KEYS = new Set(['token', 'ticket', 'ticket_id', 'refresh', 'access_token', 'authorization'])
const SECRET_PARAMETERS = /([?&](?:ticket|access_token)=)([^&#]+)/g
const SIGNED = /\beyJ[\w-]{8,}\.[\w-]+\.[\w-]+/g
const TIME_KEYS = new Set(['exp', 'iat', 'nbf', 'session_exp', 'expires_at', 'created_at'])
/** Larger numbers are milliseconds since 1970, smaller ones seconds. */
const MILLIS_FROM = 1e11

const blanked = (secret: string) => `‹blanked, ${secret.length} characters›`

/** Blanks the secrets of an address. */
export const blankUrl = (url: string) => url.replace(SECRET_PARAMETERS, (_, key: string, secret: string) => key + blanked(secret))

/** Returns a text as the log shows it: JSON indented, secrets blanked, times readable. */
export function blank(text: string): string {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return blankText(text)
  }
  return typeof value === 'object' && value ? JSON.stringify(blankValue(value), null, 2) : blankText(text)
}

const blankText = (text: string) => blankUrl(text).replace(SIGNED, blanked)

function blankValue(value: unknown, key = ''): unknown {
  if (typeof value === 'string') return SECRET_KEYS.has(key.toLowerCase()) ? blanked(value) : blankText(value)
  if (typeof value === 'number') return TIME_KEYS.has(key) ? timeOf(value < MILLIS_FROM ? value * 1000 : value) : value
  if (Array.isArray(value)) {
    // A pair of a header's name and value.
    if (value.length === 2 && typeof value[0] === 'string') return [value[0], blankValue(value[1], value[0])]
    return value.map((one) => blankValue(one))
  }
  if (typeof value === 'object' && value) {
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, blankValue(one, name)]))
  }
  return value
}
