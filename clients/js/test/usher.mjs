// The real Usher for tests of the library: over TLS under an authority of its own, in front of an echo, and on ports
// that stay, so that it can be stopped and started again.

import { execFileSync } from 'node:child_process'
import { createHmac, randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { WebSocketServer } from 'ws'
import { freePorts, startUsher, stop } from '../../../tests/e2e/browser/process.mjs'

const SECRET = randomBytes(32).toString('hex')
const ISSUER = 'https://id.example.com'
const AUDIENCE = 'chat'

/** Returns a token that differs from every other. */
export function mint(user, seconds = 3600) {
  const encode = (part) => Buffer.from(JSON.stringify(part)).toString('base64url')
  const now = Math.floor(Date.now() / 1000)
  const claims = { iss: ISSUER, aud: AUDIENCE, sub: user, iat: now, exp: now + seconds, jti: randomBytes(8).toString('hex') }
  const text = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode(claims)}`
  return `${text}.${createHmac('sha256', SECRET).update(text).digest('base64url')}`
}

/** Sends each message back as it was, and keeps the upgrades that came. */
export async function startEcho() {
  const upgrades = []
  // As a backend chooses that knows one subprotocol.
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0, backlog: 4096, handleProtocols: (offers) => offers.has('chat.v1') && 'chat.v1' })
  server.on('connection', (socket, { url, headers }) => {
    upgrades.push({ url, headers })
    socket.on('error', () => {})
    socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }))
  })
  await new Promise((resolve) => server.once('listening', resolve))
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    upgrades,
    stop() {
      for (const socket of server.clients) socket.terminate()
      server.close()
    },
  }
}

/** An authority, and a certificate of it for `localhost`. The paths of three PEM files. */
function makeCertificates(folder) {
  const file = (name) => join(folder, name)
  const openssl = (...words) => execFileSync('openssl', words, { stdio: ['ignore', 'ignore', 'pipe'] })
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes']
  openssl('req', '-x509', ...key, '-keyout', file('ca.key'), '-out', file('ca.pem'), '-days', '2', '-subj', '/CN=Authority of the tests')
  openssl('req', ...key, '-keyout', file('server.key'), '-out', file('server.csr'), '-subj', '/CN=localhost')
  writeFileSync(file('server.cnf'), 'subjectAltName = DNS:localhost\nextendedKeyUsage = serverAuth\n')
  openssl('x509', '-req', '-in', file('server.csr'), '-CA', file('ca.pem'), '-CAkey', file('ca.key'), '-CAcreateserial',
    '-out', file('server.pem'), '-days', '2', '-extfile', file('server.cnf'))
  return { ca: file('ca.pem'), cert: file('server.pem'), key: file('server.key') }
}

/** Usher in front of `echo`. `auth` has the methods of its one route, `more` further tables of the configuration. */
export async function createUsher(binary, echo, { auth, isPlain = false, more = '' }) {
  const folder = mkdtempSync(join(tmpdir(), 'usher-client-'))
  const [port, admin] = await freePorts(2)
  const { ca, cert, key } = isPlain ? {} : makeCertificates(folder)
  const listener = isPlain ? 'plain = true' : `certificates = [{ cert = ${JSON.stringify(cert)}, key = ${JSON.stringify(key)} }]`
  const file = join(folder, 'usher.toml')
  let child

  function configure(auth) {
    writeFileSync(file, `
state_dir = ${JSON.stringify(join(folder, 'state'))}
[[listener]]
address = "127.0.0.1:${port}"
${listener}
[[issuer]]
name = "main"
issuer = "${ISSUER}"
audience = ["${AUDIENCE}"]
algorithms = ["HS256"]
secret_env = "USHER_TEST_SECRET"
[[upstream]]
name = "echo"
servers = ["${echo.url}"]
[[route]]
path = "/ws"
upstream = "echo"
auth = ${JSON.stringify(auth)}
[admin]
address = "127.0.0.1:${admin}"
[drain]
window = "1s"
[log]
filter = "warn"
${more}`)
  }
  configure(auth)

  return {
    url: isPlain ? `ws://127.0.0.1:${port}/ws` : `wss://localhost:${port}/ws`,
    /** For NODE_EXTRA_CA_CERTS, which Node reads when it starts. */
    ca,
    configure,
    /** Resolves when it serves. */
    async start() {
      child = await startUsher(binary, file, `http://127.0.0.1:${admin}/readyz`, { env: { ...process.env, USHER_TEST_SECRET: SECRET } })
    },
    stop: (signal) => stop(child, signal),
    async remove() {
      await this.stop('SIGKILL')
      rmSync(folder, { recursive: true, force: true })
    },
  }
}
