// What has changed of a Work or Flow since the moment of the past that is shown.

import { get } from "./api.js";
import { el, hide, list, text } from "./dom.js";
import { brief, clock, count, stageName } from "./format.js";

const FEW = 50; // The number of differences shown at once.

export class Changes {
  #asked = null;
  #page = null;
  #problem = null;

  constructor(path, store, redraw) {
    Object.assign(this, { path, store, redraw });
    this.items = el("ul", { class: "plain changes" });
    this.note = el("p", { class: "quiet" });
    this.again = el("button", { type: "button", class: "small", text: "Compare again", "aria-label": "Compare with now again" });
    this.again.addEventListener("click", () => this.#fetch(this.#asked));
    this.node = el("section", { hidden: true }, el("div", { class: "row" }, el("h3", { text: "Changed since" }), this.again), this.items, this.note);
  }

  draw() {
    const { past } = this.store;
    hide(this.node, past === null);
    if (past === null) {
      this.#asked = this.#page = this.#problem = null;
      return;
    }
    if (this.#asked !== past.position) this.#fetch(past.position);
    list(this.items, this.#page?.items ?? [], ({ kind, path }) => `${kind} ${path}`, () => this.#row(), (row, item) => this.#fill(row, item));
    text(this.note, this.#problem ?? this.#said());
  }

  async #fetch(position) {
    if (position !== this.#asked) this.#page = null;
    this.#asked = position;
    const isFor = () => this.#asked === position;
    try {
      const page = await get(`diff?from=${position}&limit=${FEW}${this.path === "" ? "" : `&path=${encodeURIComponent(this.path)}`}`);
      if (!isFor()) return;
      this.#page = page;
      this.#problem = null;
    } catch (error) {
      if (isFor()) this.#problem = error.message;
    }
    this.redraw();
  }

  #said() {
    if (!this.#page) return "comparing with now";
    const { items, total, to } = this.#page;
    const until = `up to ${clock(to.time)}, position ${count(to.position)}`;
    if (total === 0) return `Nothing, ${until}.`;
    return total > items.length ? `the first ${count(items.length)} of ${count(total)}, ${until}` : until;
  }

  #row() {
    const parts = { name: el("span", { class: "key" }), before: el("del", { class: "value" }), after: el("ins", { class: "value" }) };
    return Object.assign(el("li", { class: "change" }, parts.name, parts.before, el("span", { class: "quiet", text: " → ", "aria-label": "became" }), parts.after), parts);
  }

  #fill(row, { kind, path, before, after }) {
    const inner = path === this.path ? "" : this.path === "" ? path : path.slice(this.path.length + 1);
    const shown = (value) => (value === undefined ? "–" : kind === "stage" ? stageName(value) : brief(value, 60));
    text(row.name, kind === "stage" ? `${inner}${inner === "" ? "" : " "}(stage)` : inner || "state");
    text(row.before, shown(before));
    text(row.after, shown(after));
  }
}
