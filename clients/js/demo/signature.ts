// What a backend does with the header: it verifies it with the public keys that Usher publishes.

export interface Verdict {
  kind: 'good' | 'bad' | 'wait'
  text: string
}

const ALGORITHMS: Record<string, EcKeyImportParams & EcdsaParams | { name: string }> = {
  EdDSA: { name: 'Ed25519' },
  ES256: { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' },
}

const bytesOf = (text: string) =>
  Uint8Array.from(atob(text.replace(/-/g, '+').replace(/_/g, '/')), (character) => character.charCodeAt(0))

export async function verdictOn(compact: string, fetchIt: typeof fetch): Promise<Verdict> {
  if (!compact) return { kind: 'bad', text: 'There is no X-User-Context header.' }
  try {
    const [head = '', claims = '', signature = ''] = compact.split('.')
    const { alg, kid } = JSON.parse(new TextDecoder().decode(bytesOf(head)))
    const algorithm = ALGORITHMS[alg]
    if (!algorithm) return { kind: 'wait', text: `Signed with ${alg}, which this page does not check.` }
    const { keys } = await (await fetchIt('/.well-known/usher/jwks.json')).json()
    const found = keys.find((key: { kid: string }) => key.kid === kid)
    if (!found) return { kind: 'bad', text: `No published key is called ${kid}.` }
    const { kty, crv, x, y } = found
    const key = await crypto.subtle.importKey('jwk', y ? { kty, crv, x, y } : { kty, crv, x }, algorithm, false, ['verify'])
    const data = new TextEncoder().encode(`${head}.${claims}`)
    const isGood = await crypto.subtle.verify(algorithm, key, bytesOf(signature), data)
    return isGood
      ? { kind: 'good', text: `The signature is good. This page checked it with Usher's public key ${kid}, as your backend would.` }
      : { kind: 'bad', text: 'The signature is NOT good.' }
  } catch (error) {
    return { kind: 'wait', text: `The signature was not checked here: ${(error as Error).message}` }
  }
}
