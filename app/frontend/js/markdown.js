// Markdown that others wrote, as elements. Never by innerHTML: what is no Markdown stays text.
import { el } from "./dom.js";

const INLINE = /`([^`]+)`|\*\*(.+?)\*\*|\*([^*\s][^*]*)\*|\[([^\]]+)\]\(([^\s)]+)\)/g;
const MARK = /^\s*(?:([-*+])|\d+[.)])\s+(.*)$/;

function link(text, address) {
  // Only addresses of the web: `javascript:` and the like stay text.
  if (!/^https?:\/\//i.test(address)) return `${text} (${address})`;
  return el("a", { href: address, rel: "noopener noreferrer", target: "_blank" }, text);
}

function inline(text) {
  const parts = [];
  let from = 0;
  for (const match of text.matchAll(INLINE)) {
    const [whole, code, strong, emphasis, label, address] = match;
    parts.push(text.slice(from, match.index));
    if (code) parts.push(el("code", {}, code));
    else if (strong) parts.push(el("strong", {}, strong));
    else if (emphasis) parts.push(el("em", {}, emphasis));
    else parts.push(link(label, address));
    from = match.index + whole.length;
  }
  parts.push(text.slice(from));
  return parts;
}

function heading(line) {
  const [, marks, text] = line.match(/^(#{1,6})\s+(.*)$/);
  // Below the section's own h2.
  return el(`h${Math.min(6, marks.length + 2)}`, {}, ...inline(text));
}

const isBlock = (line) => /^(#{1,6}\s|```|>)/.test(line) || MARK.test(line);

// Headings, lists, quotes, code blocks and paragraphs of `text`.
export function markdown(text) {
  const lines = text.split(/\r?\n/);
  const nodes = [];
  const take = (is) => {
    const taken = [];
    while (lines.length && is(lines[0])) taken.push(lines.shift());
    return taken;
  };
  while (lines.length) {
    const line = lines[0];
    if (!line.trim()) {
      lines.shift();
    } else if (line.startsWith("```")) {
      lines.shift();
      nodes.push(el("pre", {}, el("code", {}, take((next) => !next.startsWith("```")).join("\n"))));
      lines.shift();
    } else if (/^#{1,6}\s/.test(line)) {
      nodes.push(heading(lines.shift()));
    } else if (line.startsWith(">")) {
      const quoted = take((next) => next.startsWith(">")).map((next) => next.replace(/^>\s?/, ""));
      nodes.push(el("blockquote", {}, ...inline(quoted.join(" "))));
    } else if (MARK.test(line)) {
      const tag = MARK.exec(line)[1] ? "ul" : "ol";
      const entries = take((next) => MARK.test(next));
      nodes.push(el(tag, {}, ...entries.map((next) => el("li", {}, ...inline(MARK.exec(next)[2])))));
    } else {
      nodes.push(el("p", {}, ...inline(take((next) => next.trim() && !isBlock(next)).join(" "))));
    }
  }
  return nodes;
}
