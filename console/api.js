// The gateway's API by fetch. A key is asked for only where the gateway answers 401; it stays in this tab's session and goes nowhere but into the Authorization field of requests to this host.

const KEY = "genloop.key";
let held = null;
try { held = sessionStorage.getItem(KEY); } catch { /* storage is switched off: for this page's life only */ }

export const key = {
  get held() { return held; },
  set(value) {
    held = value || null;
    try { held ? sessionStorage.setItem(KEY, held) : sessionStorage.removeItem(KEY); } catch { /* as above */ }
    key.changed();
  },
  changed: () => {},       // the shell's
  ask: async () => false,  // the shell's: asks for a key; true when there is another one
};

/** What went wrong, and what to do about it. */
export class Failure extends Error {
  constructor(status, error, fallback) {
    super(error?.message || fallback);
    this.status = status;
    this.code = error?.code ?? null;
    this.param = error?.param ?? null;
  }

  get remedy() {
    if (this.code === "context_length_exceeded") return "The conversation has outgrown the model's context. Ask without its oldest turn, begin a new one, or choose a model with a longer context.";
    if (this.status === 0) return "The gateway does not answer. See whether it runs (genloop status), then try again.";
    if (this.status === 401) return "Give an API key of this platform: genloop keys create makes one.";
    if (this.status === 403) return "The key that is in use may not do this. Ask for one with the scope that is named, or use another key.";
    if (this.status === 404) return "It may have been removed or renamed: go back to the list.";
    if (this.status === 409) return "It has changed in the meantime. Load the page again and look at its state.";
    if (this.status === 429) return "There is more work than may wait. Try again in a moment.";
    if (this.status === 503) return "A service is starting or stopped: the page Services shows which. Try again in a moment.";
    if (this.status === 504) return "It took longer than is allowed. Ask for less, or raise gateway.timeout.";
    if (this.status >= 500) return "This is a fault of the platform: genloop logs has the details under the request's id.";
    return this.param ? `Change ${this.param} and try again.` : "Change the request and try again.";
  }
}

export function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}

async function failure(answer) {
  let error = null;
  try { error = (await answer.json()).error; } catch { /* no JSON: the status says it */ }
  return new Failure(answer.status, error, `HTTP ${answer.status} ${answer.statusText}`);
}

async function send(path, { method = "GET", body, signal, headers = {} } = {}) {
  for (;;) {
    const with_key = held;
    const fields = { ...headers };
    if (with_key) fields.Authorization = `Bearer ${with_key}`;
    if (body !== undefined) fields["Content-Type"] = "application/json";
    let answer;
    try {
      answer = await fetch(path, { method, headers: fields, body: body === undefined ? undefined : JSON.stringify(body), signal, credentials: "omit", cache: "no-store", redirect: "error" });
    } catch (why) {
      if (signal?.aborted) throw why;
      throw new Failure(0, null, "The gateway cannot be reached.");
    }
    if (answer.ok) return answer;
    const why = await failure(answer);
    if (answer.status !== 401) throw why;
    if (held !== with_key && held) continue; /* another request has been given a key in the meantime */
    if (!(await key.ask(why.message, Boolean(with_key)))) throw why;
  }
}

export async function json(path, options) {
  const answer = await send(path, options);
  return answer.json();
}

export const post = (path, body = {}, options = {}) => json(path, { ...options, method: "POST", body });

/** Every entry of a list in pages, or the first `most`. */
export async function pages(path, name, signal, most = 2000) {
  const found = [];
  let token = "";
  do {
    const page = await json(`${path}${path.includes("?") ? "&" : "?"}limit=${Math.min(1000, most)}${token ? `&page_token=${encodeURIComponent(token)}` : ""}`, { signal });
    found.push(...(page[name] ?? []));
    token = page.next_page_token;
  } while (token && found.length < most);
  return found;
}

/** Server-sent events, by fetch: a key belongs into a header, which EventSource has not. on_event gets each event's JSON; returns at the end of the stream. */
export async function events(path, { on_open, on_event, ...options }) {
  const answer = await send(path, { ...options, headers: { Accept: "text/event-stream", ...options.headers } });
  on_open?.(answer);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", data = [];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Failure(0, null, "The stream broke off before its end.");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines.map((l) => l.replace(/\r$/, ""))) {
      if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
      if (line !== "" || data.length === 0) continue;
      const text = data.join("\n");
      data = [];
      if (text === "[DONE]") {
        await reader.cancel();
        return;
      }
      const event = JSON.parse(text);
      if (event.error) throw new Failure(500, event.error, "The stream ended with an error.");
      on_event(event);
    }
  }
}
