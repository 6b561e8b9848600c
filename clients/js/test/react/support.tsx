import { act, cleanup } from '@testing-library/react'
import { afterEach, beforeEach, vi } from 'vitest'
import type { Options } from '../../src/index.js'
import { createFakeServer, type FakeServerOptions } from '../../src/testing.js'

/** Fake timers for each test of the file, and a clean page after it. */
export function setUp() {
  beforeEach(() => {
    vi.useFakeTimers()
  })
  afterEach(() => {
    cleanup()
    vi.useRealTimers()
  })
}

/** Lets microtasks, timers of this many milliseconds, and renders happen. */
export const pass = (ms = 50) => act(() => vi.advanceTimersByTimeAsync(ms))

/** A server, and the options of a client that talks to it. */
export function start(options: FakeServerOptions = {}) {
  const server = createFakeServer(options)
  const { WebSocket, fetch } = server
  const clientOptions: Options<any, any> = { url: 'wss://chat.test/ws', getToken: () => 'token', WebSocket, fetch }
  return { server, clientOptions }
}
