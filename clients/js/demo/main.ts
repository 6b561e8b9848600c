// The demo's page. The library connects; the rest shows what it does.

import type { CloseInfo, Events, State } from '../src/index.js'
import { clearStory, showControls } from './controls.js'
import { byId, keepFocus, setText } from './dom.js'
import { addLine, hasLines } from './log.js'
import { Pane } from './pane.js'
import { LoginFailed, Person, type RoomMessage, type Way } from './person.js'
import { runAlong, showPicture, showState, type Picture } from './picture.js'
import { showNoVisit, showRenewal, showStaleVisit, showVisit, tick } from './received.js'
import { span, timeOf } from './time.js'
import type { Line } from './wire.js'

/** `out`: no user is logged in. `in`: logged in, without a connection. `live`: the client is at work. */
type Phase = 'out' | 'in' | 'live'

const GUESTS = ['bob', 'cy']

let person: Person | undefined
let pane: Pane | undefined
let guest: Person | undefined
let guestPane: Pane | undefined
let way: Way = 'auto'
/** The chat stays on the page once it was there, until the person logs out. */
let hasVisited = false
let began = 0
let lastClose: CloseInfo | undefined
let ended: 'revoked' | 'replaced' | 'logged out' | undefined

const note = (line: Line) => {
  addLine(line)
  byId('log-card').hidden = !hasLines()
  showNeeds()
}

// ---- Logging in and out

async function logIn(name: string): Promise<void> {
  showNotice('')
  const next = new Person(name, way, note)
  try {
    await next.logIn()
  } catch (error) {
    const text = error instanceof LoginFailed ? error.message : 'The login service does not answer.'
    return showNotice(`Not logged in: ${text}`)
  }
  leaveAll()
  person = next
  ended = lastClose = undefined
  follow(next)
  history.replaceState(null, '', `/?as=${encodeURIComponent(name)}`)
  render('in')
  byId('connect').focus()
}

function logOut(): void {
  leaveAll()
  ended = 'logged out'
  render('out')
  byId('name').focus()
}

/** Ends what belongs to the person before: nothing of it is used for the next one. */
function leaveAll(): void {
  person?.client.disconnect()
  dismissGuest()
  person = undefined
  pane = undefined
  hasVisited = false
  byId('people').replaceChildren()
  showNoVisit()
  clearStory()
}

// ---- The connection

async function connect(): Promise<void> {
  if (!person) return
  const { client } = person
  showNotice('')
  began = performance.now()
  // A refusal shows itself through the events.
  await client.connect().catch(() => {})
}

function disconnect(): void {
  person?.client.disconnect()
  byId('connect').focus()
}

async function changeWay(to: Way): Promise<void> {
  if (!person) return
  const before = person
  way = to
  person = before.by(to, note)
  follow(person)
  pane?.follow(person)
  before.client.disconnect()
  began = performance.now()
  await person.client.connect()
}

function follow(one: Person): void {
  const { client } = one
  const isCurrent = () => person === one
  client.on('state', (event) => isCurrent() && changed(event))
  client.on('close', (info) => isCurrent() && (lastClose = info))
  client.on('message', (message) => isCurrent() && received(one, message))
  client.on('reauth', ({ phase }) => {
    if (isCurrent() && phase === 'ok') {
      showRenewal(client.session?.expiresAt ?? one.tokenEnds)
      renderSteps()
    }
  })
  client.on('method', ({ method, fallbackFrom, reason }) => {
    if (!fallbackFrom) return
    note({
      who: one.name, at: Date.now(), from: 'page', kind: 'plain',
      title: `Fell back from ${fallbackFrom} to ${method}`, wire: `the reason: ${reason ?? 'unknown'}`,
    })
  })
  client.on('error', ({ error, phase }) => {
    if (isCurrent() && phase === 'token' && !one.hasEnded) showNotice(`No token: ${error.message}`)
  })
}

function received(one: Person, message: RoomMessage): void {
  if (message.type === 'welcome') {
    one.sessionId = String(message.context?.['sid'] ?? '')
    void showVisit(message, one.wire.fetch)
  }
  if (message.type === 'chat' && message.from !== one.name) runAlong('in')
}

function changed(event: Events['state']): void {
  const { state } = event
  showState(event)
  if (state === 'authenticated') {
    hasVisited = true
    ended = lastClose = undefined
    showNotice('')
    showPane()
    setText(byId('connect-done'), `Connected by ${person?.client.method === 'message' ? 'first message' : 'ticket'} in ${span(performance.now() - began)}.`)
  } else if (state === 'disconnected') {
    showNoVisit()
  } else if (event.previous === 'authenticated') {
    showStaleVisit()
  }
  if (event.previous === 'authenticated') began = performance.now()
  if (state === 'disconnected') endedBy(event)
  const phase = ended ? 'out' : state === 'disconnected' ? 'in' : 'live'
  render(phase)
  if (state === 'authenticated' && event.previous !== 'reconnecting') {
    // The button that was pressed has gone: the next thing to do is to write.
    keepFocus(pane?.input ?? byId('steps'))
  } else if (state === 'disconnected') {
    keepFocus(ended ? byId('name') : byId('connect'))
  }
}

function endedBy({ reason }: Events['state']): void {
  if (reason === 'unauthorized' || lastClose?.reason === 'Session revoked') {
    ended = 'revoked'
    showNotice('Usher ended your session: it was revoked. Your token opens nothing now. Log in again to get a new one.')
  } else if (reason === 'replaced') {
    showNotice('Another connection of yours took the place of this one.')
  } else if (reason !== 'disconnect') {
    showNotice(`The connection ended and is not tried again (${reason.replaceAll('_', ' ')}).`)
  }
}

// ---- The second person

async function invite(): Promise<void> {
  const name = GUESTS.find((guest) => guest !== person?.name) ?? 'bob'
  guest = new Person(name, 'auto', note)
  guestPane = new Pane({ person: guest, onLeave: () => { dismissGuest(); renderSteps(); keepFocus(byId('invite')) } })
  byId('people').append(guestPane.element)
  renderSteps()
  try {
    await guest.logIn()
    await guest.client.connect()
    guestPane.input.focus({ preventScroll: true })
  } catch (error) {
    showNotice(`${name} could not come in: ${(error as Error).message}`)
  }
}

function dismissGuest(): void {
  guest?.client.disconnect()
  guestPane?.element.remove()
  guest = guestPane = undefined
}

// ---- What is seen

function showPane(): void {
  if (pane || !person) return
  pane = new Pane({ person, onSent: () => runAlong('out') })
  byId('people').prepend(pane.element)
}

function render(phase: Phase): void {
  document.body.dataset['phase'] = phase
  if (phase === 'out' && ended === 'revoked') setText(byId('login'), 'Log in again')
  else setText(byId('login'), 'Log in')
  renderSteps()
  showPicture(pictureOf(phase, person?.client.state ?? 'disconnected'))
  byId('chat').hidden = byId('received').hidden = !hasVisited
  byId('break').hidden = phase !== 'live' || !hasVisited
  showNeeds()
}

function renderSteps(): void {
  const phase = document.body.dataset['phase'] as Phase
  const state = person?.client.state ?? 'disconnected'
  const isIn = phase !== 'out'
  const isOpen = state === 'authenticated'
  setStep('step-login', isIn ? 'done' : 'now')
  setStep('step-connect', isOpen ? 'done' : isIn ? 'now' : 'later')
  setStep('step-chat', isOpen ? 'now' : 'later')
  byId('login-form').hidden = isIn
  if (isIn && person) setText(byId('login-done'), `You are ${person.name}, with a token until ${timeOf(person.tokenEnds).slice(0, 5)}.`)
  byId('connect').hidden = state !== 'disconnected'
  const busy = byId('connect-busy')
  busy.hidden = state === 'disconnected' || isOpen
  setText(busy, state === 'reconnecting' || lastClose ? 'Trying again…' : 'Connecting…')
  byId('cancel').hidden = state === 'disconnected'
  byId('invite').hidden = guest !== undefined
  setText(byId('invite'), `Bring in ${GUESTS.find((name) => name !== person?.name) ?? 'bob'}`)
  ;(byId('second-tab') as HTMLAnchorElement).href = `/?as=${GUESTS.find((name) => name !== person?.name) ?? 'bob'}`
}

function setStep(id: string, to: 'now' | 'done' | 'later'): void {
  const step = byId(id)
  step.dataset['step'] = to
  if (to === 'now') step.setAttribute('aria-current', 'step')
  else step.removeAttribute('aria-current')
  for (const [selector, when] of [['.act', 'now'], ['.done', 'done']] as const) {
    const part = step.querySelector<HTMLElement>(selector)
    if (part) part.hidden = to !== when
  }
}

/** Shows the links to parts that are there. */
function showNeeds(): void {
  for (const link of document.querySelectorAll<HTMLAnchorElement>('nav a')) {
    const target = document.querySelector<HTMLElement>(link.hash)
    link.hidden = target?.hidden ?? true
  }
}

function showNotice(text: string): void {
  const notice = byId('notice')
  notice.hidden = !text
  setText(notice, text)
}

function pictureOf(phase: Phase, state: State): Picture {
  const name = person?.name ?? ''
  // The method of the last socket: a fallback may have changed it.
  const isMessage = state === 'connecting' ? way === 'message' : person?.wire.lastMethod === 'message'
  const tags: Picture['tags'] = [isMessage ? 'first message' : 'ticket', 'signed header']
  const base: Picture = {
    page: 'off', front: 'off', usher: 'off', back: 'off', backend: 'off',
    notes: ['not logged in', 'has no session', 'has no user'], tags,
    caption: 'You are not logged in yet. Usher lets nothing through without proof.',
  }
  if (phase === 'out') {
    if (ended !== 'revoked') return base
    const notes: Picture['notes'] = ['revoked', `refuses ${name}`, 'has no user']
    return { ...base, page: 'off', front: 'cut', usher: 'on', notes, caption: 'Usher closed both sides of your session. Tickets and tokens of this login are refused from now on.' }
  }
  const on: Picture = { ...base, page: 'on', notes: [`${name}, with a token`, 'waits for a proof', 'has no user'] }
  switch (state) {
    case 'disconnected':
      return { ...on, caption: 'The page has a token. It does not put that into an address: it trades it for a ticket first.' }
    case 'connecting':
      return { ...on, front: 'busy', usher: 'busy', notes: [name, 'checks the proof', 'has no user'], caption: isMessage ? 'The page opens the socket with nothing in the address.' : 'The page gets a ticket and opens the socket with it.' }
    case 'authenticating':
      return { ...on, front: 'on', usher: 'on', back: 'busy', notes: [name, `knows ${name}`, 'is being told'], caption: isMessage ? 'Usher reads the first message, and tells the backend who it is.' : 'Usher took the ticket out of the address, and tells the backend who it is.' }
    case 'authenticated':
      return { ...on, front: 'on', usher: 'on', back: 'on', backend: 'on', notes: [name, `knows ${name}`, `knows ${name}`], caption: `Connected. The backend knows you as ${name}, and has never seen the ${isMessage ? 'token' : 'ticket'}.` }
    case 'reconnecting': {
      const isBack = lastClose?.kind === 'unavailable'
      const told = lastClose ? ` (${lastClose.code}${lastClose.reason ? ` ${lastClose.reason}` : ''})` : ''
      return { ...on, front: 'cut', back: isBack ? 'cut' : 'off', usher: 'off', notes: [name, 'waits for a proof', isBack ? 'gone' : 'has no user'], caption: `The connection is gone${told}. The page tries again by itself, and never with a ticket that it has used.` }
    }
  }
}

// ---- Start

byId('login-form').addEventListener('submit', (event) => {
  event.preventDefault()
  const name = byId<HTMLInputElement>('name').value.trim()
  if (name) void logIn(name)
})
byId('logout').addEventListener('click', logOut)
byId('connect').addEventListener('click', () => void connect())
byId('cancel').addEventListener('click', disconnect)
byId('disconnect').addEventListener('click', disconnect)
byId('invite').addEventListener('click', () => void invite())
setInterval(tick, 1000)

showControls({
  person: () => person as Person,
  change: changeWay,
  way: () => way,
})
const given = new URLSearchParams(location.search).get('as')
if (given) byId<HTMLInputElement>('name').value = given.slice(0, 40)
showNoVisit()
render('out')
byId<HTMLInputElement>('name').focus()
byId<HTMLInputElement>('name').select()

// For the curious: `usher.client` in the console of the browser.
Object.defineProperty(globalThis, 'usher', { value: { get client() { return person?.client } } })
