// The modules that need no page.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

/** load reads a module of the page as it stands, wherever node believes it to be. */
const load = async (name) => import(`data:text/javascript;base64,${Buffer.from(await readFile(new URL(`../assets/${name}`, import.meta.url))).toString("base64")}`);
const verbs = await load("verbs.js");
const words = await load("words.js");

test("ages and sizes are short", () => {
  assert.deepEqual([400, 4_000, 192_000, 7_500_000, 300_000_000, -5].map(words.age), ["0s", "4s", "3m12", "2h05", "3d", "0s"]);
  assert.deepEqual([512, 31_200_000_000, 999_000].map(words.bytes), ["512 B", "31.2 GB", "999 kB"]);
  assert.deepEqual([0, 1, 2].map((n) => words.plural(n, "voter")), ["0 voters", "1 voter", "2 voters"]);
});

test("what is dead looks so", () => {
  assert.deepEqual(["alive", "slow", "dead", "silent", "left", "running", "failed"].map(words.level), ["good", "warn", "fail", "fail", "none", "good", "fail"]);
});

test("scopes have names that people use", () => {
  assert.deepEqual(["all", "user/ada", "worker/verda/0"].map(verbs.scopeName), ["the queue", "ada", "worker verda/0"]);
});

test("what loses something asks first", () => {
  const job = { user: "ada", prompt_id: "p1", number: 3, title: "Flux", state: "running" };
  const node = { id: "n1", name: "verda", voter: true };
  for (const ask of [verbs.cancel(job), verbs.forget(node), verbs.disable("ada"), verbs.signout("ada")]) assert.ok(ask.danger && ask.title && ask.text, JSON.stringify(ask));
  assert.match(verbs.cancel(job).text, /thrown away/);
  assert.match(verbs.cancel({ ...job, state: "pending" }).text, /leaves the queue/);
  assert.match(verbs.forget(node).text, /loses its vote/);
});

test("asks carry what the agent wants to know", () => {
  const job = { user: "ada", prompt_id: "p1", number: 3, title: "Flux", state: "pending" };
  assert.deepEqual(verbs.front(job).action, { verb: "front", jobs: [{ user: "ada", prompt_id: "p1" }] });
  assert.deepEqual(verbs.retry(job).action, { verb: "retry", user: "ada", prompt_id: "p1" });
  assert.deepEqual(verbs.pause("user/ada").action, { verb: "pause", scope: "user/ada" });
  assert.equal(verbs.pause("all").why, true);
  assert.equal(verbs.resume("all").title, undefined);
  assert.deepEqual(verbs.mode("round-robin").action, { verb: "mode", mode: "round-robin" });
  assert.deepEqual(verbs.drain({ id: "n1", name: "verda" }).action, { verb: "drain", node: "n1" });
  assert.deepEqual(verbs.enable("ada").action, { verb: "enable", user: "ada" });
});
