// Numbers, times and names for people.

export const STAGES = ["running", "pending", "succeeded", "failed", "stopped", "up", "not_started"];

/** Returns the stage of a Work as it is shown: one without a run that is up answers messages. */
export const stageOf = (work) => (work?.stage === "not_started" && work.is_up ? "up" : work?.stage);

const NAMES = { not_started: "not started" };
export const stageName = (stage) => NAMES[stage] ?? stage ?? "unknown";

const REASONS = {
  user_error: "error", panic: "panic", timeout: "timeout", node_lost: "node lost",
  process_died: "process died", payload_lost: "payload lost", stopped: "stopped",
};
export const reasonName = (reason) => REASONS[reason] ?? reason ?? "";

export const count = (n) => Number(n ?? 0).toLocaleString("en");
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** Formats a completed duration: "340 ms", "12.3 s", "3 min 4 s", "2 h 5 min". */
export function duration(seconds) {
  if (!(seconds >= 0)) return "–";
  if (seconds < 0.0995) return `${(seconds * 1000).toFixed(seconds < 0.00995 ? 1 : 0)} ms`;
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  return span(seconds);
}

/** Formats a growing duration in whole seconds, so that it does not flicker. */
export function span(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export function bytes(n) {
  if (!(n >= 0)) return "–";
  if (n < 1000) return `${n} B`;
  for (const unit of ["KB", "MB", "GB", "TB"]) {
    n /= 1000;
    if (n < 999.5 || unit === "TB") return `${n < 9.95 ? n.toFixed(1) : Math.round(n)} ${unit}`;
  }
}

/** Returns a Rust type without its modules: "demo::Train<alloc::string::String>" → "Train<String>". */
export const typeName = (name) => (name ?? "").replace(/\b\w+::/g, "");

const two = (n) => String(n).padStart(2, "0");
export function clock(time) {
  const t = new Date(time);
  return Number.isNaN(t.getTime()) ? "–" : `${two(t.getHours())}:${two(t.getMinutes())}:${two(t.getSeconds())}`;
}
export const stamp = (time) => `${clock(time)}.${String(new Date(time).getMilliseconds()).padStart(3, "0")}`;

/** Formats JSON on one line, truncated to `limit` characters. */
export function brief(value, limit = 80) {
  const text = value === undefined ? "" : JSON.stringify(value);
  return text.length > limit ? `${text.slice(0, limit - 1)}…` : text;
}

const collator = new Intl.Collator("en", { numeric: true });
export const byName = (a, b) => collator.compare(a, b);
