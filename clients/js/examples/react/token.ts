import { UnauthorizedError, type TokenContext } from 'usher-client'

let kept = { token: '', until: 0 }

/** Returns an access token of the person who is logged in. */
export async function getToken({ reason }: TokenContext): Promise<string> {
  if (reason === 'initial' && Date.now() < kept.until) return kept.token
  const response = await fetch('/api/token', { method: 'POST' })
  if (response.status === 401) throw new UnauthorizedError()
  if (!response.ok) throw new Error(`no token: ${response.status}`)
  const { access_token, expires_in } = await response.json()
  kept = { token: access_token, until: Date.now() + (expires_in - 30) * 1000 }
  return access_token
}

export function forgetToken() {
  kept = { token: '', until: 0 }
}
