// The surroundings of a document's block at run time: a chat that echoes, and the login of an application.

import { createFakeServer } from 'usher-client/testing'

const server = createFakeServer({ onMessage: (connection, data) => connection.send(data) })

const answers: Record<string, object> = {
  '/api/token': { access_token: 'token', expires_in: 900 },
}

globalThis.WebSocket = server.WebSocket as unknown as typeof WebSocket
globalThis.fetch = async (input, init) => {
  const answer = answers[String(input)]
  return answer ? Response.json(answer) : server.fetch(input, init)
}
