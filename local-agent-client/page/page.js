// The local page: shows what the agent's control server tells, and asks it for changes. What browsers
// said of themselves while pairing is text from outside: it goes into the page as text only.

const at = (id) => document.getElementById(id);
const show = (element, yes) => { element.hidden = !yes; };
const put = (element, text) => { if (element.textContent !== text) element.textContent = text; };

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

// The code that this page asked for; the server tells it once, and only to whoever asked.
let own = null;
let state = null;
let ahead = 0;
let chosen = null;

function closed(why) {
  if (why) put(at("closed-why"), why);
  show(at("closed"), true);
  show(at("open"), false);
  put(at("connection"), "");
}

async function ask(method, path, body) {
  const response = await fetch(path, {
    method,
    headers: body === undefined ? {} : { "content-type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (response.status === 204) return null;
  const answer = await response.json();
  if (!response.ok) {
    if (response.status === 401) closed("This page's session is over.");
    throw new Error(answer.detail);
  }
  return answer;
}

const now = () => Date.now() / 1000 + ahead;

function span(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

const when = (time) => new Date(time * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });

const outcomes = {
  paired: (o) => `Paired: ${o.name}. Both ends show the fingerprint ${o.fingerprint}.`,
  failed_guess: () => "A wrong code was tried, and the code is void. If that was not you mistyping, somebody guessed; nobody was let in.",
  expired: () => "The code expired unused.",
  replaced: () => "The code was replaced by a newer one.",
  withdrawn: () => "The code is void.",
  issuer_revoked: () => "The code is void: the browser that asked for it was revoked.",
  not_added: (o) => `The code was right, but the browser could not be paired: ${o.reason}.`,
};

function drawQr(rows) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${rows.length} ${rows.length}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", "QR code of the link");
  svg.setAttribute("shape-rendering", "crispEdges");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  const dark = rows.flatMap((row, y) => [...row].map((cell, x) => (cell === "1" ? `M${x} ${y}h1v1h-1z` : "")));
  path.setAttribute("d", dark.join(""));
  svg.append(path);
  at("qr").replaceChildren(svg);
}

function renderCode() {
  const mine = own !== null && state?.code?.number === own.number;
  if (own !== null && !mine) {
    const end = state?.ended.findLast((end) => end.number === own.number);
    if (end) {
      put(at("outcome"), outcomes[end.outcome]?.(end) ?? "The code has ended.");
      own = null;
      at("digits").replaceChildren();
      if (document.activeElement === document.body) at("show").focus();
    }
  }
  show(at("shown"), own !== null);
  show(at("idle"), own === null);
  show(at("elsewhere"), own === null && Boolean(state?.code));
  if (own !== null) {
    const left = Math.max(0, Math.floor(own.expires_at - now()));
    put(at("left"), `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")} left`);
  }
}

function renderBrowsers() {
  show(at("none"), state.browsers.length === 0);
  // Kept while nothing changed, so that the focus stays where it is.
  const list = at("browsers");
  const key = JSON.stringify(state.browsers);
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(...state.browsers.map((browser) => {
    const told = [browser.browser, browser.os, browser.device].filter(Boolean).join(", ");
    const button = (text, dialog) => {
      const made = make("button", { type: "button", textContent: text });
      made.setAttribute("aria-label", `${text} ${browser.name}`);
      made.addEventListener("click", () => dialog(browser));
      return made;
    };
    return make("li", {},
      make("div", {},
        make("strong", { textContent: browser.name }),
        make("div", { className: "quiet", textContent: told }),
        make("div", { className: "quiet print", textContent: browser.fingerprint }),
        make("div", { className: "quiet", textContent: `paired ${when(browser.created_at)}, last used ${when(browser.last_used_at)}` })),
      make("div", { className: "buttons" }, button("Rename", askName), button("Revoke", askRevoke)));
  }));
}

/** The peers that reach this machine past the relay, in words. */
function paths({ webrtc, peers }) {
  if (!webrtc) return "off";
  const open = peers.filter((peer) => peer.open && peer.path);
  if (open.length === 0) return "none now";
  return open.map(({ browser, path }) => {
    const name = state.browsers.find(({ id }) => id === browser)?.name ?? browser;
    const kind = path.local === "relay" || path.remote === "relay" ? "through a TURN server" : "direct";
    return `${name}: ${kind} (${path.local} to ${path.remote}${path.rtt_ms === null ? "" : `, ${path.rtt_ms} ms`})`;
  }).join("; ");
}

/** The agent's connections, in words; nothing when there is only one, of which the rest tells. */
function connections({ connections }) {
  if (connections.length < 2) return [];
  return connections.map((connection, index) => {
    const relay = `${connection.relay ?? "no relay yet"}${connection.relay_id ? ` (${connection.relay_id})` : ""}`;
    const rtt = connection.rtt_ms === null ? "" : `, ${connection.rtt_ms} ms`;
    const next = connection.next_retry_at === null ? "connecting" : `next attempt in ${span(connection.next_retry_at - state.now)}`;
    const error = connection.last_error ? `; ${connection.last_error.message}` : "";
    const how = connection.connected ? `up for ${span(state.now - connection.since)}${rtt}` : `down, ${next}${error}`;
    return [`Connection ${index + 1}`, `${relay}: ${how}`];
  });
}

function renderFacts() {
  const { status } = state;
  const up = at("connection");
  put(up, status.connected ? "connected" : "not connected");
  up.className = status.connected ? "up" : "down";
  const facts = [
    ["Relay", status.relay],
    ["Host", status.host_id ? `${status.name} (${status.host_id})` : status.name],
    ["Serves", status.local],
    ["Lets through", status.trust === "paired" ? "what paired browsers signed" : "all that the relay authorised"],
    ["Connected", status.connected_since ? `for ${span(state.now - status.connected_since)}` : "no"],
    ...connections(status),
    ["Requests", `${status.requests.total} (${status.requests.active} under way)`],
    ["Direct paths", paths(status)],
    ["Last error", status.last_error ? `${when(status.last_error.at)}: ${status.last_error.message}` : "none"],
    ["Wrong codes", state.failed_guesses.count === 0 ? "none" : `${state.failed_guesses.count}, the last ${when(state.failed_guesses.last_at)}`],
    ["Version", status.version],
  ];
  at("facts").replaceChildren(...facts.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]));
  const { count, last_at } = state.failed_guesses;
  show(at("alarm"), count > 0);
  if (count > 0) {
    put(at("alarm"), `A wrong pairing code was tried ${count === 1 ? "once" : `${count} times`}, last on ${when(last_at)}. Each attempt voided its code, and nobody was let in.`);
  }
}

function render() {
  show(at("closed"), false);
  show(at("open"), true);
  renderFacts();
  renderBrowsers();
  renderCode();
}

async function showCode() {
  put(at("pair-error"), "");
  put(at("outcome"), "");
  at("show").disabled = true;
  try {
    const code = await ask("POST", "api/code");
    own = code;
    // The event that tells of it may still be under way.
    if (state) state.code = { number: code.number, expires_at: code.expires_at };
    put(at("digits"), `${code.code.slice(0, 3)} ${code.code.slice(3)}`);
    at("digits").setAttribute("aria-label", [...code.code].join(" "));
    at("link").href = code.link;
    put(at("link"), code.link);
    drawQr(code.qr);
    renderCode();
    at("digits").focus();
  } catch (error) {
    put(at("pair-error"), error.message);
  } finally {
    at("show").disabled = false;
  }
}

function askName(browser) {
  chosen = browser;
  at("rename-name").value = browser.name;
  put(at("rename-error"), "");
  at("rename").showModal();
  at("rename-name").select();
}

function askRevoke(browser) {
  chosen = browser;
  put(at("revoke-text"), `“${browser.name}” loses access at once, and what it has open ends. To use it again you pair it anew.`);
  put(at("revoke-error"), "");
  at("revoke").showModal();
}

async function settle(dialog, work) {
  try {
    await work();
    dialog.close();
  } catch (error) {
    put(dialog.querySelector(".error"), error.message);
  }
}

const rename = () => settle(at("rename"), () => ask("PATCH", `api/browsers/${chosen.id}`, { name: at("rename-name").value }));
const revoke = () => settle(at("revoke"), async () => {
  await ask("DELETE", `api/browsers/${chosen.id}`);
  // The button that opened the dialog goes with its browser; the focus needs another place.
  at("revoke").addEventListener("close", () => at("browsers-title").focus(), { once: true });
});

function listen() {
  const events = new EventSource("api/events");
  events.onmessage = (event) => {
    state = JSON.parse(event.data);
    ahead = state.now - Date.now() / 1000;
    render();
  };
  events.onerror = async () => {
    put(at("connection"), "the agent does not answer");
    at("connection").className = "down";
    if (events.readyState !== EventSource.CLOSED) return;
    // Refused for good: the session is over, or another agent runs here now.
    const response = await fetch("api/state").catch(() => null);
    if (response?.status === 401) closed("This page's session is over.");
    else setTimeout(listen, 2000);
  };
}

async function start() {
  if (location.pathname !== "/") return listen();
  const key = location.hash.slice(1);
  // The key is used once; it has no business in the history.
  history.replaceState(null, "", "/");
  if (!key) return closed();
  try {
    const { path } = await ask("POST", "/session", { key });
    location.replace(path);
  } catch (error) {
    closed(error.message);
  }
}

at("show").addEventListener("click", showCode);
at("withdraw").addEventListener("click", () => ask("DELETE", "api/code").catch((error) => put(at("pair-error"), error.message)));
at("rename-do").addEventListener("click", rename);
at("rename-name").addEventListener("keydown", (event) => { if (event.key === "Enter") rename(); });
at("revoke-do").addEventListener("click", revoke);
for (const button of document.querySelectorAll("[data-close]")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}
setInterval(renderCode, 500);
start();
