// A page from its first render to its end, bundled with one version of React by `versions.test.ts`.

// @ts-expect-error it has no types
import { JSDOM } from 'jsdom'
import { StrictMode, version } from 'react'
import { createRoot } from 'react-dom/client'
import { renderToString } from 'react-dom/server'
import { ConnectionStatus, useUsher, useUsherEvent } from 'usher-client/react'
import { createFakeServer } from 'usher-client/testing'

const { window } = new JSDOM('<main></main>')
Object.assign(globalThis, { window, document: window.document })

const server = createFakeServer({ onMessage: (connection, data) => connection.send(data) })
const { WebSocket, fetch } = server
const messages: string[] = []
const client: { send?: (text: string) => void } = {}

function App() {
  // Without jitter the client waits long enough for the page to show that it reconnects.
  const backoff = { jitter: 0 }
  const made = useUsher<string, string>({ url: 'wss://chat.test/ws', getToken: () => 'token', backoff, WebSocket, fetch })
  useUsherEvent(made, 'message', (message) => messages.push(message))
  client.send = (text) => made.send(text)
  return <ConnectionStatus client={made} />
}

const page = document.querySelector('main')!
const wait = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))
async function shows(text: string) {
  for (let tries = 0; page.textContent !== text; tries++) {
    if (tries > 3_000) throw new Error(`the page shows ${page.textContent}, not ${text}`)
    await wait(10)
  }
}

const rendered = renderToString(<App />)
const root = createRoot(page)
root.render(<StrictMode><App /></StrictMode>)
await shows('Connected')
client.send!('hello')
await wait(10)
const sockets = server.connections.length
server.connection.drop()
await shows('Reconnecting…')
await shows('Connected')
root.unmount()
await wait(10)
console.log(JSON.stringify({ version, rendered, sockets, messages, open: server.open.length, closed: server.connection.closed }))
