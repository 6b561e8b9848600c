// The admin page: asks this Usher for its state every few seconds, shows it, and sends orders.
//
// Names of users, paths and everything else that clients choose get into the page as text only.

import { Chart, element, share, short } from './chart.js';

const EVERY = 5000;
const PATIENCE = 8000;
const LISTED = 200;
/** Raised by each logout. What was asked for before it is not shown. */
let visit = 0;

const $ = (id) => document.getElementById(id);

const CHARTS = [
  { title: 'Open sessions', lines: [{ key: 'sessions', name: 'sessions' }] },
  { title: 'Upgrades', unit: 'per second', lines: [{ key: 'accepted', name: 'let in' }, { key: 'refused', name: 'refused' }] },
  { title: 'Messages', unit: 'per second', lines: [{ key: 'messages_from_client', name: 'from clients' }, { key: 'messages_from_upstream', name: 'to clients' }] },
  { title: 'Traffic', unit: 'per second', isBytes: true, lines: [{ key: 'bytes_from_client', name: 'from clients' }, { key: 'bytes_from_upstream', name: 'to clients' }] },
  { title: 'Sessions ended', unit: 'per second', lines: [{ key: 'ended', name: 'ended' }] },
  { title: 'Tickets', unit: 'per second', lines: [{ key: 'tickets_issued', name: 'issued' }, { key: 'tickets_redeemed', name: 'redeemed' }] },
  { title: 'Without a credential', lines: [{ key: 'unauthenticated', name: 'connections' }] },
  { title: 'Memory', isBytes: true, lines: [{ key: 'memory', name: 'memory' }] },
].map((about) => new Chart(about));
$('charts').append(...CHARTS.map(({ figure }) => figure));

// Requests.

class Refused extends Error {
  constructor(status, body) {
    super(body?.message ?? `Usher answered with status ${status}`);
    Object.assign(this, { status, body });
  }
}

async function ask(path, order) {
  const options = { cache: 'no-store', credentials: 'same-origin', redirect: 'error', signal: AbortSignal.timeout(PATIENCE) };
  if (order !== undefined) Object.assign(options, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(order) });
  const answer = await fetch(path, options);
  const body = await answer.json().catch(() => null);
  if (!answer.ok) throw new Refused(answer.status, body);
  return body;
}

/** Sends an order. Returns its answer, or shows why there is none. After a logout it does neither. */
async function send(path, order, place) {
  const own = visit;
  try {
    const answer = await ask(path, order);
    return own === visit ? answer : null;
  } catch (error) {
    if (own !== visit) return null;
    if (error.status === 401) {
      logInAgain();
      return null;
    }
    const text = error instanceof Refused ? `${error.message}${error.body?.text ? `\n${error.body.text}` : ''}` : order === undefined ? 'Usher does not answer.' : 'Usher does not answer. Whether the order arrived is not known: look at the sessions.';
    say(place, text, 'bad');
    return null;
  }
}

// Words.

const say = (place, text, kind) => {
  place.hidden = !text;
  place.textContent = text;
  if (kind) place.dataset.kind = kind;
  else delete place.dataset.kind;
};

const count = (number, one, many = `${one}s`) => `${number} ${number === 1 ? one : many}`;
const words = (name) => name.replaceAll('_', ' ');

function span(seconds) {
  for (const [unit, size] of [['d', 86400], ['h', 3600], ['min', 60]]) {
    if (seconds >= 2 * size) return `${Math.floor(seconds / size)} ${unit}`;
  }
  return `${Math.max(0, Math.round(seconds))} s`;
}

const ago = (time) => `${span((Date.now() - Date.parse(time)) / 1000)} ago`;
const day = (time) => new Date(time).toLocaleDateString([], { year: 'numeric', month: 'short', day: 'numeric' });
const moment = (time) => new Date(time).toLocaleString([], { dateStyle: 'medium', timeStyle: 'medium', hourCycle: 'h23' });
const clock = (time) => new Date(time).toLocaleTimeString([], { timeStyle: 'medium', hourCycle: 'h23' });
const badge = (text, kind) => element('span', { class: 'badge', 'data-kind': kind }, text);

/** Returns the badge of a state. A newer Usher may have states that the table lacks. */
const stateOf = (table, state) => badge(...(table[state] ?? [words(state)]));

/** A line of a list: what, its state, and a remark below. */
const line = (what, state, remark) => element('li', {}, element('span', {}, what), state, remark ? element('small', {}, remark) : null);

/** Puts parts into a place, or a sentence if there are none. */
function fill(place, parts, nothing) {
  place.replaceChildren(...(parts.length ? parts : [element('p', { class: 'soft' }, nothing)]));
}

// What the state means.

const BREAKERS = { closed: ['working', 'good'], 'half-open': ['trying again', 'wait'], open: ['not answering', 'bad'] };
const SERVERS = { serving: ['serving', 'good'], slow_start: ['slow start', 'wait'], on_trial: ['on trial', 'wait'], ejected: ['ejected', 'bad'], unresolved: ['name not resolved', 'bad'] };
const FAULTS = { dial: 'cannot be reached', timeout: 'answers late or not', answer: 'answers with errors', check: 'fails its health check' };
const ISSUERS = { fresh: ['keys are fresh', 'good'], stale: ['keys are old', 'wait'], none: ['no keys', 'bad'] };
const CERTIFICATES = { valid: ['valid', 'good'], ends_soon: ['ends soon', 'wait'], not_yet_valid: ['not valid yet', 'bad'], expired: ['expired', 'bad'] };
const SIDES = { client: 'client', upstream: 'upstream', store: 'Redis', issuer: 'issuer', us: 'Usher' };

const until = ({ state, expires, days_left: days }) => {
  if (state === 'expired') return `expired on ${day(expires)}`;
  return state === 'not_yet_valid' ? 'not valid yet' : `until ${day(expires)}, ${count(days, 'day')} left`;
};

/** Lists what an operator should look at, the worst first. */
function problems(status, history) {
  const found = [];
  const bad = (text) => found.push(['bad', text]);
  const wait = (text) => found.push(['wait', text]);
  if (status.stage !== 'ready') wait(`This node is ${status.stage}: balancers send it no new clients. ${count(status.sessions, 'session is', 'sessions are')} open.`);
  for (const text of status.warnings) bad(text);
  const breakers = [['The store', status.store.breaker], ...Object.entries(status.store.regions).map(([name, breaker]) => [`The store of region ${name}`, breaker]),
    ...status.verifiers.map(({ name, breaker }) => [`Verifier ${name}`, breaker])];
  for (const [what, breaker] of breakers) {
    if (breaker === 'open') bad(`${what} does not answer.`);
    if (breaker === 'half-open') wait(`${what} did not answer and is tried again.`);
  }
  for (const { name, state, keys, fault, age_seconds: age } of status.issuers) {
    if (!keys) bad(`Issuer ${name} has no keys: its tokens are refused${fault ? ` (${fault})` : ''}.`);
    else if (state === 'stale') wait(`The keys of issuer ${name} are ${span(age)} old: the last fetch failed (${fault}).`);
  }
  for (const { upstream, server, state, fault } of status.servers) {
    if (state === 'unresolved') bad(`The name of ${server} of upstream ${upstream} has no address.`);
    if (state === 'ejected') bad(`${server} of upstream ${upstream} gets no clients: it ${FAULTS[fault] ?? 'failed'}.`);
  }
  for (const certificate of status.certificates) {
    if (certificate.state !== 'valid') (certificate.state === 'ends_soon' ? wait : bad)(`Certificate ${certificate.file}: ${until(certificate)}.`);
  }
  if (status.acme?.fault) (status.acme.state === 'none' ? bad : wait)(`The certificate of ${status.acme.domains.join(', ')} could not be ordered: ${status.acme.detail ?? status.acme.fault}`);
  for (const { reason, side, last_minute: recent } of history.refusals) {
    if (recent && side !== 'client') bad(`${count(recent, 'upgrade or ticket was', 'upgrades and tickets were')} refused in the last minute: ${words(reason)} (${SIDES[side] ?? side}).`);
  }
  return found.sort(([a], [b]) => a.localeCompare(b));
}

// The blocks.

function showAttention(status, history) {
  const found = problems(status, history);
  const place = $('attention');
  const text = found.map(([, one]) => one).join('\n') || 'Nothing needs attention.';
  if (place.dataset.text === text) return;
  place.dataset.text = text;
  place.dataset.kind = found.length ? found[0][0] : 'good';
  place.replaceChildren(found.length ? element('ul', {}, ...found.map(([, one]) => element('li', {}, one))) : text);
}

function showRefusals({ refusals }) {
  const most = Math.max(1, ...refusals.map(({ count: all }) => all));
  const rows = refusals.map(({ reason, side, count: all, last_minute: recent }) => element('tr', {},
    element('td', {}, words(reason), share(all / most)),
    element('td', {}, badge(SIDES[side] ?? 'unknown', side === 'client' ? undefined : 'bad')),
    element('td', { class: 'number' }, short(all)),
    element('td', { class: 'number' }, short(recent))));
  const head = element('tr', {}, ...[['Reason'], ['Side'], ['15 min', 'number'], ['1 min', 'number']].map(([text, kind]) => element('th', { scope: 'col', class: kind }, text)));
  fill($('refusals'), rows.length ? [element('table', {}, element('thead', {}, head), element('tbody', {}, ...rows))] : [], 'No upgrade and no ticket was refused.');
}

function showServices(status) {
  const groups = [
    ['Upstreams', status.servers.map(({ upstream, server, state, busy, fault, away_seconds: away }) => line(`${upstream}: ${server}`, stateOf(SERVERS, state),
      fault ? `for ${span(away)}: ${FAULTS[fault] ?? fault}` : `${short(busy)} in use`))],
    ['Issuers', status.issuers.map(({ name, state, keys, fault, age_seconds: age }) => line(name, stateOf(ISSUERS, state),
      `${count(keys, 'key')}${age === null ? '' : `, fetched ${span(age)} ago`}${fault ? `; last fetch: ${fault}` : ''}`))],
    ['Verifiers', status.verifiers.map(({ name, kind, breaker, asking }) => line(`${name} (${kind})`, badge(...BREAKERS[breaker] ?? ['working', 'good']), `${count(asking, 'request')} in flight`))],
    ['Store of tickets', [
      line(status.store.kind, badge(...BREAKERS[status.store.breaker] ?? ['in this process', 'good']), status.nodes ? `nodes: ${status.nodes.join(', ')}` : null),
      ...Object.entries(status.store.regions).map(([name, breaker]) => line(`region ${name}`, badge(...BREAKERS[breaker] ?? ['working', 'good']))),
    ]],
  ];
  fill($('services'), groups.filter(([, rows]) => rows.length).flatMap(([title, rows]) => [element('h3', {}, title), element('ul', { class: 'list' }, ...rows)]), '');
}

function showCertificates({ certificates, acme }) {
  const rows = certificates.map((one) => line(one.file, stateOf(CERTIFICATES, one.state), `${words(one.purpose)}: ${until(one)}`));
  if (acme) {
    rows.push(line(`ACME: ${acme.domains.join(', ')}`, badge(acme.state === 'none' ? 'not issued' : words(acme.state), acme.fault ? 'bad' : acme.state === 'none' ? 'wait' : 'good'),
      acme.fault ? `failed ${count(acme.failures, 'time')}: ${acme.detail ?? acme.fault}` : acme.renewal && `renewal on ${day(acme.renewal)}`));
  }
  fill($('certificates'), rows.length ? [element('ul', { class: 'list' }, ...rows)] : [], 'The configuration names no certificate.');
}

function showMigration({ rollouts, legacy }) {
  const parts = [];
  if (rollouts.length) {
    parts.push(element('h3', {}, 'Shares of the clients on a new method'), element('ul', { class: 'list' }, ...rollouts.map(({ route, shares, enforced }) => line(route,
      element('span', {}, shares.map(({ method, percent }) => `${method} ${percent} %`).join(', ')), enforced ? 'enforced: old methods are refused in the share' : 'not enforced'))));
  }
  if (legacy.length) {
    parts.push(element('h3', {}, 'Old methods still in use'), element('ul', { class: 'list' }, ...legacy.map(({ route, method, uses, last_used: last, recent_users: users }) => line(`${method} on ${route}`,
      element('span', { class: 'number' }, count(uses, 'use')), `last ${ago(last)}${users.length ? `, by ${users.join(', ')}` : ''}`))));
  }
  fill($('migration'), parts, 'No route has a rollout, and no old method was used.');
}

function showNode(status) {
  const facts = {
    Version: status.version, Started: `${moment(status.started)}, ${span(status.uptime_seconds)} ago`,
    Configuration: status.config ?? 'without a file', Listeners: status.listeners.join(', '), Routes: status.routes.join(', '), Upstreams: status.upstreams.join(', '),
    Nodes: status.nodes?.join(', '), Revocations: `${status.revocations} in force`,
  };
  $('facts').replaceChildren(...Object.entries(facts).filter(([, value]) => value).flatMap(([name, value]) => [element('dt', {}, name), element('dd', {}, value)]));
  const by = status.sessions_by.map(({ route, method, sessions }) => `${short(sessions)} by ${method ?? 'no method'} on ${route}`);
  fill($('sessions-by'), by.length ? [element('p', {}, `${count(status.sessions, 'session')} open: ${by.join('; ')}.`)] : [], 'No session is open.');
  $('node').textContent = `${status.node}, up ${span(status.uptime_seconds)}`;
  say($('stage'), status.stage, status.stage === 'ready' ? 'good' : 'wait');
  document.title = `${status.sessions} sessions on ${status.node} – Usher`;
  $('logout').hidden = !status.needs_token;
  for (const id of ['stop', 'close-share']) $(id).disabled = status.draining;
}

// Sessions of a user.

let searched = null;
/** How often the list is read again: the close handshakes of revoked sessions take a moment. */
let readAgain = 0;

let searches = 0;

async function find(user) {
  const own = ++searches;
  const query = new URLSearchParams({ limit: LISTED, fleet: true, ...(user && { user }) });
  const answer = await send(`/sessions?${query}`, undefined, $('notice'));
  if (!answer || own !== searches) return;
  searched = user;
  const parts = [];
  const silent = (answer.nodes ?? []).filter(({ answered }) => !answered).map(({ node }) => node);
  if (silent.length) parts.push(element('p', { class: 'fault' }, `No answer from ${silent.join(', ')}: sessions there are missing here.`));
  if (answer.message) parts.push(element('p', { class: 'fault' }, answer.message));
  if (answer.sessions.length) parts.push(table(answer));
  else parts.push(element('p', { class: 'soft' }, user ? `${user} has no open session.` : 'No session is open.'));
  if (user) {
    const all = element('button', { type: 'button', class: 'danger', id: 'revoke-user' }, 'Revoke this user');
    all.addEventListener('click', () => revoke({ user }, `Revoke ${user}?`, 'Closes all sessions of this user on every node, and refuses every credential of this user, also new ones, until the revocation ends.', 'Revoke the user'));
    const old = element('button', { type: 'button', id: 'revoke-tokens' }, 'Revoke tokens issued until now');
    old.addEventListener('click', () => revoke({ user, issued_before: 'now' }, `Revoke the tokens of ${user}?`, 'Closes all sessions of this user on every node, and refuses the tokens that were issued until now. After a new login the user gets in.', 'Revoke the tokens'));
    parts.push(element('div', { class: 'row' }, all, old));
  }
  $('found').replaceChildren(...parts);
}

function table({ total, sessions }) {
  const columns = ['User', 'Route', 'Method', 'Since', 'Last activity', 'Address', 'Node', 'Order'];
  const rows = sessions.map((session) => {
    const end = element('button', { type: 'button', class: 'small danger', 'aria-label': `Revoke session ${session.id}` }, 'Revoke');
    end.addEventListener('click', () => revoke({ session: session.id }, 'Revoke this session?', `Closes the session of ${session.user ?? 'a client without a user'} on ${session.route}. The client may connect again with a valid credential.`, 'Revoke the session'));
    const cells = [session.user ?? '–', session.route, session.method ?? '–', ago(session.since), ago(session.last_activity), session.peer, session.node, end];
    return element('tr', { 'data-session': session.id }, ...cells.map((cell, index) => element('td', { 'data-label': columns[index] }, cell)));
  });
  const head = element('tr', {}, ...columns.map((name) => element('th', { scope: 'col' }, name)));
  const caption = `${total > sessions.length ? `The oldest ${sessions.length} of ${total}` : count(total, 'session')}, at ${clock(Date.now())}`;
  return element('table', { class: 'cards' }, element('caption', {}, caption), element('thead', {}, head), element('tbody', {}, ...rows));
}

async function revoke(order, title, text, yes) {
  if (await isConfirmed(title, text, yes) === null) return;
  const answer = await send('/revoke', order, $('notice'));
  if (!answer) return;
  say($('notice'), `Revoked until ${moment(answer.until)}. ${count(answer.closed, 'session')} closed${answer.fleet ? ' on this node; the other nodes are notified' : ''}.`, 'good');
  readAgain = 3;
  await find(searched);
  refresh();
}

// Explanations.

const METHODS = ['ticket', 'header', 'message', 'subprotocol', 'query', 'cookie', 'bypass'];
const MARKS = { ok: ['ok', 'good'], fail: ['fails', 'bad'], skipped: ['skipped'], note: ['note'] };

async function explain() {
  const value = (id) => $(`explain-${id}`).value.trim();
  const kind = value('kind');
  const headers = value('headers').split('\n').filter((header) => header.trim());
  if (value('origin')) headers.push(`Origin: ${value('origin')}`);
  const order = { url: value('url'), method: value('method'), headers, ask_verifiers: $('explain-ask').checked, ...(kind && { [kind]: value('secret') }),
    ...(value('as') && { as: value('as') }), ...(value('peer') && { peer: value('peer') }) };
  const fault = element('p', { class: 'fault' });
  const own = visit;
  const answer = await send('/explain', order, fault);
  if (own !== visit) return;
  $('explained').replaceChildren(...(answer ? explanation(answer) : [fault]));
}

function explanation({ url, warnings, steps, verdict, upstream }) {
  const [title, kind] = { true: ['Let in', 'good'], false: ['Refused', 'bad'], null: ['Undecided', 'wait'] }[verdict.let_in];
  const status = verdict.status === null ? '' : ` with ${verdict.status}${verdict.code ? ` ${verdict.code}` : ''}`;
  const close = verdict.close_code === null ? '' : `, then close ${verdict.close_code} "${verdict.close_reason}"`;
  const parts = [element('p', { class: 'verdict', 'data-kind': kind }, element('strong', {}, `${title}${status}${close}`), `: ${verdict.message}`)];
  const facts = { Request: url, 'In the log': verdict.detail, 'To do': verdict.advice, User: verdict.user, Issuer: verdict.issuer, Expires: verdict.expires_at,
    Upstream: upstream && `${upstream.name} gets ${upstream.path} with ${upstream.headers.join(', ')}`, 'Removed headers': upstream?.removed.join(', ') };
  parts.push(element('dl', {}, ...Object.entries(facts).filter(([, fact]) => fact).flatMap(([name, fact]) => [element('dt', {}, name), element('dd', {}, fact)])));
  parts.push(...warnings.map((warning) => element('p', { class: 'fault' }, warning)));
  parts.push(element('h3', {}, 'Check by check'), element('ol', { class: 'steps' }, ...steps.map(({ name, result, detail }) => element('li', {}, stateOf(MARKS, result), element('strong', {}, name), element('span', {}, detail)))));
  return parts;
}

// Orders to this node.

/** Asks first. Returns null if the answer is no, otherwise the percent, if it was asked for. */
function isConfirmed(title, text, yes, asksPercent = false) {
  const dialog = $('confirm');
  $('confirm-title').textContent = title;
  $('confirm-text').textContent = text;
  $('confirm-yes').textContent = yes;
  $('confirm-percent').hidden = !asksPercent;
  $('percent').disabled = !asksPercent;
  dialog.returnValue = '';
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes' ? $('percent').valueAsNumber : null), { once: true });
  });
}

async function reload() {
  const answer = await send('/reload', {}, $('steered'));
  if (!answer) return;
  const changed = answer.changed.length ? `Applied. Changed: ${answer.changed.join(', ')}.` : 'Applied. Nothing has changed.';
  const restart = answer.needs_restart.length ? `\nA restart is needed for: ${answer.needs_restart.join(', ')}.` : '';
  say($('steered'), changed + restart + answer.warnings.map(({ message }) => `\nWarning: ${message}`).join(''), 'good');
  refresh();
}

async function closeShare() {
  const percent = await isConfirmed('Close a share of the sessions?', 'The clients are told to connect again, spread over the drain window. This node stays open for them.', 'Close them', true);
  if (percent === null) return;
  const answer = await send('/drain', { percent }, $('steered'));
  if (answer) say($('steered'), `Closing ${answer.sessions} of ${count(answer.of, 'session')} over ${answer.window_seconds} s.`, 'good');
}

async function stop() {
  if (await isConfirmed('Drain and stop this node?', 'This node takes no new clients, closes all its sessions in good order, and ends. A supervisor may start it again.', 'Drain and stop') === null) return;
  const answer = await send('/drain', {}, $('steered'));
  if (answer) say($('steered'), `Stopping: ${count(answer.sessions, 'session')} within ${answer.delay_seconds + answer.window_seconds} s.`, 'wait');
  refresh();
}

// Login.

function view(name) {
  document.body.dataset.view = name;
  $('login').hidden = name !== 'login';
  $('main').hidden = name !== 'figures';
  if (name === 'login') {
    for (const id of ['stage', 'logout']) $(id).hidden = true;
    for (const id of ['node', 'age']) $(id).textContent = '';
    document.title = 'Usher';
  }
}

function logInAgain() {
  if (document.body.dataset.view === 'login') return;
  // Nothing that was read before the logout stays in the page, and no answer under way gets into it.
  visit += 1;
  round += 1;
  searches += 1;
  searched = null;
  readAgain = 0;
  since = null;
  answered = null;
  delete document.body.dataset.stale;
  $('confirm').close('');
  for (const id of ['search', 'explain']) $(id).reset();
  for (const chart of CHARTS) chart.clear();
  for (const id of ['found', 'explained', 'attention', 'refusals', 'services', 'certificates', 'migration', 'sessions-by', 'facts']) $(id).replaceChildren();
  delete $('attention').dataset.text;
  for (const id of ['notice', 'steered']) say($(id), '');
  view('login');
  $('token').focus();
}

async function logIn(event) {
  event.preventDefault();
  const token = $('token').value;
  try {
    await ask('/login', { token });
    $('token').value = '';
    say($('login-fault'), '');
    await refresh();
    $('main').focus({ preventScroll: true });
  } catch (error) {
    say($('login-fault'), error instanceof Refused ? `${error.message[0].toUpperCase()}${error.message.slice(1)}.` : 'Usher does not answer.');
    $('token').select();
  }
}

// The clock of the page.

let since = null;
let answered = null;
let round = 0;
/** The refreshes under way. */
let asking = 0;

async function refresh() {
  const own = ++round;
  asking += 1;
  try {
    const [status, history] = await Promise.all([ask('/status'), ask('/history')]);
    if (own !== round) return;
    if (since !== null) say($('notice'), '');
    since = null;
    answered = Date.now();
    delete document.body.dataset.stale;
    view('figures');
    for (const chart of CHARTS) chart.show(history);
    showAttention(status, history);
    showRefusals(history);
    showServices(status);
    showCertificates(status);
    showMigration(status);
    showNode(status);
    if (readAgain > 0 && !$('confirm').open) {
      readAgain -= 1;
      find(searched);
    }
  } catch (error) {
    if (own !== round) return;
    if (error.status === 401) {
      logInAgain();
      return;
    }
    since ??= new Date();
    document.body.dataset.stale = '';
    const why = error instanceof Refused ? error.message : error instanceof TypeError || error.name === 'TimeoutError' ? 'Usher does not answer' : `The answer cannot be shown: ${error.message}`;
    say($('notice'), `${why}. Since ${clock(since)}; the next try is in ${EVERY / 1000} s.${answered ? ' The figures below are old.' : ''}`, 'bad');
  } finally {
    asking -= 1;
  }
}

/** Refreshes, unless Usher has yet to answer: a new request would discard what becomes of the last. */
function keepFresh() {
  if (!document.hidden && document.body.dataset.view !== 'login' && asking === 0) refresh();
}

setInterval(() => {
  if (document.body.dataset.view === 'login' || !answered) return;
  const seconds = Math.round((Date.now() - answered) / 1000);
  $('age').textContent = seconds < 2 ? 'updated now' : `updated ${span(seconds)} ago`;
}, 1000);
setInterval(keepFresh, EVERY);
document.addEventListener('visibilitychange', keepFresh);

$('login-form').addEventListener('submit', logIn);
$('logout').addEventListener('click', async () => {
  if (await send('/logout', {}, $('notice'))) logInAgain();
});
$('search').addEventListener('submit', (event) => {
  event.preventDefault();
  find($('user').value);
});
$('explain-as').append(...METHODS.map((name) => element('option', { value: name }, name)));
$('explain').addEventListener('submit', (event) => {
  event.preventDefault();
  explain();
});
$('reload').addEventListener('click', reload);
$('close-share').addEventListener('click', closeShare);
$('stop').addEventListener('click', stop);
refresh();
