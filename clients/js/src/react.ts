'use client'

import {
  createElement, useCallback, useEffect, useInsertionEffect, useRef, useState, useSyncExternalStore,
  type HTMLAttributes, type ReactElement, type ReactNode,
} from 'react'
import { createClient, type Client, type Events, type Options, type State } from 'usher-client'

/** A client, and the state of the component that owns it. */
interface Owned<In, Out> {
  key: string
  /** The options of the latest render. */
  options: Options<In, Out>
  client: Client<In, Out>
  isMounted: boolean
}

/** Returns a key of the options: their values, and the names of those that are functions. */
const describe = (options: object) =>
  JSON.stringify(options, (_, value) => (typeof value === 'function' ? 'function' : value))

function own<In, Out>(key: string, options: Options<In, Out>): Owned<In, Out> {
  const owned = { key, options, isMounted: false } as Owned<In, Out>
  const followed: Record<string, unknown> = { ...options }
  for (const name in followed) {
    // `WebSocket` is a constructor, so a function cannot replace it.
    if (typeof followed[name] !== 'function' || name === 'WebSocket') continue
    followed[name] = (...values: unknown[]) => {
      // The call has no object, which `fetch` needs.
      const latest = (owned.options as any)[name]
      return latest(...values)
    }
  }
  owned.client = createClient(followed as unknown as Options<In, Out>)
  return owned
}

/**
 * Returns a client that is connected while the component is mounted.
 *
 * The component owns the client: unmounting closes it, and each component has its own. A changed
 * value of an option, such as another `url`, makes a new client. Options that are functions may
 * change in each render: the function of the latest render is called. `WebSocket` and `codec` are
 * read once. Rendering opens no connection, so rendering on a server opens none.
 */
export function useUsher<In = any, Out = any>(options: Options<In, Out>): Client<In, Out> {
  const key = describe(options)
  const [kept, keep] = useState(() => own(key, options))
  const owned = kept.key === key ? kept : own(key, options)
  if (owned !== kept) keep(owned)
  useInsertionEffect(() => {
    owned.options = options
  })
  useEffect(() => {
    // This runs after the current task. So effects that end and begin again at once (StrictMode,
    // hot reload) do not touch the connection, and listeners of the same commit miss no event.
    const settle = (isMounted: boolean) => {
      owned.isMounted = isMounted
      void Promise.resolve().then(() => {
        if (owned.isMounted) owned.client.connect().catch(() => {})
        else owned.client.disconnect()
      })
    }
    settle(true)
    return () => settle(false)
  }, [owned])
  return owned.client
}

/** Returns the state of `client`, and renders again when it changes. `disconnected` on a server. */
export function useConnectionState(client: Client): State {
  const subscribe = useCallback((notify: () => void) => client.on('state', notify), [client])
  return useSyncExternalStore(subscribe, () => client.state, () => 'disconnected')
}

/** Adds a listener while the component is mounted. It calls the handler of the latest render. */
export function useUsherEvent<In, E extends keyof Events<In>>(
  client: Client<In, any>,
  event: E,
  handler: (detail: Events<In>[E]) => void,
): void {
  const latest = useRef(handler)
  useInsertionEffect(() => {
    latest.current = handler
  })
  useEffect(() => client.on(event, (detail) => latest.current(detail)), [client, event])
}

const TEXTS: Record<State, string> = {
  disconnected: 'Disconnected',
  connecting: 'Connecting…',
  authenticating: 'Authenticating…',
  authenticated: 'Connected',
  reconnecting: 'Reconnecting…',
}

export interface ConnectionStatusProps extends Omit<HTMLAttributes<HTMLSpanElement>, 'children'> {
  client: Client
  /** Replaces some or all of the English texts. */
  texts?: Partial<Record<State, ReactNode>> | undefined
}

/** Shows the state: `<span role="status" data-state="authenticated">Connected</span>`. */
export function ConnectionStatus({ client, texts, ...attributes }: ConnectionStatusProps): ReactElement {
  const state = useConnectionState(client)
  return createElement('span', { role: 'status', ...attributes, 'data-state': state }, { ...TEXTS, ...texts }[state])
}
