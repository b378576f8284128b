// The document of the App, the changes since the last frame, and samples for the plots.

import { now } from "./api.js";
import { apply, segments } from "./patch.js";

/** The number of samples kept for each plot, one per second. */
export const SAMPLES = 120;
const LOG_LINES = 4000;

export class Store {
  /** The document as it is now. */
  live = null;
  /** The document as it was, while the past is shown. */
  past = null;
  log = [];
  lastChange = 0;
  #fresh = news();
  #history = new Map();
  #seqs = 0;

  constructor(onNews) { this.onNews = onNews; }

  /** The document that is shown. */
  get doc() { return this.past ?? this.live; }

  /** The time of what is shown by the App's clock, in milliseconds. */
  get time() { return this.past ? Date.parse(this.past.time) : now(); }

  /** Returns the changes since the last call. */
  take() {
    const fresh = this.#fresh;
    this.#fresh = news();
    return fresh;
  }

  snapshot(doc) {
    this.live = { works: {}, flows: {}, nodes: {}, app: {}, ...doc };
    this.lastChange = Date.now();
    this.#renew();
  }

  /** Shows the App as it was at a moment, whatever changes meanwhile; as it is now with `null`. */
  travel(past) {
    const { live } = this;
    const named = (statuses, known) => Object.fromEntries(Object.entries(statuses).map(([path, status]) => [path, { type: known[path]?.type, ...status }]));
    this.past = past && { ...past, version: live.version, app: structuredClone(live.app), nodes: {}, works: named(past.works, live.works), flows: named(past.flows, live.flows) };
    // The App of a single Work has no Flow.
    if (past && !("" in live.flows)) delete this.past.flows[""];
    this.#renew();
  }

  #renew() {
    Object.assign(this.#fresh, { all: true, structure: true, state: true, nodes: true, app: true });
    this.onNews();
  }

  /** Applies a patch. Throws when an operation does not apply; only a new snapshot helps then. */
  patch({ version, ops }) {
    const fresh = this.#fresh;
    this.live = apply(this.live, ops);
    this.live.version = version;
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

  /** Adds log lines. Lines stay sorted by their numbers, without duplicates. */
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

  /** Clears the log when another App has started at this address. */
  forgetLog() {
    this.log = [];
    this.#seqs = 0;
    this.#history.clear();
  }

  get lastSeq() { return this.#seqs; }

  /** Takes a sample of each Work; called once a second while connected. */
  sample() {
    for (const [path, work] of Object.entries(this.live?.works ?? {})) {
      let past = this.#history.get(path);
      if (!past) this.#history.set(path, (past = { depth: [], rate: [], accepted: [] }));
      keep(past.depth, work.mailbox?.waiting ?? 0);
      const accepted = work.mailbox?.accepted;
      if (accepted === undefined) continue;
      // Averaged over two seconds, the interval at which the App refreshes the count.
      const before = past.accepted.at(-2) ?? past.accepted.at(-1) ?? accepted;
      keep(past.rate, Math.max(0, (accepted - before) / Math.min(2, Math.max(1, past.accepted.length))));
      past.accepted = [...past.accepted.slice(-1), accepted];
    }
    for (const path of this.#history.keys()) if (!(path in this.live.works)) this.#history.delete(path);
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
