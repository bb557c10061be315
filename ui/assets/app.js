// The page: it keeps the newest view, draws what changed and says so loudly
// when what it shows is old.
import { pill } from "./dom.js";
import { follow, post, setToken } from "./feed.js";
import * as draw from "./views.js";

const $ = (id) => document.getElementById(id);
const staleAfter = 5000; // milliseconds without a word from the node
const view = {};
let heard = 0; // when the node last spoke, by this page's clock
let offset = 0; // the node's clock minus ours

const sections = {
  head: () => draw.head(view.head),
  counts: () => draw.counts(view.counts),
  attention: () => draw.attention(view.attention),
  workers: () => draw.workers(view.workers),
  nodes: () => draw.nodes(view.nodes),
  queue: () => draw.queue(view, act),
  more: () => draw.queue(view, act),
  recent: () => draw.recent(view.recent),
  people: () => draw.people(view.people, act),
  audit: () => draw.audit(view.audit),
};

function event(name, data) {
  heard = Date.now();
  offset = data.now - heard;
  Object.assign(view, data.view);
  if (!view.head) return;
  $("main").hidden = false;
  $("signin").hidden = true;
  for (const name of Object.keys(data.view ?? {})) sections[name]?.();
  clockTick();
}

/** clockTick shows how old the page is; it runs whether or not the node speaks. */
function clockTick() {
  const old = heard ? Date.now() - heard : 0;
  const stale = heard > 0 && old > staleAfter;
  document.body.classList.toggle("stale", stale);
  $("stale").hidden = !stale;
  const said = `No word from the node for ${Math.round(old / 1000)} seconds. What you see is old; this page keeps trying.`;
  if (stale && $("stale").textContent !== said) $("stale").textContent = said;
  if (heard) {
    const ready = view.head.ready;
    const word = stale ? "old" : ready ? "live" : "not ready";
    const now = $("live").firstElementChild;
    if (now.textContent !== word) $("live").replaceChildren(pill(word, stale || !ready ? "fail" : "good"));
  }
  draw.ages(Date.now() + offset);
}

/** refused asks for the token and waits until one is given. */
function refused() {
  $("main").hidden = true;
  $("signin").hidden = false;
  $("token").focus();
  return new Promise((done) => $("signin").addEventListener("submit", (e) => {
    e.preventDefault();
    setToken($("token").value.trim());
    $("token").value = "";
    done();
  }, { once: true }));
}

/** act asks before it sends, and shows a refusal until the next action. */
function act(action, title, text) {
  const ask = $("ask");
  $("ask-title").textContent = title;
  $("ask-text").textContent = text;
  $("ask-yes").textContent = title.replace(/\?$/, "");
  $("ask-no").onclick = () => ask.close();
  $("ask-yes").onclick = async () => {
    ask.close();
    const why = await post(action);
    $("said").textContent = why;
    $("said").hidden = why === "";
  };
  ask.showModal();
  $("ask-no").focus();
}

$("filter").addEventListener("input", () => view.queue && draw.queue(view, act));
document.addEventListener("keydown", (e) => {
  if (e.key === "/" && !e.target.closest("input, dialog")) {
    e.preventDefault();
    $("filter").focus();
  }
});
setInterval(clockTick, 500);
follow({ event, refused, lost: clockTick });
