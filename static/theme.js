// Light or dark before the first paint: the person's own choice, else what the system prefers.
const system = window.matchMedia("(prefers-color-scheme: dark)");

function choice() {
  try { return localStorage.getItem("theme") || "system"; } catch { return "system"; }
}

function applyTheme() {
  const wanted = choice();
  const dark = wanted === "dark" || (wanted === "system" && system.matches);
  document.documentElement.classList.toggle("pf-v6-theme-dark", dark);
  for (const input of document.querySelectorAll("input[name=theme]")) input.checked = input.value === wanted;
}

system.addEventListener("change", applyTheme);
document.addEventListener("DOMContentLoaded", applyTheme);
document.addEventListener("change", (event) => {
  if (event.target.name !== "theme") return;
  try { localStorage.setItem("theme", event.target.value); } catch { /* private mode: for this page alone */ }
  applyTheme();
});
applyTheme();
