// Log in, and one section at a time by the address: `#items`, `#research`, …
import { call, enter, isInside, leave } from "./api.js";
import * as ask from "./ask.js";
import * as chat from "./chat.js";
import { $, guarded } from "./dom.js";
import * as health from "./health.js";
import * as items from "./items.js";
import * as itinerary from "./itinerary.js";
import * as research from "./research.js";
import * as workers from "./workers.js";

const SECTIONS = { items, research, ask, chat, itinerary, workers };
let current = "items";

function show() {
  // Another fragment, as the skip link's, names no section and changes none.
  const wanted = location.hash.slice(1);
  if (Object.hasOwn(SECTIONS, wanted)) current = wanted;
  const inside = isInside();
  $("login").hidden = inside;
  $("nav").hidden = $("logout").hidden = !inside;
  for (const name of Object.keys(SECTIONS)) $(name).hidden = !inside || name !== current;
  for (const link of $("nav").children) {
    if (link.hash === `#${current}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = inside ? `${$(`${current}-title`).textContent} – Crisper` : "Crisper";
  if (inside) SECTIONS[current].open?.();
}

function go() {
  show();
  // Who navigates by keyboard or ear goes on where the section begins.
  if (isInside()) $(`${current}-title`).focus();
}

for (const section of Object.values(SECTIONS)) section.start();
$("login").addEventListener("submit", guarded(async (event) => {
  const form = event.target;
  const answer = await call("POST", "/admin/login", Object.fromEntries(new FormData(form)));
  enter(answer.access_token);
  form.password.value = "";
  go();
}));
$("logout").addEventListener("click", leave);
document.addEventListener("left", () => {
  for (const section of Object.values(SECTIONS)) section.clear();
  show();
  $("login").password.focus();
});
addEventListener("hashchange", () => Object.hasOwn(SECTIONS, location.hash.slice(1)) && go());
show();
health.start();
