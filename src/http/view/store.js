// What is known of the App, what of it is new in this frame, and what a minute ago was like.

import { apply, segments } from "./patch.js";

/** How many samples of each plot are kept; one a second. */
export const SAMPLES = 120;
const LOG_LINES = 4000;

export class Store {
  doc = null;
  log = [];
  lastChange = 0;
  #fresh = news();
  #history = new Map();
  #seqs = 0;

  constructor(onNews) { this.onNews = onNews; }

  /** What has changed since the last call. */
  take() {
    const fresh = this.#fresh;
    this.#fresh = news();
    return fresh;
  }

  snapshot(doc) {
    this.doc = { works: {}, flows: {}, nodes: {}, app: {}, ...doc };
    this.lastChange = Date.now();
    Object.assign(this.#fresh, { all: true, structure: true, state: true, nodes: true, app: true });
    this.onNews();
  }

  /** Throws when an operation does not fit: then only a new snapshot helps. */
  patch({ version, ops }) {
    const fresh = this.#fresh;
    this.doc = apply(this.doc, ops);
    this.doc.version = version;
    this.lastChange = Date.now();
    for (const op of ops) {
      for (const pointer of op.from === undefined ? [op.path] : [op.path, op.from]) {
        const [top, name, ...rest] = segments(pointer);
        if (top === "works" && name !== undefined) {
          fresh.works.add(name);
          if (rest.length === 0 && op.op !== "replace") fresh.structure = true;
        } else if (top === "flows" && name !== undefined) {
          fresh.flows = true;
          if (rest.length === 0 && op.op !== "replace") fresh.structure = true;
        } else if (top === undefined || top === "works" || top === "flows") fresh.all = fresh.structure = true;
        else fresh[top] = true;
      }
    }
    this.onNews();
  }

  /** Lines of the log, in the order of their numbers, each once. */
  logs(items) {
    const sorted = items.length < 2 || items.every((item, i) => i === 0 || items[i - 1].seq < item.seq);
    if (sorted && (items[0]?.seq ?? 0) > this.#seqs) this.log.push(...items);
    else {
      const all = new Map(this.log.map((item) => [item.seq, item]));
      for (const item of items) all.set(item.seq, item);
      this.log = [...all.values()].sort((a, b) => a.seq - b.seq);
    }
    this.#seqs = this.log.at(-1)?.seq ?? 0;
    if (this.log.length > LOG_LINES * 1.25) this.log.splice(0, this.log.length - LOG_LINES);
    this.#fresh.log = true;
    this.onNews();
  }

  /** Another App has begun at this address: its log has nothing to do with the last one's. */
  forgetLog() {
    this.log = [];
    this.#seqs = 0;
    this.#history.clear();
  }

  get lastSeq() { return this.#seqs; }

  /** Called once a second while connected. */
  sample() {
    for (const [path, work] of Object.entries(this.doc?.works ?? {})) {
      let past = this.#history.get(path);
      if (!past) this.#history.set(path, (past = { depth: [], rate: [], accepted: [] }));
      keep(past.depth, work.mailbox?.waiting ?? 0);
      const accepted = work.mailbox?.accepted;
      if (accepted === undefined) continue;
      // Over two seconds: the App counts anew that often.
      const before = past.accepted.at(-2) ?? past.accepted.at(-1) ?? accepted;
      keep(past.rate, Math.max(0, (accepted - before) / Math.min(2, Math.max(1, past.accepted.length))));
      past.accepted = [...past.accepted.slice(-1), accepted];
    }
    for (const path of this.#history.keys()) if (!(path in this.doc.works)) this.#history.delete(path);
  }

  history(path) { return this.#history.get(path) ?? { depth: [], rate: [] }; }
}

function news() {
  return { all: false, structure: false, state: false, app: false, nodes: false, flows: false, log: false, works: new Set() };
}

function keep(samples, value) {
  samples.push(value);
  if (samples.length > SAMPLES) samples.shift();
}
