import { fault } from './errors.js'
import { plan, type CloseKind, type State } from './machine.js'
import { createQueue } from './queue.js'
import type * as T from './types.js'
import { judge } from './verdict.js'

/** Milliseconds from an open socket to `authenticated`, if the upgrade had the credential. */
const SETTLE = 25
/** Milliseconds between two checks of the clock. A session that lasts until one is stable. */
const TICK = 5_000
/** Milliseconds without a check that mean sleep. A hidden tab may run timers once a minute. */
const SLEPT = 90_000
/** The time limit of a request to Usher, in milliseconds. */
const REQUEST_TIMEOUT = 3_000
/** Milliseconds before another answer to `auth_required`. */
const ANSWER_PAUSE = 500
/** The number of failures of the ticket endpoint after which `auto` uses another method. */
const TRIES = 3
/** The failures in a row that open the circuit breaker, and its time in milliseconds. */
const FAILURES = 6
const OPEN_FOR = 30_000

const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))

/** Rejects if `work` takes longer than `ms`. Every rejection has an error. */
function within<V>(ms: number, work: V | Promise<V>): Promise<V> {
  let timer: any
  return Promise.race([work, new Promise<never>((_, reject) => (timer = setTimeout(reject, ms)))])
    .catch((error) => {
      throw error ?? fault('no_answer')
    })
    .finally(() => clearTimeout(timer))
}

export function createClient<In = any, Out = any>(options: T.Options<In, Out>): T.Client<In, Out> {
  const {
    connectTimeout = 10_000,
    auth = 'auto',
    maxRetries,
    getToken,
    getTicket,
    authenticatedWhen,
    codec,
    route,
  } = options
  const scope = globalThis as any
  const debug = options.debug === true ? console.debug : options.debug
  const listeners = new Set<[event: string, listener: (detail: any) => void]>()
  /** Settle the promises of `ready`. */
  const waiting: (() => void)[] = []
  const queue = createQueue(options.queue, emit)

  let state: State = 'disconnected'
  let lastReason: T.StateReason
  let lastError: unknown
  /** The number of the attempt, or of the answer in the stream. Older ones stop. */
  let run = 0
  let phase: T.Events['error']['phase']
  let attempts = 0
  let timer: any
  /** The time of the last check of the clock, in milliseconds since 1970. */
  let aliveAt = 0

  /** The reason for the next credential. */
  let need: T.TokenReason = 'initial'
  let token: string | undefined
  let tokenCall: Promise<string> | undefined
  /** The next ticket or its request, or the last failure while the breaker is open. */
  let kept: Promise<string> | undefined
  let keptUntil = 0
  let failures = 0

  let url: URL
  let offered: T.Method[] = []
  /** True if no request was answered since `offered` was emptied: the server may be down. */
  let isAway: unknown = 1
  let choice: T.Events['method']
  /** The method that failed, until the next choice. */
  let failed: { fallbackFrom?: T.Method | undefined; reason?: string } = {}

  let socket: T.SocketLike | undefined
  let method: T.Method | undefined
  let session: T.Session | undefined
  let lastUser: string | undefined
  /** The last error frame. */
  let refusal: any
  /** The id of the last `auth` message. */
  let asked: unknown = {}
  /** True while `reauthenticate()` waits for an answer in the stream. */
  let isChanging = false

  // Events

  function on(event: string, listener: (detail: any) => void) {
    // A function that is added twice is called twice.
    const entry: [string, (detail: any) => void] = [event, listener]
    listeners.add(entry)
    return () => listeners.delete(entry)
  }

  /** `debug` prints `shown`, which has no URL, credential or message. */
  function emit<E extends keyof T.Events<In>>(
    event: E,
    detail: T.Events<In>[E],
    shown: unknown = detail,
  ) {
    if (debug) debug(`usher ${event} ${JSON.stringify(shown)}`)
    for (const [name, listener] of listeners) {
      // An error in a listener does not stop the others. It becomes an unhandled rejection.
      if (name === event) new Promise(() => listener(detail))
    }
  }

  function report(error: any, where = phase) {
    emit('error', { error: (lastError = error), phase: where }, [error.name, error.code])
  }

  function move(to: State, reason = to as T.StateReason, retryInMs?: number) {
    if (state === to) return
    const previous = state
    state = to
    lastReason = reason
    emit('state', { state: to, previous, reason, attempt: attempts, retryInMs })
    settle()
  }

  function settle() {
    if (!state.endsWith('ing') && !isChanging) for (const done of waiting.splice(0)) done()
  }

  function ready(timeoutMs?: number): Promise<void> {
    const promise = new Promise<void>((resolve, reject) =>
      waiting.push(() =>
        state === 'disconnected' ? reject(lastError ?? fault('disconnected')) : resolve(),
      ),
    )
    // The caller may ignore the promise.
    promise.catch(() => {})
    if (state === 'authenticated') settle()
    return timeoutMs ? within(timeoutMs, promise) : promise
  }

  // Credentials

  const context = (): T.TokenContext => ({
    reason: need,
    rejected: need === 'rejected' ? token : undefined,
  })

  /** Calls `getToken`, or waits for a call that is on its way. */
  async function renewToken() {
    if (!getToken) return
    const mine = run
    const given = await (tokenCall ??= within(connectTimeout, getToken(context())).finally(
      () => (tokenCall = undefined),
    ))
    if (mine === run) {
      // A kept ticket belongs to the last token. After failures there is none.
      if (token !== given && !failures) clearTickets()
      token = given
    }
  }

  /** Sends a request to an endpoint of Usher, as POST if there is a body. */
  const ask = (path: string | URL, body?: string): Promise<any> =>
    within(
      REQUEST_TIMEOUT,
      (options.fetch ?? fetch)(new URL(path, url).href.replace(/^ws/, 'http'), {
        method: body && 'POST',
        body,
        headers: {
          'Content-Type': 'application/json',
          ...(token && { Authorization: 'Bearer ' + token }),
        },
        // Without a token the cookie of the page is the credential.
        credentials: token ? undefined : 'include',
      } as RequestInit).then(async (response) => {
        isAway = 0
        const answer = await response.json().catch(() => {})
        if (response.ok) return answer
        throw fault('http', {
          ...answer,
          status: response.status,
          retryAfterMs: +response.headers.get('Retry-After')! * 1000 || undefined,
        })
      }),
    )

  async function requestTicket(): Promise<string> {
    const began = Date.now()
    keptUntil = Infinity
    emit('ticket', { phase: 'requested' })
    try {
      const ticket: any = await (getTicket
        ? within(connectTimeout, getTicket(context()))
        : ask(options.ticketUrl ?? '/websocket/ticket', JSON.stringify({ route })))
      const id = ticket?.ticket_id ?? ticket
      if (typeof id !== 'string') throw fault('no_ticket')
      // A ticket in the last quarter of its life is not used.
      keptUntil = began + (ticket.ttl_seconds ?? 30) * 750
      failures = 0
      emit('ticket', { phase: 'issued', ms: Date.now() - began })
      return id
    } catch (error: any) {
      emit('ticket', {
        phase: 'failed',
        ms: Date.now() - began,
        status: error.status,
        code: error.code,
      })
      // Only answers that show an overload or an outage count.
      failures = error.status > 428 ? failures + 1 : 0
      keptUntil = failures >= FAILURES ? began + OPEN_FOR : 0
      throw error
    }
  }

  /** Returns the kept ticket, or fetches one. At most one is kept. */
  function prefetch() {
    if (Date.now() >= keptUntil) kept = undefined
    return (kept ??= requestTicket())
  }

  /** Returns a ticket that no other attempt gets. */
  async function takeTicket(mine = run): Promise<string | undefined> {
    const promise = prefetch()
    const id = await promise
    if (promise === kept) kept = undefined
    else if (mine === run) return takeTicket()
    return id
  }

  function clearTickets() {
    if (kept) emit('ticket', { phase: 'cleared' })
    kept = undefined
  }

  // Methods

  /** Asks the server for its methods, once until a connection ends. */
  async function readMethods() {
    url = new URL(
      await within(
        connectTimeout,
        typeof options.url === 'function' ? options.url() : options.url,
      ),
      scope.location?.href,
    )
    if (auth !== 'auto') offered = [auth]
    else if (!offered[0]) {
      const path = options.configUrl ?? '/websocket/config?route=' + (route ?? url.pathname)
      // Without an answer, these are the methods that every route may have.
      const { method, methods, first_message } = {
        first_message: 'json',
        ...(await ask(path).catch(() => {})),
      }
      // `query` is left out: a URL with a token would get into logs.
      const able: any = { ticket: true, message: first_message === 'json', subprotocol: getToken }
      // The preferred method comes first.
      offered = Object.keys({ [method]: 1, ...able }).filter(
        (name) => able[name] && methods?.includes(name) !== false,
      ) as T.Method[]
    }
  }

  /** Chooses a method. Returns a ticket if the method needs one. */
  async function choose(mine = run): Promise<string | undefined> {
    const [method] = offered
    if (!method) throw fault('no_method', { recoverable: false })
    choice = { ...failed, method }
    failed = {}
    try {
      return method === 'ticket' || !getToken ? await takeTicket() : undefined
    } catch (error: any) {
      const rest = offered.filter(
        (name) => name !== method && error.methods?.includes(name) !== false,
      )
      const mayRetry = error.status === 401 || (failures % TRIES && !error.retryAfterMs)
      if (mine !== run || mayRetry || !rest[0]) throw error
      failed = { fallbackFrom: method, reason: error.code }
      offered = rest
    }
    return choose()
  }

  // Attempts

  async function attempt(why: T.StateReason, reason = need) {
    release()
    const mine = run
    need = reason
    if (options.lifecycle !== false) listen('addEventListener')
    move('connecting', why)
    const steps: any = { token: renewToken, config: readMethods, ticket: choose, open }
    let result: any
    try {
      for (const step in steps) {
        phase = step as typeof phase
        result = await steps[step](result)
        if (mine !== run) return
      }
    } catch (error) {
      if (mine === run) fail(error)
    }
  }

  function open(ticket?: string) {
    const by = choice.method
    const Socket = options.WebSocket ?? scope.WebSocket
    if (!Socket) throw fault('no_websocket', { recoverable: false })
    if (by === 'ticket') url.searchParams.set(options.ticketParameter ?? 'ticket', ticket!)
    const made: T.SocketLike = (socket = new Socket(
      url.href.replace(/^http/, 'ws'),
      ([] as string[]).concat(
        options.protocols ?? [],
        by !== 'subprotocol' ? []
          // Usher answers the pair with `bearer`, so it needs no other offer.
        : /[^\w.~-]/.test(token!) ?
          'base64url.bearer.authorization.' +
            btoa(token!).replace(/=/g, '').replace(/\+/g, '-').replace(/\//g, '_')
        : ['bearer', token!],
      ),
    ))
    /** Ignores the events of a socket that was released. */
    const guard = (handler: (event: any) => void) => (event: any) =>
      made === socket && handler(event)
    made.binaryType = 'arraybuffer'
    later(connectTimeout, () => fail(fault('connect_timeout'), 'connect_timeout'))
    made.onopen = guard(() => {
      phase = 'auth'
      if (by === 'message' || authenticatedWhen) {
        later(options.authTimeout ?? 5_000, () =>
          fail(fault('authentication_timeout'), 'authentication_timeout', 'timeout'),
        )
      } else later(SETTLE, prove)
      if (by === 'message') sendAuth(ticket)
      move('authenticating', 'opened')
    })
    made.onmessage = guard(receive)
    // `ws` throws errors if they have no listener.
    made.onerror = () => {}
    made.onclose = guard(({ code, reason }) => {
      const kind = judge(code, reason, refusal?.recoverable)
      // A refusal without a reason: the next attempt uses another method, if there is one.
      if (state === 'connecting' && !isAway && offered[1]) {
        failed = { fallbackFrom: offered.shift(), reason: kind }
      } else isAway = offered = []
      const hint =
        parseInt(reason.split('retry_after_ms=')[1]) ||
        refusal?.details?.retry_after_seconds * 1000
      end(kind, kind, hint, { code, reason })
    })
  }

  function later(ms: number, then: () => void) {
    clearTimeout(timer)
    timer = setTimeout(then, Math.min(ms, 1e9))
  }

  /** Ends the attempt. Its later events are ignored. */
  function release() {
    run++
    clearTimeout(timer)
    const old = socket
    socket = session = refusal = undefined
    old?.close(1000)
  }

  function fail(error: any, reason = phase as T.StateReason, kind = judge(4000 + error.status, '', error.recoverable)) {
    report(error)
    end(kind, error._reason ?? reason, error.retryAfterMs)
  }

  /** Handles a failed attempt or the end of a connection. */
  function end(
    kind: CloseKind,
    reason: T.StateReason,
    hint?: number,
    close?: { code: number; reason: string },
  ) {
    const isSpent = attempts >= maxRetries!
    const wish = close && (isChanging || options.shouldReconnect?.({ ...close, kind }))
    const wait = isSpent ? undefined : plan(kind, attempts, hint || 0, wish, options.backoff)
    isChanging = false
    if (socket) clearTickets()
    release()
    const mine = run
    if (close) emit('close', { ...close, kind, fatal: wait === undefined }, close.code)
    if (mine !== run) return
    if (wait === undefined) return move('disconnected', isSpent ? 'retries_exhausted' : reason)
    need = kind === 'rejected' ? kind : 'initial'
    attempts++
    later(wait, () => attempt('retry'))
    move('reconnecting', reason, wait | 0)
  }

  // The stream

  function prove() {
    lastError = undefined
    phase = 'reauth'
    need = 'initial'
    method = choice.method
    watch()
    for (const { _data } of queue._waiting.splice(0)) socket!.send(_data)
    emit('method', choice)
    move('authenticated')
  }

  function watch() {
    aliveAt = Date.now()
    later(TICK, () => {
      if (isStale()) return attempt('wake', 'expiring')
      // The session is stable.
      attempts = 0
      watch()
    })
    // The socket keeps the process alive. The clock must not.
    timer.unref?.()
  }

  /** Returns true after sleep: the socket may be dead although it looks open. */
  const isStale = () => Date.now() - aliveAt > SLEPT

  function sendAuth(ticket?: string) {
    asked = '' + Math.random()
    socket!.send(
      JSON.stringify({
        type: 'auth',
        id: asked,
        timestamp: new Date(),
        payload: ticket ? { ticket } : { token },
      }),
    )
  }

  function receive({ data }: any) {
    let message: any = {}
    try {
      if (/"(auth_|error")/.test(data)) message = JSON.parse(data) ?? {}
    } catch {}
    const { type, id, payload } = message
    const { code, recoverable, user, session_id, expires_at } = payload ?? {}
    const isRenewal = state === 'authenticated'
    if (type === 'error' && recoverable !== undefined) {
      report((refusal = fault(code, payload)))
      if (id === asked && isRenewal) {
        emit('reauth', { phase: 'failed', code })
        if (recoverable) answer('rejected', need === 'rejected')
      }
    } else if (
      type === 'auth_required' &&
      // A question with another expiry may come from a peer, and must get no token.
      (session ? session.expiresAt === expires_at : expires_at)
    ) {
      if (!isRenewal) prove()
      emit('reauth', { phase: 'required' })
      answer('auth_required')
    } else if (type === 'auth_ok' && id === asked) {
      refusal = undefined
      if (lastUser && lastUser !== user) queue._drop('identity')
      lastUser = user
      session = { user, sessionId: session_id, expiresAt: expires_at ?? undefined }
      if (isRenewal) {
        isChanging = false
        emit('reauth', { phase: 'ok' })
        settle()
      } else prove()
    } else {
      try {
        message = codec ? codec.decode(data) : data
      } catch (error) {
        return report(error, 'decode')
      }
      if (!isRenewal && (!authenticatedWhen || authenticatedWhen(message))) prove()
      // A listener may have closed the socket.
      if (socket) emit('message', message, '')
    }
  }

  /** Sends a fresh credential in the stream. */
  async function answer(reason: T.TokenReason, isRetry?: boolean) {
    const mine = ++run
    try {
      if (isRetry) await sleep(ANSWER_PAUSE)
      if (mine !== run) return
      need = reason
      await renewToken()
      // The first answer may have failed because of the ticket endpoint.
      const ticket =
        getToken && (isRetry || method !== 'ticket') ? undefined : await takeTicket()
      if (mine !== run) return
      sendAuth(ticket)
      emit('reauth', { phase: 'sent' })
    } catch (error: any) {
      if (mine !== run) return
      if (error.recoverable === false) return fail(error)
      report(error)
      // The grace time of the server limits the retries.
      answer(reason, true)
    }
  }

  // The page

  /** Connects at once when the page or the network is back. */
  function wake({ type, persisted }: any) {
    if (
      state === 'authenticated'
        ? // No connection survives the network, or the back-forward cache.
          type === 'online' || persisted || isStale()
        : state === 'reconnecting' || lastReason === 'authentication_timeout'
    ) {
      attempt('wake', 'expiring')
    }
  }

  const listen = (verb: string) =>
    ['online', 'pageshow', 'visibilitychange'].forEach((name) => scope[verb]?.(name, wake))

  /** Resets the counts of failures, and connects. */
  function again(why: T.StateReason, reason: T.TokenReason) {
    attempts = 0
    if (failures) failures = keptUntil = 0
    attempt(why, reason)
    return ready()
  }

  return {
    get state() {
      return state
    },
    get queued() {
      return queue._waiting.length
    },
    get lastError() {
      return lastError as Error | undefined
    },
    get session() {
      return session
    },
    get method() {
      return method
    },
    connect: () => (state === 'disconnected' ? again('connect', 'initial') : ready()),
    disconnect() {
      release()
      listen('removeEventListener')
      isChanging = false
      queue._drop('stopped')
      clearTickets()
      tokenCall = token = lastError = lastUser = undefined
      move('disconnected', 'disconnect')
    },
    reconnect: () => again('reconnect', 'initial'),
    reauthenticate() {
      tokenCall = token = undefined
      clearTickets()
      queue._drop('identity')
      if (state !== 'authenticated' || !options.proactive) {
        return again('reauthenticate', 'expiring')
      }
      isChanging = true
      answer('expiring')
      return ready()
    },
    send(data) {
      const raw: any =
        codec ? codec.encode(data)
        : typeof data === 'string' || (data as any)?.byteLength >= 0 || data instanceof Blob ? data
        : JSON.stringify(data)
      if (state === 'authenticated') {
        if (isStale()) attempt('wake', 'expiring')
        else if (socket!.readyState === 1) {
          socket!.send(raw)
          return 'sent'
        }
      }
      return queue._push(raw, state === 'disconnected' && lastReason)
    },
    clearQueue: () => queue._drop('cleared'),
    clearTickets,
    async prefetchTicket() {
      await renewToken()
      await readMethods()
      await prefetch()
    },
    on,
    ready,
  }
}
