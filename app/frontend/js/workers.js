// Who works on what, and what waits; asked again while it is looked at.
import { call, isInside } from "./api.js";
import { $, cell, guarded } from "./dom.js";

const EVERY = 5000; // ms
let timer = null;

function show({ workers, queues, unacked }) {
  $("worker-rows").replaceChildren();
  for (const { name, queues: from, active, reserved, pool } of workers) {
    const row = $("worker-rows").insertRow();
    cell(row, name, "title");
    for (const text of [active, reserved, `${pool.kind} × ${pool.size}`]) cell(row, text);
    cell(row, from.join(", "), "wide");
  }
  $("no-workers").hidden = workers.length > 0;
  $("queue-rows").replaceChildren();
  for (const { name, waiting } of queues) {
    const row = $("queue-rows").insertRow();
    cell(row, name, "title");
    cell(row, waiting);
  }
  $("unacked").textContent = `${unacked} delivered and not yet acknowledged · as of ${new Date().toLocaleTimeString()}`;
}

const refresh = guarded(async () => show(await call("GET", "/api/admin/workers")));

export function clear() {
  clearTimeout(timer);
  $("worker-rows").replaceChildren();
  $("queue-rows").replaceChildren();
  $("unacked").textContent = "";
}

export async function open() {
  clearTimeout(timer);
  await refresh();
  if (isInside() && !$("workers").hidden) timer = setTimeout(open, EVERY);
}

export function start() {
  $("workers-refresh").addEventListener("click", refresh);
}
