// The world of the admin page's tests: an Usher with every kind of service, its upstream, and real
// clients over raw sockets.

import { execFileSync } from 'node:child_process';
import { createHash, createHmac, randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { atEnd, freePorts, startUsher, stop } from './support.mjs';

export const ADMIN_TOKEN = 'the-admin-token-of-the-browser-test';
const SECRET = 'a-secret-of-the-admin-page-test-0123456789';
const ISSUER = 'https://id.example.com';

export function mint(user, seconds = 3600) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const now = Math.floor(Date.now() / 1000);
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ iss: ISSUER, aud: 'chat', sub: user, iat: now, exp: now + seconds })}`;
  return `${text}.${createHmac('sha256', SECRET).update(text).digest('base64url')}`;
}

/**
 * Starts an upstream that accepts every upgrade, and answers what it gets with a short message.
 * Resolves with its port and `stop`.
 */
async function startUpstream() {
  const sockets = new Set();
  const server = createServer((socket) => {
    sockets.add(socket);
    let head = '';
    socket.on('error', () => {}).on('close', () => sockets.delete(socket));
    socket.on('data', (data) => {
      if (head === null) {
        if (data[0] === 0x88) socket.end(Buffer.from([0x88, 0]));
        else socket.write(Buffer.from([0x81, 2, 0x68, 0x69]));
        return;
      }
      head += data.toString('latin1');
      if (!head.includes('\r\n\r\n')) return;
      const key = /^sec-websocket-key: *(.+)$/im.exec(head)?.[1].trim();
      const accept = createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');
      socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`);
      head = null;
    });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const stop = () => {
    for (const socket of sockets) socket.destroy();
    server.close();
  };
  atEnd(stop);
  return { port: server.address().port, stop };
}

function certificate(folder) {
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '365', '-subj', '/CN=chat.example.com',
    '-addext', 'subjectAltName=DNS:chat.example.com', '-keyout', join(folder, 'key.pem'), '-out', join(folder, 'cert.pem')], { stdio: 'ignore' });
}

/**
 * Starts an Usher. `token`: whether its admin listener asks for the token. `servers`: the number of
 * its upstream's servers. `tables`: more of its configuration.
 */
export async function startWorld(binary, { token = true, servers = 1, tables = '' } = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'usher-admin-page-'));
  atEnd(() => rmSync(folder, { recursive: true, force: true }));
  const upstreams = [];
  while (upstreams.length < servers) upstreams.push(await startUpstream());
  const [plain, tls, admin, closed] = await freePorts(4);
  certificate(folder);
  const file = join(folder, 'usher.toml');
  writeFileSync(file, `
state_dir = "${folder}/state"
node = "edge-1"
[[listener]]
address = "127.0.0.1:${plain}"
plain = true
[[listener]]
address = "127.0.0.1:${tls}"
certificates = [{ cert = "${folder}/cert.pem", key = "${folder}/key.pem" }]
[[issuer]]
name = "main"
issuer = "${ISSUER}"
audience = ["chat"]
algorithms = ["HS256"]
secret_env = "PAGE_SECRET"
[[upstream]]
name = "chat"
servers = [${upstreams.map(({ port }) => `"http://127.0.0.1:${port}"`).join(', ')}]
[[upstream]]
name = "away"
servers = ["http://127.0.0.1:${closed}"]
[[route]]
path = "/ws"
upstream = "chat"
auth = ["ticket", "header", "query"]
origins = ["https://app.example.com"]
legacy = ["query"]
deprecated = "2026-01-01"
rollout = { ticket = 25 }
[[route]]
path = "/away"
upstream = "away"
auth = ["header"]
[drain]
window = "1s"
[admin]
address = "127.0.0.1:${admin}"
${token ? 'token_env = "PAGE_TOKEN"' : ''}
# A slow machine must not get a second chance within the test.
login_rate_per_address = "10/1h"
${tables}`);
  const env = { ...process.env, PAGE_SECRET: SECRET, PAGE_TOKEN: ADMIN_TOKEN };
  let child;
  const world = {
    url: `http://127.0.0.1:${admin}`, port: plain, file, folder, binary, env, upstreams,
    start: async () => (child = await startUsher(binary, file, `http://127.0.0.1:${admin}/readyz`, { env })),
    stop: (signal = 'SIGKILL') => stop(child, signal),
  };
  atEnd(() => world.stop());
  await world.start();
  return world;
}

/** Opens a WebSocket over a raw socket. Resolves with its status, `send`, and `ended`, a promise of the close code. */
export function openClient(port, { user, path = '/ws', authorization = `Bearer ${mint(user)}` }) {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1');
    let bytes = Buffer.alloc(0);
    let status = null;
    let end;
    const ended = new Promise((done) => (end = done));
    socket.on('error', (error) => (status === null ? reject(error) : end(null))).on('close', () => end(null));
    socket.on('data', (data) => {
      bytes = Buffer.concat([bytes, data]);
      const head = bytes.indexOf('\r\n\r\n');
      if (status === null && head >= 0) {
        status = Number(/^HTTP\/1\.1 (\d+)/.exec(bytes.toString('latin1'))?.[1]);
        bytes = bytes.subarray(head + 4);
        if (status !== 101) socket.destroy();
        resolve({ status, ended, send, close: () => socket.destroy() });
      }
      // Frames have less than 64 KiB; a close frame begins with 0x88.
      while (status === 101 && bytes.length >= 2) {
        const isLong = (bytes[1] & 127) === 126;
        if (isLong && bytes.length < 4) break;
        const [start, size] = isLong ? [4, bytes.readUInt16BE(2)] : [2, bytes[1] & 127];
        if (bytes.length < start + size) break;
        if (bytes[0] === 0x88) {
          end(bytes.readUInt16BE(2));
          socket.end();
        }
        // Usher ends sessions of clients that answer no ping.
        if (bytes[0] === 0x89) frame(0x8a, bytes.subarray(start, start + size));
        bytes = bytes.subarray(start + size);
      }
    });
    const frame = (kind, body) => {
      const mask = randomBytes(4);
      socket.write(Buffer.concat([Buffer.from([kind, 0x80 | body.length]), mask, body.map((byte, index) => byte ^ mask[index % 4])]));
    };
    const send = (text) => frame(0x81, Buffer.from(text));
    socket.write(`GET ${path} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n`
      + `Sec-WebSocket-Key: ${randomBytes(16).toString('base64')}\r\n${authorization ? `Authorization: ${authorization}\r\n` : ''}\r\n`);
  });
}
