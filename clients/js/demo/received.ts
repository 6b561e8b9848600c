// What the backend sees: the request line, the signed header, its signature, and its claims in words.

import { build, byId, setText } from './dom.js'
import type { Visit } from './person.js'
import { remaining, timeOf } from './time.js'
import { verdictOn } from './signature.js'

type Claims = Record<string, any>

const GONE: Record<string, string> = {
  ticket: 'The ticket is gone, this came instead:',
  message: 'The first message stayed at Usher, this came instead:',
  query: 'The token is gone, this came instead:',
}
const ENDS = 'ends'

let sessionEnd = 0
let renewedUntil = 0
/** The visit of the session that is open. */
let shown: Visit | undefined

export async function showVisit(visit: Visit, fetchIt: typeof fetch): Promise<void> {
  shown = visit
  const claims: Claims = visit.context ?? {}
  const raw = visit.headers.find(([name]) => name === 'x-user-context')?.[1] ?? ''
  const method = String(claims['auth']?.method ?? '')
  byId('received-none').hidden = true
  byId('received-some').hidden = false
  delete byId('received').dataset['stale']
  const line = byId('request-line')
  line.replaceChildren(`GET ${visit.target}`)
  if (method === 'ticket') line.append(build('del', { title: 'Usher took it out' }, '?ticket=…'))
  setText(byId('gone'), GONE[method] ?? 'The credential is gone, this came instead:')
  showRaw(raw)
  sessionEnd = Number(claims['session_exp'] ?? 0) * 1000
  renewedUntil = 0
  byId('context').replaceChildren(...rows(claims))
  tick()
  const others = visit.headers.filter(([name]) => name !== 'x-user-context')
  setText(byId('headers-summary'), `The ${others.length} other headers`)
  byId('headers').replaceChildren(...others.flatMap(([name, value]) => [build('dt', {}, name), build('dd', {}, value)]))
  const check = byId('signature')
  check.dataset['kind'] = 'wait'
  setText(check, 'Checking the signature…')
  const verdict = await verdictOn(raw, fetchIt)
  // The session may have ended meanwhile, or another may have begun.
  if (shown !== visit) return
  check.dataset['kind'] = verdict.kind
  setText(check, verdict.text)
}

/** The session has ended, and another is on its way: its header stands there until then, greyed out. */
export function showStaleVisit(): void {
  if (!shown) return
  shown = undefined
  byId('received').dataset['stale'] = ''
  sessionEnd = 0
  const check = byId('signature')
  check.dataset['kind'] = 'wait'
  setText(check, 'That session has ended. The next one brings a new header.')
}

export function showNoVisit(): void {
  shown = undefined
  byId('received-none').hidden = false
  byId('received-some').hidden = true
}

/** The grant goes on, and the backend is not told. */
export function showRenewal(until: number | undefined): void {
  renewedUntil = until ?? 0
  tick()
}

/** Counts down. Called every second. */
export function tick(): void {
  const cell = byId('context').querySelector<HTMLElement>(`[data-row=${ENDS}]`)
  if (!cell || !sessionEnd) return
  const left = sessionEnd - Date.now()
  const own = left > 0 ? `${timeOf(sessionEnd)}, in ${remaining(left)}` : `${timeOf(sessionEnd)}, which has passed`
  setText(cell, renewedUntil ? `${timeOf(sessionEnd)}. Renewed since, until ${timeOf(renewedUntil)}; the backend need not know` : own)
}

function showRaw(raw: string): void {
  const [head = '', claims = '', signature = ''] = raw.split('.')
  byId('raw').replaceChildren(
    'X-User-Context: ',
    build('span', { class: 'jws-head' }, head), '.',
    build('span', { class: 'jws-claims' }, claims), '.',
    build('span', { class: 'jws-signature' }, signature),
  )
}

function rows(claims: Claims): HTMLElement[] {
  const auth = claims['auth'] ?? {}
  const request = claims['req'] ?? {}
  const seconds = (value: unknown) => timeOf(Number(value) * 1000)
  const table: [label: string, claim: string, value: string | undefined, row?: string][] = [
    ['User', 'sub', claims['sub']],
    ['Proved by', 'auth', auth.method && `${auth.method}${auth.issuer ? `, from a login at “${auth.issuer}”` : ''}`],
    ['May', 'permissions', (claims['permissions'] as string[] | undefined)?.join(', ')],
    ['Session', 'sid', claims['sid']],
    ['Session ends', 'session_exp', claims['session_exp'] && seconds(claims['session_exp']), ENDS],
    ['Signed at', 'iat', claims['iat'] && `${seconds(claims['iat'])}, good until ${seconds(claims['exp'])}`],
    ['Signed by, for', 'iss, aud', `${claims['iss']}, ${claims['aud']}`],
    ['Asked for', 'req', request.host && `${request.host}${request.path ?? ''}`],
    ['From', 'client', typeof claims['client'] === 'object' ? claims['client']?.ip : claims['client']],
  ]
  return table
    .filter(([, , value]) => value)
    .map(([label, claim, value, row = '']) =>
      build('div', {}, build('dt', {}, label), build('dd', { data: { row } }, String(value)), build('dd', {}, build('code', {}, claim))),
    )
}
