// A question that takes minutes: queued, followed live, its report rendered.
import { call } from "./api.js";
import { $, guarded } from "./dom.js";
import { follow } from "./follow.js";
import { markdown } from "./markdown.js";

const KEPT = "research"; // the running task, so that a reload does not lose it
let running = null; // aborts the following of the task, not the task

function show({ status, stage, percentage }) {
  const bar = $("research-progress");
  bar.hidden = false;
  if (typeof percentage === "number") bar.value = percentage;
  else bar.removeAttribute("value");
  const words = [stage?.replaceAll("_", " ") || (status === "pending" ? "waiting for a worker" : status)];
  if (typeof percentage === "number") words.push(`${Math.round(percentage)} %`);
  $("research-text").textContent = words.join(" · ");
}

function showReport({ report, status }) {
  $("report").replaceChildren(...markdown(report || `No report: ${status || "unknown"}`));
  $("report").hidden = false;
}

function rest(text) {
  running = null;
  sessionStorage.removeItem(KEPT);
  $("research-stop").hidden = $("research-progress").hidden = true;
  $("research-text").textContent = text;
}

async function see(id) {
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  sessionStorage.setItem(KEPT, id);
  $("research-stop").hidden = false;
  $("report").hidden = true;
  try {
    const task = await follow(id, show, signal);
    if (task.status === "success") {
      showReport(task.result ?? {});
      rest("done");
    } else {
      rest(task.status === "revoked" ? "stopped" : `failed: ${task.error || "unknown"}`);
    }
  } catch (error) {
    if (signal.aborted) return; // another one was started, or nobody is logged in
    rest("");
    throw error;
  }
}

export function clear() {
  running?.abort();
  rest("");
  $("report").hidden = true;
  $("report").replaceChildren();
  $("research-form").reset();
}

export function open() {
  const id = sessionStorage.getItem(KEPT);
  if (id && !running) guarded(() => see(id))();
}

export function start() {
  $("research-form").addEventListener("submit", guarded(async (event) => {
    const query = new FormData(event.target).get("query");
    const { task_id: id } = await call("POST", "/api/research/async", { query });
    show({ status: "pending" });
    await see(id);
  }));
  $("research-stop").addEventListener("click", guarded(async () => {
    await call("DELETE", `/api/task/${sessionStorage.getItem(KEPT)}`);
  }));
}
