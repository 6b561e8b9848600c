// The demo's page: the few lines that a chat client needs to connect by ticket, and the rest to show what happened.

const element = (id) => document.getElementById(id);
const state = { token: null, name: null, socket: null, lastUrl: null, asked: 0 };
const KEPT_LINES = 200;

const tokenFor = (name) => request('POST', '/login', { headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ name }) });

async function logIn(name) {
  const answer = await tokenFor(name);
  if (!answer.ok) return notice(answer.body?.message ?? 'The login was refused.', 'bad');
  state.token = answer.body.token;
  state.name = name;
  notice(`Logged in as ${name}. The token is good for ${Math.round(answer.body.expires_in / 60)} minutes.`, 'good');
  refresh();
}

async function connectByTicket() {
  pill('connecting');
  const answer = await request('POST', '/websocket/ticket', { headers: { Authorization: `Bearer ${state.token}` } });
  if (!answer.ok) {
    pill('disconnected');
    return notice(answer.body?.detail ?? answer.body?.message ?? 'No ticket was issued.', 'bad');
  }
  const url = webSocketUrl(answer.body.websocket_url);
  state.lastUrl = url;
  open(url, 'The ticket is used up now.', () => welcome());
}

// Nothing in the address: the socket opens at once, and says who it is in its first message.
function connectByFirstMessage() {
  pill('connecting');
  open(webSocketUrl('/live'), 'Open, and nobody yet: the backend has not heard of it.', () => authenticate());
}

function authenticate() {
  state.asked = performance.now();
  state.socket.send(JSON.stringify({ type: 'auth', payload: { token: state.token } }));
}

// Near the end of what the session lives by, Usher asks in the stream; a fresh token goes back the same way.
async function renew(question) {
  step('auth_required in the stream', `${question.payload.grace_seconds} s to answer`, performance.now(), 'good', question.payload.reason);
  const answer = await tokenFor(state.name);
  if (!answer.ok || !state.socket) return;
  state.token = answer.body.token;
  authenticate();
}

function welcome() {
  pill('connected');
  notice('Connected. Open a second tab to talk to yourself.', 'good');
  refresh();
  element('text').focus();
}

function open(url, detail, opensWith) {
  const began = performance.now();
  const socket = new WebSocket(url);
  state.socket = socket;
  refresh();
  let opened = false;
  socket.onopen = () => {
    opened = true;
    step(`WebSocket ${withoutSecret(url)}`, '101 open', began, 'good', detail);
    opensWith();
  };
  socket.onmessage = (event) => receive(JSON.parse(event.data));
  socket.onclose = (event) => {
    const why = event.reason ? ` “${event.reason}”` : '';
    step('WebSocket closed', `${event.code}${why}`, began, opened && event.code === 1000 ? 'good' : 'bad');
    if (state.socket === socket) {
      state.socket = null;
      pill('disconnected');
      notice(opened ? 'Disconnected.' : 'The connection was refused.', opened ? '' : 'bad');
      refresh();
    }
  };
}

// A browser tells a page nothing about a refused upgrade but 1006, so the same address is asked again by fetch.
async function expectRefusal(what, url) {
  const closed = await new Promise((resolve) => {
    const began = performance.now();
    const socket = new WebSocket(url);
    socket.onopen = () => {
      step(what, '101 open', began, 'bad', 'This should have been refused.');
      socket.close();
      resolve(false);
    };
    socket.onclose = (event) => {
      step(what, `refused, ${event.code}`, began, 'good', 'That is all a browser lets a page see of a refused upgrade.');
      resolve(true);
    };
  });
  if (!closed) return notice('It was let in, which is a fault.', 'bad');
  const target = new URL(url.replace(/^ws/, 'http'));
  const answer = await request('GET', target.pathname + target.search, {}, 'good');
  const code = answer.body?.code ? ` ${answer.body.code}` : '';
  notice(`Refused, as it should be: ${answer.status}${code}.`, 'good');
}

function receive(message) {
  switch (message.type) {
    case 'welcome':
      element('context').textContent = message.context ? JSON.stringify(message.context, null, 2) : 'no signed context';
      showHeaders(message.target, message.headers);
      checkSignature(message.headers.find(([name]) => name === 'x-user-context')?.[1]);
      return say(null, `You are ${message.you}`);
    case 'auth_required': return renew(message);
    case 'auth_ok':
      step('auth message', 'auth_ok', state.asked, 'good', `You are ${message.payload.user} until ${new Date(message.payload.expires_at).toLocaleTimeString()}.`);
      return welcome();
    case 'chat': return say(message.from, message.text);
    case 'joined': return say(null, `${message.from} came in`);
    case 'left': return say(null, `${message.from} left`);
    case 'missed': return say(null, `${message.count} messages were missed`);
    case 'error': return say(null, message.text ?? message.payload.message);
  }
}

// Usher's own header first, then what else came, with the request line above it all: the ticket is no longer in it.
function showHeaders(target, headers) {
  const ours = ([name]) => name === 'x-user-context';
  const rows = [['GET', target], ...headers.filter(ours), ...headers.filter((header) => !ours(header))];
  element('headers').replaceChildren(...rows.map(([name, value]) => {
    const row = document.createElement('tr');
    if (ours([name])) row.className = 'ours';
    for (const text of [name, value]) row.append(Object.assign(document.createElement('td'), { textContent: text }));
    return row;
  }));
}

// What a real backend does with the header: verify it with the public keys that Usher publishes.
async function checkSignature(compact) {
  const show = (text, kind) => mark(element('signature'), text, kind);
  if (!compact) return show('There is no X-User-Context header.', 'bad');
  try {
    const [head, claims, signature] = compact.split('.');
    const header = JSON.parse(new TextDecoder().decode(bytesOf(head)));
    const algorithm = { EdDSA: { name: 'Ed25519' }, ES256: { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } }[header.alg];
    if (!algorithm) return show(`Signed with ${header.alg}, which this page does not check.`);
    const { body } = await request('GET', '/.well-known/usher/jwks.json', {});
    const found = body.keys.find((key) => key.kid === header.kid);
    if (!found) return show(`No published key is called ${header.kid}.`, 'bad');
    const { kty, crv, x, y } = found;
    const key = await crypto.subtle.importKey('jwk', y ? { kty, crv, x, y } : { kty, crv, x }, algorithm, false, ['verify']);
    const good = await crypto.subtle.verify(algorithm, key, bytesOf(signature), new TextEncoder().encode(`${head}.${claims}`));
    show(good ? `The signature is good: ${header.alg}, key ${header.kid}.` : 'The signature is NOT good.', good ? 'good' : 'bad');
  } catch (error) {
    show(`The signature was not checked here: ${error.message}`);
  }
}

async function request(method, path, options, refusalIs = 'bad') {
  const began = performance.now();
  try {
    const response = await fetch(path, { method, cache: 'no-store', ...options });
    const text = await response.text();
    let body = null;
    try { body = JSON.parse(text); } catch { /* shown as text */ }
    const type = response.headers.get('Content-Type') ?? '';
    const detail = response.ok ? summary(body) : `${type}\n${body ? JSON.stringify(body, null, 2) : text.slice(0, 500)}`;
    step(`${method} ${withoutSecret(path)}`, `${response.status}`, began, response.ok ? 'good' : refusalIs, detail);
    return { ok: response.ok, status: response.status, body };
  } catch (error) {
    step(`${method} ${withoutSecret(path)}`, 'failed', began, 'bad', error.message);
    return { ok: false, status: 0, body: null };
  }
}

function summary(body) {
  if (body?.token) return `a bearer token, good for ${body.expires_in} s`;
  if (body?.ticket_id) return `a ticket, good for ${body.ttl_seconds} s, ${body.single_use ? 'once' : 'more than once'}`;
  if (body?.keys) return `${body.keys.length} public key(s)`;
  return '';
}

function webSocketUrl(given) {
  const url = new URL(given ?? '/ws', location.href);
  if (url.protocol.startsWith('http')) url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  return url.href;
}

const withoutSecret = (url) => url.replace(/([?&]ticket=)[^&]{6}[^&]*/, (all, key) => `${all.slice(0, key.length + 6)}…`);
const bytesOf = (text) => Uint8Array.from(atob(text.replace(/-/g, '+').replace(/_/g, '/')), (character) => character.charCodeAt(0));

function mark(target, text, kind = '') {
  target.textContent = text;
  target.className = `notice ${kind}`;
}

const notice = (text, kind) => mark(element('notice'), text, kind);

function pill(text) {
  element('state').textContent = text;
  element('state').dataset.state = text;
}

function append(list, item) {
  list.append(item);
  while (list.children.length > KEPT_LINES) list.firstChild.remove();
  list.scrollTop = list.scrollHeight;
}

function part(className, text) {
  return Object.assign(document.createElement('span'), { className, textContent: text });
}

function say(from, text) {
  const item = document.createElement('li');
  if (from) item.append(part('from', from), text);
  else item.append(part('aside', text));
  append(element('messages'), item);
}

function step(what, result, began, kind, detail) {
  const item = document.createElement('li');
  item.className = kind;
  const line = Object.assign(document.createElement('div'), { className: 'step' });
  line.append(part('what', what), part('result', result), part('time', `${Math.round(performance.now() - began)} ms`));
  item.append(line);
  if (detail) item.append(Object.assign(document.createElement('p'), { className: 'detail', textContent: detail }));
  append(element('steps'), item);
}

function refresh() {
  const open = state.socket?.readyState === WebSocket.OPEN;
  element('connect').disabled = element('connect-live').disabled = !state.token || Boolean(state.socket);
  element('disconnect').disabled = !open;
  element('reuse').disabled = !state.lastUrl;
  element('send').disabled = element('text').disabled = !open;
  element('text').placeholder = open ? 'Say something' : 'Connect first';
}

element('login-form').addEventListener('submit', (event) => {
  event.preventDefault();
  logIn(element('name').value.trim());
});
element('connect').addEventListener('click', connectByTicket);
element('connect-live').addEventListener('click', connectByFirstMessage);
element('disconnect').addEventListener('click', () => state.socket?.close(1000, 'bye'));
element('reuse').addEventListener('click', () => expectRefusal('The same ticket again', state.lastUrl));
element('no-ticket').addEventListener('click', () => expectRefusal('Without a ticket', webSocketUrl('/ws')));
element('send-form').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = element('text').value;
  if (!text.trim() || state.socket?.readyState !== WebSocket.OPEN) return;
  state.socket.send(JSON.stringify({ type: 'chat', text }));
  element('text').value = '';
});
refresh();
element('name').focus();
