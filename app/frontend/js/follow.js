// A task until it ends: by its stream of events, or by asking when there is no stream.
import { call } from "./api.js";

export const ENDED = new Set(["success", "failure", "revoked"]);
const SILENCE = 3000; // ms without a first event: a proxy may hold the stream back
const PAUSE = 1000; // ms between questions
const PATIENCE = 10; // questions in a row that may fail

async function poll(id, show, signal) {
  for (let failures = 0; ; ) {
    signal.throwIfAborted();
    try {
      const task = await call("GET", `/api/task/${id}`, undefined, signal);
      failures = 0;
      show(task);
      if (ENDED.has(task.status)) return task;
    } catch (error) {
      failures += 1;
      if (signal.aborted || failures >= PATIENCE) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
  }
}

function stream(id, show, signal) {
  return new Promise((resolve) => {
    const source = new EventSource(`/api/task/${id}/events`);
    const end = (task) => {
      clearTimeout(silent);
      source.close();
      resolve(task);
    };
    const silent = setTimeout(end, SILENCE);
    signal.addEventListener("abort", () => end());
    source.addEventListener("error", () => end());
    source.addEventListener("message", (event) => {
      clearTimeout(silent);
      const task = JSON.parse(event.data);
      show(task);
      if (ENDED.has(task.status)) end(task);
    });
  });
}

// `show` gets every state; the promise gets the last one.
export async function follow(id, show, signal) {
  return (await stream(id, show, signal)) ?? poll(id, show, signal);
}
