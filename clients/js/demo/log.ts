// The event log: newest first, bodies folded.

import { build, byId } from './dom.js'
import { preciseTimeOf } from './time.js'
import type { Line } from './wire.js'

const KEPT = 300
const SHOWN = 8

const list = byId<HTMLOListElement>('log')
const older = byId('older')
let shown = SHOWN

const FROM = { page: 'this page', usher: 'Usher', backend: 'backend' }
const MARK = { ok: '✓', plain: '·', refused: '✕', lost: '!' }

export function addLine(line: Line): void {
  const head = [
    build('time', { class: 'at' }, preciseTimeOf(line.at)),
    build('span', { class: `mark ${line.kind}`, ariaHidden: 'true' }, MARK[line.kind]),
    build('span', { class: 'title' }, line.title, build('small', {}, build('b', {}, line.who), ` ${line.wire}`)),
    line.result !== undefined && build('span', { class: `result ${line.kind}` }, line.result),
  ]
  const item = build('li', { data: { kind: line.kind, from: FROM[line.from] } })
  if (line.body) {
    item.append(build('details', {}, build('summary', {}, ...head), build('pre', { tabIndex: 0 }, line.body)))
  } else {
    item.append(build('div', { class: 'plain-line' }, ...head))
  }
  list.prepend(item)
  while (list.children.length > KEPT) list.lastElementChild?.remove()
  update()
}

export const hasLines = () => list.children.length > 0

function update(): void {
  ;[...list.children].forEach((item, index) => ((item as HTMLElement).hidden = index >= shown))
  older.hidden = list.children.length <= shown
}

older.addEventListener('click', () => {
  const first = list.children[shown] as HTMLElement | undefined
  shown += SHOWN
  update()
  // The button may be gone now: the focus goes to the first of the lines that it brought.
  const target = first?.querySelector<HTMLElement>('summary') ?? byId('log-card')
  target.focus()
})
