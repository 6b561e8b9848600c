// The few helpers that the views share.

/** Returns the element of the page with this id. */
export function byId<E extends HTMLElement = HTMLElement>(id: string): E {
  const found = document.getElementById(id)
  if (!found) throw new Error(`the page has no #${id}`)
  return found as E
}

type Child = Node | string | undefined | false

/** Builds an element. `class` is `name.class.class`. */
export function build<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  properties: Partial<HTMLElementTagNameMap[K]> & { class?: string; data?: Record<string, string> } = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const { class: className, data, ...rest } = properties
  const element = document.createElement(tag)
  Object.assign(element, rest)
  if (className) element.className = className
  Object.assign(element.dataset, data)
  element.append(...children.filter((child): child is Node | string => child !== undefined && child !== false))
  return element
}

/** Writes a text that changed; a live region announces each write. */
export function setText(element: HTMLElement, text: string): void {
  if (element.textContent !== text) element.textContent = text
}

/** Moves the keyboard focus to `target` where it was lost: on the body, or on something hidden. */
export function keepFocus(target: HTMLElement): void {
  const active = document.activeElement
  const isLost = !active || active === document.body || !(active as HTMLElement).checkVisibility?.()
  if (isLost) target.focus({ preventScroll: true })
}
