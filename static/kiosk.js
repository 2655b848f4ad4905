// A thin client's pages: a clock, a prompt that clears itself, arrow keys between cards, and the way back to the prompt.

const page = document.getElementById("kiosk");
const console_ = document.getElementById("console");
const PULSE_MS = 30000;  // how often the prompt asks whether this is still an enrolled device
const PROMPT_IDLE_MS = 60000;  // what was typed and left is cleared
const OVER_MS = 6000;  // how long it is told that the time is over
const STOPPED_MS = 60000;  // how long somebody may take to press "Connect again"

// A page brought back as it was would show what was the former person's.
window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

function out(why) {
  const form = document.getElementById("sign-out");
  form.elements.why.value = why;
  form.requestSubmit();
}

// ---- nobody there --------------------------------------------------------------------------------------------
let touched = Date.now();
for (const kind of ["keydown", "pointerdown", "pointermove", "wheel"]) window.addEventListener(kind, () => { touched = Date.now(); }, { capture: true, passive: true });

function idle(after_ms, then) {
  setInterval(() => { if (Date.now() - touched > after_ms) { touched = Date.now(); then(); } }, 1000);
}

if (page && "prompt" in page.dataset) {
  idle(PROMPT_IDLE_MS, () => {
    page.querySelector("form").reset();
    for (const field of page.querySelectorAll("input:not([type=hidden])")) field.value = "";
    document.getElementById("told").hidden = true;
    document.getElementById("user").focus();
  });
  setInterval(async () => {
    const answer = await fetch(page.dataset.pulse).catch(() => null);
    if (answer?.status === 403) location.reload();
  }, PULSE_MS);
}
if (page?.dataset.idle) idle(Number(page.dataset.idle) * 1000, () => out("idle"));

// ---- the clock, and a remote control's arrows --------------------------------------------------------------------
const clock = document.querySelector("[data-clock]");
function tick() { if (clock) clock.textContent = new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }); }
tick();
setInterval(tick, 5000);

const STEPS = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };
document.addEventListener("keydown", (event) => {
  const cards = [...document.querySelectorAll("[data-card]")];
  if (!(event.key in STEPS) || !cards.length) return;
  const at = cards.indexOf(document.activeElement);
  cards[at < 0 ? 0 : (at + STEPS[event.key] + cards.length) % cards.length].focus();
  event.preventDefault();
});

// ---- the end of a desktop ------------------------------------------------------------------------------------------
if (console_) {
  let leaving = null;
  const wait = (ms, why) => { leaving ??= setTimeout(() => out(why), ms); };
  const stay = () => { clearTimeout(leaving); leaving = null; };
  console_.addEventListener("console-progress", ({ detail }) => { if (detail === "none") wait(OVER_MS, "over"); else stay(); });
  console_.addEventListener("console-open", stay);
  // The console was ended or refused: is the desktop still theirs? Then they may open it again, for a while.
  console_.addEventListener("console-stopped", async () => {
    const answer = await fetch(console_.dataset.progress, { headers: { "HX-Request": "true" } }).catch(() => null);
    if (answer?.headers.get("HX-Refresh")) { location.reload(); return; }
    const over = answer?.status === 404 || /data-state="none"/.test(await answer?.text() ?? "");
    wait(over ? OVER_MS : STOPPED_MS, over ? "over" : "idle");
  });
}
