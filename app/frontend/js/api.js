// Requests to the backend, with the token of who is logged in.

let token = sessionStorage.getItem("token");

export const isInside = () => Boolean(token);

export function enter(given) {
  token = given;
  sessionStorage.setItem("token", token);
}

export function leave() {
  token = null;
  sessionStorage.clear();
  document.dispatchEvent(new Event("left"));
}

function told(answer, path, status) {
  const { detail } = answer ?? {};
  if (Array.isArray(detail)) return detail.map((one) => one.msg).join("; ");
  return detail || `${path}: ${status}`;
}

// An answer that came after its asker had left is not for whoever sits there now.
export class LeftError extends Error {}

// Who asks: things belong to who started them.
export const authorization = () => (token ? { Authorization: `Bearer ${token}` } : {});

export async function call(method, path, body, signal) {
  const headers = authorization();
  const asker = token;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const response = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body) });
  const answer = response.status === 204 ? {} : await response.json().catch(() => null);
  if (asker && token !== asker) throw new LeftError();
  if (response.status === 401 && token) leave();
  if (!response.ok || answer === null) throw new Error(told(answer, path, response.status));
  return answer;
}
