// Built from clients/js by `npm run demo`. Change it there.

// dom.ts
function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found;
}
function build(tag, properties = {}, ...children) {
  const { class: className, data, ...rest } = properties;
  const element = document.createElement(tag);
  Object.assign(element, rest);
  if (className) element.className = className;
  Object.assign(element.dataset, data);
  element.append(...children.filter((child) => child !== void 0 && child !== false));
  return element;
}
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
function keepFocus(target) {
  const active = document.activeElement;
  const isLost = !active || active === document.body || !active.checkVisibility?.();
  if (isLost) target.focus({ preventScroll: true });
}

// time.ts
var clock = new Intl.DateTimeFormat(void 0, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
var timeOf = (millis) => clock.format(millis);
var preciseTimeOf = (millis) => `${timeOf(millis)}.${String(millis % 1e3).padStart(3, "0")}`;
function span(millis) {
  if (millis < 1e3) return `${Math.round(millis)} ms`;
  if (millis < 1e4) return `${(millis / 1e3).toFixed(1)} s`;
  const seconds = Math.round(millis / 1e3);
  if (seconds < 60) return `${seconds} s`;
  return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}
function remaining(millis) {
  const seconds = Math.max(0, Math.ceil(millis / 1e3));
  if (seconds <= 90) return `${seconds} s`;
  return `${Math.floor(seconds / 60)} min`;
}

// controls.ts
var SHORT_TOKEN_SECONDS = 12;
var PATIENCE = 6e4;
var CONTROLS = [
  {
    id: "expire",
    label: "Let the token run out",
    hint: "Connects with a token of 12 seconds. Usher asks for a new one in the stream.",
    async run(stage, tell) {
      const person2 = stage.person();
      await person2.takeShortToken(SHORT_TOKEN_SECONDS);
      person2.client.clearTickets();
      await person2.client.reconnect();
      tell(`1 of 3. Connected with a token that ends at ${timeOf(person2.tokenEnds)}. Usher asks in about ${SHORT_TOKEN_SECONDS / 2} s; chat on meanwhile.`);
      await once(person2, "reauth", ({ phase }) => phase === "required");
      tell("2 of 3. Usher asked for a new token in the stream. The page fetches one and sends it the same way.");
      await once(person2, "reauth", ({ phase }) => phase === "ok");
      tell(`3 of 3. Renewed until ${timeOf(person2.tokenEnds)}. Same socket, same session, and the backend noticed nothing.`, "good");
    }
  },
  {
    id: "drop",
    label: "Drop my socket",
    hint: "Cuts the connection of your session without a close frame. Other sessions go on.",
    async run(stage, tell) {
      const person2 = stage.person();
      const session = person2.sessionId;
      const began2 = performance.now();
      const lost = once(person2, "close");
      if (!(await person2.order("/control/drop-my-socket", { session })).ok) return tell("There was no socket to drop.", "bad");
      const { code, reason } = await lost;
      tell(`Cut. The page was told ${code} “${reason}” and comes back by itself.`);
      await person2.client.ready(PATIENCE);
      tell(`Back after ${span(performance.now() - began2)}, in a new session. The old ticket was used up, so the page got a new one.`, "good");
    }
  },
  {
    id: "restart",
    label: "Restart the backend",
    hint: "The backend is away for 3 seconds, for all users in the room.",
    async run(stage, tell) {
      const person2 = stage.person();
      const lost = once(person2, "close");
      const answer = await person2.order("/control/restart-backend");
      if (!answer.ok) return tell("The backend is restarting already.", "bad");
      await lost;
      const began2 = performance.now();
      tell("The backend is gone. Usher stays: the page gets a new ticket for each try, and each try waits a little longer.");
      await person2.client.ready(PATIENCE);
      tell(`Back after ${span(performance.now() - began2)}, with a new ticket. Messages that you wrote meanwhile were sent now.`, "good");
    }
  },
  {
    id: "reuse",
    label: "Use the ticket twice",
    hint: "Tries the address once more that opened your socket.",
    async run(stage, tell) {
      const person2 = stage.person();
      const address = person2.wire.lastTicketUrl;
      if (!address) return tell("This session began without a ticket. Connect by ticket first.", "bad");
      const outcome = await tryToOpen(person2, address);
      if (outcome === "open") return tell("It was let in, which is a fault of Usher.", "bad");
      const target = new URL(address.replace(/^ws/, "http"));
      const answer = await person2.wire.fetch(target.pathname + target.search);
      const body = await answer.json().catch(() => ({}));
      tell(`Refused: ${answer.status} ${body.code ?? ""}. A ticket works once. Your session, which it opened, goes on.`);
    }
  },
  {
    id: "old",
    label: "Use the old way",
    hint: "Puts the token into the address, as many apps do today.",
    async run(stage, tell) {
      const person2 = stage.person();
      const outcome = await tryToOpen(person2, person2.oldAddress());
      if (outcome === "refused") return tell("The old way is closed.");
      const left = remaining(person2.tokenEnds - Date.now());
      tell(
        `It works, and that is the trouble: the token stood in the address, and every log on the way can keep it. It opens everything for another ${left}. A ticket in such a log opens nothing. Usher counts this use as legacy.`
      );
    }
  },
  {
    id: "way",
    label: "Use a first message",
    hint: "Nothing stands in the address: the proof is the first message.",
    async run(stage, tell) {
      const way2 = stage.way() === "auto" ? "message" : "auto";
      await stage.change(way2);
      tell(
        way2 === "message" ? "Connected by first message. Usher took that message out of the stream, and the backend got the same signed header." : "Connected by ticket again.",
        "good"
      );
    }
  },
  {
    id: "revoke",
    label: "Revoke me",
    hint: "Usher ends your sessions at once and refuses your tokens.",
    async run(stage, tell) {
      const answer = await stage.person().order("/control/revoke-me");
      if (!answer.ok) tell("Usher did not take the order.", "bad");
    }
  }
];
function once(person2, event, isMeant = () => true) {
  return new Promise((resolve) => {
    const off = person2.client.on(event, (detail) => {
      if (!isMeant(detail)) return;
      off();
      resolve(detail);
    });
  });
}
function tryToOpen(person2, address) {
  return new Promise((resolve) => {
    const socket = new person2.wire.WebSocket(address);
    socket.onmessage = () => {
      socket.close(1e3);
      resolve("open");
    };
    socket.onclose = () => resolve("refused");
  });
}
function showControls(stage) {
  const story = byId("story");
  let latest = 0;
  const buttons = CONTROLS.map((control) => {
    const hintId = `hint-${control.id}`;
    const button = build("button", { type: "button", id: `do-${control.id}` }, control.label);
    button.setAttribute("aria-describedby", hintId);
    button.addEventListener("click", async () => {
      if (button.ariaDisabled === "true") return;
      const mine = ++latest;
      const tell = (text, kind = "plain") => {
        if (mine !== latest) return;
        story.hidden = false;
        story.dataset["kind"] = kind;
        setText(story, text);
      };
      tell(`${control.label}…`);
      button.ariaDisabled = "true";
      try {
        await control.run(stage, tell);
      } catch (error) {
        tell(`That went wrong: ${error.message}`, "bad");
      } finally {
        button.ariaDisabled = "false";
      }
      if (control.id === "way") setText(button, stage.way() === "auto" ? control.label : "Use a ticket again");
    });
    return build("li", {}, button, build("p", { id: hintId }, control.hint));
  });
  byId("controls").replaceChildren(...buttons);
}
function clearStory() {
  byId("story").hidden = true;
  setText(byId("story"), "");
}

// log.ts
var KEPT = 300;
var SHOWN = 8;
var list = byId("log");
var older = byId("older");
var shown = SHOWN;
var FROM = { page: "this page", usher: "Usher", backend: "backend" };
var MARK = { ok: "✓", plain: "·", refused: "✕", lost: "!" };
function addLine(line) {
  const head = [
    build("time", { class: "at" }, preciseTimeOf(line.at)),
    build("span", { class: `mark ${line.kind}`, ariaHidden: "true" }, MARK[line.kind]),
    build("span", { class: "title" }, line.title, build("small", {}, build("b", {}, line.who), ` ${line.wire}`)),
    line.result !== void 0 && build("span", { class: `result ${line.kind}` }, line.result)
  ];
  const item = build("li", { data: { kind: line.kind, from: FROM[line.from] } });
  if (line.body) {
    item.append(build("details", {}, build("summary", {}, ...head), build("pre", { tabIndex: 0 }, line.body)));
  } else {
    item.append(build("div", { class: "plain-line" }, ...head));
  }
  list.prepend(item);
  while (list.children.length > KEPT) list.lastElementChild?.remove();
  update();
}
var hasLines = () => list.children.length > 0;
function update() {
  ;
  [...list.children].forEach((item, index) => item.hidden = index >= shown);
  older.hidden = list.children.length <= shown;
}
older.addEventListener("click", () => {
  const first = list.children[shown];
  shown += SHOWN;
  update();
  const target = first?.querySelector("summary") ?? byId("log-card");
  target.focus();
});

// picture.ts
var LABELS = {
  disconnected: "Disconnected",
  connecting: "Connecting…",
  authenticating: "Authenticating…",
  authenticated: "Authenticated",
  reconnecting: "Reconnecting…"
};
var labelOf = (state) => LABELS[state];
function showPicture(picture) {
  const lights = { "box-page": picture.page, "wire-front": picture.front, "box-usher": picture.usher, "wire-back": picture.back, "box-backend": picture.backend };
  for (const [id, light] of Object.entries(lights)) byId(id).dataset["light"] = light;
  ["box-page-note", "box-usher-note", "box-backend-note"].forEach((id, index) => setText(byId(id), picture.notes[index] ?? ""));
  ["wire-front", "wire-back"].forEach((id, index) => {
    const tag = byId(id).querySelector(".tag");
    if (tag) setText(tag, picture.tags[index] ?? "");
  });
  setText(byId("caption"), picture.caption);
}
function runAlong(direction) {
  for (const id of ["wire-front", "wire-back"]) {
    const dot = build("span", { class: `dot ${direction}` });
    dot.addEventListener("animationend", () => dot.remove());
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    byId(id).append(dot);
  }
}
var since = performance.now();
function showState({ state, previous }) {
  const took = performance.now() - since;
  since = performance.now();
  const pill = byId("state");
  pill.dataset["state"] = state;
  setText(pill, LABELS[state]);
  for (const item of byId("states").children) {
    const name = item.dataset["state"];
    if (name === state) item.setAttribute("aria-current", "step");
    else item.removeAttribute("aria-current");
    const small = item.querySelector("small");
    if (small && name === previous && name !== "disconnected") setText(small, span(took));
    if (small && state === "connecting" && previous === "disconnected") small.textContent = "";
  }
}

// pane.ts
var KEPT2 = 100;
var Pane = class {
  element;
  input;
  #person;
  #wasHere = false;
  #isGuest;
  #list = build("ol");
  #scroller = build("div", { class: "messages", role: "log", tabIndex: 0 }, this.#list);
  #state = build("span", { class: "pill small" });
  #waiting = build("p", { class: "waiting", role: "status", hidden: true });
  #send;
  constructor({ person: person2, onLeave, onSent }) {
    this.#person = person2;
    const { name } = person2;
    const isGuest = onLeave !== void 0;
    this.#scroller.ariaLabel = `Messages that ${name} sees`;
    this.input = build("input", { autocomplete: "off", maxLength: 2e3, ariaLabel: `Message from ${name}` });
    this.#send = build("button", { type: "submit" }, "Send");
    this.#isGuest = isGuest;
    const form = build("form", { class: "row" }, this.input, this.#send);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit(onSent);
    });
    const leave = build("button", { type: "button", class: "quiet" }, "Send away");
    leave.ariaLabel = `Send away ${name}`;
    leave.addEventListener("click", () => onLeave?.());
    this.element = build(
      "section",
      { class: "pane", ariaLabel: `${name}'s side`, data: { name } },
      build("header", {}, build("h3", {}, name, !isGuest && build("small", {}, " (you)")), this.#state, isGuest && leave),
      this.#scroller,
      this.#waiting,
      form
    );
    new ResizeObserver(() => this.#scrollToEnd()).observe(this.#scroller);
    this.follow(person2);
  }
  /** Shows another client of the same person. */
  follow(person2) {
    this.#person = person2;
    person2.client.on("state", ({ state }) => this.#person === person2 && this.#show(state));
    person2.client.on("message", (message) => this.#receive(message));
    person2.client.on("drop", ({ count }) => {
      this.#say("note", `${count === 1 ? "A message was" : `${count} messages were`} not sent: it waited too long, or the connection ended.`);
      this.#showWaiting();
    });
    this.#show(person2.client.state);
  }
  #show(state) {
    this.#state.dataset["state"] = state;
    setText(this.#state, labelOf(state));
    const isOut = state === "disconnected";
    const hadFocus = document.activeElement === this.input || document.activeElement === this.#send;
    this.#send.className = !this.#isGuest && state === "authenticated" ? "primary" : "";
    this.input.disabled = this.#send.disabled = isOut;
    this.input.placeholder = isOut ? "Connect first" : state === "authenticated" ? "Say something" : "Waits for the connection";
    if (hadFocus && isOut) keepFocus(this.#scroller);
    this.#showWaiting();
  }
  #showWaiting() {
    const { queued } = this.#person.client;
    this.#waiting.hidden = queued === 0;
    setText(this.#waiting, queued ? `${queued === 1 ? "1 message waits" : `${queued} messages wait`} for the connection.` : "");
  }
  #submit(onSent) {
    const text = this.input.value.trim();
    if (!text) return;
    const outcome = this.#person.client.send({ type: "chat", text });
    if (outcome === "dropped") this.#say("note", "Not sent: too many messages wait already.");
    else this.input.value = "";
    if (outcome === "sent") onSent?.();
    this.#showWaiting();
  }
  #receive(message) {
    switch (message.type) {
      case "welcome":
        this.#showWaiting();
        this.#say("note", this.#wasHere ? "Connected again." : `The backend knows you as ${message.you}.`);
        this.#wasHere = true;
        return;
      case "chat":
        return this.#say(message.from === this.#person.name ? "own" : "other", message.text, message.from);
      case "joined":
        return message.from === this.#person.name ? void 0 : this.#say("note", `${message.from} came in.`);
      case "left":
        return message.from === this.#person.name ? void 0 : this.#say("note", `${message.from} left.`);
      case "missed":
        return this.#say("note", `${message.count} messages were missed.`);
      case "rejected":
        return this.#say("note", `The backend did not take that: ${message.text}.`);
    }
  }
  #say(kind, text, from) {
    const item = build("li", { class: kind }, from !== void 0 && build("b", { class: "from" }, from), text);
    this.#list.append(item);
    while (this.#list.children.length > KEPT2) this.#list.firstElementChild?.remove();
    this.#scrollToEnd();
  }
  #scrollToEnd() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }
};

// ../src/errors.ts
var UsherError = class extends Error {
  name = "UsherError";
  recoverable = true;
  constructor(message, facts) {
    super(message);
    Object.assign(this, facts);
  }
};
var UnauthorizedError = class extends Error {
  name = "UnauthorizedError";
  recoverable = false;
  /** @internal The reason of the state that follows. */
  _reason = "unauthorized";
};
var fault = (code, facts) => new UsherError(facts?.message ?? code, {
  code: code.toUpperCase(),
  requestId: facts?.request_id,
  ...facts
});

// ../src/machine.ts
function plan(kind, attempt, hint, wish, { min = 500, max = 3e4, factor = 2, jitter = 1 } = {}, random = Math.random()) {
  if (!(wish ?? !/normal|denied|replaced|timeout/.test(kind))) return;
  if (kind === "rejected" && !attempt) return 0;
  if (kind === "going_away" && hint) return hint * random;
  const bound = Math.max(Math.min(max, min * factor ** attempt), kind === "busy" ? max / 2 : 0);
  return hint + bound * (1 - jitter * random);
}

// ../src/queue.ts
function createQueue({ maxMessages = 100, maxBytes = 1 << 20, ttl = 3e4, overflow } = {}, emit) {
  const waiting = [];
  function drop(reason, isDropped = () => true) {
    let count = 0;
    for (; waiting[0] && isDropped(); count++) waiting.shift();
    if (count) emit("drop", { count, reason });
  }
  return {
    _waiting: waiting,
    _drop: drop,
    _push(_data, isStopped) {
      const message = { _data };
      const isFull = () => waiting.length >= maxMessages || new Blob([...waiting, message].map((one) => one._data)).size > maxBytes;
      if (overflow === "drop-oldest" && new Blob([_data]).size <= maxBytes) {
        drop("overflow", isFull);
      }
      if (isStopped || isFull()) {
        if (overflow === "throw" && !isStopped) throw fault("queue_full");
        emit("drop", { count: 1, reason: isStopped ? "stopped" : "overflow" });
        return "dropped";
      }
      waiting.push(message);
      const isFirst = () => waiting[0] === message;
      setTimeout(drop, Math.min(ttl, 1e9), "expired", isFirst).unref?.();
      return "queued";
    }
  };
}

// ../src/codes.ts
var KINDS = [
  ["going_away", /^(1001|1012)/],
  ["unavailable", /^(1011|1013|1014|4503)/],
  ["busy", /^(1008 Too many messages|1008 Too many sessions|4429)/],
  ["rejected", /^(4401|4403 Invalid token|4408)/],
  ["denied", /^(1008 Missing permission|4400|4403)/],
  ["replaced", /^(1008 Session replaced|4409)/],
  ["normal", /^1000/],
  ["rejected", /^1008/],
  ["network", /^/]
];

// ../src/verdict.ts
function judge(code, reason, recoverable) {
  const [kind] = KINDS.find(([, pattern]) => pattern.test(code + " " + reason));
  if (recoverable && kind === "denied") return "rejected";
  return recoverable === false && kind !== "replaced" ? "denied" : kind;
}

// ../src/client.ts
var SETTLE = 25;
var TICK = 5e3;
var SLEPT = 9e4;
var REQUEST_TIMEOUT = 3e3;
var ANSWER_PAUSE = 500;
var TRIES = 3;
var FAILURES = 6;
var OPEN_FOR = 3e4;
var sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
function within(ms, work) {
  let timer;
  return Promise.race([work, new Promise((_, reject) => timer = setTimeout(reject, ms))]).catch((error) => {
    throw error ?? fault("no_answer");
  }).finally(() => clearTimeout(timer));
}
function createClient(options) {
  const {
    connectTimeout = 1e4,
    auth = "auto",
    maxRetries,
    getToken,
    getTicket,
    authenticatedWhen,
    codec,
    route
  } = options;
  const scope = globalThis;
  const debug = options.debug === true ? console.debug : options.debug;
  const listeners = /* @__PURE__ */ new Set();
  const waiting = [];
  const queue = createQueue(options.queue, emit);
  let state = "disconnected";
  let lastReason;
  let lastError;
  let run = 0;
  let phase;
  let attempts = 0;
  let timer;
  let aliveAt = 0;
  let need = "initial";
  let token;
  let tokenCall;
  let kept;
  let keptUntil = 0;
  let failures = 0;
  let url;
  let offered = [];
  let isAway = 1;
  let choice;
  let failed = {};
  let socket;
  let method;
  let session;
  let lastUser;
  let refusal;
  let asked = {};
  let isChanging = false;
  function on(event, listener) {
    const entry = [event, listener];
    listeners.add(entry);
    return () => listeners.delete(entry);
  }
  function emit(event, detail, shown3 = detail) {
    if (debug) debug(`usher ${event} ${JSON.stringify(shown3)}`);
    for (const [name, listener] of listeners) {
      if (name === event) new Promise(() => listener(detail));
    }
  }
  function report(error, where = phase) {
    emit("error", { error: lastError = error, phase: where }, [error.name, error.code]);
  }
  function move(to, reason = to, retryInMs) {
    if (state === to) return;
    const previous = state;
    state = to;
    lastReason = reason;
    emit("state", { state: to, previous, reason, attempt: attempts, retryInMs });
    settle();
  }
  function settle() {
    if (!state.endsWith("ing") && !isChanging) for (const done of waiting.splice(0)) done();
  }
  function ready(timeoutMs) {
    const promise = new Promise(
      (resolve, reject) => waiting.push(
        () => state === "disconnected" ? reject(lastError ?? fault("disconnected")) : resolve()
      )
    );
    promise.catch(() => {
    });
    if (state === "authenticated") settle();
    return timeoutMs ? within(timeoutMs, promise) : promise;
  }
  const context = () => ({
    reason: need,
    rejected: need === "rejected" ? token : void 0
  });
  async function renewToken() {
    if (!getToken) return;
    const mine = run;
    const given2 = await (tokenCall ??= within(connectTimeout, getToken(context())).finally(
      () => tokenCall = void 0
    ));
    if (mine === run) {
      if (token !== given2 && !failures) clearTickets();
      token = given2;
    }
  }
  const ask = (path, body) => within(
    REQUEST_TIMEOUT,
    (options.fetch ?? fetch)(new URL(path, url).href.replace(/^ws/, "http"), {
      method: body && "POST",
      body,
      headers: {
        "Content-Type": "application/json",
        ...token && { Authorization: "Bearer " + token }
      },
      // Without a token the cookie of the page is the credential.
      credentials: token ? void 0 : "include"
    }).then(async (response) => {
      isAway = 0;
      const answer2 = await response.json().catch(() => {
      });
      if (response.ok) return answer2;
      throw fault("http", {
        ...answer2,
        status: response.status,
        retryAfterMs: +response.headers.get("Retry-After") * 1e3 || void 0
      });
    })
  );
  async function requestTicket() {
    const began2 = Date.now();
    keptUntil = Infinity;
    emit("ticket", { phase: "requested" });
    try {
      const ticket = await (getTicket ? within(connectTimeout, getTicket(context())) : ask(options.ticketUrl ?? "/websocket/ticket", JSON.stringify({ route })));
      const id = ticket?.ticket_id ?? ticket;
      if (typeof id !== "string") throw fault("no_ticket");
      keptUntil = began2 + (ticket.ttl_seconds ?? 30) * 750;
      failures = 0;
      emit("ticket", { phase: "issued", ms: Date.now() - began2 });
      return id;
    } catch (error) {
      emit("ticket", {
        phase: "failed",
        ms: Date.now() - began2,
        status: error.status,
        code: error.code
      });
      failures = error.status > 428 ? failures + 1 : 0;
      keptUntil = failures >= FAILURES ? began2 + OPEN_FOR : 0;
      throw error;
    }
  }
  function prefetch() {
    if (Date.now() >= keptUntil) kept = void 0;
    return kept ??= requestTicket();
  }
  async function takeTicket(mine = run) {
    const promise = prefetch();
    const id = await promise;
    if (promise === kept) kept = void 0;
    else if (mine === run) return takeTicket();
    return id;
  }
  function clearTickets() {
    if (kept) emit("ticket", { phase: "cleared" });
    kept = void 0;
  }
  async function readMethods() {
    url = new URL(
      await within(
        connectTimeout,
        typeof options.url === "function" ? options.url() : options.url
      ),
      scope.location?.href
    );
    if (auth !== "auto") offered = [auth];
    else if (!offered[0]) {
      const path = options.configUrl ?? "/websocket/config?route=" + (route ?? url.pathname);
      const { method: method2, methods, first_message } = {
        first_message: "json",
        ...await ask(path).catch(() => {
        })
      };
      const able = { ticket: true, message: first_message === "json", subprotocol: getToken };
      offered = Object.keys({ [method2]: 1, ...able }).filter(
        (name) => able[name] && methods?.includes(name) !== false
      );
    }
  }
  async function choose(mine = run) {
    const [method2] = offered;
    if (!method2) throw fault("no_method", { recoverable: false });
    choice = { ...failed, method: method2 };
    failed = {};
    try {
      return method2 === "ticket" || !getToken ? await takeTicket() : void 0;
    } catch (error) {
      const rest = offered.filter(
        (name) => name !== method2 && error.methods?.includes(name) !== false
      );
      const mayRetry = error.status === 401 || failures % TRIES && !error.retryAfterMs;
      if (mine !== run || mayRetry || !rest[0]) throw error;
      failed = { fallbackFrom: method2, reason: error.code };
      offered = rest;
    }
    return choose();
  }
  async function attempt(why, reason = need) {
    release();
    const mine = run;
    need = reason;
    if (options.lifecycle !== false) listen("addEventListener");
    move("connecting", why);
    const steps = { token: renewToken, config: readMethods, ticket: choose, open };
    let result;
    try {
      for (const step in steps) {
        phase = step;
        result = await steps[step](result);
        if (mine !== run) return;
      }
    } catch (error) {
      if (mine === run) fail(error);
    }
  }
  function open(ticket) {
    const by = choice.method;
    const Socket = options.WebSocket ?? scope.WebSocket;
    if (!Socket) throw fault("no_websocket", { recoverable: false });
    if (by === "ticket") url.searchParams.set(options.ticketParameter ?? "ticket", ticket);
    const made = socket = new Socket(
      url.href.replace(/^http/, "ws"),
      [].concat(
        options.protocols ?? [],
        by !== "subprotocol" ? [] : /[^\w.~-]/.test(token) ? "base64url.bearer.authorization." + btoa(token).replace(/=/g, "").replace(/\+/g, "-").replace(/\//g, "_") : ["bearer", token]
      )
    );
    const guard = (handler) => (event) => made === socket && handler(event);
    made.binaryType = "arraybuffer";
    later(connectTimeout, () => fail(fault("connect_timeout"), "connect_timeout"));
    made.onopen = guard(() => {
      phase = "auth";
      if (by === "message" || authenticatedWhen) {
        later(
          options.authTimeout ?? 5e3,
          () => fail(fault("authentication_timeout"), "authentication_timeout", "timeout")
        );
      } else later(SETTLE, prove);
      if (by === "message") sendAuth(ticket);
      move("authenticating", "opened");
    });
    made.onmessage = guard(receive);
    made.onerror = () => {
    };
    made.onclose = guard(({ code, reason }) => {
      const kind = judge(code, reason, refusal?.recoverable);
      if (state === "connecting" && !isAway && offered[1]) {
        failed = { fallbackFrom: offered.shift(), reason: kind };
      } else isAway = offered = [];
      const hint = parseInt(reason.split("retry_after_ms=")[1]) || refusal?.details?.retry_after_seconds * 1e3;
      end(kind, kind, hint, { code, reason });
    });
  }
  function later(ms, then) {
    clearTimeout(timer);
    timer = setTimeout(then, Math.min(ms, 1e9));
  }
  function release() {
    run++;
    clearTimeout(timer);
    const old = socket;
    socket = session = refusal = void 0;
    old?.close(1e3);
  }
  function fail(error, reason = phase, kind = judge(4e3 + error.status, "", error.recoverable)) {
    report(error);
    end(kind, error._reason ?? reason, error.retryAfterMs);
  }
  function end(kind, reason, hint, close) {
    const isSpent = attempts >= maxRetries;
    const wish = close && (isChanging || options.shouldReconnect?.({ ...close, kind }));
    const wait = isSpent ? void 0 : plan(kind, attempts, hint || 0, wish, options.backoff);
    isChanging = false;
    if (socket) clearTickets();
    release();
    const mine = run;
    if (close) emit("close", { ...close, kind, fatal: wait === void 0 }, close.code);
    if (mine !== run) return;
    if (wait === void 0) return move("disconnected", isSpent ? "retries_exhausted" : reason);
    need = kind === "rejected" ? kind : "initial";
    attempts++;
    later(wait, () => attempt("retry"));
    move("reconnecting", reason, wait | 0);
  }
  function prove() {
    lastError = void 0;
    phase = "reauth";
    need = "initial";
    method = choice.method;
    watch();
    for (const { _data } of queue._waiting.splice(0)) socket.send(_data);
    emit("method", choice);
    move("authenticated");
  }
  function watch() {
    aliveAt = Date.now();
    later(TICK, () => {
      if (isStale()) return attempt("wake", "expiring");
      attempts = 0;
      watch();
    });
    timer.unref?.();
  }
  const isStale = () => Date.now() - aliveAt > SLEPT;
  function sendAuth(ticket) {
    asked = "" + Math.random();
    socket.send(
      JSON.stringify({
        type: "auth",
        id: asked,
        timestamp: /* @__PURE__ */ new Date(),
        payload: ticket ? { ticket } : { token }
      })
    );
  }
  function receive({ data }) {
    let message = {};
    try {
      if (/"(auth_|error")/.test(data)) message = JSON.parse(data) ?? {};
    } catch {
    }
    const { type, id, payload } = message;
    const { code, recoverable, user, session_id, expires_at } = payload ?? {};
    const isRenewal = state === "authenticated";
    if (type === "error" && recoverable !== void 0) {
      report(refusal = fault(code, payload));
      if (id === asked && isRenewal) {
        emit("reauth", { phase: "failed", code });
        if (recoverable) answer("rejected", need === "rejected");
      }
    } else if (type === "auth_required" && // A question with another expiry may come from a peer, and must get no token.
    (session ? session.expiresAt === expires_at : expires_at)) {
      if (!isRenewal) prove();
      emit("reauth", { phase: "required" });
      answer("auth_required");
    } else if (type === "auth_ok" && id === asked) {
      refusal = void 0;
      if (lastUser && lastUser !== user) queue._drop("identity");
      lastUser = user;
      session = { user, sessionId: session_id, expiresAt: expires_at ?? void 0 };
      if (isRenewal) {
        isChanging = false;
        emit("reauth", { phase: "ok" });
        settle();
      } else prove();
    } else {
      try {
        message = codec ? codec.decode(data) : data;
      } catch (error) {
        return report(error, "decode");
      }
      if (!isRenewal && (!authenticatedWhen || authenticatedWhen(message))) prove();
      if (socket) emit("message", message, "");
    }
  }
  async function answer(reason, isRetry) {
    const mine = ++run;
    try {
      if (isRetry) await sleep(ANSWER_PAUSE);
      if (mine !== run) return;
      need = reason;
      await renewToken();
      const ticket = getToken && (isRetry || method !== "ticket") ? void 0 : await takeTicket();
      if (mine !== run) return;
      sendAuth(ticket);
      emit("reauth", { phase: "sent" });
    } catch (error) {
      if (mine !== run) return;
      if (error.recoverable === false) return fail(error);
      report(error);
      answer(reason, true);
    }
  }
  function wake({ type, persisted }) {
    if (state === "authenticated" ? (
      // No connection survives the network, or the back-forward cache.
      type === "online" || persisted || isStale()
    ) : state === "reconnecting" || lastReason === "authentication_timeout") {
      attempt("wake", "expiring");
    }
  }
  const listen = (verb) => ["online", "pageshow", "visibilitychange"].forEach((name) => scope[verb]?.(name, wake));
  function again(why, reason) {
    attempts = 0;
    if (failures) failures = keptUntil = 0;
    attempt(why, reason);
    return ready();
  }
  return {
    get state() {
      return state;
    },
    get queued() {
      return queue._waiting.length;
    },
    get lastError() {
      return lastError;
    },
    get session() {
      return session;
    },
    get method() {
      return method;
    },
    connect: () => state === "disconnected" ? again("connect", "initial") : ready(),
    disconnect() {
      release();
      listen("removeEventListener");
      isChanging = false;
      queue._drop("stopped");
      clearTickets();
      tokenCall = token = lastError = lastUser = void 0;
      move("disconnected", "disconnect");
    },
    reconnect: () => again("reconnect", "initial"),
    reauthenticate() {
      tokenCall = token = void 0;
      clearTickets();
      queue._drop("identity");
      if (state !== "authenticated" || !options.proactive) {
        return again("reauthenticate", "expiring");
      }
      isChanging = true;
      answer("expiring");
      return ready();
    },
    send(data) {
      const raw = codec ? codec.encode(data) : typeof data === "string" || data?.byteLength >= 0 || data instanceof Blob ? data : JSON.stringify(data);
      if (state === "authenticated") {
        if (isStale()) attempt("wake", "expiring");
        else if (socket.readyState === 1) {
          socket.send(raw);
          return "sent";
        }
      }
      return queue._push(raw, state === "disconnected" && lastReason);
    },
    clearQueue: () => queue._drop("cleared"),
    clearTickets,
    async prefetchTicket() {
      await renewToken();
      await readMethods();
      await prefetch();
    },
    on,
    ready
  };
}

// blank.ts
var SECRET_KEYS = /* @__PURE__ */ new Set(["token", "ticket", "ticket_id", "refresh", "access_token", "authorization"]);
var SECRET_PARAMETERS = /([?&](?:ticket|access_token)=)([^&#]+)/g;
var SIGNED = /\beyJ[\w-]{8,}\.[\w-]+\.[\w-]+/g;
var TIME_KEYS = /* @__PURE__ */ new Set(["exp", "iat", "nbf", "session_exp", "expires_at", "created_at"]);
var MILLIS_FROM = 1e11;
var blanked = (secret) => `‹blanked, ${secret.length} characters›`;
var blankUrl = (url) => url.replace(SECRET_PARAMETERS, (_, key, secret) => key + blanked(secret));
function blank(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    return blankText(text);
  }
  return typeof value === "object" && value ? JSON.stringify(blankValue(value), null, 2) : blankText(text);
}
var blankText = (text) => blankUrl(text).replace(SIGNED, blanked);
function blankValue(value, key = "") {
  if (typeof value === "string") return SECRET_KEYS.has(key.toLowerCase()) ? blanked(value) : blankText(value);
  if (typeof value === "number") return TIME_KEYS.has(key) ? timeOf(value < MILLIS_FROM ? value * 1e3 : value) : value;
  if (Array.isArray(value)) {
    if (value.length === 2 && typeof value[0] === "string") return [value[0], blankValue(value[1], value[0])];
    return value.map((one) => blankValue(one));
  }
  if (typeof value === "object" && value) {
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, blankValue(one, name)]));
  }
  return value;
}

// wire.ts
var TITLES = [
  [/\/login$/, "Logged in"],
  [/\/refresh$/, "Refreshed the token"],
  [/\/websocket\/config/, "Asked Usher which way in to use"],
  [/\/websocket\/ticket$/, "Traded the token for a ticket"],
  [/jwks\.json$/, "Fetched the public keys of Usher"],
  [/\/control\/drop/, "Asked for a cut line"],
  [/\/control\/restart/, "Asked the backend to restart"],
  [/\/control\/revoke/, "Asked for a revocation"],
  [/[?&]ticket=/, "Asked again by plain HTTP, to read the reason"]
];
var REFUSED = [
  [/\/websocket\/ticket$/, "Asked for a ticket and got none"],
  [/\/refresh$/, "Asked for a fresh token and got none"],
  [/\/login$/, "Tried to log in"]
];
var find = (titles, url) => titles.find(([pattern]) => pattern.test(url))?.[1];
function tap(who, note2) {
  let lastTicketUrl;
  let lastMethod = "ticket";
  const line = (from, kind, title, wire, rest = {}) => note2({ who: who(), at: Date.now(), from, kind, title, wire, ...rest });
  const tappedFetch = async (input, init) => {
    const address = new URL(input instanceof Request ? input.url : input, location.href);
    const method = init?.method ?? "GET";
    const wire = `${method} ${blankUrl(address.pathname + address.search)}`;
    const sent = typeof init?.body === "string" ? `sent
${blank(init.body)}

` : "";
    const began2 = performance.now();
    try {
      const response = await fetch(input, init);
      const text = await response.clone().text().catch(() => "");
      const millis = Math.round(performance.now() - began2);
      const kind = response.ok ? "ok" : "refused";
      const title = !response.ok && find(REFUSED, address.pathname) || find(TITLES, address.href) || wire;
      line("page", kind, title, wire, {
        result: `${response.ok ? "" : "refused, "}${response.status} in ${millis} ms`,
        body: `${sent}received
${blank(text)}`
      });
      return response;
    } catch (error) {
      line("page", "lost", find(REFUSED, address.pathname) ?? find(TITLES, address.href) ?? wire, wire, {
        result: "no answer",
        body: `${sent}${error.message}`
      });
      throw error;
    }
  };
  class TappedSocket extends WebSocket {
    constructor(url, protocols) {
      super(url, protocols);
      const address = new URL(String(url), location.href);
      const shown3 = `WebSocket ${blankUrl(address.pathname + address.search)}`;
      if (address.searchParams.has("ticket")) lastTicketUrl = address.href;
      if (address.pathname === "/ws") lastMethod = address.searchParams.has("ticket") ? "ticket" : "message";
      const began2 = performance.now();
      let isOpen = false;
      this.addEventListener("open", () => {
        isOpen = true;
        const millis = Math.round(performance.now() - began2);
        line("page", "ok", "Opened the socket", shown3, { result: `101 in ${millis} ms`, body: openBody(address) });
      });
      this.addEventListener("message", ({ data }) => {
        const [from, title, kind = "plain"] = received(data);
        line(from, kind, title, `${from === "usher" ? "Usher" : "backend"} → page`, { body: blank(String(data)) });
      });
      this.addEventListener("close", ({ code, reason }) => {
        const kind = code === 1e3 ? "plain" : !isOpen || code === 1008 ? "refused" : "lost";
        const title = isOpen ? "The socket closed" : "The socket was not opened";
        line("usher", kind, title, shown3, {
          result: `${!isOpen ? "failed, " : kind === "refused" ? "refused, " : ""}${code}${reason ? ` ${reason}` : ""}`,
          body: code === 1006 ? "A browser does not tell a page more than the number 1006." : void 0
        });
      });
    }
    send(data) {
      super.send(data);
      const text = String(data);
      const isAuth = /"type":\s*"auth"/.test(text);
      line("page", "plain", isAuth ? "Sent a credential in the stream" : "Sent a message", "page → Usher", { body: blank(text) });
    }
  }
  return {
    fetch: tappedFetch,
    WebSocket: TappedSocket,
    get lastTicketUrl() {
      return lastTicketUrl;
    },
    get lastMethod() {
      return lastMethod;
    }
  };
}
function openBody(address) {
  if (address.searchParams.has("ticket")) return "The ticket in the address is used up now.";
  if (address.searchParams.has("access_token")) return "The token in the address still opens everything.";
  return void 0;
}
function received(data) {
  let message;
  try {
    message = JSON.parse(String(data));
  } catch {
    return ["backend", "Received a message"];
  }
  switch (message?.type) {
    case "auth_ok":
      return ["usher", "Usher accepted the credential"];
    case "auth_required":
      return ["usher", "Usher asks for a new credential"];
    case "error":
      return ["usher", `Usher refuses: ${message.payload?.code}`, "refused"];
    case "welcome":
      return ["backend", "The backend greets"];
    case "chat":
      return ["backend", `Received a message from ${message.from}`];
    case "joined":
      return ["backend", `${message.from} came in`];
    case "left":
      return ["backend", `${message.from} left`];
    default:
      return ["backend", "Received a message"];
  }
}

// person.ts
var NEARLY_OVER = 3e3;
var LoginFailed = class extends Error {
};
var Person = class _Person {
  wire;
  client;
  name;
  #token = "";
  #refresh = "";
  /** Milliseconds since 1970. */
  tokenEnds = 0;
  /** The `sid` of the signed context. */
  sessionId = "";
  /** The issuer has ended this login: it cannot be refreshed. */
  hasEnded = false;
  constructor(name, way2, note2) {
    this.name = name;
    this.wire = tap(() => name, note2);
    this.client = createClient({
      url: new URL("/ws", location.href.replace(/^http/, "ws")),
      auth: way2,
      getToken: (context) => this.#freshToken(context),
      proactive: true,
      // Somebody watches: no wait is long.
      backoff: { max: 2e3 },
      fetch: this.wire.fetch,
      WebSocket: this.wire.WebSocket,
      codec: { encode: (data) => JSON.stringify(data), decode: (data) => JSON.parse(String(data)) }
    });
  }
  /** Returns the same login with another way in. */
  by(way2, note2) {
    const other = new _Person(this.name, way2, note2);
    other.#token = this.#token;
    other.#refresh = this.#refresh;
    other.tokenEnds = this.tokenEnds;
    return other;
  }
  async logIn() {
    this.#take(await this.#ask("/login", { name: this.name }));
  }
  /** Takes a token that ends soon. */
  async takeShortToken(seconds) {
    this.#take(await this.#ask("/refresh", { refresh: this.#refresh, lifetime_seconds: seconds }));
  }
  /** Calls one of the demo's controls as this person. */
  async order(path, body = {}) {
    return this.wire.fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: `Bearer ${this.#token}` },
      body: JSON.stringify(body)
    });
  }
  /** The address that puts the token where every log can read it. */
  oldAddress() {
    const address = new URL("/old", location.href.replace(/^http/, "ws"));
    address.searchParams.set("access_token", this.#token);
    return address.href;
  }
  async #freshToken({ reason, rejected }) {
    const isGood = this.#token && this.#token !== rejected && this.tokenEnds - Date.now() > NEARLY_OVER;
    if (reason !== "initial" || !isGood) {
      this.#take(await this.#ask("/refresh", { refresh: this.#refresh }));
    }
    return this.#token;
  }
  #take({ token, expires_in, refresh }) {
    this.#token = token;
    this.#refresh = refresh ?? this.#refresh;
    this.tokenEnds = Date.now() + expires_in * 1e3;
  }
  async #ask(path, body) {
    const response = await this.wire.fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body)
    });
    const answer = await response.json().catch(() => ({}));
    if (response.ok) return answer;
    if (response.status === 401) {
      this.hasEnded = true;
      throw new UnauthorizedError(answer.message);
    }
    throw new LoginFailed(answer.message ?? `the login service answered ${response.status}`);
  }
};

// signature.ts
var ALGORITHMS = {
  EdDSA: { name: "Ed25519" },
  ES256: { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" }
};
var bytesOf = (text) => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (character) => character.charCodeAt(0));
async function verdictOn(compact, fetchIt) {
  if (!compact) return { kind: "bad", text: "There is no X-User-Context header." };
  try {
    const [head = "", claims = "", signature = ""] = compact.split(".");
    const { alg, kid } = JSON.parse(new TextDecoder().decode(bytesOf(head)));
    const algorithm = ALGORITHMS[alg];
    if (!algorithm) return { kind: "wait", text: `Signed with ${alg}, which this page does not check.` };
    const { keys } = await (await fetchIt("/.well-known/usher/jwks.json")).json();
    const found = keys.find((key2) => key2.kid === kid);
    if (!found) return { kind: "bad", text: `No published key is called ${kid}.` };
    const { kty, crv, x, y } = found;
    const key = await crypto.subtle.importKey("jwk", y ? { kty, crv, x, y } : { kty, crv, x }, algorithm, false, ["verify"]);
    const data = new TextEncoder().encode(`${head}.${claims}`);
    const isGood = await crypto.subtle.verify(algorithm, key, bytesOf(signature), data);
    return isGood ? { kind: "good", text: `The signature is good. This page checked it with Usher's public key ${kid}, as your backend would.` } : { kind: "bad", text: "The signature is NOT good." };
  } catch (error) {
    return { kind: "wait", text: `The signature was not checked here: ${error.message}` };
  }
}

// received.ts
var GONE = {
  ticket: "The ticket is gone, this came instead:",
  message: "The first message stayed at Usher, this came instead:",
  query: "The token is gone, this came instead:"
};
var ENDS = "ends";
var sessionEnd = 0;
var renewedUntil = 0;
var shown2;
async function showVisit(visit, fetchIt) {
  shown2 = visit;
  const claims = visit.context ?? {};
  const raw = visit.headers.find(([name]) => name === "x-user-context")?.[1] ?? "";
  const method = String(claims["auth"]?.method ?? "");
  byId("received-none").hidden = true;
  byId("received-some").hidden = false;
  delete byId("received").dataset["stale"];
  const line = byId("request-line");
  line.replaceChildren(`GET ${visit.target}`);
  if (method === "ticket") line.append(build("del", { title: "Usher took it out" }, "?ticket=…"));
  setText(byId("gone"), GONE[method] ?? "The credential is gone, this came instead:");
  showRaw(raw);
  sessionEnd = Number(claims["session_exp"] ?? 0) * 1e3;
  renewedUntil = 0;
  byId("context").replaceChildren(...rows(claims));
  tick();
  const others = visit.headers.filter(([name]) => name !== "x-user-context");
  setText(byId("headers-summary"), `The ${others.length} other headers`);
  byId("headers").replaceChildren(...others.flatMap(([name, value]) => [build("dt", {}, name), build("dd", {}, value)]));
  const check = byId("signature");
  check.dataset["kind"] = "wait";
  setText(check, "Checking the signature…");
  const verdict = await verdictOn(raw, fetchIt);
  if (shown2 !== visit) return;
  check.dataset["kind"] = verdict.kind;
  setText(check, verdict.text);
}
function showStaleVisit() {
  if (!shown2) return;
  shown2 = void 0;
  byId("received").dataset["stale"] = "";
  sessionEnd = 0;
  const check = byId("signature");
  check.dataset["kind"] = "wait";
  setText(check, "That session has ended. The next one brings a new header.");
}
function showNoVisit() {
  shown2 = void 0;
  byId("received-none").hidden = false;
  byId("received-some").hidden = true;
}
function showRenewal(until) {
  renewedUntil = until ?? 0;
  tick();
}
function tick() {
  const cell = byId("context").querySelector(`[data-row=${ENDS}]`);
  if (!cell || !sessionEnd) return;
  const left = sessionEnd - Date.now();
  const own = left > 0 ? `${timeOf(sessionEnd)}, in ${remaining(left)}` : `${timeOf(sessionEnd)}, which has passed`;
  setText(cell, renewedUntil ? `${timeOf(sessionEnd)}. Renewed since, until ${timeOf(renewedUntil)}; the backend need not know` : own);
}
function showRaw(raw) {
  const [head = "", claims = "", signature = ""] = raw.split(".");
  byId("raw").replaceChildren(
    "X-User-Context: ",
    build("span", { class: "jws-head" }, head),
    ".",
    build("span", { class: "jws-claims" }, claims),
    ".",
    build("span", { class: "jws-signature" }, signature)
  );
}
function rows(claims) {
  const auth = claims["auth"] ?? {};
  const request = claims["req"] ?? {};
  const seconds = (value) => timeOf(Number(value) * 1e3);
  const table = [
    ["User", "sub", claims["sub"]],
    ["Proved by", "auth", auth.method && `${auth.method}${auth.issuer ? `, from a login at “${auth.issuer}”` : ""}`],
    ["May", "permissions", claims["permissions"]?.join(", ")],
    ["Session", "sid", claims["sid"]],
    ["Session ends", "session_exp", claims["session_exp"] && seconds(claims["session_exp"]), ENDS],
    ["Signed at", "iat", claims["iat"] && `${seconds(claims["iat"])}, good until ${seconds(claims["exp"])}`],
    ["Signed by, for", "iss, aud", `${claims["iss"]}, ${claims["aud"]}`],
    ["Asked for", "req", request.host && `${request.host}${request.path ?? ""}`],
    ["From", "client", typeof claims["client"] === "object" ? claims["client"]?.ip : claims["client"]]
  ];
  return table.filter(([, , value]) => value).map(
    ([label, claim, value, row = ""]) => build("div", {}, build("dt", {}, label), build("dd", { data: { row } }, String(value)), build("dd", {}, build("code", {}, claim)))
  );
}

// main.ts
var GUESTS = ["bob", "cy"];
var person;
var pane;
var guest;
var guestPane;
var way = "auto";
var hasVisited = false;
var began = 0;
var lastClose;
var ended;
var note = (line) => {
  addLine(line);
  byId("log-card").hidden = !hasLines();
  showNeeds();
};
async function logIn(name) {
  showNotice("");
  const next = new Person(name, way, note);
  try {
    await next.logIn();
  } catch (error) {
    const text = error instanceof LoginFailed ? error.message : "The login service does not answer.";
    return showNotice(`Not logged in: ${text}`);
  }
  leaveAll();
  person = next;
  ended = lastClose = void 0;
  follow(next);
  history.replaceState(null, "", `/?as=${encodeURIComponent(name)}`);
  render("in");
  byId("connect").focus();
}
function logOut() {
  leaveAll();
  ended = "logged out";
  render("out");
  byId("name").focus();
}
function leaveAll() {
  person?.client.disconnect();
  dismissGuest();
  person = void 0;
  pane = void 0;
  hasVisited = false;
  byId("people").replaceChildren();
  showNoVisit();
  clearStory();
}
async function connect() {
  if (!person) return;
  const { client } = person;
  showNotice("");
  began = performance.now();
  await client.connect().catch(() => {
  });
}
function disconnect() {
  person?.client.disconnect();
  byId("connect").focus();
}
async function changeWay(to) {
  if (!person) return;
  const before = person;
  way = to;
  person = before.by(to, note);
  follow(person);
  pane?.follow(person);
  before.client.disconnect();
  began = performance.now();
  await person.client.connect();
}
function follow(one) {
  const { client } = one;
  const isCurrent = () => person === one;
  client.on("state", (event) => isCurrent() && changed(event));
  client.on("close", (info) => isCurrent() && (lastClose = info));
  client.on("message", (message) => isCurrent() && received2(one, message));
  client.on("reauth", ({ phase }) => {
    if (isCurrent() && phase === "ok") {
      showRenewal(client.session?.expiresAt ?? one.tokenEnds);
      renderSteps();
    }
  });
  client.on("method", ({ method, fallbackFrom, reason }) => {
    if (!fallbackFrom) return;
    note({
      who: one.name,
      at: Date.now(),
      from: "page",
      kind: "plain",
      title: `Fell back from ${fallbackFrom} to ${method}`,
      wire: `the reason: ${reason ?? "unknown"}`
    });
  });
  client.on("error", ({ error, phase }) => {
    if (isCurrent() && phase === "token" && !one.hasEnded) showNotice(`No token: ${error.message}`);
  });
}
function received2(one, message) {
  if (message.type === "welcome") {
    one.sessionId = String(message.context?.["sid"] ?? "");
    void showVisit(message, one.wire.fetch);
  }
  if (message.type === "chat" && message.from !== one.name) runAlong("in");
}
function changed(event) {
  const { state } = event;
  showState(event);
  if (state === "authenticated") {
    hasVisited = true;
    ended = lastClose = void 0;
    showNotice("");
    showPane();
    setText(byId("connect-done"), `Connected by ${person?.client.method === "message" ? "first message" : "ticket"} in ${span(performance.now() - began)}.`);
  } else if (state === "disconnected") {
    showNoVisit();
  } else if (event.previous === "authenticated") {
    showStaleVisit();
  }
  if (event.previous === "authenticated") began = performance.now();
  if (state === "disconnected") endedBy(event);
  const phase = ended ? "out" : state === "disconnected" ? "in" : "live";
  render(phase);
  if (state === "authenticated" && event.previous !== "reconnecting") {
    keepFocus(pane?.input ?? byId("steps"));
  } else if (state === "disconnected") {
    keepFocus(ended ? byId("name") : byId("connect"));
  }
}
function endedBy({ reason }) {
  if (reason === "unauthorized" || lastClose?.reason === "Session revoked") {
    ended = "revoked";
    showNotice("Usher ended your session: it was revoked. Your token opens nothing now. Log in again to get a new one.");
  } else if (reason === "replaced") {
    showNotice("Another connection of yours took the place of this one.");
  } else if (reason !== "disconnect") {
    showNotice(`The connection ended and is not tried again (${reason.replaceAll("_", " ")}).`);
  }
}
async function invite() {
  const name = GUESTS.find((guest2) => guest2 !== person?.name) ?? "bob";
  guest = new Person(name, "auto", note);
  guestPane = new Pane({ person: guest, onLeave: () => {
    dismissGuest();
    renderSteps();
    keepFocus(byId("invite"));
  } });
  byId("people").append(guestPane.element);
  renderSteps();
  try {
    await guest.logIn();
    await guest.client.connect();
    guestPane.input.focus({ preventScroll: true });
  } catch (error) {
    showNotice(`${name} could not come in: ${error.message}`);
  }
}
function dismissGuest() {
  guest?.client.disconnect();
  guestPane?.element.remove();
  guest = guestPane = void 0;
}
function showPane() {
  if (pane || !person) return;
  pane = new Pane({ person, onSent: () => runAlong("out") });
  byId("people").prepend(pane.element);
}
function render(phase) {
  document.body.dataset["phase"] = phase;
  if (phase === "out" && ended === "revoked") setText(byId("login"), "Log in again");
  else setText(byId("login"), "Log in");
  renderSteps();
  showPicture(pictureOf(phase, person?.client.state ?? "disconnected"));
  byId("chat").hidden = byId("received").hidden = !hasVisited;
  byId("break").hidden = phase !== "live" || !hasVisited;
  showNeeds();
}
function renderSteps() {
  const phase = document.body.dataset["phase"];
  const state = person?.client.state ?? "disconnected";
  const isIn = phase !== "out";
  const isOpen = state === "authenticated";
  setStep("step-login", isIn ? "done" : "now");
  setStep("step-connect", isOpen ? "done" : isIn ? "now" : "later");
  setStep("step-chat", isOpen ? "now" : "later");
  byId("login-form").hidden = isIn;
  if (isIn && person) setText(byId("login-done"), `You are ${person.name}, with a token until ${timeOf(person.tokenEnds).slice(0, 5)}.`);
  byId("connect").hidden = state !== "disconnected";
  const busy = byId("connect-busy");
  busy.hidden = state === "disconnected" || isOpen;
  setText(busy, state === "reconnecting" || lastClose ? "Trying again…" : "Connecting…");
  byId("cancel").hidden = state === "disconnected";
  byId("invite").hidden = guest !== void 0;
  setText(byId("invite"), `Bring in ${GUESTS.find((name) => name !== person?.name) ?? "bob"}`);
  byId("second-tab").href = `/?as=${GUESTS.find((name) => name !== person?.name) ?? "bob"}`;
}
function setStep(id, to) {
  const step = byId(id);
  step.dataset["step"] = to;
  if (to === "now") step.setAttribute("aria-current", "step");
  else step.removeAttribute("aria-current");
  for (const [selector, when] of [[".act", "now"], [".done", "done"]]) {
    const part = step.querySelector(selector);
    if (part) part.hidden = to !== when;
  }
}
function showNeeds() {
  for (const link of document.querySelectorAll("nav a")) {
    const target = document.querySelector(link.hash);
    link.hidden = target?.hidden ?? true;
  }
}
function showNotice(text) {
  const notice = byId("notice");
  notice.hidden = !text;
  setText(notice, text);
}
function pictureOf(phase, state) {
  const name = person?.name ?? "";
  const isMessage = state === "connecting" ? way === "message" : person?.wire.lastMethod === "message";
  const tags = [isMessage ? "first message" : "ticket", "signed header"];
  const base = {
    page: "off",
    front: "off",
    usher: "off",
    back: "off",
    backend: "off",
    notes: ["not logged in", "has no session", "has no user"],
    tags,
    caption: "You are not logged in yet. Usher lets nothing through without proof."
  };
  if (phase === "out") {
    if (ended !== "revoked") return base;
    const notes = ["revoked", `refuses ${name}`, "has no user"];
    return { ...base, page: "off", front: "cut", usher: "on", notes, caption: "Usher closed both sides of your session. Tickets and tokens of this login are refused from now on." };
  }
  const on = { ...base, page: "on", notes: [`${name}, with a token`, "waits for a proof", "has no user"] };
  switch (state) {
    case "disconnected":
      return { ...on, caption: "The page has a token. It does not put that into an address: it trades it for a ticket first." };
    case "connecting":
      return { ...on, front: "busy", usher: "busy", notes: [name, "checks the proof", "has no user"], caption: isMessage ? "The page opens the socket with nothing in the address." : "The page gets a ticket and opens the socket with it." };
    case "authenticating":
      return { ...on, front: "on", usher: "on", back: "busy", notes: [name, `knows ${name}`, "is being told"], caption: isMessage ? "Usher reads the first message, and tells the backend who it is." : "Usher took the ticket out of the address, and tells the backend who it is." };
    case "authenticated":
      return { ...on, front: "on", usher: "on", back: "on", backend: "on", notes: [name, `knows ${name}`, `knows ${name}`], caption: `Connected. The backend knows you as ${name}, and has never seen the ${isMessage ? "token" : "ticket"}.` };
    case "reconnecting": {
      const isBack = lastClose?.kind === "unavailable";
      const told = lastClose ? ` (${lastClose.code}${lastClose.reason ? ` ${lastClose.reason}` : ""})` : "";
      return { ...on, front: "cut", back: isBack ? "cut" : "off", usher: "off", notes: [name, "waits for a proof", isBack ? "gone" : "has no user"], caption: `The connection is gone${told}. The page tries again by itself, and never with a ticket that it has used.` };
    }
  }
}
byId("login-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = byId("name").value.trim();
  if (name) void logIn(name);
});
byId("logout").addEventListener("click", logOut);
byId("connect").addEventListener("click", () => void connect());
byId("cancel").addEventListener("click", disconnect);
byId("disconnect").addEventListener("click", disconnect);
byId("invite").addEventListener("click", () => void invite());
setInterval(tick, 1e3);
showControls({
  person: () => person,
  change: changeWay,
  way: () => way
});
var given = new URLSearchParams(location.search).get("as");
if (given) byId("name").value = given.slice(0, 40);
showNoVisit();
render("out");
byId("name").focus();
byId("name").select();
Object.defineProperty(globalThis, "usher", { value: { get client() {
  return person?.client;
} } });
