// Each function draws one section of the view into its place on the page.
import { button, el, pill, rows, text } from "./dom.js";
import * as verbs from "./verbs.js";
import { age, bytes, clock, level, money, plural } from "./words.js";

const $ = (id) => document.getElementById(id);

/** since is an age that the page's own clock keeps counting. */
const since = (at) => (at ? el("time", { "data-since": at }, "") : "-");

export function head(h) {
  $("leader").replaceChildren(pill(h.leader ? `leader ${h.leader}` : "no leader", h.leader ? "good" : "fail"),
    el("span", { class: "quiet" }, ` term ${h.term}, ${plural(h.voters, "voter")}`));
  $("via").hidden = !h.via;
  $("via").replaceChildren(`shown by ${h.via}, `, since(h.seen), " old");
  text($("readonly"), h.readonly ? `Read-only: ${h.readonly}` : "");
  $("readonly").dataset.level = h.via && h.leader ? "note" : "fail"; // a node that only runs jobs never steers: nothing is wrong with it
  text($("survives"), h.survives);
  $("pause").textContent = h.paused ? "Resume queue" : "Pause queue";
  if (document.activeElement !== $("mode")) $("mode").value = h.mode;
  if (document.activeElement !== $("class")) $("class").value = (h.class || "free").split(/[ :]/)[0];
  text($("class-words"), h.class ? `Class: ${h.class}` : "");
  document.title = `${!h.leader ? "NO LEADER - " : h.ready ? "" : "NOT READY - "}ComfyUME on ${h.node}`;
}

export function pauses(h, act) {
  rows($("pauses"), h.pauses, (p) => p.scope, (p) =>
    el("li", {}, pill("paused", "warn"), " ", el("b", {}, verbs.scopeName(p.scope)), ` by ${p.actor} for `, since(p.at), p.why ? `: ${p.why}` : "", " ",
      button("Resume", verbs.scopeName(p.scope), act, verbs.resume(p.scope))));
}

export function counts(c) {
  const items = [["waiting", c.waiting], ["running", c.running], ["done", c.done], ["failed", c.failed], ["cancelled", c.cancelled], ["people online", `${c.online}/${c.people}`]];
  rows($("counts"), items, (i) => i[0], ([word, n]) => el("div", { class: "count", "data-count": word }, el("b", {}, String(n)), word));
}

export function attention(list) {
  rows($("attention"), list, (p) => `${p.what} ${p.user ?? ""}`, (p) =>
    el("li", {}, pill(p.level === "fail" ? "problem" : "notice", p.level), " ", p.user ? el("b", {}, `${p.user}: `) : "", p.what,
      p.since ? el("span", { class: "quiet" }, ", ", since(p.since)) : "", p.cure ? el("div", { class: "quiet" }, p.cure) : ""),
  "Nothing needs you.");
}

/** isPaused tells whether exactly this scope is held up. */
const isPaused = (h, scope) => h.pauses.some((p) => p.scope === scope);

/** pauser is the button that holds a scope up or lets it go. */
const pauser = (scope, paused, act) => (paused ? button("Resume", verbs.scopeName(scope), act, verbs.resume(scope)) : button("Pause", verbs.scopeName(scope), act, verbs.pause(scope)));

export function workers(view, act) {
  rows($("workers"), view.workers.map((w) => ({ ...w, paused: isPaused(view.head, `worker/${w.id}`) })), (w) => w.id, (w) =>
    el("li", {}, el("div", { class: "line" }, el("span", {}, el("b", {}, w.id), " ", pill(w.state, level(w.state)), w.paused ? [" ", pill("paused", "warn")] : "", " ", w.device), pauser(`worker/${w.id}`, w.paused, act)),
      el("div", { class: "quiet" }, [w.comfyui && `ComfyUI ${w.comfyui}`, w.vram && `VRAM ${bytes(w.vram - w.vram_free)} of ${bytes(w.vram)}`, w.load >= 0 && `load ${w.load} %`, w.heat >= 0 && `${w.heat} °C`, w.models && `in memory: ${w.models.map((m) => m.split("/").pop()).join(", ")}`, w.swaps > 0 && `models loaded ${w.swaps} times in the last hour${w.loading_s > 0 ? `, ${w.loading_s} s` : ""}`].filter(Boolean).join(", ")),
      w.job ? el("div", {}, `${w.job.user} `, bar(w.percent), " ", el("span", { class: "quiet" }, w.job.prompt_id)) : "",
      w.detail ? el("div", { class: "quiet" }, w.detail) : "",
      w.lacks ? el("div", { class: "quiet" }, `cannot run these templates, for it lacks their files: ${w.lacks.join("; ")}`) : "",
      tended(w, act)),
  "No worker has been seen. Editing and queueing work; jobs wait until a GPU joins.");
}

/** tended is what can be done with a worker's ComfyUI from here. */
function tended(w, act) {
  if (w.state === "not here" || w.state === "silent") return "";
  const all = [];
  if (w.state === "takes no jobs") all.push(button("Release", w.id, act, verbs.release(w)));
  if (w.ours) {
    all.push(button("Log", w.id, act, verbs.log(w)));
    if (w.state === "stopped") all.push(button("Start", w.id, act, verbs.start(w)));
    else all.push(button("Restart", w.id, act, verbs.restart(w)), button("Stop", w.id, act, verbs.stop(w)));
  }
  if (w.state === "idle" || w.state === "takes no jobs") all.push(button("Free memory", w.id, act, verbs.free(w)));
  return el("div", { class: "acts" }, ...all);
}

/** seen is when a node was last heard of; one that reports all the while has no time of it. */
const seen = (n) => (n.seen ? [since(n.seen), " ago"] : [n.state === "alive" || n.state === "slow" ? "now" : "-"]);

/** fullIn is when a disk is 90 % full, if it grows on as it did. */
const fullIn = (s) => (s === 0 ? "full" : `90 % in ${s >= 172800 ? plural(Math.floor(s / 86400), "day") : s >= 7200 ? `${Math.floor(s / 3600)} h` : `${Math.max(1, Math.floor(s / 60))} min`}`);

export function nodes(list, act) {
  rows($("nodes"), list, (n) => n.id, (n) =>
    el("tr", {}, el("td", { title: n.id }, el("b", {}, n.name), n.waits ? el("div", { class: "quiet" }, n.waits) : "", n.price ? el("div", { class: "quiet" }, `${money(n.price, n.currency)}/h, so far ${money(n.spent, n.currency)}`) : ""), el("td", {}, n.roles.join(", "), n.door ? el("div", { class: "quiet" }, `door ${n.door}`) : ""),
      el("td", {}, pill(n.state, level(n.state)), n.since ? el("span", { class: "quiet" }, " ", since(n.since)) : "", n.drained ? [" ", pill("drained", "warn", `by ${n.drained}`)] : ""),
      el("td", {}, n.part === "leader" ? el("b", {}, "leader") : n.part || "-"), el("td", {}, ...seen(n)),
      el("td", {}, n.disk < 0 ? "-" : el("span", { "data-level": n.disk >= 90 ? "fail" : n.disk >= 70 ? "warn" : "none" }, `${n.disk} %`), n.space && n.space.full_s >= 0 ? el("div", { class: "quiet" }, fullIn(n.space.full_s)) : ""),
      el("td", {}, n.version, el("span", { class: "quiet" }, ` level ${n.level}`)),
      el("td", { class: "acts" }, n.drained ? button("End drain", n.name, act, verbs.undrain(n)) : button("Drain", n.name, act, verbs.drain(n)),
        ["dead", "silent", "left"].includes(n.state) ? button("Forget", n.name, act, verbs.forget(n)) : "")),
  "No machine is known yet.");
}

/** backups shows each place of backups: the last one, and when a restore was last proven. */
export function backups(list) {
  $("kept").hidden = !list;
  rows($("backups"), list ?? [], (b) => `${b.node} ${b.place}`, (b) =>
    el("li", {}, pill(b.problem ? "problem" : "in order", b.problem ? "fail" : "good"), " ", el("b", {}, b.place), ` by ${b.node}`,
      el("div", { class: "quiet" }, ...(b.made ? ["last one ", since(b.made), ` ago, ${b.files} ${b.files === 1 ? "file" : "files"}, ${bytes(b.bytes)}`] : ["none yet"]),
        ...(b.proven ? ["; last proven restore ", since(b.proven), " ago"] : ["; no restore proven yet: comfyume-agent backup drill"])),
      b.problem ? el("div", {}, b.problem) : ""),
  "");
}

export function log(view) {
  const l = view.log;
  text($("log-title"), `Replicated log: ${plural(l.servers.length, "member")}, generation ${l.generation}`);
  rows($("servers"), l.servers.map((s) => ({ ...s, now: view.nodes.some((n) => n.name === s.node && (n.state === "alive" || n.state === "slow")) })), (s) => s.node, (s) =>
    el("tr", {}, el("td", {}, s.node), el("td", {}, s.part), el("td", {}, s.index ? String(s.index) : "-"), el("td", {}, s.index ? String(s.lag) : "-"),
      el("td", {}, ...(s.contact ? [since(s.contact), " ago"] : [s.now ? "now" : "-"]))),
  "This node has no copy of the log.");
  text($("log-facts"), `Workshop ${l.workshop || "none yet"}, term ${view.head.term}, level ${view.head.level}, newest entry ${l.last_index}, ` +
    (l.copied_index ? `on two machines up to entry ${l.copied_index}.` : "no second machine counts as a copy."));
}

/** stateOf is a job's state in a page's words: what has no GPU yet is waiting. */
const stateOf = (j) => pill(waits(j) ? "waiting" : j.state, level(j.state));

const waits = (j) => j.state === "pending" || j.state === "assigned";

const title = (j) => [j.title || "workflow", " ", el("span", { class: "quiet", title: j.prompt_id }, `#${j.number}`)];

function bar(percent) {
  if (percent < 0) return el("progress", { "aria-label": "running" });
  return el("span", {}, el("progress", { max: 100, value: percent, "aria-label": `${percent} per cent` }), ` ${percent}%`);
}

function progress(j) {
  if (j.state === "storing") return "storing outputs";
  return j.state === "running" || j.state === "cancelling" ? bar(j.percent) : "";
}

/** expected is when a waiting job will begin and how long it will run. */
const expected = (j, now) => `in ${age(Math.max(1000, j.expected_start - now))}, runs ${age(Math.max(1000, (j.expected_load ?? 0) + (j.expected_run ?? 0)))}`;

/** why is what holds a job up, and what one should know of it. */
function why(j, h) {
  const all = [j.reason, j.strikes ? plural(j.strikes, "lost attempt") : ""];
  if (waits(j) && !j.reason.includes("paused")) {
    if (isPaused(h, "all")) all.push("the queue is paused");
    if (isPaused(h, `user/${j.user}`)) all.push(`${j.user} is paused`);
  }
  return all.filter(Boolean).join("; ");
}

export function queue(view, act) {
  const word = $("filter").value.trim().toLowerCase();
  const list = view.queue.filter((j) => !word || `${j.user} ${j.title} ${j.state} ${waits(j) ? "waiting" : ""}`.toLowerCase().includes(word));
  rows($("jobs"), list.map((j) => ({ ...j, why: why(j, view.head) })), (j) => `${j.user}/${j.prompt_id}`, (j) =>
    el("tr", {}, el("td", {}, j.position ? String(j.position) : "-"), el("td", {}, j.user), el("td", { class: "word" }, ...title(j)),
      el("td", {}, stateOf(j), j.copies === 1 ? [" ", pill("one copy", "warn", "On one machine only so far: the loss of that machine loses the job.")] : ""),
      el("td", {}, j.started ? age(j.started - j.created) : since(j.created)), el("td", {}, waits(j) && j.expected_start ? expected(j, view.now) : "", progress(j), j.at ? el("div", { class: "quiet" }, `node ${j.at}`) : ""),
      el("td", {}, j.worker || "-"), el("td", { class: "word" }, j.why),
      el("td", { class: "acts" }, waits(j) ? [button("To front", `${j.user} #${j.number}`, act, verbs.front(j)), button("Now", `${j.user} #${j.number}`, act, verbs.now(j))] : "",
        j.state === "cancelling" ? "" : button("Cancel", `${j.user} #${j.number}`, act, verbs.cancel(j)))),
  word ? "Nothing matches." : "The queue is empty.");
  text($("more"), view.more ? `and ${view.more} more` : "");
}

export function recent(list, act) {
  rows($("recent"), list, (j) => `${j.user}/${j.prompt_id}`, (j) =>
    el("tr", {}, el("td", {}, clock(j.ended)), el("td", {}, j.user), el("td", { class: "word" }, ...title(j)), el("td", {}, stateOf(j)),
      el("td", {}, j.started ? age(j.ended - j.started) : "-"), el("td", {}, String(j.outputs)), el("td", { class: "word" }, j.reason),
      el("td", { class: "acts" }, button("Retry", `${j.user} #${j.number}`, act, verbs.retry(j)))),
  "No job has ended yet.");
}

/** troubles is what went wrong for somebody, or behind an error id. */
export function troubles(t) {
  text($("troubles-title"), `What went wrong for ${t.of}`);
  text($("troubles-note"), t.silent.length ? `${t.silent.join(", ")} did not answer: what was refused there is missing.` : "The newest first, and read again every second.");
  rows($("troubles-requests"), t.requests, (r) => `${r.at} ${r.node} ${r.id} ${r.path}`, (r) =>
    el("tr", {}, el("td", {}, clock(r.at)), el("td", {}, r.user), el("td", { class: "word", title: r.path }, `${r.method} ${r.route || r.path}`),
      el("td", { class: "word" }, pill(String(r.status), r.status >= 500 ? "fail" : "warn"), ` ${r.text}`, r.cure ? el("div", { class: "quiet" }, r.cure) : ""),
      el("td", { title: `in the log of ${r.node}` }, el("code", {}, r.id || "-"))),
  "No request was refused since the doors started.");
  rows($("troubles-jobs"), t.jobs, (j) => `${j.user}/${j.prompt_id}`, (j) =>
    el("tr", {}, el("td", {}, clock(j.created)), el("td", {}, j.user), el("td", { class: "word" }, ...title(j)), el("td", {}, stateOf(j)),
      el("td", { class: "word" }, j.reason, j.cure ? el("div", { class: "quiet" }, j.cure) : ""), el("td", {}, j.worker || "-"), el("td", { title: j.prompt_id }, el("code", {}, j.prompt_id.slice(0, 8)))),
  "They have queued nothing yet.");
}

export function people(view, act, look) {
  rows($("people"), view.people.map((p) => ({ ...p, paused: isPaused(view.head, `user/${p.name}`) })), (p) => p.name, (p) =>
    el("li", { "data-level": p.error ? "fail" : "none" }, el("div", { class: "line" }, el("b", {}, p.name),
      pill(p.disabled ? "shut out" : p.online ? "online" : p.visited ? "away" : "not seen", p.disabled ? "warn" : p.online ? "good" : "none")),
      el("div", {}, el("span", { class: "quiet" }, `${p.running} running, ${p.waiting} waiting`, p.used.gpu ? `, GPU ${age(p.used.gpu)}${Object.entries(p.used.cost ?? {}).map(([c, n]) => `, ${money(n, c)}`).join("")}` : "", p.disk || p.disk_bound ? `, files ${bytes(p.disk)}${p.disk_bound ? ` of ${bytes(p.disk_bound)}` : ""}` : ""), p.paused ? [" ", pill("paused", "warn")] : ""),
      p.error ? el("div", {}, pill("last job failed", "fail"), ` ${p.error}`) : "",
      el("div", { class: "acts" }, pauser(`user/${p.name}`, p.paused, act),
        el("button", { type: "button", "aria-label": `Errors: ${p.name}`, onclick: () => look(p.name) }, "Errors"),
        p.waiting ? [button("Boost", p.name, act, verbs.boost(p.name)), button("Quota", p.name, act, verbs.quota(p.name))] : "",
        p.disk && !p.disk_bound ? button("Bound disk", p.name, act, verbs.disk(p.name)) : "",
        ...p.disabled ? [] : [button("Link", p.name, act, verbs.link(p.name)), button("Token", p.name, act, verbs.token(p.name)), button("Sign out", p.name, act, verbs.signout(p.name))],
        p.disabled ? button("Let in", p.name, act, verbs.enable(p.name)) : button("Shut out", p.name, act, verbs.disable(p.name)))),
  "There are no accounts.");
}

export function audit(list) {
  rows($("audit"), list, (a) => `${a.at} ${a.actor} ${a.what}`, (a) => el("li", {}, `${clock(a.at)} `, el("b", {}, a.actor), ` ${a.what}`), "Nobody has changed anything.");
}

/** ages lets every age on the page go on counting. */
export function ages(now) {
  for (const e of document.querySelectorAll("time[data-since]")) {
    const words = age(now - Number(e.dataset.since));
    if (e.textContent !== words) e.textContent = words;
  }
}
