// The past of an App with a journal: a slider over the positions. Off its end, the page shows the App as it was then.

import { get } from "./api.js";
import { announce, attr, byId, hide, text } from "./dom.js";
import { clock, count } from "./format.js";

const PAUSE = 80; // A slider that is dragged waits this long before the state is fetched, in milliseconds.

const day = (time) => new Date(time).toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" });

export class Past {
  #slider = byId("past-at");
  #text = byId("past-text");
  #back = byId("past-now");
  #oldest = null;
  #asked = null;
  #wanted = null;
  #timer = null;
  #problem = null;

  constructor(store, { redraw }) {
    this.store = store;
    this.redraw = redraw;
    this.#slider.addEventListener("input", () => this.#move());
    // The journal forgets its oldest positions.
    this.#slider.addEventListener("focus", () => { this.#asked = null; this.redraw(); });
    this.#back.addEventListener("click", () => {
      this.leave();
      this.#slider.focus();
    });
  }

  /** Shows the App as it was at a position; as it is now if that is the last one. */
  visit(position) {
    const newest = this.store.live.app.journal?.position ?? 0;
    if (position >= newest) return this.leave();
    this.#wanted = Math.max(position, this.#oldest ?? position);
    clearTimeout(this.#timer);
    this.#fetch(this.#wanted);
    this.redraw();
  }

  /** Returns to what is live. */
  leave() {
    clearTimeout(this.#timer);
    if (this.#wanted === null) return;
    this.#wanted = this.#problem = null;
    this.store.travel(null);
    announce("Now: what you see is live");
    this.redraw();
  }

  draw() {
    const newest = this.store.live.app.journal?.position ?? 0;
    const { past } = this.store;
    document.body.classList.toggle("past", past !== null);
    if (newest > 0) this.#findOldest(newest);
    const isThere = newest > 0 && this.#oldest !== null && this.#oldest < newest;
    hide(byId("past"), !isThere);
    if (!isThere) return this.leave();
    attr(this.#slider, "min", this.#oldest);
    attr(this.#slider, "max", newest);
    const value = String(this.#wanted ?? newest);
    if (this.#slider.value !== value) this.#slider.value = value;
    hide(this.#back, this.#wanted === null);
    const shown = this.#problem ?? (past ? `the past: ${day(past.time)}, ${clock(past.time)}, position ${count(past.position)}` : this.#wanted === null ? "now" : `position ${count(this.#wanted)}`);
    text(this.#text, shown);
    attr(this.#slider, "aria-valuetext", shown);
  }

  /** Asks for the first position that the journal has; again if there was none, once there are more. */
  #findOldest(newest) {
    const reason = `${this.store.live.app.started} ${this.#oldest === null ? newest : ""}`;
    if (this.#asked === reason) return;
    this.#asked = reason;
    get("history?from=0&limit=1").then(({ items }) => {
      this.#oldest = items[0]?.position ?? null;
      this.#asked = `${this.store.live.app.started} ${this.#oldest === null ? newest : ""}`;
      this.redraw();
    }, () => { /* without history, nothing is shown of it */ });
  }

  #move() {
    const wanted = Number(this.#slider.value);
    if (wanted >= Number(this.#slider.max)) return this.leave();
    this.#wanted = wanted;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#fetch(wanted), PAUSE);
    this.redraw();
  }

  async #fetch(wanted) {
    let problem = null;
    let past = null;
    try {
      past = await get(`state?at=${wanted}`);
    } catch (error) {
      problem = error.message;
    }
    // The slider may have been moved meanwhile.
    if (this.#wanted !== wanted) return;
    this.#problem = problem;
    if (past) {
      this.store.travel(past);
      announce(`You see the past: position ${count(past.position)}, ${clock(past.time)}`);
    }
    this.redraw();
  }
}
