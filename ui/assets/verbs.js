// What each button asks for. An ask has the action that is sent; a title and a
// text if the person is asked first; danger if something is lost by it; why if
// a reason may be given; done, what is said when it went well.

const name = (j) => `${j.user}'s ${j.title || "workflow"} #${j.number}`;

export const cancel = (j) => ({
  action: { verb: "cancel", user: j.user, prompt_id: j.prompt_id }, danger: true, title: `Cancel ${j.user}'s job?`,
  text: j.state === "running" ? "It is running: what it has made so far is thrown away." : "It leaves the queue.",
});

export const retry = (j) => ({ action: { verb: "retry", user: j.user, prompt_id: j.prompt_id }, done: `Queued again: ${name(j)}.` });

export const front = (j) => ({ action: { verb: "front", jobs: [{ user: j.user, prompt_id: j.prompt_id }] }, done: `At the front: ${name(j)}.` });

export const now = (j) => ({
  action: { verb: "now", jobs: [{ user: j.user, prompt_id: j.prompt_id }] }, danger: true, title: `Begin ${name(j)} now?`, done: `Begins as soon as a GPU is free: ${name(j)}.`,
  text: "If every GPU is at work, the job that loses least is stopped. It goes back to its place and its user reads why.",
});

export const disk = (user) => ({
  action: { verb: "disk", user, bytes: 20e9 }, title: `Bound the disk space of ${user}?`, done: `${user}: 20 GB of files.`,
  text: "Their results, uploads and documents may take 20 GB. Over it they can edit and download, and read what to remove. Another bound, or none: comfyume-agent queue quota.",
});

export const quota = (user) => ({
  action: { verb: "quota", user, queued: 10, n: 1 }, title: `Bound ${user}?`, done: `${user}: 10 jobs queued, one at work at a time.`,
  text: "They may have 10 jobs in the queue, one of them at work. Other bounds, or none: comfyume-agent queue quota.",
});

export const boost = (user) => ({
  action: { verb: "boost", user, until: Date.now() + 600000 }, title: `Let ${user} go first for 10 minutes?`, done: `${user} goes first for 10 minutes.`,
  text: "Their jobs go before everybody's until then.",
});

const classTexts = {
  free: "Everybody's jobs begin in the queue's order.",
  demo: "The instructor's jobs go first, everybody's after them.",
  "hands-off": "Only the instructor's jobs begin. Others are accepted and wait.",
  sprint: "Everybody gets 3 jobs from now on; what is more waits until the sprint is over. For another number: comfyume-agent queue class sprint N.",
};

export const classMode = (word) => ({
  action: word === "sprint" ? { verb: "class", mode: word, n: 3 } : { verb: "class", mode: word }, title: `Class: ${word}?`, text: classTexts[word] ?? "", done: `The class is ${word} now.`,
});

export const disable = (user) => ({
  action: { verb: "disable", user }, danger: true, title: `Shut ${user} out?`,
  text: "They cannot sign in until you let them in again. Their work and their queued jobs stay.",
});

export const enable = (user) => ({ action: { verb: "enable", user }, title: `Let ${user} in again?`, text: "They can sign in at once." });

export const link = (user) => ({
  action: { user }, to: "api/link", title: `Make a sign-in link for ${user}?`,
  text: "It signs them in once, at any door, without their password. An earlier link of theirs does not count any more.",
});

export const token = (user) => ({
  action: { user }, to: "api/token", title: `Make a token for ${user}?`,
  text: "A program of theirs sends it in place of name and password, for 30 days. Sign out ends it.",
});

export const signout = (user) => ({
  action: { verb: "signout", user }, danger: true, title: `Sign ${user} out?`,
  text: "Every browser and program of theirs has to sign in again; their links and tokens end. The password goes on, and so do their jobs.", done: `${user} is signed out everywhere.`,
});

/** shown is what is said beside a pass that was made; it is told this once. */
export const shown = (p, until) => (p.kind === "link"
  ? [`Sign-in link of ${p.user}`, `It works once, until ${until}. An earlier link of theirs does not count any more.`]
  : [`Token of ${p.user}`, `A program sends it as Authorization: Bearer TOKEN, until ${until}.`]);

/** scopeName is what a pause holds up: the queue, user001, worker verda/0. */
export function scopeName(scope) {
  if (scope === "all") return "the queue";
  return scope.startsWith("user/") ? scope.slice(5) : `worker ${scope.slice(7)}`;
}

const pauseTexts = {
  all: "Jobs are still accepted and wait. What runs goes on to its end.",
  user: "Their jobs are still accepted and wait. What runs goes on to its end.",
  worker: "It gets no new jobs until you resume it. What runs there goes on to its end.",
};

export const pause = (scope) => ({
  action: { verb: "pause", scope }, why: true, title: `Pause ${scopeName(scope)}?`, text: pauseTexts[scope.split("/")[0]], done: `Paused: ${scopeName(scope)}.`,
});

export const resume = (scope) => ({ action: { verb: "resume", scope }, done: `Goes on: ${scopeName(scope)}.` });

const modeTexts = {
  fifo: "Jobs run in the order in which they came.",
  "round-robin": "Users take turns: next is the one with the fewest jobs running and served in the last hour.",
  priority: "The instructor's jobs first, then high, normal and low; those of one kind in the order in which they came.",
  fair: "Next is the user who has had the least GPU time; whose models are loaded already may go a little earlier.",
};

export const mode = (word) => ({ action: { verb: "mode", mode: word }, title: `Order the queue by ${word}?`, text: modeTexts[word] ?? "", done: `The queue's order is ${word} now.` });

export const drain = (n) => ({
  action: { verb: "drain", node: n.id }, title: `Drain ${n.name}?`, done: `${n.name} gets no new jobs.`,
  text: "It gets no new jobs until you end the drain. What runs there goes on to its end.",
});

export const undrain = (n) => ({ action: { verb: "undrain", node: n.id }, done: `${n.name} gets jobs again.` });

export const forget = (n) => ({
  action: { verb: "forget", node: n.id }, danger: true, title: `Forget ${n.name}?`,
  text: `${n.name} leaves the workshop for good${n.voter ? " and loses its vote" : ""}. What stands only on its disk is lost to the workshop. If it comes back it joins anew.`,
});

/** log shows what a worker's ComfyUI printed last. */
export const log = (w) => ({ action: { worker: w.id, lines: 400 }, to: "api/log" });

export const restart = (w) => ({
  action: { verb: "restart-worker", worker: w.id }, danger: true, title: `Restart ComfyUI of ${w.id}?`, done: `ComfyUI of ${w.id} restarts.`,
  text: w.job ? `It runs a job of ${w.job.user}, which goes back to its place in the queue and starts again.` : "It runs no job.",
});

export const stop = (w) => ({
  action: { verb: "stop-worker", worker: w.id }, danger: true, title: `Stop ComfyUI of ${w.id}?`, done: `ComfyUI of ${w.id} is stopped.`,
  text: "It takes no jobs until it is started again. A job that runs there goes back to its place in the queue.",
});

export const start = (w) => ({ action: { verb: "start-worker", worker: w.id }, done: `ComfyUI of ${w.id} starts.` });

export const free = (w) => ({ action: { verb: "free-worker", worker: w.id }, done: `The GPU's memory of ${w.id} is free; the next job loads its models anew.` });

export const release = (w) => ({ action: { verb: "release-worker", worker: w.id }, done: `${w.id} takes jobs again.` });
