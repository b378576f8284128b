// The event stream, read with `fetch`, since an EventSource cannot send a token.

import { Problem, request } from "./api.js";

/** Parses server-sent events from text that arrives in chunks. */
export class Parser {
  #rest = "";
  #event = "";
  #data = [];

  constructor(emit) { this.emit = emit; }

  feed(chunk) {
    const lines = (this.#rest + chunk).split("\n");
    this.#rest = lines.pop();
    for (const raw of lines) {
      const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
      if (line === "") this.#dispatch();
      else if (line[0] !== ":") this.#field(line);
    }
  }

  #field(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#event = value;
  }

  #dispatch() {
    if (this.#data.length > 0) this.emit(this.#event || "message", this.#data.join("\n"));
    this.#event = "";
    this.#data = [];
  }
}

const QUIET = 8000; // After this many milliseconds without a byte, /healthz is probed.
const PATIENCE = 4000;
const SLOWEST = 8000;

/**
 * Keeps the stream connected and reconnects with back-off. `onState` gets {phase, why, retryAt}; the phases are
 * `connecting`, `live`, `lost`, and `refused`, which waits for a call of `retry`. Each connection begins with a snapshot
 * instead of resuming, since another App may serve this address by then.
 */
export class Connection {
  #wake = null;
  #pause = 0;
  /** The time at which the last bytes arrived. */
  heard = Date.now();

  constructor(onEvent, onState) {
    this.onEvent = onEvent;
    this.onState = onState;
    this.retry = () => { this.#pause = 0; this.#wake?.(); };
  }

  async run() {
    for (;;) {
      let why = "the App has closed the connection";
      try {
        await this.#once();
      } catch (error) {
        if (error instanceof Problem && [401, 403, 421].includes(error.status)) {
          this.onState({ phase: "refused", problem: error });
          await new Promise((wake) => { this.#wake = wake; });
          continue;
        }
        why = error instanceof Problem || error?.ours ? error.message : "the connection broke";
      }
      this.#pause = Math.min(SLOWEST, Math.max(500, this.#pause * 2));
      this.onState({ phase: "lost", why, retryAt: Date.now() + this.#pause });
      await new Promise((wake) => {
        const timer = setTimeout(wake, this.#pause);
        this.#wake = () => { clearTimeout(timer); wake(); };
      });
      this.onState({ phase: "connecting", why });
    }
  }

  async #once() {
    const abort = new AbortController();
    this.heard = Date.now();
    let cause = null;
    const probe = async () => {
      if (Date.now() - this.heard < QUIET) return;
      try {
        await request("healthz", { signal: AbortSignal.timeout(PATIENCE) });
        this.heard = Date.now();
      } catch (error) {
        if (error instanceof Problem && error.status > 0) return;
        cause = Object.assign(new Error("the App does not answer"), { ours: true });
        abort.abort();
      }
    };
    const opening = setTimeout(() => abort.abort(), 2 * PATIENCE);
    let timer;
    try {
      const response = await request("api/v1/events", { headers: { Accept: "text/event-stream" }, signal: abort.signal });
      clearTimeout(opening);
      timer = setInterval(probe, 1000);
      const parser = new Parser((event, data) => {
        if (event === "snapshot") {
          this.#pause = 0;
          this.onState({ phase: "live" });
        }
        try {
          this.onEvent(event, JSON.parse(data));
        } catch (error) {
          // A fault of this page, which must not look like one of the network.
          console.error(error);
          throw Object.assign(new Error("this page could not apply an update"), { ours: true });
        }
      });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        this.heard = Date.now();
        parser.feed(value);
      }
    } catch (error) {
      throw cause ?? error;
    } finally {
      clearTimeout(opening);
      clearInterval(timer);
      abort.abort();
    }
  }
}
