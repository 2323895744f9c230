// Log in, create items, queue their embeddings, watch the tasks. No framework, no build.
"use strict";

const $ = (id) => document.getElementById(id);
const chosen = new Set();
let token = sessionStorage.getItem("token");

function say(text) {
  $("message").textContent = text;
  $("message").hidden = !text;
}

async function call(method, path, body) {
  const headers = { "Content-Type": "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  const answer = await response.json().catch(() => ({}));
  if (response.status === 401 && token) leave();
  if (!response.ok) {
    const detail = Array.isArray(answer.detail) ? answer.detail.map((d) => d.msg).join("; ") : answer.detail;
    throw new Error(detail || `${path}: ${response.status}`);
  }
  return answer;
}

function guarded(action) {
  return async (event) => {
    event?.preventDefault();
    const button = event?.submitter || event?.currentTarget;
    if (button?.tagName === "BUTTON") button.disabled = true;
    try {
      say("");
      await action(event);
    } catch (error) {
      say(error.message);
    } finally {
      if (button?.tagName === "BUTTON") button.disabled = false;
      show();
    }
  };
}

function leave() {
  token = null;
  sessionStorage.removeItem("token");
  chosen.clear();
  show();
}

function show() {
  $("login").hidden = Boolean(token);
  $("inside").hidden = $("logout").hidden = !token;
  $("queue").disabled = chosen.size === 0;
  $("queue").textContent = chosen.size ? `Make embeddings (${chosen.size})` : "Make embeddings";
}

function cell(row, text, className) {
  const td = row.insertCell();
  td.textContent = text;
  if (className) td.className = className;
  return td;
}

// What Qdrant holds is asked of Qdrant, and not guessed from the status.
function vectorButton(where, item) {
  const button = Object.assign(document.createElement("button"), { type: "button", className: "plain small", textContent: "look" });
  button.setAttribute("aria-label", `Look for the vector of ${item.title}`);
  button.addEventListener("click", guarded(async () => {
    const { vector } = await call("GET", `/api/admin/items/${item.id}`);
    where.textContent = vector ? `${vector.dimensions} dims` : "none";
  }));
  where.append(button);
}

async function list() {
  const items = await call("GET", "/api/admin/items");
  const body = $("items");
  body.replaceChildren();
  for (const item of items) {
    const row = body.insertRow();
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = chosen.has(item.id);
    box.setAttribute("aria-label", `Choose ${item.title}`);
    box.addEventListener("change", () => {
      box.checked ? chosen.add(item.id) : chosen.delete(item.id);
      show();
    });
    row.insertCell().append(box);
    cell(row, item.id, "id");
    const title = cell(row, item.title, "title");
    if (item.error) title.append(Object.assign(document.createElement("small"), { textContent: item.error }));
    cell(row, item.status.toLowerCase(), item.status);
    vectorButton(row.insertCell(), item);
  }
  $("empty").hidden = items.length > 0;
  return items;
}

async function watch(tasks) {
  const open = new Set(tasks);
  const bar = $("progress");
  const failed = [];
  bar.max = tasks.length;
  bar.hidden = false;
  while (open.size) {
    for (const id of [...open].slice(0, 20)) {
      const task = await call("GET", `/api/task/${id}`);
      if (["success", "failure", "revoked"].includes(task.status)) open.delete(id);
      if (task.status === "failure") failed.push(task.error);
    }
    bar.value = tasks.length - open.size;
    $("progress-text").textContent = `${bar.value} of ${tasks.length} tasks done`;
    await list();
    if (open.size) await new Promise((resolve) => setTimeout(resolve, 700));
  }
  if (failed.length) say(`${failed.length} task(s) failed: ${failed[0]}`);
}

async function askWorkers() {
  const where = $("workers");
  try {
    const answer = await (await fetch("/api/celery/health")).json();
    const up = answer.status === "ok";
    where.className = up ? "up" : "down";
    where.querySelector(".text").textContent = up ? `a worker answered in ${answer.latency_ms} ms` : `no answer: ${answer.down} is down`;
    where.title = answer.worker || "";
    $("release").textContent = `release ${(await (await fetch("/health")).json()).release}`;
  } catch {
    where.className = "down";
    where.querySelector(".text").textContent = "the backend does not answer";
  }
}

$("login").addEventListener("submit", guarded(async (event) => {
  const form = new FormData(event.target);
  const answer = await call("POST", "/admin/login", Object.fromEntries(form));
  token = answer.access_token;
  sessionStorage.setItem("token", token);
  event.target.password.value = "";
  await list();
}));
$("create").addEventListener("submit", guarded(async (event) => {
  const [item] = await call("POST", "/api/admin/items", [Object.fromEntries(new FormData(event.target))]);
  chosen.add(item.id);
  event.target.reset();
  await list();
}));
$("queue").addEventListener("click", guarded(async () => {
  const queued = await call("POST", "/api/admin/bulk/regenerate-embeddings", { item_ids: [...chosen] });
  chosen.clear();
  await watch(queued.task_ids);
}));
$("all").addEventListener("change", guarded(async () => {
  chosen.clear();
  const items = await list();
  if ($("all").checked) items.forEach((item) => chosen.add(item.id));
  await list();
}));
$("logout").addEventListener("click", leave);
show();
if (token) guarded(list)();
askWorkers();
setInterval(askWorkers, 15000);
