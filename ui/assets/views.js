// Each function draws one section of the view into its place on the page.
import { el, pill, rows } from "./dom.js";
import { age, bytes, clock, level } from "./words.js";

const $ = (id) => document.getElementById(id);

/** since is an age that the page's own clock keeps counting. */
const since = (at) => (at ? el("time", { "data-since": at }, "") : "-");

export function head(h) {
  const log = h.voters === 1 ? "1 voter" : `${h.voters} voters`;
  $("leader").textContent = h.leader ? `leader ${h.leader} (term ${h.term}, ${log})` : "no leader: nothing can be queued or changed";
  $("survives").textContent = h.survives;
  document.title = `${h.ready ? "" : "NOT READY - "}ComfyUME on ${h.node}`;
}

export function counts(c) {
  const items = [["waiting", c.waiting], ["running", c.running], ["done", c.done], ["failed", c.failed], ["cancelled", c.cancelled], ["people online", `${c.online}/${c.people}`]];
  rows($("counts"), items, (i) => i[0], ([word, n]) => el("div", { class: "count", "data-count": word }, el("b", {}, String(n)), word));
}

export function attention(list) {
  rows($("attention"), list, (p) => `${p.what} ${p.user ?? ""}`, (p) =>
    el("li", {}, pill(p.level === "fail" ? "problem" : "notice", p.level), " ", p.user ? el("b", {}, `${p.user}: `) : "", p.what, " ",
      p.cure ? el("span", { class: "quiet" }, p.cure) : "", p.since ? el("span", { class: "quiet" }, " ", since(p.since)) : ""),
  "Nothing needs you.");
}

export function workers(list) {
  rows($("workers"), list, (w) => w.id, (w) =>
    el("li", {}, el("b", {}, w.id), " ", pill(w.state, level(w.state)), " ", w.device, " ",
      el("span", { class: "quiet" }, [w.comfyui && `ComfyUI ${w.comfyui}`, w.vram && `VRAM ${bytes(w.vram - w.vram_free)} of ${bytes(w.vram)}`].filter(Boolean).join(", ")),
      w.job ? el("div", {}, `${w.job.user} `, el("span", { class: "quiet" }, w.job.prompt_id), " ", bar(w.percent)) : "",
      w.detail ? el("div", { class: "quiet" }, w.detail) : ""),
  "No worker has been seen. Editing and queueing work; jobs wait until a GPU joins.");
}

export function nodes(list) {
  rows($("nodes"), list, (n) => n.id, (n) =>
    el("tr", {}, el("td", { title: n.id }, n.name), el("td", {}, n.roles.join(", ")), el("td", {}, pill(n.state, level(n.state))),
      el("td", {}, n.leader ? "leader" : n.voter ? "voter" : "-"),
      el("td", {}, n.disk < 0 ? "-" : el("span", { "data-level": n.disk >= 90 ? "fail" : n.disk >= 70 ? "warn" : "none" }, `${n.disk} % used`)), el("td", {}, n.version)));
}

/** stateOf is a job's state in a page's words: what has no GPU yet is waiting. */
const stateOf = (j) => pill(j.state === "pending" || j.state === "assigned" ? "waiting" : j.state, level(j.state));

const title = (j) => [j.title || "workflow", " ", el("span", { class: "quiet", title: j.prompt_id }, `#${j.number}`)];

function bar(percent) {
  if (percent < 0) return el("progress", { "aria-label": "running" });
  return el("span", {}, el("progress", { max: 100, value: percent, "aria-label": `${percent} per cent` }), ` ${percent}%`);
}

function progress(j) {
  if (j.state === "storing") return "storing outputs";
  return j.state === "running" || j.state === "cancelling" ? bar(j.percent) : "";
}

export function queue(view, act) {
  const word = $("filter").value.trim().toLowerCase();
  const list = view.queue.filter((j) => !word || `${j.user} ${j.title} ${j.state}`.toLowerCase().includes(word));
  rows($("jobs"), list, (j) => `${j.user}/${j.prompt_id}`, (j) =>
    el("tr", {}, el("td", {}, j.position ? String(j.position) : "-"), el("td", {}, j.user), el("td", { class: "word" }, ...title(j)), el("td", {}, stateOf(j)),
      el("td", {}, j.started ? age(j.started - j.created) : since(j.created)), el("td", {}, progress(j), j.at ? el("div", { class: "quiet" }, `node ${j.at}`) : ""),
      el("td", {}, j.worker || "-"), el("td", { class: "word" }, j.reason, j.strikes ? ` (${j.strikes} lost attempts)` : ""),
      el("td", {}, j.state === "cancelling" ? "" : el("button", { type: "button", class: "danger", onclick: () => act({ verb: "cancel", user: j.user, prompt_id: j.prompt_id }, `Cancel ${j.user}'s job?`,
        j.state === "running" ? "It is running: what it has made so far is thrown away." : "It leaves the queue.") }, "Cancel"))),
  word ? "Nothing matches." : "The queue is empty.");
  $("more").textContent = view.more ? `and ${view.more} more` : "";
}

export function recent(list) {
  rows($("recent"), list, (j) => `${j.user}/${j.prompt_id}`, (j) =>
    el("tr", {}, el("td", {}, clock(j.ended)), el("td", {}, j.user), el("td", { class: "word" }, ...title(j)), el("td", {}, stateOf(j)),
      el("td", {}, j.started ? age(j.ended - j.started) : "-"), el("td", {}, String(j.outputs)), el("td", { class: "word" }, j.reason)),
  "No job has ended yet.");
}

export function people(list, act) {
  rows($("people"), list, (p) => p.name, (p) =>
    el("li", { "data-level": p.error ? "fail" : "none" }, el("div", { class: "line" }, el("b", {}, p.name),
      pill(p.disabled ? "shut out" : p.online ? "online" : p.visited ? "away" : "not seen", p.disabled ? "warn" : p.online ? "good" : "none")),
      el("div", { class: "quiet" }, `${p.running} running, ${p.waiting} waiting`),
      p.error ? el("div", {}, pill("last job failed", "fail"), ` ${p.error}`) : "",
      el("button", { type: "button", onclick: () => act({ verb: p.disabled ? "enable" : "disable", user: p.name }, p.disabled ? `Let ${p.name} in again?` : `Shut ${p.name} out?`,
        p.disabled ? "They can sign in at once." : "They cannot sign in until you let them in again. Their work and their queued jobs stay.") }, p.disabled ? "Let in" : "Shut out")),
  "There are no accounts.");
}

export function audit(list) {
  rows($("audit"), list, (a) => `${a.at} ${a.actor} ${a.what}`, (a) => el("li", {}, `${clock(a.at)} `, el("b", {}, a.actor), ` ${a.what}`), "Nobody has changed anything.");
}

/** ages lets every age on the page go on counting. */
export function ages(now) {
  for (const e of document.querySelectorAll("time[data-since]")) {
    const text = age(now - Number(e.dataset.since));
    if (e.textContent !== text) e.textContent = text;
  }
}
