// Rows that are chosen in a table: they stay chosen while the table fetches itself anew, and the server says what can be
// done to all of them now.

const rows = document.getElementById("rows");
const bar = document.getElementById("many");
const chosen = new Set();
let last = null;
let asked = 0;

const boxes = () => [...rows.querySelectorAll("input[data-choose]")];
const ids = () => [...chosen].map((id) => `id=${encodeURIComponent(id)}`).join("&");

function show() {
  const here = boxes();
  const all = rows.querySelector("input[data-choose-all]");
  const there = new Set(here.map((box) => box.value));
  for (const id of chosen) if (!there.has(id)) chosen.delete(id);
  for (const box of here) {
    box.checked = chosen.has(box.value);
    box.closest("tr").classList.toggle("lh-chosen", box.checked);
  }
  if (all) {
    all.checked = here.length > 0 && chosen.size === here.length;
    all.indeterminate = chosen.size > 0 && !all.checked;
  }
  fill();
}

async function fill() {
  const turn = ++asked;
  if (!chosen.size) { bar.hidden = true; bar.replaceChildren(); return; }
  const answer = await fetch(`${bar.dataset.many}?${ids()}`, { headers: { "HX-Request": "true" } }).catch(() => null);
  if (turn !== asked || !answer?.ok) return;  // a later choice is on its way; without an answer the old bar stays
  bar.innerHTML = await answer.text();
  const more = `&back=${encodeURIComponent(location.pathname + location.search)}&${ids()}`;
  for (const button of bar.querySelectorAll("[data-many]")) button.dataset.ask = button.dataset.many + more;  // app.js asks
  bar.hidden = false;
}

rows.addEventListener("click", (event) => {
  const box = event.target.closest("input[data-choose]");
  if (!box) return;
  const here = boxes();
  const at = here.indexOf(box);
  const from = event.shiftKey && last !== null ? here.findIndex((each) => each.value === last) : at;
  for (const each of here.slice(Math.min(from < 0 ? at : from, at), Math.max(from, at) + 1)) {
    if (box.checked) chosen.add(each.value); else chosen.delete(each.value);
  }
  last = box.value;
  show();
});
rows.addEventListener("change", (event) => {
  if (!event.target.matches("input[data-choose-all]")) return;
  for (const box of boxes()) if (event.target.checked) chosen.add(box.value); else chosen.delete(box.value);
  show();
});
bar.addEventListener("click", (event) => {
  if (event.target.closest("[data-many-clear]")) { chosen.clear(); show(); }
});
document.addEventListener("htmx:after:swap", show);
show();
