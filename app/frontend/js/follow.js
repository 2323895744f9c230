// A task until it ends: by its stream of events, or by asking when there is no stream.
import { authorization, call } from "./api.js";

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

// Not by EventSource, which cannot say who asks. Nothing when the stream ends before the task does.
async function stream(id, show, signal) {
  const silence = new AbortController();
  const silent = setTimeout(() => silence.abort(), SILENCE);
  const headers = { Accept: "text/event-stream", ...authorization() };
  try {
    const either = AbortSignal.any([signal, silence.signal]);
    const response = await fetch(`/api/task/${id}/events`, { headers, signal: either });
    if (!response.ok) return undefined;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = ""; ; ) {
      const { value, done } = await reader.read();
      if (done) return undefined;
      const events = (text + value).split(/\r?\n\r?\n/);
      text = events.pop(); // what has not come as a whole
      for (const event of events) {
        const data = event.split(/\r?\n/).find((line) => line.startsWith("data:"));
        if (data === undefined) continue; // a heartbeat
        clearTimeout(silent);
        const task = JSON.parse(data.slice(5));
        show(task);
        if (ENDED.has(task.status)) {
          reader.cancel();
          return task;
        }
      }
    }
  } catch {
    return undefined; // aborted, or cut off
  } finally {
    clearTimeout(silent);
  }
}

// `show` gets every state; the promise gets the last one.
export async function follow(id, show, signal) {
  return (await stream(id, show, signal)) ?? poll(id, show, signal);
}
