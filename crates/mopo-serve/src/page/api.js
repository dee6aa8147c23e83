// Requests to the server that this page comes from.

const KEY = "mopo-api-key";

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function hasKey() {
  return Boolean(sessionStorage.getItem(KEY));
}

export function setKey(key) {
  sessionStorage.setItem(KEY, key);
}

async function send(path, options = {}) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (options.body) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { ...options, headers, credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "the server cannot be reached");
  }
  if (response.ok) return response;
  let message = `the server answered with status ${response.status}`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // Not from this server: the status says enough.
  }
  throw new ApiError(response.status, message);
}

export async function read(path) {
  return (await send(path)).json();
}

export async function post(path, body, signal) {
  return (await send(path, { method: "POST", body: JSON.stringify(body), signal })).json();
}

// Streams an answer: `onText` gets each piece. Returns why it ended.
export async function stream(path, body, signal, onText) {
  const response = await send(path, { method: "POST", body: JSON.stringify({ ...body, stream: true }), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  let reason = null;
  for (;;) {
    const { value, done } = await reader.read();
    held += value || "";
    const events = held.split("\n\n");
    held = events.pop();
    for (const event of events) {
      const data = event.startsWith("data: ") ? event.slice(6) : "";
      if (!data) continue;
      if (data === "[DONE]") return reason;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(500, chunk.error.message);
      for (const choice of chunk.choices) {
        if (choice.delta.content) onText(choice.delta.content);
        reason = choice.finish_reason || reason;
      }
    }
    if (done) throw new ApiError(0, "the connection ended before the answer did");
  }
}
