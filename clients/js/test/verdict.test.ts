import { describe, expect, it } from 'vitest'
import { judge } from '../src/verdict.js'

describe('the end of a connection', () => {
  it.each([
    [1000, '', 'normal'],
    [1000, 'Session replaced', 'normal'],
    [1001, 'Server going away', 'going_away'],
    [1005, '', 'network'],
    [1006, '', 'network'],
    [1008, '', 'rejected'],
    [1008, 'Invalid token', 'rejected'],
    [1008, 'Session expired', 'rejected'],
    [1008, 'Missing permission', 'denied'],
    [1008, 'Session replaced', 'replaced'],
    [1008, 'Too many messages', 'busy'],
    [1008, 'Too many sessions', 'busy'],
    [1011, 'Internal error', 'unavailable'],
    [1012, '', 'going_away'],
    [1013, 'Upstream unavailable', 'unavailable'],
    [1014, '', 'unavailable'],
    [4000, 'Session replaced', 'network'],
    [4400, 'First message must be auth', 'denied'],
    [4401, 'Invalid token', 'rejected'],
    [4403, 'pages of this origin may not connect here', 'denied'],
    [4403, 'Invalid token', 'rejected'],
    [4408, 'Authentication timeout', 'rejected'],
    [4409, 'Session replaced', 'replaced'],
    [4429, '', 'busy'],
    [4503, '', 'unavailable'],
    [4999, '', 'network'],
  ])('%i %s: %s', (code, reason, kind) => {
    expect(judge(code, reason)).toBe(kind)
    // The id of a refused upgrade stands behind its reason.
    expect(judge(code, `${reason} (0bcbf5df)`)).toBe(kind)
  })

  it('is what the error frame says', () => {
    expect(judge(1008, 'Invalid token', false)).toBe('denied')
    expect(judge(1013, '', false)).toBe('denied')
    expect(judge(4403, '', true)).toBe('rejected')
    expect(judge(1008, 'Missing permission', true)).toBe('rejected')
    expect(judge(1013, '', true)).toBe('unavailable')
  })

  it('stays a replacement, whatever the frame says', () => {
    expect(judge(1008, 'Session replaced', false)).toBe('replaced')
  })
})

describe('a failure before the socket', () => {
  it.each([
    [{ status: 401 }, 'rejected'],
    [{ status: 401, recoverable: false }, 'denied'],
    [{ status: 403, recoverable: false }, 'denied'],
    [{ status: 403, recoverable: true }, 'rejected'],
    [{ status: 404, recoverable: true }, 'network'],
    [{ status: 429 }, 'busy'],
    [{ status: 500 }, 'network'],
    [{ status: 503 }, 'unavailable'],
    [new TypeError('fetch failed'), 'network'],
    ['a text', 'network'],
  ])('%o: %s', ({ status, recoverable }: any, kind) => {
    expect(judge(4000 + status, '', recoverable)).toBe(kind)
  })
})
