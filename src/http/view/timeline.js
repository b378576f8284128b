// The runs of all Works on a common time axis.

import { now } from "./api.js";
import { attr, byId, el, list, svg, text } from "./dom.js";
import { brief, clock, duration, plural, reasonName, stageName, stageOf } from "./format.js";
import { VirtualList } from "./virtual.js";

const ROW = 28;

export class Timeline {
  #box = byId("timeline-rows");
  #axis = byId("timeline-axis");
  #span = byId("timeline-span");

  constructor(store, runs, { choose, redraw }) {
    this.store = store;
    this.runs = runs;
    this.empty = el("p", { class: "quiet empty", text: "No Work yet." });
    this.#box.after(this.empty);
    this.rows = new VirtualList(this.#box, {
      height: ROW, label: "Runs of each Work", keyOf: (path) => path, choose, redraw,
      make: (path) => {
        const row = el("div", { class: "lane" });
        row.label = el("span", { class: "lane-name", title: path });
        row.track = svg("svg", { class: "lane-track", "aria-hidden": "true" });
        row.append(row.label, row.track);
        return row;
      },
      update: (row, path) => this.#lane(row, path),
    });
    this.#span.addEventListener("change", redraw);
  }

  draw(paths) {
    this.empty.hidden = paths.length > 0;
    this.#box.hidden = paths.length === 0;
    this.narrow = this.#box.clientWidth < 560;
    this.label = this.narrow ? 96 : 168;
    this.width = Math.max(60, this.#box.clientWidth - this.label - 16);
    this.seconds = Number(this.#span.value);
    this.end = now();
    this.from = this.end - this.seconds * 1000;
    if (this.#box.labelWidth !== this.label) this.#box.style.setProperty("--label", `${(this.#box.labelWidth = this.label)}px`);
    this.#ticks();
    this.rows.draw(paths);
  }

  #x(time) { return ((time - this.from) / (this.end - this.from)) * this.width; }

  #ticks() {
    const steps = [5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600];
    const step = (steps.find((s) => (s / this.seconds) * this.width >= 76) ?? 3600) * 1000;
    const zone = new Date().getTimezoneOffset() * 60000;
    const ticks = [];
    for (let t = Math.ceil((this.from - zone) / step) * step + zone; t <= this.end; t += step) if (this.#x(t) < this.width - 34) ticks.push(t);
    attr(this.#axis, "width", this.label + this.width + 16);
    list(this.#axis, [...ticks, "now"], (t) => t, () => svg("text", { y: 13 }), (node, t) => {
      attr(node, "x", (this.label + (t === "now" ? this.width : this.#x(t))).toFixed(1));
      attr(node, "text-anchor", t === "now" ? "end" : "middle");
      const label = clock(t);
      text(node, t === "now" ? "now" : label.endsWith(":00") ? label.slice(0, 5) : label);
    });
  }

  #lane(row, path) {
    // The end of a path distinguishes Works better than its beginning.
    text(row.label, this.narrow && path.length > 13 ? `…${path.slice(-12)}` : path || "App");
    const work = this.store.doc.works[path];
    if (!work) return;
    const { items, total } = this.runs.of(path, work);
    const bars = [];
    let edge = Infinity;
    for (const run of items) {
      if (!run.started) continue;
      const begun = Date.parse(run.started);
      const ended = run.ended ? Date.parse(run.ended) : this.end;
      if (ended < this.from) continue;
      const x = Math.max(0, this.#x(begun));
      const right = Math.min(this.width, this.#x(ended));
      const w = Math.max(3, right - x);
      // Newest first; a bar hidden behind a newer one is skipped.
      if (run.stage !== "failed" && right > edge && x >= edge - 0.5) continue;
      edge = Math.min(edge, x);
      bars.push({ run, x, w, begun, ended });
    }
    attr(row.track, "width", this.width);
    list(row.track, bars.reverse(), ({ run }) => `${run.run}.${run.attempt}.${run.queued}`, () => {
      const bar = svg("rect", { y: 6, height: 14, rx: 2 });
      bar.append((bar.tip = svg("title")));
      return bar;
    }, (bar, { run, x, w, begun, ended }) => {
      attr(bar, "class", `s-${run.stage}`);
      attr(bar, "x", x.toFixed(1));
      attr(bar, "width", w.toFixed(1));
      text(bar.tip, `run ${run.run}: ${stageName(run.stage)}${run.reason ? ` (${reasonName(run.reason)})` : ""}, ${duration((ended - begun) / 1000)}\n${brief(run.input)}`);
    });
    attr(row, "aria-label", `${path || "App"}: ${plural(total, "run")}, ${stageName(stageOf(work))}`);
  }
}
