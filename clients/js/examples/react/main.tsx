import { StrictMode, useState, type FormEvent } from 'react'
import { createRoot } from 'react-dom/client'
import { Chat } from './chat'
import { forgetToken } from './token'

function App() {
  const [name, setName] = useState<string>()

  async function logIn(event: FormEvent<HTMLFormElement>) {
    event.preventDefault()
    const name = String(new FormData(event.currentTarget).get('name'))
    const { ok } = await fetch('/api/login', { method: 'POST', body: JSON.stringify({ name }) })
    if (ok) setName(name)
  }

  async function leave() {
    setName(undefined)
    forgetToken()
    await fetch('/api/logout', { method: 'POST' })
  }

  // Another person gets another client.
  if (name !== undefined) return <Chat key={name} name={name} onLeave={leave} />
  return (
    <form onSubmit={logIn}>
      <input name="name" aria-label="Your name" placeholder="Your name" pattern="[a-z]{1,20}" required autoFocus />
      <button>Log in</button>
    </form>
  )
}

createRoot(document.querySelector('main')!).render(<StrictMode><App /></StrictMode>)
