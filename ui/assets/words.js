// Numbers as people say them.

/** age is a span of milliseconds in words: 4s, 3m12, 2h05, 3d. */
export function age(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m${String(s % 60).padStart(2, "0")}`;
  if (s < 86400) return `${Math.floor(s / 3600)}h${String(Math.floor((s % 3600) / 60)).padStart(2, "0")}`;
  return `${Math.floor(s / 86400)}d`;
}

/** bytes is a size: 31.2 GB. */
export function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let i = 0;
  while (n >= 1000 && i < units.length - 1) { n /= 1000; i++; }
  return `${n >= 100 || i === 0 ? Math.round(n) : n.toFixed(1)} ${units[i]}`;
}

/** clock is the time of day of a moment. */
export function clock(ms) {
  return new Date(ms).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

/** moment is a day and a time of day. */
export function moment(ms) {
  return new Date(ms).toLocaleString([], { weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
}

/** money is an amount of micro-units: 0.70 EUR. */
export function money(micro, currency) {
  return `${(Math.floor(micro / 10_000) / 100).toFixed(2)} ${currency}`;
}

/** plural is a number with its noun: 1 voter, 3 voters. */
export function plural(n, noun) {
  return `${n} ${noun}${n === 1 ? "" : "s"}`;
}

const levels = { booting: "warn", "importing nodes": "warn", "starting again": "warn", "crash loop": "fail", stopped: "warn", unavailable: "warn", "takes no jobs": "fail", "waiting for ComfyUI": "fail", "waiting for the queue": "warn", "not here": "warn", probing: "warn", staging: "good", stopping: "warn", done: "good", running: "good", storing: "good", idle: "good", alive: "good", ready: "good", failed: "fail", lost: "fail", down: "fail", unreachable: "fail", dead: "fail", silent: "fail", slow: "warn", held: "warn", cancelling: "warn", cancelled: "warn", starting: "warn", connecting: "warn" };

/** level is the colour of a state's word. */
export function level(state) {
  return levels[state] ?? "none";
}
