// Log lines: of the whole App with filters, or of one Work.

import { get } from "./api.js";
import { attr, byId, el, hide, list, text } from "./dom.js";
import { stamp } from "./format.js";

const LEVELS = ["error", "warn", "info", "debug", "trace"];
const SHOWN = 250;
const rank = (level) => LEVELS.indexOf(String(level).toLowerCase());

/** Returns the newest lines of `log` that `admit` accepts, oldest first. */
export function newest(log, admit, limit = SHOWN) {
  const lines = [];
  for (let i = log.length - 1; i >= 0 && lines.length < limit; i--) if (admit(log[i])) lines.push(log[i]);
  return lines.reverse();
}

/** A box of lines that scrolls with new ones, unless the user has scrolled up. */
export class Lines {
  atEnd = true;

  constructor(box, { withWork, choose, onScroll }) {
    this.box = box;
    this.withWork = withWork;
    this.choose = choose;
    this.empty = el("p", { class: "quiet empty" });
    this.inner = el("ol", { class: "plain" });
    box.append(this.inner, this.empty);
    box.addEventListener("scroll", () => {
      this.atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 24;
      onScroll?.();
    }, { passive: true });
  }

  draw(lines, whenEmpty) {
    hide(this.empty, lines.length > 0);
    text(this.empty, whenEmpty);
    // While the user reads further up, no line above is removed.
    if (!this.atEnd && this.inner.childElementCount > 0 && lines.length > 0) {
      const first = this.inner.firstChild.seq;
      if (lines[0].seq > first) return;
    }
    list(this.inner, lines, (line) => line.seq, (line) => this.#line(line));
    if (this.atEnd) this.box.scrollTop = this.box.scrollHeight;
  }

  #line(line) {
    const level = LEVELS[rank(line.level)] ?? "info";
    const node = el("li", { class: `log-line l-${level}` },
      el("time", { datetime: line.time, title: line.time, text: stamp(line.time) }),
      el("span", { class: "level", text: level }),
      this.withWork ? this.#work(line) : null,
      el("span", { class: "message", text: line.text }));
    node.seq = line.seq;
    return node;
  }

  #work(line) {
    if (line.work === null || line.work === undefined) return el("span", { class: "who quiet", text: line.node ?? "App" });
    const button = el("button", { class: "who link", type: "button", text: line.work, title: `run ${line.run ?? "–"} on ${line.node ?? "the head"}` });
    button.addEventListener("click", () => this.choose(line.work));
    return button;
  }
}

/** The card with the log of the App. */
export class Log {
  #level = byId("log-level");
  #work = byId("log-work");
  #text = byId("log-text");
  #newest = byId("log-newest");
  #asked = "";
  #timer;

  constructor(store, { choose, redraw }) {
    this.store = store;
    this.lines = new Lines(byId("log-lines"), { withWork: true, choose, onScroll: () => hide(this.#newest, this.lines.atEnd) });
    byId("log-filter").addEventListener("submit", (event) => event.preventDefault());
    byId("log-filter").addEventListener("input", () => {
      this.lines.atEnd = true;
      this.#fetchSoon();
      redraw();
    });
    this.#newest.addEventListener("click", () => {
      this.lines.atEnd = true;
      byId("log-lines").focus();
      redraw();
    });
  }

  draw() {
    const level = rank(this.#level.value);
    const work = this.#work.value.trim().toLowerCase();
    const part = this.#text.value.trim().toLowerCase();
    const admit = (line) => rank(line.level) <= level
      && (work === "" || (line.work ?? "").toLowerCase().includes(work))
      && (part === "" || line.text.toLowerCase().includes(part));
    const filtered = work !== "" || part !== "" || level < 2;
    this.lines.draw(newest(this.store.log, admit), filtered ? "No line like that." : "Nothing has been logged yet.");
    attr(byId("log"), "data-filtered", filtered);
  }

  /** Loads lines logged before the page was opened, for the current filter. */
  #fetchSoon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.fetch(), 250);
  }

  async fetch() {
    const work = this.#work.value.trim();
    const known = work in (this.store.doc?.works ?? {}) ? `&work=${encodeURIComponent(work)}` : "";
    const query = `logs?limit=200&level=${this.#level.value}${known}`;
    if (query === this.#asked) return;
    this.#asked = query;
    await load(this.store, query);
  }

  again() { this.#asked = ""; return this.fetch(); }
}

/** Merges past lines into the log. */
export async function load(store, query) {
  try {
    store.logs((await get(query)).items);
  } catch {
    // Live lines arrive nonetheless, and the header shows a lost connection.
  }
}
