// One person's side of the chat.

import type { State } from '../src/index.js'
import { build, keepFocus, setText } from './dom.js'
import type { Person, RoomMessage } from './person.js'
import { labelOf } from './picture.js'

const KEPT = 100

export interface PaneOptions {
  person: Person
  /** The guest has a button to leave. */
  onLeave?: () => void
  onSent?: () => void
}

export class Pane {
  readonly element: HTMLElement
  readonly input: HTMLInputElement
  #person: Person
  #wasHere = false
  readonly #isGuest: boolean
  readonly #list = build('ol')
  readonly #scroller = build('div', { class: 'messages', role: 'log', tabIndex: 0 }, this.#list)
  readonly #state = build('span', { class: 'pill small' })
  readonly #waiting = build('p', { class: 'waiting', role: 'status', hidden: true })
  readonly #send: HTMLButtonElement

  constructor({ person, onLeave, onSent }: PaneOptions) {
    this.#person = person
    const { name } = person
    const isGuest = onLeave !== undefined
    this.#scroller.ariaLabel = `Messages that ${name} sees`
    this.input = build('input', { autocomplete: 'off', maxLength: 2000, ariaLabel: `Message from ${name}` })
    this.#send = build('button', { type: 'submit' }, 'Send')
    this.#isGuest = isGuest
    const form = build('form', { class: 'row' }, this.input, this.#send)
    form.addEventListener('submit', (event) => {
      event.preventDefault()
      this.#submit(onSent)
    })
    const leave = build('button', { type: 'button', class: 'quiet' }, 'Send away')
    leave.ariaLabel = `Send away ${name}`
    leave.addEventListener('click', () => onLeave?.())
    this.element = build(
      'section',
      { class: 'pane', ariaLabel: `${name}'s side`, data: { name } },
      build('header', {}, build('h3', {}, name, !isGuest && build('small', {}, ' (you)')), this.#state, isGuest && leave),
      this.#scroller, this.#waiting, form,
    )
    // The list keeps its end in sight when the card changes its height.
    new ResizeObserver(() => this.#scrollToEnd()).observe(this.#scroller)
    this.follow(person)
  }

  /** Shows another client of the same person. */
  follow(person: Person): void {
    this.#person = person
    person.client.on('state', ({ state }) => this.#person === person && this.#show(state))
    person.client.on('message', (message) => this.#receive(message))
    person.client.on('drop', ({ count }) => {
      this.#say('note', `${count === 1 ? 'A message was' : `${count} messages were`} not sent: it waited too long, or the connection ended.`)
      this.#showWaiting()
    })
    this.#show(person.client.state)
  }

  #show(state: State): void {
    this.#state.dataset['state'] = state
    setText(this.#state, labelOf(state))
    const isOut = state === 'disconnected'
    const hadFocus = document.activeElement === this.input || document.activeElement === this.#send
    this.#send.className = !this.#isGuest && state === 'authenticated' ? 'primary' : ''
    this.input.disabled = this.#send.disabled = isOut
    this.input.placeholder = isOut ? 'Connect first' : state === 'authenticated' ? 'Say something' : 'Waits for the connection'
    if (hadFocus && isOut) keepFocus(this.#scroller)
    this.#showWaiting()
  }

  #showWaiting(): void {
    const { queued } = this.#person.client
    this.#waiting.hidden = queued === 0
    setText(this.#waiting, queued ? `${queued === 1 ? '1 message waits' : `${queued} messages wait`} for the connection.` : '')
  }

  #submit(onSent?: () => void): void {
    const text = this.input.value.trim()
    if (!text) return
    const outcome = this.#person.client.send({ type: 'chat', text })
    if (outcome === 'dropped') this.#say('note', 'Not sent: too many messages wait already.')
    else this.input.value = ''
    if (outcome === 'sent') onSent?.()
    this.#showWaiting()
  }

  #receive(message: RoomMessage): void {
    switch (message.type) {
      case 'welcome':
        this.#showWaiting()
        this.#say('note', this.#wasHere ? 'Connected again.' : `The backend knows you as ${message.you}.`)
        this.#wasHere = true
        return
      case 'chat':
        return this.#say(message.from === this.#person.name ? 'own' : 'other', message.text, message.from)
      case 'joined':
        return message.from === this.#person.name ? undefined : this.#say('note', `${message.from} came in.`)
      case 'left':
        return message.from === this.#person.name ? undefined : this.#say('note', `${message.from} left.`)
      case 'missed':
        return this.#say('note', `${message.count} messages were missed.`)
      case 'rejected':
        return this.#say('note', `The backend did not take that: ${message.text}.`)
    }
  }

  #say(kind: 'own' | 'other' | 'note', text: string, from?: string): void {
    const item = build('li', { class: kind }, from !== undefined && build('b', { class: 'from' }, from), text)
    this.#list.append(item)
    while (this.#list.children.length > KEPT) this.#list.firstElementChild?.remove()
    this.#scrollToEnd()
  }

  #scrollToEnd(): void {
    this.#scroller.scrollTop = this.#scroller.scrollHeight
  }
}
