// The feed: server-sent events read with fetch, because EventSource cannot send
// the token that the node's own site asks for. It reconnects for ever.

const store = "comfyume-token";

/** token is kept for this tab only; it comes in the address behind '#'. */
export function token() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    setToken(given);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem(store);
}

export function setToken(t) {
  sessionStorage.setItem(store, t);
}

/** at is an address beside this page, without the name and password that the page's own may carry: fetch refuses those. */
function at(path) {
  return new URL(path, location.origin + location.pathname);
}

function headers(more = {}) {
  const t = token();
  return t ? { ...more, Authorization: `Bearer ${t}` } : more;
}

/** post sends an action and returns the sentence of a refusal, or "", and what was answered. */
export async function post(action, to = "api/do") {
  try {
    const r = await fetch(at(to), { method: "POST", headers: headers({ "Content-Type": "application/json" }), body: JSON.stringify(action) });
    const body = await r.json().catch(() => ({}));
    return r.ok ? ["", body] : [body.message ?? `The node answered ${r.status}.`, {}];
  } catch {
    return ["The node did not answer. Nothing was changed as far as this page knows.", {}];
  }
}

/** get asks for something once: the sentence of a refusal, or "", and what was answered. */
export async function get(path) {
  try {
    const r = await fetch(at(path), { headers: headers(), cache: "no-store" });
    const body = await r.json().catch(() => ({}));
    return r.ok ? ["", body] : [body.message ?? `The node answered ${r.status}.`, {}];
  } catch {
    return ["The node did not answer.", {}];
  }
}

/** follow calls on.event(name, data) for each event, on.refused(status) when it may not look, on.lost() when the line breaks. */
export async function follow(on) {
  for (let wait = 500; ; wait = Math.min(wait * 2, 5000)) {
    const stop = new AbortController();
    try {
      const r = await fetch(at("api/events"), { headers: headers(), signal: stop.signal, cache: "no-store" });
      if (r.status === 401 || r.status === 403) {
        await on.refused(r.status);
      } else if (r.ok) {
        wait = 500;
        await read(r.body, on, stop);
      }
    } catch {
      // a broken line is the ordinary end of a feed
    }
    stop.abort();
    on.lost();
    await new Promise((done) => setTimeout(done, wait));
  }
}

/** silence is how long a line may say nothing before it is taken for dead. */
const silence = 10_000;

async function read(body, on, stop) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const watch = setTimeout(() => stop.abort(), silence);
    const { done, value } = await reader.read().finally(() => clearTimeout(watch));
    if (done) return;
    text += value;
    for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
      const event = parse(text.slice(0, end));
      if (event.data) on.event(event.name, JSON.parse(event.data));
    }
  }
}

function parse(block) {
  const out = { name: "message", data: "" };
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) out.name = line.slice(7);
    else if (line.startsWith("data: ")) out.data += line.slice(6);
  }
  return out;
}
