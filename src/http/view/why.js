// What led to a run: its request, the events that the Flow saw then, and the runs that led to these.

import { get } from "./api.js";
import { attr, el, hide, list, text } from "./dom.js";
import { clock, count } from "./format.js";

const FEW = 20; // The number of runs fetched at once.
const CAUSES = 5; // The number of causes shown of each request.

export class Why {
  #run = null;
  #items = [];
  #next = null;
  #isBusy = false;
  #problem = null;

  constructor(path, { store, past, select, redraw }) {
    Object.assign(this, { path, store, past, select, redraw });
    this.title = el("h3", { tabindex: -1 });
    this.close = el("button", { type: "button", class: "small", text: "Close", "aria-label": "Close what led to the run" });
    this.close.addEventListener("click", () => this.ask(null));
    this.chain = el("ol", { class: "plain why" });
    this.note = el("p", { class: "quiet", role: "status" });
    this.more = el("button", { type: "button", class: "small", text: "More" });
    this.more.addEventListener("click", () => this.#fetch(this.#run, this.#items.length + 1));
    this.node = el("section", { hidden: true }, el("div", { class: "row" }, this.title, this.close), this.chain, this.note, this.more);
  }

  /** Asks what led to a run of the Work; nothing is shown with `null`. */
  ask(run) {
    this.#run = run;
    this.#items = [];
    this.#next = this.#problem = null;
    if (run !== null) {
      this.#fetch(run, 1);
      hide(this.node, false);
      text(this.title, `Why run ${run}`);
      this.title.focus();
    }
    this.redraw();
  }

  draw() {
    hide(this.node, this.#run === null);
    if (this.#run === null) return;
    list(this.chain, this.#items, ({ path, run }) => `${run} ${path}`, (item) => this.#link(item));
    for (const button of this.chain.querySelectorAll("button.at")) attr(button, "aria-pressed", this.store.past?.position === button.position);
    text(this.note, this.#problem ?? (this.#isBusy ? "reading the history" : ""));
    hide(this.note, this.note.shown === "");
    hide(this.more, this.#next === null || this.#isBusy);
  }

  /** Fetches until there are `wanted` runs, or there is no more of the chain. */
  async #fetch(run, wanted) {
    this.#isBusy = true;
    const first = `why?work=${encodeURIComponent(this.path)}&run=${run}&limit=${FEW}`;
    let problem = null;
    try {
      do {
        const page = await get(this.#next === null ? first : `${first}&cursor=${encodeURIComponent(this.#next)}`);
        if (this.#run !== run) return;
        this.#items.push(...page.items);
        this.#next = page.next;
      } while (this.#next !== null && this.#items.length < wanted);
      if (this.#items.length === 0) problem = `The history does not go back to run ${run}.`;
    } catch (error) {
      problem = error.message;
    }
    if (this.#run !== run) return;
    this.#isBusy = false;
    this.#problem = problem;
    this.redraw();
  }

  #link({ path, run, request, causes, left_out }) {
    const name = el("button", { type: "button", class: "link", text: path || "root", on: { click: () => this.select(`w:${path}`) } });
    const shown = causes.slice(-CAUSES).reverse();
    const rest = causes.length - shown.length + left_out;
    return el("li", {},
      el("div", { class: "line" }, el("b", { text: `Run ${run} of ` }, path === this.path ? el("span", { text: path || "root" }) : name)),
      request ? this.#event(request, "") : el("p", { class: "quiet", text: "It was requested before the history begins." }),
      request && shown.length === 0 ? el("p", { class: "quiet", text: "Nothing else is recorded with it: a wake-up, an operator, or a later call of the Flow." }) : null,
      ...shown.map((cause) => this.#event(cause, "because ")),
      rest > 0 ? el("p", { class: "quiet", text: `and ${count(rest)} other events` }) : null);
  }

  #event({ position, time, path, text: words }, lead) {
    const at = el("button", { type: "button", class: "small at num", text: count(position), "aria-label": `Show position ${position}, ${clock(time)}`, title: clock(time) });
    at.position = position;
    at.addEventListener("click", () => this.past.visit(position));
    return el("p", { class: "event" }, at, el("span", { text: ` ${lead}${path || "root"}: ${words}` }));
  }
}
