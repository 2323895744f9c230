// Days and their stops, by interests.
import { call } from "./api.js";
import { $, el, guarded } from "./dom.js";

function stop({ id, title, why }) {
  return el("li", {}, el("strong", {}, title || `item ${id}`), why ? el("p", { className: "quiet" }, why) : "");
}

function show({ days = [], note }) {
  const shown = days.flatMap(({ day, stops }) => [
    el("h3", {}, `Day ${day}`),
    stops.length ? el("ol", { className: "stops" }, ...stops.map(stop)) : el("p", { className: "quiet" }, "Nothing found."),
  ]);
  if (note) shown.unshift(el("p", { className: "quiet" }, note));
  $("plan").replaceChildren(...shown);
  $("plan").hidden = false;
}

export function clear() {
  $("itinerary-form").reset();
  $("plan").hidden = true;
  $("plan").replaceChildren();
}

export function start() {
  $("itinerary-form").addEventListener("submit", guarded(async (event) => {
    const form = new FormData(event.target);
    const interests = form.get("interests").split(",").map((one) => one.trim()).filter(Boolean);
    show(await call("POST", "/itinerary", { days: Number(form.get("days")), interests }));
  }));
}
