// Create items, queue their embeddings, watch the tasks.
import { call, isInside } from "./api.js";
import { $, cell, el, guarded, say } from "./dom.js";
import { ENDED } from "./follow.js";

const ASKED_AT_ONCE = 20;
const chosen = new Set();

function showChosen() {
  $("queue").disabled = chosen.size === 0;
  $("queue").textContent = chosen.size ? `Make embeddings (${chosen.size})` : "Make embeddings";
}

// What Qdrant holds is asked of Qdrant, and not guessed from the status.
function vectorButton(where, item) {
  const button = el("button", { type: "button", className: "plain small", textContent: "look" });
  button.setAttribute("aria-label", `Look for the vector of ${item.title}`);
  button.addEventListener("click", guarded(async () => {
    const { vector } = await call("GET", `/api/admin/items/${item.id}`);
    where.textContent = vector ? `${vector.dimensions} dims` : "none";
  }));
  where.append(button);
}

function choice(item) {
  const box = el("input", { type: "checkbox", checked: chosen.has(item.id) });
  box.setAttribute("aria-label", `Choose ${item.title}`);
  box.addEventListener("change", () => {
    if (box.checked) chosen.add(item.id);
    else chosen.delete(item.id);
    showChosen();
  });
  return box;
}

async function list() {
  const items = await call("GET", "/api/admin/items");
  const body = $("item-rows");
  body.replaceChildren();
  for (const item of items) {
    const row = body.insertRow();
    row.insertCell().append(choice(item));
    cell(row, item.id, "id");
    const title = cell(row, item.title, "title");
    if (item.error) title.append(el("small", { textContent: item.error }));
    cell(row, item.status.toLowerCase(), item.status);
    vectorButton(row.insertCell(), item);
  }
  $("no-items").hidden = items.length > 0;
  showChosen();
  return items;
}

async function watch(tasks) {
  const running = new Set(tasks);
  const bar = $("queue-progress");
  const failed = [];
  bar.max = tasks.length;
  bar.hidden = false;
  while (running.size && isInside()) {
    const asked = [...running].slice(0, ASKED_AT_ONCE);
    for (const task of await Promise.all(asked.map((id) => call("GET", `/api/task/${id}`)))) {
      if (ENDED.has(task.status)) running.delete(task.task_id);
      if (task.status === "failure") failed.push(task.error);
    }
    bar.value = tasks.length - running.size;
    $("queue-text").textContent = `${bar.value} of ${tasks.length} tasks done`;
    await list();
    if (running.size) await new Promise((resolve) => setTimeout(resolve, 700));
  }
  if (failed.length) say(`${failed.length} task(s) failed: ${failed[0]}`);
}

export function clear() {
  chosen.clear();
  $("item-rows").replaceChildren();
  $("queue-progress").hidden = true;
  $("queue-text").textContent = "";
}

export const open = guarded(list);

export function start() {
  $("create").addEventListener("submit", guarded(async (event) => {
    const [item] = await call("POST", "/api/admin/items", [Object.fromEntries(new FormData(event.target))]);
    chosen.add(item.id);
    event.target.reset();
    await list();
  }));
  $("queue").addEventListener("click", guarded(async () => {
    const queued = await call("POST", "/api/admin/bulk/regenerate-embeddings", { context_ids: [...chosen] });
    chosen.clear();
    await watch(queued.task_ids);
  }, showChosen));
  $("all").addEventListener("change", guarded(async (event) => {
    const { checked } = event.target;
    chosen.clear();
    if (checked) for (const item of await call("GET", "/api/admin/items")) chosen.add(item.id);
    await list();
    $("all").checked = checked;
  }));
}
