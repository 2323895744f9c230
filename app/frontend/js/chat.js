// A conversation; the backend remembers it by its session.
import { call } from "./api.js";
import { $, el, guarded, sourceList } from "./dom.js";
import { markdown } from "./markdown.js";

let session = null;

function add(who, ...content) {
  const entry = el("li", { className: who }, el("span", { className: "quiet" }, who === "you" ? "You" : "Crisper"), ...content);
  $("chat-log").append(entry);
  entry.scrollIntoView({ block: "nearest" });
  return entry;
}

export function clear() {
  session = null;
  $("chat-log").replaceChildren();
  $("chat-form").reset();
}

export function start() {
  $("chat-form").addEventListener("submit", guarded(async (event) => {
    const form = event.target;
    const message = new FormData(form).get("message");
    const asked = add("you", el("p", {}, message));
    const answer = await call("POST", "/chat", session ? { message, session_id: session } : { message }).catch((error) => {
      asked.remove(); // it stays in the form, to be sent again
      throw error;
    });
    session = answer.session_id;
    const sources = answer.sources?.length ? [sourceList(answer.sources)] : [];
    add("reply", el("div", { className: "prose" }, ...markdown(answer.reply)), ...sources);
    form.reset();
    form.message.focus();
  }));
  $("chat-new").addEventListener("click", () => {
    clear();
    $("chat-form").message.focus();
  });
}
