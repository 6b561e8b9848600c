// @vitest-environment jsdom
import { render } from '@testing-library/react'
import { renderToString } from 'react-dom/server'
import { StrictMode } from 'react'
import { expect, it, vi } from 'vitest'
import { createClient } from '../../src/index.js'
import { ConnectionStatus, useUsher } from '../../src/react.js'
import { pass, setUp, start } from './support.js'

setUp()

it('takes over what the server rendered, without a mismatch, and connects', async () => {
  const errors = vi.spyOn(console, 'error').mockImplementation(() => {})
  const mismatches: unknown[] = []
  const { server, clientOptions } = start()
  // A client of the module is connected before the page is taken over: the server did not know.
  const own = createClient(clientOptions)
  void own.connect()
  await pass()
  const App = () => (
    <StrictMode>
      <ConnectionStatus client={useUsher(clientOptions)} />
      <ConnectionStatus client={own} />
    </StrictMode>
  )
  const page = document.createElement('div')
  page.innerHTML = renderToString(<App />)
  expect(page.textContent).toBe('DisconnectedDisconnected')
  const onRecoverableError = (error: unknown) => mismatches.push(error)
  const { unmount } = render(<App />, { container: page, hydrate: true, onRecoverableError })
  await pass()
  expect(page.textContent).toBe('ConnectedConnected')
  expect(mismatches).toEqual([])
  expect(errors).not.toHaveBeenCalled()
  expect(server.open).toHaveLength(2)
  unmount()
  own.disconnect()
})
