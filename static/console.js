// The console of one desktop: waits until it is ready, opens it, keeps it open, and says why when it closes.

import RFB from "./vendor/novnc/core/rfb.js";
import { press, SPECIAL, type } from "./keys.js";

const root = document.getElementById("console");
const screen = document.getElementById("screen");
const wait = document.getElementById("wait");
const status = document.getElementById("status");
const CONNECT = root.dataset.connect;
const PROGRESS = root.dataset.progress;
const RETRIES = "endless" in root.dataset ? Infinity : 6;  // a thin client has nobody who could press a button

let rfb = null;
let attempts = 0;
let leaving = false;
let asking = false;
let opened = false;
let steady = null;

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
  if (answer.redirected || answer.status === 401) { location.reload(); return; }
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
function stop(title, text, { again = true } = {}) {
  leaving = true;
  const card = document.getElementById("stopped").content.cloneNode(true);
  card.querySelector("[data-title]").textContent = title;
  card.querySelector("[data-text]").textContent = text;
  const button = card.querySelector("[data-again]");
  if (again) button.addEventListener("click", () => { leaving = false; attempts = 0; begin(); }); else button.remove();
  wait.replaceChildren(card);
  show("wait");
  say(title);
  wait.querySelector("h1").focus();
  root.dispatchEvent(new CustomEvent("console-stopped"));
}

// ---- opening ------------------------------------------------------------------------------------------------
async function open() {
  if (asking || rfb) return;
  asking = true;
  try {
    const answer = await fetch(CONNECT, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRFToken": document.querySelector("meta[name=csrf-token]").content },
      body: JSON.stringify({ protocol: "vnc", client: "browser" }),
    });
    const told = await answer.json();
    if (answer.status === 201 && told.viewer) watch(new WebSocket(told.viewer.url, told.viewer.protocols));
    else if (answer.status === 401) location.reload();
    else if (answer.status >= 500) retry("Leasehold is not ready. Trying again …");
    else if (!answer.ok) stop("The desktop cannot be opened", told.error.message);
  } catch {
    retry("Leasehold does not answer. Trying again …");
  } finally {
    asking = false;
  }
}

function watch(socket) {
  let why = null;
  socket.addEventListener("close", (event) => { why = event; });
  screen.replaceChildren();
  const session = new RFB(screen, socket, { shared: true });
  rfb = session;
  session.scaleViewport = true;
  session.resizeSession = remembered("resize", true);
  session.showDotCursor = true;
  session.focusOnClick = true;
  session.background = "transparent";
  session.addEventListener("connect", () => {
    // a desktop that shows its screen for a moment and drops it again must not be tried for ever
    steady = setTimeout(() => { attempts = 0; }, 5000);
    opened = true;
    show("screen");
    say("Connected");
    session.focus();
    root.dispatchEvent(new CustomEvent("console-open"));
  });
  session.addEventListener("securityfailure", (event) => { why = { code: 4000, reason: event.detail.reason || "The desktop refused the connection." }; });
  session.addEventListener("disconnect", () => {
    if (rfb === session) rfb = null;
    if (!leaving) closed(why);
  });
  session.addEventListener("clipboard", (event) => {
    const box = document.getElementById("paste-text");
    if (box) box.dataset.fromDesktop = event.detail.text;
  });
}

// The gateway says by its code and in words why it closed a console: what was ended or refused stays closed;
// what broke is tried again, unless the desktop itself is gone, which its progress tells.
const FINAL = new Set([4001, 4003]);

function closed(why) {
  show("wait");
  clearTimeout(steady);
  if (FINAL.has(why?.code)) stop("The console was closed", why.reason);
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
  setTimeout(() => { if (!rfb) progress(); }, Math.min(8000, 300 * 2 ** attempts));
}

function begin() {
  say("Connecting …");
  show("wait");
  progress();
}

for (const kind of ["lease", "vm", "task"]) document.body.addEventListener(`changed-${kind}`, () => { if (!rfb && !asking) progress(); });
setInterval(() => { if (!rfb && !asking && !document.hidden) progress(); }, 3000);

// ---- the bar ---------------------------------------------------------------------------------------------------
function remembered(name, otherwise) {
  try { return JSON.parse(localStorage.getItem(`console-${name}`)) ?? otherwise; } catch { return otherwise; }
}

function remember(name, value) { try { localStorage.setItem(`console-${name}`, JSON.stringify(value)); } catch { /* private mode */ } }

const actions = {
  leave() { leaving = true; rfb?.disconnect(); location.replace(root.dataset.home); },
  keys() { rfb?.sendCtrlAltDel(); rfb?.focus(); },
  paste() { document.getElementById("paste").showModal(); },
  full() { if (document.fullscreenElement) document.exitFullscreen(); else document.documentElement.requestFullscreen().then(() => rfb?.focus()); },
  fit(button) {
    const resize = button.getAttribute("aria-pressed") !== "true";
    remember("resize", resize);
    pressed(button, resize);
    if (rfb) { rfb.resizeSession = resize; rfb.focus(); }
  },
  keyboard() { document.getElementById("touch-keys").focus(); },
  again() { leaving = true; rfb?.disconnect(); rfb = null; leaving = false; attempts = 0; begin(); },
};

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
  rfb?.blur();
  root.querySelector("[data-do=leave], [data-out]").focus();
}, true);

document.getElementById("paste-form")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const box = document.getElementById("paste-text");
  document.getElementById("paste").close();
  if (!rfb) return;
  const lost = await type(rfb, box.value);
  box.value = "";
  say(lost ? `Typed, but for ${lost} characters that no key of a US keyboard has.` : "Typed.");
  rfb?.focus();
});

// A phone's own keyboard writes into a box nobody sees; what arrives there is typed on.
const touch = document.getElementById("touch-keys");
touch.addEventListener("input", () => { if (rfb) type(rfb, touch.value); touch.value = ""; });
touch.addEventListener("keydown", (event) => {
  if (rfb && event.key in SPECIAL) { event.preventDefault(); press(rfb, event.key); }
});

window.addEventListener("pagehide", () => { leaving = true; rfb?.disconnect(); });
if (root.dataset.live === "yes") begin(); else show("wait");
