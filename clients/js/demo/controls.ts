// The buttons that break something on purpose, and the story of what is seen then.

import type { Events } from '../src/index.js'
import { build, byId, setText } from './dom.js'
import type { Person, RoomMessage, Way } from './person.js'
import { remaining, span, timeOf } from './time.js'

const SHORT_TOKEN_SECONDS = 12
/** Longer than the backend is away. */
const PATIENCE = 60_000

export interface Stage {
  person(): Person
  /** Connects by another method. */
  change(way: Way): Promise<void>
  way(): Way
}

interface Control {
  id: string
  label: string
  hint: string
  run(stage: Stage, tell: (text: string, kind?: 'good' | 'bad') => void): Promise<void>
}

const CONTROLS: Control[] = [
  {
    id: 'expire',
    label: 'Let the token run out',
    hint: 'Connects with a token of 12 seconds. Usher asks for a new one in the stream.',
    async run(stage, tell) {
      const person = stage.person()
      await person.takeShortToken(SHORT_TOKEN_SECONDS)
      person.client.clearTickets()
      await person.client.reconnect()
      tell(`1 of 3. Connected with a token that ends at ${timeOf(person.tokenEnds)}. Usher asks in about ${SHORT_TOKEN_SECONDS / 2} s; chat on meanwhile.`)
      await once(person, 'reauth', ({ phase }) => phase === 'required')
      tell('2 of 3. Usher asked for a new token in the stream. The page fetches one and sends it the same way.')
      await once(person, 'reauth', ({ phase }) => phase === 'ok')
      tell(`3 of 3. Renewed until ${timeOf(person.tokenEnds)}. Same socket, same session, and the backend noticed nothing.`, 'good')
    },
  },
  {
    id: 'drop',
    label: 'Drop my socket',
    hint: 'Cuts the connection of your session without a close frame. Other sessions go on.',
    async run(stage, tell) {
      const person = stage.person()
      const session = person.sessionId
      const began = performance.now()
      const lost = once(person, 'close')
      if (!(await person.order('/control/drop-my-socket', { session })).ok) return tell('There was no socket to drop.', 'bad')
      const { code, reason } = await lost
      tell(`Cut. The page was told ${code} “${reason}” and comes back by itself.`)
      await person.client.ready(PATIENCE)
      tell(`Back after ${span(performance.now() - began)}, in a new session. The old ticket was used up, so the page got a new one.`, 'good')
    },
  },
  {
    id: 'restart',
    label: 'Restart the backend',
    hint: 'The backend is away for 3 seconds, for all users in the room.',
    async run(stage, tell) {
      const person = stage.person()
      const lost = once(person, 'close')
      const answer = await person.order('/control/restart-backend')
      if (!answer.ok) return tell('The backend is restarting already.', 'bad')
      await lost
      const began = performance.now()
      tell('The backend is gone. Usher stays: the page gets a new ticket for each try, and each try waits a little longer.')
      await person.client.ready(PATIENCE)
      tell(`Back after ${span(performance.now() - began)}, with a new ticket. Messages that you wrote meanwhile were sent now.`, 'good')
    },
  },
  {
    id: 'reuse',
    label: 'Use the ticket twice',
    hint: 'Tries the address once more that opened your socket.',
    async run(stage, tell) {
      const person = stage.person()
      const address = person.wire.lastTicketUrl
      if (!address) return tell('This session began without a ticket. Connect by ticket first.', 'bad')
      const outcome = await tryToOpen(person, address)
      if (outcome === 'open') return tell('It was let in, which is a fault of Usher.', 'bad')
      const target = new URL(address.replace(/^ws/, 'http'))
      const answer = await person.wire.fetch(target.pathname + target.search)
      const body = await answer.json().catch(() => ({}))
      tell(`Refused: ${answer.status} ${body.code ?? ''}. A ticket works once. Your session, which it opened, goes on.`)
    },
  },
  {
    id: 'old',
    label: 'Use the old way',
    hint: 'Puts the token into the address, as many apps do today.',
    async run(stage, tell) {
      const person = stage.person()
      const outcome = await tryToOpen(person, person.oldAddress())
      if (outcome === 'refused') return tell('The old way is closed.')
      const left = remaining(person.tokenEnds - Date.now())
      tell(
        `It works, and that is the trouble: the token stood in the address, and every log on the way can keep it. It opens everything for another ${left}. A ticket in such a log opens nothing. Usher counts this use as legacy.`,
      )
    },
  },
  {
    id: 'way',
    label: 'Use a first message',
    hint: 'Nothing stands in the address: the proof is the first message.',
    async run(stage, tell) {
      const way = stage.way() === 'auto' ? 'message' : 'auto'
      await stage.change(way)
      tell(
        way === 'message'
          ? 'Connected by first message. Usher took that message out of the stream, and the backend got the same signed header.'
          : 'Connected by ticket again.',
        'good',
      )
    },
  },
  {
    id: 'revoke',
    label: 'Revoke me',
    hint: 'Usher ends your sessions at once and refuses your tokens.',
    async run(stage, tell) {
      const answer = await stage.person().order('/control/revoke-me')
      if (!answer.ok) tell('Usher did not take the order.', 'bad')
    },
  },
]

/** Resolves with the next such event. */
function once<E extends keyof Events<RoomMessage>>(
  person: Person,
  event: E,
  isMeant: (detail: Events<RoomMessage>[E]) => boolean = () => true,
): Promise<Events<RoomMessage>[E]> {
  return new Promise((resolve) => {
    const off = person.client.on(event, (detail) => {
      if (!isMeant(detail)) return
      off()
      resolve(detail)
    })
  })
}

/** Opens a socket beside the session, and closes it when the backend has greeted. */
function tryToOpen(person: Person, address: string): Promise<'open' | 'refused'> {
  return new Promise((resolve) => {
    const socket = new person.wire.WebSocket(address)
    socket.onmessage = () => {
      socket.close(1000)
      resolve('open')
    }
    socket.onclose = () => resolve('refused')
  })
}

export function showControls(stage: Stage): void {
  const story = byId('story')
  let latest = 0
  const buttons = CONTROLS.map((control) => {
    const hintId = `hint-${control.id}`
    const button = build('button', { type: 'button', id: `do-${control.id}` }, control.label)
    button.setAttribute('aria-describedby', hintId)
    button.addEventListener('click', async () => {
      if (button.ariaDisabled === 'true') return
      const mine = ++latest
      const tell = (text: string, kind: 'good' | 'bad' | 'plain' = 'plain') => {
        if (mine !== latest) return
        story.hidden = false
        story.dataset['kind'] = kind
        setText(story, text)
      }
      tell(`${control.label}…`)
      button.ariaDisabled = 'true'
      try {
        await control.run(stage, tell)
      } catch (error) {
        tell(`That went wrong: ${(error as Error).message}`, 'bad')
      } finally {
        button.ariaDisabled = 'false'
      }
      if (control.id === 'way') setText(button, stage.way() === 'auto' ? control.label : 'Use a ticket again')
    })
    return build('li', {}, button, build('p', { id: hintId }, control.hint))
  })
  byId('controls').replaceChildren(...buttons)
}

export function clearStory(): void {
  byId('story').hidden = true
  setText(byId('story'), '')
}
