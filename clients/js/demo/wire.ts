// Listens in on what one person's client sends and receives, for the log and the picture.

import { blank, blankUrl } from './blank.js'

export type Kind =
  /** It went as asked. */
  | 'ok'
  /** A fact, neither good nor bad. */
  | 'plain'
  /** The server said no. */
  | 'refused'
  /** A connection or a server was lost. */
  | 'lost'

export interface Line {
  who: string
  at: number
  from: 'page' | 'usher' | 'backend'
  kind: Kind
  /** What happened, in words. */
  title: string
  /** The same as an engineer writes it. */
  wire: string
  result?: string | undefined
  body?: string | undefined
}

export interface Wire {
  fetch: typeof fetch
  WebSocket: typeof WebSocket
  /** The address of the last socket that had a ticket. The ticket in it is used up. */
  readonly lastTicketUrl: string | undefined
  /** What the last socket showed: a ticket in its address, or nothing yet. */
  readonly lastMethod: 'ticket' | 'message'
}

/** Names of the requests that the page and the library make. */
const TITLES: [RegExp, string][] = [
  [/\/login$/, 'Logged in'],
  [/\/refresh$/, 'Refreshed the token'],
  [/\/websocket\/config/, 'Asked Usher which way in to use'],
  [/\/websocket\/ticket$/, 'Traded the token for a ticket'],
  [/jwks\.json$/, 'Fetched the public keys of Usher'],
  [/\/control\/drop/, 'Asked for a cut line'],
  [/\/control\/restart/, 'Asked the backend to restart'],
  [/\/control\/revoke/, 'Asked for a revocation'],
  [/[?&]ticket=/, 'Asked again by plain HTTP, to read the reason'],
]

const REFUSED: [RegExp, string][] = [
  [/\/websocket\/ticket$/, 'Asked for a ticket and got none'],
  [/\/refresh$/, 'Asked for a fresh token and got none'],
  [/\/login$/, 'Tried to log in'],
]

const find = (titles: [RegExp, string][], url: string) => titles.find(([pattern]) => pattern.test(url))?.[1]

/** Wraps the browser's own `fetch` and `WebSocket`. `who` is a function: the name is known later. */
export function tap(who: () => string, note: (line: Line) => void): Wire {
  let lastTicketUrl: string | undefined
  let lastMethod: Wire['lastMethod'] = 'ticket'
  const line = (from: Line['from'], kind: Kind, title: string, wire: string, rest: Partial<Line> = {}) =>
    note({ who: who(), at: Date.now(), from, kind, title, wire, ...rest })

  const tappedFetch: typeof fetch = async (input, init) => {
    const address = new URL(input instanceof Request ? input.url : input, location.href)
    const method = init?.method ?? 'GET'
    const wire = `${method} ${blankUrl(address.pathname + address.search)}`
    const sent = typeof init?.body === 'string' ? `sent\n${blank(init.body)}\n\n` : ''
    const began = performance.now()
    try {
      const response = await fetch(input, init)
      const text = await response.clone().text().catch(() => '')
      const millis = Math.round(performance.now() - began)
      const kind = response.ok ? 'ok' : 'refused'
      const title = (!response.ok && find(REFUSED, address.pathname)) || find(TITLES, address.href) || wire
      line('page', kind, title, wire, {
        result: `${response.ok ? '' : 'refused, '}${response.status} in ${millis} ms`,
        body: `${sent}received\n${blank(text)}`,
      })
      return response
    } catch (error) {
      line('page', 'lost', find(REFUSED, address.pathname) ?? find(TITLES, address.href) ?? wire, wire, {
        result: 'no answer',
        body: `${sent}${(error as Error).message}`,
      })
      throw error
    }
  }

  class TappedSocket extends WebSocket {
    constructor(url: string | URL, protocols?: string | string[]) {
      super(url, protocols)
      const address = new URL(String(url), location.href)
      const shown = `WebSocket ${blankUrl(address.pathname + address.search)}`
      if (address.searchParams.has('ticket')) lastTicketUrl = address.href
      if (address.pathname === '/ws') lastMethod = address.searchParams.has('ticket') ? 'ticket' : 'message'
      const began = performance.now()
      let isOpen = false
      this.addEventListener('open', () => {
        isOpen = true
        const millis = Math.round(performance.now() - began)
        line('page', 'ok', 'Opened the socket', shown, { result: `101 in ${millis} ms`, body: openBody(address) })
      })
      this.addEventListener('message', ({ data }) => {
        const [from, title, kind = 'plain'] = received(data)
        line(from, kind, title, `${from === 'usher' ? 'Usher' : 'backend'} → page`, { body: blank(String(data)) })
      })
      this.addEventListener('close', ({ code, reason }) => {
        const kind = code === 1000 ? 'plain' : !isOpen || code === 1008 ? 'refused' : 'lost'
        const title = isOpen ? 'The socket closed' : 'The socket was not opened'
        line('usher', kind, title, shown, {
          result: `${!isOpen ? 'failed, ' : kind === 'refused' ? 'refused, ' : ''}${code}${reason ? ` ${reason}` : ''}`,
          body: code === 1006 ? 'A browser does not tell a page more than the number 1006.' : undefined,
        })
      })
    }

    override send(data: string | Blob | BufferSource): void {
      super.send(data)
      const text = String(data)
      const isAuth = /"type":\s*"auth"/.test(text)
      line('page', 'plain', isAuth ? 'Sent a credential in the stream' : 'Sent a message', 'page → Usher', { body: blank(text) })
    }
  }

  return {
    fetch: tappedFetch,
    WebSocket: TappedSocket,
    get lastTicketUrl() {
      return lastTicketUrl
    },
    get lastMethod() {
      return lastMethod
    },
  }
}

function openBody(address: URL): string | undefined {
  if (address.searchParams.has('ticket')) return 'The ticket in the address is used up now.'
  if (address.searchParams.has('access_token')) return 'The token in the address still opens everything.'
  return undefined
}

function received(data: unknown): [Line['from'], string, Kind?] {
  let message: any
  try {
    message = JSON.parse(String(data))
  } catch {
    return ['backend', 'Received a message']
  }
  switch (message?.type) {
    case 'auth_ok':
      return ['usher', 'Usher accepted the credential']
    case 'auth_required':
      return ['usher', 'Usher asks for a new credential']
    case 'error':
      return ['usher', `Usher refuses: ${message.payload?.code}`, 'refused']
    case 'welcome':
      return ['backend', 'The backend greets']
    case 'chat':
      return ['backend', `Received a message from ${message.from}`]
    case 'joined':
      return ['backend', `${message.from} came in`]
    case 'left':
      return ['backend', `${message.from} left`]
    default:
      return ['backend', 'Received a message']
  }
}
