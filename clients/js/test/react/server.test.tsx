import { renderToString } from 'react-dom/server'
import { expect, it } from 'vitest'
import { ConnectionStatus, useUsher, useUsherEvent } from '../../src/react.js'
import { start } from './support.js'

it('renders on a server as disconnected, and opens nothing there', async () => {
  const { server, clientOptions } = start()
  let calls = 0
  function App() {
    const client = useUsher({ ...clientOptions, url: '/ws', getToken: () => `token ${++calls}` })
    useUsherEvent(client, 'message', () => {})
    return <ConnectionStatus client={client} />
  }
  expect(globalThis).not.toHaveProperty('document')
  expect(renderToString(<App />)).toBe('<span role="status" data-state="disconnected">Disconnected</span>')
  await new Promise((resolve) => setTimeout(resolve, 50))
  expect(server.connections).toHaveLength(0)
  expect(server.requests).toHaveLength(0)
  expect(calls).toBe(0)
})

it('renders on a server that has neither WebSocket nor fetch', () => {
  function App() {
    return <ConnectionStatus client={useUsher({ url: '/ws', WebSocket: undefined, fetch: undefined })} />
  }
  expect(renderToString(<App />)).toContain('Disconnected')
})
