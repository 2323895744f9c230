// The line at the top: does a worker answer, and of which release is this.
import { $ } from "./dom.js";

const EVERY = 15000; // ms

async function ask() {
  const where = $("health");
  const text = where.querySelector(".text");
  try {
    const answer = await (await fetch("/api/celery/health")).json();
    const up = answer.status === "ok";
    where.className = up ? "up" : "down";
    text.textContent = up ? `a worker answered in ${answer.latency_ms} ms` : `no answer: ${answer.down} is down`;
    where.title = answer.worker || "";
    $("release").textContent = `release ${(await (await fetch("/health")).json()).release}`;
  } catch {
    where.className = "down";
    text.textContent = "the backend does not answer";
  }
}

export function start() {
  ask();
  setInterval(ask, EVERY);
}
