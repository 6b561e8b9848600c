// The picture client -> Usher -> backend, the five states, and one sentence about both.

import type { Events, State } from '../src/index.js'
import { build, byId, setText } from './dom.js'
import { span } from './time.js'

export type Light = 'off' | 'busy' | 'on' | 'cut'

export interface Picture {
  page: Light
  front: Light
  usher: Light
  back: Light
  backend: Light
  notes: [page: string, usher: string, backend: string]
  tags: [front: string, back: string]
  caption: string
}

const LABELS: Record<State, string> = {
  disconnected: 'Disconnected',
  connecting: 'Connecting…',
  authenticating: 'Authenticating…',
  authenticated: 'Authenticated',
  reconnecting: 'Reconnecting…',
}

export const labelOf = (state: State) => LABELS[state]

export function showPicture(picture: Picture): void {
  const lights = { 'box-page': picture.page, 'wire-front': picture.front, 'box-usher': picture.usher, 'wire-back': picture.back, 'box-backend': picture.backend }
  for (const [id, light] of Object.entries(lights)) byId(id).dataset['light'] = light
  ;['box-page-note', 'box-usher-note', 'box-backend-note'].forEach((id, index) => setText(byId(id), picture.notes[index] ?? ''))
  ;['wire-front', 'wire-back'].forEach((id, index) => {
    const tag = byId(id).querySelector<HTMLElement>('.tag')
    if (tag) setText(tag, picture.tags[index] ?? '')
  })
  setText(byId('caption'), picture.caption)
}

/** Lets something run along both lines, from the page to the backend or the other way round. */
export function runAlong(direction: 'out' | 'in'): void {
  for (const id of ['wire-front', 'wire-back']) {
    const dot = build('span', { class: `dot ${direction}` })
    dot.addEventListener('animationend', () => dot.remove())
    // Without animations nothing would take the dot away.
    if (matchMedia('(prefers-reduced-motion: reduce)').matches) return
    byId(id).append(dot)
  }
}

let since = performance.now()

/** Shows the state, and how long the one before it took. */
export function showState({ state, previous }: Pick<Events['state'], 'state' | 'previous'>): void {
  const took = performance.now() - since
  since = performance.now()
  const pill = byId('state')
  pill.dataset['state'] = state
  setText(pill, LABELS[state])
  for (const item of byId('states').children as Iterable<HTMLElement> & HTMLCollection) {
    const name = (item as HTMLElement).dataset['state']
    if (name === state) item.setAttribute('aria-current', 'step')
    else item.removeAttribute('aria-current')
    const small = item.querySelector('small')
    if (small && name === previous && name !== 'disconnected') setText(small, span(took))
    // A new walk begins: the figures of the one before it would only confuse.
    if (small && state === 'connecting' && previous === 'disconnected') small.textContent = ''
  }
}
