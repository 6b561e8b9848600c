// @vitest-environment jsdom
import { render, screen } from '@testing-library/react'
import { Activity, StrictMode, useEffect, type ReactNode } from 'react'
import { describe, expect, expectTypeOf, it } from 'vitest'
import { createClient, UnauthorizedError, type Client, type Options, type State } from '../../src/index.js'
import { ConnectionStatus, useConnectionState, useUsher, useUsherEvent } from '../../src/react.js'
import { pass, setUp, start } from './support.js'

setUp()

/** Renders the state, and hands out the client. */
function Chat({ options, onClient }: { options: Options<any, any>; onClient?: (client: Client<any, any>) => void }) {
  const client = useUsher(options)
  onClient?.(client)
  return <p data-testid="state">{useConnectionState(client)}</p>
}

const state = () => screen.getByTestId('state').textContent

describe('useUsher', () => {
  it('connects when mounted and closes when unmounted', async () => {
    const { server, clientOptions } = start()
    const { unmount } = render(<Chat options={clientOptions} />)
    expect(state()).toBe('disconnected')
    await pass(0)
    expect(state()).toBe('authenticating')
    await pass()
    expect(state()).toBe('authenticated')
    unmount()
    await pass()
    expect(server.connections).toHaveLength(1)
    expect(server.connection.closed).toEqual({ code: 1000, reason: '', by: 'client' })
    await pass(120_000)
    expect(server.connections).toHaveLength(1)
  })

  it('opens one socket under StrictMode, with one ticket and one token', async () => {
    const { server, clientOptions } = start()
    let tokens = 0
    const options = { ...clientOptions, getToken: () => `token ${++tokens}` }
    const { unmount } = render(<StrictMode><Chat options={options} /></StrictMode>)
    await pass()
    expect(state()).toBe('authenticated')
    expect(server.connections).toHaveLength(1)
    expect(server.requests.filter(({ method }) => method === 'POST')).toHaveLength(1)
    expect(tokens).toBe(1)
    unmount()
    await pass()
    expect(server.open).toHaveLength(0)
  })

  it('never connects where it is unmounted at once', async () => {
    const { server, clientOptions } = start()
    const { unmount } = render(<Chat options={clientOptions} />)
    unmount()
    await pass()
    expect(server.connections).toHaveLength(0)
    expect(server.requests).toHaveLength(0)
  })

  it('keeps the connection over renders with options that are written anew', async () => {
    const { server, clientOptions } = start()
    const clients = new Set<Client>()
    const anew = () => (
      <Chat
        options={{ ...clientOptions, protocols: ['chat'], backoff: { min: 100 }, shouldReconnect: () => undefined }}
        onClient={(client) => clients.add(client)}
      />
    )
    const { rerender } = render(anew())
    await pass()
    rerender(anew())
    rerender(anew())
    await pass()
    expect(clients.size).toBe(1)
    expect(server.connections).toHaveLength(1)
    expect(state()).toBe('authenticated')
  })

  it('calls the functions of the latest render', async () => {
    const { server, clientOptions } = start({ users: { old: 'ada', new: 'ada' } })
    const withToken = (token: string) => <Chat options={{ ...clientOptions, getToken: () => token }} />
    const { rerender } = render(withToken('old'))
    await pass()
    rerender(withToken('new'))
    server.connection.drop()
    await pass(1_000)
    expect(server.connections).toHaveLength(2)
    expect(server.requests.map(({ token }) => token)).toEqual(['old', 'old', 'new', 'new'])
  })

  it.each([
    ['url', { url: 'wss://chat.test/other' }],
    ['URL', { url: new URL('wss://chat.test/other') }],
    ['method', { auth: 'message' }],
    ['limit', { queue: { maxMessages: 3 } }],
    ['function that was not there', { authenticatedWhen: () => true }],
  ] as [string, Partial<Options>][])('makes another client for another %s', async (_, change) => {
    const { server, clientOptions } = start()
    const clients = new Set<Client>()
    const chat = (options: Options<any, any>) => (
      <StrictMode><Chat options={options} onClient={(client) => clients.add(client)} /></StrictMode>
    )
    const { rerender } = render(chat(clientOptions))
    await pass()
    rerender(chat({ ...clientOptions, ...change }))
    await pass()
    expect(server.connections).toHaveLength(2)
    expect(server.connections[0]!.closed).toMatchObject({ code: 1000, by: 'client' })
    expect(server.open).toEqual([server.connections[1]])
    expect(clients.size).toBeGreaterThan(1)
  })

  it('shows the state of the new client, not of the old one', async () => {
    const { server, clientOptions } = start()
    const { rerender } = render(<Chat options={clientOptions} />)
    await pass()
    server.hold('upgrade')
    rerender(<Chat options={{ ...clientOptions, url: 'wss://chat.test/other' }} />)
    expect(state()).toBe('disconnected')
    await pass()
    expect(state()).toBe('connecting')
    server.accept('upgrade')
    await pass()
    expect(state()).toBe('authenticated')
  })

  it('never gives the functions of the new options to the old client', async () => {
    const { clientOptions } = start()
    const clients: Client[] = []
    const calls: string[] = []
    const chat = (name: string) => (
      <Chat
        options={{ ...clientOptions, url: `wss://chat.test/${name}`, getToken: () => (calls.push(name), name) }}
        onClient={(client) => clients.push(client)}
      />
    )
    const { rerender } = render(chat('one'))
    await pass()
    rerender(chat('two'))
    await pass()
    calls.length = 0
    await clients[0]!.prefetchTicket()
    expect(calls).toEqual(['one'])
  })

  it('closes while an Activity is hidden, and comes back with the same client', async () => {
    const { server, clientOptions } = start()
    const clients = new Set<Client>()
    const chat = (mode: 'visible' | 'hidden') => (
      <Activity mode={mode}><Chat options={clientOptions} onClient={(client) => clients.add(client)} /></Activity>
    )
    const { rerender } = render(chat('visible'))
    await pass()
    rerender(chat('hidden'))
    await pass()
    expect(server.open).toHaveLength(0)
    rerender(chat('visible'))
    await pass()
    expect(state()).toBe('authenticated')
    expect(server.connections).toHaveLength(2)
    expect(clients.size).toBe(1)
  })

  it('gives two components two connections', async () => {
    const { server, clientOptions } = start()
    const Two = () => (
      <>
        <ConnectionStatus client={useUsher(clientOptions)} />
        <ConnectionStatus client={useUsher(clientOptions)} />
      </>
    )
    render(<Two />)
    await pass()
    expect(server.open).toHaveLength(2)
  })

  it('stops where nobody is signed in, and leaves no rejection behind', async () => {
    const { server, clientOptions } = start()
    const options = {
      ...clientOptions,
      getToken: () => {
        throw new UnauthorizedError()
      },
    }
    render(<Chat options={options} />)
    await pass(60_000)
    expect(state()).toBe('disconnected')
    expect(server.connections).toHaveLength(0)
  })

  it('calls fetch apart from its object, as browsers want it', async () => {
    const { server, clientOptions } = start()
    const owners: unknown[] = []
    const options = {
      ...clientOptions,
      fetch(this: unknown, ...values: Parameters<typeof fetch>) {
        owners.push(this)
        return server.fetch(...values)
      },
    }
    render(<Chat options={options} />)
    await pass()
    expect(state()).toBe('authenticated')
    expect(owners).toEqual([undefined, undefined])
  })
})

describe('useUsherEvent', () => {
  function Listener({ client, handler }: { client: Client<any, any>; handler: (message: any) => void }) {
    useUsherEvent(client, 'message', handler)
    return null
  }

  it('calls the handler of the latest render, once', async () => {
    const { server, clientOptions } = start()
    const heard: string[] = []
    function App({ name }: { name: string }) {
      const client = useUsher(clientOptions)
      return <Listener client={client} handler={(message) => heard.push(`${name} ${message}`)} />
    }
    const { rerender, unmount } = render(<StrictMode><App name="first" /></StrictMode>)
    await pass()
    server.connection.send('one')
    rerender(<StrictMode><App name="second" /></StrictMode>)
    server.connection.send('two')
    expect(heard).toEqual(['first one', 'second two'])
    unmount()
    server.connection.send('three')
    expect(heard).toHaveLength(2)
  })

  it('misses no event of the first connection', async () => {
    const { clientOptions } = start()
    const states: State[] = []
    function App() {
      const client = useUsher(clientOptions)
      useUsherEvent(client, 'state', ({ state }) => states.push(state))
      return null
    }
    render(<StrictMode><App /></StrictMode>)
    await pass()
    expect(states).toEqual(['connecting', 'authenticating', 'authenticated'])
  })

  it('follows another client', async () => {
    const one = start()
    const two = start()
    const heard: string[] = []
    const clients = [one, two].map(({ clientOptions }) => createClient(clientOptions))
    const listener = (index: number) => <Listener client={clients[index]!} handler={(message) => heard.push(message)} />
    const { rerender } = render(listener(0))
    clients.forEach((client) => void client.connect())
    await pass()
    rerender(listener(1))
    one.server.connection.send('from one')
    two.server.connection.send('from two')
    expect(heard).toEqual(['from two'])
    clients.forEach((client) => client.disconnect())
  })

  it('knows the type of what arrives', () => {
    function Typed({ client }: { client: Client<{ text: string }, never> }) {
      useUsherEvent(client, 'message', (message) => expectTypeOf(message).toEqualTypeOf<{ text: string }>())
      useUsherEvent(client, 'close', ({ code }) => expectTypeOf(code).toBeNumber())
      return null
    }
    expect(Typed).toBeTypeOf('function')
  })
})

describe('a client that the application owns', () => {
  it('is only looked at', async () => {
    const { server, clientOptions } = start()
    const client = createClient(clientOptions)
    const { unmount } = render(<ConnectionStatus client={client} />)
    await pass()
    expect(server.connections).toHaveLength(0)
    void client.connect()
    await pass()
    expect(screen.getByRole('status').textContent).toBe('Connected')
    unmount()
    await pass()
    expect(server.open).toHaveLength(1)
    client.disconnect()
  })

  it('shows the state that it had before the component was there', async () => {
    const { clientOptions } = start()
    const client = createClient(clientOptions)
    void client.connect()
    await pass()
    render(<ConnectionStatus client={client} />)
    expect(screen.getByRole('status').textContent).toBe('Connected')
    client.disconnect()
  })
})

describe('ConnectionStatus', () => {
  /** Walks through the five states, and returns what was shown in each. */
  async function walk(texts?: Partial<Record<State, ReactNode>>) {
    const { server, clientOptions } = start({ methods: ['message'] })
    const shown: string[] = []
    function App() {
      const client = useUsher({ ...clientOptions, backoff: { min: 1_000, jitter: 0 } })
      const current = useConnectionState(client)
      useEffect(() => {
        const { dataset, textContent } = screen.getByRole('status')
        expect(dataset.state).toBe(current)
        shown.push(textContent!)
      }, [current])
      return <ConnectionStatus client={client} texts={texts} className="badge" id="status" />
    }
    server.hold('upgrade')
    render(<App />)
    await pass()
    server.hold('auth')
    server.accept('upgrade')
    await pass()
    server.accept('auth')
    await pass()
    server.connection.drop()
    await pass()
    const tag = '<span role="status" class="badge" id="status" data-state="reconnecting">'
    expect(screen.getByRole('status').outerHTML.startsWith(tag)).toBe(true)
    return shown
  }

  it('has a text for each state', async () => {
    expect(await walk()).toEqual(['Disconnected', 'Connecting…', 'Authenticating…', 'Connected', 'Reconnecting…'])
  })

  it('takes other texts, all or some', async () => {
    expect(await walk({ authenticated: 'Verbunden', reconnecting: <b>gleich wieder da</b> })).toEqual([
      'Disconnected', 'Connecting…', 'Authenticating…', 'Verbunden', 'gleich wieder da',
    ])
  })
})
