// The console of one desktop: waits until it is ready, opens it, keeps it open, and says why when it closes.

import { press, SPECIAL, type } from "./keys.js";

const root = document.getElementById("console");
const screen = document.getElementById("screen");
const wait = document.getElementById("wait");
const status = document.getElementById("status");
const CONNECT = root.dataset.connect;
const PROGRESS = root.dataset.progress;
const PROTOCOL = `protocol-${root.dataset.desktop}`;
const LINE_MS = 20000;  // how often a thin client asks whether its line still stands
const SILENCE_MS = 10000;  // no answer for so long: it does not
const RETRIES = "endless" in root.dataset ? Infinity : 6;  // a thin client has nobody who could press a button

// How the screen can be shown; the code of the one that is not needed is not fetched.
const CLIENTS = { novnc: () => import("./vnc.js"), spice: () => import("./spice.js") };

let session = null;
let attempts = 0;
let leaving = false;
let asking = false;
let opened = false;
let steady = null;
let moving = false;  // the person wants the console that is open elsewhere to move here

function show(name) {
  root.dataset.view = name;
  wait.hidden = name !== "wait";
  for (const button of root.querySelectorAll("[data-needs-screen]")) button.disabled = name !== "screen";
}

function say(text) { status.textContent = text; }

// ---- waiting -----------------------------------------------------------------------------------------------
async function progress() {
  if (leaving || root.dataset.view === "screen") return;
  const answer = await fetch(PROGRESS, { headers: { "HX-Request": "true" } }).catch(() => null);
  if (leaving || root.dataset.view === "screen") return;
  if (answer === null || answer.status >= 500) { say("Leasehold does not answer. Trying again …"); return; }
  if (answer.headers.get("HX-Refresh")) { location.reload(); return; }
  paint(await answer.text());
  if (wait.firstElementChild?.dataset.state === "ready") open();
}

function paint(html) {
  const fresh = document.createElement("template");
  fresh.innerHTML = html;
  const held = document.activeElement && wait.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  if (wait.innerHTML !== fresh.innerHTML) {
    wait.replaceChildren(fresh.content);
    if (held) wait.querySelector(`[data-key="${held}"]`)?.focus();
  }
  root.dispatchEvent(new CustomEvent("console-progress", { detail: wait.firstElementChild?.dataset.state }));
}

// A sentence in place of the screen, with a way on.
function stop(title, text, { again = true, move = false } = {}) {
  leaving = true;
  const card = document.getElementById("stopped").content.cloneNode(true);
  card.querySelector("[data-title]").textContent = title;
  card.querySelector("[data-text]").textContent = text;
  const button = card.querySelector("[data-again]");
  if (move) button.querySelector(".pf-v6-c-button__text").textContent = "Move it here";
  if (again) button.addEventListener("click", () => { leaving = false; attempts = 0; moving = move; begin(); }); else button.remove();
  wait.replaceChildren(card);
  show("wait");
  say(title);
  wait.querySelector("h1").focus();
  root.dispatchEvent(new CustomEvent("console-stopped"));
}

// ---- opening ------------------------------------------------------------------------------------------------
async function open() {
  if (asking || session) return;
  asking = true;
  try {
    const answer = await fetch(CONNECT, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRFToken": document.querySelector("meta[name=csrf-token]").content },
      body: JSON.stringify({ protocol: protocol(), client: "browser", move: moving }),
    });
    const told = await answer.json();
    if (answer.status === 201) { moving = false; await watch(told.viewer); }
    else if (answer.status === 401) location.reload();
    else if (answer.status >= 500) retry("Leasehold is not ready. Trying again …");
    else if (!answer.ok) {
      if (told.error.code === "console_elsewhere") {
        stop("It is open on another of your devices", told.error.message, { move: true });
        return;
      }
      if (told.error.code === "bad_protocol") prefer(null); // what was chosen is not to be had: "Connect again" takes what is
      stop("The desktop cannot be opened", told.error.message);
    }
  } catch {
    retry("Leasehold does not answer. Trying again …");
  } finally {
    asking = false;
  }
}

async function watch(viewer) {
  const client = await CLIENTS[viewer.type]();
  if (leaving) return;
  const started = client.open(screen, viewer, {
    fit: remembered("resize", true),
    opened() {
      // a desktop that shows its screen for a moment and drops it again must not be tried for ever
      steady = setTimeout(() => { attempts = 0; }, 5000);
      opened = true;
      showing(viewer.type === "spice" ? "spice" : "vnc");
      show("screen");
      session.focus();
      root.dispatchEvent(new CustomEvent("console-open"));
    },
    ended(why) {
      if (session !== started) return;
      session = null;
      if (!leaving) closed(why);
    },
  });
  session = started;
}

// ---- VNC or SPICE ---------------------------------------------------------------------------------------------
const OFFERED = (root.dataset.protocols ?? "").split(" ");

// What the person chose for this desktop: on its card, or else at some time in this bar; null: what is usual.
function protocol() {
  const chosen = new URLSearchParams(location.search).get("protocol") ?? remembered(PROTOCOL, null);
  return OFFERED.includes(chosen) ? chosen : null;
}

function prefer(name) {
  remember(PROTOCOL, name);
  history.replaceState(history.state, "", location.pathname);
}

function showing(name) {
  say(name === "spice" ? "Connected with SPICE" : "Connected");
  for (const button of root.querySelectorAll("[data-protocol]")) button.closest("li").hidden = button.dataset.protocol === name;
}

// The gateway says by its code and in words why it closed a console: what was ended or refused stays closed;
// a desktop that moved to another host is followed at once; what broke is tried again, unless the desktop itself is gone, which its progress tells.
const FINAL = new Set([4001, 4003]), MOVED = 4006;

function closed(why) {
  show("wait");
  clearTimeout(steady);
  if (why?.code === MOVED) { say(why.reason); attempts = 0; progress(); }
  else if (FINAL.has(why?.code)) stop("The console was closed", why.reason);
  else retry(why?.reason || (opened ? "The connection broke. Connecting again …" : "Connecting …"));
}

function retry(text) {
  attempts += 1;
  if (attempts > RETRIES) {
    stop("The connection cannot be made", `${text} The console could not be opened ${RETRIES} times in a row: check your network, then try again.`);
    return;
  }
  say(text);
  show("wait");
  setTimeout(() => { if (!session) progress(); }, Math.min(8000, 300 * 2 ** attempts));
}

// A line that goes down closes nothing: the picture would stand still for ever. When nobody answers any more the console
// is opened anew. A web server that is gone is no reason: it refuses at once, and consoles do without it.
async function asked() {
  const answer = await fetch(PROGRESS, { headers: { "HX-Request": "true" }, signal: AbortSignal.timeout(SILENCE_MS) }).catch((error) => error);
  return { answers: answer instanceof Response, silent: answer.name === "TimeoutError" };
}

function drop() {
  const dropped = session;
  session = null;
  dropped.disconnect();
  closed(null);
}

window.addEventListener("offline", async () => {
  const watched = session;
  if (watched && !(await asked()).answers && session === watched) drop();
});
let silences = 0;
if ("endless" in root.dataset) setInterval(async () => {
  const watched = session;
  silences = watched && (await asked()).silent ? silences + 1 : 0;
  if (silences > 1 && session === watched) { silences = 0; drop(); }
}, LINE_MS);

function begin() {
  say("Connecting …");
  show("wait");
  progress();
}

for (const kind of ["lease", "vm", "task"]) document.body.addEventListener(`changed-${kind}`, () => { if (!session && !asking) progress(); });
setInterval(() => { if (!session && !asking && !document.hidden) progress(); }, 3000);

// ---- the bar ---------------------------------------------------------------------------------------------------
function remembered(name, otherwise) {
  try { return JSON.parse(localStorage.getItem(`console-${name}`)) ?? otherwise; } catch { return otherwise; }
}

function remember(name, value) { try { localStorage.setItem(`console-${name}`, JSON.stringify(value)); } catch { /* private mode */ } }

const actions = {
  leave() { part(); location.replace(root.dataset.home); },
  keys() { session?.sendCtrlAltDel(); session?.focus(); },
  paste() { document.getElementById("paste").showModal(); },
  full() { if (document.fullscreenElement) document.exitFullscreen(); else document.documentElement.requestFullscreen().then(() => session?.focus()); },
  fit(button) {
    const resize = button.getAttribute("aria-pressed") !== "true";
    remember("resize", resize);
    pressed(button, resize);
    if (session) { session.resizeSession = resize; session.focus(); }
  },
  keyboard() { document.getElementById("touch-keys").focus(); },
  again() { part(); leaving = false; attempts = 0; begin(); },
  protocol(button) { button.closest("details").open = false; prefer(button.dataset.protocol); actions.again(); },
};

function part() {
  const parted = session;
  leaving = true;
  session = null;
  parted?.disconnect();
}

function pressed(button, is) { button.setAttribute("aria-pressed", String(is)); }

root.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (button) actions[button.dataset.do](button);
});
pressed(root.querySelector("[data-do=fit]"), remembered("resize", true));

document.addEventListener("fullscreenchange", () => {
  root.classList.toggle("lh-console--full", Boolean(document.fullscreenElement));
  pressed(root.querySelector("[data-do=full]"), Boolean(document.fullscreenElement));
});

// The desktop takes every key, Tab too; this one leads out of it, for people without a pointer.
window.addEventListener("keydown", (event) => {
  if (!(event.ctrlKey && event.altKey && event.key === "Shift")) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  session?.blur();
  root.querySelector("[data-do=leave], [data-out]").focus();
}, true);

document.getElementById("paste-form")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const box = document.getElementById("paste-text");
  document.getElementById("paste").close();
  if (!session) return;
  const lost = await type(session, box.value, (percent) => say(`Typing: ${percent} % done.`));
  box.value = "";
  say(lost ? `Typed, but for ${lost} characters that no key of a US keyboard has.` : "Typed.");
  session?.focus();
});

// A phone's own keyboard writes into a box nobody sees; what arrives there is typed on.
const touch = document.getElementById("touch-keys");
touch.addEventListener("input", () => { if (session) type(session, touch.value); touch.value = ""; });
touch.addEventListener("keydown", (event) => {
  if (session && event.key in SPECIAL) { event.preventDefault(); press(session, event.key); }
});

window.addEventListener("pagehide", part);
if (root.dataset.live === "yes") begin(); else show("wait");
