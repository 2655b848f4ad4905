// What every page shares: the change stream, counting times, live pictures, menus, dialogs, toasts.
// The stream only says which kinds of things changed; the page then fetches its own part again, as its person.

const body = document.body;

// ---- changes ---------------------------------------------------------------------------------------------
const pending = new Map();
let announcing = null;

function announce(kind, id) {
  if (!pending.has(kind)) pending.set(kind, new Set());
  pending.get(kind).add(id);
  announcing ??= setTimeout(() => {
    announcing = null;
    const told = [...pending];
    pending.clear();
    for (const [each, ids] of told) body.dispatchEvent(new CustomEvent(`changed-${each}`, { detail: { ids: [...ids] } }));
    body.dispatchEvent(new CustomEvent("changed", { detail: { kinds: told.map(([each]) => each) } }));
  }, 200);
}

const wanted = (body.dataset.live || "").split(" ").filter(Boolean);
let stream = null;
let silent = 0;

function everything() { for (const kind of wanted) announce(kind, "*"); }

function follow() {
  if (!wanted.length || stream || document.hidden) return;
  stream = new EventSource(`/api/v1/changes?types=${wanted.join(",")}`);
  for (const kind of wanted) stream.addEventListener(kind, (event) => announce(kind, JSON.parse(event.data).id));
  stream.addEventListener("hello", () => { if (silent) everything(); silent = 0; offline(false); });
  stream.addEventListener("reset", everything);
  stream.addEventListener("end", () => location.reload());  // signed out elsewhere: the server leads on
  stream.onerror = () => {
    silent += 1;
    offline(silent > 2);
    if (stream?.readyState === EventSource.CLOSED) { unfollow(); setTimeout(follow, Math.min(30000, 1000 * 2 ** silent)); }
  };
}

function unfollow() { stream?.close(); stream = null; }

function offline(is) {
  let note = document.querySelector(".lh-offline");
  if (!is) return note?.remove();
  if (note) return;
  note = document.createElement("div");
  note.className = "lh-offline";
  note.setAttribute("role", "status");
  note.textContent = "No connection to Leasehold. Trying again …";
  body.append(note);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) unfollow(); else { follow(); everything(); }
});
window.addEventListener("pagehide", unfollow);
follow();
// Whatever happens to the stream, nothing on the page is older than this.
setInterval(() => { if (!document.hidden && (silent || !stream)) everything(); }, 5000);
setInterval(() => { if (!document.hidden) everything(); }, 60000);

// ---- times that count ---------------------------------------------------------------------------------------
export function left(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.floor(seconds))} s left`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return minutes < 5 ? `${minutes} min ${Math.floor(seconds % 60)} s left` : `${minutes} min left`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${minutes % 60} min left`;
  return `${Math.floor(hours / 24)} days left`;
}

function ago(seconds) {
  if (seconds < 0) return seconds > -60 ? "in a moment" : `in ${span(-seconds)}`;
  return seconds < 10 ? "just now" : `${span(seconds)} ago`;
}

function span(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} days`;
}

const skew = Date.now() - Date.parse(document.querySelector("meta[name=server-time]")?.content || new Date().toISOString());

export function now() { return Date.now() - skew; }

function tick() {
  for (const time of document.querySelectorAll("time[data-left]")) {
    const seconds = (Date.parse(time.dateTime) - now()) / 1000;
    const text = seconds > 0 ? left(seconds) : time.dataset.past;
    if (time.textContent !== text) time.textContent = text;
    time.closest(".lh-lease")?.classList.toggle("lh-lease--soon", seconds < 300);
  }
  for (const time of document.querySelectorAll("time[data-ago]")) {
    const text = ago((now() - Date.parse(time.dateTime)) / 1000);
    if (time.textContent !== text) time.textContent = text;
  }
}
setInterval(tick, 1000);

// The server writes times by this browser's clock: it is told the time zone by a cookie, and asked again if it knew another.
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
if (!document.cookie.split("; ").includes(`timezone=${zone}`)) {
  document.cookie = `timezone=${zone}; path=/; max-age=31536000; samesite=lax; secure`;
  const known = document.querySelector("[data-zone]")?.dataset.zone;
  if (known && known !== zone && document.cookie.includes(`timezone=${zone}`)) location.reload();
}

// ---- live pictures of screens: only of cards in view, only while the page is -----------------------------------
// A picture is hidden until there is one, and what is hidden is never in view: its frame is watched instead.
const inView = new Set();
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const image = target.querySelector("img[data-screen]");
    if (!image || !isIntersecting) inView.delete(image);
    else if (!inView.has(image)) { inView.add(image); picture(image); }
  }
}, { rootMargin: "100px" });

async function picture(image) {
  if (document.hidden || !image.isConnected) return;
  try {
    const answer = await fetch(image.dataset.screen, { headers: { Accept: "image/webp" } });
    if (answer.status !== 200) { if (answer.status === 404) image.hidden = true; else setTimeout(picture, 3000, image); return; }
    const url = URL.createObjectURL(await answer.blob());
    const old = image.src;
    image.onload = () => { image.hidden = false; if (old.startsWith("blob:")) URL.revokeObjectURL(old); };
    image.src = url;
  } catch { /* the network: the next round tries again */ }
}

function watchScreens() {
  for (const image of inView) if (!image.isConnected) inView.delete(image);
  for (const image of document.querySelectorAll("img[data-screen]")) {
    if (inView.has(image)) continue;
    watcher.unobserve(image.parentElement);  // observed anew, it tells at once whether it is in view
    watcher.observe(image.parentElement);
  }
}
watchScreens();
setInterval(() => inView.forEach(picture), 10000);

// ---- menus, dialogs, toasts, forms -----------------------------------------------------------------------------------
document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-open]");
  if (opener) {
    opener.closest("details")?.removeAttribute("open");
    document.getElementById(opener.dataset.open)?.showModal();
  }
  const asker = event.target.closest("[data-ask]");
  if (asker) { asker.closest("details")?.removeAttribute("open"); question(asker.dataset.ask); }
  event.target.closest("[data-close]")?.closest("dialog")?.close();
  if (event.target.matches("dialog")) event.target.close();  // a click on the backdrop
  event.target.closest("[data-dismiss]")?.closest("[data-toast]")?.remove();
  for (const menu of document.querySelectorAll("details.lh-menu[open]")) if (!menu.contains(event.target)) menu.open = false;
  const copier = event.target.closest("[data-copy]");
  if (copier) copy(copier);
  if (event.target.closest("[data-sidebar]")) toggleSidebar();
});

// A question before something is done comes from the server, which knows whether it is still possible.
async function question(address) {
  const answer = await fetch(address, { headers: { "HX-Request": "true" } });
  const place = document.createElement("div");
  place.innerHTML = await answer.text();
  const dialog = place.querySelector("dialog");
  if (!answer.ok || !dialog) { location.reload(); return; }
  body.append(dialog);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.showModal();
}

document.addEventListener("keydown", (event) => {
  const menu = event.target.closest?.("details.lh-menu[open]");
  if (!menu) return;
  if (event.key === "Escape") { menu.open = false; menu.querySelector("summary").focus(); }
  if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
  event.preventDefault();
  const items = [...menu.querySelectorAll("input, .pf-v6-c-menu__item")];
  const at = items.indexOf(document.activeElement) + (event.key === "ArrowDown" ? 1 : -1);
  items[(at + items.length) % items.length]?.focus();
});
document.addEventListener("focusout", (event) => {
  const menu = event.target.closest?.("details.lh-menu[open]");
  if (menu && event.relatedTarget && !menu.contains(event.relatedTarget)) menu.open = false;
});

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.matches("[data-once]")) return;
  if (form.dataset.sent) { event.preventDefault(); return; }
  form.dataset.sent = "1";
  for (const button of form.querySelectorAll("button[type=submit]")) { button.setAttribute("aria-disabled", "true"); button.classList.add("pf-m-in-progress"); }
});
// A page brought back as it was (Back) may be used again.
window.addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) { delete form.dataset.sent; form.querySelectorAll("[aria-disabled]").forEach((each) => { each.removeAttribute("aria-disabled"); each.classList.remove("pf-m-in-progress"); }); }
});

for (const toast of document.querySelectorAll("[data-toast]:not(.pf-m-danger)")) setTimeout(() => toast.remove(), 8000);

async function copy(button) {
  await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent.trim());
  const text = button.querySelector(".pf-v6-c-button__text");
  const was = text.textContent;
  text.textContent = "Copied";
  setTimeout(() => { text.textContent = was; }, 2000);
}

function toggleSidebar() {
  const bar = document.getElementById("sidebar");
  const wide = matchMedia("(width >= 75rem)").matches;
  const open = wide ? bar.classList.contains("pf-m-collapsed") : !bar.classList.contains("pf-m-expanded");
  bar.classList.toggle("pf-m-expanded", open);
  bar.classList.toggle("pf-m-collapsed", !open);
  document.querySelector("[data-sidebar]").setAttribute("aria-expanded", String(open));
}

// A search box with suggestions: what is typed is completed by the server, word by word.
document.addEventListener("input", (event) => {
  const box = event.target.closest("input[data-completions]");
  if (!box) return;
  clearTimeout(box.waiting);
  box.waiting = setTimeout(() => complete(box), 150);
});

async function complete(box) {
  const answer = await fetch(`${box.dataset.completions}?text=${encodeURIComponent(box.value)}`);
  if (!answer.ok) return;
  const list = document.getElementById(box.getAttribute("list"));
  list.replaceChildren(...(await answer.json()).items.map((text) => Object.assign(document.createElement("option"), { value: text })));
}

// Everything htmx brought in gets the same treatment as what was there from the start.
document.addEventListener("htmx:after:swap", () => { watchScreens(); tick(); });
for (const dialog of document.querySelectorAll("dialog[data-open-now]")) dialog.showModal();
