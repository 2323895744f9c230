// Elements, messages, and handlers that tell what went wrong.

import { LeftError } from "./api.js";

export const $ = (id) => document.getElementById(id);

// Text stays text: children that are strings become text nodes, never markup.
export function el(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export function say(text) {
  $("message").textContent = text;
  $("message").hidden = !text;
}

// A handler whose button rests while it works; `settle` runs at the end, whatever happened.
export function guarded(action, settle = () => {}) {
  return async (event) => {
    event?.preventDefault();
    const button = event?.submitter || event?.currentTarget;
    const isButton = button?.tagName === "BUTTON";
    if (isButton) button.disabled = true;
    try {
      say("");
      await action(event);
    } catch (error) {
      if (!(error instanceof LeftError)) say(error.message);
    } finally {
      if (isButton) button.disabled = false;
      settle();
    }
  };
}

export function cell(row, text, className = "") {
  const td = row.insertCell();
  td.textContent = text;
  if (className) td.className = className;
  return td;
}

export function sourceList(sources) {
  const items = sources.map(({ id, title, score }) => {
    const shown = typeof score === "number" ? ` (${score.toFixed(2)})` : "";
    return el("li", {}, title || `item ${id}`, el("span", { className: "quiet", textContent: shown }));
  });
  return el("ol", { className: "sources" }, ...items);
}
