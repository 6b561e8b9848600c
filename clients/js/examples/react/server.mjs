// What stands behind Usher: the page, a login, and the chat. The chat has no authentication of its own: it knows each
// person from the signed header of the upgrade.

import { createHmac, timingSafeEqual } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { WebSocketServer } from 'ws'
import { createVerifier } from '../../../../examples/verify-node/verify.mjs'

const { PORT = '9000', USHER_URL = 'http://127.0.0.1:8080', CHAT_SECRET, TOKEN_SECONDS = '900' } = process.env
if (!CHAT_SECRET) throw new Error('set CHAT_SECRET to the secret that Usher has')

const FILES = { '/': ['index.html', 'text/html'], '/page.js': ['dist/page.js', 'text/javascript'] }
const sign = (text) => createHmac('sha256', CHAT_SECRET).update(text).digest('base64url')
const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')

/** An access token for Usher, as an identity provider would give it. */
function mint(name) {
  const iat = Math.floor(Date.now() / 1000)
  const claims = { iss: 'https://chat.example.com', aud: 'chat', sub: name, iat, exp: iat + Number(TOKEN_SECONDS) }
  const unsigned = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode(claims)}`
  return `${unsigned}.${sign(unsigned)}`
}

/** The cookie of the login is the name and its signature. A real login asks for more than a name. */
const seal = (name) => `${name}.${sign(`login ${name}`)}`

function nameIn(cookies = '') {
  const [, cookie = '', name = ''] = /(?:^|; )login=((\w+)\.[\w-]+)/.exec(cookies) ?? []
  const [given, right] = [Buffer.from(cookie), Buffer.from(seal(name))]
  return given.length === right.length && timingSafeEqual(given, right) ? name : undefined
}

const API = {
  '/api/login': async (request) => {
    let body = ''
    for await (const part of request) body += part
    const { name } = JSON.parse(body)
    if (!/^[a-z]{1,20}$/.test(name)) return [400]
    return [204, undefined, `login=${seal(name)}; HttpOnly; SameSite=Strict; Path=/`]
  },
  '/api/logout': async () => [204, undefined, 'login=; Max-Age=0; Path=/'],
  '/api/token': async ({ headers }) => {
    const name = nameIn(headers.cookie)
    return name ? [200, { access_token: mint(name), expires_in: Number(TOKEN_SECONDS) }] : [401]
  },
}

const server = createServer(async (request, response) => {
  try {
    const file = request.method === 'GET' && FILES[request.url]
    const call = request.method === 'POST' && API[request.url]
    if (file) {
      const content = await readFile(new URL(file[0], import.meta.url))
      return response.writeHead(200, { 'Content-Type': file[1] }).end(content)
    }
    const [status, body, cookie] = call ? await call(request) : [404]
    const headers = { 'Content-Type': 'application/json', 'Cache-Control': 'no-store', ...(cookie && { 'Set-Cookie': cookie }) }
    response.writeHead(status, headers).end(body && JSON.stringify(body))
  } catch (error) {
    response.writeHead(400).end(error.message)
  }
})

const verify = createVerifier(`${USHER_URL}/.well-known/usher/jwks.json`, 'chat')

/** Returns the name in the signed header. */
async function nameOf(request) {
  return (await verify(request.headers['x-user-context'])).sub
}

function textIn(data) {
  try {
    const { text } = JSON.parse(data)
    return typeof text === 'string' ? text : undefined
  } catch {
    return undefined
  }
}

const sockets = new WebSocketServer({ noServer: true })
let count = 0

server.on('upgrade', async (request, socket, head) => {
  try {
    const from = await nameOf(request)
    sockets.handleUpgrade(request, socket, head, (client) => {
      client.on('error', () => client.terminate())
      client.on('message', (data) => {
        const text = textIn(data)
        if (text === undefined) return client.close(1003, 'a message is {"text": "..."}')
        const line = JSON.stringify({ id: ++count, from, text })
        for (const other of sockets.clients) other.send(line)
      })
    })
  } catch (error) {
    console.error(error.message)
    socket.end('HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 0\r\n\r\n')
  }
})

server.listen(Number(PORT), '127.0.0.1', () => console.log(`the chat listens on port ${server.address().port}`))
