// The page: it keeps the newest view, draws what changed and says so loudly
// when what it shows is old.
import { lock, pill, text } from "./dom.js";
import { follow, get, post, setToken } from "./feed.js";
import * as verbs from "./verbs.js";
import { clock, moment } from "./words.js";
import * as draw from "./views.js";

const $ = (id) => document.getElementById(id);
const staleAfter = 5000; // milliseconds without a word from the node
const view = {};
let heard = 0; // when the node last spoke, by this page's clock
let offset = 0; // the node's clock minus ours

const sections = {
  head: () => { draw.head(view.head); draw.pauses(view.head, act); },
  counts: () => draw.counts(view.counts),
  attention: () => draw.attention(view.attention),
  workers: () => draw.workers(view, act),
  nodes: () => draw.nodes(view.nodes, act),
  queue: () => draw.queue(view, act),
  recent: () => draw.recent(view.recent, act),
  people: () => draw.people(view, act, look),
  audit: () => draw.audit(view.audit),
  log: () => draw.log(view),
  backups: () => draw.backups(view.backups),
};

/** also are the sections that show something of another one. */
const also = { head: ["workers", "queue", "people", "log"], more: ["queue"], nodes: ["log"] };

function event(name, data) {
  heard = Date.now();
  offset = data.now - heard;
  Object.assign(view, data.view);
  if (!view.head) return;
  $("main").hidden = false;
  $("signin").hidden = true;
  const changed = Object.keys(data.view ?? {});
  for (const name of new Set([...changed, ...changed.flatMap((c) => also[c] ?? [])])) sections[name]?.();
  lock(view.head.readonly);
  clockTick();
}

/** clockTick shows how old the page is; it runs whether or not the node speaks. */
function clockTick() {
  const old = heard ? Date.now() - heard : 0;
  const stale = heard > 0 && old > staleAfter;
  document.body.classList.toggle("stale", stale);
  text($("stale"), stale ? `No word from the node for ${Math.round(old / 1000)} seconds. What you see is old; this page keeps trying.` : "");
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

/** say shows what became of the last action; a refusal stays until it is closed or the next one. */
let unsay = 0;
function say(words, level) {
  clearTimeout(unsay);
  text($("said"), level === "fail" ? words : "");
  text($("done"), level === "fail" ? "" : words);
  $("unsay").hidden = words === "";
  if (level !== "fail") unsay = setTimeout(() => say("", "good"), 8000);
}

async function send(ask, action) {
  const [why, answer] = await post(action, ask.to);
  if (why) return say(why, "fail");
  say(ask.done ?? "", "good");
  if (answer.kind) show(answer);
  if (answer.lines) print(answer);
}

/** print has the end of a ComfyUI's log on the page until it is closed. */
function print(log) {
  text($("printed-title"), `What ComfyUI of worker ${log.worker} printed`);
  $("printed-text").textContent = log.lines.map((l) => `${clock(l.at)} ${l.text}`).join("\n") || "Nothing yet.";
  $("printed").showModal();
  $("printed-text").scrollTop = $("printed-text").scrollHeight;
}

/** show has a pass on the page until it is closed. */
function show(pass) {
  const [title, words] = verbs.shown(pass, moment(pass.until));
  text($("pass-title"), title);
  text($("pass-words"), words);
  $("pass-text").value = pass.text;
  $("pass").showModal();
  $("pass-text").select();
}

/** look shows what went wrong for somebody, or behind an error id, once a second as long as it is open. */
let looking = "";
async function look(of) {
  looking = of;
  const dialog = $("troubles");
  for (let first = true; looking === of && (first || dialog.open); first = false) {
    const [why, t] = await get(`api/troubles?of=${encodeURIComponent(of)}`);
    if (looking !== of || (!first && !dialog.open)) return;
    if (why && first) return say(why, "fail");
    if (why) text($("troubles-note"), why);
    else draw.troubles(t);
    if (first) dialog.showModal();
    await new Promise((done) => setTimeout(done, 1000));
  }
}

/** act does what a button asks for. It asks first when the ask has a title; not() is called when the person leaves it. */
function act(ask, not = () => {}) {
  if (view.head.readonly) {
    say(`Nothing was changed. ${view.head.readonly}`, "fail");
    return not();
  }
  if (!ask.title) return send(ask, ask.action);
  let yes = false;
  text($("ask-title"), ask.title);
  text($("ask-text"), ask.text);
  $("ask-yes").textContent = ask.title.replace(/\?$/, "");
  $("ask-yes").classList.toggle("danger", ask.danger === true);
  $("ask-why-label").hidden = !ask.why;
  $("ask-why").value = "";
  $("ask-form").onsubmit = (e) => {
    e.preventDefault();
    yes = true;
    $("ask").close();
    send(ask, ask.why ? { ...ask.action, why: $("ask-why").value.trim() } : ask.action);
  };
  $("ask").onclose = () => { if (!yes) not(); };
  $("ask").showModal();
  $(ask.why ? "ask-why" : ask.danger ? "ask-no" : "ask-yes").focus();
}

$("unsay").addEventListener("click", () => say("", "good"));
$("ask-no").addEventListener("click", () => $("ask").close());
$("find").addEventListener("submit", (e) => { e.preventDefault(); look($("find-of").value.trim()); });
$("troubles-close").addEventListener("click", () => $("troubles").close());
$("printed-close").addEventListener("click", () => $("printed").close());
$("pass-close").addEventListener("click", () => $("pass").close());
$("pass").addEventListener("close", () => { $("pass-text").value = ""; });
$("pass-copy").addEventListener("click", async () => {
  $("pass-text").select();
  await navigator.clipboard?.writeText($("pass-text").value).then(() => say("It is in the clipboard.", "good"), () => {});
});
$("pause").addEventListener("click", () => view.head && act(view.head.paused ? verbs.resume("all") : verbs.pause("all")));
$("mode").addEventListener("change", () => {
  const back = () => { $("mode").value = view.head.mode; };
  act(verbs.mode($("mode").value), back);
});
$("mode").addEventListener("blur", () => { if (view.head && !$("ask").open) $("mode").value = view.head.mode; });

const className = () => (view.head.class || "free").split(/[ :]/)[0];
$("class").addEventListener("change", () => act(verbs.classMode($("class").value), () => { $("class").value = className(); }));
$("class").addEventListener("blur", () => { if (view.head && !$("ask").open) $("class").value = className(); });
$("filter").addEventListener("input", () => { if (view.queue) { draw.queue(view, act); lock(view.head.readonly); } });

/** places is where "g" and a letter go. */
const places = { q: "queue", n: "machines", u: "persons", r: "ended", l: "log" };
let went = 0; // when "g" was pressed

document.addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.altKey || e.metaKey || e.target.closest("input, select, dialog")) return;
  const place = places[e.key];
  if (e.key === "/") $("filter").focus();
  else if (e.key === "g") went = Date.now();
  else if (place && Date.now() - went < 1500) {
    if (place === "log") $("log").open = true;
    $(place).scrollIntoView();
    $(place).focus({ preventScroll: true });
  } else if (e.key === "p") $("pause").click();
  else return;
  e.preventDefault();
});
setInterval(clockTick, 500);
follow({ event, refused, lost: clockTick });
