import { useState, type FormEvent } from 'react'
import type { Codec } from 'usher-client'
import { ConnectionStatus, useConnectionState, useUsher, useUsherEvent } from 'usher-client/react'
import { getToken } from './token'

interface Said {
  id: number
  from: string
  text: string
}

const json: Codec<Said, { text: string }> = { encode: JSON.stringify, decode: (data) => JSON.parse(String(data)) }

export function Chat({ name, onLeave }: { name: string; onLeave: () => void }) {
  const client = useUsher({ url: '/ws', getToken, codec: json })
  const isReady = useConnectionState(client) === 'authenticated'
  const [lines, setLines] = useState<Said[]>([])
  const [text, setText] = useState('')
  useUsherEvent(client, 'message', (line) => setLines((before) => [...before, line].slice(-100)))

  function say(event: FormEvent) {
    event.preventDefault()
    if (text === '') return
    client.send({ text })
    setText('')
  }

  return (
    <>
      <header>
        <h1>Chat as {name}</h1>
        <ConnectionStatus client={client} />
        <button onClick={onLeave}>Leave</button>
      </header>
      <ol>
        {lines.map(({ id, from, text }) => <li key={id}><b>{from}</b> {text}</li>)}
      </ol>
      <form onSubmit={say}>
        <input aria-label="Message" value={text} disabled={!isReady} onChange={({ target }) => setText(target.value)} />
        <button disabled={!isReady}>Send</button>
      </form>
    </>
  )
}
