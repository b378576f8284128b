// The run histories of Works, fetched for visible Works when their counters change.

import { get, workUrl } from "./api.js";

const AT_ONCE = 3;
const PATIENCE = 1000; // The minimum time between two requests for the same Work, in milliseconds.

export class Runs {
  #known = new Map();
  #queue = [];
  #busy = 0;

  constructor(onNews) { this.onNews = onNews; }

  /** Returns the known runs of `path` as {items, total, error}, and fetches them again when they have changed. */
  of(path, work) {
    let entry = this.#known.get(path);
    if (!entry) this.#known.set(path, (entry = { items: [], total: 0, sign: null, asked: 0, waits: false, error: null, loaded: false }));
    const { waiting = 0, succeeded = 0, failed = 0, stopped = 0 } = work.runs ?? {};
    const sign = `${waiting} ${succeeded} ${failed} ${stopped} ${work.current?.run} ${work.stage} ${work.attempt}`;
    if (sign !== entry.sign && !entry.waits) {
      entry.waits = true;
      const pause = Math.max(0, entry.asked + PATIENCE - Date.now());
      setTimeout(() => {
        this.#queue.push({ path, entry, work });
        this.#next();
      }, pause);
      entry.next = sign;
    }
    return entry;
  }

  forget() { this.#known.clear(); }

  async #next() {
    if (this.#busy >= AT_ONCE || this.#queue.length === 0) return;
    const { path, entry } = this.#queue.shift();
    this.#busy++;
    entry.asked = Date.now();
    entry.sign = entry.next;
    try {
      const page = await get(workUrl(path, "/runs?page=1&per_page=50"));
      Object.assign(entry, { items: page.items, total: page.total, error: null, loaded: true });
    } catch (error) {
      entry.error = error.message;
    }
    entry.waits = false;
    this.#busy--;
    this.onNews();
    this.#next();
  }
}
