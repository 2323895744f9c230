// A question to what is known, with its sources.
import { call } from "./api.js";
import { $, el, guarded, sourceList } from "./dom.js";
import { markdown } from "./markdown.js";

function show({ answer, sources = [], variants = [], cached }) {
  const parts = [el("div", { className: "prose" }, ...markdown(answer || "No answer."))];
  if (cached) parts.unshift(el("p", { className: "badge" }, "from the cache"));
  if (sources.length) parts.push(el("h3", {}, "Sources"), sourceList(sources));
  if (variants.length) {
    const asked = el("ul", {}, ...variants.map((variant) => el("li", {}, variant)));
    parts.push(el("details", {}, el("summary", {}, "Also searched for"), asked));
  }
  $("answer").replaceChildren(...parts);
  $("answer").hidden = false;
}

export function clear() {
  $("ask-form").reset();
  $("answer").hidden = true;
  $("answer").replaceChildren();
}

export function start() {
  $("ask-form").addEventListener("submit", guarded(async (event) => {
    const form = new FormData(event.target);
    show(await call("POST", "/rag/query", { query: form.get("query"), top_k: Number(form.get("top_k")) }));
  }));
}
